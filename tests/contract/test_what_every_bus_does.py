"""The behaviour of `acequia.ports.Bus`, on each adapter."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections import Counter
from datetime import datetime
from uuid import uuid4

import pytest

from acequia.errors import ConfigurationError, QueueFull, TransientFailure
from acequia.ports import Ack, Dead, HandBack, Message, Retry
from acequia.topology import Binding, Exchange, Queue


async def test_a_message_arrives_with_its_body_type_id_and_headers(buses, inbox):
    bus = await buses.open()
    sent = Message(
        body=b'{"n": 1}', type="AuditRecord", message_id=str(uuid4()), headers={"traceparent": "00-ab-cd-01"}
    )
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", sent)
    (delivery,) = await box.holds(1)
    assert (delivery.message.body, delivery.message.type, delivery.message.message_id) == (
        sent.body,
        sent.type,
        sent.message_id,
    )
    assert delivery.message.headers["traceparent"] == "00-ab-cd-01"
    assert (delivery.queue, delivery.attempt, delivery.redelivered) == (buses.work, 1, False)


async def test_a_message_without_type_and_headers_arrives_so(buses, inbox):
    bus = await buses.open()
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"\x00\xff not text"))
    (delivery,) = await box.holds(1)
    assert (delivery.message.body, delivery.message.type) == (b"\x00\xff not text", "")


async def test_an_acknowledged_message_does_not_come_again(buses, inbox, until):
    bus = await buses.open()
    box = inbox()
    subscription = await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"once"))
    await box.holds(1)
    await subscription.close(grace=5)
    await bus.close()

    bus = await buses.open()
    again = inbox()
    await bus.consume(buses.work, again, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"later"))
    await again.holds(1)
    assert again.bodies == [b"later"]


async def test_messages_that_nobody_took_survive_the_bus(buses, inbox):
    bus = await buses.open()
    for n in range(5):
        await bus.publish(buses.exchange, "work.one", Message(body=b"%d" % n))
    await bus.close()

    bus = await buses.open()
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await box.holds(5)
    assert sorted(box.bodies) == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_message_in_hand_when_the_bus_closes_comes_again_as_redelivered(buses, inbox):
    bus = await buses.open()
    in_hand = asyncio.Event()

    async def never_done(_):
        in_hand.set()
        await asyncio.Event().wait()

    await bus.consume(buses.work, never_done, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"unfinished", message_id="m1"))
    await in_hand.wait()
    await bus.close()

    bus = await buses.open()
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    (delivery,) = await box.holds(1)
    assert (delivery.message.body, delivery.message.message_id) == (b"unfinished", "m1")
    assert (delivery.redelivered, delivery.attempt) == (True, 1)


async def test_the_retry_ladder_ends_in_the_dead_letter_queue_with_what_a_person_needs(buses, inbox):
    bus = await buses.open(retry_delays=(1,))
    box, dead = inbox(lambda d: Retry(reason=f"failed at attempt {d.attempt}")), inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.consume(buses.dead, dead, concurrency=1)
    sent = Message(body=b"bad luck", type="AuditRecord", message_id="m1", headers={"traceparent": "00-ab-cd-01"})
    await bus.publish(buses.exchange, "work.one", sent)
    (letter,) = await dead.holds(1)
    assert [(d.attempt, d.redelivered) for d in box.deliveries] == [(1, False), (2, False)]
    assert (letter.message.body, letter.message.type, letter.message.message_id) == (sent.body, sent.type, "m1")
    headers = letter.message.headers
    assert headers["acequia-error"] == "failed at attempt 2"
    assert headers["acequia-stage"] == "tester"
    assert headers["acequia-attempt"] == "2"
    assert datetime.fromisoformat(headers["acequia-died-at"]).tzinfo is not None
    assert headers["traceparent"] == "00-ab-cd-01"


async def test_the_attempt_goes_on_from_the_header_of_a_message_that_has_one(buses, inbox):
    bus = await buses.open()
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"x", headers={"acequia-attempt": "3", "other": "y"}))
    (delivery,) = await box.holds(1)
    assert delivery.attempt == 3
    assert delivery.message.headers == {"other": "y"}


async def test_a_retry_comes_back_to_the_queue_it_failed_in_alone(buses, inbox):
    bus = await buses.open(retry_delays=(1,))
    box, other = inbox(lambda d: Retry("once") if d.attempt == 1 else Ack()), inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.consume(buses.other, other, concurrency=1)
    await bus.publish(buses.exchange, "work.all", Message(body=b"both queues take me"))
    await box.holds(2)
    assert len(other.deliveries) == 1


async def test_a_retry_from_a_queue_that_has_anothers_rungs_comes_into_that_queue(buses, inbox):
    bus = await buses.open(retry_delays=(1,))
    later, box = inbox(lambda _: Retry("once")), inbox()
    await bus.consume(buses.later, later, concurrency=1)
    await bus.consume(buses.work, box, concurrency=1)
    await bus.publish("", buses.later, Message(body=b"x"))
    (delivery,) = await box.holds(1)
    assert (delivery.queue, delivery.attempt) == (buses.work, 2)
    assert len(later.deliveries) == 1


async def test_a_full_queue_refuses_the_next_message_and_takes_it_once_there_is_room(buses, inbox):
    bus = await buses.open()
    refused = False
    for n in range(20):  # a quorum queue may take a few more than its limit before it refuses
        try:
            await bus.publish("", buses.later, Message(body=str(n).encode()))
        except QueueFull:
            refused = True
            break
    assert refused
    taken = await bus.depth(buses.later)
    assert taken >= 2
    box = inbox()
    await bus.consume(buses.later, box, concurrency=1)
    await box.holds(taken)
    await bus.publish("", buses.later, Message(body=b"one more"))
    await box.holds(taken + 1)
    assert {d.message.body for d in box.deliveries} == {*(str(i).encode() for i in range(taken)), b"one more"}


async def test_a_message_that_waits_on_a_rung_survives_the_bus(buses, inbox):
    bus = await buses.open(retry_delays=(1,))
    box = inbox(lambda _: Retry("not now"))
    subscription = await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"patient"))
    await box.holds(1)
    await subscription.close(grace=5)
    await bus.close()

    bus = await buses.open(retry_delays=(1,))
    again = inbox()
    await bus.consume(buses.work, again, concurrency=1)
    (delivery,) = await again.holds(1)
    assert (delivery.message.body, delivery.attempt) == (b"patient", 2)


async def test_dead_moves_a_message_at_once_with_its_traceback(buses, inbox):
    bus = await buses.open()
    box, dead = inbox(lambda _: Dead(reason="no hope", traceback="Traceback: line 1")), inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.consume(buses.dead, dead, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"x"))
    (letter,) = await dead.holds(1)
    assert len(box.deliveries) == 1
    headers = letter.message.headers
    assert (headers["acequia-error"], headers["acequia-traceback"]) == ("no hope", "Traceback: line 1")
    assert headers["acequia-attempt"] == "1"


async def test_a_bug_that_ends_dead_after_the_last_rung_keeps_its_traceback(buses, inbox):
    bus = await buses.open(retry_delays=(1,))
    box, dead = inbox(lambda _: Retry("ValueError: a bug", "Traceback: line 1")), inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.consume(buses.dead, dead, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"x"))
    (letter,) = await dead.holds(1)
    assert [d.attempt for d in box.deliveries] == [1, 2]
    headers = letter.message.headers
    assert (headers["acequia-error"], headers["acequia-traceback"]) == ("ValueError: a bug", "Traceback: line 1")


async def test_a_stage_without_rungs_sends_a_retry_to_the_dead_letters(buses, inbox):
    bus = await buses.open(retry_delays=())
    box, dead = inbox(lambda _: Retry(reason="again")), inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.consume(buses.dead, dead, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"x"))
    (letter,) = await dead.holds(1)
    assert letter.message.headers["acequia-error"] == "again"


@pytest.mark.parametrize("settlement", [Retry("database away"), Dead("does not parse")], ids=["retry", "dead"])
async def test_a_dead_letter_that_cannot_be_handled_is_not_lost(buses, inbox, settlement, monkeypatch):
    monkeypatch.setattr("acequia.adapters.sqlite.RETRY_WITHOUT_LADDER", 0.05)
    bus = await buses.open()
    box = inbox(lambda _: settlement if len(box.deliveries) < 2 else Ack())
    await bus.consume(buses.dead, box, concurrency=1)
    await bus.publish("", buses.dead, Message(body=b"keep me", headers={"acequia-error": "the first one"}))
    letters = await box.holds(2)
    assert letters[1].message.body == b"keep me"
    assert letters[1].message.headers["acequia-error"] == "the first one"


async def test_a_message_handed_back_comes_again_at_the_same_attempt(buses, inbox):
    bus = await buses.open()
    box = inbox(lambda d: Ack() if d.redelivered else HandBack())
    await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"x"))
    first, second = await box.holds(2)
    assert (first.redelivered, second.redelivered) == (False, True)
    assert second.attempt == 1


async def test_a_handler_that_raises_hands_its_message_back(buses, inbox):
    bus = await buses.open()

    def answer(delivery):
        if not delivery.redelivered:
            raise RuntimeError("a handler should not do this")
        return Ack()

    box = inbox(answer)
    await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"x"))
    deliveries = await box.holds(2)
    assert deliveries[1].redelivered


async def test_a_message_handed_back_too_often_is_dead(buses, inbox):
    bus = await buses.open(delivery_limit=2)
    box, dead = inbox(lambda _: HandBack()), inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.consume(buses.dead, dead, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"crash loop"))
    (letter,) = await dead.holds(1)
    assert letter.message.body == b"crash loop"
    assert "delivery limit" in letter.message.headers["acequia-error"]
    assert letter.message.headers["acequia-stage"] == "tester"
    assert len(box.deliveries) == 3  # the first, and as many again as the limit allows


async def test_as_many_messages_are_in_hand_as_the_concurrency_says_and_no_more(buses, until):
    bus = await buses.open()
    release, in_hand, most, done = asyncio.Event(), 0, 0, 0

    async def handler(_):
        nonlocal in_hand, most, done
        in_hand += 1
        most = max(most, in_hand)
        await release.wait()
        in_hand -= 1
        done += 1
        return Ack()

    for n in range(7):
        await bus.publish(buses.exchange, "work.one", Message(body=b"%d" % n))
    await bus.consume(buses.work, handler, concurrency=3)
    await until(lambda: in_hand == 3)

    async def the_rest_lies_in_the_queue():
        return await bus.depth(buses.work) == 4

    await until(the_rest_lies_in_the_queue)
    release.set()
    await until(lambda: done == 7)
    assert most == 3


async def test_two_consumers_of_a_queue_share_its_messages(buses, inbox, until):
    bus = await buses.open()
    one, two = inbox(), inbox()
    await bus.consume(buses.work, one, concurrency=1)
    await bus.consume(buses.work, two, concurrency=1)
    for n in range(20):
        await bus.publish(buses.exchange, "work.one", Message(body=b"%d" % n))
    await until(lambda: len(one.deliveries) + len(two.deliveries) >= 20)
    assert Counter(one.bodies + two.bodies) == Counter(b"%d" % n for n in range(20))


async def test_a_paused_consumer_takes_nothing_until_it_is_resumed(buses, inbox, until):
    bus = await buses.open()
    box, other = inbox(), inbox()
    subscription = await bus.consume(buses.work, box, concurrency=2)
    await bus.consume(buses.other, other, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"before"))
    await box.holds(1)
    await subscription.pause()
    await bus.publish(buses.exchange, "work.all", Message(body=b"meanwhile"))
    await other.holds(1)  # so it lies in the queue of the paused one as well

    async def lies_there():
        return await bus.depth(buses.work) == 1

    await until(lies_there)
    assert box.bodies == [b"before"]
    await subscription.resume()
    await box.holds(2)
    assert box.bodies == [b"before", b"meanwhile"]


async def test_pausing_leaves_alone_what_is_in_hand(buses, until):
    bus = await buses.open()
    started, release, done = asyncio.Event(), asyncio.Event(), []

    async def handler(delivery):
        started.set()
        await release.wait()
        done.append(delivery)
        return Ack()

    subscription = await bus.consume(buses.work, handler, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"x"))
    await started.wait()
    await subscription.pause()
    release.set()
    await until(lambda: len(done) == 1)
    await subscription.resume()
    await bus.publish(buses.exchange, "work.one", Message(body=b"y"))
    await until(lambda: len(done) == 2)
    assert [d.message.body for d in done] == [b"x", b"y"]


async def test_closing_waits_for_what_is_in_hand(buses, inbox):
    bus = await buses.open()
    started, finished = asyncio.Event(), False

    async def handler(_):
        nonlocal finished
        started.set()
        await asyncio.sleep(0.1)
        finished = True
        return Ack()

    subscription = await bus.consume(buses.work, handler, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"in hand"))
    await started.wait()
    await subscription.close(grace=20)
    assert finished
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"next"))
    await box.holds(1)
    assert box.bodies == [b"next"]  # what was in hand was acknowledged


async def test_closing_hands_back_what_is_not_done_after_the_grace(buses, inbox):
    bus = await buses.open()
    started, cancelled = asyncio.Event(), False

    async def handler(_):
        nonlocal cancelled
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    subscription = await bus.consume(buses.work, handler, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"slow"))
    await started.wait()
    await subscription.close(grace=0.05)
    assert cancelled
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    (delivery,) = await box.holds(1)
    assert (delivery.message.body, delivery.redelivered, delivery.attempt) == (b"slow", True, 1)


async def test_the_depth_is_what_nobody_has_in_hand(buses, until):
    bus = await buses.open()
    assert await bus.depth(buses.work) == 0
    for n in range(3):
        await bus.publish(buses.exchange, "work.one", Message(body=b"%d" % n))

    async def all_three():
        return await bus.depth(buses.work) == 3

    await until(all_three)
    started = asyncio.Event()

    async def handler(_):
        started.set()
        await asyncio.Event().wait()

    await bus.consume(buses.work, handler, concurrency=1)
    await started.wait()

    async def two_are_left():
        return await bus.depth(buses.work) == 2

    await until(two_are_left)


async def test_a_star_stands_for_one_word_and_a_hash_for_any_number(buses, inbox):
    bus = await buses.open()
    work, other = inbox(), inbox()
    await bus.consume(buses.work, work, concurrency=1)
    await bus.consume(buses.other, other, concurrency=1)
    for key in ("work.one", "work.all", "all", "a.b.all", "exact"):
        await bus.publish(buses.exchange, key, Message(body=key.encode()))
    await bus.publish("", buses.work, Message(body=b"straight"))
    await work.holds(3)
    await other.holds(4)
    assert sorted(work.bodies) == [b"straight", b"work.all", b"work.one"]
    assert sorted(other.bodies) == [b"a.b.all", b"all", b"exact", b"work.all"]


async def test_a_message_that_two_bindings_of_a_queue_match_comes_once(buses, inbox):
    bus = await buses.open()
    table = buses.table()
    await bus.apply(buses.table(bindings=(*table.bindings, Binding(buses.exchange, buses.work, "#"))))
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"1"))
    await bus.publish(buses.exchange, "work.two", Message(body=b"2"))
    await box.holds(2)
    assert sorted(box.bodies) == [b"1", b"2"]


@pytest.mark.parametrize("key", ["work.one.more", "nobody", "work"])
async def test_a_message_that_no_queue_takes_is_refused(buses, key):
    bus = await buses.open()
    with pytest.raises(TransientFailure):
        await bus.publish(buses.exchange, key, Message(body=b"x"))


async def test_a_message_to_a_queue_that_is_not_there_is_refused(buses):
    bus = await buses.open()
    with pytest.raises(TransientFailure):
        await bus.publish("", f"{buses.prefix}.nowhere", Message(body=b"x"))


async def test_applying_the_topology_again_changes_nothing(buses, inbox):
    bus = await buses.open()
    await bus.publish(buses.exchange, "work.one", Message(body=b"still here"))
    await bus.apply(buses.table())
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await box.holds(1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"works"))
    await box.holds(2)
    assert box.bodies == [b"still here", b"works"]


async def test_other_delays_can_be_applied_to_a_queue_that_exists(buses, inbox):
    bus = await buses.open(retry_delays=(1,))
    await bus.apply(buses.table(retry_delays=(2, 1)))
    box = inbox(lambda d: Retry("again") if d.attempt == 1 else Ack())
    await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"x"))
    deliveries = await box.holds(2)
    assert deliveries[1].attempt == 2


async def test_a_queue_that_exists_with_other_arguments_is_an_error_for_a_person(buses, inbox):
    bus = await buses.open(delivery_limit=20)
    with pytest.raises(ConfigurationError, match=buses.work.replace(".", r"\.")):
        await bus.apply(buses.table(delivery_limit=7))
    # and what was there works as before
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await bus.publish(buses.exchange, "work.one", Message(body=b"x"))
    await box.holds(1)


async def test_an_exchange_that_exists_with_another_type_is_an_error_for_a_person(buses):
    bus = await buses.open()
    with pytest.raises(ConfigurationError):
        await bus.apply(buses.table(exchanges=(Exchange(buses.exchange, "fanout"),)))


async def test_a_bus_that_answers_checks_well(buses):
    bus = await buses.open()
    await bus.check()


async def test_closing_twice_does_no_harm(buses):
    bus = await buses.open()
    await bus.close()
    await bus.close()


HOLDER = """
import asyncio, sys
from pydantic import SecretStr
from acequia.layers import Buckets
from acequia.topology import Queue, Topology

async def main(adapter, address, queue, dead):
    if adapter == "embedded":
        from pathlib import Path
        from acequia.adapters.sqlite import SqliteBus
        bus = await SqliteBus.open(Path(address))
    else:
        from acequia.adapters.rabbit import RabbitBus
        from acequia.settings import RabbitSettings
        bus = await RabbitBus.connect(RabbitSettings(url=SecretStr(address)))
    queues = (Queue(queue, "tester", dead, (1,)), Queue(dead, "tester", None))
    await bus.apply(Topology((), queues, (), Buckets(), ()))
    held = 0
    async def hold(_):
        nonlocal held
        held += 1
        if held == 3:
            print("three in hand", flush=True)
        await asyncio.Event().wait()
    await bus.consume(queue, hold, concurrency=3)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_a_killed_process_had_in_hand_comes_back(buses, inbox):
    bus = await buses.open()
    for n in range(5):
        await bus.publish(buses.exchange, "work.one", Message(body=b"%d" % n, message_id=str(n)))
    await bus.close()
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, buses.adapter, buses.address, buses.work, buses.dead, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert await asyncio.wait_for(holder.stdout.readline(), 30) == b"three in hand\n"
    finally:
        with contextlib.suppress(ProcessLookupError):
            holder.send_signal(signal.SIGKILL)
        await holder.communicate()

    bus = await buses.open()
    box = inbox()
    await bus.consume(buses.work, box, concurrency=1)
    await box.holds(5)
    assert sorted(box.bodies) == [b"0", b"1", b"2", b"3", b"4"]
    assert sum(d.redelivered for d in box.deliveries) == 3


async def test_a_queue_of_its_own_can_be_added_later(buses, inbox):
    bus = await buses.open()
    late = Queue(f"{buses.prefix}.late", "tester", buses.dead, ())
    table = buses.table()
    await bus.apply(
        buses.table(
            queues=(*table.queues, late), bindings=(*table.bindings, Binding(buses.exchange, late.name, "late.#"))
        )
    )
    box = inbox()
    await bus.consume(late.name, box, concurrency=1)
    await bus.publish(buses.exchange, "late", Message(body=b"x"))
    await box.holds(1)
