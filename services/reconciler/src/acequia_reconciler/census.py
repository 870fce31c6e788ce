"""What became of each object at its reader, told by comparing sorted listings.

The keys of one stem sort alike in every layer, for a `.` follows the stem everywhere: so the listing of a layer and the
listings of what its reader writes are read side by side, and memory does not grow with the number of objects. LANDING
has no such keys: there the ids of what is done are held, 17 bytes each. For a reader that plans, the inputs of the
plans of one date at a time are.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from acequia.events import IngestionCommand, utc_now
from acequia.layers import (
    CANARY_PREFIX,
    UNKNOWN_DATASET,
    Layer,
    Name,
    Stem,
    command_key,
    data_key,
    dead_key,
    done_key,
    folder_key,
    held_key,
    held_prefix,
    is_variant,
    landing_done_id,
    manifest_key,
)
from acequia.ports import ObjectInfo
from acequia.runner import Variants, Workshop, foreign_stem, newest_first
from acequia.topology import READERS, WRITES, Reader, Topology
from acequia_reconciler.ids import Ids
from acequia_reconciler.plans import Coverage, PlanIndex

log = logging.getLogger("acequia")

COMMANDS = "commands"
"""The reader of `commands/`: the ingestor, counted apart from its landing objects."""
IN_FLIGHT = timedelta(hours=1)
"""What is younger may lie in its reader's queues, while these hold messages."""
LOOKS = 32
"""Look-ups at once."""
MOST_WAITING = 1000
"""Findings that wait for such look-ups, so that they stay in order."""
MOST_LOOKS = 10_000
"""So many orphans of a reader are looked at once more, by HEAD; beyond that the listings have the word."""
_COMMAND = re.compile(r"^commands/([0-9a-f-]{36})\.json$")
_DONE = re.compile(r"^done/([0-9a-f-]{36})\.json$")
_COMMIT_FILE: Mapping[str, str] = {
    "trainer": "model.json",
    "lakehouse": "commit.json",
    "evaluator": "evaluation.json",
}
_REPORT = "report.html"
PLANNING = frozenset({"trainer", "lakehouse"})
"""Readers whose work is planned: many objects in, one artifact out."""


SUPERSEDING = frozenset({"lakehouse"})
"""Of these, those to whom a newer variant of what a plan covers is work too."""


class Fate(StrEnum):
    DONE = "done"
    QUARANTINED = "quarantined"
    DEAD = "dead"
    HELD = "held"
    """Taken over from elsewhere: it waits until somebody replays it."""
    NOT_APPLICABLE = "not_applicable"
    IN_FLIGHT = "in_flight"
    ORPHAN = "orphans"


@dataclass(slots=True)
class Finding:
    """One object at one reader."""

    reader: str
    dataset: str
    info: ObjectInfo
    fate: Fate
    reason: str
    at: datetime
    """The time in its stem; where it has none, when it was stored."""
    variants: tuple[str, ...] = ()
    """Of its outcomes."""
    broken: bool = False
    """An orphan that sending again does not help: its commit object stands."""
    taken: bool = True
    """False where a plan covers another variant of its stem."""

    def told(self, fate: Fate, reason: str, *, variants: tuple[str, ...] = (), broken: bool = False) -> "Finding":
        """The same, of which this is known now."""
        self.fate, self.reason, self.variants, self.broken = fate, reason, variants, broken
        return self


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What the listings hold of one stem at one stage."""

    commits: tuple[str, ...] = ()
    manifests: tuple[str, ...] = ()
    dead: bool = False
    held: bool = False
    beside: tuple[ObjectInfo, ...] = ()
    """All that lies in the layer that the stage writes."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """What became of a plan."""

    fate: Fate
    reason: str
    variant: str | None = None
    broken: bool = False


_JUST_COVERED = _Ended(Fate.IN_FLIGHT, "a plan has just covered it")
_RANKS = (Fate.DONE, Fate.QUARANTINED, Fate.IN_FLIGHT, Fate.DEAD, Fate.ORPHAN)
"""Of several plans that cover an object the best counts; what is at work again is more than dead."""


class _Beside:
    """A sorted listing, read along another: what lies under one place (`date=.../<stem>.`) at a time."""

    def __init__(self, infos: AsyncIterator[ObjectInfo], *, cut: int, dataset: str | None = None) -> None:
        self._infos = infos
        self._cut = cut
        self._dataset = dataset
        """Where the names lie in no date's folder: which dataset's are meant."""
        self._next: tuple[str, ObjectInfo] | None = None
        self._begun = False
        self._place = ""
        self._found: list[ObjectInfo] = []

    async def at(self, place: str) -> list[ObjectInfo]:
        """Entries of `place`. Ask in order."""
        if place != self._place:
            if not self._begun:
                self._begun = True
                await self._advance()
            while self._next is not None and self._next[0] < place:
                await self._advance()
            self._place, self._found = place, []
            while self._next is not None and self._next[0] == place:
                self._found.append(self._next[1])
                await self._advance()
        return self._found

    async def _advance(self) -> None:
        async for info in self._infos:
            place = place_of(info.key, self._cut)
            if self._dataset is not None:
                day = place[len(self._dataset) + 1 : len(self._dataset) + 9]
                if not day.isdecimal():
                    continue  # of a dataset whose name begins like this one's
                place = f"date={day[:4]}-{day[4:6]}-{day[6:]}/{place}"
            self._next = (place, info)
            return
        self._next = None


def place_of(key: str, cut: int) -> str:
    """The key after `cut` characters, up to the first `.` and with it. Cut like this sorted keys stay sorted."""
    return key[cut : key.find(".", cut) + 1 or len(key)]


class _Outcomes:
    """The listings of what a stage writes for one dataset, from `since` on."""

    def __init__(
        self, workshop: Workshop, stage: str, dataset: str, since: datetime | None, *, reads: Layer | None = None
    ) -> None:
        """`reads`: the layer of which objects may be held back."""
        store = workshop.store
        self._commit_file = _COMMIT_FILE.get(stage)
        after = position(dataset, since)
        stem = after.rpartition("/")[2]
        manifests, dead = f"{stage}/{dataset}/", f"dead/{stage}/{dataset}_"
        self._written = _Beside(
            store.list_objects(WRITES[stage], f"{dataset}/", start_after=after), cut=len(dataset) + 1
        )
        self._manifests = _Beside(
            store.list_objects(Layer.QUARANTINE, manifests, start_after=after and f"{stage}/{after}"),
            cut=len(manifests),
        )
        self._dead = _Beside(
            store.list_objects(Layer.LEDGER, dead, start_after=stem and f"dead/{stage}/{stem}"),
            cut=len(dead) - len(dataset) - 1,
            dataset=dataset,
        )
        self._held: _Beside | None = None
        if reads is Layer.RAW:
            marks = held_prefix(reads)
            held = store.list_objects(Layer.LEDGER, f"{marks}{dataset}_", start_after=stem and f"{marks}{stem}")
            self._held = _Beside(held, cut=len(marks), dataset=dataset)

    async def at(self, place: str) -> _Outcome:
        written = await self._written.at(place)
        manifests = [i.key for i in await self._manifests.at(place) if i.key.endswith(".rejected.json")]
        dead = await self._dead.at(place)
        held = await self._held.at(place) if self._held else []
        if not (written or manifests or dead or held):
            return _NOTHING
        suffix = f"/{self._commit_file}" if self._commit_file else ".parquet"
        found = (_variant(i.key, suffix) for i in written)
        return _Outcome(
            tuple(v for v in found if v is not None),
            tuple(_variant(key, ".rejected.json") or "" for key in manifests),
            any(i.key.endswith(".json") for i in dead),
            bool(held),
            tuple(written),
        )


_NOTHING = _Outcome()


def _variant(key: str, suffix: str) -> str | None:
    """The variant in a key that ends in `<stem>.<variant><suffix>`; None where it does not."""
    if not key.endswith(suffix):
        return None
    text = key.removesuffix(suffix).rpartition("/")[2].partition(".")[2]
    return text if is_variant(text) else None


def position(folder: str, since: datetime | None) -> str:
    """What the stems of `folder` that were given at `since` or later sort after; empty: all of it."""
    return f"{folder}/date={since:%Y-%m-%d}/{folder}_{since:%Y%m%d_%H%M%S}" if since else ""


class Census:
    """One look at everything.

    `grace`: what is younger than these seconds is in flight (0: nothing is, for its youth). `busy`: readers whose
    queues hold messages. `outputs`: open what must be opened to see that the outputs of commit objects are there, and
    count what is not applicable. `plans`: what is known of plans from an earlier look.
    """

    def __init__(
        self,
        workshop: Workshop,
        topology: Topology,
        *,
        grace: float = 0.0,
        busy: Collection[str] = (),
        outputs: bool = False,
        plans: dict[tuple[str, str], PlanIndex] | None = None,
    ) -> None:
        self._workshop = workshop
        self._topology = topology
        self._grace = grace
        self._busy = busy
        self._outputs = outputs
        self._begun = utc_now()
        self._plans: dict[tuple[str, str], PlanIndex] = {} if plans is None else plans
        self._variants = {reader.stage: Variants(workshop.store, reader.stage) for reader in READERS}
        self._done = _Done()
        self._planned_before: dict[tuple[str, str], int] = {}
        """By reader and dataset: the last plan that was known when the look began."""
        self.open_plans: dict[tuple[str, str], list[Stem]] = {}
        """Plans that have not ended, by reader and dataset: as far as a look at either end of the reader told."""

    def findings(self, reader: str, marks: Mapping[str, datetime] | None = None) -> AsyncGenerator[Finding]:
        """Every object of the reader, dataset by dataset, the oldest stem first. Orphans were looked at once more.

        `marks`: only objects of these times or later, by dataset, where the layer has dates. ValueError, KeyError or
        TypeError where a plan can't be read.
        """
        if reader == COMMANDS:
            return self._looked_at(self._commands())
        (found,) = (r for r in READERS if r.stage == reader)
        if found.layer is Layer.LANDING:
            return self._looked_at(self._landing())
        return self._looked_at(self._by_stem(found, marks))

    def of_dataset(self, stage: str, dataset: str, since: datetime | None = None) -> AsyncIterator[Finding]:
        """The same of one dataset, as the listings tell it; from `since` on, where the layer has dates."""
        (reader,) = (r for r in READERS if r.stage == stage)
        if reader.layer is Layer.LANDING:
            return (finding async for finding in self._landing() if finding.dataset == dataset)
        return self._by_stem(reader, {dataset: since} if since else {}, [f"{dataset}/"])

    # objects with stems

    async def _by_stem(
        self, reader: Reader, marks: Mapping[str, datetime] | None, folders: Sequence[str] | None = None
    ) -> AsyncIterator[Finding]:
        stage, registry, current = reader.stage, self._workshop.registry, None
        async for info in self._listed(reader.layer, marks, folders):
            if not self._notified(reader, info.key) or info.key.startswith(CANARY_PREFIX):
                continue
            folder = info.key.partition("/")[0]
            if folder != current:
                current, since = folder, (marks or {}).get(folder)
                outcomes = _Outcomes(self._workshop, stage, folder, since, reads=reader.layer)
                dataset = registry.get(folder)
                applies = stage in dataset.readers if dataset else stage not in PLANNING
                if stage in PLANNING and applies:
                    coverage, ends = await self._coverage(stage, folder, since)
            name = Name.of_key(info.key)
            if name is None:
                if marks is not None and (known := marks.get(folder)) and info.last_modified < known:
                    continue
                yield await self._foreign(reader, info)
                continue
            found = Finding(stage, folder, info, Fate.ORPHAN, "", name.stem.at)
            if not applies:
                yield found.told(Fate.NOT_APPLICABLE, f"{folder} is none of the {stage}'s datasets")
                continue
            place = place_of(info.key, len(folder) + 1)
            outcome = await outcomes.at(place)
            if stage in PLANNING:
                covered = [ends[meaning] for meaning in await coverage.of(place.rpartition("/")[2][:-1])]
                found.taken = coverage.took(info.key)
                if covered and not found.taken and stage in SUPERSEDING and await self._is_newest(info.layer, name):
                    covered = []  # what plans cover is an older variant
                yield self._planned(found, covered, dead=outcome.dead)
            else:
                yield self._judged(found, outcome)

    async def _listed(
        self, layer: Layer, marks: Mapping[str, datetime] | None, folders: Sequence[str] | None
    ) -> AsyncIterator[ObjectInfo]:
        """The whole layer; with `marks` the objects in its folders, in those that have a mark from there on."""
        store = self._workshop.store
        if marks is None:
            async for info in store.list_objects(layer):
                yield info
            return
        for folder in await store.list_folders(layer) if folders is None else folders:
            start = position(folder.rstrip("/"), marks.get(folder.rstrip("/")))
            async for info in store.list_objects(layer, folder, start_after=start):
                yield info

    async def _is_newest(self, layer: Layer, name: Name) -> bool:
        """Whether no newer variant of the object lies beside it."""
        writer = next(stage for stage, written in WRITES.items() if written is layer)
        known = await Variants(self._workshop.store, writer).known()
        if name.variant not in known:
            return True
        ranked = newest_first(known, known)
        newer = (data_key(name.stem, variant) for variant in ranked[: ranked.index(name.variant)])
        return not any([await self._workshop.store.head(layer, key) for key in newer])

    def _judged(self, found: Finding, outcome: _Outcome) -> Finding:
        """A one-to-one stage's object."""
        variants = (*outcome.commits, *outcome.manifests)
        whole = [v for v in outcome.commits if not self._lacking(found.reader, v, outcome)]
        if whole:
            return found.told(Fate.DONE, "its commit object stands", variants=variants)
        if outcome.manifests:
            return found.told(Fate.QUARANTINED, "its manifest stands", variants=variants)
        if outcome.dead:
            return found.told(Fate.DEAD, "its message is a dead letter", variants=variants)
        if outcome.held:
            return found.told(Fate.HELD, "taken over from elsewhere, and not replayed yet")
        if outcome.commits:
            lacking = self._lacking(found.reader, outcome.commits[0], outcome)
            reason = f"its commit object stands, but {lacking} beside it is missing"
            return found.told(Fate.ORPHAN, reason, variants=variants, broken=True)
        return self._unsettled(found, "no commit object, manifest or dead letter of any variant")

    def _lacking(self, stage: str, variant: str, outcome: _Outcome) -> str:
        """The file that should lie beside the commit object and does not."""
        if not self._outputs or stage != "evaluator":
            return ""
        report = f".{variant}/{_REPORT}"
        return "" if any(i.key.endswith(report) for i in outcome.beside) else _REPORT

    def _planned(self, found: Finding, covered: Sequence[_Ended], *, dead: bool) -> Finding:
        best = min(covered, key=lambda ended: _RANKS.index(ended.fate), default=None)
        variants = tuple(ended.variant for ended in covered if ended.variant)
        if dead and (best is None or _RANKS.index(best.fate) > _RANKS.index(Fate.DEAD)):
            return found.told(Fate.DEAD, "its message is a dead letter", variants=variants)
        if best is None:
            return self._unsettled(found, "no plan covers it")
        return found.told(best.fate, best.reason, variants=variants, broken=best.broken)

    def _unsettled(self, found: Finding, why: str) -> Finding:
        """In flight for its youth, or an orphan."""
        age = self._begun - found.info.last_modified
        if self._grace and age < timedelta(seconds=self._grace):
            return found.told(Fate.IN_FLIGHT, f"younger than {self._grace:g} s")
        stage = "ingestor" if found.reader == COMMANDS else found.reader
        if stage in self._busy and age < IN_FLIGHT:
            reason = "younger than an hour, and its reader's queues hold messages"
            return found.told(Fate.IN_FLIGHT, reason)
        return found.told(Fate.ORPHAN, why)

    async def _foreign(self, reader: Reader, info: ObjectInfo) -> Finding:
        """An object that somebody else named: its reader rejects it under the stem that follows from it."""
        found = Finding(reader.stage, UNKNOWN_DATASET, info, Fate.ORPHAN, "", info.last_modified)
        if reader.stage in PLANNING:
            reason = f"not named as an object of ours: the {reader.stage} leaves it"
            return found.told(Fate.NOT_APPLICABLE, reason)
        bucket = self._workshop.buckets.of(info.layer)
        judged = self._judged(found, await self._look_up(reader.stage, foreign_stem(info, bucket)))
        taken_over = done_key(landing_done_id(bucket, info.key, info.etag))
        if (
            info.layer is Layer.RAW
            and judged.fate in (Fate.ORPHAN, Fate.IN_FLIGHT)
            and await self._workshop.store.head(Layer.LEDGER, taken_over)
        ):
            return found.told(Fate.NOT_APPLICABLE, "its content was taken over under a name of ours")
        return judged

    async def _look_up(self, stage: str, stem: Stem) -> _Outcome:
        """The same as a listing tells, by HEADs of each known variant."""
        store, known = self._workshop.store, await self._variants[stage].known()
        reads = next(r.layer for r in READERS if r.stage == stage)
        file = _COMMIT_FILE.get(stage)

        async def there(layer: Layer, key: str) -> ObjectInfo | None:
            return await store.head(layer, key)

        commits = [folder_key(stem, v, file) if file else data_key(stem, v) for v in known]
        reports = [folder_key(stem, v, _REPORT) for v in known] if stage == "evaluator" else []
        manifests = [manifest_key(stage, stem, v) for v in known]
        letters = [dead_key(stage, str(stem), v) for v in (*known, None)]
        asked = (
            (WRITES[stage], commits),
            (WRITES[stage], reports),
            (Layer.QUARANTINE, manifests),
            (Layer.LEDGER, letters),
            (Layer.LEDGER, [held_key(reads, stem)] if reads is Layer.RAW else []),
        )
        written, beside, rejected, dead, held = [
            await asyncio.gather(*(there(layer, key) for key in keys)) for layer, keys in asked
        ]
        return _Outcome(
            tuple(v for v, info in zip(known, written, strict=True) if info),
            tuple(v for v, info in zip(known, rejected, strict=True) if info),
            any(dead),
            any(held),
            tuple(info for info in (*written, *beside) if info),
        )

    # plans

    async def _coverage(self, stage: str, dataset: str, since: datetime | None) -> tuple[Coverage, Sequence[_Ended]]:
        index = self._index(stage, dataset)
        await index.refresh(since.date() if since else None)
        self._planned_before[stage, dataset] = index.last
        if not self._outputs:  # what a plan covers is its reader's to end
            return Coverage(index, {}), [_Ended(Fate.DONE, "a plan covers it")]
        ends = [_JUST_COVERED]
        meanings: dict[int, int] = {}
        async for number, ended in self._ended(index, None):
            if ended not in ends:
                ends.append(ended)
            meanings[number] = ends.index(ended)
        return Coverage(index, meanings), ends

    async def look_at_plans(self, stage: str, dataset: str, since: datetime | None) -> None:
        """Find the plans made at `since` or later that are open: `open_plans`."""
        index = self._index(stage, dataset)
        await index.refresh(since.date() if since else None)
        async for _ in self._ended(index, since):
            pass

    def _index(self, stage: str, dataset: str) -> PlanIndex:
        return self._plans.setdefault((stage, dataset), PlanIndex(self._workshop, stage, dataset))

    async def _ended(self, index: PlanIndex, since: datetime | None) -> AsyncIterator[tuple[int, _Ended]]:
        """What became of each plan, the oldest first."""
        outcomes = _Outcomes(self._workshop, index.stage, index.dataset, since)
        self.open_plans[index.stage, index.dataset] = still_open = []
        plans = [(f"date={stem.at:%Y-%m-%d}/{stem}.", number, stem) for number, stem in index.stems.items()]
        for place, number, stem in sorted(plans):
            if since is None or stem.at >= since:
                ended = await self._end(index.stage, await outcomes.at(place))
                if ended.fate is Fate.IN_FLIGHT:
                    still_open.append(stem)
                yield number, ended

    async def _end(self, stage: str, outcome: _Outcome) -> _Ended:
        broken = None
        for variant in outcome.commits:
            if stage != "trainer":
                return _Ended(Fate.DONE, "the commit object of its plan stands", variant)
            card = next(i for i in outcome.beside if i.key.endswith(f".{variant}/model.json"))
            named = await self._model_of(card) if self._outputs else None
            if named is None or any(i.key == named for i in outcome.beside):
                return _Ended(Fate.DONE, "the model of its plan stands", variant)
            reason = f"the card of its plan stands, but the model's file that it names is missing ({variant})"
            broken = _Ended(Fate.ORPHAN, reason, variant, broken=True)
        if outcome.manifests:
            return _Ended(Fate.QUARANTINED, "the manifest of its plan stands", outcome.manifests[0] or None)
        if outcome.dead:
            return _Ended(Fate.DEAD, "its plan is dead")
        return broken or _Ended(Fate.IN_FLIGHT, "in an open plan")

    async def _model_of(self, card: ObjectInfo) -> str | None:
        """Key of the model's file as the card names it; None where it names none."""
        found = await self._workshop.store.read(card.layer, card.key)
        document = _document(found[0]) if found else {}
        artifact = document.get("artifact")
        return str(artifact.get("key")) if isinstance(artifact, dict) else None

    # LANDING and commands

    async def _landing(self) -> AsyncIterator[Finding]:
        if not self._done.read:
            async for _ in self._all_done():
                pass
        done, bucket = self._done, self._workshop.buckets.of(Layer.LANDING)
        async for info in self._workshop.store.list_objects(Layer.LANDING):
            if info.key.endswith("/") or info.key.startswith(CANARY_PREFIX):
                continue  # a folder's marker
            folder = info.key.partition("/")[0]
            dataset = folder if folder in self._workshop.registry else UNKNOWN_DATASET
            found = Finding("ingestor", dataset, info, Fate.ORPHAN, "", info.last_modified)
            yield self._ingested(found, landing_done_id(bucket, info.key, info.etag), done)

    async def _commands(self) -> AsyncIterator[Finding]:
        async for finding in self._all_done():
            yield finding
        done, store = self._done, self._workshop.store
        async for info in store.list_objects(Layer.LEDGER, "commands/"):
            if (match := _COMMAND.match(info.key)) is None:
                continue
            run_id = UUID(match[1])
            if self._outputs and run_id.bytes in done.ids:
                continue  # counted already
            if (stored := await store.read(Layer.LEDGER, info.key)) is None:
                continue  # carried out meanwhile
            found = Finding(COMMANDS, UNKNOWN_DATASET, info, Fate.ORPHAN, "", info.last_modified)
            try:
                command = IngestionCommand.model_validate_json(stored[0])
            except ValueError as error:
                log.warning("%s is no command that this version knows: %s", info.uri, error)
                yield found.told(Fate.ORPHAN, "no command that this version knows", broken=True)
                continue
            if command_key(command.run_id) != info.key:
                log.warning("%s is the command of another run", info.uri)
                yield found.told(Fate.ORPHAN, "the command of another run", broken=True)
                continue
            found.dataset, found.at = command.dataset, min(command.accepted_at, info.last_modified)
            if run_id.bytes in done.dead:
                yield found.told(Fate.DEAD, "its message is a dead letter")
            elif run_id.bytes in done.ids:
                # who handles it again publishes its record and removes it
                yield self._unsettled(found, "it is done, but was not removed")
            else:
                yield self._unsettled(found, "accepted, and not done")

    def _ingested(self, found: Finding, id: UUID, done: "_Done") -> Finding:
        if meanings := done.ids.meanings(id.bytes):
            fate, dataset = done.kinds[meanings[0]]
            found.dataset = dataset or found.dataset
            match fate:
                case Fate.DONE:
                    return found.told(fate, "its `done` stands")
                case Fate.QUARANTINED:
                    return found.told(fate, "its `done` says REJECTED")
                case _:
                    return found.told(fate, done.broken.get(id, ""), broken=True)
        if id.bytes in done.dead:
            return found.told(Fate.DEAD, "its message is a dead letter")
        return self._unsettled(found, "no `done` and no dead letter")

    async def _all_done(self) -> AsyncIterator[Finding]:
        """Learn the ids of all that the ingestor ended; gives the commands among them, where outputs are looked at."""
        self._done, store = _Done(), self._workshop.store
        async for info in store.list_objects(Layer.LEDGER, "dead/ingestor/"):
            if (id := _id_of(info.key.rpartition("/")[2].removesuffix(".json"))) is not None:
                self._done.dead.add(id.bytes)
        batch: list[tuple[UUID, ObjectInfo]] = []
        async for info in store.list_objects(Layer.LEDGER, "done/"):
            if (match := _DONE.match(info.key)) is None or (id := _id_of(match[1])) is None:
                continue
            if not self._outputs:
                self._done.ids.add(id.bytes)
                continue
            batch.append((id, info))
            if len(batch) == LOOKS:
                for finding in await self._read_done(batch):
                    yield finding
                batch.clear()
        for finding in await self._read_done(batch):
            yield finding
        self._done.read = True

    async def _read_done(self, batch: Sequence[tuple[UUID, ObjectInfo]]) -> list[Finding]:
        done, commands = self._done, []
        found = await asyncio.gather(*(self._outcome_of(info) for _, info in batch))
        for (id, info), outcome in zip(batch, found, strict=True):
            if outcome is None:
                continue  # removed meanwhile
            fate, dataset, reason, is_command = outcome
            done.ids.add(id.bytes, done.kind(fate, dataset))
            if fate is Fate.ORPHAN:
                done.broken[id] = reason
            if is_command:
                broken = fate is Fate.ORPHAN
                commands.append(Finding(COMMANDS, dataset, info, fate, reason, info.last_modified, broken=broken))
        return commands

    async def _outcome_of(self, info: ObjectInfo) -> tuple[Fate, str, str, bool] | None:
        """Fate, dataset, reason of what a `done` ended, and whether that was a command."""
        store, buckets = self._workshop.store, self._workshop.buckets
        if (found := await store.read(info.layer, info.key)) is None:
            return None
        document = _document(found[0])
        record = document.get("record")
        if not isinstance(record, dict):
            return Fate.ORPHAN, UNKNOWN_DATASET, "its `done` is none that this version knows", False
        named = [str(o.get("uri", "")).removeprefix("s3://").partition("/") for o in record.get("outputs") or ()]
        places = [(layer, key) for bucket, _, key in named if (layer := buckets.layer(bucket)) is not None]
        heads = await asyncio.gather(*(store.head(layer, key) for layer, key in places))
        missing = [buckets.uri(*place) for place, head in zip(places, heads, strict=True) if head is None]
        dataset, command = str(document.get("dataset") or UNKNOWN_DATASET), "command" in document
        if missing:
            reason = f"its `done` stands, but {missing[0]} is missing"
            return Fate.ORPHAN, dataset, reason, command
        if document.get("status") == "REJECTED":
            return Fate.QUARANTINED, dataset, "its `done` says REJECTED", command
        return Fate.DONE, dataset, "its `done` stands", command

    # once more

    async def _looked_at(self, findings: AsyncIterator[Finding]) -> AsyncGenerator[Finding]:
        """The same in the same order, but of an orphan what HEADs say: listings take time, and work goes on."""
        waiting: list[Finding] = []
        asked: list[Finding] = []
        looks = 0
        async for finding in findings:
            if finding.fate is Fate.ORPHAN and not finding.broken and looks < MOST_LOOKS:
                asked.append(finding)
                looks += 1
            elif not asked:
                yield finding
                continue
            waiting.append(finding)
            if len(asked) == LOOKS or len(waiting) == MOST_WAITING:
                gone = await self._look_again(asked)
                for each in waiting:
                    if id(each) not in gone:
                        yield each
                waiting, asked = [], []
        gone = await self._look_again(asked)
        for each in waiting:
            if id(each) not in gone:
                yield each

    async def _look_again(self, asked: Sequence[Finding]) -> set[int]:
        """Correct what is told of the findings; the `id` of those whose object is gone."""
        planned = {(f.reader, f.dataset) for f in asked if f.reader in PLANNING}
        fresh = {each: await self._just_covered(each) for each in planned}
        found = await asyncio.gather(*(self._once_more(f, fresh) for f in asked))
        return {id(f) for f, again in zip(asked, found, strict=True) if again is None}

    async def _just_covered(self, planner: tuple[str, str]) -> set[str]:
        """Stems that plans cover which were made since this look began."""
        index = self._plans[planner]
        await index.refresh(self._begun.date())
        new = await index.inputs(range(self._planned_before[planner] + 1, index.last + 1))
        return {stem for inputs in new.values() for stem, _ in inputs}

    async def _once_more(self, finding: Finding, covered: Mapping[tuple[str, str], Collection[str]]) -> Finding | None:
        """None: it is gone, or another version lies there now."""
        info, store = finding.info, self._workshop.store
        head = await store.head(info.layer, info.key)
        if head is None or head.etag != info.etag:
            return None
        if finding.reader == COMMANDS:
            return finding
        if info.layer is Layer.LANDING:
            return await self._ingested_meanwhile(finding)
        name = Name.of_key(info.key)
        stem = name.stem if name else foreign_stem(info, self._workshop.buckets.of(info.layer))
        if finding.reader not in PLANNING:
            return self._judged(finding, await self._look_up(finding.reader, stem))
        just = str(stem) in covered[finding.reader, finding.dataset]
        return finding.told(_JUST_COVERED.fate, _JUST_COVERED.reason) if just else finding

    async def _ingested_meanwhile(self, finding: Finding) -> Finding:
        store, info = self._workshop.store, finding.info
        id = landing_done_id(self._workshop.buckets.of(Layer.LANDING), info.key, info.etag)
        if await store.head(Layer.LEDGER, done_key(id)):
            return finding.told(Fate.DONE, "its `done` stands")
        if await store.head(Layer.LEDGER, dead_key("ingestor", str(id))):
            return finding.told(Fate.DEAD, "its message is a dead letter")
        return finding

    def _notified(self, reader: Reader, key: str) -> bool:
        suffixes = [n.suffix for n in self._topology.notifications if n.layer is reader.layer]
        return any(key.endswith(suffix) for suffix in suffixes)


class _Done:
    """What the ingestor ended, by id."""

    def __init__(self) -> None:
        self.read = False
        self.ids = Ids()
        self.dead = Ids()
        self.kinds: list[tuple[Fate, str]] = [(Fate.DONE, "")]
        self.broken: dict[UUID, str] = {}

    def kind(self, fate: Fate, dataset: str) -> int:
        """A byte for fate and dataset; of more than there are bytes for, the dataset is not told."""
        kind = (fate, dataset)
        if kind not in self.kinds and len(self.kinds) > 250:
            kind = (fate, "")
        if kind not in self.kinds:
            self.kinds.append(kind)
        return self.kinds.index(kind)


def _id_of(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
