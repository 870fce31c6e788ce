"""A sweep begins where everything before is settled; what comes to lie behind is found by the full one."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from acequia.events import utc_now
from acequia.layers import Layer, Stem, command_key, data_key, done_key, folder_key, plan_key
from acequia.runner import Workshop
from acequia_reconciler import sweep as module
from acequia_reconciler.marks import Marks, mark_key
from acequia_reconciler.sweep import Sweeper

from .conftest import BUCKETS, DATASET, TABLE, VARIANT, landed, put, taken, write, write_command, write_plan

HOUR = timedelta(hours=1)


class Clock:
    """The time at which a test began."""

    now: datetime


@pytest.fixture(autouse=True)
def begun() -> None:
    Clock.now = utc_now().replace(microsecond=0)


@pytest.fixture
def variants() -> Sequence[str]:
    return (VARIANT,)


def stem(hours_ago: float, number: int = 1) -> Stem:
    return Stem(DATASET, Clock.now - hours_ago * HOUR, f"{number:016x}", 1)


async def ingested(workshop: Workshop, hours_ago: float, number: int = 1, *, silver: bool = True) -> Stem:
    """An object of RAW of some hours ago, and, where it is settled, of SILVER."""
    made = stem(hours_ago, number)
    await put(workshop, Layer.RAW, data_key(made), b"r")
    if silver:
        await put(workshop, Layer.SILVER, data_key(made, VARIANT), b"s")
    return made


async def planned(workshop: Workshop, number: int, hours_ago: float, *stems: Stem, ended: bool = True) -> Stem:
    made = Stem(DATASET, Clock.now - hours_ago * HOUR, plan=number)
    settled_before = Clock.now.date() - timedelta(days=10)
    await write_plan(workshop, made, dict.fromkeys(stems, VARIANT), settled_before=settled_before)
    if ended:
        for layer, file in ((Layer.MODELS, "model.json"), (Layer.EVAL, "evaluation.json")):
            await put(workshop, layer, folder_key(made, VARIANT, file), b"{}")
    return made


async def marks(workshop: Workshop) -> dict[str, Any]:
    """Hours ago, by reader, rounded."""
    found = {}
    for reader in ("ingestor", "transformer", "trainer", "evaluator"):
        datasets = (await Marks.read(workshop.store, reader)).datasets
        for folder, at in datasets.items():
            assert folder == ("*" if reader == "ingestor" else DATASET)
            found[reader] = round((utc_now() - at) / HOUR, 1)
    return found


async def orphans(workshop: Workshop, sweeper: Sweeper | None = None, *, full: bool) -> list[str]:
    """Keys of the orphans; what was sent is lost again."""
    result = await (sweeper or Sweeper(workshop, TABLE)).sweep(grace=0, at_once=True, full=full)
    for queue in {orphan.queue for orphan in result.orphans}:
        await taken(workshop, queue)
    return sorted(orphan.info.key for orphan in result.orphans)


async def test_where_all_is_settled_the_marks_stand_an_hour_ago(workshop: Workshop) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    assert await orphans(workshop, full=True) == []
    assert await marks(workshop) == {"ingestor": 1.0, "transformer": 1.0, "trainer": 1.0, "evaluator": 1.0}


async def test_from_the_marks_on_only_what_is_newer_is_looked_at(workshop: Workshop) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    sweeper = Sweeper(workshop, TABLE)
    first = await sweeper.sweep(grace=0)
    assert {reader: first.seen[reader] for reader in ("transformer", "trainer", "evaluator")} == {
        "transformer": 1,
        "trainer": 1,
        "evaluator": 1,
    }
    await ingested(workshop, 0.5, 2, silver=False)
    second = await sweeper.sweep(grace=0, full=False)
    assert (second.seen["transformer"], second.seen["trainer"], second.seen["evaluator"]) == (1, 0, 0)
    assert [o.info.key for o in second.orphans] == [data_key(stem(0.5, 2))]


async def test_an_unsettled_object_holds_the_marks_of_its_reader_and_of_what_comes_after(workshop: Workshop) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    await ingested(workshop, 3, 2, silver=False)
    await orphans(workshop, full=True)
    assert await marks(workshop) == {"ingestor": 1.0, "transformer": 3.0, "trainer": 3.0, "evaluator": 1.0}
    # its silver comes late: no mark has passed it
    await put(workshop, Layer.SILVER, data_key(stem(3, 2), VARIANT))
    assert await orphans(workshop, full=False) == [data_key(stem(3, 2), VARIANT)]


async def test_an_open_command_holds_the_marks_back_to_when_it_was_accepted(workshop: Workshop) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    run_id = uuid4()
    await write_command(workshop, run_id, accepted_at=Clock.now - 2.5 * HOUR)
    await orphans(workshop, full=True)
    assert await marks(workshop) == {"ingestor": 1.0, "transformer": 2.5, "trainer": 2.5, "evaluator": 1.0}
    # it is carried out now, under the time of its acceptance, and its event gets lost
    await ingested(workshop, 2.5, 9, silver=False)
    await workshop.store.remove(Layer.LEDGER, command_key(run_id))
    assert await orphans(workshop, full=False) == [data_key(stem(2.5, 9))]


async def test_a_file_that_was_not_ingested_holds_the_marks_back(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    monkeypatch.setattr(module, "IN_FLIGHT", -HOUR)  # as if the file had come an hour before
    info = await put(workshop, Layer.LANDING, "a.csv", b"x")
    assert await orphans(workshop, full=True) == ["a.csv"]
    assert await marks(workshop) == {"ingestor": 0.0, "transformer": 0.0, "trainer": 0.0, "evaluator": -1.0}
    await put(workshop, Layer.LEDGER, done_key(landed(info)), b"{}")
    assert await orphans(workshop, full=True) == []
    assert await marks(workshop) == {"ingestor": -1.0, "transformer": -1.0, "trainer": -1.0, "evaluator": -1.0}


async def test_marks_of_a_clock_that_was_ahead_are_not_believed(workshop: Workshop) -> None:
    await orphans(workshop, full=True)
    await put(workshop, Layer.RAW, data_key(stem(30, 1)), b"rows")
    later = (utc_now() + timedelta(days=30)).isoformat()
    await write(workshop, Layer.LEDGER, mark_key("transformer"), {"full_at": later, "datasets": {DATASET: later}})
    assert await orphans(workshop, full=False) == [data_key(stem(30, 1))]


async def test_an_open_plan_holds_the_mark_of_who_reads_its_model(workshop: Workshop) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    late = await planned(workshop, 2, 2, await ingested(workshop, 3, 2), ended=False)
    assert await orphans(workshop, full=True) == []
    assert await marks(workshop) == {"ingestor": 1.0, "transformer": 1.0, "trainer": 1.0, "evaluator": 2.0}
    model = folder_key(late, VARIANT, "model.json")
    await put(workshop, Layer.MODELS, model, b"{}")
    assert await orphans(workshop, full=False) == [model]


async def test_what_comes_to_lie_behind_a_mark_is_found_by_the_full_sweep(workshop: Workshop) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    sweeper = Sweeper(workshop, TABLE)
    await orphans(workshop, sweeper, full=True)
    await ingested(workshop, 30, 2, silver=False)
    assert await orphans(workshop, sweeper, full=False) == []
    assert await orphans(workshop, sweeper, full=True) == [data_key(stem(30, 2))]
    # and from then on its mark waits for it
    assert await orphans(workshop, sweeper, full=False) == [data_key(stem(30, 2))]


async def test_a_sweep_cut_off_by_too_many_orphans_goes_on_where_it_stopped(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ORPHANS", 12)  # two for each reader
    every = [await ingested(workshop, 10 - number, number, silver=False) for number in range(6)]
    sweeper = Sweeper(workshop, TABLE)
    found: list[str] = []
    full = True
    while batch := await orphans(workshop, sweeper, full=full):
        assert len(batch) == 2
        found += batch
        for made in every:
            if data_key(made) in batch:
                await put(workshop, Layer.SILVER, data_key(made, VARIANT), b"s")
        await planned(workshop, len(found) // 2, 1, *every[: len(found)])
        full = False
    assert found == [data_key(made) for made in every]


async def test_what_a_full_sweep_that_was_cut_off_did_not_come_to_the_next_ones_look_at(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = Sweeper(workshop, TABLE)
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    await orphans(workshop, sweeper, full=True)
    await ingested(workshop, 30, 2, silver=False)  # behind the mark
    others = [Stem("another", Clock.now - 40 * HOUR, f"{number:016x}", 1) for number in range(3)]
    for other in others:
        await put(workshop, Layer.RAW, data_key(other), b"r")
    monkeypatch.setattr(module, "MOST_ORPHANS", 12)  # two for each reader
    assert await orphans(workshop, sweeper, full=True) == [data_key(other) for other in others[:2]]
    for other in others:
        await put(workshop, Layer.SILVER, data_key(other, VARIANT), b"s")
    assert await orphans(workshop, sweeper, full=False) == [data_key(stem(30, 2))]


async def test_the_timer_looks_at_everything_where_that_was_long_ago(workshop: Workshop) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    seldom, always = Sweeper(workshop, TABLE), Sweeper(workshop, TABLE, full_every=0.0)
    await orphans(workshop, seldom, full=False)  # the first
    await ingested(workshop, 30, 2, silver=False)
    assert await orphans(workshop, seldom, full=False) == []
    assert await orphans(workshop, always, full=False) == [data_key(stem(30, 2))]


async def test_a_reader_that_could_not_be_looked_at_moves_no_mark(workshop: Workshop) -> None:
    await put(workshop, Layer.LEDGER, plan_key("trainer", DATASET, 1), b'{"of": "a later version"}')
    await ingested(workshop, 5)
    await orphans(workshop, full=True)
    assert await marks(workshop) == {"ingestor": 1.0, "transformer": 1.0}


async def test_a_dry_run_moves_no_mark(workshop: Workshop) -> None:
    await ingested(workshop, 5)
    await Sweeper(workshop, TABLE).sweep(grace=0, dry_run=True)
    assert await marks(workshop) == {}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"full_at": null}', b'{"full_at": "x", "datasets": {}}'])
async def test_marks_that_nobody_can_read_are_none(workshop: Workshop, body: bytes) -> None:
    await put(workshop, Layer.LEDGER, mark_key("transformer"), body)
    await ingested(workshop, 5, silver=False)
    assert await orphans(workshop, full=False) == [data_key(stem(5))]


async def test_after_a_long_look_at_landing_the_timer_leaves_it_out_for_a_while(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = Sweeper(workshop, TABLE)
    await ingested(workshop, 5)
    monkeypatch.setattr(module, "LANDING_SHARE", 1e9)
    assert "ingestor" in (await sweeper.sweep(grace=0, full=False)).seen
    await put(workshop, Layer.LANDING, "a.csv", b"x")
    assert "ingestor" not in (await sweeper.sweep(grace=0, full=False)).seen
    assert (await marks(workshop))["transformer"] == 1.0
    assert [o.uri for o in (await sweeper.sweep(grace=0, full=True)).orphans if "landing" in o.uri]


async def test_a_file_moved_into_landing_with_an_old_time_is_found_from_the_marks_on(
    workshop: Workshop, tmp_path: Path
) -> None:
    sweeper = Sweeper(workshop, TABLE)
    await orphans(workshop, sweeper, full=True)
    dropped = tmp_path / "store" / BUCKETS.of(Layer.LANDING) / "old.csv"
    dropped.write_bytes(b"x")
    os.utime(dropped, (datetime(2020, 1, 1, tzinfo=UTC).timestamp(),) * 2)
    sweeper._landing_after = 0.0
    assert await orphans(workshop, sweeper, full=False) == ["old.csv"]
