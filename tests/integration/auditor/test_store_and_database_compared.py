"""`GET /audit/compare`: each commit object has its record, and each record its commit object."""

import json
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from acequia.adapters.directory import DirectoryStore
from acequia.datasets import load_registry
from acequia.errors import TransientFailure
from acequia.events import Kind, ObjectCreated, event_id, fold_record, to_notification
from acequia.layers import Layer, done_key, landing_done_id
from acequia.ports import Delivery, Message
from acequia.runner import Workshop
from acequia.topology import dead_queue
from acequia_auditor import compare
from acequia_auditor.act import Desk, Why, WhyDiscarded
from acequia_auditor.compare import compare_with_store
from acequia_auditor.dead_letters import DeadLetterWriter
from acequia_auditor.rebuild import rebuild
from acequia_auditor.service import AuditorService
from acequia_auditor.settings import AuditorSettings
from acequia_auditor.write import store_records


@pytest.fixture
def compared(database, store, buckets):
    async def run():
        *progress, last = [line async for line in compare_with_store(store, database, buckets)]
        assert all(set(line["progress"]) == {"layer", "seen"} for line in progress)
        return last["result"]

    return run


@pytest.fixture
def place(buckets):
    def of(uri):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return buckets.layer(bucket), key

    return of


@pytest.fixture
async def finished(database, store, tale, training, place):
    """Runs that went through, as their objects in the store and their records in the database."""

    async def commit(record):
        layer, key = place(record.outputs[0].uri)
        first = record.outputs[0].model_copy(update={"etag": "", "bytes": None})
        record = record.model_copy(update={"outputs": (first, *record.outputs[1:])})
        if key.endswith(".parquet"):
            info = await store.create(layer, key, b"PAR1", metadata=fold_record(record), content_type="x/y")
        else:
            body = json.dumps({"record": record.model_dump(mode="json")}).encode()
            info = await store.create(layer, key, body, metadata={}, content_type="application/json")
        first = first.model_copy(update={"etag": info.etag, "bytes": info.bytes})
        return record.model_copy(update={"outputs": (first, *record.outputs[1:])})

    async def end(record, done_id):
        body = json.dumps({"record": record.model_dump(mode="json")}).encode()
        await store.create(Layer.LEDGER, done_key(done_id), body, metadata={}, content_type="application/json")
        return record

    drawn, dropped, plan = tale(), tale(), training()
    of_command = drawn.ingested(10, 5)
    assert of_command.event_id == event_id(Kind.OUTCOME, "ingestor", "v1-aaaaaa", str(drawn.run_id))
    named = event_id(Kind.OUTCOME, "ingestor", "", str(drawn.run_id))
    of_command = of_command.model_copy(update={"event_id": named})
    landing = dropped.obj(Layer.LANDING, "network_events/a b.log")
    of_file = dropped.ingested(3, inputs=(landing,))
    bucket, _, key = landing.uri.removeprefix("s3://").partition("/")
    silver = await commit(drawn.transformed(1))
    model = await commit(plan.trained(*silver.outputs))
    records = [
        drawn.accepted(),
        await end(of_command, drawn.run_id),
        await end(of_file, landing_done_id(bucket, key, landing.etag)),
        silver,
        await commit(drawn.part_rejected(2, 5)),
        model,
        await commit(plan.evaluated().model_copy(update={"inputs": model.outputs[:1]})),
    ]
    await store_records(database, records)
    return records


async def forget(database, record):
    """As somebody who owns the database could."""
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM acequia.artifacts WHERE event_id = $1", record.event_id)
        await connection.execute("DELETE FROM acequia.audit_events WHERE event_id = $1", record.event_id)


async def test_what_went_through_is_told_alike_by_both(finished, compared):
    result = await compared()
    assert (result["ok"], result["commit_objects"], result["counts"]["records"]) == (True, 6, 6)
    assert (result["missing_in_database"], result["missing_in_store"]) == ([], [])


@pytest.mark.parametrize("n", range(1, 7))
async def test_a_commit_object_whose_record_is_missing_is_named_and_a_rebuild_brings_it(
    database, store, buckets, finished, compared, n
):
    await forget(database, finished[n])
    result = await compared()
    assert (result["ok"], result["missing_in_store"]) == (False, [])
    (uri,) = result["missing_in_database"]
    if n > 2:
        assert uri == finished[n].outputs[0].uri
    else:
        assert "/done/" in uri
    await rebuild(store, database, buckets, load_registry())
    assert (await compared())["ok"]


@pytest.mark.parametrize("n", range(1, 7))
async def test_a_record_whose_commit_object_is_missing_is_named(store, buckets, finished, compared, place, n):
    done = [i.key async for i in store.list_objects(Layer.LEDGER, "done/")]
    of_command = done_key(finished[1].run_id)
    of_file = next(key for key in done if key != of_command)
    layer, key = {1: (Layer.LEDGER, of_command), 2: (Layer.LEDGER, of_file)}.get(n) or place(finished[n].outputs[0].uri)
    await store.remove(layer, key)
    result = await compared()
    assert (result["ok"], result["missing_in_database"]) == (False, [])
    assert result["missing_in_store"] == [buckets.uri(layer, key)]


async def test_an_object_that_was_overwritten_is_missed_on_both_sides(store, finished, compared, place):
    uri = finished[3].outputs[0].uri
    await store.put(*place(uri), b"other", metadata={}, content_type="x/y")
    result = await compared()
    assert (result["missing_in_database"], result["missing_in_store"]) == ([uri], [uri])


async def test_a_record_that_comes_while_it_is_compared_is_not_missed(database, finished, compared, monkeypatch):
    record = finished[3]
    await forget(database, record)
    real = compare._Comparing._known
    asked = []

    async def known(self, source, batch):
        found = await real(self, source, batch)
        if source is compare.SILVER and not asked:
            asked.append(source)
            await store_records(database, [record])
        return found

    monkeypatch.setattr(compare._Comparing, "_known", known)
    assert (await compared())["missing_in_database"] == []


@pytest.mark.parametrize("in_memory", [60, 10_000])
async def test_however_many_records_come_while_it_is_compared_none_is_missed(
    database, store, compared, tale, monkeypatch, in_memory
):
    monkeypatch.setattr(compare, "BATCH", 50)
    monkeypatch.setattr(compare, "SUSPECTS_MOST", in_memory, raising=False)
    records = [tale().ingested(1) for _ in range(130)]
    for n, record in enumerate(records):
        body = json.dumps({"record": record.model_dump(mode="json")}).encode()
        await store.create(Layer.LEDGER, done_key(UUID(int=n)), body, metadata={}, content_type="application/json")
    real = compare._Comparing._known
    asked = set()

    async def known(self, source, batch):
        found = await real(self, source, batch)
        if not asked & (keys := {info.key for info in batch}):  # as if each came just after it was looked for
            asked.update(keys)
            return {}
        return found

    await store_records(database, records[:-1])
    monkeypatch.setattr(compare._Comparing, "_known", known)
    result = await compared()
    assert result["counts"]["missing_in_database"] == len(result["missing_in_database"]) == 1


async def test_many_are_counted_and_a_hundred_named(database, store, compared, tale, monkeypatch):
    monkeypatch.setattr(compare, "BATCH", 50)
    for n in range(120):
        body = json.dumps({"record": tale().ingested(1).model_dump(mode="json")}).encode()
        key = done_key(UUID(int=n))
        await store.create(Layer.LEDGER, key, body, metadata={}, content_type="application/json")
    await store_records(database, [tale().ingested(1) for _ in range(130)])
    result = await compared()
    assert (len(result["missing_in_database"]), len(result["missing_in_store"])) == (100, 100)
    assert (result["counts"]["missing_in_database"], result["counts"]["missing_in_store"]) == (120, 130)


async def test_dead_letters_are_compared_with_what_was_done_with_them(database, store, bus, buckets, compared, tale):
    letters = DeadLetterWriter(database, store, buckets=buckets)
    for _ in range(3):
        raw = tale().raw()
        bucket, _, key = raw.uri.removeprefix("s3://").partition("/")
        event = ObjectCreated(layer=Layer.RAW, bucket=bucket, key=key, etag=raw.etag)
        await letters.handle(Delivery(dead_queue("transformer"), Message(to_notification(event))))
    desk = Desk(database, store, bus, buckets)
    ids = [letter.id for letter in (await desk.page()).dead_letters]
    await desk.replay(ids[0], Why())
    await desk.discard(ids[1], WhyDiscarded(reason="old"))
    result = await compared()
    assert (result["ok"], result["counts"]["dead_letters"]) == (True, 2)
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM acequia.dead_letter_acts WHERE dead_letter = $1", ids[1])
    assert len((await compared())["missing_in_database"]) == 1
    keys = [i.key async for i in store.list_objects(Layer.LEDGER, "dead/")]
    for key in keys:
        await store.remove(Layer.LEDGER, key)
    result = await compared()
    assert sorted(result["missing_in_store"]) == sorted(buckets.uri(Layer.LEDGER, key) for key in keys)


async def test_a_letter_whose_replay_was_cut_off_before_it_was_removed_is_not_missed(
    database, store, bus, buckets, compared, tale, monkeypatch
):
    raw = tale().raw()
    bucket, _, key = raw.uri.removeprefix("s3://").partition("/")
    event = ObjectCreated(layer=Layer.RAW, bucket=bucket, key=key, etag=raw.etag)
    letters = DeadLetterWriter(database, store, buckets=buckets)
    await letters.handle(Delivery(dead_queue("transformer"), Message(to_notification(event))))
    desk = Desk(database, store, bus, buckets)
    (letter,) = (await desk.page()).dead_letters

    async def cut_off(*_):
        raise TransientFailure("gone in the middle", dependency="minio", away=True)

    monkeypatch.setattr(DirectoryStore, "remove", cut_off)
    with pytest.raises(TransientFailure):
        await desk.replay(letter.id, Why())
    result = await compared()
    assert (result["ok"], result["counts"]["dead_letters"]) == (True, 1)


async def test_a_canary_and_a_strangers_manifest_are_no_commit_objects(store, compared):
    for layer, key in (
        (Layer.SILVER, "_doctor/x.parquet"),
        (Layer.QUARANTINE, "ingestor/x/date=2025-12-20/x.rejected.json"),
        (Layer.EVAL, "x/report.html"),
    ):
        await store.put(layer, key, b"{}", metadata={}, content_type="x/y")
    result = await compared()
    assert (result["ok"], result["commit_objects"]) == (True, 0)


async def test_comparing_over_http_ends_with_the_result(database, store, bus, buckets, finished):
    service = AuditorService(Workshop(store, bus, buckets, load_registry()), database, AuditorSettings())
    app = FastAPI()
    for router in service.routers:
        app.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://auditor") as client:
        answer = await client.get("/audit/compare")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert {"layer": "silver", "seen": 1} in [line.get("progress") for line in lines]
    assert lines[-1]["result"]["ok"]
