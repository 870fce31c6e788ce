"""Stands between MinIO's notifications and the services: drops some, doubles some, delays some, so that they overtake.

MinIO publishes to an exchange of the suite's own; what comes there goes on to `acequia.objects`, or does not.
"""

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from random import Random

import aio_pika
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

log = logging.getLogger(__name__)

EXCHANGE = "chaos.objects"
QUEUE = "chaos.notifications"
TO = "acequia.objects"
DROPPED, DOUBLED, DELAYED = 0.10, 0.12, 0.20
"""Shares of all notifications."""
LONGEST_DELAY = 4.0


class Mangler:
    def __init__(self, url: str, rng: Random) -> None:
        self._url = url
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()
        self._life: asyncio.Task[None] | None = None
        self.seen = 0
        self.faults: Counter[str] = Counter()
        self.gentle = False
        """Whether everything passes as it comes."""

    def start(self) -> None:
        self._life = asyncio.create_task(self._run())

    async def close(self) -> None:
        for task in (*self._tasks, *([self._life] if self._life else ())):
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        while True:
            # the broker comes and goes: what was not acknowledged comes again, doubled perhaps
            try:
                connection = await aio_pika.connect(self._url, timeout=5)
                async with connection:
                    await self._consume(connection)
            except asyncio.CancelledError:  # the client library cancels who waits on a lost connection
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
            except Exception as error:  # noqa: BLE001 - the client library's are many
                log.debug("the mangler's connection: %r", error)
            await asyncio.sleep(0.3)

    async def _consume(self, connection: aio_pika.abc.AbstractConnection) -> None:
        channel = await connection.channel()
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def closed(*_: object) -> None:
            if not lost.done():
                lost.set_result(None)

        channel.close_callbacks.add(closed)
        await channel.set_qos(prefetch_count=1000)
        await channel.declare_exchange(EXCHANGE, "topic", durable=True)
        to = await channel.declare_exchange(TO, "topic", durable=True)
        queue = await channel.declare_queue(QUEUE, durable=True)
        await queue.bind(EXCHANGE, "#")

        async def take(message: AbstractIncomingMessage) -> None:
            task = asyncio.create_task(self._pass_on(message, to))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        await queue.consume(take)
        await lost

    async def _pass_on(self, message: AbstractIncomingMessage, to: AbstractExchange) -> None:
        self.seen += 1
        fate = 1.0 if self.gentle else self._rng.random()
        pauses = [0.0]
        if fate < DROPPED:
            pauses = []
            self.faults["notification dropped"] += 1
        elif fate < DROPPED + DOUBLED:
            # at once, so that two replicas are at work on it, or when it may be done
            pauses = [0.0, self._rng.choice((0.0, self._rng.uniform(0, LONGEST_DELAY)))]
            self.faults["notification doubled"] += 1
        elif fate < DROPPED + DOUBLED + DELAYED:
            pauses = [self._rng.uniform(0, LONGEST_DELAY)]
            self.faults["notification delayed"] += 1
        copy = aio_pika.Message(
            message.body,
            headers=message.headers,
            content_type=message.content_type,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        with suppress(Exception):  # a lost connection: it comes again
            for pause in pauses:
                await asyncio.sleep(pause)
                await to.publish(copy, message.routing_key or "", mandatory=False)
            await message.ack()
