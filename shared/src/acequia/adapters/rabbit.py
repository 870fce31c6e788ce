"""The bus on RabbitMQ, 3.10 and later: durable quorum queues, confirmed publishes, acknowledged last.

We reconnect ourselves, on aio-pika's plain connection: each subscription brings itself back to what it should be, and a
publish that met a lost connection is sent again for a few seconds. Third-party errors end here.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self
from uuid import uuid4
from weakref import WeakValueDictionary

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AuthenticationError,
    ChannelClosed,
    ChannelNotFoundEntity,
    ConnectionClosed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from yarl import URL

from acequia.adapters.tls import trusting, untrusted
from acequia.errors import AcequiaError, ConfigurationError, QueueFull, TransientFailure
from acequia.ports import Ack, Dead, Delivery, HandBack, Handler, Message, Retry, Settlement
from acequia.settings import RabbitSettings
from acequia.topology import Exchange, Queue, Topology

log = logging.getLogger(__name__)

ATTEMPT = "acequia-attempt"
ERROR = "acequia-error"
TRACEBACK = "acequia-traceback"
STAGE = "acequia-stage"
DIED_AT = "acequia-died-at"

NO_DELIVERY_LIMIT = 1_000_000_000
"""For dead-letter queues. RabbitMQ 4 has a limit of 20 where none is set, and would drop; -1 is refused by 3.10."""
RETRY_WITHOUT_LADDER = 5.0
"""Seconds until a message comes again from a queue that has neither rungs nor a dead-letter queue."""

_PUBLISH_PATIENCE = 8.0
_CHECK_SECONDS = 5.0
_CLOSE_SECONDS = 5.0
_PAUSE = 0.2
_LONGEST_PAUSE = 2.0
_HEARTBEAT = 10
_UNNAMED = "unnamed-"
"""Starts the id of a message that was given none: the client library wants one to match a returned message."""
_BROKERS_HEADERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
_REASON_LIMIT = 4_000
_TRACEBACK_LIMIT = 16_000
"""Headers have to fit into one frame of 128 KB."""

_FAILURES = (*CONNECTION_EXCEPTIONS, TimeoutError, EOFError)
_ACCESS_REFUSED = 403
_NOT_ALLOWED = 530


class RabbitBus:
    """`acequia.ports.Bus` on one connection to RabbitMQ: one channel to publish, one for each subscription."""

    def __init__(
        self, settings: RabbitSettings, *, timeout: float = 10.0, publish_patience: float = _PUBLISH_PATIENCE
    ) -> None:
        """Not yet connected: the first call connects. `timeout`: seconds for one call to the broker."""
        try:
            url = URL(settings.url.get_secret_value())
        except ValueError as error:
            raise ConfigurationError(f"RABBITMQ_URL: {error}") from None
        if url.scheme not in ("amqp", "amqps") or not url.host:
            raise ConfigurationError("RABBITMQ_URL: amqp://user:password@host:5672/vhost is expected")
        self._url = url if "heartbeat" in url.query else url.update_query(heartbeat=_HEARTBEAT)
        self._trusted = trusting(settings.ca_file, "RABBITMQ_CA_FILE") if url.scheme == "amqps" else None
        self._timeout = timeout
        self._patience = publish_patience
        self._connection: AbstractConnection | None = None
        self._attempt: asyncio.Task[AbstractConnection | AcequiaError] | None = None
        self._publishing: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._same_id: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._topology: Topology | None = None
        self._applied_to: AbstractConnection | None = None
        self._seen: set[str] = set()
        self._seen_on: AbstractConnection | None = None
        self._subscriptions: set[RabbitSubscription] = set()
        self._closed = False

    @classmethod
    async def connect(cls, settings: RabbitSettings, *, timeout: float = 10.0) -> Self:  # noqa: ASYNC109 - one call's
        """Connected, or an error: TransientFailure where the broker is away, ConfigurationError where it refuses us."""
        bus = cls(settings, timeout=timeout)
        try:
            await bus._connected()
        except BaseException:
            await bus.close()
            raise
        return bus

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def publish(self, exchange: str, routing_key: str, message: Message) -> None:
        await self._send(exchange, routing_key, message, {})

    async def consume(self, queue: str, handler: Handler, *, concurrency: int) -> "RabbitSubscription":
        """ConfigurationError where there is no such queue.

        A queue that is not in the table last applied here has no ladder: what would climb it comes again instead.
        """
        if concurrency < 1:
            raise ValueError("concurrency is at least 1")
        try:
            entry = self._topology.queue(queue) if self._topology else Queue(queue, "", None)
        except KeyError:
            entry = Queue(queue, "", None)
        subscription = RabbitSubscription(self, entry, handler, concurrency)
        self._subscriptions.add(subscription)
        try:
            await subscription.start()
        except BaseException as error:
            await subscription.close(grace=0)
            if isinstance(error, _NotThere):
                raise ConfigurationError(f"there is no queue {queue!r}: apply the topology first") from error
            raise
        return subscription

    async def depth(self, queue: str) -> int:
        try:
            with self.edge():
                async with asyncio.timeout(self._timeout), self._short_channel() as channel:
                    answer = await channel.declare_queue(queue, passive=True)
                    return answer.declaration_result.message_count or 0
        except _NotThere:
            raise ConfigurationError(f"there is no queue {queue!r}: apply the topology first") from None

    async def apply(self, topology: Topology) -> None:
        """Everything that can be declared is, even where one thing cannot; then the errors, in one."""
        connection = await self._connected()
        declarations: list[Callable[[AbstractChannel], Awaitable[Any]]] = [
            *(partial(_declare_exchange, exchange) for exchange in topology.exchanges),
            *(
                partial(_declare_queue, name, arguments)
                for queue in topology.queues
                for name, arguments in queue_arguments(queue).items()
            ),
            *(partial(_bind, binding.queue, binding.exchange, binding.routing_key) for binding in topology.bindings),
        ]
        problems: list[str] = []
        remaining = iter(declarations)
        declaration = next(remaining, None)
        while declaration is not None:
            # a refusal closes the channel: what follows gets a new one
            try:
                with self.edge():
                    async with self._short_channel() as channel:
                        while declaration is not None:
                            async with asyncio.timeout(self._timeout):
                                await declaration(channel)
                            declaration = next(remaining, None)
            except ConfigurationError as problem:
                problems.append(str(problem))
                declaration = next(remaining, None)
        if problems:
            raise ConfigurationError(
                "RabbitMQ holds something else than Acequia needs: "
                + "; ".join(problems)
                + ". Drain and delete what differs (`rabbitmqctl delete_queue NAME`): it is made anew at the next start"
            )
        self._topology = topology
        self._applied_to = connection

    async def check(self) -> None:
        """A round trip to the broker: a channel is opened and closed. Not if the broker blocks those who publish."""
        with self.edge():
            async with asyncio.timeout(min(_CHECK_SECONDS, self._timeout)), self._short_channel():
                return

    async def close(self) -> None:
        """Hand back what is in hand. A second call does nothing."""
        for subscription in list(self._subscriptions):
            await subscription.close(grace=0)
        self._closed = True
        if self._attempt is not None and not self._attempt.done():
            self._attempt.cancel()
            await asyncio.wait({self._attempt})
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._dispose(connection)

    # the connection

    async def _connected(self) -> AbstractConnection:
        """The connection, made anew where it was lost. Who comes while it is made waits for the same attempt."""
        if self._closed:
            raise _away("the bus is closed")
        if (connection := self._connection) is not None and connection.connected.is_set():
            return connection
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.create_task(self._open())
        attempt = self._attempt
        await asyncio.wait({attempt})
        if attempt.cancelled():
            raise _away("the bus is closed")
        match attempt.result():
            case TransientFailure() as failure:
                raise TransientFailure(str(failure), dependency=failure.dependency, away=failure.away) from failure
            case ConfigurationError() as error:
                raise ConfigurationError(str(error), mend=error.mend) from error
            case AcequiaError() as error:
                raise ConfigurationError(str(error)) from error
            case connection:
                return connection

    async def _open(self) -> AbstractConnection | AcequiaError:
        """An error is returned, not raised: nobody may be left to hear of it."""
        if self._connection is not None:
            old, self._connection = self._connection, None
            await self._dispose(old)
        try:
            with self.edge():
                async with asyncio.timeout(self._timeout):
                    connection = await aio_pika.connect(
                        self._url, client_properties={"connection_name": "acequia"}, ssl_context=self._trusted
                    )
        except AcequiaError as error:
            return error
        self._connection = connection
        return connection

    async def _dispose(self, connection: AbstractConnection) -> None:
        try:
            with self.edge():
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await connection.close()
        except AcequiaError as error:
            log.debug("closing the connection to RabbitMQ: %s", error)

    async def channel(self, *, confirms: bool) -> AbstractChannel:
        """A new channel. Call it within `edge`."""
        connection = await self._connected()
        channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        async with asyncio.timeout(self._timeout):
            await channel.initialize()
        return channel

    @asynccontextmanager
    async def _short_channel(self) -> AsyncIterator[AbstractChannel]:
        channel = await self.channel(confirms=False)
        try:
            yield channel
        finally:
            if not channel.is_closed:
                await channel.close()

    @contextmanager
    def edge(self) -> Iterator[None]:
        """The one place where third-party errors become ours. `_NotThere` is for the caller."""
        try:
            yield
        except AcequiaError:
            raise
        except asyncio.CancelledError:
            # the client library cancels whoever waits on a lost connection: only a cancel meant for us is one
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _away(f"the connection to {self.server} was lost") from None
        except _FAILURES as error:
            raise self._translated(error) from error
        except Exception as error:
            # aiormq ends what waits on a lost connection with a bare `Exception()`
            if type(error) is not Exception:
                raise
            raise _away(f"the connection to {self.server} was lost") from error

    def _translated(self, error: BaseException) -> Exception:
        result: Exception
        match error:
            case AuthenticationError() | ProbableAuthenticationError():
                result = ConfigurationError(f"{self.server} refuses the user or password of RABBITMQ_URL")
            case ChannelNotFoundEntity():
                result = _NotThere(_said(error))
            case PublishError():
                result = _NotThere("returned as unroutable")
            case DeliveryError():
                result = QueueFull(f"{self.server} does not take the message: {error}", dependency="rabbitmq")
            case ChannelClosed():
                result = ConfigurationError(_said(error))
            case ConnectionClosed() if error.args and error.args[0] in (_ACCESS_REFUSED, _NOT_ALLOWED):
                result = ConfigurationError(f"{self.server} refuses RABBITMQ_URL: {_said(error)}")
            case ConnectionClosed():
                result = _away(f"the connection to {self.server} was lost: {_said(error)}")
            case InvalidFrameError():
                result = _away(f"{self.server} ended the handshake: is the virtual host of RABBITMQ_URL there?")
            case TimeoutError():
                result = _away(f"{self.server} does not answer")
            case _:
                result = _away(f"{self.server} cannot be reached: {error!r}{untrusted(error, 'RABBITMQ_CA_FILE')}")
        return result

    @property
    def server(self) -> str:
        return f"RabbitMQ at {self._url.host}:{self._url.port or (5671 if self._url.scheme == 'amqps' else 5672)}"

    # publishing

    async def _send(self, exchange: str, routing_key: str, message: Message, told: Mapping[str, str]) -> None:
        """Confirmed; `told`: headers of ours beside the message's own."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        outgoing = _outgoing(message, told)
        while True:
            try:
                with self.edge():
                    async with asyncio.timeout_at(deadline):
                        await self._send_once(exchange, routing_key, outgoing)
                return
            except _NotThere as absent:
                if not await self.restore():
                    what = f"{routing_key!r} of the exchange {exchange!r}"
                    raise TransientFailure(
                        f"no queue takes {what}: is the topology applied? ({absent})", dependency="rabbitmq"
                    ) from absent
            except TransientFailure as failure:
                if not failure.away or self._closed or loop.time() + _PAUSE >= deadline:
                    raise
            await asyncio.sleep(_PAUSE)

    async def _send_once(self, exchange: str, routing_key: str, outgoing: aio_pika.Message) -> None:
        # the client library knows a returned message by its id: two with one id must not be under way at once
        name = outgoing.message_id or ""
        async with self._same_id.setdefault(name, asyncio.Lock()):
            channel = await self._publisher()
            await self._surely(exchange)
            there = await channel.get_exchange(exchange, ensure=False)
            try:
                await there.publish(outgoing, routing_key, mandatory=True)
            except ChannelClosed as error:
                raise _away(f"the channel was closed: {_said(error)}") from error

    async def _surely(self, exchange: str) -> None:
        """To publish to a missing exchange costs all publishers the channel, and often the connection: ask before."""
        connection = await self._connected()
        if connection is not self._seen_on:
            self._seen_on, self._seen = connection, {""}
        if exchange not in self._seen:
            async with self._short_channel() as channel:
                await channel.declare_exchange(exchange, passive=True)
            self._seen.add(exchange)

    async def _publisher(self) -> AbstractChannel:
        async with self._opening:
            channel = self._publishing
            if channel is None or channel.is_closed:
                channel = self._publishing = await self.channel(confirms=True)
            return channel

    async def restore(self) -> bool:
        """A broker that came back without its data gets the topology again. Whether there was any need."""
        if self._topology is None or self._applied_to is await self._connected():
            return False
        await self.apply(self._topology)
        return True

    # for subscriptions

    async def climb(self, delivery: Delivery, queue: Queue) -> None:
        """A confirmed copy to the next rung."""
        rung = queue.retry_queue(queue.retry_delays[delivery.attempt - 1])
        await self._send("", rung, delivery.message, {ATTEMPT: str(delivery.attempt + 1)})

    async def bury(self, delivery: Delivery, queue: Queue, reason: str, traceback: str) -> None:
        """A confirmed copy to the dead-letter queue, with what a person needs to understand."""
        assert queue.dead is not None
        told = {
            ERROR: reason[:_REASON_LIMIT],
            TRACEBACK: traceback[-_TRACEBACK_LIMIT:],
            STAGE: queue.stage,
            ATTEMPT: str(delivery.attempt),
            DIED_AT: datetime.now(UTC).isoformat(),
        }
        await self._send("", queue.dead, delivery.message, told)

    async def again(self, queue: str) -> None:
        """`queue` is missing, though the topology was applied: declare everything once more."""
        if self._topology is not None:
            log.warning("%s has lost the queue %s: declaring the topology again", self.server, queue)
            await self.apply(self._topology)

    def forget(self, subscription: "RabbitSubscription") -> None:
        self._subscriptions.discard(subscription)


class RabbitSubscription:
    """One consumer of a queue, on a channel of its own, which it opens again whenever it is lost."""

    def __init__(self, bus: RabbitBus, queue: Queue, handler: Handler, concurrency: int) -> None:
        self._bus = bus
        self._queue = queue
        self._handler = handler
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._channel: AbstractChannel | None = None
        self._tag: str | None = None
        self._wanted = True
        self._closed = False
        self._changing = asyncio.Lock()
        self._disturbed = asyncio.Event()
        self._hands: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._attend()
        self._keeper = asyncio.create_task(self._keep())

    async def pause(self) -> None:
        self._wanted = False
        await self._attend_or_later()

    async def resume(self) -> None:
        self._wanted = True
        await self._attend_or_later()

    async def close(self, *, grace: float) -> None:
        """A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._bus.forget(self)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        async with self._changing:
            await self._quietly(self._stop_consuming())
        if self._hands and grace > 0:
            await asyncio.wait(set(self._hands), timeout=grace)
        hands = set(self._hands)
        for task in hands:
            task.cancel()
        if hands:
            await asyncio.wait(hands)
        if (channel := self._channel) is not None and not channel.is_closed:
            # the broker takes back what is not acknowledged
            await self._quietly(channel.close())

    # keeping the consumer as it should be

    async def _keep(self) -> None:
        pause = _PAUSE
        while True:
            await self._disturbed.wait()
            self._disturbed.clear()
            try:
                await self._attend()
                pause = _PAUSE
            except AcequiaError as error:
                level = logging.WARNING if pause == _PAUSE else logging.DEBUG  # once for each interruption
                log.log(level, "consuming %s is interrupted: %s", self._queue.name, error)
                self._disturbed.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _attend_or_later(self) -> None:
        try:
            await self._attend()
        except AcequiaError as error:
            log.debug("%s: %s", self._queue.name, error)
            self._disturbed.set()

    async def _attend(self) -> None:
        """Make it so: a channel with prefetch, and a consumer on it unless we pause."""
        async with self._changing:
            if self._closed:
                return
            try:
                with self._bus.edge():
                    await self._attend_once()
            except _NotThere:
                await self._bus.again(self._queue.name)
                with self._bus.edge():
                    await self._attend_once()

    async def _attend_once(self) -> None:
        channel = self._channel
        if channel is None or channel.is_closed:
            self._tag = None
            channel = await self._bus.channel(confirms=False)
            self._channel = channel
            channel.close_callbacks.add(self._on_disturbance)
            below = await channel.get_underlay_channel()
            below.on_consumer_cancel_callbacks.add(partial(self._on_cancel, channel))
            async with asyncio.timeout(_CLOSE_SECONDS):
                await channel.set_qos(prefetch_count=self._concurrency)
        if self._wanted and self._tag is None:
            queue = await channel.get_queue(self._queue.name, ensure=False)
            async with asyncio.timeout(_CLOSE_SECONDS):
                self._tag = await queue.consume(partial(self._receive, channel))
        elif not self._wanted:
            await self._stop_consuming()

    async def _stop_consuming(self) -> None:
        tag, self._tag = self._tag, None
        if tag is not None and self._channel is not None and not self._channel.is_closed:
            queue = await self._channel.get_queue(self._queue.name, ensure=False)
            async with asyncio.timeout(_CLOSE_SECONDS):
                await queue.cancel(tag)

    async def _quietly(self, act: Awaitable[Any]) -> None:
        try:
            with self._bus.edge():
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await act
        except AcequiaError as error:
            log.debug("%s: %s", self._queue.name, error)

    def _on_disturbance(self, *_: object) -> None:
        self._disturbed.set()

    def _on_cancel(self, channel: AbstractChannel, _: object) -> None:
        """The broker cancelled the consumer: the queue was deleted, or its leader moved."""
        if channel is self._channel:
            self._tag = None
            self._disturbed.set()

    # one message

    async def _receive(self, channel: AbstractChannel, incoming: AbstractIncomingMessage) -> None:
        # a task of its own: this callback is cancelled when the connection drops
        if not self._closed:
            task = asyncio.create_task(self._handle(channel, incoming))
            self._hands.add(task)
            task.add_done_callback(self._hands.discard)

    async def _handle(self, channel: AbstractChannel, incoming: AbstractIncomingMessage) -> None:
        delivery = _delivery(self._queue, incoming)
        # after a reconnect those of before may still be at work
        async with self._slots:
            if self._closed or channel.is_closed:
                return
            try:
                settlement = await self._handler(delivery)
            except Exception:
                log.exception("the handler of %s raised, which it must not: handing back", self._queue.name)
                settlement = HandBack()
        try:
            await self._settle(channel, incoming, delivery, settlement)
        except AcequiaError as error:
            log.debug("the settlement of a message of %s is dropped, it comes again: %s", self._queue.name, error)

    async def _settle(
        self,
        channel: AbstractChannel,
        incoming: AbstractIncomingMessage,
        delivery: Delivery,
        settlement: Settlement,
    ) -> None:
        if channel.is_closed:
            log.debug("the connection of a message of %s is gone: it comes again", self._queue.name)
            return
        try:
            await self._move(delivery, settlement)
        except _Return as returned:
            await self._return(incoming, after=returned.after)
        except (TransientFailure, ConfigurationError) as error:
            log.warning("a message of %s cannot be moved, it is handed back: %s", self._queue.name, error)
            await self._return(incoming, after=_PAUSE)
        else:
            with self._bus.edge():
                await incoming.ack()

    async def _move(self, delivery: Delivery, settlement: Settlement) -> None:
        """Where a settlement wants a copy elsewhere, put it there; then the message itself can be acknowledged."""
        queue = self._queue
        match settlement:
            case Ack():
                return
            case HandBack():
                raise _Return(after=_PAUSE)
            case Retry() if delivery.attempt <= len(queue.retry_delays):
                await self._bus.climb(delivery, queue)
            case Retry() | Dead() if queue.dead is None:
                raise _Return(after=RETRY_WITHOUT_LADDER)
            case Retry(reason=reason, traceback=traceback) | Dead(reason=reason, traceback=traceback):
                await self._bus.bury(delivery, queue, reason, traceback)

    async def _return(self, incoming: AbstractIncomingMessage, *, after: float) -> None:
        """Back into the queue; when we are stopping, by closing the channel."""
        if not self._closed:
            await asyncio.sleep(after)
        if not self._closed:
            with self._bus.edge():
                await incoming.nack(requeue=True)


class _NotThere(ConfigurationError):
    """The broker has no such queue or exchange, or no queue takes the message: some who ask know what to do then."""


class _Return(Exception):
    """The message goes back into its queue, after so many seconds."""

    def __init__(self, after: float) -> None:
        super().__init__(after)
        self.after = after


def queue_arguments(queue: Queue) -> dict[str, dict[str, Any]]:
    """The quorum queue and its rungs, with the arguments they are declared with.

    Dead-lettering is at least once, which wants `reject-publish`: the default loses.
    """
    if queue.dead is None:
        return {queue.name: {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT}}

    def leading_to(target: str) -> dict[str, Any]:
        return {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": target,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }

    own: dict[str, Any] = {**leading_to(queue.dead), "x-delivery-limit": queue.delivery_limit}
    if queue.most is not None:
        own["x-max-length"] = queue.most
    return {
        queue.name: own,
        **{rung: {**leading_to(queue.name), "x-message-ttl": delay * 1000} for rung, delay in queue.rungs.items()},
    }


async def _declare_exchange(exchange: Exchange, channel: AbstractChannel) -> None:
    await channel.declare_exchange(exchange.name, exchange.type, durable=True)


async def _declare_queue(name: str, arguments: dict[str, Any], channel: AbstractChannel) -> None:
    await channel.declare_queue(name, durable=True, arguments=arguments)


async def _bind(queue: str, exchange: str, routing_key: str, channel: AbstractChannel) -> None:
    there = await channel.get_queue(queue, ensure=False)
    await there.bind(exchange, routing_key)


def _outgoing(message: Message, told: Mapping[str, str]) -> aio_pika.Message:
    return aio_pika.Message(
        message.body,
        headers={**message.headers, **told},
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=message.message_id or f"{_UNNAMED}{uuid4().hex}",
        type=message.type or None,
    )


def _delivery(queue: Queue, incoming: AbstractIncomingMessage) -> Delivery:
    headers = {name: _text(value) for name, value in incoming.headers.items() if not name.startswith(_BROKERS_HEADERS)}
    attempt = 1
    if queue.dead is not None:
        counted = headers.pop(ATTEMPT, "")
        attempt = max(1, int(counted)) if counted.isascii() and counted.isdigit() else 1
    elif ERROR not in headers and "x-death" in incoming.headers:
        headers |= _died_by_itself(queue, incoming.headers)
    name = incoming.message_id or ""
    message = Message(
        body=incoming.body,
        type=incoming.type or "",
        message_id="" if name.startswith(_UNNAMED) else name,
        headers=headers,
    )
    return Delivery(queue.name, message, attempt, bool(incoming.redelivered))


def _died_by_itself(queue: Queue, headers: Mapping[str, Any]) -> dict[str, str]:
    """Of a message that the broker moved to the dead-letter queue, what we would have told."""
    deaths = [death for death in headers["x-death"] or () if isinstance(death, dict)]
    last = next((d for d in deaths if d.get("reason") == "delivery_limit"), deaths[0] if deaths else {})
    reason = _text(last.get("reason", "unknown"))
    died_at = last.get("time")
    return {
        ERROR: "delivery limit reached" if reason == "delivery_limit" else f"dead-lettered by the broker: {reason}",
        TRACEBACK: "",
        STAGE: queue.stage,
        ATTEMPT: _text(headers.get(ATTEMPT, "1")),
        DIED_AT: (died_at if isinstance(died_at, datetime) else datetime.now(UTC)).isoformat(),
    }


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _said(error: BaseException) -> str:
    """What the broker said, without the client library's frame."""
    for argument in reversed(error.args):
        with contextlib.suppress(AttributeError):
            return str(argument.reply_text)
        if isinstance(argument, str):
            return argument
    return repr(error)


def _away(message: str) -> TransientFailure:
    return TransientFailure(message, dependency="rabbitmq", away=True)
