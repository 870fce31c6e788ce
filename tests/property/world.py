"""A world of several replicas on the embedded adapters in which a seed decides everything that happens.

Each operation on the store, each publish and each settlement of a message waits for its turn. When everybody waits, the
seed picks what happens next: one operation takes place, or fails before or after it took effect, or its answer is lost;
a replica is killed there or anywhere; a message is posted; time passes. No thread and no clock runs meanwhile, so a
seed gives the same schedule again, and an hour on the retry ladder takes no time.

Killed means killed: not one operation of that replica takes place any more, whatever its `finally` blocks try. Its
messages come again, as a broker does it for a consumer that is gone.
"""

import asyncio
import json
import random
import selectors
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import acequia_ingestor.ingest
from acequia import batches, runner
from acequia.adapters import sqlite
from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.datasets import Registry, load_registry
from acequia.errors import TransientFailure
from acequia.events import AuditRecord, Kind, ObjectCreated, to_notification
from acequia.layers import Buckets, Layer
from acequia.ports import Delivery, HandBack, Message, ObjectInfo, Settlement
from acequia.runner import PARQUET, Workshop
from acequia.topology import AUDIT_QUEUE, topology

BUCKETS = Buckets("test")
MOST_STEPS = 20_000
"""After so many steps a schedule counts as one that never ends."""
WEEK = 7 * 86_400.0
REGISTRY: Registry = load_registry()


class Killed(BaseException):
    """The replica was killed: nothing that follows in it takes place."""


class NeverEnds(AssertionError):
    """Something is left without an end."""


class Fate(Enum):
    """What becomes of an operation."""

    TAKES_PLACE = auto()
    KILLED_BEFORE = auto()
    KILLED_AFTER = auto()
    FAILS_BEFORE = auto()
    FAILS_AFTER = auto()
    """It took effect, and the caller is told that it failed."""
    ANSWER_LOST = auto()
    """A conditional write took effect, was sent again by the client, and met itself."""


class Clock:
    """The only time there is: what `time` and `utc_now` are to the code under test."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.seconds

    def time(self) -> float:
        return self.utc_now().timestamp()

    def utc_now(self) -> datetime:
        return datetime(2025, 12, 20, 12, tzinfo=UTC) + timedelta(seconds=self.seconds)


class Inline(ThreadPoolExecutor):
    """Does the work at once, in no thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - whatever it is, who waits for it gets it
            future.set_exception(error)
        return future


class InlineWriter(sqlite._Writer):
    """The bus's writer, without its thread."""

    async def start(self) -> None:
        self.connection = sqlite._connect(self._path)

    async def do(self, act: Any, *, synced: bool = False) -> Any:
        if self._closed:
            raise TransientFailure("the bus is closed", dependency="bus", away=True)
        job = sqlite._Job(act, synced, Future())
        self._transact(self.connection, [job])
        return job.answer.result()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.connection.close()


class _Selector(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    idle: Callable[[float | None], None]

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if timeout != 0 and not ready:
            self.idle(timeout)
        return ready


class _Task(asyncio.Task[Any]):
    """Sets of tasks are in the order in which those were made, not in that of memory: a seed has one schedule."""

    _made = 0

    def __init__(self, *args: Any, **more: Any) -> None:
        _Task._made += 1
        self._number = _Task._made
        super().__init__(*args, **more)

    def __hash__(self) -> int:
        return self._number


class _InOrder(dict[Any, None]):
    """A set that keeps its order."""

    def add(self, one: Any) -> None:
        self[one] = None

    def discard(self, one: Any) -> None:
        self.pop(one, None)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time is the clock's. Where everyone waits, it wakes who called `settled`, else lets time pass."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._settled: asyncio.Future[bool] | None = None
        self._passing = False
        selector = _Selector()
        selector.idle = self._idle
        super().__init__(selector)
        self.set_default_executor(Inline())
        self.set_task_factory(lambda loop, coro, **more: _Task(coro, loop=loop, **more))

    def time(self) -> float:
        return self._clock.monotonic()

    async def settled(self) -> None:
        """Until everyone else waits: for a turn, for time, or for ever."""
        self._settled = self.create_future()
        await self._settled

    async def pass_time(self) -> bool:
        """To the next moment that somebody waits for; False where nobody does."""
        self._passing = True
        self._settled = self.create_future()
        return await self._settled

    def _idle(self, timeout: float | None) -> None:
        waiting, self._settled = self._settled, None
        passing, self._passing = self._passing, False
        if waiting is None and timeout is None:
            raise NeverEnds("everyone waits, and nothing will come")
        if (waiting is None or passing) and timeout is not None:
            self._clock.seconds += timeout
        if waiting is not None and not waiting.done():
            waiting.set_result(timeout is not None)


@dataclass(slots=True, eq=False)
class Turn:
    """An operation that waits."""

    replica: "Replica"
    what: str
    fate: "asyncio.Future[Fate]"
    conditional: bool


class GatedStore:
    """A replica's view of the store."""

    def __init__(self, replica: "Replica", store: DirectoryStore) -> None:
        self._replica = replica
        self._store = store

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._store, name)

        async def gated(layer: Layer, key: str, *args: Any, **more: Any) -> Any:
            what = f"{name} {layer.value}/{key}"
            return await self._replica.turn(
                what, partial(act, layer, key, *args, **more), conditional=name in ("create", "replace")
            )

        return gated

    async def list_objects(self, layer: Layer, prefix: str = "", *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        async def listed() -> list[ObjectInfo]:
            return [info async for info in self._store.list_objects(layer, prefix, start_after=start_after)]

        for info in await self._replica.turn(f"list {layer.value}/{prefix}", listed):
            yield info


class GatedBus:
    """A replica's view of the bus."""

    def __init__(self, replica: "Replica", bus: SqliteBus) -> None:
        self._replica = replica
        self._bus = bus

    async def publish(self, exchange: str, routing_key: str, message: Message) -> None:
        await self._replica.turn(
            f"publish {routing_key or exchange}", partial(self._bus.publish, exchange, routing_key, message)
        )


Build = Callable[[Workshop], Any]
"""Makes a runner: it has `start`, `handle` and, for many-to-one stages, `run`."""


class Replica:
    """One process of a stage."""

    def __init__(self, world: "World", name: str, build: Build, concurrency: int | None) -> None:
        self.world = world
        self.concurrency = concurrency or world.rng.randint(1, 3)
        self.name = name
        self.build = build
        self.dead = False
        self.subscription: Any = None
        workshop = Workshop(
            GatedStore(self, world.store),  # type: ignore[arg-type]
            GatedBus(self, world.bus),  # type: ignore[arg-type]
            BUCKETS,
            REGISTRY,
            temp_dir=world.temporary,
            host="host",
        )
        self.runner = build(workshop)
        self.life = asyncio.ensure_future(self._live())

    async def _live(self) -> None:
        while True:
            try:
                await self.runner.start()
                break
            except TransientFailure:
                await asyncio.sleep(1)
        self.subscription = await self.world.bus.consume(self.world.queue, self._hand, concurrency=self.concurrency)
        if hasattr(self.runner, "run"):
            await self.runner.run(self.subscription)

    async def _hand(self, delivery: Delivery) -> Settlement:
        try:
            settlement: Settlement = await self.runner.handle(delivery)
            await self.turn(f"settle {type(settlement).__name__}")
        except Killed:
            return HandBack()  # what a broker does with the message of a consumer that is gone
        return settlement

    async def turn(
        self, what: str, act: Callable[[], Awaitable[Any]] | None = None, *, conditional: bool = False
    ) -> Any:
        """`act`, once it may take place."""
        if self.dead:
            raise Killed(what)
        turn = Turn(self, what, asyncio.get_running_loop().create_future(), conditional)
        self.world.waiting.append(turn)
        try:
            fate = await turn.fate
        finally:
            if turn in self.world.waiting:
                self.world.waiting.remove(turn)
        if fate is Fate.FAILS_BEFORE:
            raise self.world.failure(what)
        result = await act() if act is not None else None
        if fate is Fate.KILLED_AFTER:
            raise Killed(what)
        if fate is Fate.FAILS_AFTER:
            raise self.world.failure(what)
        return None if fate is Fate.ANSWER_LOST else result

    def cut(self) -> None:
        """From now on nothing of this replica takes place."""
        self.dead = True
        for turn in [t for t in self.world.waiting if t.replica is self]:
            self.world.waiting.remove(turn)
            if not turn.fate.done():
                turn.fate.set_exception(Killed(turn.what))
        self.life.cancel()

    async def buried(self) -> None:
        """Its messages are the broker's again."""
        await asyncio.wait([self.life])
        if self.subscription is not None:
            await self.subscription.close(grace=0)


@dataclass(slots=True)
class Faults:
    """What may go wrong, and how often at most."""

    share: float = 0.0
    """Of the operations, which meet a fault while there are any left."""
    kills: int = 0
    failures: int = 0
    lost_answers: int = 0
    impatience: float = 0.02
    """How often time passes while operations wait: a process may be slow."""

    def left(self) -> bool:
        return bool(self.kills or self.failures or self.lost_answers)

    def draw(self, rng: random.Random, turn: Turn) -> Fate:
        if not self.left() or rng.random() >= self.share:
            return Fate.TAKES_PLACE
        choices = [Fate.KILLED_BEFORE, Fate.KILLED_AFTER] if self.kills else []
        if turn.what.startswith("settle"):
            choices = choices[:1]  # the broker never heard of it; there is nobody to tell of a failure
        elif self.failures:
            choices += [Fate.FAILS_BEFORE, Fate.FAILS_AFTER]
        if self.lost_answers and turn.conditional:
            choices += [Fate.ANSWER_LOST] * 2
        if not choices:
            return Fate.TAKES_PLACE
        fate = rng.choice(choices)
        if fate in (Fate.KILLED_BEFORE, Fate.KILLED_AFTER):
            self.kills -= 1
        elif fate is Fate.ANSWER_LOST:
            self.lost_answers -= 1
        else:
            self.failures -= 1
        return fate


@dataclass(slots=True)
class World:
    """The store, the bus, the replicas, what is still to come, and what happened."""

    seed: int
    queue: str
    loop: VirtualLoop
    clock: Clock
    rng: random.Random
    store: DirectoryStore
    bus: SqliteBus
    temporary: Path
    faults: Faults = field(default_factory=Faults)
    waiting: list[Turn] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    to_come: list[Callable[[], Awaitable[Any]]] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    happened: dict[str, int] = field(default_factory=dict)
    written: int = 0
    """How many operations there were that leave something behind."""
    ended: list[Exception] = field(default_factory=list)
    """What was told to `Workshop.fatal`."""
    names: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))

    def failure(self, what: str) -> TransientFailure:
        return TransientFailure(f"{what} failed", dependency="minio", away=self.rng.random() < 0.5)

    def start(self, build: Build, concurrency: int | None = None) -> Replica:
        replica = Replica(self, f"r{next(self.names)}", build, concurrency)
        self.replicas.append(replica)
        return replica

    async def kill(self, replica: Replica) -> None:
        self.note(f"{replica.name} is killed")
        self.replicas.remove(replica)
        replica.cut()
        await replica.buried()

    async def replace(self, replica: Replica, build: Build | None = None) -> None:
        """Kill it; another takes its place when its turn comes."""

        async def restart() -> None:
            self.start(build or replica.build)

        await self.kill(replica)
        self.to_come.append(restart)

    def post(self, message: Message) -> None:
        """The message comes at some time."""

        async def publish() -> None:
            await self.bus.publish("", self.queue, message)
            self.note("a message is posted")

        self.to_come.append(publish)

    def note(self, what: str) -> None:
        self.history.append(f"{self.clock.seconds:10.1f} {what}")

    async def play(self, ended: Callable[[], Awaitable[bool]]) -> None:
        """Until nothing is to come, nobody waits for a turn, the queue is empty, and `ended` says so.

        Raises NeverEnds where that does not come about.
        """
        asked_at = -1
        for _ in range(MOST_STEPS):
            await self.loop.settled()
            assert not self.surprises, self.surprises
            # nothing that was not over is over before something is written
            if not self.waiting and not self.to_come and self.written != asked_at and self.left_in(self.queue) == 0:
                asked_at = self.written
                if await ended():
                    return
            if self.faults.kills and self.replicas and self.rng.random() < self.faults.share / 4:
                self.faults.kills -= 1
                await self.replace(self.rng.choice(self.replicas))
            elif self.to_come and (not self.waiting or self.rng.random() < 0.25):
                await self.to_come.pop(self.rng.randrange(len(self.to_come)))()
            elif self.waiting and self.rng.random() >= self.faults.impatience:
                await self._one_turn(self.rng.choice(self.waiting))
            elif not await self.loop.pass_time() and not self.waiting and not self.to_come:
                raise NeverEnds(f"nobody waits for anything, and {self.left_in(self.queue)} messages are left")
        raise NeverEnds(f"not over after {MOST_STEPS} steps")

    async def _one_turn(self, turn: Turn) -> None:
        fate = self.faults.draw(self.rng, turn)
        self.happened[fate.name] = self.happened.get(fate.name, 0) + 1
        self.note(f"{turn.replica.name} {turn.what}: {fate.name.lower()}")
        if fate is Fate.KILLED_BEFORE:
            await self.replace(turn.replica)
            return
        self.waiting.remove(turn)
        self.written += turn.what.startswith(("create", "put", "replace", "remove", "publish", "settle"))
        turn.fate.set_result(fate)
        if fate is Fate.KILLED_AFTER:
            await self.loop.settled()
            await self.replace(turn.replica)

    async def a_week_later(self) -> None:
        """Everybody is stopped, and started again after a week."""
        builds = [replica.build for replica in self.replicas]
        for replica in list(self.replicas):
            await self.kill(replica)
        self.clock.seconds += WEEK
        self.note("a week passes")
        for build in builds:
            self.start(build)

    async def close(self) -> None:
        for replica in list(self.replicas):
            await self.kill(replica)
        await self.bus.close()
        await self.store.close()

    # what is there at the end

    def bodies(self, queue: str) -> list[tuple[str, bytes]]:
        """Headers and body of each message in the queue."""
        connection = self.bus._writer.connection  # type: ignore[attr-defined]
        found: list[tuple[str, bytes]] = connection.execute(
            "SELECT headers, body FROM messages WHERE queue = ? ORDER BY id", (queue,)
        ).fetchall()
        return found

    def left_in(self, queue: str) -> int:
        """Messages in the queue, in somebody's hands or on the ladder."""
        connection = self.bus._writer.connection  # type: ignore[attr-defined]
        return int(connection.execute("SELECT count(*) FROM messages WHERE queue = ?", (queue,)).fetchone()[0])

    def records(self) -> list[AuditRecord]:
        return [AuditRecord.model_validate_json(body) for _, body in self.bodies(AUDIT_QUEUE)]

    async def keys(self, layer: Layer, prefix: str = "") -> list[str]:
        return [info.key async for info in self.store.list_objects(layer, prefix)]

    async def data(self, layer: Layer, key: str) -> bytes:
        found = await self.store.read(layer, key)
        assert found is not None, f"{layer}/{key} is missing"
        return found[0]

    async def document(self, layer: Layer, key: str) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(await self.data(layer, key))
        return parsed


def notification(info: ObjectInfo, metadata: Mapping[str, str] | None = None, **headers: str) -> Message:
    """The store's event of an object, as a message."""
    event = ObjectCreated(
        layer=info.layer,
        bucket=BUCKETS.of(info.layer),
        key=info.key,
        etag=info.etag,
        size=info.bytes,
        metadata=info.metadata if metadata is None else metadata,
    )
    return Message(to_notification(event), headers=headers)


async def put(world: World, layer: Layer, key: str, data: bytes, **metadata: str) -> ObjectInfo:
    named = {name.replace("_", "-"): value for name, value in metadata.items()}
    return await world.store.put(layer, key, data, metadata=named, content_type=PARQUET)


def once(records: Iterable[AuditRecord]) -> dict[Any, AuditRecord]:
    """The records by event id, as the auditor keeps them. Where a stored object stands behind one, all say the same."""
    found: dict[Any, AuditRecord] = {}
    for record in records:
        first = found.setdefault(record.event_id, record)
        assert first == record or record.kind is Kind.NOTE, f"one id, two records:\n{first}\n{record}"
    return found


def share(percent: int) -> Callable[[Any], Any]:
    """How many of all schedules a test tries."""

    def mark(test: Any) -> Any:
        test.percent = percent
        return test

    return mark


@contextmanager
def _virtual(clock: Clock) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (runner, batches, sqlite):
            patch.setattr(module, "time", clock)
        for named in (runner, batches, acequia_ingestor.ingest):
            patch.setattr(named, "utc_now", clock.utc_now)
        patch.setattr(sqlite, "_Writer", InlineWriter)
        yield


def schedule(
    seed: int, folder: Path, queue: str, story: Callable[[World], Awaitable[None]], seen: dict[str, int] | None = None
) -> None:
    """Run `story` in a world of its own. What goes wrong is raised with the seed and the end of its history.

    `seen`: counts of what became of the operations are added to it.
    """
    clock = Clock()
    _Task._made = 0
    loop = VirtualLoop(clock)
    place = folder / f"schedule-{seed}"
    history: list[str] = []

    async def run() -> None:
        bus = await SqliteBus.open(place / "bus.sqlite")
        bus._subscriptions = _InOrder()  # type: ignore[assignment]
        store = await DirectoryStore.open(place / "store", BUCKETS)
        store._threads.shutdown()
        store._threads = Inline()
        table = topology(BUCKETS)
        await bus.apply(table)
        await store.apply(table)
        temporary = place / "temporary"
        temporary.mkdir()
        world = World(seed, queue, loop, clock, random.Random(seed), store, bus, temporary, history=history)

        def surprise(_: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
            if not isinstance(about.get("exception"), Killed):
                world.surprises.append(f"{about.get('message')}: {about.get('exception')!r}")

        loop.set_exception_handler(surprise)
        try:
            await story(world)
            if seen is not None:
                for fate, count in world.happened.items():
                    seen[fate] = seen.get(fate, 0) + count
        finally:
            await world.close()
        assert list(temporary.iterdir()) == [], "temporary folders were left behind"
        assert list((place / "store" / ".pending").iterdir()) == [], "the store left a version half written"
        assert not world.surprises, world.surprises

    try:
        with _virtual(clock):
            asyncio.set_event_loop(loop)
            loop.run_until_complete(run())
    except Exception as error:
        raise AssertionError(
            f"schedule {seed}: {type(error).__name__}: {error}\n"
            f"(again: ACEQUIA_TRIED_SCHEDULE={seed} pytest tests/property)\n" + "\n".join(history[-60:])
        ) from error
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        shutil.rmtree(place, ignore_errors=True)
