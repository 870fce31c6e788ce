"""Whatever SQLite says, to whichever statement of whichever method of the bus in a file, comes out as an error of ours.

The methods are found on the adapter, so that a new one cannot be forgotten. Each is run once to count its statements;
then again for each of these, which fails.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from acequia.adapters import sqlite
from acequia.adapters.sqlite import SqliteBus, _Subscription
from acequia.errors import ConfigurationError, TransientFailure
from acequia.ports import Ack, Bus, Message, Retry, Subscription

from .conftest import QUEUE, TABLE, calls_of_bus, of_port, public

WORDS = Message(b"{}")

LATER = {
    "full": sqlite3.SQLITE_FULL,
    "input and output": sqlite3.SQLITE_IOERR_FSYNC,
    "out of memory": sqlite3.SQLITE_NOMEM,
    "interrupted": sqlite3.SQLITE_INTERRUPT,
    "no error code": None,
}
PERSON = {
    "in use by another process": sqlite3.SQLITE_BUSY,
    "locked": sqlite3.SQLITE_LOCKED,
    "corrupt": sqlite3.SQLITE_CORRUPT,
    "no database": sqlite3.SQLITE_NOTADB,
    "read only": sqlite3.SQLITE_READONLY,
    "cannot be opened": sqlite3.SQLITE_CANTOPEN,
}
ERRORS = {name: (code, TransientFailure) for name, code in LATER.items()} | {
    name: (code, ConfigurationError) for name, code in PERSON.items()
}


def calls(bus) -> dict[str, Callable[[], Awaitable[object]]]:
    return calls_of_bus(bus, lambda: bus.publish("", QUEUE, WORDS))


ASKING = ("apply", "check", "depth", "publish")
"""`consume`, and what it gives, never raise: they go on by themselves (tried below). `close` ends quietly."""


def test_no_method_is_left_out():
    assert set(calls(SimpleNamespace(check=None, close=None))) == public(SqliteBus) - {"open"}
    assert set(ASKING) | {"consume", "close"} == public(SqliteBus) - {"open"}
    for port, adapter in ((Bus, SqliteBus), (Subscription, _Subscription)):
        assert public(adapter) - {"open"} == of_port(port)


class File:
    """Counts the statements, and lets number `at`, or all from there to `until`, fail."""

    def __init__(self, monkeypatch) -> None:
        self.reset()
        connect = sqlite3.connect
        file = self

        class Connection(sqlite3.Connection):
            def execute(self, statement, *args):
                file.ask(statement)
                return super().execute(statement, *args)

            def executemany(self, statement, *args):
                file.ask(statement)
                return super().executemany(statement, *args)

            def executescript(self, statement):
                file.ask(statement)
                return super().executescript(statement)

        monkeypatch.setattr(sqlite3, "connect", lambda *a, **more: connect(*a, **more, factory=Connection))

    def reset(self, at=-1, code=None, until=None) -> None:
        self.asked: list[str] = []
        self.at, self.code, self.until = at, code, at if until is None else until

    def ask(self, statement) -> None:
        self.asked.append(statement)
        # a rollback that fails would leave the thread without a transaction to end: SQLite does not do that
        if self.at <= len(self.asked) - 1 <= self.until and statement != "ROLLBACK":
            error = sqlite3.OperationalError("so it is")
            if self.code is not None:
                error.sqlite_errorcode = self.code
            raise error


@pytest.fixture
def file(monkeypatch) -> File:
    return File(monkeypatch)


@pytest.mark.parametrize("method", ASKING)
async def test_every_error_of_the_file_becomes_ours_and_the_bus_goes_on(method, file, tmp_path):
    bus = await SqliteBus.open(tmp_path / "bus")
    await bus.apply(TABLE)
    file.reset()
    await calls(bus)[method]()
    count = len(file.asked)
    assert count >= 1
    for name, (code, expected) in ERRORS.items():
        for at in range(count):
            file.reset(at, code)
            with pytest.raises(expected) as caught:
                await calls(bus)[method]()
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError), name
            file.reset()
            await calls(bus)[method]()
    await bus.close()


async def test_every_error_of_opening_becomes_ours(file, tmp_path):
    bus = await SqliteBus.open(tmp_path / "bus")
    count = len(file.asked)
    await bus.close()
    for code, expected in ERRORS.values():
        for at in range(count):
            file.reset(at, code)
            with pytest.raises(expected):
                await SqliteBus.open(tmp_path / "bus")
    file.reset()
    await (await SqliteBus.open(tmp_path / "bus")).close()


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), IsADirectoryError(21, "a folder")])
async def test_a_place_where_no_file_can_be_is_told(error, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with pytest.raises((TransientFailure, ConfigurationError)):
        await SqliteBus.open(tmp_path / "bus")


@pytest.mark.parametrize("name", sorted(ERRORS))
async def test_a_consumer_goes_on_when_the_file_does(name, file, monkeypatch, tmp_path):
    """While the file fails nothing is taken, and what was handled cannot be settled; both happen once it is back."""
    monkeypatch.setattr(sqlite, "TROUBLE_PAUSE", 0.01)
    code, _ = ERRORS[name]
    bus = await SqliteBus.open(tmp_path / "bus")
    await bus.apply(TABLE)
    handled = asyncio.Queue()

    async def handler(delivery):
        file.reset(0, code, until=11)  # the settlement fails for some statements
        await handled.put(delivery)
        return Ack() if delivery.message.body == b"2" else Retry("not now")

    await bus.publish("", QUEUE, Message(b"1"))
    await bus.publish("", QUEUE, Message(b"2"))
    file.reset(0, code, until=11)  # and so does the taking
    subscription = await bus.consume(QUEUE, handler, concurrency=1)
    async with asyncio.timeout(30):
        assert {(await handled.get()).message.body, (await handled.get()).message.body} == {b"1", b"2"}
    for _ in range(1000):
        if (left := await depths(bus)) == (0, 1):
            break
        await asyncio.sleep(0.01)
    assert left == (0, 1)
    await subscription.close(grace=1)
    await bus.close()


async def depths(bus) -> tuple[int, int]:
    """Messages that wait in the queue and on its first rung."""
    try:
        return await bus.depth(QUEUE), await bus.depth(f"{QUEUE}.retry.1s")
    except (TransientFailure, ConfigurationError):
        return -1, -1


async def test_a_closed_bus_says_so(tmp_path):
    bus = await SqliteBus.open(tmp_path / "bus")
    await bus.apply(TABLE)
    await bus.close()
    await bus.close()
    for method in ASKING:
        with pytest.raises(TransientFailure) as caught:
            await calls(bus)[method]()
        assert caught.value.away, method
