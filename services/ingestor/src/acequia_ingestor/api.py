"""The ingestor over HTTP: what is accepted is durable before it is answered."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Union
from uuid import UUID, uuid4, uuid5

import httpx
from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from acequia.acceptance import SEVERAL, accepted_record, carried_out, fingerprint, take_on
from acequia.app import Problem, problem_responses
from acequia.datasets import Dataset
from acequia.errors import RejectedInput, TransientFailure
from acequia.events import (
    META_CSV,
    META_DATASET,
    META_FORMAT,
    META_RUN_ID,
    META_TRACEPARENT,
    IngestionCommand,
    SourceRequest,
    utc_now,
    valid_traceparent,
)
from acequia.layers import NAMESPACE, UNKNOWN_DATASET, Layer, check_key, command_key, done_key
from acequia.ports import ObjectInfo
from acequia.runner import Workshop, sha256_of
from acequia_ingestor.csv_options import as_text, read_csv_options
from acequia_ingestor.formats import Format, formats_of
from acequia_ingestor.settings import IngestorSettings
from acequia_ingestor.sources import AskedFor, load_sources

DETECT = "_detect"
"""First folder of an upload whose dataset is to be detected."""
_EXAMPLE: dict[str, Any] = {
    "dataset": "network_events",
    "source": {"kind": "synthetic", "rows": 10, "seed": 7, "anomaly_rate": 0.02},
}


SOURCES = load_sources()
if TYPE_CHECKING:
    AnySource = AskedFor
else:
    _MODELS = tuple(source.request for source in SOURCES.values())
    AnySource = Annotated[Union[_MODELS], Field(discriminator="kind")] if len(_MODELS) > 1 else _MODELS[0]  # noqa: UP007


class IngestionRequest(BaseModel):
    """What to ingest: a dataset and where its rows come from."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    dataset: Annotated[
        str | None, Field(description="Name of a dataset: GET /datasets lists them. A source may name several itself")
    ] = None
    source: AnySource


class Accepted(BaseModel):
    """The run was taken on; it will be carried out."""

    run_id: UUID
    dataset: str | None
    status: str = "ACCEPTED"
    location: str


class RunReader(Protocol):
    """Asks the auditor what happened to a run."""

    async def __call__(self, run_id: UUID) -> Mapping[str, Any] | None:
        """The run's page, or None where the auditor does not know it. TransientFailure where it does not answer."""
        ...


class AuditorClient:
    """The auditor over HTTP, as a RunReader."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def __call__(self, run_id: UUID) -> Mapping[str, Any] | None:
        try:
            answer = await self._client.get(f"/runs/{run_id}")
        except httpx.HTTPError as error:
            raise TransientFailure(
                f"the auditor does not answer: {error!r}", dependency="auditor", away=True
            ) from error
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        if answer.is_error:
            raise TransientFailure(f"the auditor answered {answer.status_code}", dependency="auditor")
        page: Mapping[str, Any] = answer.json()
        return page

    async def close(self) -> None:
        await self._client.aclose()


def keyed_run_id(idempotency_key: str | None) -> UUID:
    """The run of an Idempotency-Key, always the same; a new one where there is no key."""
    return uuid5(NAMESPACE, f"idempotency\n{idempotency_key}") if idempotency_key else uuid4()


class Acceptance:
    """Takes requests on: stored and confirmed before it returns."""

    def __init__(
        self, workshop: Workshop, settings: IngestorSettings, formats: Mapping[str, Format], read_run: RunReader
    ) -> None:
        self.workshop = workshop
        self.settings = settings
        self.formats = formats
        self.read_run = read_run

    def dataset(self, name: str) -> Dataset:
        if (dataset := self.workshop.registry.get(name)) is None:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "unknown dataset",
                f"No dataset is named {name!r}. There is: {', '.join(self.workshop.registry)}.",
                allowed=list(self.workshop.registry),
            )
        return dataset

    async def command(
        self, request: IngestionRequest, run_id: UUID, traceparent: str | None, *, keyed: bool = True
    ) -> IngestionCommand:
        """Store and publish the command of `request`, once per run; another request under its id is a Problem.

        `keyed`: the run's id is a client's, who may have used it before.
        """
        asked = SourceRequest.model_validate(request.source.model_dump(mode="json"))
        try:
            datasets = SOURCES[asked.kind].datasets(
                request.source, request.dataset, self.workshop.registry, self.settings
            )
        except RejectedInput as rejected:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY, rejected.rule.replace("_", " "), rejected.reason, **rejected.details
            ) from rejected
        command = IngestionCommand(
            run_id=run_id,
            dataset=datasets[0] if len(datasets) == 1 else SEVERAL,
            source=asked,
            accepted_at=utc_now(),
            fingerprint=fingerprint(request.model_dump(mode="json")),
            rows_per_part=self.settings.rows_per_part,
            traceparent=traceparent,
        )

        def same(standing: IngestionCommand) -> None:
            if standing.fingerprint != command.fingerprint:
                raise _reused(run_id)

        if keyed:
            if (standing := await carried_out(self.workshop.store, run_id)) is not None:
                same(standing)
                return standing
            if await self._uploads(run_id):
                raise _reused(run_id)
        # without a key nobody else knows the run, and the client will ask anew
        return await take_on(self.workshop, command, same=same, withdraw=not keyed)

    async def _uploads(self, run_id: UUID) -> list[ObjectInfo]:
        """The files of an upload run: one, or none."""
        return [
            info
            for folder in (*self.workshop.registry, DETECT)
            async for info in self.workshop.store.list_objects(Layer.LANDING, f"{folder}/uploads/{run_id}/")
        ]

    async def _must_be_the_same(
        self, run_id: UUID, key: str, chunks: AsyncIterator[bytes], options: Mapping[str, str]
    ) -> ObjectInfo | None:
        """The file that was uploaded under `run_id` before, if it is this one; a Problem where it is another."""
        store = self.workshop.store
        for used in (command_key(run_id), done_key(run_id)):
            if await store.head(Layer.LEDGER, used):
                raise _reused(run_id)
        if not (before := await self._uploads(run_id)):
            return None
        info = await store.head(Layer.LANDING, key)
        if info is None or any(info.metadata.get(name) != options.get(name) for name in (META_FORMAT, META_CSV)):
            raise _reused(run_id)
        digest, size = hashlib.sha256(), 0
        async for chunk in chunks:
            digest.update(chunk)
            if (size := size + len(chunk)) > info.bytes:
                raise _reused(run_id)
        with self.workshop.folder() as folder:
            await store.get(Layer.LANDING, key, stored := FilePath(folder, "stored"), etag=info.etag)
            if len(before) > 1 or await asyncio.to_thread(sha256_of, stored) != digest.hexdigest():
                raise _reused(run_id)
        return info

    async def upload(
        self,
        name: str,
        chunks: AsyncIterator[bytes],
        *,
        dataset: str | None,
        format: str | None,
        csv: str | None = None,
        run_id: UUID,
        traceparent: str | None,
        keyed: bool = True,
    ) -> None:
        """Stream a file into LANDING with its options in the metadata, once per run; another under its id is a Problem.

        `keyed`: the run's id is a client's, who may have used it before.
        """
        if dataset is not None:
            known = formats_of(self.dataset(dataset), self.formats)
            if format is not None and format not in known:
                raise Problem(
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                    "unknown format",
                    f"{dataset} has no format {format!r}. There is: {', '.join(known)}.",
                    allowed=list(known),
                )
        elif format is not None and format not in self.formats:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "unknown format",
                f"No format is named {format!r}. There is: {', '.join(self.formats)}.",
                allowed=list(self.formats),
            )
        try:
            how = as_text(read_csv_options(csv)) if csv else None
        except RejectedInput as rejected:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY, "bad csv options", rejected.reason, **rejected.details
            ) from rejected
        if how and format is not None and self.formats[format].survey is None:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY, "bad csv options", f"{format} is read in one way: it takes no options."
            )
        key = f"{dataset or DETECT}/uploads/{run_id}/{name}"
        try:
            if "/" in name:
                raise RejectedInput("key", "a file's name has no slash")
            check_key(key)
        except RejectedInput as rejected:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "bad file name", rejected.reason) from rejected
        metadata = {META_RUN_ID: str(run_id)}
        metadata |= {META_DATASET: dataset} if dataset else {}
        metadata |= {META_FORMAT: format} if format else {}
        metadata |= {META_CSV: how} if how else {}
        metadata |= {META_TRACEPARENT: traceparent} if traceparent else {}
        standing = await self._must_be_the_same(run_id, key, chunks, metadata) if keyed else None
        info = standing or await self.workshop.store.upload(
            Layer.LANDING, key, chunks, metadata=metadata, content_type="application/octet-stream"
        )
        await self.workshop.publish(
            accepted_record(
                run_id=run_id,
                dataset=dataset or UNKNOWN_DATASET,
                at=info.last_modified,
                host=self.workshop.host,
                parameters={"file": name},
                traceparent=traceparent,
            )
        )

    async def run(self, run_id: UUID) -> Mapping[str, Any] | None:
        """What happened so far; for a run that the auditor does not know yet, what the store tells of it."""
        if (page := await self.read_run(run_id)) is not None:
            return page
        store = self.workshop.store
        for key in (command_key(run_id), done_key(run_id)):
            if (found := await store.read(Layer.LEDGER, key)) is not None:
                document = json.loads(found[0])
                return _bare_page(run_id, document["dataset"], found[1].last_modified)
        for info in await self._uploads(run_id):
            folder = info.key.partition("/")[0]
            return _bare_page(run_id, UNKNOWN_DATASET if folder == DETECT else folder, info.last_modified)
        return None


def _reused(run_id: UUID) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "idempotency key reused",
        f"This Idempotency-Key was used for another request (run {run_id}). Use a new key.",
    )


def _bare_page(run_id: UUID, dataset: str, at: datetime) -> Mapping[str, Any]:
    return {
        "run_id": str(run_id),
        "dataset": dataset,
        "state": "accepted",
        "finished": False,
        "accepted_at": at.astimezone(UTC).isoformat(),
        "events": [],
    }


async def bounded(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """The body of a request, of so many bytes at most: a Problem (413) where there are more."""
    seen = 0
    async for chunk in chunks:
        seen += len(chunk)
        if seen > most:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large", f"At most {most} bytes are allowed.", allowed=most
            )
        yield chunk


def _declared_too_large(request: Request, most: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too large",
            f"The body has {declared} bytes; at most {most} are allowed.",
            allowed=most,
        )


IdempotencyKey = Annotated[
    str | None,
    Header(max_length=256, description="The same key and body give the same run, once; another body is refused (422)"),
]
Traceparent = Annotated[str | None, Header(description="W3C trace context, carried through to the evaluation")]


def ingestion_router(acceptance: Acceptance) -> APIRouter:
    """`/ingestions`, `/datasets`, `/formats`."""
    router = APIRouter(tags=["ingestion"])
    settings = acceptance.settings

    @router.post(
        "/ingestions",
        status_code=HTTPStatus.ACCEPTED,
        response_model=Accepted,
        responses=problem_responses(413, 422, 503),
    )
    async def ingest(
        asked: IngestionRequest,
        response: Response,
        idempotency_key: IdempotencyKey = None,
        traceparent: Traceparent = None,
    ) -> Accepted:
        """Start a run. 202 means: stored and confirmed, it will be carried out."""
        command = await acceptance.command(
            asked, keyed_run_id(idempotency_key), valid_traceparent(traceparent), keyed=bool(idempotency_key)
        )
        response.headers["Location"] = location = f"/ingestions/{command.run_id}"
        return Accepted(run_id=command.run_id, dataset=command.dataset, location=location)

    @router.put(
        "/ingestions/files/{name}",
        status_code=HTTPStatus.ACCEPTED,
        response_model=Accepted,
        responses=problem_responses(413, 422, 503),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def ingest_file(
        request: Request,
        response: Response,
        name: Annotated[str, Path(description="The file's name; gzip, bzip2 and zstd are unpacked", min_length=1)],
        dataset: Annotated[str | None, Query(description="Dataset; detected if left out")] = None,
        format: Annotated[str | None, Query(description="Format; detected by content if left out")] = None,
        csv: Annotated[
            str | None,
            Query(
                description="How a CSV file that people made is read, where its content is not to tell: "
                "separator=;,decimal=,,dates=dmy,encoding=latin-1,timezone=America/Mexico_City"
            ),
        ] = None,
        idempotency_key: IdempotencyKey = None,
        traceparent: Traceparent = None,
    ) -> Accepted:
        """Stream a file of any size to the landing bucket, which starts a run."""
        _declared_too_large(request, settings.max_upload_bytes)
        run_id = keyed_run_id(idempotency_key)
        await acceptance.upload(
            name,
            bounded(request.stream(), settings.max_upload_bytes),
            dataset=dataset,
            format=format,
            csv=csv,
            run_id=run_id,
            traceparent=valid_traceparent(traceparent),
            keyed=bool(idempotency_key),
        )
        response.headers["Location"] = location = f"/ingestions/{run_id}"
        return Accepted(run_id=run_id, dataset=dataset, location=location)

    @router.get("/ingestions/{run_id}", responses=problem_responses(404, 503))
    async def run(run_id: UUID) -> JSONResponse:
        """What happened so far, per stage."""
        page = await acceptance.run(run_id)
        if page is None:
            raise Problem(HTTPStatus.NOT_FOUND, "unknown run", f"No run has the id {run_id}.")
        return JSONResponse(page)

    @router.get("/datasets")
    async def datasets() -> list[dict[str, Any]]:
        """The datasets: columns, formats, file patterns, readers, the table they are read from, schedules."""
        return [
            {
                "name": d.name,
                "title": d.title,
                "columns": {name: str(dtype) for name, dtype in d.schema.items()},
                "formats": list(formats_of(d, acceptance.formats)),
                "patterns": list(d.patterns),
                "spellings": {name: list(d.spellings[name]) for name in d.schema if name in d.spellings},
                "synthetic": d.synthetic,
                "readers": sorted(d.readers),
                "key": list(d.key),
                "table": {"relation": d.table.relation, "pack": d.table.pack, "cursor": d.table.cursor}
                if d.table
                else None,
                "schedules": [{"name": s.name, "cron": s.cron, "timezone": s.timezone} for s in d.schedules],
            }
            for d in acceptance.workshop.registry.values()
        ]

    @router.get("/formats")
    async def formats() -> list[dict[str, Any]]:
        """The source formats: which datasets each gives, and how it is read."""
        by_dataset = {d.name: formats_of(d, acceptance.formats) for d in acceptance.workshop.registry.values()}
        return [
            {
                "name": f.name,
                "title": f.title,
                "datasets": [dataset for dataset, names in by_dataset.items() if f.name in names],
                "description": f.description,
            }
            for f in acceptance.formats.values()
        ]

    return router
