"""Whatever PostgreSQL or asyncpg says, to whichever call of whichever method of the auditor's database, is ours then.

The methods are found on the class, and PostgreSQL's errors in asyncpg's table: neither can be forgotten.
"""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import asyncpg
import pytest
from asyncpg import exceptions as pg

from acequia.errors import AcequiaError
from acequia.settings import PostgresSettings
from acequia_auditor.database import Database

from .conftest import AWAY, INPUT, LATER, PERSON, kind_of, public


class Library:
    """asyncpg whose calls all succeed, but the one number `at`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at = -1
        self.error: Callable[[], BaseException] = Exception

    def ask(self, what: str) -> None:
        self.asked.append(what)
        if self.at == len(self.asked) - 1:
            raise self.error()

    async def create_pool(self, **_):
        self.ask("create_pool")

        async def close():
            self.ask("close")

        return SimpleNamespace(acquire=self.acquire, terminate=lambda: None, close=close)

    async def prepare(self, connection, _):
        await connection.fetch("what is there")

    @asynccontextmanager
    async def acquire(self, **_):
        self.ask("acquire")

        async def fetch(*_):
            self.ask("fetch")
            return []

        yield SimpleNamespace(fetch=fetch, execute=fetch, transaction=self.transaction)

    @asynccontextmanager
    async def transaction(self, **_):
        self.ask("begin")
        yield
        self.ask("commit")


@pytest.fixture
def library(monkeypatch) -> Library:
    made = Library()
    monkeypatch.setattr(asyncpg, "create_pool", made.create_pool)
    monkeypatch.setattr("acequia_auditor.database.prepare", made.prepare)
    return made


def calls(database) -> dict[str, Callable[[], Awaitable[object]]]:
    async def change():
        async with database.transaction() as connection:
            await connection.execute("one")

    return {
        "open": database.open,
        "fetch": lambda: database.fetch("ping"),
        "transaction": change,
        "check": database.check,
        "close": database.close,
    }


METHODS = ("check", "fetch", "open", "transaction")


def test_no_method_is_left_out():
    assert set(calls(Database(settings()))) == {*METHODS, "close"} == public(Database)


def settings() -> PostgresSettings:
    return PostgresSettings(host="127.0.0.1", user="someone", password="s3cret", database="acequia")


def errors_of(kind: type) -> list[type]:
    found = []
    for below in kind.__subclasses__():
        found += [below, *errors_of(below)]
    return found


POSTGRES = sorted(
    {e for e in errors_of(asyncpg.PostgresError) if getattr(e, "sqlstate", None)}, key=lambda e: e.sqlstate
)
BY_STATE = {"08": AWAY, "22": INPUT, "23": INPUT, "28": PERSON, "54": INPUT}
"""What follows from an error by the first two characters of its SQLSTATE; else it is transient."""
EXCEPTIONS = {
    "23505": LATER,  # another writer was faster: what it wrote is known at the next attempt
    "25006": AWAY,  # a standby that is not yet the primary
    "3D000": PERSON,  # no such database
    "42501": PERSON,  # no right to do it
    "53300": AWAY,  # too many connections
    "57P01": AWAY,  # shut down
    "57P02": AWAY,
    "57P03": AWAY,
    "57P05": AWAY,
}
OTHERS = {
    "refused": (lambda: ConnectionRefusedError(111, "refused"), AWAY),
    "reset": (lambda: ConnectionResetError(104, "reset"), AWAY),
    "no such host": (lambda: OSError(-2, "unknown name"), AWAY),
    "took too long": (TimeoutError, AWAY),
    "end of file": (EOFError, AWAY),
    "the connection was closed": (lambda: asyncpg.InterfaceError("connection is closed"), AWAY),
    "closed in the middle": (lambda: pg.ConnectionDoesNotExistError("closed in the middle of operation"), AWAY),
    "the protocol went wrong": (lambda: pg.InternalClientError("unexpected"), AWAY),
    "a setting that is none": (lambda: pg.ClientConfigurationError("no such host"), PERSON),
}


def expected_of(error: type) -> str:
    return EXCEPTIONS.get(error.sqlstate) or BY_STATE.get(error.sqlstate[:2]) or LATER


ALL = {f"{e.sqlstate} {e.__name__}": (lambda e=e: e("so it is"), expected_of(e)) for e in POSTGRES} | OTHERS


def test_asyncpg_knows_the_errors_of_postgresql():
    assert len(POSTGRES) > 200
    assert EXCEPTIONS.keys() <= {e.sqlstate for e in POSTGRES}


@pytest.mark.parametrize("method", METHODS)
async def test_every_error_of_postgresql_becomes_ours(method, library):
    database = Database(settings())
    await calls(database)[method]()
    count = len(library.asked)
    await database.close()
    assert count >= 2
    for number, (name, (error, expected)) in enumerate(ALL.items()):
        # what PostgreSQL itself says means the same wherever it is said: one call after the other meets it
        for at in range(count) if name in OTHERS else [number % count]:
            library.asked, library.at, library.error = [], -1, error
            database = Database(settings())
            library.at = at
            with pytest.raises(AcequiaError) as caught:
                await calls(database)[method]()
            what = f"{name} in call {at} ({library.asked[at]}): {caught.value!r}"
            assert kind_of(caught.value) == expected, what
            assert "s3cret" not in str(caught.value)
            assert database.ready is False or expected == INPUT, what
            library.at = -1
            await calls(database)[method]()
            assert database.ready
            await database.close()


@pytest.mark.parametrize("name", sorted(OTHERS))
async def test_closing_is_quiet_and_may_come_twice(name, library):
    database = Database(settings())
    await database.open()
    library.asked, library.at, library.error = [], 0, OTHERS[name][0]
    await database.close()
    await database.close()
