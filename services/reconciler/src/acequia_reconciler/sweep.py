"""Finds what was lost between the store and a queue, and sends it again: to the queue of that reader alone.

Nothing is opened: comparing listings tells what is done. An orphan is a command without `done`, or an object without
a commit object of any variant, a manifest, a plan, or a dead letter. Several reconcilers at once do no harm: what is
sent twice is done once.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from acequia.batches import Plans
from acequia.errors import RejectedInput, TransientFailure
from acequia.events import IngestionCommand, ObjectCreated, to_notification, utc_now
from acequia.layers import Layer, Name, Stem, command_key, dead_key, done_key, landing_done_id
from acequia.ports import Message, ObjectInfo
from acequia.runner import Workshop, foreign_stem
from acequia.topology import READERS, WRITES, Reader, Topology

log = logging.getLogger("acequia")

_COMMAND = re.compile(r"^commands/([0-9a-f-]{36})\.json$")
IN_FLIGHT = timedelta(hours=1)
"""What is younger may lie in its reader's queues, while these hold messages; what was sent again may be in work."""
HEADS = 32
"""Look-ups at once."""
UNNAMED_AGE = timedelta(days=1)
"""How old a file beside a commit object is before it is removed for not being named by it."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something that nobody is at work on."""

    queue: str
    uri: str
    since: datetime
    message: Message
    info: ObjectInfo


@dataclass(slots=True)
class Sweep:
    """What one sweep found and did."""

    seen: dict[str, int] = field(default_factory=dict)
    """Objects looked at, by stage."""
    orphans: list[Orphan] = field(default_factory=list)
    sent: int = 0
    held_back: int = 0
    """Orphans left for a later sweep: their queue is long, or they may lie in it, or they were sent a while ago."""
    removed: list[str] = field(default_factory=list)
    """Files beside a commit object that it does not name."""


class Sweeper:
    def __init__(self, workshop: Workshop, topology: Topology, *, queue_limit: int = 1000) -> None:
        self._workshop = workshop
        self._topology = topology
        self._queue_limit = queue_limit
        self._sent: dict[tuple[str, str, str], float] = {}
        """When (monotonic) an object was sent, by queue, uri and etag: it lies in the queue or is in work since."""

    async def sweep(self, *, grace: float, dry_run: bool = False, at_once: bool = False) -> Sweep:
        """Find orphans older than `grace` seconds and send them again, the oldest first.

        `at_once`: also those that may be in flight, or were sent by this process a while ago.
        """
        result = Sweep()
        before = utc_now() - timedelta(seconds=grace)
        finders = {"commands": self._commands(before, result), "ingestor": self._landing(before, result)}
        for reader in READERS:
            if reader.layer is Layer.LANDING:
                continue
            find = self._many_to_one if reader.layer is Layer.SILVER else self._one_to_one
            finders[reader.stage] = find(reader, before, result)
        for stage, finder in finders.items():
            try:
                result.orphans += [orphan async for orphan in finder]
            except TransientFailure:
                raise
            except Exception:  # what can't be read at one stage must not keep the others' objects lost
                log.exception("sweep: %s is left out", stage)
        if not dry_run:
            await self._send(result, at_once=at_once)
        await self._remove_unnamed(result, dry_run=dry_run)
        if result.sent:
            log.info("sweep: %d orphans, %d sent again", len(result.orphans), result.sent)
        return result

    async def _send(self, result: Sweep, *, at_once: bool) -> None:
        room: dict[str, int] = {}
        busy: dict[str, bool] = {}
        bus, now = self._workshop.bus, utc_now()
        while self._sent and time.monotonic() - next(iter(self._sent.values())) > IN_FLIGHT.total_seconds():
            del self._sent[next(iter(self._sent))]
        for orphan in sorted(result.orphans, key=lambda o: o.since):
            queue, sent = orphan.queue, (orphan.queue, orphan.uri, orphan.info.etag)
            if queue not in room:
                room[queue] = self._queue_limit - await bus.depth(queue)
                rungs = [self._topology.queue(queue).retry_queue(d) for d in self._topology.queue(queue).retry_delays]
                busy[queue] = room[queue] < self._queue_limit or any([await bus.depth(rung) for rung in rungs])
            in_flight = sent in self._sent or (busy[queue] and now - orphan.since < IN_FLIGHT)
            if room[queue] <= 0 or (in_flight and not at_once):
                result.held_back += 1
                continue
            if (message := await self._message(orphan)) is None:
                continue
            await bus.publish("", queue, message)
            self._sent.pop(sent, None)
            self._sent[sent] = time.monotonic()
            room[queue] -= 1
            result.sent += 1

    async def _message(self, orphan: Orphan) -> Message | None:
        """What is sent: an object's event as the store would have told it, with the metadata. None: it is gone."""
        if orphan.message.type:
            return orphan.message
        try:
            info = await self._workshop.store.head(orphan.info.layer, orphan.info.key)
        except RejectedInput as rejected:
            log.warning("sweep: %s can't be read: %s", orphan.uri, rejected)
            return None
        return self._orphan(orphan.queue, info).message if info else None

    async def _commands(self, before: datetime, result: Sweep) -> AsyncIterator[Orphan]:
        store, queue = self._workshop.store, self._queue("ingestor")
        found = [i async for i in store.list_objects(Layer.LEDGER, "commands/") if i.last_modified <= before]
        result.seen["commands"] = len(found)
        for info in found:
            if (match := _COMMAND.match(info.key)) is None or await store.head(
                Layer.LEDGER, dead_key("ingestor", match[1])
            ):
                continue
            if (stored := await store.read(Layer.LEDGER, info.key)) is None:
                continue
            try:
                command = IngestionCommand.model_validate_json(stored[0])
            except ValueError as error:
                log.warning("sweep: %s is no command that this version knows: %s", info.uri, error)
                continue
            if command_key(command.run_id) != info.key:
                log.warning("sweep: %s is the command of another run", info.uri)
                continue
            # one that is done but still lies here is sent too: who handles it publishes its record and removes it
            message = Message(stored[0], type="IngestionCommand", message_id=str(command.run_id))
            yield Orphan(queue, info.uri, info.last_modified, message, info)

    async def _landing(self, before: datetime, result: Sweep) -> AsyncIterator[Orphan]:
        workshop, queue = self._workshop, self._queue("ingestor")
        bucket = workshop.buckets.of(Layer.LANDING)
        batch: list[ObjectInfo] = []
        result.seen["ingestor"] = 0

        async def orphans() -> list[ObjectInfo]:
            ids = [landing_done_id(bucket, i.key, i.etag) for i in batch]
            done = await asyncio.gather(*(workshop.store.head(Layer.LEDGER, done_key(i)) for i in ids))
            dead = await asyncio.gather(*(workshop.store.head(Layer.LEDGER, dead_key("ingestor", str(i))) for i in ids))
            return [i for i, d, x in zip(batch, done, dead, strict=True) if d is None and x is None]

        async for info in workshop.store.list_objects(Layer.LANDING):
            if info.key.endswith("/"):
                continue  # a folder's marker
            result.seen["ingestor"] += 1
            if info.last_modified <= before:
                batch.append(info)
            if len(batch) == HEADS:
                for orphan in await orphans():
                    yield self._orphan(queue, orphan)
                batch.clear()
        for orphan in await orphans():
            yield self._orphan(queue, orphan)

    async def _one_to_one(self, reader: Reader, before: datetime, result: Sweep) -> AsyncIterator[Orphan]:
        """Objects of a layer against the commit objects, manifests and dead letters of their reader."""
        workshop = self._workshop
        settled = await self._settled(reader.stage)
        bucket, result.seen[reader.stage] = workshop.buckets.of(reader.layer), 0
        async for info in workshop.store.list_objects(reader.layer):
            if not self._notified(reader, info.key):
                continue
            result.seen[reader.stage] += 1
            name = Name.of_key(info.key)
            stem = name.stem if name else foreign_stem(info, bucket)
            dataset = workshop.registry.get(stem.dataset)
            if dataset is not None and reader.stage not in dataset.readers:
                continue
            if info.last_modified <= before and str(stem) not in settled:
                yield self._orphan(reader.queue, info)

    async def _many_to_one(self, reader: Reader, before: datetime, result: Sweep) -> AsyncIterator[Orphan]:
        """Objects of a layer against the plans of their reader: what a plan covers is its reader's to end."""
        workshop = self._workshop
        plans: dict[str, Plans] = {}
        result.seen[reader.stage] = 0
        dead = {self._stem_text(i.key) async for i in self._list(Layer.LEDGER, f"dead/{reader.stage}/")}
        async for info in workshop.store.list_objects(reader.layer):
            name = Name.of_key(info.key)
            dataset = workshop.registry.get(name.stem.dataset) if name else None
            if name is None or dataset is None or reader.stage not in dataset.readers:
                continue
            result.seen[reader.stage] += 1
            if info.last_modified > before or str(name.stem) in dead:
                continue
            if dataset.name not in plans:
                plans[dataset.name] = Plans(workshop, reader.stage, dataset.name)
                await plans[dataset.name].refresh()
            if not await plans[dataset.name].covers(name.stem):
                yield self._orphan(reader.queue, info)

    async def _settled(self, stage: str) -> set[str]:
        """Stems that have an outcome at `stage`: a commit object of any variant, a manifest, a dead letter."""
        settled: set[str] = set()
        async for info in self._list(WRITES[stage]):
            if (name := Name.of_key(info.key)) is not None and name.variant is not None:
                settled.add(str(name.stem))
        async for info in self._list(Layer.QUARANTINE, f"{stage}/"):
            if info.key.endswith(".rejected.json"):
                settled.add(self._stem_text(info.key))
        async for info in self._list(Layer.LEDGER, f"dead/{stage}/"):
            settled.add(self._stem_text(info.key))
        return settled

    async def _remove_unnamed(self, result: Sweep, *, dry_run: bool) -> None:
        """Remove the files of a model's folder that its card does not name: a race's loser stored them, a day ago."""
        store, before = self._workshop.store, utc_now() - UNNAMED_AGE
        folders: dict[str, list[ObjectInfo]] = {}
        async for info in store.list_objects(Layer.MODELS):
            folders.setdefault(info.key.rpartition("/")[0], []).append(info)
        for folder, files in folders.items():
            card, beside = f"{folder}/model.json", [i for i in files if i.key.endswith(".skops")]
            old = [i for i in beside if i.last_modified <= before]
            # what a card names was stored before it: where there is one file only, it is that
            if not old or len(beside) < 2 or (found := await store.read(Layer.MODELS, card)) is None:
                continue
            named = found[0].decode(errors="replace")
            for info in old:
                if info.key not in named:
                    result.removed.append(info.uri)
                    if not dry_run:
                        await store.remove(Layer.MODELS, info.key)

    def _list(self, layer: Layer, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        return self._workshop.store.list_objects(layer, prefix)

    def _notified(self, reader: Reader, key: str) -> bool:
        suffixes: Sequence[str] = [n.suffix for n in self._topology.notifications if n.layer is reader.layer]
        return any(key.endswith(suffix) for suffix in suffixes)

    def _queue(self, stage: str) -> str:
        return next(r.queue for r in READERS if r.stage == stage)

    def _orphan(self, queue: str, info: ObjectInfo) -> Orphan:
        event = ObjectCreated(
            layer=info.layer,
            bucket=self._workshop.buckets.of(info.layer),
            key=info.key,
            etag=info.etag,
            size=info.bytes,
            metadata=info.metadata,
        )
        return Orphan(queue, info.uri, info.last_modified, Message(to_notification(event)), info)

    @staticmethod
    def _stem_text(key: str) -> str:
        """The stem at the start of a file's name, before its variant."""
        text = key.rpartition("/")[2].partition(".")[0]
        stem = Stem.parse(text)
        return str(stem) if stem else text
