"""List, show, replay and discard over HTTP, on the real database, with a bus and a store that are really there."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.datasets import load_registry
from acequia.errors import TransientFailure
from acequia.events import ObjectCreated, parse_notification, to_notification
from acequia.layers import Buckets, Layer, dead_key
from acequia.ports import Ack, Delivery, Message
from acequia.runner import HEADER_STALE
from acequia.topology import AUDIT_QUEUE, dead_queue, replay_queue
from acequia_auditor.dead_letters import DeadLetterWriter
from acequia_auditor.rebuild import catch_up, rebuild
from acequia_auditor.verify import verify_chain
from acequia_auditor.write import store_records

DIED = datetime(2025, 12, 20, 13, 0, tzinfo=UTC)
PASSED_ON = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture
def letters(database, store, buckets):
    return DeadLetterWriter(database, store, buckets=buckets)


@pytest.fixture
def queued(bus):
    """What lies in a queue, taken from it."""

    async def take(queue):
        found = []

        async def handle(delivery):
            found.append(delivery.message)
            return Ack()

        expected = await bus.depth(queue)
        subscription = await bus.consume(queue, handle, concurrency=100)
        while len(found) < expected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await subscription.close(grace=1)
        return found

    return take


def notification(item, layer, **metadata):
    bucket, _, key = item.uri.removeprefix("s3://").partition("/")
    return to_notification(
        ObjectCreated(layer=layer, bucket=bucket, key=key, etag=item.etag, size=item.bytes, metadata=metadata)
    )


def died(stage, body, type="", message_id="m-1", at=DIED, **headers):
    said = {
        "acequia-error": "KeyError: 'protocol'",
        "acequia-traceback": "Traceback ...",
        "acequia-stage": stage,
        "acequia-attempt": "6",
        "acequia-died-at": at.isoformat(),
    }
    return Delivery(dead_queue(stage), Message(body, type=type, message_id=message_id, headers=said | headers))


async def dead_part(letters, one, n=1, **more):
    """A RAW object of the run `one` dies at the transformer."""
    body = notification(one.raw(n), Layer.RAW, **{"acequia-run-id": str(one.run_id)})
    await letters.handle(died("transformer", body, **more))


async def listed(client, **query):
    return (await client.get("/dead-letters", params=query)).raise_for_status().json()["dead_letters"]


async def only(client, **query):
    (letter,) = await listed(client, **query)
    return letter


async def in_ledger(store):
    return {
        info.key: json.loads((await store.read(Layer.LEDGER, info.key))[0])["state"]
        async for info in store.list_objects(Layer.LEDGER, "dead/")
    }


async def ask(database, statement, *arguments):
    async with database.transaction() as connection:
        return await connection.fetch(statement, *arguments)


# list and show


async def test_the_list_is_filtered_by_stage_dataset_state_and_age(client, letters, tale):
    now = datetime.now(UTC)
    await dead_part(letters, tale(), at=now - timedelta(hours=3))
    await dead_part(letters, tale(dataset="other"), at=now - timedelta(hours=2))
    await letters.handle(died("trainer", b"garbage", at=now - timedelta(hours=1)))
    assert [letter["stage"] for letter in await listed(client)] == ["trainer", "transformer", "transformer"]
    assert len(await listed(client, stage="transformer")) == 2
    assert (await only(client, dataset="other"))["stage"] == "transformer"
    assert len(await listed(client, older_than=5400)) == 2
    assert (await only(client, newer_than=5400))["stage"] == "trainer"
    assert (await only(client, older_than=5400, newer_than=9000))["dataset"] == "other"
    letter = (await listed(client))[0]
    assert 3600 <= letter["age"] < 7200
    assert await listed(client, state="discarded") == []
    await client.post(f"/dead-letters/{letter['id']}/discard", json={"reason": "garbage"})
    assert len(await listed(client)) == 2
    assert len(await listed(client, state="all")) == 3
    assert (await only(client, state="discarded"))["id"] == letter["id"]


async def test_pages_tell_each_letter_once_also_those_of_one_moment(client, letters, tale):
    for n in range(7):
        await dead_part(letters, tale(), at=DIED + timedelta(seconds=n // 4))
    seen, before = [], None
    while True:
        page = (await client.get("/dead-letters", params={"limit": 2} | ({"before": before} if before else {}))).json()
        seen += [letter["id"] for letter in page["dead_letters"]]
        if (before := page["next"]) is None:
            break
    assert len(seen) == len(set(seen)) == 7
    assert len(await listed(client, before=(DIED + timedelta(seconds=1)).isoformat())) == 4


@pytest.mark.parametrize(
    "query",
    [{"before": "yesterday"}, {"before": "2025-12-20T13:00:00"}, {"state": "lost"}, {"limit": 0}, {"older_than": -1}],
)
async def test_a_question_that_makes_no_sense_is_answered_with_a_problem(client, query):
    answer = await client.get("/dead-letters", params=query)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_everything_about_one_is_shown(client, letters, tale):
    one = tale()
    await dead_part(letters, one, **PASSED_ON)
    letter = await only(client)
    assert "payload" not in letter
    shown = (await client.get(f"/dead-letters/{letter['id']}")).json()
    assert parse_notification(shown["payload"].encode(), Buckets()).uri == shown["uri"] == one.raw().uri
    assert shown["headers"]["traceparent"] == PASSED_ON["traceparent"]
    assert (shown["traceback"], shown["message_id"], shown["attempt"]) == ("Traceback ...", "m-1", 6)
    assert (shown["state"], shown["acts"]) == ("open", [])


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/replay"), ("POST", "/discard")])
async def test_an_unknown_letter_is_a_404_that_names_it(client, method, path):
    id = uuid4()
    answer = await client.request(
        method, f"/dead-letters/{id}{path}", json={"reason": "x"} if method == "POST" else None
    )
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert str(id) in answer.json()["detail"]


# replay


async def test_a_replayed_message_is_what_it_was_before_it_died_on_the_queue_of_low_priority(
    client, letters, store, queued, database, tale
):
    one = tale()
    await store_records(database, [one.accepted(), one.ingested(10)])
    body = notification(one.raw(), Layer.RAW, **{"acequia-run-id": str(one.run_id)})
    await letters.handle(died("transformer", body, **PASSED_ON))
    assert (await client.get(f"/runs/{one.run_id}")).json()["state"] == "failed"
    letter = await only(client)

    answer = await client.post(f"/dead-letters/{letter['id']}/replay", json={"reason": "mended", "by": "ana"})

    assert (answer.status_code, answer.json()["state"], answer.json()["sent"]) == (200, "replayed", 1)
    assert await queued(replay_queue("transformer")) == [Message(body, message_id="m-1", headers=PASSED_ON)]
    assert await in_ledger(store) == {}
    assert await listed(client) == []
    shown = (await client.get(f"/dead-letters/{letter['id']}")).json()
    assert [(act["act"], act["reason"], act["by"]) for act in shown["acts"]] == [("replayed", "mended", "ana")]
    run = (await client.get(f"/runs/{one.run_id}")).json()
    assert run["state"] == "running"  # it is not dead any more
    (note,) = run["stages"]["auditor"]
    assert (note["status"], note["parameters"]["reason"]) == ("REPLAYED", "mended")
    *_, last = [line async for line in verify_chain(database, store)]
    assert last["result"]["ok"]


async def test_replaying_again_sends_nothing_and_says_the_same(client, letters, bus, database, tale):
    await dead_part(letters, tale())
    id = (await only(client))["id"]
    for sent in (1, 0, 0):
        answer = (await client.post(f"/dead-letters/{id}/replay")).json()
        assert (answer["state"], answer["sent"]) == ("replayed", sent)
    assert await bus.depth(replay_queue("transformer")) == 1
    assert len(await ask(database, "SELECT FROM acequia.dead_letter_acts")) == 1
    assert len(await ask(database, "SELECT FROM acequia.audit_events WHERE status = 'REPLAYED'")) == 1


async def test_what_dies_again_after_its_replay_is_open_again_and_can_be_replayed_again(
    client, letters, store, bus, tale
):
    one = tale()
    await dead_part(letters, one)
    id = (await only(client))["id"]
    await client.post(f"/dead-letters/{id}/replay")
    await dead_part(letters, one, at=DIED + timedelta(hours=1), **{"acequia-error": "again"})
    letter = await only(client)
    assert (letter["id"], letter["reason"], letter["state"]) == (id, "again", "open")
    assert list((await in_ledger(store)).values()) == ["open"]
    assert (await client.post(f"/dead-letters/{id}/replay")).json()["sent"] == 1
    assert await bus.depth(replay_queue("transformer")) == 2
    assert [a["act"] for a in (await client.get(f"/dead-letters/{id}")).json()["acts"]] == ["replayed", "replayed"]


@pytest.mark.parametrize("body", [b"\xff\x00 no text", b"text\0with NUL", b"", b"plain"])
async def test_a_payload_of_any_bytes_is_replayed_byte_for_byte(client, letters, queued, body):
    await letters.handle(died("transformer", body, "Whatever"))
    id = (await only(client))["id"]
    await client.post(f"/dead-letters/{id}/replay")
    (message,) = await queued(replay_queue("transformer"))
    assert (message.body, message.type) == (body, "Whatever")


async def test_a_dead_audit_record_goes_back_to_the_audit_queue(client, letters, queued, tale):
    record = tale().accepted().model_copy(update={"rows_in": 2**70})
    body = record.model_dump_json().encode()
    await letters.handle(died("auditor", body, "AuditRecord"))
    await client.post(f"/dead-letters/{(await only(client))['id']}/replay")
    assert [message.body for message in await queued(AUDIT_QUEUE)] == [body]


def plan_body(plan, *inputs):
    return json.dumps(
        {
            "stage": "trainer",
            "dataset": plan.dataset,
            "number": 1,
            "stem": str(plan.plan),
            "variant": "v1-aaaaaa",
            "run_id": str(plan.run_id),
            "parents": [],
            "inputs": [item.uri for item in inputs],
            "error": "MemoryError",
        }
    ).encode()


async def test_the_inputs_of_a_dead_plan_are_told_anew_and_the_plan_stays_dead(
    client, letters, store, queued, buckets, tale, training
):
    one, plan = tale(), training()
    stored = []
    for n in (1, 2):
        key = one.silver(n).uri.partition(buckets.of(Layer.SILVER) + "/")[2]
        stored.append(await store.put(Layer.SILVER, key, b"PAR1", metadata={"acequia-rows": "3"}, content_type="x/y"))
    body = plan_body(plan, one.silver(1), one.silver(2), one.silver(3))
    await letters.handle(died("trainer", body, "Plan"))
    letter = await only(client)
    id = letter["id"]

    answer = (await client.post(f"/dead-letters/{id}/replay")).json()

    assert (answer["sent"], answer["gone"]) == (2, [one.silver(3).uri])
    messages = await queued(replay_queue("trainer"))
    asked = [datetime.fromisoformat(message.headers[HEADER_STALE]) for message in messages]
    assert asked == [datetime.fromisoformat(letter["died_at"])] * 2  # a plan made since then does
    events = sorted((parse_notification(m.body, buckets) for m in messages), key=lambda event: event.key)
    assert [(e.uri, e.etag, e.metadata) for e in events] == [(i.uri, i.etag, {"acequia-rows": "3"}) for i in stored]
    assert await in_ledger(store) == {dead_key("trainer", str(plan.plan), "v1-aaaaaa"): "replayed"}
    assert (await client.post(f"/dead-letters/{id}/replay")).json()["sent"] == 0


async def test_a_plan_that_cannot_be_read_is_not_replayed_and_can_be_discarded(client, letters, store):
    await letters.handle(died("trainer", b"{}", "Plan"))
    id = (await only(client))["id"]
    answer = await client.post(f"/dead-letters/{id}/replay")
    assert (answer.status_code, "discard it" in answer.json()["detail"]) == (422, True)
    assert (await only(client))["state"] == "open"
    assert (await client.post(f"/dead-letters/{id}/discard", json={"reason": "no plan"})).status_code == 200


# discard


async def test_a_discarded_letter_stays_dead_with_its_reason(client, letters, store, bus, database, tale):
    one = tale()
    await store_records(database, [one.accepted(), one.ingested(10)])
    await dead_part(letters, one)
    id = (await only(client))["id"]
    for _ in range(2):
        answer = await client.post(f"/dead-letters/{id}/discard", json={"reason": "old\0 sensor"})
        assert (answer.status_code, answer.json()["state"]) == (200, "discarded")
    assert await bus.depth(replay_queue("transformer")) == 0
    assert list((await in_ledger(store)).values()) == ["discarded"]
    run = (await client.get(f"/runs/{one.run_id}")).json()
    assert run["state"] == "failed"
    (note,) = run["stages"]["auditor"]
    assert (note["status"], note["parameters"]["reason"]) == ("DISCARDED", "old\N{REPLACEMENT CHARACTER} sensor")
    assert [a["act"] for a in (await client.get(f"/dead-letters/{id}")).json()["acts"]] == ["discarded"]


async def test_a_discarded_letter_can_be_replayed_but_a_replayed_one_not_discarded(client, letters, bus, tale):
    await dead_part(letters, tale())
    id = (await only(client))["id"]
    await client.post(f"/dead-letters/{id}/discard", json={"reason": "old"})
    assert (await client.post(f"/dead-letters/{id}/replay")).json()["sent"] == 1
    assert (await only(client, state="all"))["state"] == "replayed"
    answer = await client.post(f"/dead-letters/{id}/discard", json={"reason": "old"})
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")


@pytest.mark.parametrize("body", [None, {}, {"reason": ""}, {"reason": "x" * 3000}, {"reason": "x", "more": 1}])
async def test_a_discard_needs_a_reason(client, letters, tale, body):
    await dead_part(letters, tale())
    answer = await client.post(f"/dead-letters/{(await only(client))['id']}/discard", json=body)
    assert answer.status_code == 422
    assert (await only(client))["state"] == "open"


async def test_the_same_dead_message_again_does_not_open_what_was_discarded(client, letters, store, tale):
    one = tale()
    await dead_part(letters, one)
    id = (await only(client))["id"]
    await client.post(f"/dead-letters/{id}/discard", json={"reason": "old"})
    await dead_part(letters, one)
    assert (await only(client, state="all"))["state"] == "discarded"
    assert list((await in_ledger(store)).values()) == ["discarded"]


async def test_what_was_discarded_is_discarded_in_a_rebuilt_database(client, letters, store, database, buckets, tale):
    await dead_part(letters, tale())
    await client.post(f"/dead-letters/{(await only(client))['id']}/discard", json={"reason": "old", "by": "ana"})
    async with database.transaction() as connection:
        await connection.execute("DROP SCHEMA acequia CASCADE")
    await database.close()
    await rebuild(store, database, buckets, load_registry())
    letter = await only(client, state="discarded")
    (act,) = (await client.get(f"/dead-letters/{letter['id']}")).json()["acts"]
    assert (act["reason"], act["by"]) == ("old", "ana")


# cut off in the middle

CUTS = {
    "marked": (DirectoryStore, "replace"),
    "sent": (SqliteBus, "publish"),
    "removed": (DirectoryStore, "remove"),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", CUTS)
async def test_a_replay_that_was_cut_off_is_completed_by_another(
    client, letters, store, bus, database, buckets, tale, monkeypatch, step, when
):
    await dead_part(letters, tale())
    id = (await only(client))["id"]
    owner, name = CUTS[step]
    real = getattr(owner, name)

    async def cut_off(*arguments, **more):
        if when == "after":
            await real(*arguments, **more)
        raise TransientFailure("gone in the middle", dependency="minio", away=True)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, cut_off)
        answer = await client.post(f"/dead-letters/{id}/replay", json={"reason": "first"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    await catch_up(store, database, buckets, load_registry())
    assert (await only(client, state="all"))["state"] == ("replayed" if step == "removed" else "open")
    answer = await client.post(f"/dead-letters/{id}/replay", json={"reason": "second"})
    assert (answer.status_code, answer.json()["state"]) == (200, "replayed")
    assert await bus.depth(replay_queue("transformer")) >= 1
    assert await in_ledger(store) == {}
    acts = await ask(database, "SELECT act, reason FROM acequia.dead_letter_acts")
    assert [tuple(act) for act in acts] == [("replayed", "first" if step == "removed" else "second")]
    assert len(await ask(database, "SELECT FROM acequia.audit_events WHERE status = 'REPLAYED'")) == 1


@pytest.fixture
async def dead_plan(letters, store, buckets, tale, training):
    """A plan of one input that died."""
    one, plan = tale(), training()
    key = one.silver().uri.partition(buckets.of(Layer.SILVER) + "/")[2]
    await store.put(Layer.SILVER, key, b"PAR1", metadata={}, content_type="x/y")
    await letters.handle(died("trainer", plan_body(plan, one.silver()), "Plan"))
    return plan


async def test_a_plans_replay_that_was_cut_off_before_it_was_sent_is_not_taken_for_done(
    client, store, bus, database, buckets, dead_plan, monkeypatch
):
    id = (await only(client))["id"]

    async def cut_off(*_):
        raise TransientFailure("gone in the middle", dependency="rabbitmq", away=True)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteBus, "publish", cut_off)
        assert (await client.post(f"/dead-letters/{id}/replay")).status_code == 503
    await catch_up(store, database, buckets, load_registry())
    assert (await only(client))["id"] == id
    assert (await client.post(f"/dead-letters/{id}/replay")).json()["sent"] == 1
    assert list((await in_ledger(store)).values()) == ["replayed"]
    assert await bus.depth(replay_queue("trainer")) == 1


async def test_a_plans_replay_that_the_database_did_not_hear_of_is_not_sent_again_nor_discarded(
    client, store, bus, dead_plan, monkeypatch
):
    from acequia_auditor import act as module

    id = (await only(client))["id"]

    async def away(*_):
        raise TransientFailure("PostgreSQL is away", dependency="postgresql", away=True)

    with monkeypatch.context() as patch:
        patch.setattr(module, "insert_acts", away)
        assert (await client.post(f"/dead-letters/{id}/replay")).status_code == 503
    assert (await only(client))["state"] == "open"
    assert (await client.post(f"/dead-letters/{id}/discard", json={"reason": "old"})).status_code == 409
    answer = (await client.post(f"/dead-letters/{id}/replay")).json()
    assert (answer["state"], answer["sent"]) == ("replayed", 0)
    assert await bus.depth(replay_queue("trainer")) == 1


async def test_what_died_again_after_a_replay_that_was_cut_off_is_the_letter_that_stands(
    client, letters, store, database, buckets, bus, tale, monkeypatch
):
    one = tale()
    await dead_part(letters, one)
    id = (await only(client))["id"]

    async def cut_off(*_):
        raise TransientFailure("gone in the middle", dependency="minio", away=True)

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "remove", cut_off)
        assert (await client.post(f"/dead-letters/{id}/replay")).status_code == 503
    await dead_part(letters, one, at=DIED + timedelta(hours=1), **{"acequia-error": "again"})
    await catch_up(store, database, buckets, load_registry())
    letter = await only(client)
    assert (letter["id"], letter["reason"]) == (id, "again")
    assert (await client.post(f"/dead-letters/{id}/replay")).json()["sent"] == 1
    assert await bus.depth(replay_queue("transformer")) == 2


async def test_an_act_that_is_told_late_does_not_win_over_a_later_one(
    client, store, database, buckets, dead_plan, monkeypatch
):
    from acequia_auditor import act as module

    id = (await only(client))["id"]

    async def away(*_):
        raise TransientFailure("PostgreSQL is away", dependency="postgresql", away=True)

    with monkeypatch.context() as patch:
        patch.setattr(module, "insert_acts", away)
        assert (await client.post(f"/dead-letters/{id}/discard", json={"reason": "old"})).status_code == 503
    await client.post(f"/dead-letters/{id}/replay")
    await catch_up(store, database, buckets, load_registry())
    assert (await only(client, state="all"))["state"] == "replayed"
    assert [a["act"] for a in (await client.get(f"/dead-letters/{id}")).json()["acts"]] == ["discarded", "replayed"]


@pytest.mark.parametrize("act", ["replay", "discard"])
async def test_an_act_that_the_database_did_not_hear_of_is_completed_by_another(
    client, letters, store, bus, database, buckets, tale, monkeypatch, act
):
    from acequia_auditor import act as module

    await dead_part(letters, tale())
    id = (await only(client))["id"]

    async def away(*_):
        raise TransientFailure("PostgreSQL is away", dependency="postgresql", away=True)

    with monkeypatch.context() as patch:
        patch.setattr(module, "insert_acts", away)
        assert (await client.post(f"/dead-letters/{id}/{act}", json={"reason": "first"})).status_code == 503
    assert (await only(client))["state"] == "open"
    await catch_up(store, database, buckets, load_registry())
    answer = await client.post(f"/dead-letters/{id}/{act}", json={"reason": "second"})
    state = {"replay": "replayed", "discard": "discarded"}[act]
    assert (answer.status_code, answer.json()["state"]) == (200, state)
    assert (await only(client, state="all"))["state"] == state
    assert [row["reason"] for row in await ask(database, "SELECT reason FROM acequia.dead_letter_acts")] == [
        "second" if act == "replay" else "first"
    ]
    assert await in_ledger(store) == ({} if act == "replay" else dict.fromkeys(await in_ledger(store), "discarded"))


async def test_what_died_again_while_it_was_being_replayed_is_not_removed(client, letters, store, tale, monkeypatch):
    one = tale()
    await dead_part(letters, one)
    id = (await only(client))["id"]
    real = SqliteBus.publish

    async def publish_and_die(self, exchange, routing_key, message):
        await real(self, exchange, routing_key, message)
        await dead_part(letters, one, at=DIED + timedelta(hours=1))

    with monkeypatch.context() as patch:
        patch.setattr(SqliteBus, "publish", publish_and_die)
        assert (await client.post(f"/dead-letters/{id}/replay")).status_code == 200
    assert (await only(client))["state"] == "open"
    assert list((await in_ledger(store)).values()) == ["open"]


async def test_a_full_queue_leaves_the_letter_for_another_try(client, letters, store, tale, monkeypatch):
    await dead_part(letters, tale())
    id = (await only(client))["id"]

    async def full(*_):
        raise TransientFailure("the queue is full", dependency="rabbitmq")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteBus, "publish", full)
        answer = await client.post(f"/dead-letters/{id}/replay")
    assert (answer.status_code, "the queue is full" in answer.json()["detail"]) == (503, True)
    assert (await only(client))["state"] == "open"
    assert len(await in_ledger(store)) == 1


async def test_a_nul_in_a_filter_is_the_askers_fault(client):
    answer = await client.get("/dead-letters", params={"stage": "a\0b"})
    assert answer.status_code == 422
