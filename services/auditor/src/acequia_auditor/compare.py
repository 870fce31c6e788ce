"""Do store and database tell of the same outcomes? Each commit object and its record, both ways."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

import asyncpg

from acequia.events import Kind, event_id
from acequia.layers import Buckets, Layer, dead_key, done_key, landing_done_id
from acequia.ports import ObjectInfo, ObjectStore
from acequia_auditor.database import Database
from acequia_auditor.dead_letters import DeadLetter, State
from acequia_auditor.rebuild import (
    COMMITS,
    DEAD,
    DONE,
    EVALUATIONS,
    MODELS,
    QUARANTINE,
    SILVER,
    Source,
    list_source,
    read_document,
    read_letter,
)

LISTED_MOST = 100
"""Uris that are named on each side."""
BATCH = 500
SUSPECTS_MOST = 10_000
"""Objects without a record in memory at once: then they are looked up once more."""
SLOTS = 32
"""Look-ups in the store at once."""


@dataclass(slots=True)
class Comparison:
    """What comparing found. Counted are all that are missing; named are the first 100."""

    commit_objects: int = 0
    records: int = 0
    dead_letters: int = 0
    missing_in_database: list[str] = field(default_factory=list)
    missing_in_store: list[str] = field(default_factory=list)
    not_in_database: int = 0
    not_in_store: int = 0

    def document(self) -> dict[str, Any]:
        return {
            "ok": not (self.not_in_database or self.not_in_store),
            "commit_objects": self.commit_objects,
            "missing_in_database": self.missing_in_database,
            "missing_in_store": self.missing_in_store,
            "counts": {
                "records": self.records,
                "dead_letters": self.dead_letters,
                "missing_in_database": self.not_in_database,
                "missing_in_store": self.not_in_store,
            },
        }


async def compare_with_store(store: ObjectStore, database: Database, buckets: Buckets) -> AsyncIterator[dict[str, Any]]:
    """`{"progress": {"layer", "seen"}}` as it goes, then `{"result": ...}`. Memory is bounded. Raises as both do.

    What comes in meanwhile does no harm: an object without a record is looked up once more before it is called missing
    (at the end, if there are not very many), and of the database only the records that were there at the beginning are
    looked for in the store.
    """
    comparing = _Comparing(store, database, buckets)
    async for layer, seen in comparing.run():
        yield {"progress": {"layer": layer, "seen": seen}}
    yield {"result": comparing.found.document()}


class _Comparing:
    def __init__(self, store: ObjectStore, database: Database, buckets: Buckets) -> None:
        self._store = store
        self._database = database
        self._buckets = buckets
        self.found = Comparison()
        self._until = 0
        self._matched = 0
        """Records, up to `_until`, whose commit object was seen."""
        self._suspects: list[tuple[Source, ObjectInfo]] = []
        """Objects without a record, to be looked up once more."""

    async def run(self) -> AsyncIterator[tuple[str, int]]:
        heads = await self._database.fetch("chain_head")
        self._until = (heads[0]["seq"] or 0) if heads else 0
        for source in (DONE, SILVER, QUARANTINE, MODELS, EVALUATIONS, COMMITS, DEAD):
            seen = 0
            batch: list[ObjectInfo] = []
            async for info in list_source(self._store, source):
                batch.append(info)
                if len(batch) == BATCH:
                    seen += await self._compare(source, batch)
                    batch = []
                    yield source.layer.value, seen
            if batch:
                yield source.layer.value, seen + await self._compare(source, batch)
        await self._look_again()
        counted = await self._database.fetch("count_outcomes", self._until)
        self.found.records = counted[0]["n"]
        if self.found.records != self._matched:
            async for page in self._outcomes():
                yield "database", page
        await self._look_for_letters()

    async def _compare(self, source: Source, batch: list[ObjectInfo]) -> int:
        """The objects of `batch`: are they told of?"""
        if source is DEAD:
            self.found.dead_letters += len(batch)
        else:
            self.found.commit_objects += len(batch)
        known = await self._known(source, batch)
        if source is not DEAD:
            self._matched += len({event for event, seq in known.values() if seq <= self._until})
        self._suspects += [(source, info) for info in batch if info.key not in known]
        if len(self._suspects) >= SUSPECTS_MOST:
            await self._look_again()
        return len(batch)

    async def _look_again(self) -> None:
        """What has no record still is missing."""
        suspects, self._suspects = self._suspects, []
        for source, of_source in groupby(suspects, key=itemgetter(0)):
            infos = [info for _, info in of_source]
            for start in range(0, len(infos), BATCH):
                batch = infos[start : start + BATCH]
                known = await self._known(source, batch)
                missing = [info.uri for info in batch if info.key not in known]
                self.found.not_in_database += len(missing)
                self.found.missing_in_database += missing[: LISTED_MOST - len(self.found.missing_in_database)]

    async def _known(self, source: Source, batch: list[ObjectInfo]) -> dict[str, tuple[UUID, int]]:
        """By key: the record of those objects that have one, with its place in the chain."""
        if source is DONE:
            return await self._known_done(batch)
        if source is DEAD:
            return await self._known_letters(batch)
        rows = await self._database.fetch("outcomes_of_objects", [i.uri for i in batch], [i.etag for i in batch])
        by_uri = {row["uri"]: (row["event_id"], row["seq"]) for row in rows}
        return {i.key: by_uri[i.uri] for i in batch if i.uri in by_uri}

    async def _known_done(self, batch: list[ObjectInfo]) -> dict[str, tuple[UUID, int]]:
        # the record of a command is named by its run, as the object is; that of a file tells its name only inside
        named = {i.key: event_id(Kind.OUTCOME, "ingestor", "", _id_of(i)) for i in batch}
        seqs = await self._seqs(list(named.values()))
        known = {key: (event, seqs[event]) for key, event in named.items() if event in seqs}
        others = [i for i in batch if i.key not in known]
        inside = await self._read(others)
        seqs = await self._seqs([event for event in inside.values() if event is not None])
        return known | {
            key: (event, seqs[event]) for key, event in inside.items() if event is not None and event in seqs
        }

    async def _read(self, infos: Sequence[ObjectInfo]) -> dict[str, UUID | None]:
        slots = asyncio.Semaphore(SLOTS)

        async def one(info: ObjectInfo) -> UUID | None:
            async with slots:
                found = await read_document(self._store, info)
                return found[1].event_id if found else None

        return dict(zip((i.key for i in infos), await asyncio.gather(*(one(i) for i in infos)), strict=True))

    async def _known_letters(self, batch: list[ObjectInfo]) -> dict[str, tuple[UUID, int]]:
        slots = asyncio.Semaphore(SLOTS)

        async def one(info: ObjectInfo) -> DeadLetter | None:
            async with slots:
                return await read_letter(self._store, info)

        letters = dict(zip((i.key for i in batch), await asyncio.gather(*(one(i) for i in batch)), strict=True))
        ids = [letter.record.event_id for letter in letters.values() if letter]
        states = {row["id"]: row["state"] for row in await self._database.fetch("letter_states", ids)}

        def told(letter: DeadLetter) -> bool:
            state = states.get(letter.record.event_id)
            # a replay tells the table before it removes the letter
            return state == letter.state or (letter.replaying and state == State.REPLAYED)

        return {key: (letter.record.event_id, 0) for key, letter in letters.items() if letter and told(letter)}

    async def _seqs(self, events: list[UUID]) -> dict[UUID, int]:
        rows = await self._database.fetch("seqs_of_events", events)
        return {row["event_id"]: row["seq"] for row in rows}

    async def _outcomes(self) -> AsyncIterator[int]:
        """Look for the commit object of each outcome: some have none. How many were looked for."""
        after = seen = 0
        while page := await self._database.fetch("outcomes_page", after, self._until, BATCH):
            await self._look_for([self._place(row) for row in page])
            after = page[-1]["seq"]
            seen += len(page)
            yield seen

    def _place(self, row: asyncpg.Record) -> tuple[Layer, str, str] | None:
        """Layer, key and, if known, etag of the commit object."""
        if row["stage"] == "ingestor":
            bucket, _, key = (row["input_uri"] or "").removeprefix("s3://").partition("/")
            done = landing_done_id(bucket, key, row["input_etag"]) if bucket else row["run_id"]
            return Layer.LEDGER, done_key(done), ""
        bucket, _, key = (row["output_uri"] or "").removeprefix("s3://").partition("/")
        layer = self._buckets.layer(bucket)
        return (layer, key, row["output_etag"]) if layer is not None else None

    async def _look_for(self, places: Sequence[tuple[Layer, str, str] | None]) -> None:
        slots = asyncio.Semaphore(SLOTS)

        async def one(place: tuple[Layer, str, str]) -> str | None:
            layer, key, etag = place
            async with slots:
                info = await self._store.head(layer, key)
            return None if info is not None and etag in ("", info.etag) else self._buckets.uri(layer, key)

        for uri in await asyncio.gather(*(one(place) for place in places if place is not None)):
            if uri is not None:
                self.found.not_in_store += 1
                if len(self.found.missing_in_store) < LISTED_MOST:
                    self.found.missing_in_store.append(uri)

    async def _look_for_letters(self) -> None:
        """Each letter that is open or discarded lies in the store."""
        after = UUID(int=0)
        while page := await self._database.fetch("standing_letters", after, BATCH):
            keys = (dead_key(row["stage"], row["stem"], row["variant"] or None) for row in page)
            await self._look_for([(Layer.LEDGER, key, "") for key in keys])
            after = page[-1]["id"]


def _id_of(info: ObjectInfo) -> str:
    return info.key.rpartition("/")[2].removesuffix(".json")
