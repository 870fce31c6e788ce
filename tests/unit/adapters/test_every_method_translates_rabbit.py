"""Whatever RabbitMQ or its client library says, to whichever call of whichever method, comes out as an error of ours.

The methods are found on the adapter, so that a new one cannot be forgotten. Each is run once, on a client library that
does what it is asked, to count its calls; then again for each of these, from which on all calls fail.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import aio_pika
import pytest
from aio_pika import exceptions as pika
from aiormq import exceptions as rmq
from pamqp.commands import Basic

from acequia.adapters import rabbit
from acequia.adapters.rabbit import RabbitBus, RabbitSubscription
from acequia.errors import AcequiaError, TransientFailure
from acequia.ports import Bus, Message, Subscription
from acequia.settings import RabbitSettings

from .conftest import AWAY, LATER, PERSON, QUEUE, TABLE, ack, calls_of_bus, kind_of, of_port, public


class Library:
    """A client library whose calls all succeed, until number `at`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at = -1
        self.error: Callable[[], BaseException] = Exception

    async def ask(self, what: str) -> None:
        self.asked.append(what)
        if 0 <= self.at < len(self.asked):
            raise self.error()

    async def connect(self, *_, **__):
        await self.ask("connect")
        there = asyncio.Event()
        there.set()

        async def close():
            there.clear()

        return SimpleNamespace(connected=there, channel=lambda **_: self.channel(), close=close)

    def channel(self):
        def doing(what, answer=None):
            async def do(*_, **__):
                await self.ask(what)
                return answer

            return do

        def finding(made):
            async def find(*_, **__):
                return made

            return find

        answer = SimpleNamespace(declaration_result=SimpleNamespace(message_count=0), bind=doing("bind"))
        queue = SimpleNamespace(bind=doing("bind"), consume=doing("consume", "tag"), cancel=doing("cancel"))
        below = SimpleNamespace(on_consumer_cancel_callbacks=set())
        return SimpleNamespace(
            is_closed=False,
            close_callbacks=set(),
            initialize=doing("channel"),
            set_qos=doing("set_qos"),
            declare_queue=doing("declare_queue", answer),
            declare_exchange=doing("declare_exchange"),
            get_queue=finding(queue),
            get_exchange=finding(SimpleNamespace(publish=doing("publish"))),
            get_underlay_channel=finding(below),
            close=finding(None),
        )


@pytest.fixture
def library(monkeypatch) -> Library:
    made = Library()
    monkeypatch.setattr(aio_pika, "connect", made.connect)
    monkeypatch.setattr(rabbit, "_PAUSE", 0.005)
    return made


def bus_of(patience: float = 0.05) -> RabbitBus:
    return RabbitBus(RabbitSettings(url="amqp://guest:s3cret@127.0.0.1:1/"), timeout=1, publish_patience=patience)


def calls(bus) -> dict[str, Callable[[], Awaitable[object]]]:
    return calls_of_bus(bus, lambda: bus.publish("acequia.objects", "object.raw", Message(b"{}")))


METHODS = sorted(of_port(Bus) - {"close"})
BETWEEN_OUR_CLASSES = {"channel", "restore", "climb", "bury", "again", "connect"}
"""What the bus and its subscriptions need of each other (`connect` connects and no more): reached by the methods."""


def test_no_method_is_left_out():
    assert set(calls(SimpleNamespace(check=None, close=None))) == of_port(Bus)
    assert public(RabbitBus) == of_port(Bus) | BETWEEN_OUR_CLASSES
    assert public(RabbitSubscription) == of_port(Subscription) | {"start"}


def closed(kind, code, text):
    return lambda: kind(code, text)


FROM_THE_LIBRARY = {
    "cannot connect": (lambda: pika.AMQPConnectionError("refused"), AWAY),
    "refused": (lambda: ConnectionRefusedError(111, "refused"), AWAY),
    "reset": (lambda: ConnectionResetError(104, "reset"), AWAY),
    "no such host": (lambda: OSError(-2, "unknown name"), AWAY),
    "no answer": (TimeoutError, AWAY),
    "shut down": (closed(rmq.ConnectionClosed, 320, "CONNECTION_FORCED - shutdown"), AWAY),
    "broken inside": (closed(rmq.ConnectionInternalError, 541, "INTERNAL_ERROR"), AWAY),
    "out of memory": (closed(rmq.ConnectionResourceError, 506, "RESOURCE_ERROR"), AWAY),
    "an end of the handshake": (lambda: pika.InvalidFrameError("end"), AWAY),
    "a state error": (lambda: pika.ChannelInvalidStateError("closed"), AWAY),
    "a runtime error": (lambda: RuntimeError("connection closed"), AWAY),
    "end of file": (EOFError, AWAY),
    "a bare exception": (Exception, AWAY),
    "a cancel that is not ours": (asyncio.CancelledError, AWAY),
    "too full": (lambda: pika.DeliveryError(None, Basic.Nack()), AWAY),
    "wrong password": (lambda: pika.AuthenticationError("refused"), PERSON),
    "wrong password, it seems": (lambda: pika.ProbableAuthenticationError("closed"), PERSON),
    "access refused": (closed(rmq.ConnectionClosed, 403, "ACCESS_REFUSED"), PERSON),
    "no such virtual host": (closed(rmq.ConnectionNotAllowed, 530, "NOT_ALLOWED - vhost"), PERSON),
    "other arguments": (closed(rmq.ChannelPreconditionFailed, 406, "PRECONDITION_FAILED - x-overflow"), PERSON),
    "no right to it": (closed(rmq.ChannelAccessRefused, 403, "ACCESS_REFUSED - queue"), PERSON),
    "locked": (closed(rmq.ChannelLockedResource, 405, "RESOURCE_LOCKED"), PERSON),
    "not there": (closed(rmq.ChannelNotFoundEntity, 404, "NOT_FOUND - no queue"), PERSON),
}


@pytest.mark.parametrize("name", sorted(FROM_THE_LIBRARY))
@pytest.mark.parametrize("method", METHODS)
async def test_every_error_of_the_broker_and_of_its_client_library_becomes_ours(method, name, library):
    bus = bus_of(patience=30)  # nothing fails yet, however slow the machine
    await calls(bus)[method]()
    count = len(library.asked)
    await bus.close()
    error, expected = FROM_THE_LIBRARY[name]
    # of declarations, which are many of a kind: the first calls, and the last
    for at in [n for n in range(count) if n < 4 or n == count - 1]:
        library.asked, library.at, library.error = [], -1, error
        bus = bus_of()
        library.at = at
        with pytest.raises(AcequiaError) as caught:
            await calls(bus)[method]()
        library.at = -1
        await bus.close()
        what = f"call {at} ({library.asked[at]}): {caught.value!r}"
        if method == "publish":
            # a closed channel is opened again for as long as a publish is patient; an absent queue may come
            assert kind_of(caught.value) in (expected, AWAY, LATER), what
        else:
            assert kind_of(caught.value) == expected, what
        assert "s3cret" not in str(caught.value)


async def test_a_publish_that_no_queue_takes_is_transient_and_not_for_want_of_a_broker(library):
    bus = bus_of()
    library.error = lambda: pika.PublishError(SimpleNamespace(delivery=Basic.Return(312, "NO_ROUTE")), Basic.Return())
    library.at = 4
    with pytest.raises(TransientFailure, match="no queue takes") as caught:
        await bus.publish("acequia.objects", "object.raw", Message(b"{}"))
    assert not caught.value.away
    library.at = -1
    await bus.close()


@pytest.mark.parametrize("name", sorted(FROM_THE_LIBRARY))
async def test_a_subscription_never_raises_and_comes_back_by_itself(name, library):
    bus = bus_of()
    await bus.apply(TABLE)
    subscription = await bus.consume(QUEUE, ack, concurrency=1)
    library.asked, library.error, library.at = [], FROM_THE_LIBRARY[name][0], 0
    await subscription.pause()
    await subscription.resume()
    await subscription.pause()
    library.at, library.asked = -1, []
    await subscription.resume()
    for _ in range(1000):
        if subscription._tag is not None:
            break
        await asyncio.sleep(0.005)
    assert subscription._tag is not None, "it consumes no more"
    library.at = 0
    await subscription.close(grace=0)
    await subscription.close(grace=0)
    library.at = -1
    await bus.close()
