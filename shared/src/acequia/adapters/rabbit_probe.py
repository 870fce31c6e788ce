"""What only the doctor asks of a broker: who answers at the address, whether what is declared is what we need, who
consumes, which events come by.

Nothing that is missing is made, but for queues that go by themselves. Errors carry what is wrong and, as `mend`, what
to set or to run.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AuthenticationError, ConnectionClosed, InvalidFrameError, ProbableAuthenticationError

from acequia.adapters.rabbit import _ACCESS_REFUSED, _NOT_ALLOWED, RabbitBus, _NotThere, _said
from acequia.errors import ConfigurationError, TransientFailure
from acequia.topology import Exchange

_SECONDS = 5.0
_GREETING = b"AMQP\x00\x00\x09\x01"
_EXPIRES_AFTER = 600_000
"""Milliseconds. A queue that dead-letters at least once is not deleted: see `dead_letters_arrive`."""


@dataclass(frozen=True, slots=True)
class QueueLook:
    messages: int
    consumers: int


@dataclass(frozen=True, slots=True)
class Heard:
    """An event of a store, as it came by."""

    routing_key: str
    body: bytes
    persistent: bool
    at: float
    """By the event loop's clock."""


class RabbitProbe(RabbitBus):
    """`async with RabbitProbe(settings) as probe: ...`"""

    async def reach(self) -> None:
        """Say what an AMQP client says first, and see who answers.

        TransientFailure where nobody does, ConfigurationError where it is another server, or TLS is wanted or not.
        """
        host, secure = self._url.host or "", self._url.scheme == "amqps"
        port = self._url.port or (5671 if secure else 5672)
        try:
            async with asyncio.timeout(_SECONDS):
                reader, writer = await asyncio.open_connection(host, port, ssl=self._trusted)
                try:
                    writer.write(_GREETING)
                    try:
                        first = await asyncio.wait_for(reader.read(8), _SECONDS / 3)
                    except TimeoutError:
                        writer.write(b"\r\n\r\n")  # a web server waits for the end of what it takes for a request
                        first = await reader.read(8)
                finally:
                    writer.close()
        except ssl.SSLCertVerificationError as error:
            raise ConfigurationError(
                f"{host}:{port} shows a certificate that this machine does not trust: {error.verify_message}",
                mend="set RABBITMQ_CA_FILE=/path/to/ca.pem, the CA that signed it",
            ) from None
        except ssl.SSLError:
            raise ConfigurationError(
                f"{host}:{port} does not speak TLS, and RABBITMQ_URL begins with amqps://",
                mend="set RABBITMQ_URL to amqp://..., or to the broker's TLS port (5671 by default)",
            ) from None
        except TimeoutError:
            raise _silent(f"{host}:{port} of RABBITMQ_URL does not answer within {_SECONDS:g} s") from None
        except OSError as error:
            if isinstance(error, socket.gaierror):
                raise _silent(f"nobody knows the host {host!r} of RABBITMQ_URL") from None
            raise _silent(f"nothing listens at {host}:{port} of RABBITMQ_URL ({_reason(error)})") from None
        if first.startswith(b"HTTP"):
            raise ConfigurationError(
                f"{host}:{port} speaks HTTP: these are RabbitMQ's management pages, or some other web server",
                mend="set RABBITMQ_URL to the broker's AMQP port: 5672 by default",
            )
        if first[:1] == b"\x15":
            raise ConfigurationError(
                f"{host}:{port} wants TLS, and RABBITMQ_URL begins with amqp://",
                mend="set RABBITMQ_URL to amqps://..., or to the broker's port without TLS (5672 by default)",
            )
        if not first.startswith(b"\x01\x00\x00"):
            raise ConfigurationError(
                f"{host}:{port} does not answer as a broker does (AMQP 0-9-1); it said {first!r}",
                mend="set RABBITMQ_URL to amqp://user:password@host:5672/, the address of RabbitMQ",
            )

    async def version(self) -> str:
        """The broker's version; logs in and opens the virtual host."""
        connection = await self._connected()
        transport = connection.transport
        assert transport is not None
        told = transport.connection.server_properties.get("version", "")
        return told.decode() if isinstance(told, bytes) else str(told)

    async def compare_exchange(self, exchange: Exchange) -> str | None:
        """None where it stands as we need it, else what the broker says of the difference. KeyError: there is none."""
        try:
            with self.edge():
                async with asyncio.timeout(_SECONDS), self._short_channel() as channel:
                    await channel.declare_exchange(exchange.name, passive=True)
                    await channel.declare_exchange(exchange.name, exchange.type, durable=True)
        except _NotThere:
            raise KeyError(exchange.name) from None
        except ConfigurationError as error:
            return str(error)
        return None

    async def compare_queue(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        """As `compare_exchange`: passively first, so that nothing is made."""
        try:
            with self.edge():
                async with asyncio.timeout(_SECONDS), self._short_channel() as channel:
                    await channel.declare_queue(name, passive=True)
                    await channel.declare_queue(name, durable=True, arguments=dict(arguments))
        except _NotThere:
            raise KeyError(name) from None
        except ConfigurationError as error:
            return str(error)
        return None

    async def look(self, queue: str) -> QueueLook | None:
        """Messages that wait and consumers that are there; None where there is no such queue."""
        try:
            with self.edge():
                async with asyncio.timeout(_SECONDS), self._short_channel() as channel:
                    there = (await channel.declare_queue(queue, passive=True)).declaration_result
                    return QueueLook(there.message_count or 0, there.consumer_count or 0)
        except _NotThere:
            return None

    async def leads_somewhere(self, exchange: str, routing_key: str, body: bytes) -> bool:
        """Whether a queue is bound: the broker returns what it can not route. The message goes to who is bound."""
        try:
            with self.edge():
                async with asyncio.timeout(_SECONDS):
                    channel = await self._publisher()
                    there = await channel.get_exchange(exchange, ensure=False)
                    await there.publish(aio_pika.Message(body, message_id=uuid4().hex), routing_key, mandatory=True)
        except _NotThere:
            return False
        return True

    @asynccontextmanager
    async def listen(self, exchange: str) -> AsyncIterator["asyncio.Queue[Heard]"]:
        """Everything that comes to `exchange` from now on, by an exclusive queue that goes with the connection."""
        heard: asyncio.Queue[Heard] = asyncio.Queue()

        async def hear(message: AbstractIncomingMessage) -> None:
            persistent = message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
            now = asyncio.get_running_loop().time()
            heard.put_nowait(Heard(message.routing_key or "", message.body, persistent, now))

        with self.edge():
            async with asyncio.timeout(_SECONDS):
                channel = await self.channel(confirms=False)
                queue = await channel.declare_queue(
                    _queue_name(),
                    exclusive=True,
                    auto_delete=True,
                    arguments={"x-max-length": 10_000},
                )
                await queue.bind(exchange, "#")
                await queue.consume(hear, no_ack=True)
        try:
            yield heard
        finally:
            with contextlib.suppress(TransientFailure, ConfigurationError, _NotThere), self.edge():
                async with asyncio.timeout(_SECONDS):
                    await channel.close()

    async def dead_letters_arrive(self, seconds: float) -> bool:
        """Whether a message whose time is up comes from a quorum queue to where it is dead-lettered, at least once.

        That queue is left to expire: one that is deleted just after the broker's start may take the supervisor of all
        these queues' workers with it (rabbitmq-server issue 16652).
        ConfigurationError where the broker can not make such a queue.
        """
        came = asyncio.Event()

        async def hear(_: AbstractIncomingMessage) -> None:
            came.set()

        name = _queue_name()
        with self.edge():
            async with asyncio.timeout(seconds):
                channel = await self.channel(confirms=True)
                try:
                    target = await channel.declare_queue(f"{name}.target", exclusive=True, auto_delete=True)
                    await target.consume(hear, no_ack=True)
                    arguments: dict[str, Any] = {
                        "x-queue-type": "quorum",
                        "x-dead-letter-exchange": "",
                        "x-dead-letter-routing-key": f"{name}.target",
                        "x-dead-letter-strategy": "at-least-once",
                        "x-overflow": "reject-publish",
                        "x-message-ttl": 100,
                        "x-expires": _EXPIRES_AFTER,
                    }
                    await channel.declare_queue(name, durable=True, arguments=arguments)
                    await channel.default_exchange.publish(aio_pika.Message(b"{}"), name)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(came.wait(), seconds / 2)
                finally:
                    if not channel.is_closed:
                        await channel.close()
        return came.is_set()

    def _translated(self, error: BaseException) -> Exception:
        user, host, virtual = self._url.user, self._url.host, self._virtual_host
        if isinstance(error, AuthenticationError | ProbableAuthenticationError):
            return ConfigurationError(
                f"{self.server} refuses the user {user!r}: the user or the password of RABBITMQ_URL is wrong"
                + (" (guest may log in from the broker's own machine only)" if user == "guest" else ""),
                mend=f"set the user and the password in RABBITMQ_URL (percent-encoded), or on the broker: "
                f"`rabbitmqctl change_password {user} ...`",
            )
        refused = (
            isinstance(error, ConnectionClosed) and error.args and error.args[0] in (_ACCESS_REFUSED, _NOT_ALLOWED)
        )
        if isinstance(error, InvalidFrameError) or refused:
            said = _said(error) if refused else "there is none, or the user has no permissions on it"
            return ConfigurationError(
                f"{self.server} does not open the virtual host {virtual!r} to the user {user!r}: {said}",
                mend=f"set the virtual host in RABBITMQ_URL (amqp://user:password@{host}:5672/<name>), or on the "
                f"broker: `rabbitmqctl add_vhost {virtual}` and "
                f"`rabbitmqctl set_permissions -p {virtual} {user} '.*' '.*' '.*'`",
            )
        return super()._translated(error)

    @property
    def _virtual_host(self) -> str:
        return self._url.path.removeprefix("/") or "/"


def _reason(error: OSError) -> str:
    """What the system says ("Connection refused"), without the address that asyncio adds."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _queue_name() -> str:
    return f"acequia.doctor.{uuid4().hex}"


def _silent(message: str) -> TransientFailure:
    return TransientFailure(message, dependency="rabbitmq", away=True)
