"""acequia watch: each file once, whenever it was stopped and started, and a word about each that did not go in."""

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from acequia_cli.client import Api
from acequia_cli.commands import Output
from acequia_cli.complaints import ServerAway, WrongUse
from acequia_cli.connection import Connection, Where
from acequia_cli.watch import Watch
from acequia_ingestor.api import keyed_run_id

from .conftest import problem

DATASETS = [
    {"name": "sensor_data", "patterns": ["AYATSIL-*_all.csv"]},
    {"name": "eventos", "patterns": ["Eventos_AYATSIL-*_all.csv"]},
]
NAME = "AYATSIL-1_all.csv"


class Installation:
    """Takes files on as the ingestor does, and finishes each run when it is asked for it the second time."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.names: list[str] = []
        self.options: list[dict[str, str]] = []
        self.asked: dict[str, int] = {}
        self.away = 0
        """So many requests are not answered."""
        self.faults: list[int] = []
        """Requests for runs that are known are answered so."""
        self.when_asked_for_an_unknown_run: Callable[[], None] = lambda: None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            self.away -= 1
            raise httpx.ConnectError("refused")
        path = request.url.path
        if path == "/datasets":
            return httpx.Response(200, json=DATASETS)
        if request.method == "PUT":
            name = unquote(request.url.raw_path.decode().partition("?")[0].rpartition("/")[2])
            content = await request.aread()
            if name.startswith("bad"):
                return problem(422, "a file's name has no such thing")
            run_id = str(keyed_run_id(request.headers["idempotency-key"]))
            self.files[run_id] = content
            self.names.append(name)
            self.options.append(dict(request.url.params))
            return httpx.Response(202, json={"run_id": run_id})
        run_id = path.rpartition("/")[2]
        if run_id not in self.files:
            self.when_asked_for_an_unknown_run()
            return problem(404, f"No run has the id {run_id}.")
        if self.faults:
            return problem(self.faults.pop(), "a fault")
        self.asked[run_id] = self.asked.get(run_id, 0) + 1
        return httpx.Response(200, json=self.page(run_id))

    def page(self, run_id: str) -> dict[str, Any]:
        content = self.files[run_id]
        finished = self.asked[run_id] > 1
        rejected = content.startswith(b"no")
        return {
            "run_id": run_id,
            "dataset": "sensor_data",
            "state": ("rejected" if rejected else "done") if finished else "running",
            "finished": finished,
            "rows_in": 3,
            "rows_silver": 2,
            "rows_quarantined": 1,
            "quarantined_by_rule": {"motor_current_range": 1},
            "error": {"message": "the header lacks frequency_hz"} if rejected else None,
            "stages": {},
        }


@pytest.fixture
def installation(monkeypatch: pytest.MonkeyPatch) -> Installation:
    there = Installation()

    @asynccontextmanager
    async def connected(where: Where, output: Output, **_: Any) -> AsyncIterator[Connection]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(there), base_url="http://acequia.test") as client:
            yield Connection(Api(client), where.data, in_process=False)

    monkeypatch.setattr("acequia_cli.watch.connected", connected)
    monkeypatch.setattr("acequia_cli.watch.PAUSE", 0.01)
    monkeypatch.setattr("acequia_cli.watch.PAUSE_MOST", 0.02)
    return there


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (made := tmp_path / "inbox").mkdir()
    return made


@pytest.fixture
def watch(folder: Path, tmp_path: Path) -> Watch:
    return Watch(Where(tmp_path / "data"), folder, once=True, settle=0.05, every=0.02)


Told = Callable[[], tuple[dict[str, Any], str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    def read() -> tuple[dict[str, Any], str]:
        captured = capsys.readouterr()
        return json.loads(captured.out), captured.err

    return read


async def until(come: Callable[[], bool]) -> None:
    while not come():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def run(watch: Watch) -> int:
    return await asyncio.wait_for(watch.run(Output.open(as_json=True)), 30)


async def test_each_file_of_a_dataset_goes_in_and_what_became_of_it_is_told(
    watch: Watch, folder: Path, installation: Installation, told: Told
) -> None:
    (folder / NAME).write_bytes(b"one")
    (folder / "eventos_ayatsil-1_all.csv").write_bytes(b"two")
    (folder / "notes.txt").write_bytes(b"three")
    assert await run(watch) == 0
    assert sorted(installation.files.values()) == [b"one", b"two"]
    document, text = told()
    assert (document["brought_in"], document["not_well"]) == (2, 0)
    assert {file["state"] for file in document["files"]} == {"done"}
    assert f"{NAME}: done: 3 rows, 2 in SILVER, 1 in quarantine (motor_current_range 1)" in text
    assert "notes.txt: no dataset has a pattern for its name" in text


async def test_what_was_sent_before_is_not_sent_again_by_whoever_starts_anew(
    watch: Watch, folder: Path, installation: Installation, told: Told
) -> None:
    (folder / NAME).write_bytes(b"one")
    await run(watch)
    told()
    (folder / "Eventos_AYATSIL-1_all.csv").write_bytes(b"two")
    assert await run(watch) == 0
    assert installation.names == [NAME, "Eventos_AYATSIL-1_all.csv"]
    document, _ = told()
    assert (document["brought_in"], document["known_before"]) == (1, 1)


async def test_other_content_another_name_or_other_options_are_another_run(
    watch: Watch, folder: Path, installation: Installation
) -> None:
    (folder / NAME).write_bytes(b"one")
    await run(watch)
    (folder / NAME).write_bytes(b"more")
    await run(watch)
    (folder / NAME).rename(folder / "AYATSIL-2_all.csv")
    await run(watch)
    await run(replace(watch, csv="dates=mdy", dataset="sensor_data", format="people_csv"))
    assert len(installation.files) == 4
    assert installation.options[-1] == {"csv": "dates=mdy", "dataset": "sensor_data", "format": "people_csv"}


async def test_a_rejected_file_is_told_with_its_reason_and_in_the_exit_code(
    watch: Watch, folder: Path, installation: Installation, told: Told
) -> None:
    (folder / NAME).write_bytes(b"no good")
    assert await run(watch) == 1
    document, text = told()
    assert document["files"][0]["error"] == "the header lacks frequency_hz"
    assert f"{NAME}: rejected: the header lacks frequency_hz" in text


async def test_a_file_that_the_server_does_not_take_stops_no_other(
    watch: Watch, folder: Path, installation: Installation, told: Told
) -> None:
    (folder / "bad.csv").write_bytes(b"one")
    (folder / "good.csv").write_bytes(b"two")
    assert await run(replace(watch, patterns=("*.CSV",))) == 1
    assert installation.names == ["good.csv"]
    assert "bad.csv: not taken: a file's name has no such thing" in told()[1]


async def test_files_are_moved_to_where_they_belong_and_none_over_another(
    watch: Watch, folder: Path, installation: Installation, told: Told
) -> None:
    done = folder / "done"
    moving = replace(watch, move_to=done, recursive=True)
    (folder / "east").mkdir()
    (folder / "east" / NAME).write_bytes(b"one")
    (folder / "AYATSIL-2_all.csv").write_bytes(b"no good")
    assert await run(moving) == 1
    assert (done / "east" / NAME).read_bytes() == b"one"
    assert (done / "rejected" / "AYATSIL-2_all.csv").read_bytes() == b"no good"
    (folder / "east" / NAME).write_bytes(b"later")
    assert await run(moving) == 0
    assert (done / "east" / "AYATSIL-1_all.2.csv").read_bytes() == b"later"
    assert [p for p in folder.rglob("*") if p.is_file() and done not in p.parents] == []
    assert len(installation.files) == 3


async def test_a_folder_below_is_left_alone_unless_it_is_asked_for(
    watch: Watch, folder: Path, installation: Installation
) -> None:
    (folder / "below").mkdir()
    (folder / "below" / NAME).write_bytes(b"one")
    assert await run(watch) == 0
    assert installation.names == []


@pytest.mark.parametrize("name", [f".{NAME}", f"{NAME}.part", f"{NAME}.tmp", f"~${NAME}", f"{NAME}~"])
async def test_what_a_program_has_not_finished_is_none_of_ours(
    watch: Watch, folder: Path, installation: Installation, name: str
) -> None:
    (folder / name).write_bytes(b"half")
    assert await run(replace(watch, patterns=("*",))) == 0
    assert installation.names == []


async def test_a_link_that_leads_nowhere_stops_no_other_file(
    watch: Watch, folder: Path, installation: Installation, told: Told
) -> None:
    (folder / "AYATSIL-0_all.csv").symlink_to("AYATSIL-0_all.csv")
    (folder / "AYATSIL-2_all.csv").symlink_to("nothing")
    (folder / NAME).write_bytes(b"one")
    assert await run(watch) == 0
    assert installation.names == [NAME]
    assert "AYATSIL-0_all.csv can't be read: " in told()[1]


async def test_a_run_whose_first_one_is_not_known_yet_is_asked_for_again(
    watch: Watch, folder: Path, installation: Installation, told: Told
) -> None:
    (folder / NAME).write_bytes(b"one")
    first = "the-first"

    def page(run_id: str) -> dict[str, Any]:
        if run_id == first:
            return {"run_id": first, "state": "done", "finished": True}
        installation.files.setdefault(first, b"one") if installation.asked[run_id] > 3 else None
        return {"run_id": run_id, "state": "same_content", "same_as": first, "finished": True}

    installation.page = page  # type: ignore[method-assign]
    assert await run(watch) == 0
    assert f"{NAME}: the same content as run {first}, done" in told()[1]


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_server_that_answers_with_a_fault_does_not_end_the_watch(
    watch: Watch, folder: Path, installation: Installation, status: int
) -> None:
    watching = asyncio.create_task(run(replace(watch, once=False)))
    (folder / NAME).write_bytes(b"one")
    await until(lambda: bool(installation.asked))
    installation.faults = [status] * 3
    (folder / "AYATSIL-2_all.csv").write_bytes(b"two")
    await until(lambda: not installation.faults)
    (folder / "AYATSIL-3_all.csv").write_bytes(b"three")
    await until(lambda: "AYATSIL-3_all.csv" in installation.names)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await watching == 0


async def test_a_file_that_still_grows_is_left_for_the_next_time(
    watch: Watch, folder: Path, installation: Installation, told: Told
) -> None:
    async def grow() -> None:
        with (folder / NAME).open("ab") as file:
            while True:
                file.write(b"x")
                file.flush()
                await asyncio.sleep(0.005)

    growing = asyncio.create_task(grow())
    await asyncio.sleep(0.02)
    assert await run(replace(watch, settle=1.0)) == 1
    growing.cancel()
    assert installation.names == []
    assert "still being written" in told()[1]
    assert await run(watch) == 0
    assert installation.files.popitem()[1] == (folder / NAME).read_bytes()


async def test_a_file_that_changes_while_it_is_sent_is_not_taken_for_what_it_was(
    watch: Watch, folder: Path, installation: Installation
) -> None:
    path = folder / NAME
    path.write_bytes(b"a" * 3_000_000)

    def change() -> None:
        installation.when_asked_for_an_unknown_run = lambda: None
        path.write_bytes(b"b" * 3_000_000)
        os.utime(path, (1, 1))

    installation.when_asked_for_an_unknown_run = change
    assert await run(watch) == 1
    assert installation.files == {}
    assert await run(watch) == 0
    assert list(installation.files.values()) == [b"b" * 3_000_000]
    (run_id,) = installation.files
    asked = json.dumps([hashlib.sha256(b"b" * 3_000_000).hexdigest(), NAME, None, None, None])
    assert run_id == str(keyed_run_id(f"file-{hashlib.sha256(asked.encode()).hexdigest()}"))


async def test_a_server_that_is_away_is_waited_for(
    watch: Watch, folder: Path, installation: Installation, told: Told
) -> None:
    (folder / NAME).write_bytes(b"one")
    installation.away = 3
    assert await run(watch) == 0
    assert installation.names == [NAME]
    assert told()[1].count("nothing answers") == 1


async def test_once_gives_up_where_nobody_answers_for_long(
    watch: Watch, folder: Path, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acequia_cli.watch.AWAY", 0.0)
    installation.away = 10_000
    with pytest.raises(ServerAway):
        await run(watch)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
async def test_it_goes_on_until_it_is_told_to_stop_and_ends_well(
    watch: Watch, folder: Path, installation: Installation, told: Told, sign: signal.Signals
) -> None:
    watching = asyncio.create_task(run(replace(watch, once=False)))
    for number in range(3):
        await asyncio.sleep(0.1)
        (folder / f"AYATSIL-{number}_all.csv").write_bytes(b"no" if number == 1 else str(number).encode())
        await until(lambda: len(installation.names) > number)  # noqa: B023
    installation.away = 5
    await until(lambda: not installation.away)
    os.kill(os.getpid(), sign)
    assert await watching == 0
    document, text = told()
    assert document["brought_in"] == 3
    assert "Stopped." in text


async def test_what_can_not_be_meant_is_said_at_once(
    watch: Watch, folder: Path, installation: Installation, tmp_path: Path
) -> None:
    (folder / NAME).write_bytes(b"one")
    for wrong in (
        replace(watch, folder=tmp_path / "nowhere"),
        replace(watch, move_to=folder),
        replace(watch, csv="dates=never"),
        replace(watch, dataset="nothing"),
    ):
        with pytest.raises(WrongUse):
            await run(wrong)
    assert installation.names == []
