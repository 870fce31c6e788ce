"""Audit records in, PostgreSQL rows out: gathered into few transactions, each message settled after its commit."""

import asyncio
import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from acequia.acceptance import SEVERAL
from acequia.errors import ConfigurationError, RejectedInput, TransientFailure
from acequia.events import AuditRecord, Kind, ObjectRecord, Status
from acequia.layers import UNKNOWN_DATASET, Layer
from acequia.ports import Ack, Dead, Delivery, HandBack, Settlement
from acequia_auditor.chain import Anchor, begin_chain, chain_begun, link, lock_chain, read_head
from acequia_auditor.connect import Connection, query
from acequia_auditor.database import RETRY_FIRST, RETRY_MOST, Database

log = logging.getLogger(__name__)

BATCH = 500
"""Records in one transaction at most."""
LINGER = 0.02
"""Seconds that a batch waits for more, while records come in numbers."""
BUSY = 8
"""A batch of at least this many says that records come in numbers: the next one lingers."""
_WRITTEN = frozenset({Status.SUCCESS, Status.IMPORTED, Status.REJECTED, Status.SUPERSEDED, Status.GONE})
"""Statuses whose outputs are this record's own; with SAME_CONTENT they are another run's."""


def layer_of(uri: str) -> str | None:
    """The layer of an object, told by its bucket's name (`<prefix>-<layer>`); None where it is not of ours."""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    tail = bucket.rpartition("-")[2]
    return tail if tail in set(Layer) else None


def source_of(record: AuditRecord) -> str:
    """What a person calls the source of an ingestion: its file's name, or its kind."""
    if isinstance(file := record.parameters.get("file"), str) and file:
        return file
    source = record.parameters.get("source")
    if isinstance(source, dict) and isinstance(source.get("kind"), str):
        return str(source.get("name") or source["kind"])
    if isinstance(source, str) and source:
        return source.rpartition("/")[2]
    for read in record.inputs:
        if layer_of(read.uri) in (None, Layer.LANDING):
            return read.uri.rstrip("/").rpartition("/")[2]
    return record.stem or str(record.run_id)


async def store_records(database: Database, records: Sequence[AuditRecord]) -> int:
    """Store those of `records` that are not stored yet, in one transaction; how many that were.

    Raises as `Database` does: RejectedInput where PostgreSQL cannot hold one of them.
    """
    if not records:
        return 0
    async with database.transaction() as connection:
        return await insert_records(connection, records, database.earlier)


async def insert_records(
    connection: Connection, records: Sequence[AuditRecord], earlier: Callable[[], Awaitable[Anchor | None]]
) -> int:
    """The same inside a transaction of the caller's, which holds the chain's lock from here on.

    `earlier` is asked where no chain was begun yet (see `Database.earlier`).
    """
    await lock_chain(connection)
    by_id = {record.event_id: record for record in records}
    known = await connection.fetch(query("known_events"), list(by_id))
    for row in known:
        del by_id[row["event_id"]]
    new = list(by_id.values())
    if not new:
        return 0
    await _insert_events(connection, new, earlier)
    objects = [row for record in new for row in _objects(record)]
    if objects:
        await connection.execute(query("insert_objects"), *_columns(objects, 8))
    artifacts = sorted((row for record in new for row in _artifacts(record)), key=lambda row: row[:2])
    if artifacts:
        await connection.execute(query("insert_artifacts"), *_columns(artifacts, 13))
    runs = _runs(new)
    if runs:
        await connection.execute(query("insert_runs"), *_columns(runs, 4))
    return len(new)


async def _insert_events(
    connection: Connection, new: Sequence[AuditRecord], earlier: Callable[[], Awaitable[Anchor | None]]
) -> None:
    """The next links of the chain."""
    records = list(new)
    if (head := await read_head(connection)) is None:
        head = await begin_chain(connection)
        if (before := await earlier()) is not None:
            records.insert(0, chain_begun(head.chain, before.head))
            log.warning(
                "the audit chain %s begins in place of %s, last anchored at record %d on %s; if nobody rebuilt the "
                "database, somebody removed it: see docs/trust.md",
                *(head.chain, before.chain, before.seq, before.anchored_at.isoformat(timespec="seconds")),
            )
    seq, last = head.seq, head.hash
    rows = []
    for record in records:
        body = dump(record)
        seq, last = seq + 1, link(last, record.event_id, body)
        rows.append((*event_row(record), body, seq, last))
    await connection.execute(query("insert_events"), *_columns(rows, 19))


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[n] for row in rows] for n in range(width)]


def clean(value: Any) -> Any:
    """PostgreSQL's text and jsonb have no NUL."""
    match value:
        case str():
            return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        case dict():
            return {clean(k): clean(v) for k, v in value.items()}
        case list():
            return [clean(v) for v in value]
        case _:
            return value


def dump(record: AuditRecord) -> str:
    """The JSON text that is stored, and hashed."""
    text = record.model_dump_json()
    return json.dumps(clean(json.loads(text))) if "\\u0000" in text else text


def event_row(record: AuditRecord) -> tuple[Any, ...]:
    """What the columns of `audit_events` say of a record, beside the record itself."""
    return (
        record.event_id,
        record.kind.value,
        record.status.value,
        record.run_id,
        # an array of arrays cannot be unnested by row: parents travel as one text and are cast in the statement
        "{" + ",".join(map(str, record.parents)) + "}",
        clean(record.stage),
        clean(record.variant),
        clean(record.dataset),
        clean(record.stem),
        record.rows_in,
        record.rows_out,
        record.rows_duplicate,
        sum(record.rejected.values()),
        record.attempt,
        record.started,
        record.finished,
    )


def _objects(record: AuditRecord) -> Iterator[tuple[Any, ...]]:
    for role, objects in (("input", record.inputs), ("output", record.outputs)):
        for n, item in enumerate(objects):
            uri, etag = clean(item.uri), clean(item.etag)
            yield (record.event_id, role, n, uri, etag, layer_of(uri), item.bytes, item.rows)


def _artifacts(record: AuditRecord) -> Iterator[tuple[Any, ...]]:
    if record.status not in _WRITTEN or record.kind is Kind.ACCEPTED:
        return
    seen: set[tuple[str, str]] = set()
    for item in record.outputs:
        if (key := (clean(item.uri), clean(item.etag))) not in seen:
            seen.add(key)
            yield _artifact(record, item, *key)


def _dataset_of(record: AuditRecord, uri: str) -> str:
    """Of one object: a run may have several. Its key begins with it, or in QUARANTINE with the stage, and then it."""
    if record.dataset != SEVERAL:
        return record.dataset
    key = uri.removeprefix("s3://").partition("/")[2]
    if layer_of(uri) == Layer.QUARANTINE:
        key = key.partition("/")[2]
    return key.partition("/")[0] or record.dataset


def _artifact(record: AuditRecord, item: ObjectRecord, uri: str, etag: str) -> tuple[Any, ...]:
    return (
        uri,
        etag,
        layer_of(uri),
        clean(_dataset_of(record, uri)),
        record.run_id,
        clean(record.stage),
        clean(record.stem),
        clean(record.variant),
        item.bytes,
        item.rows,
        clean(item.sha256),
        record.finished,
        record.event_id,
    )


def _runs(records: Sequence[AuditRecord]) -> list[tuple[Any, ...]]:
    """The ingestions that `records` tell of: each once, as its earliest record that knows the dataset says."""
    told: dict[UUID, list[AuditRecord]] = {}
    for record in records:
        if record.run_id.int and (record.kind is Kind.ACCEPTED or record.stage == "ingestor"):
            told.setdefault(record.run_id, []).append(record)
    rows = []
    for run_id, of_run in sorted(told.items()):
        best = min(of_run, key=lambda r: (r.dataset == UNKNOWN_DATASET, r.started))
        accepted_at = min(r.started for r in of_run)
        rows.append((run_id, clean(best.dataset), clean(source_of(best)), accepted_at))
    return rows


@dataclass(slots=True)
class _Waiting:
    record: AuditRecord
    futures: list[asyncio.Future[Settlement]] = field(default_factory=list)

    def settle(self, settlement: Settlement) -> None:
        for future in self.futures:
            if not future.done():
                future.set_result(settlement)


class AuditWriter:
    """The handler of the audit queue. Consume with a high concurrency (hundreds): what is in hand is one batch.

    While PostgreSQL is away the messages stay in hand, unacknowledged, and are stored when it is back.
    """

    def __init__(self, database: Database, *, linger: float = LINGER, batch: int = BATCH) -> None:
        self._database = database
        self._linger = linger
        self._batch = batch
        self._waiting: dict[UUID, _Waiting] = {}
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._stuck = False
        self.stored = 0
        """Records stored since the start."""

    @property
    def ready(self) -> bool:
        """Whether records are being stored (not waiting for PostgreSQL)."""
        return self._database.ready and not self._stuck

    async def handle(self, delivery: Delivery) -> Settlement:
        """Store the record of `delivery`: Ack after the commit, Dead where it is no record, HandBack on `close`."""
        if self._closed:
            return HandBack()
        try:
            record = AuditRecord.model_validate_json(delivery.message.body)
        except ValidationError as error:
            return Dead(f"not an audit record: {error.error_count()} problem(s)", traceback=str(error))
        future: asyncio.Future[Settlement] = asyncio.get_running_loop().create_future()
        # the same record twice in hand (a redelivery after a lost connection) is one row and one place in memory
        self._waiting.setdefault(record.event_id, _Waiting(record)).futures.append(future)
        if len(self._waiting) >= self._batch:
            self._full.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all(), name="auditor: write")
        return await future

    async def close(self) -> None:
        """Stop: what is not committed is handed back."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting.values():
            waiting.settle(HandBack())
        self._waiting.clear()

    async def _write_all(self) -> None:
        """Write until nothing waits. While one batch is being written the next one gathers by itself."""
        last = 0
        while self._waiting:
            if last >= BUSY and len(self._waiting) < self._batch:
                self._full.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._linger)
            batch = [self._waiting[key] for key in list(self._waiting)[: self._batch]]
            last = len(batch)
            await self._write(batch)

    async def _write(self, batch: list[_Waiting]) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                self.stored += await store_records(self._database, [w.record for w in batch])
            except RejectedInput as error:
                self._stuck = False
                if len(batch) > 1:
                    await self._write(batch[: len(batch) // 2])
                    await self._write(batch[len(batch) // 2 :])
                else:
                    self._settle(batch, Dead(str(error), traceback=traceback.format_exc()))
                return
            except (TransientFailure, ConfigurationError) as error:
                self._stuck = True
                log.warning("%d audit records wait: %s; trying again in %.1f s", len(batch), error, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_MOST)
            except Exception:  # a fault of ours: keep the records, say so, try again
                self._stuck = True
                log.exception("%d audit records wait", len(batch))
                await asyncio.sleep(RETRY_MOST)
            else:
                self._stuck = False
                self._settle(batch, Ack())
                return

    def _settle(self, batch: list[_Waiting], settlement: Settlement) -> None:
        for waiting in batch:
            self._waiting.pop(waiting.record.event_id, None)
            waiting.settle(settlement)
