"""Each suite runs on the embedded adapters always, and on the real ones where their servers are."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.adapters.telling import TellingStore
from acequia.events import ObjectCreated, parse_notification
from acequia.layers import Buckets, Layer
from acequia.ports import Ack, Bus, Delivery, ObjectStore, Settlement
from acequia.topology import OBJECTS, Binding, Exchange, Queue, Topology, routing_key, topology

PATIENCE = 30.0
"""Seconds until a test gives up on something that has to happen."""


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.stack)])
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def _until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            now = condition()
            if now if isinstance(now, bool) else await now:
                return
            await asyncio.sleep(0.005)


@pytest.fixture
def until() -> Callable[[Callable[[], bool | Awaitable[bool]]], Awaitable[None]]:
    """Wait until a condition holds."""
    return _until


@dataclass
class Inbox:
    """A handler that keeps what it is handed, and answers what `answer` says."""

    answer: Callable[[Delivery], Settlement] = lambda _: Ack()
    deliveries: list[Delivery] = field(default_factory=list)

    async def __call__(self, delivery: Delivery) -> Settlement:
        self.deliveries.append(delivery)
        return self.answer(delivery)

    @property
    def bodies(self) -> list[bytes]:
        return [d.message.body for d in self.deliveries]

    async def holds(self, count: int) -> list[Delivery]:
        """What came, once it is `count` messages or more."""
        await _until(lambda: len(self.deliveries) >= count)
        return self.deliveries


@pytest.fixture
def inbox() -> type[Inbox]:
    return Inbox


@dataclass
class Buses:
    """Opens the bus under test, also a second time, and knows a topology of the test's own."""

    adapter: str
    opener: Callable[[], Awaitable[Bus]]
    address: str
    """For a process of its own: the file of the bus, or the server's url."""
    prefix: str = field(default_factory=lambda: f"contract.{uuid4().hex[:10]}")
    opened: list[Bus] = field(default_factory=list)
    tables: list[Topology] = field(default_factory=list)

    @property
    def exchange(self) -> str:
        return f"{self.prefix}.exchange"

    @property
    def work(self) -> str:
        return f"{self.prefix}.work"

    @property
    def other(self) -> str:
        return f"{self.prefix}.other"

    @property
    def later(self) -> str:
        return f"{self.prefix}.later"

    @property
    def dead(self) -> str:
        return f"{self.prefix}.dead"

    def table(self, *, retry_delays: tuple[int, ...] = (1,), delivery_limit: int = 20, **changes: Any) -> Topology:
        """`work` takes `work.*`, `other` takes `#.all` and `exact`, `later` holds two; one queue for the dead."""
        table = Topology(
            exchanges=(Exchange(self.exchange),),
            queues=(
                Queue(self.work, "tester", self.dead, retry_delays, delivery_limit),
                Queue(self.other, "tester", self.dead, retry_delays, delivery_limit),
                Queue(self.later, "tester", self.dead, retry_delays, delivery_limit, rungs_of=self.work, most=2),
                Queue(self.dead, "tester", None),
            ),
            bindings=(
                Binding(self.exchange, self.work, "work.*"),
                Binding(self.exchange, self.other, "#.all"),
                Binding(self.exchange, self.other, "exact"),
            ),
            buckets=Buckets(),
            layers=(),
        )
        table = replace(table, **changes)
        self.tables.append(table)
        return table

    async def open(self, **arguments: Any) -> Bus:
        """The bus with the test's topology applied."""
        bus = await self.opener()
        self.opened.append(bus)
        await bus.apply(self.table(**arguments))
        return bus


@pytest.fixture
async def buses(adapter: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Buses]:
    if adapter == "embedded":
        path = tmp_path / "bus.sqlite"
        buses = Buses(adapter, lambda: SqliteBus.open(path), str(path))
        yield buses
        for bus in buses.opened:
            await bus.close()
        return

    from acequia.adapters.rabbit import RabbitBus

    settings = request.getfixturevalue("stack").rabbit
    buses = Buses(adapter, lambda: RabbitBus.connect(settings), settings.url.get_secret_value())
    yield buses
    for bus in buses.opened:
        await bus.close()
    await _forget(settings.url.get_secret_value(), buses.tables)


async def _forget(url: str, tables: list[Topology]) -> None:
    """Remove the test's own queues and exchanges from the server."""
    import aio_pika

    connection = await aio_pika.connect(url)
    async with connection, connection.channel() as channel:
        for queue in {queue for table in tables for queue in table.queues}:
            for name in (queue.name, *queue.rungs):
                await channel.queue_delete(name)
        for exchange in {exchange.name for table in tables for exchange in table.exchanges} - {OBJECTS}:
            await channel.exchange_delete(exchange)


LAYERS = (Layer.LANDING, Layer.RAW, Layer.MODELS, Layer.LEDGER)


@dataclass
class World:
    """A store with buckets of the test's own, and what it told the bus about them."""

    adapter: str
    store: ObjectStore
    buckets: Buckets
    events: list[ObjectCreated]

    async def told(self, count: int) -> list[ObjectCreated]:
        await _until(lambda: len(self.events) >= count)
        return self.events


@pytest.fixture(
    params=[
        "embedded",
        "embedded, telling",
        pytest.param("real", marks=pytest.mark.stack),
        pytest.param("real, telling", marks=pytest.mark.stack),
    ]
)
def stored(request: pytest.FixtureRequest) -> str:
    """Which store; `telling`: the store's own events are none, and what is written through TellingStore is told."""
    return str(request.param)


@pytest.fixture
async def world(stored: str, request: pytest.FixtureRequest, tmp_path: Path, fresh_prefix: str) -> AsyncIterator[World]:
    buckets = Buckets(fresh_prefix)
    queue = Queue(f"contract.{fresh_prefix}.events", "tester", None)
    whole = topology(buckets)
    table = replace(
        whole,
        exchanges=(Exchange(OBJECTS),),
        queues=(queue,),
        bindings=tuple(Binding(OBJECTS, queue.name, routing_key(layer)) for layer in LAYERS),
        layers=LAYERS,
        notifications=tuple(n for n in whole.notifications if n.layer in LAYERS),
    )
    bus: Bus
    store: ObjectStore
    adapter, _, telling = stored.partition(", ")
    if adapter == "embedded" or telling:
        bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    else:
        from acequia.adapters.rabbit import RabbitBus

        bus = await RabbitBus.connect(request.getfixturevalue("stack").rabbit)
    await bus.apply(table)
    if adapter == "embedded":
        store = await DirectoryStore.open(tmp_path / "objects", buckets, None if telling else bus)
    else:
        from acequia.adapters.minio import MinioStore

        store = await MinioStore.open(request.getfixturevalue("stack").minio, buckets)
    if telling:
        store = TellingStore(store, buckets, bus)
    events: list[ObjectCreated] = []

    async def keep(delivery: Delivery) -> Settlement:
        event = parse_notification(delivery.message.body, buckets)
        if isinstance(event, ObjectCreated):  # other tests' buckets notify the same exchange
            events.append(event)
        return Ack()

    await store.apply(table)
    await bus.consume(queue.name, keep, concurrency=4)
    yield World(adapter, store, buckets, events)
    await store.close()
    await bus.close()
    if stored == "real":
        await _forget(request.getfixturevalue("stack").rabbit.url.get_secret_value(), [table])
