"""A sweep begins where everything before is settled; what comes to lie behind is found by the full one."""

import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.batches import Plan
from acequia.datasets import load_registry
from acequia.events import IngestionCommand, SyntheticSource, utc_now
from acequia.layers import Buckets, Layer, Stem, command_key, data_key, done_key, folder_key, landing_done_id, plan_key
from acequia.ports import Ack, Delivery, ObjectInfo, Settlement
from acequia.runner import Workshop
from acequia.stage import Candidate
from acequia.topology import topology
from acequia_reconciler import sweep as module
from acequia_reconciler.marks import Marks, mark_key
from acequia_reconciler.sweep import Sweeper

BUCKETS = Buckets("test")
TABLE = topology(BUCKETS, (3600,))
VARIANT = "v1-3fa9c1"
DATASET = "network_events"
HOUR = timedelta(hours=1)


class Clock:
    """The time at which a test began."""

    now: datetime


@pytest.fixture(autouse=True)
def begun() -> None:
    Clock.now = utc_now().replace(microsecond=0)


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    store = await DirectoryStore.open(tmp_path / "store", BUCKETS)  # it tells nobody: every event is lost
    await bus.apply(TABLE)
    await store.apply(TABLE)
    for stage in ("transformer", "trainer", "evaluator"):
        await put(store, Layer.LEDGER, f"stages/{stage}.json", json.dumps({"variants": [VARIANT]}).encode())
    yield Workshop(store, bus, BUCKETS, load_registry())
    await bus.close()
    await store.close()


async def put(store: DirectoryStore, layer: Layer, key: str, data: bytes = b"rows") -> ObjectInfo:
    return await store.put(layer, key, data, metadata={}, content_type="x/y")


def stem(hours_ago: float, number: int = 1) -> Stem:
    return Stem(DATASET, Clock.now - hours_ago * HOUR, f"{number:016x}", 1)


async def ingested(workshop: Workshop, hours_ago: float, number: int = 1, *, silver: bool = True) -> Stem:
    """An object of RAW of some hours ago, and, where it is settled, of SILVER."""
    made = stem(hours_ago, number)
    await workshop.store.put(Layer.RAW, data_key(made), b"r", metadata={}, content_type="x/y")
    if silver:
        await workshop.store.put(Layer.SILVER, data_key(made, VARIANT), b"s", metadata={}, content_type="x/y")
    return made


async def planned(workshop: Workshop, number: int, hours_ago: float, *stems: Stem, ended: bool = True) -> Stem:
    made = Stem(DATASET, Clock.now - hours_ago * HOUR, plan=number)
    inputs = tuple(Candidate(data_key(s, VARIANT), "x", str(s), VARIANT, 4, 1, None, None, None) for s in stems)
    plan = Plan(
        "trainer", DATASET, number, made, made.at, uuid4(), (), inputs, Clock.now.date() - 10 * HOUR * 24, 1, {}
    )
    body = json.dumps(plan.document()).encode()
    store = workshop.store
    await store.put(Layer.LEDGER, plan_key("trainer", DATASET, number), body, metadata={}, content_type="x/y")
    if ended:
        for layer, file in ((Layer.MODELS, "model.json"), (Layer.EVAL, "evaluation.json")):
            await store.put(layer, folder_key(made, VARIANT, file), b"{}", metadata={}, content_type="x/y")
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

    async def take(delivery: Delivery) -> Settlement:
        return Ack()

    for queue in {orphan.queue for orphan in result.orphans}:
        subscription = await workshop.bus.consume(queue, take, concurrency=100)
        while await workshop.bus.depth(queue):
            pass
        await subscription.close(grace=5)
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
    await put(workshop.store, Layer.SILVER, data_key(stem(3, 2), VARIANT))  # type: ignore[arg-type]
    assert await orphans(workshop, full=False) == [data_key(stem(3, 2), VARIANT)]


async def test_an_open_command_holds_the_marks_back_to_when_it_was_accepted(workshop: Workshop) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    run_id, accepted = uuid4(), Clock.now - 2.5 * HOUR
    source = SyntheticSource(kind="synthetic", rows=10)
    command = IngestionCommand(run_id=run_id, dataset=DATASET, source=source, accepted_at=accepted, fingerprint="x")
    body = command.model_dump_json().encode()
    await workshop.store.put(Layer.LEDGER, command_key(run_id), body, metadata={}, content_type="x/y")
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
    info = await workshop.store.put(Layer.LANDING, "a.csv", b"x", metadata={}, content_type="x/y")
    assert await orphans(workshop, full=True) == ["a.csv"]
    assert await marks(workshop) == {"ingestor": 0.0, "transformer": 0.0, "trainer": 0.0, "evaluator": -1.0}
    id = landing_done_id(BUCKETS.of(Layer.LANDING), info.key, info.etag)
    await workshop.store.put(Layer.LEDGER, done_key(id), b"{}", metadata={}, content_type="x/y")
    assert await orphans(workshop, full=True) == []
    assert await marks(workshop) == {"ingestor": -1.0, "transformer": -1.0, "trainer": -1.0, "evaluator": -1.0}


async def test_marks_of_a_clock_that_was_ahead_are_not_believed(workshop: Workshop) -> None:
    await orphans(workshop, full=True)
    await workshop.store.put(Layer.RAW, data_key(stem(30, 1)), b"rows", metadata={}, content_type="x/y")
    later = (utc_now() + timedelta(days=30)).isoformat()
    document = json.dumps({"full_at": later, "datasets": {DATASET: later}}).encode()
    await workshop.store.put(Layer.LEDGER, mark_key("transformer"), document, metadata={}, content_type="x/y")
    assert await orphans(workshop, full=False) == [data_key(stem(30, 1))]


async def test_an_open_plan_holds_the_mark_of_who_reads_its_model(workshop: Workshop) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    late = await planned(workshop, 2, 2, await ingested(workshop, 3, 2), ended=False)
    assert await orphans(workshop, full=True) == []
    assert await marks(workshop) == {"ingestor": 1.0, "transformer": 1.0, "trainer": 1.0, "evaluator": 2.0}
    model = folder_key(late, VARIANT, "model.json")
    await workshop.store.put(Layer.MODELS, model, b"{}", metadata={}, content_type="x/y")
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
    monkeypatch.setattr(module, "MOST_ORPHANS", 10)  # two for each reader
    every = [await ingested(workshop, 10 - number, number, silver=False) for number in range(6)]
    sweeper = Sweeper(workshop, TABLE)
    found: list[str] = []
    full = True
    while batch := await orphans(workshop, sweeper, full=full):
        assert len(batch) == 2
        found += batch
        for made in every:
            if data_key(made) in batch:
                await workshop.store.put(Layer.SILVER, data_key(made, VARIANT), b"s", metadata={}, content_type="x/y")
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
        await workshop.store.put(Layer.RAW, data_key(other), b"r", metadata={}, content_type="x/y")
    monkeypatch.setattr(module, "MOST_ORPHANS", 10)  # two for each reader
    assert await orphans(workshop, sweeper, full=True) == [data_key(other) for other in others[:2]]
    for other in others:
        await workshop.store.put(Layer.SILVER, data_key(other, VARIANT), b"s", metadata={}, content_type="x/y")
    assert await orphans(workshop, sweeper, full=False) == [data_key(stem(30, 2))]


async def test_the_timer_looks_at_everything_where_that_was_long_ago(workshop: Workshop) -> None:
    await planned(workshop, 1, 4, await ingested(workshop, 5))
    seldom, always = Sweeper(workshop, TABLE), Sweeper(workshop, TABLE, full_every=0.0)
    await orphans(workshop, seldom, full=False)  # the first
    await ingested(workshop, 30, 2, silver=False)
    assert await orphans(workshop, seldom, full=False) == []
    assert await orphans(workshop, always, full=False) == [data_key(stem(30, 2))]


async def test_a_reader_that_could_not_be_looked_at_moves_no_mark(workshop: Workshop) -> None:
    await workshop.store.put(
        Layer.LEDGER, plan_key("trainer", DATASET, 1), b'{"of": "a later version"}', metadata={}, content_type="x/y"
    )
    await ingested(workshop, 5)
    await orphans(workshop, full=True)
    assert await marks(workshop) == {"ingestor": 1.0, "transformer": 1.0}


async def test_a_dry_run_moves_no_mark(workshop: Workshop) -> None:
    await ingested(workshop, 5)
    await Sweeper(workshop, TABLE).sweep(grace=0, dry_run=True)
    assert await marks(workshop) == {}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"full_at": null}', b'{"full_at": "x", "datasets": {}}'])
async def test_marks_that_nobody_can_read_are_none(workshop: Workshop, body: bytes) -> None:
    await workshop.store.put(Layer.LEDGER, mark_key("transformer"), body, metadata={}, content_type="x/y")
    await ingested(workshop, 5, silver=False)
    assert await orphans(workshop, full=False) == [data_key(stem(5))]


async def test_after_a_long_look_at_landing_the_timer_leaves_it_out_for_a_while(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = Sweeper(workshop, TABLE)
    await ingested(workshop, 5)
    monkeypatch.setattr(module, "LANDING_SHARE", 1e9)
    assert "ingestor" in (await sweeper.sweep(grace=0, full=False)).seen
    await workshop.store.put(Layer.LANDING, "a.csv", b"x", metadata={}, content_type="x/y")
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
