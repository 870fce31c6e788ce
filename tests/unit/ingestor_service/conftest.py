"""The ingestor over the embedded adapters: its handler, its HTTP API, and what it published."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from acequia.acceptance import COMMAND
from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.app import make_app
from acequia.datasets import load_registry
from acequia.events import AuditRecord, IngestionCommand, ObjectCreated, SourceRequest, to_notification
from acequia.layers import Buckets, Layer, command_key
from acequia.ports import Delivery, Message, ObjectInfo
from acequia.runner import Workshop
from acequia.topology import AUDIT_QUEUE, topology
from acequia_ingestor.api import Acceptance, ingestion_router
from acequia_ingestor.formats import load_formats
from acequia_ingestor.ingest import Ingestor
from acequia_ingestor.settings import IngestorSettings
from harness.queues import taken_from

BUCKETS = Buckets("test")
QUEUE = "acequia.ingestor"
ROWS_PER_PART = 4
AT = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)
Pages = Callable[[UUID], Any]


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    store = await DirectoryStore.open(tmp_path / "store", BUCKETS, bus)
    table = topology(BUCKETS, (1,))
    await bus.apply(table)
    await store.apply(table)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    yield Workshop(store, bus, BUCKETS, load_registry(), temp_dir=temporary)
    assert list(temporary.iterdir()) == [], "temporary folders were left behind"
    await bus.close()
    await store.close()


@pytest.fixture
async def ingestor(workshop: Workshop) -> Ingestor:
    made = Ingestor(workshop, IngestorSettings(rows_per_part=ROWS_PER_PART), load_formats())
    await made.start()
    return made


class Auditor:
    """What the auditor would answer, which here knows what it is told to know."""

    def __init__(self) -> None:
        self.pages: dict[UUID, Mapping[str, Any]] = {}
        self.wrong: Exception | None = None

    async def __call__(self, run_id: UUID) -> Mapping[str, Any] | None:
        if self.wrong is not None:
            raise self.wrong
        return self.pages.get(run_id)


@pytest.fixture
def auditor() -> Auditor:
    return Auditor()


@pytest.fixture
async def client(workshop: Workshop, auditor: Auditor) -> AsyncIterator[httpx.AsyncClient]:
    settings = IngestorSettings(rows_per_part=ROWS_PER_PART, max_rows=1000, max_upload_bytes=10_000)
    app = make_app("test", max_body_bytes=2000)
    app.include_router(ingestion_router(Acceptance(workshop, settings, load_formats(), auditor)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as made:
        yield made


def rows(count: int, start: int = 0, bad: int = 0) -> bytes:
    """A canonical CSV file of `count` rows; the last `bad` of them can't be read."""
    lines = ["timestamp,src_ip,dst_ip,bytes,duration,protocol"]
    lines += [f"2025-12-20T12:00:{n % 60:02d}Z,10.0.0.1,10.0.0.2,{start + n},1.5,tcp" for n in range(count - bad)]
    lines += ["2025-12-20T12:00:00Z,10.0.0.1,10.0.0.2,many,1.5,tcp"] * bad
    return ("\n".join(lines) + "\n").encode()


async def land(workshop: Workshop, key: str, data: bytes, **metadata: str) -> Delivery:
    """A file in LANDING and the delivery of its event."""
    named = {name.replace("_", "-"): value for name, value in metadata.items()}
    info = await workshop.store.put(Layer.LANDING, key, data, metadata=named, content_type="text/csv")
    return delivery_of(info, named)


def delivery_of(info: ObjectInfo, metadata: Mapping[str, str] | None = None, **changed: Any) -> Delivery:
    event = ObjectCreated(
        layer=info.layer,
        bucket=BUCKETS.of(info.layer),
        key=info.key,
        etag=info.etag,
        size=info.bytes,
        metadata=metadata or {},
    ).model_copy(update=changed)
    return Delivery(QUEUE, Message(to_notification(event)))


async def order(workshop: Workshop, run_id: UUID, **more: Any) -> Delivery:
    """A stored command and its delivery."""
    told: dict[str, Any] = {
        "run_id": run_id,
        "dataset": "network_events",
        "source": SourceRequest.model_validate({"kind": "synthetic", "rows": 10}),
        "accepted_at": AT,
        "fingerprint": "x",
        "rows_per_part": ROWS_PER_PART,
    }
    body = IngestionCommand(**(told | more)).model_dump_json().encode()
    await workshop.store.put(Layer.LEDGER, command_key(run_id), body, metadata={}, content_type="application/json")
    return Delivery(QUEUE, Message(body, type=COMMAND, message_id=str(run_id)))


async def told(workshop: Workshop) -> list[AuditRecord]:
    """Every audit record that was published since the last time."""
    return [AuditRecord.model_validate_json(d.message.body) for d in await taken(workshop, AUDIT_QUEUE)]


async def taken(workshop: Workshop, queue: str) -> list[Delivery]:
    return await taken_from(workshop.bus, queue)


async def keys(workshop: Workshop, layer: Layer, prefix: str = "") -> list[str]:
    return [info.key async for info in workshop.store.list_objects(layer, prefix)]


async def document(workshop: Workshop, layer: Layer, key: str) -> dict[str, Any]:
    found = await workshop.store.read(layer, key)
    assert found is not None
    parsed: dict[str, Any] = json.loads(found[0])
    return parsed
