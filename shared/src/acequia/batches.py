"""Many-to-one stages: gather -> plan -> ack; then plan -> work -> commit, with no message held, however long it takes.

A plan pins what one piece of work covers. Everything here can be done by several processes at once and be cut off
anywhere: plans are created only once, each start of one is told in LEDGER, and the commit object ends it.
"""

import asyncio
import json
import logging
import os
import re
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

from acequia.errors import ConfigurationError, InputGone, RejectedInput, TransientFailure
from acequia.events import (
    META_LOAD,
    META_ROWS,
    META_RUN_ID,
    META_TIME_MAX,
    META_TIME_MIN,
    AuditRecord,
    Ignored,
    Kind,
    ObjectCreated,
    ObjectRecord,
    Status,
    event_id,
    parse_notification,
    told_rows,
    utc_now,
)
from acequia.layers import (
    NAMESPACE,
    Layer,
    Name,
    Stem,
    data_key,
    dead_key,
    manifest_key,
    plan_key,
    plan_prefix,
    run_id_of,
    start_key,
)
from acequia.ports import Delivery, Message, ObjectInfo, Settlement, Subscription
from acequia.runner import (
    HEADER_STALE,
    JSON,
    Variants,
    Workshop,
    commit,
    committed_record,
    in_thread,
    input_record,
    newest_first,
    publish_note,
    reject,
    settle,
    store_beside,
)
from acequia.stage import BatchStage, Candidate
from acequia.topology import WRITES, dead_queue
from acequia.work import Input, Outcome, Work

log = logging.getLogger("acequia")

MOST_FAILURES = 5
MOST_STARTS = 20
MOST_ROWS_OF_AN_OBJECT = 1_000_000
"""Assumed of an object that does not say how many rows it has."""
RECENT_PLANS = 3
"""How many of a dataset's last plans a start tells the audit of again."""
RENEW_SECONDS = 10.0
STALE_SECONDS = 30.0
RELEASE_SECONDS = 5.0
"""How long a stop waits for a start to be released."""
_PLAN = re.compile(r"/(\d{6,})\.json$")
_START = re.compile(r"\.start-(\d+)\.json$")


@dataclass(frozen=True, slots=True)
class Plan:
    """`plans/<stage>/<dataset>/<n>.json`: what one piece of many-to-one work covers."""

    stage: str
    dataset: str
    number: int
    stem: Stem
    created_at: datetime
    run_id: UUID
    parents: tuple[UUID, ...]
    inputs: tuple[Candidate, ...]
    settled_before: date
    """Objects of earlier dates are settled: only for a late one among them need old plans be read."""
    plans_from: int
    """No plan below this number covers an object dated `settled_before` or later, or is open."""
    more: Mapping[str, Any]
    """What the stage's `compose` said: window, hold-out."""

    def document(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "stage": self.stage,
            "dataset": self.dataset,
            "number": self.number,
            "stem": str(self.stem),
            "created_at": self.created_at.isoformat(),
            "run_id": str(self.run_id),
            "parents": [str(p) for p in self.parents],
            "settled_before": self.settled_before.isoformat(),
            "plans_from": self.plans_from,
            **self.more,
            "inputs": [asdict(c) for c in self.inputs],
        }

    @classmethod
    def parse(cls, body: bytes) -> "Plan":
        """Raises ValueError or KeyError where `body` is no plan."""
        document = json.loads(body)
        stem = Stem.parse(document["stem"])
        if stem is None:
            raise ValueError(f"not a plan's stem: {document['stem']!r}")
        known = {
            "schema_version", "stage", "dataset", "number", "stem", "created_at", "run_id", "parents",
            "settled_before", "plans_from", "inputs",
        }  # fmt: skip
        return cls(
            stage=document["stage"],
            dataset=document["dataset"],
            number=document["number"],
            stem=stem,
            created_at=datetime.fromisoformat(document["created_at"]),
            run_id=UUID(document["run_id"]),
            parents=tuple(UUID(p) for p in document["parents"]),
            inputs=tuple(Candidate(**c) for c in document["inputs"]),
            settled_before=date.fromisoformat(document["settled_before"]),
            plans_from=document["plans_from"],
            more={k: v for k, v in document.items() if k not in known},
        )


class Plans:
    """The plans of one stage and dataset, as far as they matter: which input is covered, and by which."""

    def __init__(self, workshop: Workshop, stage: str, dataset: str) -> None:
        self._workshop = workshop
        self.stage = stage
        self.dataset = dataset
        self.last = 0
        self.known: dict[int, Plan] = {}
        self._dates: dict[int, tuple[date, ...]] = {}
        """Of each known plan's inputs, in their order."""
        self._covered: dict[str, int] = {}
        self._first_known = 1
        self.looked = False
        """Whether `refresh` has read what there was."""

    async def refresh(self) -> None:
        """Read the plans that are new since the last time; the first time, those that are not settled."""
        if not self.looked:
            numbers = [
                int(m[1])
                async for info in self._workshop.store.list_objects(Layer.LEDGER, plan_prefix(self.stage, self.dataset))
                if (m := _PLAN.search(info.key))
            ]
            if numbers:
                newest = await self._read(max(numbers))
                if newest is None:
                    raise TransientFailure("a plan was removed while it was read", dependency="minio")
                self._learn(newest)
                await self._load(n for n in numbers if newest.plans_from <= n < newest.number)
            self.looked = True
        while (plan := await self._read(self.last + 1)) is not None:
            self._learn(plan)

    async def covers(self, stem: Stem) -> bool:
        """Whether a plan covers the object. `refresh` first."""
        if str(stem) in self._covered:
            return True
        newest = self.known.get(self.last)
        if newest is not None and stem.date < newest.settled_before and self._first_known > 1:
            # a late object of a settled time: only now are the old plans worth reading
            await self._load(range(1, self._first_known))
            self._first_known = 1  # until the next plan forgets them again
            return str(stem) in self._covered
        return False

    def covered_at(self, stem: Stem) -> datetime | None:
        """When the last plan that covers the object was made. `covers` first."""
        number = self._covered.get(str(stem))
        return self.known[number].created_at if number in self.known else None

    def covered_variant(self, stem: Stem) -> str | None:
        """Of the object that the last plan of this stem took. `covers` first."""
        plan = self.known.get(self._covered.get(str(stem), 0))
        return next((c.variant for c in plan.inputs if c.stem == str(stem)), None) if plan else None

    def window(self, since: date) -> list[Candidate]:
        """Inputs of the known plans dated `since` or later, newest first; of each stem what the latest plan took."""
        found: dict[str, Candidate] = {}
        for number in sorted(self.known):
            dated = zip(self.known[number].inputs, self._dates[number], strict=True)
            found |= {c.stem: c for c, at in dated if at >= since}
        return sorted(found.values(), key=lambda c: (c.time_max or "", c.stem), reverse=True)

    def since(self, horizon: date) -> list[int]:
        """Numbers of the known plans that cover an object dated `horizon` or later."""
        return [number for number, dates in self._dates.items() if max(dates, default=date.min) >= horizon]

    async def create(self, plan: Plan) -> bool:
        """Store `plan` unless its number is taken."""
        stored = await self._workshop.store.create(
            Layer.LEDGER,
            plan_key(self.stage, self.dataset, plan.number),
            json.dumps(plan.document(), indent=1).encode(),
            metadata={},
            content_type=JSON,
        )
        if stored is not None:
            self._learn(plan)
        return stored is not None

    async def _load(self, numbers: Iterable[int]) -> None:
        slots = asyncio.Semaphore(16)

        async def one(number: int) -> Plan | None:
            async with slots:
                return await self._read(number)

        for plan in await asyncio.gather(*(one(n) for n in numbers if n not in self.known)):
            if plan is not None:
                self._learn(plan)

    def _learn(self, plan: Plan) -> None:
        self.known[plan.number] = plan
        stems = (Stem.parse(c.stem) for c in plan.inputs)
        self._dates[plan.number] = tuple(stem.date if stem else date.min for stem in stems)
        for candidate in plan.inputs:
            self._covered[candidate.stem] = max(plan.number, self._covered.get(candidate.stem, 0))
        if plan.number > self.last:
            self.last = plan.number
            self._forget_below(plan.plans_from)

    def _forget_below(self, number: int) -> None:
        """What is settled is read again when it is asked for: memory holds what a window holds, however many plans."""
        for settled in [n for n in self.known if n < number]:
            del self._dates[settled]
            for candidate in self.known.pop(settled).inputs:
                if self._covered.get(candidate.stem) == settled:
                    del self._covered[candidate.stem]
        self._first_known = number

    async def _read(self, number: int) -> Plan | None:
        found = await self._workshop.store.read(Layer.LEDGER, plan_key(self.stage, self.dataset, number))
        return Plan.parse(found[0]) if found else None


def _stale_since(headers: Mapping[str, str]) -> datetime | None:
    """When a message was sent that asks for the current variant; None: it does not. Where it says no time: always."""
    if (told := headers.get(HEADER_STALE)) is None:
        return None
    try:
        return datetime.fromisoformat(told).astimezone(UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True)
class Arrival:
    event: ObjectCreated
    stem: Stem
    stale_since: datetime | None
    """Set: only a plan made at this time or later covers it."""
    planned: asyncio.Future[None]


@dataclass(slots=True)
class Start:
    """One start of a plan: `<n>.start-<k>.json`, renewed while its process lives."""

    number: int
    key: str
    etag: str
    failures: int
    state: dict[str, Any] = field(default_factory=dict)


class BatchRunner:
    """Runs a `BatchStage`: `handle` is what the bus is given, `run` is its life."""

    def __init__(
        self,
        stage: BatchStage,
        workshop: Workshop,
        *,
        stale_after: float = STALE_SECONDS,
        renew_every: float = RENEW_SECONDS,
        retry_pause: float = 2.0,
        poll: float = 1.0,
        look_every: float = 30.0,
    ) -> None:
        self.stage = stage
        self.workshop = workshop
        self.variants = Variants(workshop.store, stage.name)
        self._written = Variants(workshop.store, next(s for s, layer in WRITES.items() if layer is stage.reads))
        self._stale_after = stale_after
        self._renew_every = renew_every
        self._retry_pause = retry_pause
        self._poll = poll
        self._look_every = look_every
        self._arrived: asyncio.Queue[Arrival] = asyncio.Queue()
        self._plans: dict[str, Plans] = {}
        self._open: dict[tuple[str, int], Plan] = {}
        self._announced: set[tuple[str, int]] = set()
        self._unsure: set[tuple[str, int]] = set()
        """Known plans of which it is not known yet whether they have ended: asking the store failed."""
        self._fresh: set[tuple[str, int]] = set()
        """Plans made here and not yet begun: the first start of such a one needs no look at what others did."""
        self._seen: dict[str, tuple[str, float]] = {}
        """Of the plan in work: the starts of other processes, as they were when they last changed."""
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Make the stage's variant known and find the plans that are open, before the first delivery."""
        await self.variants.register(self.stage.variant, reads=self.stage.reads, writes=self.stage.writes)
        for plans in await self._look():
            for number in sorted(plans.known)[-RECENT_PLANS:]:
                # the process that committed it may have died before it said so
                if (record := await self._standing(plans.known[number])) is not None:
                    await self.workshop.publish(record)

    async def _look(self) -> list[Plans]:
        """Find the plans that are open, whoever made them."""
        datasets = [d.name for d in self.workshop.registry.values() if self.stage.name in d.readers]
        return [await self._refresh(dataset) for dataset in datasets]

    async def handle(self, delivery: Delivery) -> Settlement:
        """Wait until a plan covers the delivery's object."""
        return await settle(self._act, delivery, workshop=self.workshop, stage=self.stage.name)

    async def run(self, subscription: Subscription) -> None:
        """Work off what is open, gather, plan, and so on, until cancelled. `subscription` consumes for `handle`."""
        pause = self._poll
        while True:
            try:
                if self._open:
                    await subscription.pause()
                    await asyncio.sleep(0)  # what was handed out just before is in `handle` now
                    if late := self._drain():  # held while the work lasts, they would outlast the broker's patience
                        await self._plan_batch(late)
                    await self._work_off_open()
                await subscription.resume()
                batch = await self._gather()
                if not batch:
                    await self._look()
                    continue
                await subscription.pause()
                await self._plan_batch([*batch, *self._drain()])
                pause = self._poll
            except ConfigurationError as error:
                log.critical("%s: %s", self.stage.name, error)
                if self.workshop.fatal is None:
                    raise
                self.workshop.fatal(error)
                return
            except TransientFailure as error:
                log.warning("%s: waiting %.1f s: %s", self.stage.name, pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 10.0 if error.away else 60.0)

    async def finish(self, life: asyncio.Task[None], grace: float) -> None:
        """Stop `run`: a plan in work has `grace` seconds to end, then its start is released for another."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        while not life.done():  # again: before Python 3.12 `wait_for` may swallow a cancel that meets its result
            life.cancel()
            await asyncio.wait({life}, timeout=RELEASE_SECONDS + 1)

    # gather and plan

    async def _act(self, delivery: Delivery) -> None:
        started = utc_now()
        try:
            event = parse_notification(delivery.message.body, self.workshop.buckets)
        except RejectedInput as rejected:
            await self._note(delivery, None, Status.REJECTED, rejected, started)
            return
        if isinstance(event, Ignored) or event.layer is not self.stage.reads:
            reason = event.reason if isinstance(event, Ignored) else "another layer"
            self.workshop.meters.ignored.labels(self.stage.name, reason).inc()
            return
        name = Name.of_key(event.key)
        dataset = self.workshop.registry.get(name.stem.dataset) if name else None
        if name is None or dataset is None:
            foreign = RejectedInput("foreign_key", f"{event.uri} is not named as an object of ours")
            await self._note(delivery, event, Status.REJECTED, foreign, started)
            return
        if self.stage.name not in dataset.readers:
            self.workshop.meters.ignored.labels(self.stage.name, "not applicable").inc()
            return
        arrival = Arrival(
            event,
            name.stem,
            _stale_since(delivery.message.headers),
            asyncio.get_running_loop().create_future(),
        )
        self._arrived.put_nowait(arrival)
        await arrival.planned

    async def _note(
        self, delivery: Delivery, event: ObjectCreated | None, status: Status, why: Exception, started: datetime
    ) -> None:
        stage = self.stage
        await publish_note(
            self.workshop, stage.name, stage.variant, delivery, event, status=status, why=why, started=started
        )

    async def _gather(self) -> list[Arrival]:
        """The first arrival, and what comes until it is quiet. Nothing, where none comes for long."""
        try:
            batch = [await asyncio.wait_for(self._arrived.get(), self._look_every)]
        except TimeoutError:
            return []
        end = time.monotonic() + self.stage.gather_most
        while (left := end - time.monotonic()) > 0 and self.stage.gather_quiet > 0:
            try:
                batch.append(await asyncio.wait_for(self._arrived.get(), min(self.stage.gather_quiet, left)))
            except TimeoutError:
                break
        return batch

    def _drain(self) -> list[Arrival]:
        return [self._arrived.get_nowait() for _ in range(self._arrived.qsize())]

    async def _plan_batch(self, batch: Sequence[Arrival]) -> None:
        by_dataset: dict[str, list[Arrival]] = defaultdict(list)
        for arrival in batch:
            by_dataset[arrival.stem.dataset].append(arrival)
        for dataset, arrivals in by_dataset.items():
            (error,) = await asyncio.gather(self._plan(dataset, arrivals), return_exceptions=True)
            for arrival in arrivals:
                if arrival.planned.done():
                    continue
                if error is not None:
                    arrival.planned.set_exception(error)
                else:
                    arrival.planned.set_result(None)
        self.workshop.at(f"{self.stage.name}.after_plan")

    async def _plan(self, dataset: str, arrivals: Sequence[Arrival]) -> None:
        """Make plans until each arrival is covered by one. The loser of a number takes the next.

        The first try goes by what is known: where another process made a plan meanwhile, the number is taken.
        """
        candidates: dict[str, Candidate] = {}
        plans = self._plans.get(dataset)
        if plans is None or not plans.looked:
            plans = await self._refresh(dataset)
        while True:
            wanted: dict[str, Arrival] = {}
            for arrival in arrivals:
                covered = await plans.covers(arrival.stem)
                if covered and (since := arrival.stale_since) is not None:
                    covered = (plans.covered_at(arrival.stem) or since) >= since
                if not covered or (self.stage.supersedes and await self._supersedes(plans, arrival)):
                    wanted.setdefault(str(arrival.stem), arrival)
            for stem in sorted(wanted.keys() - candidates.keys()):
                if (candidate := await self._candidate(wanted[stem])) is not None:
                    candidates[stem] = await self._newest(candidate)
            inputs = self._bounded([candidates[stem] for stem in sorted(wanted) if stem in candidates])
            if not inputs:
                return
            if await plans.create(plan := await self._with_newest_window(self._compose(plans, inputs))):
                self._open[dataset, plan.number] = plan
                self._fresh.add((dataset, plan.number))
                log.info("%s: plan %d of %s covers %d objects", self.stage.name, plan.number, dataset, len(inputs))
                try:
                    await self._announce(plan)
                except TransientFailure as error:  # who works on it tells it then
                    log.warning("%s: plan %d is told later: %s", self.stage.name, plan.number, error)
                planned = {c.stem for c in inputs}
                if not (arrivals := [a for a in arrivals if str(a.stem) not in planned]):
                    return
                continue
            plans = await self._refresh(dataset)

    async def _supersedes(self, plans: Plans, arrival: Arrival) -> bool:
        """Whether it is a newer variant than the one that the last plan of its stem took."""
        name, taken = Name.of_key(arrival.event.key), plans.covered_variant(arrival.stem)
        if name is None or name.variant is None or taken is None or name.variant == taken:
            return False
        known = await self._written.known()
        return name.variant not in known or newest_first(known, [name.variant, taken])[0] == name.variant

    def _bounded(self, inputs: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """As many of the first as one plan may cover."""
        if self.stage.most_rows is None:
            return tuple(inputs)
        rows = accumulate(MOST_ROWS_OF_AN_OBJECT if c.rows is None else c.rows for c in inputs)
        return tuple(
            c for n, (c, sum_) in enumerate(zip(inputs, rows, strict=True)) if not n or sum_ <= self.stage.most_rows
        )

    async def _candidate(self, arrival: Arrival) -> Candidate | None:
        """What a planner must know of an object: from its event where that carries it, else from the store."""
        event, metadata, etag, size = arrival.event, arrival.event.metadata, arrival.event.etag, arrival.event.size
        if META_ROWS not in metadata or size is None or not etag:
            info = await self.workshop.store.head(event.layer, event.key)
            if info is None:
                return None
            metadata, etag, size = info.metadata, info.etag, info.bytes
        return self._candidate_of(arrival.stem, event.key, etag, size, metadata)

    def _candidate_of(self, stem: Stem, key: str, etag: str, size: int, metadata: Mapping[str, str]) -> Candidate:
        name, bucket = Name.of_key(key), self.workshop.buckets.of(self.stage.reads)
        return Candidate(
            key=key,
            etag=etag,
            stem=str(stem),
            variant=(name.variant if name else None) or "",
            bytes=size,
            rows=told_rows(metadata),
            time_min=metadata.get(META_TIME_MIN),
            time_max=metadata.get(META_TIME_MAX),
            run_id=str(run_id_of(metadata.get(META_RUN_ID), bucket, key, etag)),
            load=metadata.get(META_LOAD),
        )

    def _compose(self, plans: Plans, inputs: tuple[Candidate, ...]) -> Plan:
        number = plans.last + 1
        made_at = utc_now()
        now = made_at.replace(microsecond=0)
        horizon = now.date() - timedelta(days=max(self.stage.window_days, 2))
        if (newest := plans.known.get(plans.last)) is not None:
            horizon = max(horizon, newest.settled_before)  # a clock that went back unsettles nothing
        since = now.date() - timedelta(days=self.stage.window_days)
        covered = {c.stem for c in inputs}
        reach = self.stage.reach(inputs)
        if reach is not None and (not self.stage.window_days or reach < since):
            since = reach
        looks_back = self.stage.window_days or reach is not None
        window = [c for c in plans.window(since) if c.stem not in covered] if looks_back else []
        needed = [n for (d, n) in self._open.keys() | self._unsure if d == plans.dataset]
        needed += plans.since(horizon)
        parents = sorted({UUID(c.run_id) for c in inputs if c.run_id})
        key = plan_key(self.stage.name, plans.dataset, number)
        return Plan(
            stage=self.stage.name,
            dataset=plans.dataset,
            number=number,
            stem=Stem(plans.dataset, now, plan=number),
            created_at=made_at,
            run_id=uuid5(NAMESPACE, f"{self.workshop.buckets.prefix}\n{key}"),
            parents=tuple(parents),
            inputs=inputs,
            settled_before=horizon,
            plans_from=min([*needed, number]),
            more=self.stage.compose(inputs, window),
        )

    async def _newest(self, taken: Candidate) -> Candidate:
        """The newest variant that there is of the object: it may stand beside `taken` (`acequia replay --stale`)."""
        known, stem = await self._written.known(), Stem.parse(taken.stem)
        if len(known) < 2 or stem is None or taken.variant not in known:
            return taken
        ranked = newest_first(known, known)
        for better in ranked[: ranked.index(taken.variant)]:
            info = await self.workshop.store.head(self.stage.reads, data_key(stem, better))
            if info is not None:
                return self._candidate_of(stem, info.key, info.etag, info.bytes, info.metadata)
        return taken

    async def _with_newest_window(self, plan: Plan) -> Plan:
        """The same; of each object in the window the newest variant."""
        if not (window := plan.more.get("window")):
            return plan
        newest = await asyncio.gather(*(self._newest(Candidate(**c)) for c in window))
        return replace(plan, more={**plan.more, "window": [asdict(c) for c in newest]})

    async def _announce(self, plan: Plan) -> None:
        """Tell the audit which plan covers which objects."""
        key = plan_key(plan.stage, plan.dataset, plan.number)
        uri = self.workshop.buckets.uri(Layer.LEDGER, key)
        await self.workshop.publish(
            AuditRecord(
                event_id=event_id(Kind.NOTE, plan.stage, "", uri, Status.PLANNED),
                kind=Kind.NOTE,
                status=Status.PLANNED,
                run_id=plan.run_id,
                parents=plan.parents,
                stage=plan.stage,
                variant=self.stage.variant,
                dataset=plan.dataset,
                stem=str(plan.stem),
                inputs=tuple(self._object_record(c) for c in plan.inputs),
                outputs=(ObjectRecord(uri=uri),),
                message_id=key,
                started=plan.created_at,
                finished=plan.created_at,
                host=self.workshop.host,
            )
        )
        self._announced.add((plan.dataset, plan.number))

    def _object_record(self, candidate: Candidate) -> ObjectRecord:
        uri = self.workshop.buckets.uri(self.stage.reads, candidate.key)
        return ObjectRecord(uri=uri, etag=candidate.etag, bytes=candidate.bytes, rows=candidate.rows)

    async def _refresh(self, dataset: str) -> Plans:
        """The dataset's plans, with those of other processes; the open ones among them are work for us too."""
        plans = self._plans.setdefault(dataset, Plans(self.workshop, self.stage.name, dataset))
        before = set(plans.known)
        try:
            await plans.refresh()
        finally:  # where reading was cut short, those read already are known, and would not be looked at again
            self._unsure |= {(dataset, number) for number in plans.known.keys() - before}
        for number in sorted(n for d, n in self._unsure if d == dataset):
            plan = plans.known.get(number)  # None: a later plan says that all below it have ended
            if plan is not None and not await self._ended(plan):
                self._open[dataset, number] = plan
            self._unsure.remove((dataset, number))
        return plans

    # work a plan off

    async def _ended(self, plan: Plan) -> bool:
        return await self._standing(plan) is not None or await self._dead(plan)

    async def _standing(self, plan: Plan) -> AuditRecord | None:
        """The record of the commit object or manifest that ended the plan."""
        variants = await self.variants.known()
        keys = [(self.stage.writes, self.stage.commit_key(plan.stem, v)) for v in variants]
        keys += [(Layer.QUARANTINE, manifest_key(plan.stage, plan.stem, v)) for v in variants]
        for info in await asyncio.gather(*(self.workshop.store.head(layer, key) for layer, key in keys)):
            if info is not None and (record := await committed_record(self.workshop, info)) is not None:
                return record
        return None

    async def _dead(self, plan: Plan) -> bool:
        keys = [dead_key(plan.stage, str(plan.stem), v) for v in await self.variants.known()]
        found = await asyncio.gather(*(self.workshop.store.head(Layer.LEDGER, k) for k in keys))
        return any(info is not None for info in found)

    async def _work_off_open(self) -> None:
        for (dataset, number), plan in sorted(self._open.items()):
            await self._work_off(plan)
            del self._open[dataset, number]
            self._announced.discard((dataset, number))
            self._seen.clear()

    async def _work_off(self, plan: Plan) -> None:
        """Bring one plan to its end: by our own start, or by waiting for another process's."""
        if (plan.dataset, plan.number) in self._fresh:
            self._fresh.discard((plan.dataset, plan.number))
            # whoever works on a plan has created its first start: if ours is that, nobody has
            if (first := await self._begin(plan, 1, 0)) is not None and await self._run_start(plan, first):
                return
        while True:
            if (record := await self._standing(plan)) is not None:
                await self.workshop.publish(record)  # the process that committed may have died before it said so
                return
            if await self._dead(plan):
                return
            start = await self._take(plan)
            if isinstance(start, str):
                await self._bury(plan, start)
                return
            if start is None:
                await asyncio.sleep(self._poll)
            elif await self._run_start(plan, start):
                return

    async def _take(self, plan: Plan) -> Start | str | None:
        """A start of our own; None while another's is alive; a sentence where there were too many."""
        store, prefix = self.workshop.store, plan_key(plan.stage, plan.dataset, plan.number).removesuffix(".json")
        starts: dict[int, ObjectInfo] = {}
        async for info in store.list_objects(Layer.LEDGER, f"{prefix}.start-"):
            if match := _START.search(info.key):
                starts[int(match[1])] = info
        states: dict[int, dict[str, Any]] = {}
        for number, info in starts.items():
            found = await store.read(Layer.LEDGER, info.key)
            states[number] = json.loads(found[0]) if found else {}
        failures = [s for s in states.values() if s.get("state") == "failed"]
        counted = [s for s in states.values() if s.get("counts", True)]
        if len(failures) >= MOST_FAILURES or len(counted) >= MOST_STARTS:
            return "\n".join(str(s.get("error", "cut off")) for s in states.values())
        last = max(starts, default=0)
        if last and states[last].get("state") == "running" and not self._is_stale(starts[last]):
            return None
        if last and states[last].get("state") == "failed":
            await asyncio.sleep(min(self._retry_pause * 2 ** (len(failures) - 1), 60.0))
        return await self._begin(plan, last + 1, len(failures))

    async def _begin(self, plan: Plan, number: int, failures: int) -> Start | None:
        """Create a start; None where another process has just created it."""
        key = start_key(plan.stage, plan.dataset, plan.number, number)
        state = {
            "state": "running",
            "host": self.workshop.host,
            "pid": os.getpid(),
            "token": str(uuid4()),
            "variant": self.stage.variant,
            "started_at": utc_now().isoformat(),
        }
        body = json.dumps(state).encode()
        created = await self.workshop.store.create(Layer.LEDGER, key, body, metadata={}, content_type=JSON)
        return Start(number, key, created.etag, failures, state) if created else None

    def _is_stale(self, info: ObjectInfo) -> bool:
        """Whether the start was not renewed for `stale_after` seconds, by our own clock: none is compared."""
        etag, since = self._seen.get(info.key, ("", 0.0))
        if etag != info.etag:
            self._seen[info.key] = (info.etag, since := time.monotonic())
        return time.monotonic() - since >= self._stale_after

    async def _run_start(self, plan: Plan, start: Start) -> bool:
        """Work on the plan; whether that brought it to its end."""
        renewing = asyncio.create_task(self._renew(start))
        self._idle.clear()
        log.info("%s: plan %d of %s, start %d", self.stage.name, plan.number, plan.dataset, start.number)
        try:
            if (plan.dataset, plan.number) not in self._announced:  # who made it may have died before it said so
                await self._announce(plan)
            record = await self._work(plan)
            self.workshop.at(f"{self.stage.name}.after_store")
            await self.workshop.publish(record)
            self.workshop.at(f"{self.stage.name}.after_audit")
            return True
        except (asyncio.CancelledError, TransientFailure, ConfigurationError) as error:
            await self._stop_renewing(renewing)
            counts = isinstance(error, TransientFailure) and not error.away  # an outage, or a stop, is not the plan's
            # it may just be the store that is away: then the start goes stale
            with suppress(TransientFailure, ConfigurationError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._tell(start, state="released", counts=counts)
            raise
        except Exception as error:
            log.exception("%s: plan %d failed", self.stage.name, plan.number)
            await self._stop_renewing(renewing)
            await self._tell(start, state="failed", error="".join(traceback.format_exception(error))[-4000:])
            return False
        finally:
            await self._stop_renewing(renewing)
            self._idle.set()

    async def _renew(self, start: Start) -> None:
        beat = 0
        while True:
            await asyncio.sleep(self._renew_every)
            beat += 1
            try:
                if not await self._tell(start, renewed=beat):
                    return
            except TransientFailure as error:
                log.warning("%s: %s could not be renewed: %s", self.stage.name, start.key, error)

    async def _tell(self, start: Start, **news: Any) -> bool:
        """Write the start's state anew; False where it is no longer ours."""
        start.state |= news
        info = await self.workshop.store.replace(
            Layer.LEDGER, start.key, json.dumps(start.state).encode(), etag=start.etag, metadata={}, content_type=JSON
        )
        if info is not None:
            start.etag = info.etag
        return info is not None

    @staticmethod
    async def _stop_renewing(task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait({task})  # not `await task`: its being cancelled must not be taken for ours, nor ours for its

    async def _bury(self, plan: Plan, why: str) -> None:
        """The plan is dead: the auditor writes that down and shows it to people."""
        key = plan_key(plan.stage, plan.dataset, plan.number)
        body = {
            "stage": plan.stage,
            "dataset": plan.dataset,
            "number": plan.number,
            "stem": str(plan.stem),
            "variant": self.stage.variant,
            "run_id": str(plan.run_id),
            "parents": [str(p) for p in plan.parents],
            "inputs": [self._object_record(c).uri for c in plan.inputs],
            "error": why,
        }
        headers = {
            "acequia-error": f"plan {plan.number} failed too often",
            "acequia-traceback": why[-4000:],
            "acequia-stage": plan.stage,
            "acequia-died-at": datetime.now(UTC).isoformat(),
        }
        message = Message(body=json.dumps(body).encode(), type="Plan", message_id=key, headers=headers)
        await self.workshop.bus.publish("", dead_queue(plan.stage), message)

    async def _work(self, plan: Plan) -> AuditRecord:
        stage, workshop = self.stage, self.workshop
        started = utc_now()
        uri = workshop.buckets.uri(Layer.LEDGER, plan_key(plan.stage, plan.dataset, plan.number))
        window = [Candidate(**c) for c in plan.more.get("window", ())]
        with workshop.folder() as name, workshop.meters.seconds.labels(stage.name).time():
            folder = Path(name)
            inputs, paths = await self._fetch([*plan.inputs, *window], folder)
            workshop.at(f"{stage.name}.after_fetch")
            work = Work(
                stage=stage.name,
                variant=stage.variant,
                stem=plan.stem,
                dataset=plan.dataset,
                run_id=plan.run_id,
                inputs=inputs,
                plan={**plan.document(), "key": plan_key(plan.stage, plan.dataset, plan.number)},
                written=await self._written.known(),
            )
            try:
                if not inputs:
                    raise RejectedInput("inputs_gone", "none of the plan's inputs is there any more")
                out = folder / "out"
                out.mkdir()
                outcome = await in_thread(stage.process, work, paths, out)
                workshop.at(f"{stage.name}.after_process")
                return await self._store(plan, work, outcome, uri, started)
            except RejectedInput as rejected:
                return await reject(workshop, work, rejected, subject=uri, started=started, parents=plan.parents)

    async def _fetch(self, candidates: Sequence[Candidate], folder: Path) -> tuple[tuple[Input, ...], list[Path]]:
        """The plan's objects as local files; one that was deleted since is left out."""
        slots = asyncio.Semaphore(8)
        workshop, reads = self.workshop, self.stage.reads

        async def one(position: int, candidate: Candidate) -> tuple[Input, Path] | None:
            path = folder / f"{position:06d}.parquet"
            try:
                async with slots:
                    if self.stage.fetch:
                        await workshop.store.get(reads, candidate.key, path, etag=candidate.etag)
                    elif (
                        info := await workshop.store.head(reads, candidate.key)
                    ) is None or info.etag != candidate.etag:
                        raise InputGone(workshop.buckets.uri(reads, candidate.key), superseded=info is not None)
            except InputGone as gone:
                log.warning("%s: left out: %s", self.stage.name, gone)
                return None
            uri = workshop.buckets.uri(reads, candidate.key)
            return Input(reads, candidate.key, candidate.etag, uri, candidate.bytes, candidate.rows), path

        found = [f for f in await asyncio.gather(*(one(i, c) for i, c in enumerate(candidates))) if f is not None]
        return tuple(f[0] for f in found), [f[1] for f in found]

    async def _store(self, plan: Plan, work: Work, outcome: Outcome, subject: str, started: datetime) -> AuditRecord:
        stage, workshop = self.stage, self.workshop
        beside = await store_beside(workshop, outcome.beside)
        key = stage.commit_key(work.stem, work.variant)
        record = AuditRecord(
            event_id=event_id(Kind.OUTCOME, stage.name, work.variant, subject),
            kind=Kind.OUTCOME,
            status=Status.SUCCESS,
            run_id=plan.run_id,
            parents=plan.parents,
            stage=stage.name,
            variant=work.variant,
            dataset=work.dataset,
            stem=str(work.stem),
            inputs=tuple(input_record(i) for i in work.inputs),
            outputs=(ObjectRecord(uri=workshop.buckets.uri(stage.writes, key)), *beside),
            rows_in=outcome.rows_in,
            rows_out=outcome.rows_out,
            parameters=dict(outcome.parameters),
            metrics=dict(outcome.metrics),
            started=started,
            finished=utc_now(),
            host=workshop.host,
        )
        return await commit(workshop, layer=stage.writes, key=key, record=record, document=outcome.document)
