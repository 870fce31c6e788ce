"""A temporary folder without room: the message waits, nothing is left there, and it goes through once there is room."""

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from acequia.events import AuditRecord, Status
from acequia.runner import keep_going
from harness.house import Place, open_house
from hostile.cases import csv, row
from hostile.conftest import SETTINGS, Home

ROWS = 40_000
Room = Callable[[int], None]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: a full temporary folder needs a tmpfs, and root to mount it")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"NOT TESTED: a full temporary folder needs a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def give_room(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


@pytest.fixture
async def home(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Home]:
    for name, value in {**SETTINGS, "ACEQUIA_RETRY_DELAYS": "1,2,3,4,5", "ACEQUIA_TEMP_DIR": str(small)}.items():
        monkeypatch.setenv(name, value)
    async with open_house(Place(tmp_path / "data"), keep_going) as (client, workshop):
        home = Home("embedded", client, workshop, small)
        await home.hear()
        yield home


def failed_for_room(stage: str) -> Callable[[AuditRecord], bool]:
    def told(record: AuditRecord) -> bool:
        if record.stage != stage or record.status is not Status.FAILED:
            return False
        assert record.error is not None
        assert record.error.type == "TransientFailure", record.error
        assert "space" in record.error.message.lower()
        return True

    return told


@pytest.mark.parametrize(
    ("room", "stage"),
    [
        pytest.param(0.5, "ingestor", id="the file does not fit"),
        pytest.param(1.1, "ingestor", id="what it becomes does not fit"),
        pytest.param(None, "transformer", id="the transformer's output does not fit"),
    ],
)
async def test_it_is_tried_again_until_there_is_room(home: Home, room: float | None, stage: str) -> None:
    content = csv(
        *(row(n, src=f"10.{n % 251}.{n % 241}.{n % 239}", s=f"{n * 7919 % 100_003 / 997}") for n in range(ROWS))
    )
    give_room(home.temp, 2**30)
    if room is not None:
        give_room(home.temp, int(room * len(content)))
    else:
        _full_after_ingestion(home)
    answer = await home.client.put("/ingestions/files/events.csv?dataset=network_events", content=content)
    assert answer.status_code == 202, answer.text
    run_id = UUID(answer.json()["run_id"])
    await home.told(failed_for_room(stage), "an attempt that failed for want of room")
    await home.told(failed_for_room(stage), "another", after=len(home.heard))
    assert (await home.client.get("/health")).status_code == 200
    assert not [r for r in home.heard if r.stage == stage and r.status in (Status.SUCCESS, Status.REJECTED)]

    give_room(home.temp, 2**30)
    done = await home.told(
        lambda r: r.stage == "transformer" and r.run_id == run_id and r.status is Status.SUCCESS, "the end"
    )
    assert done.rows_in == ROWS
    await home.told(lambda r: r.stage == "evaluator" and r.status is Status.SUCCESS, "an evaluation")
    assert home.left_behind() == []
    assert not list(home.temp.rglob("*"))


def _full_after_ingestion(home: Home) -> None:
    """The room goes as soon as the ingestor is done: its own files have gone by then."""

    def at(step: str) -> None:
        if step == "ingestor.before_ack":
            give_room(home.temp, 3 * 2**20 // 2)

    home.workshop.at = at
