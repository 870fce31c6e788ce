import asyncio
import dataclasses
import json

import pytest

from acequia.ports import Ack, Dead, Delivery, HandBack, Message
from acequia_auditor.database import open_database
from acequia_auditor.write import AuditWriter


async def ask(database, statement, *arguments):
    async with database.transaction() as connection:
        return await connection.fetchval(statement, *arguments)


EVENTS = "SELECT count(*) FROM acequia.audit_events"


async def test_two_thousand_records_at_once_and_their_doubles_are_stored_once_each(database, writer, deliver, tale):
    records = []
    for _ in range(500):
        one = tale()
        records += [one.accepted(), one.ingested(10), one.transformed(), one.part_dead()]
    deliveries = [deliver(r) for r in records] + [deliver(r) for r in records[::2]]
    settlements = await asyncio.gather(*(writer.handle(d) for d in deliveries))
    assert settlements == [Ack()] * 3000
    assert await ask(database, EVENTS) == writer.stored == 2000
    assert await ask(database, "SELECT count(*) FROM acequia.artifacts") == 1000
    assert await ask(database, "SELECT count(*) FROM acequia.runs") == 500


async def test_a_message_is_settled_only_after_its_record_can_be_read(database, writer, deliver, tale):
    record = tale().accepted()
    assert await writer.handle(deliver(record)) == Ack()
    assert await ask(database, EVENTS + " WHERE event_id = $1", record.event_id) == 1


async def test_a_burst_takes_few_transactions(database, deliver, tale):
    transactions = 0
    original = database.transaction

    def counted():
        nonlocal transactions
        transactions += 1
        return original()

    database.transaction = counted
    writer = AuditWriter(database)
    await asyncio.gather(*(writer.handle(deliver(tale().accepted())) for _ in range(1000)))
    assert transactions <= 4
    await writer.close()


async def test_a_message_that_is_no_record_dies_and_its_batch_is_stored(database, writer, deliver, tale):
    good = [tale().accepted() for _ in range(20)]
    poison = [
        b"",
        b"no json",
        b"[]",
        b"\xff\xfe",
        b'{"event_id": 1}',
        json.dumps(json.loads(good[0].model_dump_json()) | {"kind": "rumour"}).encode(),
    ]
    deliveries = [deliver(r) for r in good] + [Delivery("acequia.audit", Message(p)) for p in poison]
    settlements = await asyncio.gather(*(writer.handle(d) for d in deliveries))
    assert settlements[:20] == [Ack()] * 20
    assert [type(s) for s in settlements[20:]] == [Dead] * len(poison)
    assert await ask(database, EVENTS) == 20


async def test_a_record_that_postgresql_cannot_hold_dies_alone(database, writer, deliver, tale):
    good = [tale().accepted() for _ in range(20)]
    monster = tale().accepted().model_copy(update={"rows_in": 2**70})
    long_uri = tale().ingested(1)
    long_uri = long_uri.model_copy(
        update={"outputs": tuple(o.model_copy(update={"uri": _noise(9000)}) for o in long_uri.outputs)}
    )
    records = [*good[:7], monster, *good[7:15], long_uri, *good[15:]]
    settlements = await asyncio.gather(*(writer.handle(deliver(r)) for r in records))
    assert [i for i, s in enumerate(settlements) if isinstance(s, Dead)] == [7, 16]
    assert "unstorable" in settlements[7].reason
    assert await ask(database, EVENTS) == 20
    assert writer.ready


def _noise(length: int) -> str:
    import random

    return "s3://" + "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))


async def test_a_record_with_a_nul_character_is_stored_with_a_mark_in_its_place(database, writer, deliver, tale):
    record = tale().accepted(file="a\0b", path="c:\\u0000")
    assert await writer.handle(deliver(record)) == Ack()
    stored = json.loads(await ask(database, "SELECT record FROM acequia.audit_events"))
    assert stored["parameters"] == {"file": "a\N{REPLACEMENT CHARACTER}b", "path": "c:\\u0000"}


async def test_a_metric_that_could_not_be_measured_is_left_out(database, writer, client, deliver, training):
    record = training().evaluated().model_copy(update={"metrics": {"roc_auc": float("nan"), "psi": 0.1}})
    assert await writer.handle(deliver(record)) == Ack()
    run = (await client.get(f"/runs/{record.run_id}")).json()
    assert run["stages"]["evaluator"][0]["metrics"] == {"psi": 0.1}


async def test_records_wait_while_postgresql_is_stopped_and_are_stored_once_when_it_is_back(
    server, settings, deliver, tale, until
):
    database = await open_database(settings)
    writer = AuditWriter(database)
    records = [tale().accepted() for _ in range(600)]
    try:
        before = [asyncio.create_task(writer.handle(deliver(r))) for r in records[:200]]
        await asyncio.gather(*before)
        during = [asyncio.create_task(writer.handle(deliver(r))) for r in records[200:400]]
        await asyncio.sleep(0)  # the batch is on its way
        await asyncio.to_thread(server.stop)
        during += [asyncio.create_task(writer.handle(deliver(r))) for r in records[400:]]
        # messages that were in hand when the broker's connection broke come a second time
        during += [asyncio.create_task(writer.handle(deliver(r))) for r in records[500:]]
        await until(lambda: not writer.ready)
        assert not all(task.done() for task in during)
        await asyncio.to_thread(server.start)
        assert await asyncio.gather(*during) == [Ack()] * len(during)
        await until(lambda: writer.ready)
        assert await ask(database, EVENTS) == 600
    finally:
        await asyncio.to_thread(server.start)
        await writer.close()
        await database.close()


async def test_what_waits_for_postgresql_is_handed_back_when_the_service_stops(settings, deliver, tale, until):
    database = await open_database(settings.model_copy(update={"host": "127.0.0.1", "port": 1}))
    writer = AuditWriter(database)
    waiting = [asyncio.create_task(writer.handle(deliver(tale().accepted()))) for _ in range(3)]
    await until(lambda: writer._stuck)
    await writer.close()
    assert await asyncio.gather(*waiting) == [HandBack()] * 3
    assert await writer.handle(deliver(tale().accepted())) == HandBack()
    await database.close()


async def test_a_cancelled_delivery_does_not_take_its_batch_with_it(database, writer, deliver, tale):
    tasks = [asyncio.create_task(writer.handle(deliver(tale().accepted()))) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    settled = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(settled[3], asyncio.CancelledError)
    assert settled[:3] + settled[4:] == [Ack()] * 9


async def test_two_auditors_with_the_same_records_neither_double_nor_block(settings, deliver, tale):
    databases = [await open_database(settings) for _ in range(2)]
    writers = [AuditWriter(d) for d in databases]
    records = [r for one in (tale() for _ in range(300)) for r in (one.accepted(), one.ingested(1, 2))]
    try:
        settled = await asyncio.gather(
            *(w.handle(deliver(r)) for w, rs in zip(writers, (records, records[::-1]), strict=True) for r in rs)
        )
        assert settled == [Ack()] * 1200
        assert await ask(databases[0], EVENTS) == 600
        assert await ask(databases[0], "SELECT count(*) FROM acequia.artifacts") == 600
    finally:
        for writer, database in zip(writers, databases, strict=True):
            await writer.close()
            await database.close()


async def test_a_run_begins_with_its_earliest_record_in_whatever_order_they_come(database, writer, deliver, tale):
    one = tale()
    accepted, ingested = one.accepted(file="first.log"), one.ingested(1)
    await writer.handle(deliver(ingested))
    await writer.handle(deliver(accepted))
    async with database.transaction() as connection:
        row = await connection.fetchrow("SELECT source, accepted_at FROM acequia.runs")
    assert tuple(row) == ("first.log", accepted.started)


@pytest.mark.parametrize("attempt", [1, 2])
async def test_each_failed_attempt_is_a_record_of_its_own(database, writer, deliver, tale, attempt):
    from acequia.events import Kind, Status

    one = tale()
    notes = [one.record(Kind.NOTE, Status.FAILED, "transformer", "x", attempt=n) for n in range(1, attempt + 1)]
    for note in notes:
        delivery = dataclasses.replace(deliver(note), attempt=note.attempt)
        assert await writer.handle(delivery) == Ack()
    assert await ask(database, EVENTS) == attempt
