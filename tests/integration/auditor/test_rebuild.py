import json
from datetime import timedelta

from acequia.datasets import load_registry
from acequia.events import (
    IngestionCommand,
    ObjectCreated,
    SyntheticSource,
    fold_record,
    to_notification,
    utc_now,
)
from acequia.layers import Buckets, Layer, command_key, done_key, landing_done_id
from acequia.ports import Delivery, Message
from acequia.topology import dead_queue
from acequia_auditor.database import open_database
from acequia_auditor.dead_letters import DeadLetterWriter
from acequia_auditor.rebuild import catch_up, rebuild
from acequia_auditor.write import store_records

BUCKETS = Buckets()
REGISTRY = load_registry()
JSON = "application/json"


def place(uri: str) -> tuple[Layer, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return BUCKETS.layer(bucket), key


async def commit(store, record):
    """Write the commit object of `record`, as a stage does; the record as it is published after that."""
    layer, key = place(record.outputs[0].uri)
    if key.endswith(".parquet"):
        info = await store.create(layer, key, b"PAR1", metadata=fold_record(record), content_type="x/parquet")
    else:
        body = json.dumps({"record": record.model_dump(mode="json", exclude_defaults=True)}).encode()
        info = await store.create(layer, key, body, metadata={}, content_type=JSON)
    first = record.outputs[0].model_copy(
        update={"etag": info.etag, "bytes": info.bytes, "rows": record.rows_out if key.endswith(".parquet") else None}
    )
    return record.model_copy(update={"outputs": (first, *record.outputs[1:])})


def unwritten(record):
    """The commit object's own etag and size are not known before it is written."""
    first = record.outputs[0].model_copy(update={"etag": "", "bytes": None})
    return record.model_copy(update={"outputs": (first, *record.outputs[1:])})


async def end_ingestion(store, accepted, record):
    document = {
        "accepted": accepted and accepted.model_dump(mode="json", exclude_none=True),
        "record": record.model_dump(mode="json", exclude_none=True),
    }
    done_id = landing_done_id("x", str(record.run_id), str(record.event_id))
    await store.create(Layer.LEDGER, done_key(done_id), json.dumps(document).encode(), metadata={}, content_type=JSON)


async def live(database, store, tale, training):
    """Some runs, as they happen: objects into the store, records into the database."""
    one, bad, again, dead = tale(), tale(), tale(), tale()
    plan = training()
    accepted, ingested = one.accepted(file="conn.log"), one.ingested(10, 5, unparsable=1)
    await end_ingestion(store, accepted, ingested)
    silver = await commit(store, unwritten(one.transformed(1, duplicate=1)))
    refused = await commit(store, unwritten(one.part_rejected(2, 5)))
    inputs = silver.outputs
    model = await commit(store, unwritten(plan.trained(*inputs, parents=(one.run_id,))))
    evaluation = plan.evaluated()
    evaluation = await commit(store, unwritten(evaluation.model_copy(update={"inputs": (model.outputs[0],)})))
    bad_accepted, bad_rejected = bad.accepted(file="bad.log"), bad.source_rejected()
    await end_ingestion(store, bad_accepted, bad_rejected)
    again_accepted, same = again.accepted(file="copy.log"), again.same_content(one.run_id)
    await end_ingestion(store, again_accepted, same)
    dead_ingested = dead.ingested(3)
    await end_ingestion(store, None, dead_ingested)
    command = IngestionCommand(
        run_id=tale().run_id,
        dataset="network_events",
        source=SyntheticSource(kind="synthetic"),
        accepted_at=one.now,
        fingerprint="f",
    )
    await store.create(
        Layer.LEDGER,
        command_key(command.run_id),
        command.model_dump_json().encode(),
        metadata={},
        content_type=JSON,
    )
    open_run = tale(run_id=command.run_id, now=command.accepted_at - timedelta(seconds=1))
    records = [
        *(accepted, ingested, silver, refused, model, evaluation, bad_accepted, bad_rejected),
        *(again_accepted, same, dead_ingested, open_run.accepted(source=command.source.model_dump(mode="json"))),
    ]
    await store_records(database, records)
    layer, key = place(dead.raw().uri)
    event = ObjectCreated(layer=layer, bucket=BUCKETS.of(layer), key=key, etag=dead.raw().etag)
    letters = DeadLetterWriter(database, store, buckets=BUCKETS)
    await letters.handle(
        Delivery(dead_queue("transformer"), Message(to_notification(event), headers={"acequia-error": "x"}))
    )
    return one, plan, command


TABLES = {
    "audit_events": "event_id, kind, status, run_id, parents, stage, variant, dataset, stem, rows_in, rows_out, "
    "rows_duplicate, rows_rejected, attempt, started, finished, record - 'host' AS record",
    "event_objects": "event_id, role, n, uri, etag, layer, bytes, rows",
    "artifacts": "uri, etag, layer, dataset, run_id, stage, stem, variant, bytes, rows, sha256, created, event_id",
    "runs": "run_id, dataset, source, accepted_at",
    "deaths": "id, run_id, stage, stem, variant, dataset, reason, uri, type, payload, headers, died_at, state",
    "lineage_edges": "input_uri, input_etag, output_uri, output_etag, event_id",
}


async def everything(database):
    found = {}
    async with database.transaction() as connection:
        for table, columns in TABLES.items():
            rows = await connection.fetch(f"SELECT {columns} FROM acequia.{table}")
            found[table] = sorted(tuple(map(str, row)) for row in rows)
    return found


async def empty(database):
    async with database.transaction() as connection:
        await connection.execute("TRUNCATE acequia.audit_events, acequia.runs, acequia.dead_letters CASCADE")


async def test_an_empty_database_is_filled_from_the_store_with_the_same_rows(
    settings, database, store, client, tale, training
):
    one, _, command = await live(database, store, tale, training)
    before = await everything(database)
    assert all(before.values())
    runs_before = (await client.get("/runs")).json()
    await empty(database)
    steps = []
    counts = await rebuild(store, database, BUCKETS, REGISTRY, progress=lambda title, seen: steps.append((title, seen)))
    assert await everything(database) == before
    assert (await client.get("/runs")).json() == runs_before
    assert (await client.get(f"/runs/{one.run_id}")).json()["state"] == "done"
    assert (await client.get(f"/runs/{command.run_id}")).json()["state"] == "accepted"
    assert (counts.stored, counts.dead_letters, counts.unreadable) == (13, 1, 0)
    assert dict(steps) == {
        "done": 4,
        "dead letters": 1,
        "commands": 1,
        "silver": 1,
        "quarantine": 1,
        "models": 1,
        "evaluations": 1,
    }


async def test_a_rebuild_over_a_full_database_changes_nothing(database, store, tale, training):
    await live(database, store, tale, training)
    before = await everything(database)
    counts = await rebuild(store, database, BUCKETS, REGISTRY)
    assert counts.stored == 0
    assert await everything(database) == before


async def test_two_rebuilds_at_once_do_not_double(settings, database, store, tale, training):
    import asyncio

    await live(database, store, tale, training)
    before = await everything(database)
    await empty(database)
    other = await open_database(settings)
    try:
        await asyncio.gather(*(rebuild(store, d, BUCKETS, REGISTRY) for d in (database, other)))
    finally:
        await other.close()
    assert await everything(database) == before


async def test_catching_up_stores_what_a_lost_message_left_out(database, store, client, tale):
    one = tale(now=utc_now())
    await store_records(database, [one.accepted()])
    await end_ingestion(store, None, one.ingested(10))
    counts = await catch_up(store, database, BUCKETS, REGISTRY, window=timedelta(hours=1))
    assert counts.stored == 1
    assert (await client.get(f"/runs/{one.run_id}")).json()["rows_raw"] == 10
    again = await catch_up(store, database, BUCKETS, REGISTRY, window=timedelta(hours=1))
    assert again.stored == 0


async def test_catching_up_leaves_old_folders_alone(database, store, tale):
    old = tale()  # of 2025
    await commit(store, unwritten(old.transformed()))
    counts = await catch_up(store, database, BUCKETS, REGISTRY, window=timedelta(hours=1))
    assert counts.seen == 0


async def test_catching_up_waits_whether_a_young_command_is_withdrawn(database, store, tale, monkeypatch):
    command = IngestionCommand(
        run_id=tale().run_id,
        dataset="network_events",
        source=SyntheticSource(kind="synthetic"),
        accepted_at=utc_now(),
        fingerprint="f",
    )
    body = command.model_dump_json().encode()
    await store.create(Layer.LEDGER, command_key(command.run_id), body, metadata={}, content_type=JSON)
    assert (await catch_up(store, database, BUCKETS, REGISTRY)).stored == 0
    monkeypatch.setattr("acequia_auditor.rebuild.WITHDRAWN_WITHIN", timedelta(0))
    assert (await catch_up(store, database, BUCKETS, REGISTRY)).stored == 1


async def test_objects_that_carry_no_record_are_counted_and_passed_by(database, store, tale):
    one = tale()
    await store.create(Layer.LEDGER, "done/x.json", b"no json", metadata={}, content_type=JSON)
    await store.create(Layer.LEDGER, "dead/trainer/x.json", b"{}", metadata={}, content_type=JSON)
    await store.create(Layer.LEDGER, "commands/x.json", b"{}", metadata={}, content_type=JSON)
    await store.create(Layer.SILVER, "somebody/else.parquet", b"PAR1", metadata={}, content_type=JSON)
    await store.create(
        Layer.QUARANTINE, "ingestor/x/date=2025-12-20/x.rejected.json", b"{}", metadata={}, content_type=JSON
    )
    await end_ingestion(store, one.accepted(), one.ingested(1).model_copy(update={"rows_in": 2**70}))
    good = tale()
    await end_ingestion(store, good.accepted(), good.ingested(1))
    counts = await rebuild(store, database, BUCKETS, REGISTRY)
    assert (counts.unreadable, counts.stored) == (5, 3)
