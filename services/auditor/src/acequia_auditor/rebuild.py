"""Fill the audit database from the store, where each commit object carries its record."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from acequia.datasets import Registry
from acequia.errors import RejectedInput
from acequia.events import (
    AuditRecord,
    IngestionCommand,
    Kind,
    Status,
    event_id,
    record_of_document,
    unfold_record,
    utc_now,
)
from acequia.layers import CANARY_PREFIX, WAREHOUSE, Buckets, Layer
from acequia.ports import ObjectInfo, ObjectStore
from acequia_auditor.database import Database
from acequia_auditor.dead_letters import DeadLetter, store_letters
from acequia_auditor.write import store_records

log = logging.getLogger(__name__)

Progress = Callable[[str, int], None]
"""Called with what is being read and how many objects of it were seen so far."""
BATCH = 500
SLOTS = 16
"""Objects that are read at once."""


@dataclass(slots=True)
class Counts:
    """What a rebuild found. `stored` are the records that the database lacked."""

    seen: int = 0
    records: int = 0
    stored: int = 0
    dead_letters: int = 0
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """Where objects lie that carry records."""

    title: str
    layer: Layer
    prefix: str
    suffix: str


WITHDRAWN_WITHIN = timedelta(minutes=1)
"""A command that the bus does not take is withdrawn: one as young as this may not be accepted yet."""
DONE = Source("done", Layer.LEDGER, "done/", ".json")
DEAD = Source("dead letters", Layer.LEDGER, "dead/", ".json")
COMMANDS = Source("commands", Layer.LEDGER, "commands/", ".json")
SILVER = Source("silver", Layer.SILVER, "", ".parquet")
QUARANTINE = Source("quarantine", Layer.QUARANTINE, "", ".rejected.json")
MODELS = Source("models", Layer.MODELS, "", "/model.json")
COMMITS = Source("lake", Layer.LAKE, "", "/commit.json")
EVALUATIONS = Source("evaluations", Layer.EVAL, "", "/evaluation.json")


async def list_source(store: ObjectStore, source: Source, since: datetime | None = None) -> AsyncIterator[ObjectInfo]:
    """The objects that may be commit objects, of `since` and later, in the order of their keys."""
    for start in await _folders(store, source, since):
        async for info in store.list_objects(source.layer, start):
            if info.key.startswith(CANARY_PREFIX):
                continue
            if source is QUARANTINE and info.key.startswith("ingestor/"):
                continue  # a manifest for people: the ingestor's record lies in `done`
            if info.key.endswith(source.suffix) and (since is None or info.last_modified >= since):
                yield info


async def _folders(store: ObjectStore, source: Source, since: datetime | None) -> list[str]:
    """Where to list: everything, or only the date folders that can hold something of `since` or later."""
    if source.layer is Layer.LEDGER or (since is None and source is not COMMITS):
        return [source.prefix]
    datasets = [f for f in await store.list_folders(source.layer, source.prefix) if f != WAREHOUSE]
    if since is None:
        return datasets
    if source is QUARANTINE:  # <stage>/<dataset>/date=...
        datasets = [d for stage in datasets for d in await store.list_folders(source.layer, stage)]
    # an object's date is that of its run's acceptance: what is written now may belong to a run of days ago
    first = f"date={since - timedelta(days=2):%Y-%m-%d}/"
    dates = [f for d in datasets for f in await store.list_folders(source.layer, d)]
    return [f for f in dates if f[f.rstrip("/").rfind("/") + 1 :] >= first]


async def read_document(store: ObjectStore, info: ObjectInfo) -> tuple[dict[str, object], AuditRecord] | None:
    """A JSON commit object and the record that it carries, or None where there is none of ours."""
    found = await store.read(info.layer, info.key)
    if found is None:
        return None
    try:
        document = json.loads(found[0])
    except (ValueError, RecursionError):
        return None
    info = found[1]
    record = record_of_document(document, uri=info.uri, etag=info.etag, size=info.bytes)
    return (document, record) if isinstance(document, dict) and record is not None else None


async def read_letter(store: ObjectStore, info: ObjectInfo) -> DeadLetter | None:
    """The dead letter of ours that lies there."""
    found = await store.read(info.layer, info.key)
    try:
        return DeadLetter.model_validate_json(found[0]) if found else None
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class _Found:
    """What one object says: records, a dead letter, or an open command (which may be known already)."""

    records: Sequence[AuditRecord] = ()
    letter: DeadLetter | None = None
    command: IngestionCommand | None = None


Read = Callable[[ObjectInfo], Awaitable[_Found | None]]


async def rebuild(
    store: ObjectStore,
    database: Database,
    buckets: Buckets,
    registry: Registry,
    *,
    since: datetime | None = None,
    progress: Progress | None = None,
) -> Counts:
    """Store every record that a commit object carries and the database lacks. Idempotent; memory is bounded.

    `since`: only objects modified since then, in the date folders from that day on. Failed attempts, operators'
    actions and check results are nowhere in the store: they need a database backup. Raises as store and database do.
    """
    return await _Rebuild(store, database, buckets, registry, since, progress).run()


async def catch_up(
    store: ObjectStore,
    database: Database,
    buckets: Buckets,
    registry: Registry,
    *,
    window: timedelta = timedelta(hours=1),
) -> Counts:
    """The same over what was written within `window` from now: what a lost audit message left out.

    But for commands that may still be withdrawn, which a later look finds.
    """
    return await rebuild(store, database, buckets, registry, since=utc_now() - window)


class _Rebuild:
    def __init__(
        self,
        store: ObjectStore,
        database: Database,
        buckets: Buckets,
        registry: Registry,
        since: datetime | None,
        progress: Progress | None,
    ) -> None:
        self._store = store
        self._database = database
        self._buckets = buckets
        self._registry = registry
        self._since = since
        self._progress = progress
        self._counts = Counts()

    async def run(self) -> Counts:
        # `done` before `commands`: who is done knows its acceptance better than the command that may still lie there
        sources: tuple[tuple[Source, Read], ...] = (
            (DONE, self._read_done),
            (DEAD, self._read_dead),
            (COMMANDS, self._read_command),
            (SILVER, self._read_parquet),
            (QUARANTINE, self._read_json),
            (MODELS, self._read_json),
            (EVALUATIONS, self._read_json),
            (COMMITS, self._read_json),
        )
        for source, read in sources:
            await self._take_in(source.title, list_source(self._store, source, self._since), read)
        return self._counts

    async def _take_in(self, title: str, infos: AsyncIterator[ObjectInfo], read: Read) -> None:
        seen = 0
        batch: list[ObjectInfo] = []
        async for info in infos:
            batch.append(info)
            if len(batch) == BATCH:
                seen += len(batch)
                await self._take_in_batch(title, batch, read, seen)
                batch = []
        if batch:
            await self._take_in_batch(title, batch, read, seen + len(batch))

    async def _take_in_batch(self, title: str, batch: list[ObjectInfo], read: Read, seen: int) -> None:
        slots = asyncio.Semaphore(SLOTS)

        async def one(info: ObjectInfo) -> _Found | None:
            async with slots:
                return await read(info)

        self._counts.seen += len(batch)
        wanted = await self._unknown(batch) if read == self._read_parquet else batch
        records: list[AuditRecord] = []
        letters: list[DeadLetter] = []
        commands: list[IngestionCommand] = []
        for info, found in zip(wanted, await asyncio.gather(*(one(i) for i in wanted)), strict=True):
            if found is None:
                log.warning("%s carries no record of ours", info.uri)
                self._counts.unreadable += 1
                continue
            records.extend(found.records)
            if found.letter is not None:
                letters.append(found.letter)
            if found.command is not None:
                commands.append(found.command)
        if commands:
            ids = [c.run_id for c in commands]
            accepted = {row["run_id"] for row in await self._database.fetch("accepted_runs", ids)}
            records.extend(acceptance_of(c) for c in commands if c.run_id not in accepted)
        await self._store_all(records)
        for letter in letters:
            await self._store_letter(letter)
        if self._progress is not None:
            self._progress(title, seen)

    async def _unknown(self, batch: list[ObjectInfo]) -> list[ObjectInfo]:
        """Those that the database lacks: the others need no HEAD."""
        rows = await self._database.fetch("known_artifacts", [i.uri for i in batch], [i.etag for i in batch])
        known = {(row["uri"], row["etag"]) for row in rows}
        return [i for i in batch if (i.uri, i.etag) not in known]

    async def _store_all(self, records: list[AuditRecord]) -> None:
        """At most 500 records a transaction; one that PostgreSQL cannot hold costs only itself."""
        self._counts.records += len(records)
        for start in range(0, len(records), BATCH):
            part = records[start : start + BATCH]
            try:
                self._counts.stored += await store_records(self._database, part)
            except RejectedInput:
                for record in part:
                    try:
                        self._counts.stored += await store_records(self._database, [record])
                    except RejectedInput as error:
                        self._counts.unreadable += 1
                        log.warning("the record %s is left out: %s", record.event_id, error)

    async def _store_letter(self, letter: DeadLetter) -> None:
        self._counts.dead_letters += 1
        self._counts.records += 1
        try:
            self._counts.stored += await store_letters(self._database, [letter])
        except RejectedInput as error:
            self._counts.unreadable += 1
            log.warning("the dead letter %s is left out: %s", letter.key, error)

    async def _read_json(self, info: ObjectInfo) -> _Found | None:
        found = await read_document(self._store, info)
        return _Found((found[1],)) if found else None

    async def _read_done(self, info: ObjectInfo) -> _Found | None:
        if (found := await read_document(self._store, info)) is None:
            return None
        document, record = found
        try:
            accepted = document.get("accepted")
            return _Found((AuditRecord.model_validate(accepted), record) if accepted else (record,))
        except ValidationError:
            return _Found((record,))

    async def _read_dead(self, info: ObjectInfo) -> _Found | None:
        letter = await read_letter(self._store, info)
        return _Found(letter=letter) if letter else None

    async def _read_command(self, info: ObjectInfo) -> _Found | None:
        if self._since is not None and utc_now() - info.last_modified < WITHDRAWN_WITHIN:
            return _Found()
        if (found := await self._store.read(info.layer, info.key)) is None:
            return _Found()  # it was done meanwhile
        try:
            return _Found(command=IngestionCommand.model_validate_json(found[0]))
        except ValidationError:
            return None

    async def _read_parquet(self, info: ObjectInfo) -> _Found | None:
        try:
            head = await self._store.head(info.layer, info.key)
        except RejectedInput:
            return None
        if head is None:
            return None
        record = unfold_record(head.metadata, uri=head.uri, etag=head.etag, size=head.bytes)
        return _Found((record,)) if record else None


def acceptance_of(command: IngestionCommand) -> AuditRecord:
    """The ACCEPTED record of a command that lies in LEDGER, as the ingestor publishes it."""
    return AuditRecord(
        event_id=event_id(Kind.ACCEPTED, "ingestor", "", str(command.run_id)),
        kind=Kind.ACCEPTED,
        status=Status.ACCEPTED,
        run_id=command.run_id,
        stage="ingestor",
        variant="",
        dataset=command.dataset,
        parameters={"source": command.source.model_dump(mode="json")},
        started=command.accepted_at,
        finished=command.accepted_at,
        host="",
        traceparent=command.traceparent,
    )
