"""What only the bus in SQLite does: its file, its lock, its clock."""

import asyncio
import logging
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from acequia.adapters.sqlite import SqliteBus
from acequia.errors import ConfigurationError, TransientFailure
from acequia.layers import Buckets
from acequia.ports import Ack, Message, Retry
from acequia.topology import AUDIT, AUDIT_QUEUE, topology

TABLE = topology(Buckets(), retry_delays=(60,))


async def test_a_file_in_use_is_refused(tmp_path):
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    with pytest.raises(ConfigurationError, match="in use"):
        await SqliteBus.open(tmp_path / "bus.sqlite")
    await bus.close()
    again = await SqliteBus.open(tmp_path / "bus.sqlite")
    await again.close()


async def test_a_file_that_is_no_bus_is_refused_and_stays_as_it_is(tmp_path):
    path = tmp_path / "bus.sqlite"
    path.write_bytes(b"a text of mine " * 1000)
    with pytest.raises(ConfigurationError):
        await SqliteBus.open(path)
    assert path.read_bytes() == b"a text of mine " * 1000


async def test_what_waits_on_a_rung_is_counted_there(tmp_path):
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    await bus.apply(TABLE)
    came = asyncio.Event()

    async def fail(_):
        came.set()
        return Retry("later")

    subscription = await bus.consume(AUDIT_QUEUE, fail, concurrency=1)
    await bus.publish(AUDIT, "any", Message(body=b"x"))
    await came.wait()
    await subscription.close(grace=5)
    assert await bus.depth(AUDIT_QUEUE) == 0
    assert await bus.depth(f"{AUDIT_QUEUE}.retry.60s") == 1
    with pytest.raises(ConfigurationError):
        await bus.depth("acequia.nobody")
    await bus.close()


async def test_a_closed_bus_takes_nothing(tmp_path):
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    await bus.apply(TABLE)
    await bus.close()
    with pytest.raises(TransientFailure) as refused:
        await bus.publish(AUDIT, "any", Message(body=b"x"))
    assert refused.value.away
    with pytest.raises(TransientFailure):
        await bus.check()


async def test_a_message_published_with_others_at_once_is_refused_alone(tmp_path):
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    await bus.apply(TABLE)
    good = Message(body=b"x")
    bad = Message(body=object())  # type: ignore[arg-type]  # what SQLite can't bind
    results = await asyncio.gather(
        *(bus.publish(AUDIT, "any", bad if n == 50 else good) for n in range(100)), return_exceptions=True
    )
    assert [n for n, result in enumerate(results) if result is not None] == [50]
    assert await bus.depth(AUDIT_QUEUE) == 99
    await bus.close()


async def test_a_dead_letter_queue_that_does_not_exist_is_an_error_for_a_person(tmp_path):
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    with pytest.raises(ConfigurationError, match="nowhere"):
        await bus.apply(replace(TABLE, queues=(replace(TABLE.queues[0], dead="nowhere"), *TABLE.queues[1:])))
    await bus.close()


async def test_the_topology_is_known_again_after_a_restart(tmp_path):
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    await bus.apply(TABLE)
    await bus.close()
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    await bus.publish(AUDIT, "any", Message(body=b"x"))
    assert await bus.depth(AUDIT_QUEUE) == 1
    with pytest.raises(ConfigurationError):
        await bus.apply(replace(TABLE, queues=tuple(replace(q, delivery_limit=3) for q in TABLE.queues)))
    await bus.close()


async def test_messages_cancelled_in_the_moment_they_are_handed_out_come_again(tmp_path):
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    await bus.apply(TABLE)
    for n in range(20):
        await bus.publish(AUDIT, "any", Message(body=b"%d" % n))

    async def slow(_):
        await asyncio.Event().wait()

    subscription = await bus.consume(AUDIT_QUEUE, slow, concurrency=20)
    await asyncio.sleep(0)  # now they are being taken
    await subscription.close(grace=0)
    assert await bus.depth(AUDIT_QUEUE) == 20
    again, whole = [], asyncio.Event()

    async def keep(delivery):
        again.append(delivery.redelivered)
        if len(again) == 20:
            whole.set()
        return Ack()

    await bus.consume(AUDIT_QUEUE, keep, concurrency=20)
    await asyncio.wait_for(whole.wait(), 30)
    assert all(again)  # so they had been in hand
    await bus.close()


PUBLISHER = """
import asyncio, sys
from pathlib import Path
from acequia.adapters.sqlite import SqliteBus
from acequia.layers import Buckets
from acequia.ports import Message
from acequia.topology import AUDIT, topology

async def main(path):
    bus = await SqliteBus.open(Path(path))
    await bus.apply(topology(Buckets(), retry_delays=(60,)))
    async def publish(lane):
        n = 0
        while True:
            await bus.publish(AUDIT, "any", Message(body=f"{lane}-{n}".encode()))
            print(f"{lane}-{n}", flush=True)
            n += 1
    await asyncio.gather(*(publish(lane) for lane in range(4)))

asyncio.run(main(sys.argv[1]))
"""


async def test_each_publish_that_returned_survives_a_kill(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = tmp_path / "bus.sqlite"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", PUBLISHER, str(path), stdout=subprocess.PIPE)
    assert child.stdout is not None
    published = {(await asyncio.wait_for(child.stdout.readline(), 30)).strip() for _ in range(200)}
    child.send_signal(signal.SIGKILL)
    rest, _ = await child.communicate()
    published.update(rest.split(b"\n")[:-1])

    bus = await SqliteBus.open(path)
    count = await bus.depth(AUDIT_QUEUE)
    assert count >= len(published)
    came, whole = [], asyncio.Event()

    async def keep(delivery):
        came.append(delivery.message.body)
        if len(came) == count:
            whole.set()
        return Ack()

    await bus.consume(AUDIT_QUEUE, keep, concurrency=32)
    await asyncio.wait_for(whole.wait(), 30)
    assert published <= set(came)
    assert len(set(came)) == len(came)
    await bus.close()
