"""Commands and landing objects in, RAW parts and one `done` out.

What is decided once is pinned in LEDGER before anything is written: a claim pins what a file's content becomes, a
command what was asked for. Whoever finds it unfinished finishes it, with the same bytes under the same keys.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

from acequia.acceptance import COMMAND, SEVERAL, accepted_command, accepted_record
from acequia.errors import InputGone, RejectedInput, TransientFailure
from acequia.events import (
    META_CSV,
    META_DATASET,
    META_FORMAT,
    META_HELD,
    META_ROWS,
    META_RUN_ID,
    META_STAGE_VERSION,
    META_TIME_MAX,
    META_TIME_MIN,
    META_TRACEPARENT,
    AuditRecord,
    ErrorRecord,
    Ignored,
    IngestionCommand,
    Kind,
    ObjectCreated,
    ObjectRecord,
    Status,
    event_id,
    parse_notification,
    record_of_document,
    utc_now,
    valid_traceparent,
)
from acequia.layers import (
    UNKNOWN_DATASET,
    Layer,
    Stem,
    claim_key,
    command_key,
    data_key,
    done_key,
    held_key,
    landing_done_id,
    manifest_key,
    rejected_rows_key,
    run_id_of,
)
from acequia.ports import Delivery, ObjectInfo, Settlement
from acequia.runner import JSON, PARQUET, Variants, Workshop, in_thread, info_record, publish_note, settle, sha256_of
from acequia.settings import load
from acequia.work import variant_of
from acequia_ingestor.detect import choose_dataset, read_head, resolve_format
from acequia_ingestor.formats import Format, Reading
from acequia_ingestor.parse import (
    NoRows,
    Parsed,
    ParseOptions,
    parse_file,
    survey_file,
    told_by_name,
    write_drawn,
)
from acequia_ingestor.settings import IngestorSettings, PostgresSourceSettings
from acequia_ingestor.sources import load_sources, read_request
from acequia_ingestor.sources.postgres import PostgresSource
from acequia_ingestor.tables.load import Ended, Job, RunEnded, TableLoads

log = logging.getLogger("acequia")

STAGE = "ingestor"
VERSION = "1"
"""Raise it with each change of what RAW holds."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom an outcome belongs to: one landing object, or one command."""

    done_id: UUID
    run_id: UUID
    at: datetime
    subject: str
    """What the audit knows the input by: the landing object's uri, or the run of a command."""
    file_name: str | None
    inputs: tuple[ObjectRecord, ...]
    traceparent: str | None = None
    imported: Mapping[str, Any] | None = None
    """Of what is taken over from a predecessor: what that said of it. Its parts are held back from their readers."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the content of a file becomes, pinned once: the first to come with it."""

    dataset: str
    digest: str
    origin: Origin
    rows_per_part: int
    format: str
    reading: Reading | None = None

    @property
    def stem(self) -> Stem:
        return Stem(self.dataset, self.origin.at, self.digest[:16])

    def document(self) -> dict[str, Any]:
        origin = self.origin
        return {
            "schema_version": 1,
            "dataset": self.dataset,
            "digest": self.digest,
            "format": self.format,
            "rows_per_part": self.rows_per_part,
            "done_id": str(origin.done_id),
            "run_id": str(origin.run_id),
            "at": origin.at.isoformat(),
            "subject": origin.subject,
            "file_name": origin.file_name,
            "inputs": [i.model_dump(mode="json", exclude_none=True) for i in origin.inputs],
            "traceparent": origin.traceparent,
            "imported": origin.imported,
            "reading": asdict(self.reading) if self.reading else None,
        }

    @classmethod
    def parse(cls, body: bytes) -> "Claim":
        document = json.loads(body)
        reading = document.get("reading")
        return cls(
            dataset=document["dataset"],
            digest=document["digest"],
            format=document["format"],
            rows_per_part=document["rows_per_part"],
            reading=Reading(**reading) if reading else None,
            origin=Origin(
                done_id=UUID(document["done_id"]),
                run_id=UUID(document["run_id"]),
                at=datetime.fromisoformat(document["at"]),
                subject=document["subject"],
                file_name=document["file_name"],
                inputs=tuple(ObjectRecord.model_validate(i) for i in document["inputs"]),
                traceparent=document["traceparent"],
                imported=document.get("imported"),
            ),
        )


def _as_parameters(reading: Reading | None) -> dict[str, Any]:
    """What people are told of how a file was read."""
    if reading is None:
        return {}
    ignored = [name[:100] for name in reading.ignored[:50]]
    more = {"columns_ignored": ignored} if ignored else {}
    return {"csv": dict(reading.options), "csv_told_by": dict(reading.told_by), **more}


class Ingestor:
    """Handles commands and landing objects: `handle` is what the bus is given."""

    def __init__(
        self,
        workshop: Workshop,
        settings: IngestorSettings,
        formats: Mapping[str, Format],
        databases: PostgresSourceSettings | None = None,
    ) -> None:
        """`databases`: where tables are read from; None: as the environment says."""
        self.workshop = workshop
        self.settings = settings
        self.formats = formats
        self.variant = variant_of(VERSION, {"rows_per_part": settings.rows_per_part})
        self._sources = load_sources()
        self._variants = Variants(workshop.store, STAGE)
        self.tables = TableLoads(workshop, databases or load(PostgresSourceSettings), self.variant)

    async def start(self) -> None:
        await self._variants.register(self.variant, reads=Layer.LANDING, writes=Layer.RAW)

    async def handle(self, delivery: Delivery) -> Settlement:
        act = self._command if delivery.message.type == COMMAND else self._landed
        return await settle(act, delivery, workshop=self.workshop, stage=STAGE)

    # commands

    async def _command(self, delivery: Delivery) -> None:
        started = utc_now()
        try:
            command = IngestionCommand.model_validate_json(delivery.message.body)
        except ValueError as error:
            rejected = RejectedInput("malformed_command", f"not an ingestion command of ours: {error}")
            await self._note(delivery, None, Status.REJECTED, rejected, started)
            return
        origin = Origin(
            done_id=command.run_id,
            run_id=command.run_id,
            at=command.accepted_at.astimezone(UTC).replace(microsecond=0),
            subject=str(command.run_id),
            file_name=None,
            inputs=(),
            traceparent=command.traceparent,
        )
        accepted = accepted_command(command, self.workshop.host)
        record = await self._done(origin.done_id)
        if record is None:
            with self.workshop.folder() as name, self.workshop.meters.seconds.labels(STAGE).time():
                stem = Stem(command.dataset, origin.at, command.run_id.hex[:16])
                more = {"command": command.model_dump(mode="json")}
                parameters = {
                    "source": command.source.model_dump(mode="json"),
                    "rows_per_part": command.rows_per_part,
                }
                try:
                    if (job := self._job(command, origin.at)) is not None:
                        ended = await self.tables.carry_out(job, Path(name))
                        if ended is None:
                            return  # the command was sent again, to be gone on with
                        record = await self._commit_tables(origin, stem, ended, parameters, accepted, started, more)
                    else:
                        parsed = await in_thread(self._draw, command, origin.at, Path(name))
                        self.workshop.at(f"{STAGE}.after_process")
                        record = await self._finish(origin, stem, parsed, parameters, accepted, started, more)
                except RejectedInput as rejected:
                    record = await self._reject(origin, stem, rejected, parameters, accepted, started, more)
                except RunEnded:
                    record = await self._done(origin.done_id)
                    if record is None:
                        raise TransientFailure("`done` was removed while it was read", dependency="minio") from None
        self.workshop.at(f"{STAGE}.after_store")
        await self.workshop.publish(record)
        self.workshop.at(f"{STAGE}.after_audit")
        with suppress(RejectedInput):  # what can't be carried out has left nothing
            if (job := self._job(command, origin.at)) is not None:
                await self.tables.forget(job)
        await self.workshop.store.remove(Layer.LEDGER, command_key(command.run_id))

    def _job(self, command: IngestionCommand, at: datetime) -> Job | None:
        """The tables that a command asks for; None where it asks for something else. Raises as the source does."""
        source, asked = read_request(command.source, self._sources)
        if not source.tables or not isinstance(asked, PostgresSource):
            return None
        named = None if command.dataset == SEVERAL else command.dataset
        names = source.datasets(asked, named, self.workshop.registry, self.settings)
        return Job(command, asked, names, at)

    async def _commit_tables(
        self,
        origin: Origin,
        stem: Stem,
        ended: Ended,
        parameters: Mapping[str, Any],
        accepted: AuditRecord,
        started: datetime,
        more: Mapping[str, Any],
    ) -> AuditRecord:
        """The one outcome of all tables of a command."""
        rejected = ended.rows_by_rule
        error = None
        if ended.rejected:
            error = ErrorRecord(type=RejectedInput.__name__, message=ended.reason, rule=ended.rule)
        record = self._outcome(
            origin,
            stem.dataset,
            Status.REJECTED if ended.rejected else Status.SUCCESS,
            started,
            stem=str(stem),
            outputs=ended.outputs,
            rows_in=ended.rows_out + sum(rejected.values()),
            rows_out=ended.rows_out,
            rejected=rejected,
            parameters={**parameters, "tables": {name: result.told for name, result in ended.tables.items()}},
            error=error,
        )
        self.workshop.meters.rows.labels(STAGE, "out").inc(ended.rows_out)
        self.workshop.meters.rows.labels(STAGE, "quarantined").inc(sum(rejected.values()))
        return await self._commit(origin, record, accepted, more)

    def _draw(self, command: IngestionCommand, at: datetime, out: Path) -> Parsed:
        source, asked = read_request(command.source, self._sources)
        # what a schedule asks for is looked at here for the first time; people were told when they asked
        source.datasets(asked, command.dataset, self.workshop.registry, self.settings)
        dataset = self.workshop.registry[command.dataset]
        if source.draw is None:
            raise RejectedInput("malformed_command", f"the source {source.name} draws no rows")
        chunks = source.draw(asked, dataset, at)
        return write_drawn(chunks, dataset, source.name, out, rows_per_part=command.rows_per_part)

    # landing objects

    async def _landed(self, delivery: Delivery) -> None:
        started = utc_now()
        try:
            event = parse_notification(delivery.message.body, self.workshop.buckets)
        except RejectedInput as rejected:
            await self._note(delivery, None, Status.REJECTED, rejected, started)
            return
        if isinstance(event, Ignored) or event.layer is not Layer.LANDING:
            reason = event.reason if isinstance(event, Ignored) else "another layer"
            self.workshop.meters.ignored.labels(STAGE, reason).inc()
            return
        if event.key.endswith("/"):
            self.workshop.meters.ignored.labels(STAGE, "a folder's marker").inc()
            return
        try:
            with self.workshop.folder() as name, self.workshop.meters.seconds.labels(STAGE).time():
                record = await self._land(event, Path(name), started)
                self.workshop.at(f"{STAGE}.after_store")
                await self.workshop.publish(record)
                self.workshop.at(f"{STAGE}.after_audit")
        except InputGone as gone:
            status = Status.SUPERSEDED if gone.superseded else Status.GONE
            await self._note(delivery, event, status, gone, started)
        except RejectedInput as rejected:  # no object can bear such a key: there is nothing to commit
            await self._note(delivery, event, Status.REJECTED, rejected, started)

    async def _land(self, event: ObjectCreated, folder: Path, started: datetime) -> AuditRecord:
        """The record of a landing object's one outcome. Raises InputGone where the object changed meanwhile."""
        source = folder / "source"
        standing, info = await asyncio.gather(
            self._done(landing_done_id(event.bucket, event.key, event.etag)),
            self.workshop.store.get(Layer.LANDING, event.key, source, etag=event.etag or None),
            return_exceptions=True,
        )
        if isinstance(standing, BaseException):
            raise standing
        if standing is not None:
            return standing
        if isinstance(info, BaseException):
            raise info
        self.workshop.at(f"{STAGE}.after_fetch")
        origin = Origin(
            done_id=landing_done_id(event.bucket, event.key, info.etag),
            run_id=run_id_of(info.metadata.get(META_RUN_ID), event.bucket, event.key, info.etag),
            at=info.last_modified.astimezone(UTC).replace(microsecond=0),
            subject=event.uri,
            file_name=PurePosixPath(event.key).name or event.key,
            inputs=(info_record(info),),
            traceparent=valid_traceparent(info.metadata.get(META_TRACEPARENT)),
        )
        parameters: dict[str, Any] = {"file": origin.file_name}
        try:
            dataset, format = await in_thread(self._recognise, source, event.key, info)
        except RejectedInput as rejected:
            stem = Stem(UNKNOWN_DATASET, origin.at, origin.done_id.hex[:16])
            accepted = self._accept_file(origin, UNKNOWN_DATASET, parameters)
            await self.workshop.publish(accepted)
            return await self._reject(origin, stem, rejected, parameters, accepted, started, {})
        asked = info.metadata.get(META_CSV)
        return await self.take_in(origin, source, folder, dataset, format, started, asked=asked)

    async def take_in(
        self,
        origin: Origin,
        source: Path,
        folder: Path,
        dataset: str,
        format: str,
        started: datetime,
        *,
        asked: str | None = None,
    ) -> AuditRecord:
        """The record of the one outcome of a file whose dataset and format are known: its content becomes RAW once.

        `asked`: how it is to be read, as `csv_options` has it.
        """
        parameters: dict[str, Any] = {"file": origin.file_name}
        accepted = self._accept_file(origin, dataset, parameters)
        reading = None
        if asked or self.formats[format].survey:
            try:
                reading = await in_thread(self._survey, source, folder, dataset, format, asked)
            except RejectedInput as rejected:
                stem = Stem(dataset, origin.at, origin.done_id.hex[:16])
                await self.workshop.publish(accepted)
                return await self._reject(origin, stem, rejected, parameters, accepted, started, {})
        parameters |= _as_parameters(reading)
        content, _ = await asyncio.gather(asyncio.to_thread(sha256_of, source), self.workshop.publish(accepted))
        options = ParseOptions(
            dataset,
            format,
            csv=dict(reading.options) if reading else {},
            named=told_by_name(origin.file_name or "", self.workshop.registry[dataset]),
        )
        digest = options.claim_digest(content)
        claim = await self._claim(
            Claim(dataset, digest, origin, rows_per_part=self.settings.rows_per_part, format=format, reading=reading)
        )
        self.workshop.at(f"{STAGE}.after_claim")
        if claim.origin.done_id == origin.done_id:
            return await self._carry_out(claim, source, folder, accepted, started)
        first = await self._done(claim.origin.done_id)
        if first is None:
            first = await self._carry_out(claim, source, folder, accepted, started)
        await self.workshop.publish(first)
        return await self._same_content(origin, claim, first, parameters, accepted, started)

    def _recognise(self, source: Path, key: str, info: ObjectInfo) -> tuple[str, str]:
        """Dataset and format by name. Raises RejectedInput where nobody can say."""
        name = PurePosixPath(key).name
        wanted_dataset, wanted_format = info.metadata.get(META_DATASET), info.metadata.get(META_FORMAT)
        head = read_head(source, name)
        dataset = choose_dataset(wanted_dataset, key, head, self.workshop.registry, self.formats)
        return dataset.name, resolve_format(source, name, dataset, wanted_format)

    def _survey(self, source: Path, folder: Path, dataset: str, format: str, asked: str | None) -> Reading | None:
        settings = self.settings
        return survey_file(
            source,
            self.workshop.registry[dataset],
            format,
            asked,
            folder / "surveyed",
            max_ratio=settings.max_ratio,
            max_bytes=settings.max_unpacked_bytes,
        )

    def _accept_file(self, origin: Origin, dataset: str, parameters: Mapping[str, Any]) -> AuditRecord:
        return accepted_record(
            run_id=origin.run_id,
            dataset=dataset,
            at=origin.at,
            host=self.workshop.host,
            parameters=parameters,
            inputs=origin.inputs,
            traceparent=origin.traceparent,
        )

    async def _claim(self, ours: Claim) -> Claim:
        """The claim of this content: ours if we are the first, else the one that stands."""
        key = claim_key(ours.dataset, ours.digest)
        body = json.dumps(ours.document(), indent=1).encode()
        if await self.workshop.store.create(Layer.LEDGER, key, body, metadata={}, content_type=JSON):
            return ours
        if (found := await self.workshop.store.read(Layer.LEDGER, key)) is None:
            raise TransientFailure(f"claim {key} was removed while it was read", dependency="minio")
        return Claim.parse(found[0])

    async def _carry_out(
        self, claim: Claim, source: Path, folder: Path, accepted: AuditRecord, started: datetime
    ) -> AuditRecord:
        """Write what the claim's owner lacks; the owner's record."""
        settings = self.settings
        parameters: dict[str, Any] = {"file": claim.origin.file_name, "rows_per_part": claim.rows_per_part}
        parameters |= _as_parameters(claim.reading)
        if claim.origin.run_id != accepted.run_id:
            accepted = self._accept_file(claim.origin, claim.dataset, parameters)
        try:
            parsed = await in_thread(
                parse_file,
                source,
                claim.origin.file_name or "",
                self.workshop.registry[claim.dataset],
                claim.format,
                folder / "parts",
                rows_per_part=claim.rows_per_part,
                max_ratio=settings.max_ratio,
                max_bytes=settings.max_unpacked_bytes,
                reading=claim.reading,
            )
            self.workshop.at(f"{STAGE}.after_process")
            return await self._finish(claim.origin, claim.stem, parsed, parameters, accepted, started, {})
        except RejectedInput as rejected:
            return await self._reject(claim.origin, claim.stem, rejected, parameters, accepted, started, {})

    async def _same_content(
        self,
        origin: Origin,
        claim: Claim,
        first: AuditRecord,
        parameters: Mapping[str, Any],
        accepted: AuditRecord,
        started: datetime,
    ) -> AuditRecord:
        record = self._outcome(
            origin,
            claim.dataset,
            Status.SAME_CONTENT,
            started,
            stem=str(claim.stem),
            parameters={
                **parameters,
                "same_as": str(claim.origin.run_id),
                "same_status": first.status.value,
                "format": claim.format,
            },
        )
        return await self._commit(origin, record, accepted, {})

    # outcomes

    async def _done(self, done_id: UUID) -> AuditRecord | None:
        found = await self.workshop.store.read(Layer.LEDGER, done_key(done_id))
        if found is None:
            return None
        body, info = found
        return record_of_document(json.loads(body), uri=info.uri, etag=info.etag, size=info.bytes)

    async def _finish(
        self,
        origin: Origin,
        stem: Stem,
        parsed: Parsed,
        parameters: Mapping[str, Any],
        accepted: AuditRecord,
        started: datetime,
        more: Mapping[str, Any],
    ) -> AuditRecord:
        """Put the parts, then `done`. The source was read to its end before the first part is put."""
        store = self.workshop.store
        outputs: list[ObjectRecord] = []
        for part in parsed.parts:
            metadata = {
                META_RUN_ID: str(origin.run_id),
                META_DATASET: stem.dataset,
                META_STAGE_VERSION: self.variant,
                META_ROWS: str(part.rows),
            }
            if part.time_range:
                metadata |= {META_TIME_MIN: part.time_range[0], META_TIME_MAX: part.time_range[1]}
            if origin.traceparent:
                metadata[META_TRACEPARENT] = origin.traceparent
            part_stem = Stem(stem.dataset, stem.at, stem.id, part.number)
            key = data_key(part_stem)
            if origin.imported is not None:
                metadata[META_HELD] = "import"
                await self._hold(part_stem, origin)
            digest = await asyncio.to_thread(sha256_of, part.path)
            info = await store.create(Layer.RAW, key, part.path, metadata=metadata, content_type=PARQUET)
            info = info or await store.head(Layer.RAW, key)
            if info is None:
                raise TransientFailure(f"{key} was removed while it was written", dependency="minio")
            outputs.append(info_record(info, rows=part.rows, sha256=digest))
            self.workshop.at(f"{STAGE}.after_part")
        outputs += await self._quarantine_rows(stem, parsed.rejected_rows)
        rows_out = sum(part.rows for part in parsed.parts)
        record = self._outcome(
            origin,
            stem.dataset,
            Status.SUCCESS if origin.imported is None else Status.IMPORTED,
            started,
            stem=str(stem),
            outputs=tuple(outputs),
            rows_in=parsed.rows_in,
            rows_out=rows_out,
            rejected=dict(parsed.rejected),
            lines_skipped=dict(parsed.lines_skipped),
            parameters={**parameters, "format": parsed.format},
        )
        rows = self.workshop.meters.rows
        rows.labels(STAGE, "out").inc(rows_out)
        rows.labels(STAGE, "quarantined").inc(sum(parsed.rejected.values()))
        return await self._commit(origin, record, accepted, more)

    async def _hold(self, stem: Stem, origin: Origin) -> None:
        """Mark a part that is about to be put, so that its event finds the mark. One that lies there may have been
        replayed since."""
        store = self.workshop.store
        if await store.head(Layer.RAW, data_key(stem)) is None:
            body = json.dumps({"schema_version": 1, "stem": str(stem), "from": origin.subject}, indent=1).encode()
            await store.create(Layer.LEDGER, held_key(Layer.RAW, stem), body, metadata={}, content_type=JSON)
            self.workshop.at(f"{STAGE}.after_hold")

    async def _quarantine_rows(self, stem: Stem, rows: Path | None) -> list[ObjectRecord]:
        if rows is None:
            return []
        digest = await asyncio.to_thread(sha256_of, rows)
        info = await self.workshop.store.put(
            Layer.QUARANTINE, rejected_rows_key(STAGE, stem), rows, metadata={}, content_type=PARQUET
        )
        return [info_record(info, sha256=digest)]

    async def _reject(
        self,
        origin: Origin,
        stem: Stem,
        rejected: RejectedInput,
        parameters: Mapping[str, Any],
        accepted: AuditRecord,
        started: datetime,
        more: Mapping[str, Any],
    ) -> AuditRecord:
        """The whole source is rejected: a manifest for people, then `done`."""
        whole = rejected if isinstance(rejected, NoRows) else None
        outputs = await self._quarantine_rows(stem, whole.rejected_rows if whole else None)
        manifest = {
            "schema_version": 1,
            "stage": STAGE,
            "dataset": stem.dataset,
            "stem": str(stem),
            "input": origin.subject,
            "run_id": str(origin.run_id),
            "rule": rejected.rule,
            "reason": rejected.reason,
            "details": rejected.details,
        }
        info = await self.workshop.store.put(
            Layer.QUARANTINE,
            manifest_key(STAGE, stem),
            json.dumps(manifest, indent=1, default=str).encode(),
            metadata={META_RUN_ID: str(origin.run_id)},
            content_type=JSON,
        )
        record = self._outcome(
            origin,
            stem.dataset,
            Status.REJECTED,
            started,
            stem=str(stem),
            outputs=(info_record(info), *outputs),
            rows_in=whole.rows_in if whole else 0,
            rejected=dict(whole.rejected) if whole else {},
            lines_skipped=dict(whole.lines_skipped) if whole else {},
            parameters=dict(parameters),
            error=ErrorRecord(type=type(rejected).__name__, message=rejected.reason, rule=rejected.rule),
        )
        return await self._commit(origin, record, accepted, more)

    def _outcome(self, origin: Origin, dataset: str, status: Status, started: datetime, **more: Any) -> AuditRecord:
        if origin.imported is not None:
            more["parameters"] = {**more.get("parameters", {}), "imported": dict(origin.imported)}
        return AuditRecord(
            event_id=event_id(Kind.OUTCOME, STAGE, "", origin.subject, *(i.etag for i in origin.inputs)),
            kind=Kind.OUTCOME,
            status=status,
            run_id=origin.run_id,
            stage=STAGE,
            variant=self.variant,
            dataset=dataset,
            inputs=origin.inputs,
            started=started,
            finished=utc_now(),
            host=self.workshop.host,
            traceparent=origin.traceparent,
            **more,
        )

    async def _commit(
        self, origin: Origin, record: AuditRecord, accepted: AuditRecord, more: Mapping[str, Any]
    ) -> AuditRecord:
        """Create `done`; the loser of a race gets the winner's record."""
        document = {
            "schema_version": 1,
            "id": str(origin.done_id),
            "run_id": str(origin.run_id),
            "dataset": record.dataset,
            "status": record.status.value,
            **more,
            "accepted": accepted.model_dump(mode="json", exclude_none=True),
            "record": record.model_dump(mode="json", exclude_none=True),
        }
        created = await self.workshop.store.create(
            Layer.LEDGER,
            done_key(origin.done_id),
            json.dumps(document, indent=1).encode(),
            metadata={META_RUN_ID: str(origin.run_id)},
            content_type=JSON,
        )
        if created is None and (winner := await self._done(origin.done_id)) is not None:
            return winner
        return record

    async def _note(
        self,
        delivery: Delivery,
        event: ObjectCreated | None,
        status: Status,
        why: Exception,
        started: datetime,
    ) -> None:
        await publish_note(self.workshop, STAGE, self.variant, delivery, event, status=status, why=why, started=started)
