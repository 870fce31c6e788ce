"""The RabbitMQ adapter without a RabbitMQ."""

import asyncio
import inspect
import socket
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from acequia.adapters.rabbit import NO_DELIVERY_LIMIT, RabbitBus, _delivery, queue_arguments
from acequia.errors import ConfigurationError, TransientFailure
from acequia.layers import Buckets
from acequia.ports import Ack, Bus, Message
from acequia.settings import RabbitSettings
from acequia.topology import Queue, topology

WORK = Queue("work", "tester", "work.dead", (1, 30), 7)
DEAD = Queue("work.dead", "tester", None)


@pytest.fixture
def dead_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def ack(_):
    return Ack()


def calls(bus):
    """One call of each method of the port."""
    return {
        "publish": lambda: bus.publish("", "queue", Message(b"{}")),
        "consume": lambda: bus.consume("queue", ack, concurrency=1),
        "depth": lambda: bus.depth("queue"),
        "apply": lambda: bus.apply(topology(Buckets())),
        "check": bus.check,
    }


METHODS = sorted(
    name for name, _ in inspect.getmembers(Bus, inspect.isfunction) if not name.startswith("_") and name != "close"
)


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_says_that_rabbitmq_is_away(method, dead_port):
    bus = RabbitBus(RabbitSettings(url=f"amqp://guest:guest@127.0.0.1:{dead_port}/"), publish_patience=0.5)
    try:
        with pytest.raises(TransientFailure) as caught:
            await calls(bus)[method]()
        assert (caught.value.dependency, caught.value.away) == ("rabbitmq", True)
    finally:
        await bus.close()


async def test_to_connect_where_nobody_listens_says_that_rabbitmq_is_away(dead_port):
    with pytest.raises(TransientFailure) as caught:
        await RabbitBus.connect(RabbitSettings(url=f"amqp://guest:guest@127.0.0.1:{dead_port}/"))
    assert caught.value.away


@pytest.mark.parametrize("method", METHODS)
async def test_a_server_that_never_answers_counts_as_away(method):
    async def listen(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bus = RabbitBus(RabbitSettings(url=f"amqp://guest:guest@127.0.0.1:{port}/"), timeout=0.2, publish_patience=0.5)
    try:
        with pytest.raises(TransientFailure) as caught:
            await calls(bus)[method]()
        assert caught.value.away
    finally:
        await bus.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("method", METHODS)
async def test_a_closed_bus_does_nothing_more(method, dead_port):
    bus = RabbitBus(RabbitSettings(url=f"amqp://guest:guest@127.0.0.1:{dead_port}/"))
    await bus.close()
    with pytest.raises(TransientFailure, match="closed"):
        await calls(bus)[method]()


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "amqp:///vhost", "nonsense"])
def test_a_url_that_is_no_broker_is_a_configuration_error(url):
    with pytest.raises(ConfigurationError, match="RABBITMQ_URL"):
        RabbitBus(RabbitSettings(url=url))


async def test_no_error_tells_the_password(dead_port):
    with pytest.raises(TransientFailure) as caught:
        await RabbitBus.connect(RabbitSettings(url=f"amqp://guest:s3cret@127.0.0.1:{dead_port}/"))
    assert "s3cret" not in str(caught.value)


def test_every_queue_with_dead_letters_keeps_them_at_least_once():
    declared = queue_arguments(WORK)
    assert set(declared) == {"work", "work.retry.1s", "work.retry.30s"}
    for arguments in declared.values():
        assert arguments["x-queue-type"] == "quorum"
        assert arguments["x-dead-letter-strategy"] == "at-least-once"
        assert arguments["x-overflow"] == "reject-publish"
    assert declared["work"]["x-dead-letter-routing-key"] == "work.dead"
    assert declared["work"]["x-delivery-limit"] == 7
    assert declared["work.retry.30s"]["x-dead-letter-routing-key"] == "work"
    assert declared["work.retry.30s"]["x-message-ttl"] == 30_000


def test_a_dead_letter_queue_drops_nothing():
    assert queue_arguments(DEAD) == {"work.dead": {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT}}


def incoming(headers, **changes):
    there = {"body": b"{}", "type": None, "message_id": None, "redelivered": False, "headers": headers}
    return SimpleNamespace(**(there | changes))


def test_the_attempt_is_taken_out_of_the_headers():
    delivery = _delivery(WORK, incoming({"acequia-attempt": "3", "mine": b"yes", "x-death": [], "minio-event": "e"}))
    assert delivery.attempt == 3
    assert delivery.message.headers == {"mine": "yes", "minio-event": "e"}


@pytest.mark.parametrize("attempt", ["", "-4", "many", "0", 0])
def test_an_attempt_that_makes_no_sense_is_the_first(attempt):
    assert _delivery(WORK, incoming({"acequia-attempt": attempt})).attempt == 1


def test_what_the_broker_itself_buried_says_why():
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    deaths = [
        {"reason": "expired", "queue": "work.retry.1s"},
        {"reason": "delivery_limit", "queue": "work", "time": at},
    ]
    headers = _delivery(DEAD, incoming({"x-death": deaths, "acequia-attempt": "2", "mine": "yes"})).message.headers
    assert headers == {
        "mine": "yes",
        "acequia-error": "delivery limit reached",
        "acequia-traceback": "",
        "acequia-stage": "tester",
        "acequia-attempt": "2",
        "acequia-died-at": at.isoformat(),
    }


def test_what_we_buried_ourselves_keeps_our_reason():
    deaths = [{"reason": "expired", "queue": "work.retry.1s"}]
    headers = _delivery(DEAD, incoming({"x-death": deaths, "acequia-error": "ours"})).message.headers
    assert headers == {"acequia-error": "ours"}


async def test_what_the_client_library_throws_at_a_lost_connection_counts_as_away(dead_port):
    bus = RabbitBus(RabbitSettings(url=f"amqp://guest:guest@127.0.0.1:{dead_port}/"))
    for thrown in (Exception(), asyncio.CancelledError(), RuntimeError("closed"), TimeoutError(), EOFError()):
        with pytest.raises(TransientFailure) as caught, bus.edge():
            raise thrown
        assert caught.value.away
    await bus.close()


async def test_a_cancel_that_is_meant_for_us_stays_one(dead_port):
    bus = RabbitBus(RabbitSettings(url=f"amqp://guest:guest@127.0.0.1:{dead_port}/"))

    async def wait():
        with bus.edge():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bus.close()
