"""A workshop over the embedded adapters, and stages that do little."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.datasets import load_registry
from acequia.events import AuditRecord, ObjectCreated, to_notification
from acequia.layers import Buckets, Layer, Stem, data_key
from acequia.ports import Ack, Delivery, Message, Settlement
from acequia.runner import PARQUET, Workshop
from acequia.stage import Stage
from acequia.topology import AUDIT_QUEUE, topology
from acequia.work import Outcome, Work

BUCKETS = Buckets("test")


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    store = await DirectoryStore.open(tmp_path / "store", BUCKETS, bus)
    table = topology(BUCKETS, (1,))
    await bus.apply(table)
    await store.apply(table)
    yield Workshop(store, bus, BUCKETS, load_registry(), temp_dir=tmp_path)
    await bus.close()
    await store.close()


def copy_rows(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
    """Three rows in, two out, one duplicate."""
    target = out / "rows.parquet"
    target.write_bytes(inputs[0].read_bytes())
    return Outcome(output=target, rows_in=3, rows_out=2, rows_duplicate=1)


def stage(version: str = "1", process: object = copy_rows) -> Stage:
    return Stage("transformer", version, Layer.RAW, Layer.SILVER, process)  # type: ignore[arg-type]


async def put_raw(workshop: Workshop, stem: Stem, data: bytes = b"rows", **metadata: str) -> Delivery:
    """A RAW object and the delivery of its event."""
    info = await workshop.store.put(
        Layer.RAW, data_key(stem), data, metadata={"acequia-rows": "3", **metadata}, content_type=PARQUET
    )
    return delivery_of(info.key, info.etag, len(data), {"acequia-rows": "3", **metadata})


def delivery_of(
    key: str, etag: str, size: int, metadata: dict[str, str] | None = None, layer: Layer = Layer.RAW, **headers: str
) -> Delivery:
    event = ObjectCreated(layer=layer, bucket=BUCKETS.of(layer), key=key, etag=etag, size=size, metadata=metadata or {})
    return Delivery("acequia.transformer", Message(to_notification(event), headers=headers))


async def records(workshop: Workshop, expect: int) -> list[AuditRecord]:
    """The audit records that were published; exactly `expect` of them."""
    import asyncio

    found: list[AuditRecord] = []
    enough = asyncio.Event()

    async def take(delivery: Delivery) -> Settlement:
        found.append(AuditRecord.model_validate_json(delivery.message.body))
        if len(found) >= expect:
            enough.set()
        return Ack()

    subscription = await workshop.bus.consume(AUDIT_QUEUE, take, concurrency=10)
    if expect:
        await asyncio.wait_for(enough.wait(), 30)
    await subscription.close(grace=1)
    assert await workshop.bus.depth(AUDIT_QUEUE) == 0
    assert len(found) == expect, found
    return found


async def keys(workshop: Workshop, layer: Layer, prefix: str = "") -> list[str]:
    return [info.key async for info in workshop.store.list_objects(layer, prefix)]


async def document(workshop: Workshop, layer: Layer, key: str) -> dict[str, object]:
    found = await workshop.store.read(layer, key)
    assert found is not None
    parsed: dict[str, object] = json.loads(found[0])
    return parsed
