"""Takes over what a predecessor ingested, without starting a run: docs/decisions/0015.

The content of its files becomes RAW objects that are held back from their readers; what its list says of files that are
no longer there becomes records. Each is done once, under an id that follows from what it is: asking again changes
nothing, and an import that was cut off goes on where it was.
"""

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid5

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from acequia.acceptance import accepted_record
from acequia.app import Problem, problem_responses
from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia.events import META_RUN_ID, AuditRecord, Kind, ObjectRecord, Status, event_id, record_of_document, utc_now
from acequia.layers import NAMESPACE, Layer, Name, claim_key, done_key, landing_done_id
from acequia.runner import JSON, in_thread, sha256_of
from acequia_ingestor.api import bounded
from acequia_ingestor.detect import resolve_format
from acequia_ingestor.ingest import STAGE, Ingestor, Origin
from acequia_ingestor.parse import NoRows, Parsed, ParseOptions, parse_file

ROWS_MOST = 500
"""Rows of a list, or objects, in one request."""
AT_ONCE = 8
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class Listed(BaseModel):
    """What a predecessor's table says of one ingestion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str | None = None
    name: str | None = None
    path: Annotated[str | None, Field(description="bucket/key")] = None
    rows: int | None = None
    status: str | None = None
    at: AwareDatetime | None = None

    def told(self) -> dict[str, Any]:
        """As the view `ingestion_events` names it."""
        said = {
            "id": self.id,
            "nombre_archivo": self.name or (self.path.rpartition("/")[2] if self.path else None),
            "ruta_minio": self.path,
            "num_registros": self.rows,
            "estado": self.status,
            "timestamp_ingesta": self.at.astimezone(UTC).isoformat() if self.at else None,
        }
        return {name: value for name, value in said.items() if value is not None}

    @property
    def run_id(self) -> UUID:
        """The run of a row whose file is not there: always the same one."""
        named = [self.id, self.name, self.path, self.at.astimezone(UTC).isoformat() if self.at else ""]
        return uuid5(NAMESPACE, "\n".join(["imported row", *(text or "" for text in named)]))


class Rows(BaseModel):
    """Rows of a predecessor's table whose files are not there."""

    model_config = ConfigDict(extra="forbid")

    dataset: str
    rows: Annotated[list[Listed], Field(max_length=ROWS_MOST)]
    dry_run: bool = False


class RowsTaken(BaseModel):
    imported: int
    known: int


class Version(BaseModel):
    """One version of an object elsewhere."""

    model_config = ConfigDict(extra="forbid")

    uri: Annotated[str, Field(max_length=4096)]
    etag: str


class Versions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    objects: Annotated[list[Version], Field(max_length=ROWS_MOST)]


class Known(BaseModel):
    known: Annotated[list[bool], Field(description="Of each object that was named, whether it was taken over")]


class Fate(StrEnum):
    """What became of a file."""

    IMPORTED = "imported"
    KNOWN = "known"
    """It was taken over before."""
    SAME_CONTENT = "same_content"
    """Another file brought this content before."""
    REJECTED = "rejected"
    """It cannot be read: nothing was stored."""


class Taken(BaseModel):
    """What became of a file. `rows_in` = `rows_raw` + the rejected ones."""

    fate: Fate
    run_id: UUID
    objects: list[str] = []
    rows_in: int = 0
    rows_raw: int = 0
    rejected: dict[str, int] = {}
    same_as: UUID | None = None
    rule: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file that lies elsewhere."""

    name: str
    uri: str
    etag: str
    dataset: str
    at: datetime
    """When its predecessor took it in: its stem's time."""
    listed: Listed | None = None

    @property
    def run_id(self) -> UUID:
        """Of its run and of its `done`. An object of LANDING has the same: it is ingested once, by either way."""
        bucket, _, key = self.uri.removeprefix("s3://").partition("/")
        return landing_done_id(bucket, key, self.etag)


class Importer:
    """Takes over files and rows."""

    def __init__(self, ingestor: Ingestor) -> None:
        self._ingestor = ingestor
        self._workshop = ingestor.workshop
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def known(self, versions: Sequence[Version]) -> list[bool]:
        """Which of them have a `done`."""

        async def one(version: Version) -> bool:
            bucket, _, key = version.uri.removeprefix("s3://").partition("/")
            async with self._slots:
                id = landing_done_id(bucket, key, version.etag)
                return await self._workshop.store.head(Layer.LEDGER, done_key(id)) is not None

        return list(await asyncio.gather(*(one(version) for version in versions)))

    # files

    async def take_over(self, chunks: AsyncIterator[bytes], foreign: Foreign, *, dry_run: bool = False) -> Taken:
        """Take the file's content in, once; where it cannot be read, leave it alone. Raises as the store does."""
        started = utc_now()
        dataset = self._dataset(foreign.dataset)
        self._must_be_elsewhere(foreign)
        with self._workshop.folder() as name:
            folder = Path(name)
            foreign = await self._fetched(chunks, foreign, folder / "source")
            if (standing := await self._done(foreign.run_id)) is not None:
                if not dry_run:
                    await self._workshop.publish(standing)
                return _taken(Fate.KNOWN, standing)
            try:
                format, parsed = await in_thread(self._read, folder, foreign.name, dataset)
            except RejectedInput as rejected:
                return _rejected(foreign, rejected)
            if dry_run:
                return await self._foreseen(foreign, format, parsed, folder)
            origin = await self._origin(foreign, folder / "source")
            record = await self._ingestor.take_in(origin, folder / "source", folder, dataset.name, format, started)
            await self._workshop.publish(record)
        return _taken(Fate.SAME_CONTENT if record.status is Status.SAME_CONTENT else Fate.IMPORTED, record)

    def _dataset(self, name: str) -> Dataset:
        registry = self._workshop.registry
        if (dataset := registry.get(name)) is None or dataset.key:
            why = "its rows change: load its table" if dataset else "no dataset has this name"
            allowed = [d.name for d in registry.values() if not d.key]
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "unknown dataset",
                f"{name} can't be taken over: {why}.",
                allowed=allowed,
            )
        return dataset

    def _must_be_elsewhere(self, foreign: Foreign) -> None:
        bucket, _, key = foreign.uri.removeprefix("s3://").partition("/")
        layer = self._workshop.buckets.layer(bucket) if foreign.uri.startswith("s3://") else None
        if layer not in (None, Layer.RAW, Layer.LANDING) or Name.of_key(key) is not None:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY, "not from elsewhere", f"{foreign.uri} is an object of Acequia's own."
            )

    async def _fetched(self, chunks: AsyncIterator[bytes], foreign: Foreign, to: Path) -> Foreign:
        """The file, with the etag that it has or would have in a store."""
        digest = hashlib.md5(usedforsecurity=False)
        with to.open("wb") as file:
            async for chunk in chunks:
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
        etag = foreign.etag or digest.hexdigest()
        return Foreign(foreign.name, foreign.uri, etag, foreign.dataset, foreign.at, foreign.listed)

    def _read(self, folder: Path, name: str, dataset: Dataset) -> tuple[str, Parsed]:
        """Its format and what it holds: before anything is stored."""
        settings, out = self._ingestor.settings, folder / "looked-at"
        format = resolve_format(folder / "source", name, dataset, None)
        try:
            return format, parse_file(
                folder / "source",
                name,
                dataset,
                format,
                out,
                rows_per_part=settings.rows_per_part,
                max_ratio=settings.max_ratio,
                max_bytes=settings.max_unpacked_bytes,
            )
        finally:
            shutil.rmtree(out, ignore_errors=True)

    async def _foreseen(self, foreign: Foreign, format: str, parsed: Parsed, folder: Path) -> Taken:
        """What would become of it."""
        content = await asyncio.to_thread(sha256_of, folder / "source")
        claim = claim_key(foreign.dataset, ParseOptions(foreign.dataset, format).claim_digest(content))
        found = await self._workshop.store.read(Layer.LEDGER, claim)
        first = UUID(json.loads(found[0])["run_id"]) if found else None
        again = first is not None and first != foreign.run_id
        return Taken(
            fate=Fate.SAME_CONTENT if again else Fate.IMPORTED,
            run_id=foreign.run_id,
            rows_in=parsed.rows_in,
            rows_raw=sum(part.rows for part in parsed.parts),
            rejected=dict(parsed.rejected),
            same_as=first if again else None,
        )

    async def _origin(self, foreign: Foreign, source: Path) -> Origin:
        at = min(max(foreign.at.astimezone(UTC), EARLIEST), utc_now()).replace(microsecond=0)
        listed = foreign.listed
        imported = {
            "nombre_archivo": foreign.name,
            "ruta_minio": foreign.uri.removeprefix("s3://"),
            "timestamp_ingesta": at.isoformat(),
            **(listed.told() if listed else {}),
        }
        if listed and await self._workshop.store.head(Layer.LEDGER, done_key(listed.run_id)):
            imported["listed_as"] = str(listed.run_id)  # an earlier import took its row over without it
        digest = await asyncio.to_thread(sha256_of, source)
        size = source.stat().st_size
        return Origin(
            done_id=foreign.run_id,
            run_id=foreign.run_id,
            at=at,
            subject=foreign.uri,
            file_name=foreign.name,
            inputs=(ObjectRecord(uri=foreign.uri, etag=foreign.etag, bytes=size, sha256=digest),),
            imported=imported,
        )

    async def _done(self, id: UUID) -> AuditRecord | None:
        if (found := await self._workshop.store.read(Layer.LEDGER, done_key(id))) is None:
            return None
        body, info = found
        return record_of_document(json.loads(body), uri=info.uri, etag=info.etag, size=info.bytes)

    # rows

    async def take_over_rows(self, asked: Rows) -> RowsTaken:
        """Take over what a list says of files that are not there. Raises as the store does."""
        if asked.dataset not in self._workshop.registry:
            self._dataset(asked.dataset)
        for row in asked.rows:
            if row.at is None or not (row.name or row.path):
                raise Problem(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    "not a row",
                    f"A row needs a time and a name or a path: {row.model_dump_json()}.",
                )
        new = await asyncio.gather(*(self._take_over_row(row, asked) for row in asked.rows))
        return RowsTaken(imported=sum(new), known=len(new) - sum(new))

    async def _take_over_row(self, row: Listed, asked: Rows) -> bool:
        """Whether it was new."""
        async with self._slots:
            store, key = self._workshop.store, done_key(row.run_id)
            if await store.head(Layer.LEDGER, key):
                return False
            if asked.dry_run:
                return True
            accepted, record = self._records(row, asked.dataset)
            document = {
                "schema_version": 1,
                "id": str(row.run_id),
                "run_id": str(row.run_id),
                "dataset": asked.dataset,
                "status": record.status.value,
                "accepted": accepted.model_dump(mode="json", exclude_none=True),
                "record": record.model_dump(mode="json", exclude_none=True),
            }
            created = await store.create(
                Layer.LEDGER,
                key,
                json.dumps(document, indent=1).encode(),
                metadata={META_RUN_ID: str(row.run_id)},
                content_type=JSON,
            )
            if created is not None:
                await self._workshop.publish(accepted)
                await self._workshop.publish(record)
            return created is not None

    def _records(self, row: Listed, dataset: str) -> tuple[AuditRecord, AuditRecord]:
        told, now = row.told(), utc_now()
        at = min(max((row.at or now).astimezone(UTC), EARLIEST), now)
        parameters = {"file": told["nombre_archivo"], "imported": told}
        accepted = accepted_record(
            run_id=row.run_id, dataset=dataset, at=at, host=self._workshop.host, parameters=parameters
        )
        record = AuditRecord(
            event_id=event_id(Kind.OUTCOME, STAGE, "", str(row.run_id)),
            kind=Kind.OUTCOME,
            status=Status.IMPORTED,
            run_id=row.run_id,
            stage=STAGE,
            variant=self._ingestor.variant,
            dataset=dataset,
            parameters=parameters,
            started=now,
            finished=now,
            host=self._workshop.host,
        )
        return accepted, record


def _taken(fate: Fate, record: AuditRecord) -> Taken:
    same_as = record.parameters.get("same_as")
    return Taken(
        fate=fate,
        run_id=record.run_id,
        objects=[o.uri for o in record.outputs if o.rows is not None],
        rows_in=record.rows_in,
        rows_raw=record.rows_out,
        rejected=dict(record.rejected),
        same_as=UUID(same_as) if same_as else None,
    )


def _rejected(foreign: Foreign, rejected: RejectedInput) -> Taken:
    whole = rejected if isinstance(rejected, NoRows) else None
    return Taken(
        fate=Fate.REJECTED,
        run_id=foreign.run_id,
        rows_in=whole.rows_in if whole else 0,
        rejected=dict(whole.rejected) if whole else {},
        rule=rejected.rule,
        reason=rejected.reason,
    )


def import_router(importer: Importer, *, max_upload_bytes: int) -> APIRouter:
    """`/imports`: what `acequia import` asks."""
    router = APIRouter(tags=["import"])

    @router.put(
        "/imports/files/{name}",
        responses=problem_responses(413, 422, 503),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def import_file(
        request: Request,
        name: Annotated[str, InPath(description="The file's name", min_length=1, max_length=1024)],
        uri: Annotated[str, Query(description="Where it lies: s3://bucket/key or file:///path", max_length=4096)],
        at: Annotated[AwareDatetime, Query(description="When it was ingested")],
        dataset: str,
        etag: Annotated[str, Query(description="Its etag there; left out: the MD5 of its bytes")] = "",
        listed: Annotated[str | None, Query(description="What the predecessor's table says of it: JSON")] = None,
        dry_run: bool = False,
    ) -> Taken:
        """Take over a file that a predecessor ingested. It starts no run: its content waits in RAW for a replay."""
        if not uri.startswith(("s3://", "file://")):
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "bad uri", f"{uri} is neither s3:// nor file://.")
        try:
            row = Listed.model_validate_json(listed) if listed else None
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "bad row", f"`listed`: {problems}") from error
        foreign = Foreign(name, uri, etag, dataset, at, row)
        return await importer.take_over(bounded(request.stream(), max_upload_bytes), foreign, dry_run=dry_run)

    @router.post("/imports/rows", responses=problem_responses(413, 422, 503))
    async def import_rows(asked: Rows) -> RowsTaken:
        """Take over what a predecessor's table says of files that are no longer there."""
        return await importer.take_over_rows(asked)

    @router.post("/imports/known", responses=problem_responses(413, 422, 503))
    async def known(asked: Versions) -> Known:
        """Which objects were taken over already."""
        return Known(known=await importer.known(asked.objects))

    return router
