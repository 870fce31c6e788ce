"""One delivery: parse -> committed? -> fetch -> process -> store -> audit -> ack.

`settle` is the only place that decides what becomes of a message.
"""

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Histogram

from acequia.datasets import Dataset, Registry
from acequia.errors import (
    AcequiaError,
    ConfigurationError,
    InputGone,
    LostRace,
    RejectedInput,
    TransientFailure,
    of_this_machine,
)
from acequia.events import (
    META_BLOCKED,
    META_DATASET,
    META_HELD,
    META_LOAD,
    META_ROWS,
    META_RUN_ID,
    META_STAGE_VERSION,
    META_TIME_MAX,
    META_TIME_MIN,
    META_TRACEPARENT,
    METADATA_LIMIT,
    AuditRecord,
    ErrorRecord,
    Ignored,
    Kind,
    Load,
    ObjectCreated,
    ObjectRecord,
    Status,
    event_id,
    fit_record,
    fold_record,
    metadata_size,
    parse_notification,
    record_of_document,
    to_notification,
    told_rows,
    unfold_record,
    utc_now,
    valid_traceparent,
)
from acequia.layers import (
    UNKNOWN_DATASET,
    Buckets,
    Layer,
    Name,
    Stem,
    done_key,
    held_key,
    landing_done_id,
    manifest_key,
    run_id_of,
    stage_key,
    variant_version,
)
from acequia.ports import Ack, Bus, Delivery, HandBack, Message, ObjectInfo, ObjectStore, Retry, Settlement
from acequia.stage import Stage
from acequia.topology import AUDIT
from acequia.work import Beside, Input, Outcome, RejectedWhole, Work

log = logging.getLogger("acequia")

P = ParamSpec("P")
T = TypeVar("T")

PARQUET = "application/vnd.apache.parquet"
JSON = "application/json"
HEADER_STALE = "acequia-stale"
"""Header of a message that asks for the current variant even where an older one stands: when it was sent (ISO 8601)."""
FOLDER_PREFIX = "acequia-work-"
NEW_FOLDER_PREFIX = "acequia-new-"
"""A folder bears this name until it is locked: an unlocked one of the other name has lost its process."""
FOLDER_AGE_SECONDS = 3600.0
RACES = 20
"""How often a lost race for a pointer is run again before it counts as a transient failure."""

At = Callable[[str], None]
"""Told of each step of a delivery (`transformer.after_fetch`) as it is reached: tests kill the process there."""


def keep_going(step: str) -> None:
    """Nothing happens at a step."""


class Meters:
    """Prometheus metrics of a process: one of these per registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.deliveries = Counter(
            "acequia_deliveries_total",
            "Messages by stage and what became of them",
            ["stage", "result"],
            registry=self.registry,
        )
        self.ignored = Counter(
            "acequia_ignored_total",
            "Messages that were none of our business",
            ["stage", "reason"],
            registry=self.registry,
        )
        self.rows = Counter("acequia_rows_total", "Rows by stage and fate", ["stage", "fate"], registry=self.registry)
        self.seconds = Histogram(
            "acequia_process_seconds",
            "Seconds of one work item, from message to commit",
            ["stage"],
            registry=self.registry,
        )
        self.dead = Counter(
            "acequia_dead_letters_total",
            "Dead letters that the auditor stored, by the stage that gave them up",
            ["stage"],
            registry=self.registry,
        )
        self.sent_again = Counter(
            "acequia_sent_again_total",
            "Orphans that the reconciler sent again, by the stage that had not dealt with them",
            ["stage"],
            registry=self.registry,
        )


@dataclass(slots=True)
class Workshop:
    """What every handler of a process shares."""

    store: ObjectStore
    bus: Bus
    buckets: Buckets
    registry: Registry
    meters: Meters = field(default_factory=Meters)
    temp_dir: Path | None = None
    host: str = field(default_factory=socket.gethostname)
    at: At = keep_going
    fatal: Callable[[ConfigurationError], None] | None = None
    """Told of an error that a person must mend: the process ends."""

    @contextmanager
    def folder(self) -> Iterator[str]:
        """A temporary folder that goes when the work is over; its lock says that we live."""
        with temporary_folder(self.temp_dir) as name:
            yield name

    async def publish(self, record: AuditRecord) -> None:
        """Publish an audit record; returns once the broker has it."""
        await self.bus.publish(
            AUDIT,
            f"{record.stage}.{record.status.value.lower()}",
            Message(
                body=record.model_dump_json(exclude_none=True).encode(),
                type="AuditRecord",
                message_id=str(record.event_id),
            ),
        )


@contextmanager
def temporary_folder(parent: Path | None) -> Iterator[str]:
    """A temporary folder in `parent` (None: the system's) that goes at the end; its lock says that somebody lives."""
    try:
        new = Path(tempfile.mkdtemp(prefix=NEW_FOLDER_PREFIX, dir=parent))
        held = os.open(new, os.O_RDONLY)
    except OSError as error:
        raise TransientFailure(f"no temporary folder: {error}", dependency="disk") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        folder = new.rename(new.with_name(FOLDER_PREFIX + new.name.removeprefix(NEW_FOLDER_PREFIX)))
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(held)


def clear_folders(parent: Path | None) -> None:
    """Remove the temporary folders that killed processes left. ConfigurationError where none can be made there.

    One is theirs that nobody holds the lock of; one that was not locked yet, once it is an hour old.
    """
    place = parent or Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryDirectory(prefix=NEW_FOLDER_PREFIX, dir=place):
            left = [p for p in place.iterdir() if p.name.startswith((FOLDER_PREFIX, NEW_FOLDER_PREFIX)) and p.is_dir()]
    except OSError as error:
        raise ConfigurationError(f"ACEQUIA_TEMP_DIR: no folder can be made in {place}: {error.strerror}") from error
    for path in left:
        try:
            young = time.time() - path.stat().st_mtime < FOLDER_AGE_SECONDS
            if young and path.name.startswith(NEW_FOLDER_PREFIX):
                continue
            held = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # it went meanwhile, or is another user's
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            log.info("%s was left by a killed process: removed", path)
        except OSError:
            log.debug("%s is in use", path)
        finally:
            os.close(held)


async def settle(
    act: Callable[[Delivery], Awaitable[None]],
    delivery: Delivery,
    *,
    workshop: Workshop,
    stage: str,
    patience: float = 1200,
) -> Settlement:
    """Run `act` and map what it raises to what becomes of the message.

    While a dependency is away the message stays in hand and is tried again here, with a capped back-off, for up to
    `patience` seconds (below RabbitMQ's consumer time-out of 30 minutes): healthy work does not climb the ladder.
    """
    began = time.monotonic()
    pause = 0.2
    while True:
        try:
            await act(delivery)
        except TransientFailure as error:
            if error.away and time.monotonic() - began < patience:
                log.warning("%s: %s is away, waiting %.1f s: %s", stage, error.dependency, pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
                continue
            if error.away:  # nothing is wrong with the message: it must not die of an outage
                workshop.meters.deliveries.labels(stage, "handed back").inc()
                return HandBack()
            workshop.meters.deliveries.labels(stage, "retry").inc()
            await _note_failure(workshop, stage, delivery, error)
            return Retry(str(error))
        except ConfigurationError as error:
            log.critical("%s: %s", stage, error)
            if workshop.fatal is not None:
                workshop.fatal(error)
            return HandBack()
        except Exception as error:  # a bug: bounded redelivery, then a dead letter with its traceback
            full = of_this_machine(error)
            failure = TransientFailure(f"no space for temporary files: {error}", dependency="disk") if full else error
            log.exception("%s: attempt %d failed", stage, delivery.attempt)
            workshop.meters.deliveries.labels(stage, "retry" if full else "bug").inc()
            await _note_failure(workshop, stage, delivery, failure)
            return Retry(f"{type(failure).__name__}: {failure}", "".join(traceback.format_exception(error)))
        workshop.meters.deliveries.labels(stage, "ack").inc()
        workshop.at(f"{stage}.before_ack")
        return Ack()


async def in_thread(process: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run `process` in a worker thread.

    Where this machine fails it, TransientFailure. A panic of polars' becomes a RuntimeError: it is no Exception, and
    would get past whoever decides about the message.
    """
    try:
        return await asyncio.to_thread(process, *arguments, **named)
    except (AcequiaError, asyncio.CancelledError):
        raise
    except BaseException as error:
        if of_this_machine(error):
            raise TransientFailure(f"no space or no handles for temporary files: {error}", dependency="disk") from error
        if isinstance(error, Exception):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


async def _note_failure(workshop: Workshop, stage: str, delivery: Delivery, error: Exception) -> None:
    """Tell the audit of a failed attempt, if the bus takes it: a failed attempt must not fail for that."""
    try:
        event = parse_notification(delivery.message.body, workshop.buckets)
    except RejectedInput:
        event = None
    now = utc_now()
    uri, run_id = "", None
    if isinstance(event, ObjectCreated):
        uri, run_id = event.uri, run_id_of(event.metadata.get(META_RUN_ID), event.bucket, event.key, event.etag)
    name = Name.of_key(event.key) if isinstance(event, ObjectCreated) else None
    message_id = delivery.message.message_id or hashlib.sha256(delivery.message.body).hexdigest()
    record = AuditRecord(
        event_id=event_id(Kind.NOTE, stage, "", uri, Status.FAILED, message_id, delivery.attempt),
        kind=Kind.NOTE,
        status=Status.FAILED,
        run_id=run_id or _run_of_command(delivery),
        stage=stage,
        variant="",
        dataset=name.stem.dataset if name else UNKNOWN_DATASET,
        stem=str(name.stem) if name else None,
        inputs=(ObjectRecord(uri=uri),) if uri else (),
        error=ErrorRecord(
            type=type(error).__name__,
            message=str(error)[:2000],
            traceback="".join(traceback.format_exception(error))[-4000:],
        ),
        message_id=message_id,
        attempt=delivery.attempt,
        started=now,
        finished=now,
        host=workshop.host,
    )
    try:
        await workshop.publish(record)
    except TransientFailure as failure:
        log.warning("%s: the failed attempt could not be audited: %s", stage, failure)


def _run_of_command(delivery: Delivery) -> UUID:
    try:
        return UUID(str(json.loads(delivery.message.body)["run_id"]))
    except (ValueError, KeyError, TypeError):
        return UUID(int=0)


class Variants:
    """The variants of a stage that ever ran, as `stages/<stage>.json` in LEDGER knows them, oldest first."""

    def __init__(self, store: ObjectStore, stage: str, *, ttl: float = 10.0) -> None:
        self._store = store
        self._stage = stage
        self._ttl = ttl
        self._known: tuple[str, ...] = ()
        self._read_at = float("-inf")

    async def register(self, variant: str, *, reads: Layer, writes: Layer) -> None:
        """Add `variant`, if it is not there yet. Safe among many processes."""
        while True:
            found = await self._store.read(Layer.LEDGER, stage_key(self._stage))
            document: dict[str, Any] = (
                json.loads(found[0])
                if found
                else {
                    "schema_version": 1,
                    "stage": self._stage,
                    "reads": reads.value,
                    "writes": writes.value,
                    "variants": [],
                }
            )
            if variant in document["variants"]:
                break
            document["variants"].append(variant)
            body = json.dumps(document, indent=1).encode()
            if found:
                stored = await self._store.replace(
                    Layer.LEDGER, stage_key(self._stage), body, etag=found[1].etag, metadata={}, content_type=JSON
                )
            else:
                stored = await self._store.create(
                    Layer.LEDGER, stage_key(self._stage), body, metadata={}, content_type=JSON
                )
            if stored is not None:
                break
        self._learn(document["variants"])

    async def known(self) -> tuple[str, ...]:
        """All variants in order of first appearance; read again after some seconds."""
        if time.monotonic() - self._read_at > self._ttl:
            found = await self._store.read(Layer.LEDGER, stage_key(self._stage))
            self._learn(json.loads(found[0])["variants"] if found else [])
        return self._known

    def _learn(self, variants: Sequence[str]) -> None:
        self._known = tuple(variants)
        self._read_at = time.monotonic()


def newest_first(variants: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """`candidates` as readers prefer them: the highest version, then the latest to appear in `variants`."""
    order = {v: i for i, v in enumerate(variants)}
    return sorted(candidates, key=lambda v: (variant_version(v), order.get(v, -1)), reverse=True)


def newest_variant(variants: Sequence[str], candidates: Sequence[str]) -> str:
    """Which of `candidates` readers take."""
    return newest_first(variants, candidates)[0]


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def info_record(info: ObjectInfo, *, rows: int | None = None, sha256: str | None = None) -> ObjectRecord:
    return ObjectRecord(uri=info.uri, etag=info.etag, bytes=info.bytes, rows=rows, sha256=sha256)


async def committed_record(workshop: Workshop, info: ObjectInfo) -> AuditRecord | None:
    """The record that a commit object carries: in its metadata (Parquet) or in itself (JSON). None: not one of ours."""
    if info.key.endswith(".json"):
        found = await workshop.store.read(info.layer, info.key)
        if found is None:
            return None
        body, info = found
        try:
            document = json.loads(body)
        except ValueError:
            return None
        return record_of_document(document, uri=info.uri, etag=info.etag, size=info.bytes)
    return unfold_record(info.metadata, uri=info.uri, etag=info.etag, size=info.bytes)


async def store_beside(workshop: Workshop, beside: Sequence[Beside]) -> list[ObjectRecord]:
    """Store the files that belong to a commit object, before it."""

    async def one(file: Beside) -> ObjectRecord:
        digest = await asyncio.to_thread(sha256_of, file.path)
        info = await workshop.store.put(file.layer, file.key, file.path, metadata={}, content_type=file.content_type)
        return info_record(info, sha256=digest)

    return list(await asyncio.gather(*(one(file) for file in beside)))


def common_metadata(record: AuditRecord) -> dict[str, str]:
    """What every object of a layer carries, so that the thread goes through the store into the notification."""
    metadata = {
        META_RUN_ID: str(record.run_id),
        META_DATASET: record.dataset,
        META_STAGE_VERSION: record.variant,
        META_ROWS: str(record.rows_out),
    }
    if record.traceparent:
        metadata[META_TRACEPARENT] = record.traceparent
    return metadata


async def commit(
    workshop: Workshop,
    *,
    layer: Layer,
    key: str,
    record: AuditRecord,
    output: Path | None = None,
    document: Mapping[str, Any] | None = None,
    time_range: tuple[str, str] | None = None,
    load: Load | None = None,
) -> AuditRecord:
    """Create the commit object; the loser of a race gets the winner's record. Gives the record to publish.

    `record.outputs[0]` names the commit object itself.
    """
    metadata = common_metadata(record)
    if time_range:
        metadata |= {META_TIME_MIN: time_range[0], META_TIME_MAX: time_range[1]}
    if load:
        metadata[META_LOAD] = str(load)
    data: Path | bytes
    if output is not None:
        data, content_type = output, PARQUET
        record = fit_record(record, METADATA_LIMIT - metadata_size(metadata))
        metadata |= fold_record(record)
        if (size := metadata_size(metadata)) > METADATA_LIMIT:
            raise RejectedInput(
                "record_too_large", f"the audit record needs {size} bytes of metadata of {METADATA_LIMIT}"
            )
    else:
        content_type = JSON
        body = {**(document or {}), "record": record.model_dump(mode="json", exclude_none=True)}
        data = json.dumps(body, indent=1, default=str).encode()
    info = await workshop.store.create(layer, key, data, metadata=metadata, content_type=content_type)
    if info is not None:
        first = record.outputs[0].model_copy(update={"etag": info.etag, "bytes": info.bytes})
        return record.model_copy(update={"outputs": (first, *record.outputs[1:])})
    standing = await workshop.store.head(layer, key)
    winner = await committed_record(workshop, standing) if standing else None
    if winner is None:
        raise TransientFailure(f"{layer.value}/{key} exists and carries no record of ours", dependency="minio")
    return winner


class StageRunner:
    """Runs a `Stage` on deliveries: `handle` is what the bus is given."""

    def __init__(self, stage: Stage, workshop: Workshop) -> None:
        self.stage = stage
        self.workshop = workshop
        self.variants = Variants(workshop.store, stage.name)

    async def start(self) -> None:
        """Make the stage's variant known, before the first delivery."""
        await self.variants.register(self.stage.variant, reads=self.stage.reads, writes=self.stage.writes)

    async def handle(self, delivery: Delivery) -> Settlement:
        return await settle(self._act, delivery, workshop=self.workshop, stage=self.stage.name)

    async def _act(self, delivery: Delivery) -> None:
        stage, workshop = self.stage, self.workshop
        started = utc_now()
        try:
            event = parse_notification(delivery.message.body, workshop.buckets)
        except RejectedInput as rejected:
            await self._note(delivery, None, Status.REJECTED, rejected, started)
            return
        if isinstance(event, Ignored) or event.layer is not stage.reads:
            reason = event.reason if isinstance(event, Ignored) else "another layer"
            workshop.meters.ignored.labels(stage.name, reason).inc()
            return
        try:
            stem = await stem_of(workshop, event)
        except RejectedInput as rejected:  # no object can bear such a key: there is nothing to commit
            await self._note(delivery, event, Status.REJECTED, rejected, started)
            return
        if stem is None:
            await self._note(delivery, event, Status.GONE, InputGone(event.uri, superseded=False), started)
            return
        dataset = workshop.registry.get(stem.dataset)
        applies = dataset is None or stage.name in dataset.readers
        if not applies or (event.layer is Layer.RAW and await is_held(workshop, event, stem)):
            workshop.meters.ignored.labels(stage.name, "held" if applies else "not applicable").inc()
            return
        with workshop.folder() as folder, workshop.meters.seconds.labels(stage.name).time():
            try:
                record = await self._record(event, stem, dataset, Path(folder), delivery, started)
            except InputGone as gone:
                status = Status.SUPERSEDED if gone.superseded else Status.GONE
                await self._note(delivery, event, status, gone, started)
                return
            workshop.at(f"{stage.name}.after_store")
            await workshop.publish(record)
            workshop.at(f"{stage.name}.after_audit")

    async def _record(
        self,
        event: ObjectCreated,
        stem: Stem,
        dataset: Dataset | None,
        folder: Path,
        delivery: Delivery,
        started: datetime,
    ) -> AuditRecord:
        """The record of this work item: of the commit object that stands already, else of the one made here."""
        first = folder / "input-0"
        standing, fetched = await asyncio.gather(
            self._standing(stem, only_current=HEADER_STALE in delivery.message.headers),
            self.workshop.store.get(event.layer, event.key, first, etag=event.etag or None),
            return_exceptions=True,
        )
        if isinstance(standing, BaseException):
            raise standing
        if standing is not None:
            return standing
        if isinstance(fetched, BaseException):
            raise fetched
        self.workshop.at(f"{self.stage.name}.after_fetch")
        event = event.model_copy(update={"metadata": fetched.metadata})  # an event that was sent again may lack it
        source = Input(
            layer=event.layer,
            key=event.key,
            etag=fetched.etag,
            uri=event.uri,
            bytes=fetched.bytes,
            rows=told_rows(fetched.metadata),
        )
        work = Work(
            stage=self.stage.name,
            variant=self.stage.variant,
            stem=stem,
            dataset=stem.dataset,
            run_id=run_id_of(fetched.metadata.get(META_RUN_ID), event.bucket, event.key, event.etag or fetched.etag),
            inputs=(source,),
        )
        try:
            if dataset is None:
                raise RejectedInput(
                    "unknown_dataset",
                    f"{event.uri} belongs to no dataset of ours ({', '.join(self.workshop.registry)})",
                )
            if event.layer is Layer.RAW and (checks := event.metadata.get(META_BLOCKED)):
                rows = source.rows or 0
                raise RejectedWhole(
                    "blocked",
                    f"these checks failed when it was loaded: {checks}",
                    rows_in=rows,
                    rejected={"blocked": rows} if rows else {},
                )
            return await self._process(work, first, folder, event, started)
        except RejectedInput as rejected:
            return await reject(
                self.workshop, work, rejected, subject=event.uri, started=started, attempt=delivery.attempt, event=event
            )

    async def _standing(self, stem: Stem, *, only_current: bool) -> AuditRecord | None:
        """HEAD the commit object and the manifest of each known variant."""
        known = (self.stage.variant,) if only_current else await self.variants.known()
        keys = [(self.stage.writes, self.stage.commit_key(stem, v)) for v in known]
        keys += [(Layer.QUARANTINE, manifest_key(self.stage.name, stem, v)) for v in known]
        found = await asyncio.gather(*(self.workshop.store.head(layer, key) for layer, key in keys))
        for info in found:
            if info is not None and (record := await committed_record(self.workshop, info)) is not None:
                return record
        return None

    async def _process(
        self, work: Work, first: Path, folder: Path, event: ObjectCreated, started: datetime
    ) -> AuditRecord:
        for race in range(RACES):
            work, paths = await self._fetch_needs(work, first, folder / f"needs-{race}")
            out = folder / f"out-{race}"
            out.mkdir()
            outcome = await in_thread(self.stage.process, work, paths, out)
            self.workshop.at(f"{self.stage.name}.after_process")
            try:
                return await self._store(work, outcome, event, started)
            except LostRace:
                log.info("%s: %s lost a race, deciding again", self.stage.name, work.stem)
        raise TransientFailure(f"{work.stem} lost {RACES} races for its pointer", dependency="minio")

    async def _fetch_needs(self, work: Work, first: Path, folder: Path) -> tuple[Work, Sequence[Path]]:
        needs = self.stage.needs(replace(work, inputs=work.inputs[:1]), first)
        if not needs:
            return work, [first]
        folder.mkdir()
        inputs, paths = [work.inputs[0]], [first]
        slots = asyncio.Semaphore(8)
        workshop = self.workshop

        async def fetch(position: int) -> ObjectInfo | None:
            ref, path = needs[position], folder / f"{position}"
            try:
                async with slots:
                    return await workshop.store.get(ref.layer, ref.key, path, etag=ref.etag)
            except InputGone as gone:
                if ref.optional:
                    return None
                raise RejectedInput("missing_input", f"{gone}: what the work needs is no longer there") from gone

        for position, (ref, info) in enumerate(
            zip(needs, await asyncio.gather(*(fetch(i) for i in range(len(needs)))), strict=True)
        ):
            uri = workshop.buckets.uri(ref.layer, ref.key)
            inputs.append(
                Input(
                    layer=ref.layer,
                    key=ref.key,
                    etag=info.etag if info else "",
                    uri=uri,
                    bytes=info.bytes if info else 0,
                )
            )
            paths.append(folder / f"{position}")
        return replace(work, inputs=tuple(inputs)), paths

    async def _store(self, work: Work, outcome: Outcome, event: ObjectCreated, started: datetime) -> AuditRecord:
        stage, workshop = self.stage, self.workshop
        if outcome.output is not None:
            counted = outcome.rows_out + outcome.rows_duplicate + sum(outcome.rejected.values())
            if counted != outcome.rows_in:
                raise AssertionError(f"{work.stem}: {outcome.rows_in} rows in, but {counted} accounted for")
        beside = await store_beside(workshop, outcome.beside)
        if (pointer := outcome.pointer) is not None:
            body = json.dumps(pointer.document, indent=1, default=str).encode()
            moved = (
                await workshop.store.create(pointer.layer, pointer.key, body, metadata={}, content_type=JSON)
                if pointer.etag is None
                else await workshop.store.replace(
                    pointer.layer, pointer.key, body, etag=pointer.etag, metadata={}, content_type=JSON
                )
            )
            if moved is None:
                raise LostRace(pointer.key)
            workshop.at(f"{stage.name}.after_pointer")
        key = stage.commit_key(work.stem, work.variant)
        digest = await asyncio.to_thread(sha256_of, outcome.output) if outcome.output else None
        record = AuditRecord(
            event_id=event_id(Kind.OUTCOME, stage.name, work.variant, event.uri),
            kind=Kind.OUTCOME,
            status=Status.SUCCESS,
            run_id=work.run_id,
            stage=stage.name,
            variant=work.variant,
            dataset=work.dataset,
            stem=str(work.stem),
            inputs=tuple(input_record(i) for i in work.inputs if i.etag),
            outputs=(
                ObjectRecord(uri=workshop.buckets.uri(stage.writes, key), rows=outcome.rows_out, sha256=digest),
                *beside,
            ),
            rows_in=outcome.rows_in,
            rows_out=outcome.rows_out,
            rows_duplicate=outcome.rows_duplicate,
            rejected=dict(outcome.rejected),
            parameters=dict(outcome.parameters),
            metrics=dict(outcome.metrics),
            started=started,
            finished=utc_now(),
            host=workshop.host,
            traceparent=valid_traceparent(event.metadata.get(META_TRACEPARENT)),
        )
        for fate, rows in (("out", outcome.rows_out), ("duplicate", outcome.rows_duplicate)):
            workshop.meters.rows.labels(stage.name, fate).inc(rows)
        workshop.meters.rows.labels(stage.name, "quarantined").inc(sum(outcome.rejected.values()))
        return await commit(
            workshop,
            layer=stage.writes,
            key=key,
            record=record,
            output=outcome.output,
            document=outcome.document,
            time_range=outcome.time_range,
            load=Load.parse(event.metadata.get(META_LOAD)),
        )

    async def _note(
        self,
        delivery: Delivery,
        event: ObjectCreated | None,
        status: Status,
        why: Exception,
        started: datetime,
    ) -> None:
        await publish_note(
            self.workshop, self.stage.name, self.stage.variant, delivery, event, status=status, why=why, started=started
        )


async def publish_note(
    workshop: Workshop,
    stage: str,
    variant: str,
    delivery: Delivery,
    event: ObjectCreated | None,
    *,
    status: Status,
    why: Exception,
    started: datetime,
    outputs: Sequence[ObjectRecord] = (),
) -> None:
    """Tell the audit, under the message's id, what ended without a commit: GONE, SUPERSEDED, a message that is none."""
    message_id = delivery.message.message_id or hashlib.sha256(delivery.message.body).hexdigest()
    subject = event.uri if event else message_id
    name = Name.of_key(event.key) if event else None
    excerpt = "" if event else f" (the message begins {delivery.message.body[:200]!r})"
    await workshop.publish(
        AuditRecord(
            event_id=event_id(Kind.NOTE, stage, variant, subject, status, message_id, delivery.attempt),
            kind=Kind.NOTE,
            status=status,
            run_id=run_id_of(event.metadata.get(META_RUN_ID), event.bucket, event.key, event.etag)
            if event
            else landing_done_id("", stage, message_id),
            stage=stage,
            variant=variant,
            dataset=name.stem.dataset if name else UNKNOWN_DATASET,
            stem=str(name.stem) if name else None,
            inputs=(ObjectRecord(uri=event.uri, etag=event.etag),) if event else (),
            outputs=tuple(outputs),
            error=ErrorRecord(
                type=type(why).__name__,
                message=str(why) + excerpt,
                rule=why.rule if isinstance(why, RejectedInput) else None,
            ),
            message_id=message_id,
            attempt=delivery.attempt,
            started=started,
            finished=utc_now(),
            host=workshop.host,
        )
    )


async def reject(
    workshop: Workshop,
    work: Work,
    rejected: RejectedInput,
    *,
    subject: str,
    started: datetime,
    attempt: int = 1,
    event: ObjectCreated | None = None,
    parents: Sequence[UUID] = (),
) -> AuditRecord:
    """Write the manifest that says why a whole object (or plan) is rejected: its commit object."""
    whole = rejected if isinstance(rejected, RejectedWhole) else None
    beside = await store_beside(workshop, whole.beside if whole else ())
    key = manifest_key(work.stage, work.stem, work.variant)
    rows_in = whole.rows_in if whole else sum(i.rows or 0 for i in work.inputs[:1])
    by_rule = dict(whole.rejected) if whole else ({rejected.rule: rows_in} if rows_in else {})
    record = AuditRecord(
        event_id=event_id(Kind.OUTCOME, work.stage, work.variant, subject),
        kind=Kind.OUTCOME,
        status=Status.REJECTED,
        run_id=work.run_id,
        parents=tuple(parents),
        stage=work.stage,
        variant=work.variant,
        dataset=work.dataset,
        stem=str(work.stem),
        inputs=tuple(input_record(i) for i in work.inputs if i.etag),
        outputs=(ObjectRecord(uri=workshop.buckets.uri(Layer.QUARANTINE, key)), *beside),
        rows_in=rows_in,
        rejected=by_rule,
        parameters=dict(whole.parameters) if whole else {},
        error=ErrorRecord(type=type(rejected).__name__, message=rejected.reason, rule=rejected.rule),
        attempt=attempt,
        started=started,
        finished=utc_now(),
        host=workshop.host,
        traceparent=valid_traceparent(event.metadata.get(META_TRACEPARENT)) if event else None,
    )
    workshop.meters.rows.labels(work.stage, "quarantined").inc(rows_in)
    document = {
        "schema_version": 1,
        "stage": work.stage,
        "variant": work.variant,
        "dataset": work.dataset,
        "stem": str(work.stem),
        "input": subject,
        "rule": rejected.rule,
        "reason": rejected.reason,
        "details": rejected.details,
    }
    return await commit(workshop, layer=Layer.QUARANTINE, key=key, record=record, document=document)


def input_record(source: Input) -> ObjectRecord:
    return ObjectRecord(uri=source.uri, etag=source.etag, bytes=source.bytes or None, rows=source.rows)


async def stem_of(workshop: Workshop, event: ObjectCreated) -> Stem | None:
    """The stem an object bears; for one that is not named as ours, one that follows from it. None: it is gone."""
    if (name := Name.of_key(event.key)) is not None:
        return name.stem
    info = await workshop.store.head(event.layer, event.key)
    return foreign_stem(info, event.bucket) if info else None


async def is_held(workshop: Workshop, event: ObjectCreated, stem: Stem) -> bool:
    """Whether the object was taken over from elsewhere and is none of its readers' business, or not yet.

    One of ours is held while its mark stands; one that somebody else named, once its content was taken over.
    """
    store = workshop.store
    if stem.dataset == UNKNOWN_DATASET:
        return (
            await store.head(Layer.LEDGER, done_key(landing_done_id(event.bucket, event.key, event.etag))) is not None
        )
    metadata = event.metadata
    if not metadata:  # a store that tells none, for what lies in RAW has some
        info = await store.head(event.layer, event.key)
        metadata = info.metadata if info else {}
    return META_HELD in metadata and await store.head(Layer.LEDGER, held_key(event.layer, stem)) is not None


def foreign_stem(info: ObjectInfo, bucket: str) -> Stem:
    """The stem under which an object that somebody else named is rejected."""
    made = landing_done_id(bucket, info.key, info.etag).hex[:16]
    return Stem(UNKNOWN_DATASET, info.last_modified.replace(microsecond=0), made)


async def event_again(
    store: ObjectStore, buckets: Buckets, layer: Layer, key: str, *, stale_since: datetime | None = None
) -> Message | None:
    """The object's event as the store would tell it now, with the metadata. None: it is gone.

    `stale_since`: it asks for the current variant; of a stage that plans, for a plan made since then.
    """
    info = await store.head(layer, key)
    if info is None:
        return None
    event = ObjectCreated(
        layer=layer, bucket=buckets.of(layer), key=key, etag=info.etag, size=info.bytes, metadata=info.metadata
    )
    return Message(to_notification(event), headers={HEADER_STALE: stale_since.isoformat()} if stale_since else {})
