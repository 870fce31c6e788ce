import asyncio
import json
from uuid import UUID

import pytest

from acequia.events import IngestionCommand, ObjectCreated, SourceRequest, to_notification
from acequia.layers import Buckets, Layer, command_key, dead_key, landing_done_id, stage_key
from acequia.ports import Ack, Delivery, HandBack, Message
from acequia.runner import Meters, foreign_stem
from acequia.topology import dead_queue
from acequia_auditor.database import open_database
from acequia_auditor.dead_letters import DeadLetterWriter
from acequia_auditor.write import store_records

BUCKETS = Buckets()
HEADERS = {
    "acequia-error": "KeyError: 'protocol'",
    "acequia-traceback": "Traceback (most recent call last): ...",
    "acequia-stage": "transformer",
    "acequia-attempt": "6",
    "acequia-died-at": "2025-12-20T13:00:00+00:00",
}


@pytest.fixture
def letters(database, store):
    return DeadLetterWriter(database, store, buckets=BUCKETS)


def died(stage: str, body: bytes, type: str = "", message_id: str = "m-1", **headers: str) -> Delivery:
    said = HEADERS | {"acequia-stage": stage} | headers
    return Delivery(dead_queue(stage), Message(body, type=type, message_id=message_id, headers=said))


def notification(item, layer: Layer, **metadata: str) -> bytes:
    bucket, _, key = item.uri.removeprefix("s3://").partition("/")
    event = ObjectCreated(layer=layer, bucket=bucket, key=key, etag=item.etag, size=item.bytes, metadata=metadata)
    return to_notification(event)


async def listed(client, **query):
    return (await client.get("/dead-letters", params=query)).raise_for_status().json()["dead_letters"]


async def shown(client, letter):
    return (await client.get(f"/dead-letters/{letter['id']}")).raise_for_status().json()


async def ledger(store, prefix="dead/"):
    return [info.key async for info in store.list_objects(Layer.LEDGER, prefix)]


def test_each_stage_that_can_have_dead_letters_is_counted_from_nought_on(database, store):
    """So that an alert sees the first one as a rise."""
    meters = Meters()
    DeadLetterWriter(database, store, buckets=BUCKETS, meters=meters)
    for stage in ("ingestor", "transformer", "trainer", "evaluator", "lakehouse", "auditor"):
        assert meters.registry.get_sample_value("acequia_dead_letters_total", {"stage": stage}) == 0, stage


async def test_a_dead_notification_lies_in_the_ledger_and_in_the_table_and_fails_its_run(
    database, store, letters, client, tale
):
    one = tale()
    await store_records(database, [one.accepted(), one.ingested(10)])
    document = json.dumps({"variants": ["v1-cccccc", "v1-aaaaaa"]}).encode()
    await store.put(Layer.LEDGER, stage_key("transformer"), document, metadata={}, content_type="application/json")
    body = notification(one.raw(), Layer.RAW, **{"acequia-run-id": str(one.run_id)})
    assert await letters.handle(died("transformer", body)) == Ack()

    key = dead_key("transformer", str(one.part(1)), "v1-aaaaaa")
    assert await ledger(store) == [key]
    stored = json.loads((await store.read(Layer.LEDGER, key))[0])
    assert stored["record"]["kind"] == "dead"
    assert stored["payload"] == body.decode()

    letter = await shown(client, *await listed(client))
    assert letter["uri"] == one.raw().uri
    assert (letter["stage"], letter["stem"], letter["variant"]) == ("transformer", str(one.part(1)), "v1-aaaaaa")
    assert (letter["reason"], letter["attempt"], letter["state"]) == ("KeyError: 'protocol'", 6, "open")
    assert (letter["payload"], letter["headers"]["acequia-stage"]) == (body.decode(), "transformer")
    assert letter["died_at"] == "2025-12-20T13:00:00Z"
    run = (await client.get(f"/runs/{one.run_id}")).json()
    assert (run["state"], run["error"]["message"]) == ("failed", "KeyError: 'protocol'")


async def test_the_same_dead_message_again_makes_nothing_new(store, letters, client, tale):
    message = died("transformer", notification(tale().raw(), Layer.RAW))
    assert [await letters.handle(message) for _ in range(3)] == [Ack()] * 3
    assert len(await listed(client)) == len(await ledger(store)) == 1


async def test_a_dead_command_is_named_by_its_run(store, letters, client, tale):
    run_id = UUID(int=7)
    command = IngestionCommand(
        run_id=run_id,
        dataset="network_events",
        source=SourceRequest(kind="synthetic"),
        accepted_at=tale().now,
        fingerprint="f",
    )
    body = command.model_dump_json().encode()
    assert await letters.handle(died("ingestor", body, "IngestionCommand")) == Ack()
    assert await ledger(store) == [command_key(run_id).replace("commands/", "dead/ingestor/")]
    (letter,) = await listed(client, stage="ingestor")
    assert (letter["run_id"], letter["dataset"]) == (str(run_id), "network_events")


async def test_a_dead_landing_object_is_named_by_what_its_outcome_would_have_been(store, letters, tale):
    item = tale().obj(Layer.LANDING, "some folder/ñandú +.log")
    await letters.handle(died("ingestor", notification(item, Layer.LANDING)))
    done_id = landing_done_id(BUCKETS.of(Layer.LANDING), "some folder/ñandú +.log", item.etag)
    assert await ledger(store) == [dead_key("ingestor", str(done_id))]


async def test_a_dead_object_that_somebody_else_named_has_the_stem_that_its_reader_gives_it(store, letters, tale):
    info = await store.put(Layer.RAW, "hand/made.parquet", b"PAR1", metadata={}, content_type="x/parquet")
    item = tale().obj(Layer.RAW, info.key).model_copy(update={"etag": info.etag})
    await letters.handle(died("transformer", notification(item, Layer.RAW)))
    assert await ledger(store) == [dead_key("transformer", str(foreign_stem(info, BUCKETS.of(Layer.RAW))))]


async def test_a_dead_plan_fails_the_runs_of_its_inputs(database, store, letters, client, tale, training):
    one, plan = tale(), training()
    await store_records(database, [one.accepted(), one.ingested(10), one.transformed()])
    body = {
        "stage": "trainer",
        "dataset": "network_events",
        "number": 1,
        "stem": str(plan.plan),
        "variant": "v1-aaaaaa",
        "run_id": str(plan.run_id),
        "parents": [str(one.run_id)],
        "inputs": [one.silver().uri],
        "error": "MemoryError",
    }
    assert await letters.handle(died("trainer", json.dumps(body).encode(), "Plan")) == Ack()
    assert await ledger(store) == [dead_key("trainer", str(plan.plan), "v1-aaaaaa")]
    assert (await client.get(f"/runs/{one.run_id}")).json()["state"] == "failed"
    assert (await listed(client))[0]["reason"] == "MemoryError"


@pytest.mark.parametrize(
    ("body", "type"),
    [
        (b"", ""),
        (b"\xff\x00 no text", ""),
        (b"{}", "Plan"),
        (b'{"stage": "trainer", "dataset": "x", "number": 1, "stem": "../../x", "run_id": "1"}', "Plan"),
        (b"[]", "IngestionCommand"),
        (b"null", "AuditRecord"),
        (b"text\0with NUL", "Whatever"),
    ],
)
async def test_garbage_is_kept_byte_for_byte(store, letters, client, body, type):
    import base64

    assert await letters.handle(died("trainer", body, type)) == Ack()
    letter = await shown(client, *await listed(client))
    kept = base64.b64decode(letter["payload"]) if letter["payload_is_base64"] else letter["payload"].encode()
    assert (kept, letter["type"]) == (body, type)
    assert len(await ledger(store)) == 1


@pytest.mark.parametrize(
    ("body", "type", "headers"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "Plan", {}),
        (b"[" * 100_000 + b"]" * 100_000, "", {}),
        (b'{"stem": "network_events_20251220_121209_plan-000001", "dataset": "x", "number": 1e999}', "Plan", {}),
        (b"plain", "Whatever", {"acequia-error": "KeyError: '\udc80'", "traceparent": "\ud800"}),
        (b"plain", "\udfff", {"\ud800": "x"}),
    ],
)
async def test_a_message_that_cannot_be_read_or_written_down_drains_all_the_same(
    store, letters, client, body, type, headers
):
    assert await letters.handle(died("trainer", body, type, **headers)) == Ack()
    letter = await shown(client, *await listed(client))
    assert letter["payload"] == body.decode()
    assert letter["reason"] == (
        "KeyError: '\N{REPLACEMENT CHARACTER}'" if headers.get("acequia-error") else "KeyError: 'protocol'"
    )
    assert len(await ledger(store)) == 1


async def test_a_dataset_that_is_no_text_does_not_hide_which_object_died(store, letters, client, tale):
    item = tale().obj(Layer.LANDING, "a.log")
    await letters.handle(died("ingestor", notification(item, Layer.LANDING, **{"acequia-dataset": "net\ud800"})))
    (letter,) = await listed(client)
    assert (letter["uri"], letter["dataset"]) == (item.uri, "net\N{REPLACEMENT CHARACTER}")


async def test_a_plan_with_an_input_that_is_no_text_drains_too(store, letters, client, training):
    plan = training()
    body = {
        "dataset": plan.dataset,
        "number": 1,
        "stem": str(plan.plan),
        "run_id": str(plan.run_id),
        "inputs": ["s3://x/\ud800"],
    }
    assert await letters.handle(died("trainer", json.dumps(body).encode(), "Plan")) == Ack()
    (letter,) = await listed(client)
    assert (letter["uri"], letter["reason"]) == (None, "KeyError: 'protocol'")


async def test_an_error_nobody_thought_of_does_not_keep_the_queue_from_draining(letters, client, tale, monkeypatch):
    from acequia_auditor import dead_letters

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(dead_letters, "parse_notification", fail)
        assert await letters.handle(died("transformer", notification(tale().raw(), Layer.RAW))) == Ack()
    assert (await listed(client))[0]["uri"] is None


async def test_a_letter_without_headers_still_tells_its_stage(store, letters, client, tale):
    message = Message(notification(tale().raw(), Layer.RAW))
    assert await letters.handle(Delivery(dead_queue("transformer"), message)) == Ack()
    (letter,) = await listed(client)
    assert letter["stage"] == "transformer"
    assert "delivery limit" in letter["reason"]


async def test_a_sound_audit_record_that_died_of_redeliveries_is_stored_after_all(store, letters, client, tale):
    record = tale().accepted()
    assert await letters.handle(died("auditor", record.model_dump_json().encode(), "AuditRecord")) == Ack()
    assert (await client.get(f"/runs/{record.run_id}")).json()["state"] == "accepted"
    assert (await listed(client), await ledger(store)) == ([], [])


async def test_an_audit_record_that_cannot_be_stored_is_kept_as_a_letter(store, letters, client, tale):
    record = tale().accepted().model_copy(update={"rows_in": 2**70})
    assert await letters.handle(died("auditor", record.model_dump_json().encode(), "AuditRecord")) == Ack()
    (letter,) = await listed(client)
    assert (letter["run_id"], letter["stem"]) == (str(record.run_id), str(record.event_id))


async def test_the_ledger_comes_first_and_the_table_when_postgresql_is_back(settings, store, tale, until):
    database = await open_database(settings.model_copy(update={"host": "127.0.0.1", "port": 1}))
    published = []

    async def publish(record):
        published.append(record.event_id)

    letters = DeadLetterWriter(database, store, publish, buckets=BUCKETS)
    handled = asyncio.create_task(letters.handle(died("transformer", notification(tale().raw(), Layer.RAW))))
    try:
        await until(lambda: published)
        assert len(await ledger(store)) == 1
        assert not handled.done()
        database._host, database._settings = settings.host, settings  # PostgreSQL comes
        assert await handled == Ack()
        assert len(set(published)) == 1
        async with database.transaction() as connection:
            assert await connection.fetchval("SELECT count(*) FROM acequia.dead_letters") == 1
    finally:
        await database.close()


async def test_a_letter_that_waits_is_handed_back_when_the_service_stops(settings, store, tale, until):
    database = await open_database(settings.model_copy(update={"host": "127.0.0.1", "port": 1}))
    letters = DeadLetterWriter(database, store, buckets=BUCKETS)
    handled = asyncio.create_task(letters.handle(died("transformer", notification(tale().raw(), Layer.RAW))))
    await asyncio.sleep(0)
    await letters.close()
    assert await handled == HandBack()
    await database.close()
