"""What only a real RabbitMQ can show about its adapter; what every bus does is in tests/contract."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import uuid4

import aio_pika
import pytest
from yarl import URL

from acequia.adapters.rabbit import RabbitBus
from acequia.errors import ConfigurationError, TransientFailure
from acequia.layers import Buckets
from acequia.ports import Ack, HandBack, Message
from acequia.settings import RabbitSettings
from acequia.topology import Exchange, Queue, Topology

pytestmark = pytest.mark.stack


def table(queues, exchanges=()) -> Topology:
    return Topology(exchanges=exchanges, queues=queues, bindings=(), buckets=Buckets(), layers=())


@dataclass
class Names:
    """Queues of the test's own."""

    prefix: str = field(default_factory=lambda: f"t{uuid4().hex[:12]}")
    left: bool = False
    """They stay: a queue that is deleted just after the broker's start, while its dead-letter worker starts, may take
    the supervisor of all these workers down (rabbitmq-server issue 16652), and then no such queue works any more."""

    @property
    def work(self) -> Queue:
        return Queue(f"{self.prefix}.work", "tester", f"{self.prefix}.dead", (1,), 3)

    @property
    def dead(self) -> Queue:
        return Queue(f"{self.prefix}.dead", "tester", None)


@pytest.fixture
async def names(stack) -> AsyncIterator[Names]:
    names = Names()
    yield names
    if names.left:
        return
    connection = await aio_pika.connect(stack.rabbit.url.get_secret_value())
    async with connection, connection.channel() as channel:
        for queue in (names.work.name, names.work.retry_queue(1), names.dead.name):
            await channel.queue_delete(queue)


@pytest.fixture
async def bus(stack, names) -> AsyncIterator[RabbitBus]:
    bus = await RabbitBus.connect(stack.rabbit)
    await bus.apply(table((names.work, names.dead)))
    yield bus
    await bus.close()


async def until(condition):
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


async def test_a_broker_that_restarts_gets_its_consumers_back_and_gives_what_was_in_hand_again(stack, bus, names):
    came, gate = [], asyncio.Event()

    async def hold(delivery):
        came.append(delivery.message.message_id)
        await gate.wait()
        return Ack()

    await bus.consume(names.work.name, hold, concurrency=2)
    for number in range(4):
        await bus.publish("", names.work.name, Message(b"{}", message_id=str(number)))
    await until(lambda: len(came) == 2)
    names.left = True
    stack.stop_one("rabbitmq", kill=True)
    gate.set()
    with pytest.raises(TransientFailure) as caught:
        await bus.publish("", names.work.name, Message(b"{}"))
    assert caught.value.away
    await asyncio.to_thread(stack.start_one, "rabbitmq")
    await bus.publish("", names.work.name, Message(b"{}", message_id="after"))
    await until(lambda: len(came) == 7)
    assert sorted(came) == ["0", "0", "1", "1", "2", "3", "after"]


async def test_a_publish_waits_through_a_short_absence(stack, bus, names):
    names.left = True
    stack.stop_one("rabbitmq")
    patient = RabbitBus(stack.rabbit, publish_patience=60)
    publish = asyncio.create_task(patient.publish("", names.work.name, Message(b"{}")))
    await asyncio.to_thread(stack.start_one, "rabbitmq")
    await publish
    assert await bus.depth(names.work.name) == 1
    await patient.close()


async def test_what_the_broker_buries_at_the_delivery_limit_says_so(bus, names):
    buried = []

    async def hand_back(_):
        return HandBack()

    async def keep(delivery):
        buried.append(delivery)
        return Ack()

    await bus.consume(names.work.name, hand_back, concurrency=1)
    await bus.consume(names.dead.name, keep, concurrency=1)
    await bus.publish("", names.work.name, Message(b"{}", "Kind", "7", {"mine": "yes"}))
    await until(lambda: buried)
    message = buried[0].message
    assert (message.body, message.type, message.message_id) == (b"{}", "Kind", "7")
    assert (message.headers["acequia-error"], message.headers["mine"]) == ("delivery limit reached", "yes")
    assert message.headers["acequia-stage"] == "tester"


async def test_a_dead_letter_queue_gives_a_message_back_more_often_than_any_limit(bus, names):
    came = []

    async def hand_back(delivery):
        came.append(delivery)
        return HandBack() if len(came) <= 25 else Ack()

    await bus.publish("", names.dead.name, Message(b"{}"))
    await bus.consume(names.dead.name, hand_back, concurrency=1)
    await until(lambda: len(came) == 26)


async def test_a_mistaken_publish_does_not_disturb_the_others(bus, names):
    def publish(number):
        exchange = f"{names.prefix}.nowhere" if number % 5 == 0 else ""
        return bus.publish(exchange, names.work.name, Message(b"{}", message_id="the same" if number % 2 else ""))

    results = await asyncio.gather(*(publish(number) for number in range(50)), return_exceptions=True)
    assert [isinstance(result, TransientFailure) for result in results] == [number % 5 == 0 for number in range(50)]
    assert await bus.depth(names.work.name) == 40


async def test_of_unroutable_publishes_with_one_id_none_is_taken_for_stored(bus, names):
    lost = Message(b"{}", message_id="the same")
    results = await asyncio.gather(*(bus.publish("", names.prefix, lost) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(result, TransientFailure) and not result.away for result in results)


async def test_one_queue_that_differs_is_named_and_the_others_are_made(stack, bus, names):
    other = Queue(names.work.name, "tester", names.dead.name, (1,), 9)
    late = Queue(f"{names.prefix}.late", "tester", None)
    with pytest.raises(ConfigurationError, match=f"x-delivery-limit.*{names.work.name}"):
        await bus.apply(table((other, late)))
    assert await bus.depth(late.name) == 0
    connection = await aio_pika.connect(stack.rabbit.url.get_secret_value())
    async with connection, connection.channel() as channel:
        await channel.queue_delete(late.name)


async def test_an_exchange_that_differs_is_named(bus):
    with pytest.raises(ConfigurationError, match=r"amq\.topic"):
        await bus.apply(table((), (Exchange("amq.topic", "fanout"),)))


async def test_a_queue_that_is_deleted_under_its_consumer_is_made_again(stack, bus, names):
    came = []

    async def keep(delivery):
        came.append(delivery)
        return Ack()

    await bus.consume(names.work.name, keep, concurrency=1)
    connection = await aio_pika.connect(stack.rabbit.url.get_secret_value())
    async with connection, connection.channel() as channel:
        await channel.queue_delete(names.work.name)
    async with asyncio.timeout(30):
        while not came:
            try:
                await bus.publish("", names.work.name, Message(b"{}"))
            except TransientFailure:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0)


@pytest.mark.parametrize("wrong", [{"user": "nobody"}, {"password": "wrong"}])
async def test_wrong_credentials_are_a_configuration_error(stack, wrong):
    url = URL(stack.rabbit.url.get_secret_value())
    url = url.with_user(wrong["user"]).with_password("x") if "user" in wrong else url.with_password(wrong["password"])
    with pytest.raises(ConfigurationError, match="RABBITMQ_URL"):
        await RabbitBus.connect(RabbitSettings(url=str(url)))


async def test_a_paused_subscription_stays_paused_when_the_connection_comes_back(bus, names):
    came = []

    async def keep(delivery):
        came.append(delivery)
        return Ack()

    subscription = await bus.consume(names.work.name, keep, concurrency=1)
    await subscription.pause()
    await bus._connection.transport.connection.close()
    await bus.publish("", names.work.name, Message(b"{}"))
    await asyncio.sleep(1)
    assert (came, await bus.depth(names.work.name)) == ([], 1)
    await subscription.resume()
    await until(lambda: len(came) == 1)
