"""All services in one process, over the embedded or the real servers; killed at a step, and started again.

Runs in a child of a fork server that has imported everything already.
"""

import asyncio
import hashlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from acequia.adapters.minio import MinioStore
from acequia.adapters.rabbit import RabbitBus
from acequia.app import House, make_app
from acequia.datasets import load_registry
from acequia.layers import Buckets, Layer
from acequia.ports import ObjectStore
from acequia.runner import At, Workshop, keep_going
from acequia.settings import MinioSettings, PostgresSettings, RabbitSettings
from acequia.topology import topology
from acequia_auditor.database import Database
from acequia_cli.embedded import Embedded, all_services
from acequia_ingestor.api import AuditorClient, keyed_run_id
from acequia_lakehouse.catalog import Place as LakePlace

KEY = "the-one-request"
DATA_LAYERS = (Layer.RAW, Layer.SILVER)
LAYERS = (Layer.LANDING, *DATA_LAYERS, Layer.LAKE, Layer.MODELS, Layer.EVAL, Layer.QUARANTINE, Layer.LEDGER)


@dataclass(frozen=True)
class Place:
    """Where the house stands: a folder, or the real servers with names of the test's own."""

    folder: Path
    minio: MinioSettings | None = None
    rabbit: RabbitSettings | None = None
    postgres: PostgresSettings | None = None
    prefix: str = ""


@asynccontextmanager
async def open_house(place: Place, at: At) -> AsyncIterator[tuple[httpx.AsyncClient, Workshop]]:
    if place.minio is None or place.rabbit is None or place.postgres is None:
        async with Embedded(place.folder, at=at) as embedded, embedded.client() as client:
            assert embedded._house.workshop is not None
            yield client, embedded._house.workshop
        return
    buckets = Buckets(place.prefix)
    store, bus = await MinioStore.open(place.minio, buckets), await RabbitBus.connect(place.rabbit)
    table = topology(buckets)
    await bus.apply(table)
    await store.apply(table)
    app, house = make_app("test"), House("test")
    house.add_routes(app)
    workshop = Workshop(store, bus, buckets, load_registry(), at=at)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test", timeout=60)
    lake = LakePlace.on_server(place.minio, buckets)
    with patch.dict(os.environ, ACEQUIA_LAKEHOUSE_CATALOG_URI=_catalog_uri(place.postgres)):
        services = all_services(workshop, Database(place.postgres), AuditorClient(client), table, lake, concurrency=2)
    async with client:
        await house.open(app, workshop, services)
        try:
            yield client, workshop
        finally:
            await house.close(10)


def _catalog_uri(postgres: PostgresSettings) -> str:
    password = postgres.password.get_secret_value()
    return f"postgresql+psycopg://{postgres.user}:{password}@{postgres.host}:{postgres.port}/{postgres.database}"


def kill_at(step: str) -> At:
    def at(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


def live(place: Place, step: str | None, upload: Path | None, request: dict[str, Any] | None, result: Path) -> None:
    """Ingest what there is, wait for the run's end and tell of it in `result`; die at `step`."""
    logging.basicConfig(level="WARNING")
    asyncio.run(_live(place, step, upload, request, result))


async def _live(
    place: Place, step: str | None, upload: Path | None, request: dict[str, Any] | None, result: Path
) -> None:
    async with open_house(place, kill_at(step) if step else keep_going) as (client, workshop):
        headers = {"Idempotency-Key": KEY}
        if upload is not None:
            answer = await client.put(
                f"/ingestions/files/{upload.name}?dataset=network_events", content=upload.read_bytes(), headers=headers
            )
            assert answer.status_code == 202, answer.text
        if request is not None:
            answer = await client.post("/ingestions", json=request, headers=headers)
            assert answer.status_code == 202, answer.text
        page: dict[str, Any] = {}
        for _ in range(600):
            page = (await client.get(f"/ingestions/{keyed_run_id(KEY)}")).json()
            if page.get("finished"):
                break
            await asyncio.sleep(0.1)
        tables = (await client.get("/lake/tables")).json()["tables"]
        document = {"page": page, "objects": await _objects(workshop.store, place.folder), "tables": tables}
        result.write_text(json.dumps(document))


async def _objects(store: ObjectStore, folder: Path) -> dict[str, dict[str, str]]:
    """Key -> sha256 of what lies in each layer."""
    found: dict[str, dict[str, str]] = {}
    for layer in LAYERS:
        found[layer.value] = {}
        async for info in store.list_objects(layer):
            path = folder / "read"
            await store.get(layer, info.key, path)
            found[layer.value][info.key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
