"""Commands and files in, RAW parts and one `done` out: once, whatever comes twice, late or cut off."""

import asyncio
import gzip
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import polars as pl
import pytest

from acequia.errors import TransientFailure
from acequia.events import AuditRecord, Kind, SourceRequest, Status
from acequia.layers import Layer, command_key
from acequia.ports import Ack, Delivery, Message, Retry
from acequia.runner import Workshop
from acequia_ingestor.formats import load_formats
from acequia_ingestor.ingest import Ingestor
from acequia_ingestor.settings import IngestorSettings

from .conftest import delivery_of, document, keys, land, order, rows, told

ONE, TWO = UUID(int=1), UUID(int=2)


def outcomes(records: list[AuditRecord]) -> dict[UUID, Status]:
    """The one outcome of each run. Two different outcomes of one thing are a failure."""
    found = {r.event_id: r for r in records if r.kind is Kind.OUTCOME}
    assert len({(r.event_id, r.model_dump_json()) for r in records if r.kind is Kind.OUTCOME}) == len(found)
    by_run = {r.run_id: r.status for r in found.values()}
    assert len(by_run) == len(found)
    return by_run


def cut_off_at(workshop: Workshop, step: str) -> None:
    """The next time a delivery reaches `step`, it ends there as if the process had died."""

    def at(reached: str) -> None:
        if reached == step:
            workshop.at = lambda _: None
            raise TransientFailure("cut off", dependency="test")

    workshop.at = at


async def parts(workshop: Workshop, folder: Path) -> list[pl.DataFrame]:
    frames = []
    for number, key in enumerate(await keys(workshop, Layer.RAW)):
        await workshop.store.get(Layer.RAW, key, folder / f"{number}.parquet")
        frames.append(pl.read_parquet(folder / f"{number}.parquet"))
    return frames


async def test_a_file_becomes_parts_that_hold_its_records_in_turn(
    ingestor: Ingestor, workshop: Workshop, tmp_path: Path
) -> None:
    delivery = await land(workshop, "network_events/a.csv", rows(10, bad=1), acequia_run_id=str(ONE))
    assert await ingestor.handle(delivery) == Ack()
    assert [list(frame["bytes"]) for frame in await parts(workshop, tmp_path)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    names = [key.rpartition("_")[2] for key in await keys(workshop, Layer.RAW)]
    assert names == ["0001.parquet", "0002.parquet", "0003.parquet"]
    records = await told(workshop)
    assert [r.status for r in records] == [Status.ACCEPTED, Status.SUCCESS]
    done = records[1]
    assert (done.run_id, done.rows_in, done.rows_out, sum(done.rejected.values())) == (ONE, 10, 9, 1)
    assert [o.rows for o in done.outputs[:3]] == [4, 4, 1]
    (quarantined,) = await keys(workshop, Layer.QUARANTINE)
    assert quarantined.startswith("ingestor/network_events/date=")
    assert quarantined.endswith(".rows.parquet")


async def test_the_same_event_again_makes_nothing_new_and_tells_the_same(
    ingestor: Ingestor, workshop: Workshop
) -> None:
    delivery = await land(workshop, "network_events/a.csv", rows(5))
    await asyncio.gather(*(ingestor.handle(delivery) for _ in range(3)))
    await ingestor.handle(delivery)
    assert len(await keys(workshop, Layer.RAW)) == 2
    assert len(await keys(workshop, Layer.LEDGER, "done/")) == 1
    assert list(outcomes(await told(workshop)).values()) == [Status.SUCCESS]


async def test_the_same_content_later_is_told_as_such_and_makes_nothing_new(
    ingestor: Ingestor, workshop: Workshop
) -> None:
    await ingestor.handle(await land(workshop, "network_events/a.csv", rows(5), acequia_run_id=str(ONE)))
    raw = await keys(workshop, Layer.RAW)
    await told(workshop)
    again = await land(
        workshop, "elsewhere/conn-b.csv", rows(5), acequia_run_id=str(TWO), acequia_format="canonical_csv"
    )
    await ingestor.handle(again)
    assert await keys(workshop, Layer.RAW) == raw
    records = await told(workshop)
    second = next(r for r in records if r.run_id == TWO and r.kind is Kind.OUTCOME)
    assert (second.status, second.parameters["same_as"], second.outputs) == (Status.SAME_CONTENT, str(ONE), ())
    assert outcomes(records) == {ONE: Status.SUCCESS, TWO: Status.SAME_CONTENT}


async def test_the_same_content_at_once_is_ingested_once_and_both_runs_are_told(
    ingestor: Ingestor, workshop: Workshop
) -> None:
    other = Ingestor(workshop, IngestorSettings(rows_per_part=3), load_formats())
    await other.start()
    first = await land(workshop, "network_events/a.csv", rows(12), acequia_run_id=str(ONE))
    second = await land(workshop, "network_events/b.csv", rows(12), acequia_run_id=str(TWO))
    assert list(await asyncio.gather(ingestor.handle(first), other.handle(second))) == [Ack(), Ack()]
    found = outcomes(await told(workshop))
    assert Counter(found.values()) == {Status.SUCCESS: 1, Status.SAME_CONTENT: 1}
    stems = {key.rpartition("/")[2].rpartition("_")[0] for key in await keys(workshop, Layer.RAW)}
    assert len(stems) == 1
    # whoever came first pinned how many rows a part has, for both
    assert len(await keys(workshop, Layer.RAW)) == (3 if found[ONE] is Status.SUCCESS else 4)


@pytest.mark.parametrize("step", ["ingestor.after_claim", "ingestor.after_process", "ingestor.after_part"])
async def test_who_comes_with_the_same_content_finishes_what_its_owner_left_though_the_owners_file_is_gone(
    ingestor: Ingestor, workshop: Workshop, step: str, tmp_path: Path
) -> None:
    first = await land(workshop, "network_events/a.csv", rows(10), acequia_run_id=str(ONE))
    cut_off_at(workshop, step)
    assert isinstance(await ingestor.handle(first), Retry)
    await workshop.store.remove(Layer.LANDING, "network_events/a.csv")
    second = await land(workshop, "network_events/b.csv", rows(10), acequia_run_id=str(TWO))
    assert await ingestor.handle(second) == Ack()
    assert [frame.height for frame in await parts(workshop, tmp_path)] == [4, 4, 2]
    records = await told(workshop)
    assert outcomes(records) == {ONE: Status.SUCCESS, TWO: Status.SAME_CONTENT}
    assert next(r for r in records if r.status is Status.SUCCESS).inputs[0].uri.endswith("/network_events/a.csv")
    done = [await document(workshop, Layer.LEDGER, key) for key in await keys(workshop, Layer.LEDGER, "done/")]
    assert {d["run_id"] for d in done} == {str(ONE), str(TWO)}
    assert {d["accepted"]["run_id"] for d in done} == {str(ONE), str(TWO)}
    # the owner's message comes again: its object is gone, but its outcome stands
    await ingestor.handle(first)
    assert outcomes(await told(workshop)) == {ONE: Status.SUCCESS}


@pytest.mark.parametrize(
    "step",
    [
        "ingestor.after_fetch",
        "ingestor.after_claim",
        "ingestor.after_process",
        "ingestor.after_part",
        "ingestor.after_store",
        "ingestor.after_audit",
    ],
)
async def test_a_file_cut_off_anywhere_ends_as_if_it_had_not_been(
    ingestor: Ingestor, workshop: Workshop, step: str, tmp_path: Path
) -> None:
    delivery = await land(workshop, "network_events/a.csv", rows(10), acequia_run_id=str(ONE))
    cut_off_at(workshop, step)
    assert isinstance(await ingestor.handle(delivery), Retry)
    assert await ingestor.handle(delivery) == Ack()
    assert [frame.height for frame in await parts(workshop, tmp_path)] == [4, 4, 2]
    assert outcomes(await told(workshop)) == {ONE: Status.SUCCESS}


async def test_a_changed_size_of_parts_does_not_change_what_was_claimed(
    ingestor: Ingestor, workshop: Workshop, tmp_path: Path
) -> None:
    delivery = await land(workshop, "network_events/a.csv", rows(10))
    cut_off_at(workshop, "ingestor.after_part")
    await ingestor.handle(delivery)
    other = Ingestor(workshop, IngestorSettings(rows_per_part=7), load_formats())
    await other.start()
    await other.handle(delivery)
    assert [frame.height for frame in await parts(workshop, tmp_path)] == [4, 4, 2]


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (gzip.compress(rows(500))[:-20], "truncated"),
        (b"", "empty"),
        (b"nobody knows what this is\n", "unknown_format"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 50, "unreadable"),
        (b"\x28\xb5\x2f\xfd" + b"\0" * 50, "truncated"),
        (rows(3, bad=3), "no_rows"),
        (rows(0), "no_rows"),
    ],
)
async def test_a_file_that_nobody_can_read_leaves_nothing_in_raw_and_its_reason_in_quarantine(
    ingestor: Ingestor, workshop: Workshop, data: bytes, rule: str
) -> None:
    delivery = await land(workshop, "network_events/bad.csv", data, acequia_run_id=str(ONE))
    assert await ingestor.handle(delivery) == Ack()
    assert await ingestor.handle(delivery) == Ack()
    assert await keys(workshop, Layer.RAW) == []
    (manifest,) = [k for k in await keys(workshop, Layer.QUARANTINE) if k.endswith(".rejected.json")]
    told_to_people = await document(workshop, Layer.QUARANTINE, manifest)
    assert (told_to_people["rule"], told_to_people["run_id"]) == (rule, str(ONE))
    records = await told(workshop)
    assert outcomes(records) == {ONE: Status.REJECTED}
    rejected = next(r for r in records if r.status is Status.REJECTED)
    assert rejected.rows_in == sum(rejected.rejected.values()) == (3 if data == rows(3, bad=3) else 0)


async def test_of_a_truncated_file_not_even_the_first_part_is_put(ingestor: Ingestor, workshop: Workshop) -> None:
    whole = gzip.compress(rows(20_000), mtime=0)
    await ingestor.handle(await land(workshop, "network_events/cut.csv.gz", whole[: len(whole) * 9 // 10]))
    assert await keys(workshop, Layer.RAW) == []


async def test_a_rejected_content_that_comes_again_is_told_with_what_became_of_it(
    ingestor: Ingestor, workshop: Workshop
) -> None:
    bad = rows(3, bad=3)
    await ingestor.handle(await land(workshop, "network_events/a.csv", bad, acequia_run_id=str(ONE)))
    await ingestor.handle(await land(workshop, "network_events/b.csv", bad, acequia_run_id=str(TWO)))
    records = await told(workshop)
    assert outcomes(records) == {ONE: Status.REJECTED, TWO: Status.SAME_CONTENT}
    assert (
        next(r for r in records if r.run_id == TWO and r.kind is Kind.OUTCOME).parameters["same_status"] == "REJECTED"
    )


async def test_a_file_that_was_replaced_before_it_was_read_is_told_as_superseded_and_commits_nothing(
    ingestor: Ingestor, workshop: Workshop
) -> None:
    first = await land(workshop, "network_events/a.csv", rows(3))
    second = await land(workshop, "network_events/a.csv", rows(4))
    await ingestor.handle(first)
    (record,) = await told(workshop)
    assert (record.kind, record.status) == (Kind.NOTE, Status.SUPERSEDED)
    assert await keys(workshop, Layer.LEDGER, "done/") == []
    await ingestor.handle(second)
    assert list(outcomes(await told(workshop)).values()) == [Status.SUCCESS]


async def test_a_file_that_is_gone_is_told_and_may_come_again(ingestor: Ingestor, workshop: Workshop) -> None:
    delivery = await land(workshop, "network_events/a.csv", rows(3))
    await workshop.store.remove(Layer.LANDING, "network_events/a.csv")
    assert await ingestor.handle(delivery) == Ack()
    (record,) = await told(workshop)
    assert (record.kind, record.status) == (Kind.NOTE, Status.GONE)
    await ingestor.handle(await land(workshop, "network_events/a.csv", rows(3)))
    assert list(outcomes(await told(workshop)).values()) == [Status.SUCCESS]


async def test_an_event_that_says_neither_size_nor_etag_is_enough(ingestor: Ingestor, workshop: Workshop) -> None:
    await land(workshop, "network_events/a.csv", rows(3))
    (info,) = [i async for i in workshop.store.list_objects(Layer.LANDING)]
    bare = delivery_of(info, etag="", size=None)
    await ingestor.handle(bare)
    await ingestor.handle(bare)
    await ingestor.handle(delivery_of(info))
    assert list(outcomes(await told(workshop)).values()) == [Status.SUCCESS]


@pytest.mark.parametrize(
    ("key", "metadata", "dataset"),
    [
        ("somewhere/file", {"acequia_dataset": "network_events"}, "network_events"),
        ("network_events/file", {}, "network_events"),
        ("somewhere/network_events-of-today.csv", {}, "network_events"),
        ("file", {}, "network_events"),
        ("network_events/file", {"acequia_dataset": "weather"}, "_unknown"),
    ],
)
async def test_what_a_file_is_is_said_by_metadata_folder_name_and_content_in_this_order(
    ingestor: Ingestor, workshop: Workshop, key: str, metadata: dict[str, str], dataset: str
) -> None:
    assert await ingestor.handle(await land(workshop, key, rows(3), **metadata)) == Ack()
    records = [r for r in await told(workshop) if r.kind is Kind.OUTCOME]
    assert [(r.dataset, r.status) for r in records] == [
        (dataset, Status.REJECTED if dataset == "_unknown" else Status.SUCCESS)
    ]


async def test_a_file_of_which_nobody_can_say_what_it_is_lies_in_quarantine(
    ingestor: Ingestor, workshop: Workshop
) -> None:
    await ingestor.handle(await land(workshop, "somewhere/notes.txt", b"buy milk\n"))
    (manifest,) = await keys(workshop, Layer.QUARANTINE)
    assert manifest.startswith("ingestor/_unknown/date=")
    assert (await document(workshop, Layer.QUARANTINE, manifest))["rule"] == "unknown_dataset"


@pytest.mark.parametrize("name", ["Zürich +1.csv", "日本.csv", "a b%20c.csv", "x" * 240 + ".csv"])
async def test_a_files_name_may_be_anything(ingestor: Ingestor, workshop: Workshop, name: str) -> None:
    assert await ingestor.handle(await land(workshop, f"network_events/{name}", rows(3))) == Ack()
    assert list(outcomes(await told(workshop)).values()) == [Status.SUCCESS]


async def test_a_trace_that_is_none_does_not_keep_a_file_from_being_ingested(
    ingestor: Ingestor, workshop: Workshop
) -> None:
    delivery = await land(workshop, "network_events/a.csv", rows(3), traceparent="x" * 1900)
    assert await ingestor.handle(delivery) == Ack()
    assert list(outcomes(await told(workshop)).values()) == [Status.SUCCESS]


@pytest.mark.parametrize("key", ["a//b.csv", "../b.csv", "/a.csv", "a/\0.csv"])
async def test_an_event_of_a_key_that_no_object_can_bear_is_told_and_forgotten(
    ingestor: Ingestor, workshop: Workshop, key: str
) -> None:
    await land(workshop, "network_events/a.csv", rows(3))
    (info,) = [i async for i in workshop.store.list_objects(Layer.LANDING)]
    assert await ingestor.handle(delivery_of(info, key=key)) == Ack()
    (record,) = await told(workshop)
    assert (record.kind, record.status) == (Kind.NOTE, Status.REJECTED)
    assert record.error is not None
    assert record.error.rule == "bad_key"


async def test_a_folders_marker_is_no_file(ingestor: Ingestor, workshop: Workshop) -> None:
    await land(workshop, "network_events/a.csv", rows(3))
    (info,) = [i async for i in workshop.store.list_objects(Layer.LANDING)]
    assert await ingestor.handle(delivery_of(info, key="network_events/", size=None)) == Ack()
    assert await told(workshop) == []


# commands


async def test_a_command_is_carried_out_and_removed(ingestor: Ingestor, workshop: Workshop, tmp_path: Path) -> None:
    run_id = uuid4()
    delivery = await order(workshop, run_id)
    assert await ingestor.handle(delivery) == Ack()
    assert [frame.height for frame in await parts(workshop, tmp_path)] == [4, 4, 2]
    assert await keys(workshop, Layer.LEDGER, "commands/") == []
    done = await document(workshop, Layer.LEDGER, f"done/{run_id}.json")
    assert done["command"]["run_id"] == str(run_id)
    assert outcomes(await told(workshop)) == {run_id: Status.SUCCESS}


async def test_a_command_delivered_twice_at_once_is_carried_out_once(ingestor: Ingestor, workshop: Workshop) -> None:
    run_id = uuid4()
    delivery = await order(workshop, run_id)
    assert list(await asyncio.gather(ingestor.handle(delivery), ingestor.handle(delivery))) == [Ack(), Ack()]
    assert len(await keys(workshop, Layer.RAW)) == 3
    assert outcomes(await told(workshop)) == {run_id: Status.SUCCESS}


@pytest.mark.parametrize(
    "step", ["ingestor.after_process", "ingestor.after_part", "ingestor.after_store", "ingestor.after_audit"]
)
async def test_a_command_cut_off_anywhere_ends_as_if_it_had_not_been(
    ingestor: Ingestor, workshop: Workshop, step: str
) -> None:
    run_id = uuid4()
    delivery = await order(workshop, run_id)
    cut_off_at(workshop, step)
    assert isinstance(await ingestor.handle(delivery), Retry)
    assert await keys(workshop, Layer.LEDGER, "commands/") == [command_key(run_id)]
    assert await ingestor.handle(delivery) == Ack()
    assert await keys(workshop, Layer.LEDGER, "commands/") == []
    assert len(await keys(workshop, Layer.RAW)) == 3
    assert outcomes(await told(workshop)) == {run_id: Status.SUCCESS}


SYNTHETIC = {"kind": "synthetic", "rows": 10}


@pytest.mark.parametrize(
    ("dataset", "source", "rule"),
    [
        ("weather", SYNTHETIC, "unknown_dataset"),
        ("accounts", SYNTHETIC, "no_such_source"),
        ("network_events", {**SYNTHETIC, "rows": 2 * 10**9}, "too_many_rows"),
        ("network_events", {**SYNTHETIC, "rows": "many"}, "malformed_command"),
        ("network_events", {"kind": "carrier_pigeon"}, "malformed_command"),
    ],
)
async def test_a_command_that_cannot_be_carried_out_is_rejected_and_removed(
    ingestor: Ingestor, workshop: Workshop, dataset: str, source: dict[str, Any], rule: str
) -> None:
    """As a schedule's may be, which nobody looked at before."""
    run_id = uuid4()
    asked = SourceRequest.model_validate(source)
    assert await ingestor.handle(await order(workshop, run_id, dataset=dataset, source=asked)) == Ack()
    assert outcomes(await told(workshop)) == {run_id: Status.REJECTED}
    assert await keys(workshop, Layer.LEDGER, "commands/") == []
    (manifest,) = await keys(workshop, Layer.QUARANTINE)
    assert (await document(workshop, Layer.QUARANTINE, manifest))["rule"] == rule


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b'{"run_id": "x"}'])
async def test_a_command_that_is_none_is_told_and_forgotten(
    ingestor: Ingestor, workshop: Workshop, body: bytes
) -> None:
    assert await ingestor.handle(Delivery("acequia.ingestor", Message(body, type="IngestionCommand"))) == Ack()
    (record,) = await told(workshop)
    assert record.error is not None
    assert (record.status, record.error.rule) == (Status.REJECTED, "malformed_command")


async def test_a_full_disk_is_no_fault_of_the_file(ingestor: Ingestor, workshop: Workshop) -> None:
    full: list[str] = []
    get = workshop.store.get

    async def no_room(layer: Layer, key: str, to: Path, **more: Any) -> Any:
        if not full:
            full.append(key)
            raise TransientFailure("no room", dependency="disk")
        return await get(layer, key, to, **more)

    workshop.store.get = no_room  # type: ignore[method-assign]
    delivery = await land(workshop, "network_events/a.csv", rows(3), acequia_run_id=str(ONE))
    assert isinstance(await ingestor.handle(delivery), Retry)
    assert await ingestor.handle(delivery) == Ack()
    records = await told(workshop)
    assert outcomes(records) == {ONE: Status.SUCCESS}
    assert [r.run_id for r in records if r.status is Status.FAILED] == [ONE]
