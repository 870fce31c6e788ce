"""`python -m acequia_ingestor`: the ingestor as a process."""

from collections.abc import Sequence

import httpx

import acequia._early  # noqa: F401
from acequia.app import Service, serve
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, load
from acequia_ingestor.api import AuditorClient
from acequia_ingestor.read_side import read_side_router
from acequia_ingestor.service import build_ingestor
from acequia_ingestor.settings import IngestorSettings


def build(workshop: Workshop, settings: AcequiaSettings) -> Sequence[Service]:
    own = load(IngestorSettings)
    auditor = httpx.AsyncClient(base_url=own.auditor_url, timeout=5.0)
    reconciler = httpx.AsyncClient(base_url=own.reconciler_url, timeout=5.0)
    lakehouse = httpx.AsyncClient(base_url=own.lakehouse_url, timeout=5.0)
    read_run, routers = AuditorClient(auditor), (read_side_router(auditor, reconciler, lakehouse),)
    return (build_ingestor(workshop, own, read_run, concurrency=settings.concurrency, routers=routers),)


if __name__ == "__main__":
    serve("ingestor", build, IngestorSettings)
