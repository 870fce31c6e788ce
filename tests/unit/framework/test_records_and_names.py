"""What travels in metadata fits, and what names a work item has one spelling."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from acequia.events import (
    META_RECORD,
    METADATA_LIMIT,
    AuditRecord,
    Kind,
    Load,
    ObjectRecord,
    Status,
    event_id,
    fit_record,
    fold_record,
    metadata_size,
    unfold_record,
    valid_traceparent,
)
from acequia.layers import Layer, Name, Stem, is_variant
from acequia.ports import Ack
from acequia.runner import StageRunner, Workshop
from acequia.work import Outcome, RejectedWhole, Work

from .conftest import keys, put_raw, records, stage

STEM = Stem("network_events", datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC), "9f2c4e1a7b3d5e60", 1)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def record(**more: Any) -> AuditRecord:
    now = datetime.now(UTC)
    told: dict[str, Any] = {
        "event_id": event_id(Kind.OUTCOME, "transformer", "v1-000000", "x"),
        "kind": Kind.OUTCOME,
        "status": Status.SUCCESS,
        "run_id": UUID(int=1),
        "stage": "transformer",
        "variant": "v1-000000",
        "dataset": "network_events",
        "outputs": (ObjectRecord(uri="s3://b/k", sha256="a" * 64),),
        "started": now,
        "finished": now,
        "host": "h",
    }
    return AuditRecord(**(told | more))


def test_metadata_is_counted_as_the_store_counts_it() -> None:
    assert metadata_size({"acequia-rows": "10"}) == len("x-amz-meta-acequia-rows") + 2


def test_a_record_that_fits_says_everything() -> None:
    whole = record(rejected={"a": 1}, parameters={"x": 1}, metrics={"m": 0.5})
    assert fit_record(whole, METADATA_LIMIT) == whole


def many_rules(count: int) -> Mapping[str, int]:
    return {f"rule_{UUID(int=(n * 7919**9) % 2**128).hex}": n + 1 for n in range(count)}


def test_a_record_with_more_rules_than_there_is_room_for_counts_the_rarest_together() -> None:
    rules = many_rules(400)
    fitting = fit_record(record(rejected=rules, parameters={"left": "out"}), 1500)
    folded = fold_record(fitting)
    assert metadata_size(folded) <= 1500
    again = unfold_record({META_RECORD: folded[META_RECORD]}, uri="s3://b/k", etag="e", size=1)
    assert again is not None
    assert sum(again.rejected.values()) == sum(rules.values())
    most = max(rules, key=lambda rule: rules[rule])
    assert again.rejected[most] == rules[most]
    assert again.rejected["other_rules"] > 0


async def test_an_object_of_which_much_can_be_said_is_not_rejected_for_it(workshop: Workshop) -> None:
    rules = dict(many_rules(300))

    def clean(work: Work, inputs: Any, out: Path) -> Outcome:
        target = out / "rows.parquet"
        target.write_bytes(b"rows")
        return Outcome(output=target, rows_in=sum(rules.values()) + 1, rows_out=1, rejected=rules)

    runner = StageRunner(stage(process=clean), workshop)
    await runner.start()
    delivery = await put_raw(workshop, STEM)
    assert await runner.handle(delivery) == Ack()
    assert await runner.handle(delivery) == Ack()
    assert len(await keys(workshop, Layer.SILVER)) == 1
    assert await keys(workshop, Layer.QUARANTINE) == []
    first, second = await records(workshop, 2)
    assert first == second
    assert (first.status, sum(first.rejected.values())) == (Status.SUCCESS, sum(rules.values()))


async def test_what_a_client_wrote_as_its_trace_travels_on_only_where_it_is_one(workshop: Workshop) -> None:
    runner = StageRunner(stage(), workshop)
    await runner.start()
    await runner.handle(await put_raw(workshop, STEM, traceparent="x" * 1500))
    other = Stem(STEM.dataset, STEM.at, STEM.id, 2)
    await runner.handle(await put_raw(workshop, other, traceparent=TRACE))
    assert {r.stem: r.traceparent for r in await records(workshop, 2)} == {str(STEM): None, str(other): TRACE}


@pytest.mark.parametrize("text", [None, "", TRACE + "\n", TRACE.upper(), "é" + TRACE[1:]])
def test_a_trace_has_one_spelling(text: str | None) -> None:
    assert valid_traceparent(text) is None


async def test_an_event_that_was_sent_again_without_metadata_gives_the_same_record(workshop: Workshop) -> None:
    """Rows in, run and trace are those of the object, whoever told of it."""

    def refuse(work: Work, inputs: Any, out: Path) -> Outcome:
        raise RejectedWhole("no_rows", "none", rows_in=work.inputs[0].rows or 0, rejected={"bad": 3})

    from .conftest import delivery_of

    runner = StageRunner(stage(process=refuse), workshop)
    await runner.start()
    run_id = str(UUID(int=9))
    told = await put_raw(workshop, STEM, b"rows", **{"acequia-run-id": run_id, "traceparent": TRACE})
    (info,) = [i async for i in workshop.store.list_objects(Layer.RAW)]
    bare = delivery_of(info.key, info.etag, info.bytes)
    assert bare != told
    await runner.handle(bare)
    (found,) = await records(workshop, 1)
    assert (found.rows_in, str(found.run_id), found.traceparent) == (3, run_id, TRACE)


@pytest.mark.parametrize("part", ["00001", "0001\n", "\uff10\uff10\uff10\uff11", "001", "0001_2"])
def test_a_work_item_has_one_name_only(part: str) -> None:
    """Another spelling of the same part is another object: it must not be taken for it."""
    folder = "network_events/date=2025-12-20"
    assert Name.of_key(f"{folder}/network_events_20251220_121209_9f2c4e1a7b3d5e60_0001.parquet") is not None
    assert Name.of_key(f"{folder}/network_events_20251220_121209_9f2c4e1a7b3d5e60_{part}.parquet") is None


def test_a_variant_ends_where_it_ends() -> None:
    assert is_variant("v1-3fa9c1")
    assert not is_variant("v1-3fa9c1\n")


@pytest.mark.parametrize(
    "text", [str(STEM), str(Stem("network_events", STEM.at, plan=1234567)), "_unknown_20251220_121209_" + "a" * 16]
)
def test_what_a_stem_spells_it_reads(text: str) -> None:
    assert str(Stem.parse(text)) == text


@pytest.mark.parametrize(
    "load",
    [
        Load(number=1, full=True, part=1),
        Load(number=12, full=False, part=3, parts=3),
        Load(number=10**15, full=True, part=10**6, parts=10**6),
    ],
)
def test_what_says_which_part_of_a_load_an_object_holds_is_read_as_it_was_written(load: Load) -> None:
    assert Load.parse(str(load)) == load


@pytest.mark.parametrize(
    "text", [None, "", "0.full.1", "1.full", "1.some.1", "1.full.1of", "1.full.1of1\n", "-1.full.1"]
)
def test_what_says_no_part_of_a_load_is_none(text: str | None) -> None:
    assert Load.parse(text) is None
