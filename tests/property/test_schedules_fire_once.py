"""Reconcilers that fire one schedule, killed and cut off anywhere: each time is one run, or was skipped and counted."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from acequia.acceptance import COMMAND
from acequia.datasets import Misfire, Registry, Schedule, load_registry
from acequia.errors import TransientFailure
from acequia.events import IngestionCommand
from acequia.layers import Buckets, Layer, command_key, done_key
from acequia.ports import Message, ObjectInfo
from acequia.runner import Workshop
from acequia_reconciler.schedules import Scheduler, State, load_schedules, run_of, schedule_key

from .world import share

START = datetime(2026, 6, 1, 12, 5, tzinfo=UTC)
NAME, CRON = "often", "*/10 * * * *"
TEN = timedelta(minutes=10)
DATASET = load_registry()["network_events"]


class Died(BaseException):
    """The process was killed."""


@dataclass
class World:
    """Objects and messages in memory. Each act of a reconciler may be late, fail, or be its last."""

    rng: random.Random
    now: datetime = START
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    sent: list[Message] = field(default_factory=list)
    fails: float = 0.0
    dies: float = 0.0
    etags: int = 0

    def clock(self) -> datetime:
        return self.now

    async def step(self) -> None:
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        if self.rng.random() < self.dies:
            raise Died
        if self.rng.random() < self.fails:
            raise TransientFailure("no answer", dependency="minio", away=True)

    def carry_some_out(self) -> None:
        """What the ingestor does meanwhile with what was sent."""
        for run_id in sorted({UUID(m.message_id) for m in self.sent if m.type == COMMAND}):
            if self.rng.random() < 0.5 and (found := self.objects.pop(command_key(run_id), None)) is not None:
                self.objects[done_key(run_id)] = (b'{"command": ' + found[0] + b"}", "done")

    @property
    def runs(self) -> set[UUID]:
        return {
            UUID(key.rpartition("/")[2].removesuffix(".json"))
            for key in self.objects
            if key.startswith(("commands/", "done/"))
        }

    @property
    def state(self) -> State:
        return State.parse(self.objects[schedule_key(NAME)][0])


@dataclass
class Ledger:
    world: World

    async def head(self, layer: Layer, key: str) -> ObjectInfo | None:
        found = await self.read(layer, key)
        return found[1] if found else None

    async def read(self, layer: Layer, key: str) -> tuple[bytes, ObjectInfo] | None:
        await self.world.step()
        found = self.world.objects.get(key)
        return (found[0], _info(layer, key, found[1])) if found else None

    async def create(self, layer: Layer, key: str, data: bytes, **_: Any) -> ObjectInfo | None:
        return await self._write(layer, key, data, None)

    async def replace(self, layer: Layer, key: str, data: bytes, *, etag: str, **_: Any) -> ObjectInfo | None:
        return await self._write(layer, key, data, etag)

    async def _write(self, layer: Layer, key: str, data: bytes, etag: str | None) -> ObjectInfo | None:
        await self.world.step()
        _, standing = self.world.objects.get(key, (b"", None))
        if standing != etag:
            return None
        self.world.etags += 1
        self.world.objects[key] = (data, f"etag-{self.world.etags}")
        info = _info(layer, key, f"etag-{self.world.etags}")
        await self.world.step()  # it is there, and nobody may hear of it
        return info


@dataclass
class Exchange:
    world: World

    async def publish(self, exchange: str, routing_key: str, message: Message) -> None:
        await self.world.step()
        self.world.sent.append(message)
        await self.world.step()


def _info(layer: Layer, key: str, etag: str) -> ObjectInfo:
    return ObjectInfo(layer, key, f"s3://ledger/{key}", etag, 1, START)


def reconciler(world: World, misfire: Misfire) -> Scheduler:
    schedule = Schedule(NAME, CRON, "UTC", {"kind": "synthetic"}, misfire)
    planned = load_schedules(Registry({DATASET.name: replace(DATASET, schedules=(schedule,))}))
    store: Any = Ledger(world)
    bus: Any = Exchange(world)
    workshop = Workshop(store, bus, Buckets("test"), load_registry())
    return Scheduler(workshop, planned, frozenset({NAME}), 5, world.clock)


async def story(rng: random.Random, misfire: Misfire) -> Mapping[str, int]:
    world = World(rng)
    reconcilers = [reconciler(world, misfire) for _ in range(rng.choice((1, 2, 2)))]
    await reconcilers[0].tick()
    world.fails, world.dies = rng.choice((0.0, 0.03, 0.1)), rng.choice((0.0, 0.03, 0.1))
    for _ in range(rng.randint(3, 12)):
        world.now += rng.choice((timedelta(seconds=6), timedelta(minutes=4), TEN, timedelta(minutes=47)))
        awake = [number for number in range(len(reconcilers)) if rng.random() < 0.8]
        ended = await asyncio.gather(*(_tick(reconcilers[number]) for number in awake))
        for number, alive in zip(awake, ended, strict=True):
            if not alive:
                reconcilers[number] = reconciler(world, misfire)
        world.carry_some_out()
    world.fails = world.dies = 0.0
    world.now += timedelta(seconds=6)
    await reconcilers[0].tick()
    return judge(world, misfire)


async def _tick(one: Scheduler) -> bool:
    """Whether it is still alive afterwards."""
    try:
        await one.tick()
    except Died:
        return False
    return True


def judge(world: World, misfire: Misfire) -> Mapping[str, int]:
    first = START + timedelta(minutes=5)
    times = [first + n * TEN for n in range((world.now - first) // TEN + 1)] if world.now >= first else []
    state, runs = world.state, world.runs
    assert runs <= {run_of(NAME, at) for at in times}, "a run of no time"
    assert len(runs) + state.skipped == len(times), "a time was lost, or counted twice"
    if times and misfire is not Misfire.NONE:
        assert run_of(NAME, times[-1]) in runs, "the latest time was not fired"
    if misfire is Misfire.ALL:
        assert state.skipped == 0
    commands = [IngestionCommand.model_validate_json(m.body) for m in world.sent if m.type == COMMAND]
    assert {c.run_id for c in commands} == runs, "a command was stored and not sent"
    twice = [run for run in runs if {command_key(run), done_key(run)} <= world.objects.keys()]
    assert not twice, "a run that was done was fired again"
    return {"times": len(times), "skipped": state.skipped, "doubled": len(commands) - len(runs)}


@share(100)
def test_each_time_is_one_run_or_was_skipped_whoever_dies_and_whatever_fails(seeds: Sequence[int]) -> None:
    told: dict[str, int] = {}
    for seed in seeds:
        for misfire in Misfire:
            try:
                for name, count in asyncio.run(story(random.Random(seed), misfire)).items():
                    told[name] = told.get(name, 0) + count
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {misfire}: {error}") from error
    assert min(told.values()) > 0, f"nothing was put to the test: {told}"
