"""The ingestor composed: its queue's consumer and its HTTP API."""

from collections.abc import Sequence

from fastapi import APIRouter

from acequia.app import ConsumerService, queue_of
from acequia.runner import Workshop
from acequia_ingestor.api import Acceptance, RunReader, ingestion_router
from acequia_ingestor.formats import load_formats
from acequia_ingestor.imports import Importer, import_router
from acequia_ingestor.ingest import STAGE, Ingestor
from acequia_ingestor.settings import IngestorSettings


def build_ingestor(
    workshop: Workshop,
    settings: IngestorSettings,
    read_run: RunReader,
    *,
    concurrency: int,
    routers: Sequence[APIRouter] = (),
) -> ConsumerService:
    """`routers`: what is served beside the ingestor's own routes."""
    formats = load_formats()
    ingestor = Ingestor(workshop, settings, formats)
    router = ingestion_router(Acceptance(workshop, settings, formats, read_run))
    imports = import_router(Importer(ingestor), max_upload_bytes=settings.max_upload_bytes)
    return ConsumerService(
        STAGE,
        workshop,
        queue_of(STAGE),
        ingestor.handle,
        ingestor.start,
        concurrency,
        routers=(router, imports, *routers),
    )
