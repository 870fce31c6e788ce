"""Fires due schedules: a time of a schedule is one run, however many reconcilers are there and whenever they die.

A run's id follows from the schedule's name and the time: who fires a time again finds its command, or its `done`.
`schedules/<name>.json` in LEDGER tells up to when all is settled: what is due is what came since. It is moved by
If-Match after each act, so a crash leaves at most one time fired and not noted: the first after it.
"""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4, uuid5

from pydantic import ValidationError

from acequia.acceptance import SEVERAL, carried_out, fingerprint, take_on
from acequia.datasets import Misfire, Registry, Schedule
from acequia.errors import ConfigurationError, TransientFailure
from acequia.events import IngestionCommand, Scheduled, SourceRequest, utc_now
from acequia.layers import NAMESPACE, Layer, command_key
from acequia.runner import JSON, RACES, Workshop
from acequia_reconciler.times import Times

log = logging.getLogger("acequia")

ALL = "*"
ON_TIME = timedelta(seconds=60)
"""A time is missed once it is so long ago: until then a restart, or a server that is away, makes it late only."""
MADE_UP_MOST = 100
"""So many missed times are made up for at once under `all`, the latest; earlier ones are skipped."""
COUNTED_MOST = 10_000
"""Skipped times are counted so far."""
AHEAD = timedelta(hours=1)
"""What a state says of a time so far ahead, a clock wrote that was wrong."""
LOOK_SECONDS, LEAST_SECONDS = 1.0, 0.01
"""The clock is looked at so often: a sleep does not notice that it was set, or that the machine was suspended."""
AGAIN = timedelta(seconds=5)
"""After a failure of store or bus."""
AGAIN_AFTER_A_BUG = timedelta(seconds=60)
NEVER, LONG_AGO = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Clock = Callable[[], datetime]


SCHEDULES = "schedules/"


def schedule_key(name: str) -> str:
    return f"{SCHEDULES}{name}.json"


def run_of(name: str, due: datetime) -> UUID:
    """The run of a schedule's time, always the same."""
    return uuid5(NAMESPACE, f"schedule\n{name}\n{due.astimezone(UTC).isoformat()}")


@dataclass(frozen=True, slots=True)
class Planned:
    """A schedule of a dataset, read and found good."""

    dataset: str
    schedule: Schedule
    source: SourceRequest
    times: Times

    @property
    def name(self) -> str:
        return self.schedule.name

    def command(self, due: datetime | None, rows_per_part: int) -> IngestionCommand:
        """What POST /ingestions would make of it now. `due`: the time it is fired for; None: by hand."""
        source = self.source.model_dump(mode="json")
        # a source that says itself which tables it means, means several unless it is just this one
        itself = source.keys() & {"tables", "pack"} and source.get("tables") != [self.dataset]
        dataset = SEVERAL if itself else self.dataset
        return IngestionCommand(
            run_id=run_of(self.name, due) if due else uuid4(),
            dataset=dataset,
            source=self.source,
            accepted_at=utc_now(),
            fingerprint=fingerprint({"dataset": dataset, "source": source}),
            rows_per_part=rows_per_part,
            schedule=Scheduled(name=self.name, due=due),
        )


def load_schedules(registry: Registry) -> Mapping[str, Planned]:
    """Those of all datasets, by name. ConfigurationError, one that names each, where any is wrong."""
    found: dict[str, Planned] = {}
    wrong: list[str] = []
    for dataset in registry.values():
        for schedule in dataset.schedules:
            try:
                if not _NAME.fullmatch(schedule.name):
                    raise ValueError("a name is of a-z, 0-9, _ and -")
                if schedule.name in found:
                    raise ValueError(f"the dataset {found[schedule.name].dataset} has a schedule of that name")
                source = SourceRequest.model_validate(dict(schedule.source))
                source.model_dump_json()
                times = Times(schedule.cron, schedule.timezone)
            except ValidationError as error:
                wrong.append(f"dataset {dataset.name}, schedule {schedule.name!r}: a source has a kind ({error})")
            except ValueError as error:
                wrong.append(f"dataset {dataset.name}, schedule {schedule.name!r}: {error}")
            else:
                found[schedule.name] = Planned(dataset.name, schedule, source, times)
    if wrong:
        raise ConfigurationError("; ".join(wrong))
    return MappingProxyType(dict(sorted(found.items())))


def chosen(names: Iterable[str], planned: Mapping[str, Planned]) -> frozenset[str]:
    """Those that ACEQUIA_SCHEDULES names. ConfigurationError, which lists what there is, where there is no such one."""
    asked = set(names)
    if unknown := sorted(asked - planned.keys() - {ALL}):
        there = ", ".join(planned) or "none"
        raise ConfigurationError(f"no schedule is named {', '.join(unknown)}; there is: {there}; * for all of them")
    return frozenset(planned if ALL in asked else asked)


# state


@dataclass(frozen=True, slots=True)
class Fired:
    due: datetime
    run_id: UUID
    at: datetime
    """When it was fired. UTC, as all times here."""


@dataclass(frozen=True, slots=True)
class State:
    """`schedules/<name>.json`: what became of a schedule's times."""

    cron: str
    timezone: str
    """By which the times up to `settled` were told."""
    since: datetime
    """When these were first seen: nothing was due before."""
    settled: datetime
    """All times up to this one were fired or skipped."""
    active: bool = True
    last: Fired | None = None
    skipped: int = 0
    """Missed times that were not made up for, since the schedule is there."""
    skipped_last: datetime | None = None

    def document(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "cron": self.cron,
            "timezone": self.timezone,
            "since": self.since.isoformat(),
            "settled": self.settled.isoformat(),
            "active": self.active,
            "last": self.last
            and {
                "due": self.last.due.isoformat(),
                "run_id": str(self.last.run_id),
                "at": self.last.at.isoformat(),
            },
            "skipped": self.skipped,
            "skipped_last": self.skipped_last and self.skipped_last.isoformat(),
        }

    @classmethod
    def parse(cls, body: bytes) -> "State":
        """ValueError, KeyError or TypeError where it is none of ours."""
        document = json.loads(body)
        last, skipped_last = document["last"], document["skipped_last"]
        return cls(
            cron=str(document["cron"]),
            timezone=str(document["timezone"]),
            since=_moment(document["since"]),
            settled=_moment(document["settled"]),
            active=bool(document["active"]),
            last=Fired(_moment(last["due"]), UUID(last["run_id"]), _moment(last["at"])) if last else None,
            skipped=int(document["skipped"]),
            skipped_last=_moment(skipped_last) if skipped_last else None,
        )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Due:
    """What follows from the times that came since a schedule was last looked at."""

    fire: Sequence[datetime] = ()
    """The earliest first."""
    skipped: int = 0
    """Of those before `fire`: how many are not made up for, COUNTED_MOST at most."""
    skipped_last: datetime | None = None


def judge(times: Times, misfire: Misfire, since: datetime, now: datetime) -> Due:
    """Which of the times in (since, now] are fired. A missed one is more than ON_TIME late."""
    fire: list[datetime] = []
    skipped, skipped_last = 0, None
    most = MADE_UP_MOST if misfire is Misfire.ALL else 1
    for at in times.newest_first(now, since):
        if now - at <= ON_TIME if misfire is Misfire.NONE else len(fire) < most:
            fire.append(at)
            continue
        skipped += 1
        skipped_last = skipped_last or at
        if skipped == COUNTED_MOST:
            break
    return Due(tuple(reversed(fire)), skipped, skipped_last)


# firing


@dataclass(slots=True)
class Scheduler:
    """The schedules of an installation; those in `active` are fired. `clock` tells the time, UTC."""

    workshop: Workshop
    planned: Mapping[str, Planned]
    active: frozenset[str]
    rows_per_part: int = 1_000_000
    clock: Clock = utc_now
    _judged: dict[str, datetime] = field(default_factory=dict)
    """Up to when this process has looked at a schedule's times."""
    _wake: dict[str, datetime] = field(default_factory=dict)
    """When a schedule is looked at again."""
    _last_tick: datetime = LONG_AGO
    _look_for_gone: datetime = LONG_AGO
    """When this process looks for schedules that no dataset has any more; it does once."""

    async def tick(self) -> float:
        """Fire what is due; after how many seconds to come again."""
        now = self.clock()
        if now < self._last_tick:  # the clock was set back
            self._wake.clear()
        self._last_tick = now
        awake = [planned for name, planned in self.planned.items() if now >= self._wake.get(name, now)]
        for planned, wake in zip(awake, await asyncio.gather(*map(self._attend, awake)), strict=True):
            self._wake[planned.name] = wake
        if now >= self._look_for_gone:
            self._look_for_gone = await self._guarded("those that are gone", self._lay_down_gone, now)
        nearest = min(self._wake.values(), default=NEVER)
        return min(LOOK_SECONDS, max(LEAST_SECONDS, (nearest - self.clock()).total_seconds()))

    async def _attend(self, planned: Planned) -> datetime:
        """Bring one schedule up to date; when it wants to be looked at again."""
        now, name = self.clock(), planned.name
        if name not in self.active:
            return await self._guarded(name, lambda: self._lay_down(name), now)
        if (again := await self._guarded(name, lambda: self._bring_up(planned, now), now)) is not NEVER:
            return again
        self._judged[name] = now
        return planned.times.after(now) or NEVER

    async def _guarded(self, name: str, act: Callable[[], Awaitable[None]], now: datetime) -> datetime:
        """When it is to be done again: NEVER, or soon where it failed."""
        try:
            await act()
        except TransientFailure as error:
            log.warning("schedule %s: tried again in %d s: %s", name, AGAIN.seconds, error)
            return now + AGAIN
        except Exception:
            log.exception("schedule %s failed", name)
            return now + AGAIN_AFTER_A_BUG
        return NEVER

    async def _bring_up(self, planned: Planned, now: datetime) -> None:
        for _ in range(RACES):
            state, etag = await self._read(planned.name)
            begun = self._begun(planned, state, now)
            if begun is not state and (etag := await self._write(planned.name, begun, etag)) is None:
                continue
            assert etag is not None  # what stands has one
            if begun.settled > now or await self._fire_due(planned, begun, etag, now):
                return
        raise TransientFailure(f"lost {RACES} races for {schedule_key(planned.name)}", dependency="minio")

    def _begun(self, planned: Planned, state: State | None, now: datetime) -> State:
        """`state`; begun anew where it does not tell of these times: then nothing is due that came before now, or
        before this process last looked at them."""
        schedule = planned.schedule
        since = min(now, self._judged.get(planned.name, now))
        if state is None:
            log.info("schedule %s: its times count from %s on", planned.name, since)
            return State(schedule.cron, schedule.timezone, since, since)
        same = (state.cron, state.timezone) == (schedule.cron, schedule.timezone)
        if same and state.active and state.settled - now <= AHEAD:
            return state
        why = "other times" if not same else "at rest" if not state.active else "a clock that was ahead"
        log.info("schedule %s: its state told of %s; its times count from %s on", planned.name, why, since)
        return replace(state, cron=schedule.cron, timezone=schedule.timezone, since=since, settled=since, active=True)

    async def _fire_due(self, planned: Planned, state: State, etag: str, now: datetime) -> bool:
        """Fire and skip what is due, each noted. False: somebody else noted something, and it is to be judged anew."""
        misfire = planned.schedule.misfire
        # a long time away has many times: counting them must not hold up what else this process does
        due = await asyncio.to_thread(judge, planned.times, misfire, state.settled, now)
        first, fire, skipped = planned.times.after(state.settled), list(due.fire), due.skipped
        if skipped and first is not None and await self._was_fired(run_of(planned.name, first)):
            # somebody died before it was noted
            if (noted := await self._fire(planned, first, state, etag)) is None:
                return False
            (state, etag), skipped = noted, skipped - 1
        if skipped:
            assert due.skipped_last is not None
            more = "at least " if due.skipped == COUNTED_MOST else ""
            state = replace(
                state,
                settled=due.skipped_last,
                skipped=state.skipped + skipped,
                skipped_last=due.skipped_last,
            )
            if (moved := await self._write(planned.name, state, etag)) is None:
                return False
            etag = moved
            log.warning(
                "schedule %s: %s%d missed %s up to %s skipped (misfire: %s)",
                planned.name,
                more,
                skipped,
                "time" if skipped == 1 else "times",
                due.skipped_last.isoformat(),
                misfire.value,
            )
        for at in fire:
            if (noted := await self._fire(planned, at, state, etag)) is None:
                return False
            state, etag = noted
        return True

    async def _fire(self, planned: Planned, due: datetime, state: State, etag: str) -> tuple[State, str] | None:
        """Fire one time, then note it; the state and its etag, or None where somebody else noted something."""
        run_id = run_of(planned.name, due)
        if await carried_out(self.workshop.store, run_id) is None:
            await take_on(self.workshop, planned.command(due, self.rows_per_part))
            log.info("schedule %s: fired for %s, run %s", planned.name, due.isoformat(), run_id)
        self.workshop.at("schedules.after_fire")
        state = replace(state, settled=due, last=Fired(due, run_id, self.clock()))
        moved = await self._write(planned.name, state, etag)
        self.workshop.at("schedules.after_note")
        return (state, moved) if moved is not None else None

    async def _was_fired(self, run_id: UUID) -> bool:
        store = self.workshop.store
        if await store.head(Layer.LEDGER, command_key(run_id)) is not None:
            return True
        return await carried_out(store, run_id) is not None

    async def _lay_down(self, name: str) -> None:
        """Note that nobody is to fire it: what comes due meanwhile is not made up for later."""
        state, etag = await self._read(name)
        if state is not None and state.active:
            await self._write(name, replace(state, active=False), etag)

    async def _lay_down_gone(self) -> None:
        async for info in self.workshop.store.list_objects(Layer.LEDGER, SCHEDULES):
            name = info.key.removeprefix(SCHEDULES).removesuffix(".json")
            if name not in self.planned:
                await self._lay_down(name)

    async def _read(self, name: str) -> tuple[State | None, str | None]:
        """The state and its etag; no state where nothing stands that this version knows."""
        found = await self.workshop.store.read(Layer.LEDGER, schedule_key(name))
        if found is None:
            return None, None
        try:
            return State.parse(found[0]), found[1].etag
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s holds no state that this version knows", schedule_key(name))
            return None, found[1].etag

    async def _write(self, name: str, state: State, etag: str | None) -> str | None:
        """The new etag; None where what stands is no longer `etag` (None: where something stands)."""
        store, key = self.workshop.store, schedule_key(name)
        body = json.dumps(state.document(), indent=1).encode()
        if etag is None:
            written = await store.create(Layer.LEDGER, key, body, metadata={}, content_type=JSON)
        else:
            written = await store.replace(Layer.LEDGER, key, body, etag=etag, metadata={}, content_type=JSON)
        return written.etag if written else None

    # for people

    async def fire(self, name: str) -> IngestionCommand:
        """A run of its own, now, whatever the times say. KeyError where there is no such schedule."""
        return await take_on(self.workshop, self.planned[name].command(None, self.rows_per_part), withdraw=True)

    async def page(self) -> list[dict[str, Any]]:
        """Each schedule: what it is, when it comes due next, and what became of its times."""
        return list(await asyncio.gather(*map(self._told, self.planned.values())))

    async def _told(self, planned: Planned) -> dict[str, Any]:
        schedule, times = planned.schedule, planned.times
        state, _ = await self._read(planned.name)
        active = planned.name in self.active
        following = times.after(self.clock()) if active else None
        last = state.last if state else None
        return {
            "name": schedule.name,
            "dataset": planned.dataset,
            "cron": schedule.cron,
            "timezone": schedule.timezone,
            "source": planned.source.model_dump(mode="json"),
            "misfire": schedule.misfire.value,
            "active": active,
            "next": following and _both(times, following),
            "last": last and {**_both(times, last.due), "fired": last.at.isoformat(), "run_id": str(last.run_id)},
            "skipped": state.skipped if state else 0,
            "skipped_last": state.skipped_last.isoformat() if state and state.skipped_last else None,
        }


def _both(times: Times, at: datetime) -> dict[str, str]:
    return {"due": at.isoformat(), "local": times.local(at).isoformat()}
