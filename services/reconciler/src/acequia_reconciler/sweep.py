"""Finds what was lost between the store and a queue, and sends it again: to the queue of that reader alone.

The census tells what nobody is at work on. Several reconcilers at once do no harm: what is sent twice is done once.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from acequia.errors import QueueFull, RejectedInput, TransientFailure
from acequia.events import utc_now
from acequia.layers import Layer
from acequia.ports import Message, ObjectInfo
from acequia.runner import Workshop, event_again
from acequia.topology import READERS, WRITES, Topology, replay_queue
from acequia_reconciler.census import COMMANDS, IN_FLIGHT, Census, Fate, Finding
from acequia_reconciler.marks import Marks
from acequia_reconciler.plans import PlanIndex

log = logging.getLogger("acequia")

UNNAMED_AGE = timedelta(days=1)
"""How old a file beside a commit object is before it is removed for not being named by it."""
MOST_ORPHANS = 10_000
"""So many are taken up in a sweep, the oldest first, each reader its share; the next goes on."""
LANDING_SHARE = 20
"""LANDING has no dates to begin at: a look at it that took t seconds is repeated after so many times t."""
LANDING = "ingestor"
EVERYTHING = "*"
"""Stands in the marks of LANDING for its one folder."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something that nobody is at work on."""

    queue: str
    uri: str
    since: datetime
    info: ObjectInfo


@dataclass(slots=True)
class Sweep:
    """What one sweep found and did."""

    seen: dict[str, int] = field(default_factory=dict)
    """Objects looked at, by reader."""
    orphans: list[Orphan] = field(default_factory=list)
    sent: int = 0
    held_back: int = 0
    """Orphans left for a later sweep: their queue is long, or they may lie in it, or they were sent a while ago."""
    removed: list[str] = field(default_factory=list)
    """Files beside a commit object that it does not name."""


@dataclass(slots=True)
class _Settled:
    """How far a reader is settled, as one look at it told. Times are those in stems."""

    floor: datetime | None
    """Nothing that may still come to the layer has an earlier time. None: nobody knows."""
    before: Mapping[str, datetime] = field(default_factory=dict)
    """The same by folder, where more is known."""
    folders: set[str] = field(default_factory=set)
    """Those looked at."""
    oldest: dict[str, datetime] = field(default_factory=dict)
    """Time of the oldest object that is not settled, by folder."""
    whole: bool = True
    """Whether the look came to its end: no folder is missing."""
    failed: bool = False
    """Something could not be read: nothing is known."""

    def note(self, finding: Finding) -> None:
        folder, _, below = finding.info.key.partition("/")
        if finding.info.layer in (Layer.LANDING, Layer.LEDGER):
            folder = EVERYTHING
        elif not below:
            return
        self.folders.add(folder)
        if finding.fate in (Fate.ORPHAN, Fate.IN_FLIGHT) and not finding.broken:
            self.oldest[folder] = min(finding.at, self.oldest.get(folder, finding.at))

    def marks(self) -> dict[str, datetime]:
        """Of each folder that was looked at: before when all is settled, in whole seconds, as stems are."""
        floors = {folder: self.before.get(folder, self.floor) for folder in self.folders}
        return {
            folder: min(floor, self.oldest.get(folder, floor)).replace(microsecond=0)
            for folder, floor in floors.items()
            if floor is not None
        }


class Sweeper:
    """`rate`: at most so many messages a second are sent. `full_every`: seconds between two looks at everything."""

    def __init__(
        self,
        workshop: Workshop,
        topology: Topology,
        *,
        queue_limit: int = 1000,
        rate: float = 200.0,
        full_every: float = 86_400.0,
    ) -> None:
        self._workshop = workshop
        for reader in READERS:  # a first one is seen as a rise only where there was a nought before
            workshop.meters.sent_again.labels(reader.stage)
        self._topology = topology
        self._queue_limit = queue_limit
        self._rate = rate
        self._full_every = timedelta(seconds=full_every)
        self._sent: dict[tuple[str, str, str], float] = {}
        """When (monotonic) an object was sent, by queue, uri and etag: it lies in the queue or is in work since."""
        self._plans: dict[tuple[str, str], PlanIndex] = {}
        self._landing_after = 0.0
        """When (monotonic) LANDING is looked at again."""
        self._lock = asyncio.Lock()

    async def sweep(self, *, grace: float, dry_run: bool = False, at_once: bool = False, full: bool = True) -> Sweep:
        """Find orphans older than `grace` seconds and send them again, the oldest first.

        `at_once`: also those that may be in flight, or were sent by this process a while ago. `full`: look at all that
        there is; else, at each reader, from the marks of earlier sweeps on, unless its last full look is too long ago.
        """
        async with self._lock:
            result = Sweep()
            await self._look(result, grace=grace, full=full, dry_run=dry_run)
            if not dry_run:
                await self._send(result, at_once=at_once)
        if result.sent:
            log.info("sweep: %d orphans, %d sent again", len(result.orphans), result.sent)
        return result

    # look

    async def _look(self, result: Sweep, *, grace: float, full: bool, dry_run: bool) -> None:
        """Find the orphans of each reader, and how far it is settled: there the next look begins.

        A stem bears the time at which its command was accepted or its file landed, a model's the time of its plan. So
        what may still come to RAW is no older than the oldest open command and the oldest landing object without
        `done`, what may come to SILVER no older than what is unsettled in RAW, and to MODELS than the oldest open plan.
        An hour is the room for clocks, and for what is being written.
        """
        store, begun = self._workshop.store, utc_now()
        latest = begun - IN_FLIGHT
        census = Census(self._workshop, self._topology, grace=grace, plans=self._plans)
        commands = await self._find(census, COMMANDS, None, _Settled(latest), result)
        floor = min([latest, *commands.oldest.values()]) if not commands.failed else None
        coming: dict[Layer, _Settled] = {}
        for reader in READERS:
            marks = (await Marks.read(store, reader.stage)).believed(begun, latest)
            all_of_it = full or marks.full_at is None or begun - marks.full_at >= self._full_every
            if reader.layer is Layer.LANDING:
                if not full and time.monotonic() < self._landing_after:
                    landed = marks.datasets.get(EVERYTHING)
                    coming[WRITES[LANDING]] = _Settled(min(floor, landed) if floor and landed else None)
                    continue
                settled = await self._find_landing(census, _Settled(latest), result)
                at = min([latest, *settled.oldest.values()])
                marks.datasets = {EVERYTHING: at}
                coming[WRITES[LANDING]] = _Settled(min(floor, at) if floor and not settled.failed else None)
            else:
                settled = coming[reader.layer]
                if reader.layer is Layer.MODELS:
                    settled = _Settled(None, await self._plans_made(census, marks, latest, full=all_of_it))
                    if all_of_it:
                        await self._remove_unnamed(result, dry_run=dry_run)
                settled = _Settled(settled.floor, settled.before)
                await self._find(census, reader.stage, None if all_of_it else marks.datasets, settled, result)
                before = settled.marks()
                coming[WRITES[reader.stage]] = _Settled(settled.floor if settled.whole else None, before)
                # what a look at everything did not come to has no mark: the next one does
                marks.datasets = before if all_of_it else marks.datasets | before
            if not dry_run and not settled.failed:
                marks.full_at = begun if all_of_it else marks.full_at
                await marks.write(store)
        result.orphans.sort(key=lambda orphan: orphan.since)

    async def _find_landing(self, census: Census, settled: _Settled, result: Sweep) -> _Settled:
        began = time.monotonic()
        await self._find(census, LANDING, None, settled, result)
        ended = time.monotonic()
        self._landing_after = ended + LANDING_SHARE * (ended - began)
        return settled

    async def _find(
        self,
        census: Census,
        reader: str,
        marks: Mapping[str, datetime] | None,
        settled: _Settled,
        result: Sweep,
    ) -> _Settled:
        """Add the reader's orphans, its share of them at most. What can't be read leaves the reader out."""
        queue, share, result.seen[reader] = _queue(reader), MOST_ORPHANS // (len(READERS) + 1), 0
        found: list[tuple[float, int, Orphan]] = []
        """A heap whose first is the youngest."""
        try:
            async with aclosing(census.findings(reader, marks)) as findings:
                async for finding in findings:
                    result.seen[reader] += 1
                    settled.note(finding)
                    if finding.fate is not Fate.ORPHAN or finding.broken:
                        continue
                    info = finding.info
                    orphan = Orphan(queue, info.uri, info.last_modified, info)
                    item = (-orphan.since.timestamp(), result.seen[reader], orphan)
                    if len(found) < share:
                        heapq.heappush(found, item)
                    elif info.layer in (Layer.LANDING, Layer.LEDGER):  # there what comes later may be older
                        heapq.heappushpop(found, item)
                    else:
                        settled.whole = False
                        break
        except TransientFailure:
            raise
        except Exception:  # what can't be read at one stage must not keep the others' objects lost
            log.exception("sweep: %s is left out", reader)
            settled.failed, settled.whole, settled.folders = True, False, set()
        result.orphans += [orphan for _, _, orphan in found]
        return settled

    async def _plans_made(
        self, census: Census, marks: Marks, latest: datetime, *, full: bool
    ) -> Mapping[str, datetime]:
        """By dataset the time of the oldest plan that is open: its model is still to come."""
        before: dict[str, datetime] = {}
        (planner,) = (stage for stage, layer in WRITES.items() if layer is Layer.MODELS)
        for dataset in self._workshop.registry:
            try:
                await census.look_at_plans(planner, dataset, None if full else marks.datasets.get(dataset))
            except TransientFailure:
                raise
            except Exception:
                log.exception("sweep: a plan of %s can't be read", dataset)
            else:
                before[dataset] = min([latest, *(stem.at for stem in census.open_plans[planner, dataset])])
        return before

    # send

    async def _send(self, result: Sweep, *, at_once: bool) -> None:
        room: dict[str, int] = {}
        busy: dict[str, bool] = {}
        bus, now = self._workshop.bus, utc_now()
        while self._sent and time.monotonic() - next(iter(self._sent.values())) > IN_FLIGHT.total_seconds():
            del self._sent[next(iter(self._sent))]
        due = time.monotonic()
        for orphan in result.orphans:
            queue, sent = orphan.queue, (orphan.queue, orphan.uri, orphan.info.etag)
            if queue not in room:
                room[queue] = self._queue_limit - await bus.depth(queue)
                beside = [*self._topology.queue(queue).rungs, replay_queue(self._topology.queue(queue).stage)]
                busy[queue] = room[queue] < self._queue_limit or any([await bus.depth(name) for name in beside])
            in_flight = sent in self._sent or (busy[queue] and now - orphan.since < IN_FLIGHT)
            if room[queue] <= 0 or (in_flight and not at_once):
                result.held_back += 1
                continue
            if (message := await self._message(orphan)) is None:
                continue
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic()) + 1 / self._rate
            try:
                await bus.publish("", queue, message)
            except QueueFull as error:
                log.warning("sweep: %s", error)
                room[queue] = 0
                result.held_back += 1
                continue
            self._sent.pop(sent, None)
            self._sent[sent] = time.monotonic()
            room[queue] -= 1
            result.sent += 1
            self._workshop.meters.sent_again.labels(self._topology.queue(queue).stage).inc()

    async def _message(self, orphan: Orphan) -> Message | None:
        """What is sent: the command, or an object's event. None: it is gone."""
        info = orphan.info
        try:
            if info.layer is not Layer.LEDGER:
                return await event_again(self._workshop.store, self._workshop.buckets, info.layer, info.key)
            found = await self._workshop.store.read(info.layer, info.key)
        except RejectedInput as rejected:
            log.warning("sweep: %s can't be read: %s", orphan.uri, rejected)
            return None
        run_id = info.key.rpartition("/")[2].removesuffix(".json")
        return Message(found[0], type="IngestionCommand", message_id=run_id) if found else None

    # files that no card names

    async def _remove_unnamed(self, result: Sweep, *, dry_run: bool) -> None:
        """Remove the files of a model's folder that its card does not name: a race's loser stored them, a day ago."""
        folder, beside = "", list[ObjectInfo]()
        async for info in self._workshop.store.list_objects(Layer.MODELS):
            if (here := info.key.rpartition("/")[0]) != folder:
                await self._remove_beside(folder, beside, result, dry_run=dry_run)
                folder, beside = here, []
            if info.key.endswith(".skops"):
                beside.append(info)
        await self._remove_beside(folder, beside, result, dry_run=dry_run)

    async def _remove_beside(self, folder: str, beside: Sequence[ObjectInfo], result: Sweep, *, dry_run: bool) -> None:
        store, before = self._workshop.store, utc_now() - UNNAMED_AGE
        old = [i for i in beside if i.last_modified <= before]
        # what a card names was stored before it: where there is one file only, it is that
        if not old or len(beside) < 2 or (found := await store.read(Layer.MODELS, f"{folder}/model.json")) is None:
            return
        named = found[0].decode(errors="replace")
        for info in old:
            if info.key not in named:
                result.removed.append(info.uri)
                if not dry_run:
                    await store.remove(Layer.MODELS, info.key)


def _queue(reader: str) -> str:
    return next(r.queue for r in READERS if r.stage == (LANDING if reader == COMMANDS else reader))
