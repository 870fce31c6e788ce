"""A workshop over the embedded adapters, and what may lie in it."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.batches import Plan
from acequia.datasets import Registry, load_registry
from acequia.events import IngestionCommand, ObjectCreated, SourceRequest, parse_notification
from acequia.layers import Buckets, Layer, Stem, command_key, data_key, landing_done_id, plan_key, stage_key
from acequia.ports import Delivery, ObjectInfo, Retry, Settlement
from acequia.runner import Workshop
from acequia.stage import Candidate
from acequia.topology import topology
from harness.queues import taken_from

BUCKETS = Buckets("test")
TABLE = topology(BUCKETS, (3600,))
DATASET = "network_events"
VARIANT = "v1-3fa9c1"
AT = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)
PLAN = Stem(DATASET, AT, plan=1)


@pytest.fixture
def variants() -> Sequence[str]:
    """Those of each stage that LEDGER knows. A file with others says so in a fixture of this name."""
    return ()


@pytest.fixture
def heard() -> bool:
    """Whether the store tells the bus of what is put. Where it tells nobody, every event is lost."""
    return False


@pytest.fixture
def registry() -> Registry:
    """One reader of SILVER: the trainer. test_two_readers_of_silver.py has both."""
    known = load_registry()
    readers = known[DATASET].readers - {"lakehouse"}
    return Registry({**known, DATASET: replace(known[DATASET], readers=readers)})


@pytest.fixture
async def workshop(tmp_path: Path, variants: Sequence[str], heard: bool, registry: Registry) -> AsyncIterator[Workshop]:
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    store = await DirectoryStore.open(tmp_path / "store", BUCKETS, bus if heard else None)
    await bus.apply(TABLE)
    await store.apply(TABLE)
    workshop = Workshop(store, bus, BUCKETS, registry)
    if variants:
        for stage in ("transformer", "trainer", "evaluator", "lakehouse"):
            await write(workshop, Layer.LEDGER, stage_key(stage), {"variants": [*variants]})
    yield workshop
    await bus.close()
    await store.close()


async def put(workshop: Workshop, layer: Layer, key: str, data: bytes = b"rows", **metadata: str) -> ObjectInfo:
    named = {k.replace("_", "-"): v for k, v in metadata.items()}
    return await workshop.store.put(layer, key, data, metadata=named, content_type="x/y")


async def write(workshop: Workshop, layer: Layer, key: str, document: Mapping[str, Any]) -> ObjectInfo:
    return await put(workshop, layer, key, json.dumps(document).encode())


async def write_plan(
    workshop: Workshop,
    made: Stem,
    took: Mapping[Stem, str],
    *,
    settled_before: date | None = None,
    stage: str = "trainer",
) -> None:
    """`took`: the stems that the plan covers, each with the variant of it that it takes."""
    settled_before = settled_before or made.at.date()
    inputs = tuple(Candidate(data_key(s, v), "x", str(s), v, 4, 1, None, None, None) for s, v in took.items())
    assert made.plan is not None
    plan = Plan(stage, made.dataset, made.plan, made, made.at, uuid4(), (), inputs, settled_before, 1, {})
    await write(workshop, Layer.LEDGER, plan_key(stage, made.dataset, made.plan), plan.document())


async def write_command(workshop: Workshop, run_id: UUID, *, accepted_at: datetime = AT) -> None:
    source = SourceRequest.model_validate({"kind": "synthetic", "rows": 10})
    command = IngestionCommand(run_id=run_id, dataset=DATASET, source=source, accepted_at=accepted_at, fingerprint="x")
    await put(workshop, Layer.LEDGER, command_key(run_id), command.model_dump_json().encode())


def stem(number: int = 1, at: datetime = AT) -> Stem:
    return Stem(DATASET, at, f"{number:016x}", 1)


def landed(info: ObjectInfo) -> UUID:
    """What a file in LANDING is done under."""
    return landing_done_id(BUCKETS.of(Layer.LANDING), info.key, info.etag)


async def taken(workshop: Workshop, queue: str) -> list[Delivery]:
    """All that lies in the queue, acknowledged."""
    return await taken_from(workshop.bus, queue)


async def climb(workshop: Workshop, queue: str) -> None:
    """The message in the queue is refused and waits on the ladder."""

    async def refuse(delivery: Delivery) -> Settlement:
        return Retry("later")

    subscription = await workshop.bus.consume(queue, refuse, concurrency=1)
    while not await workshop.bus.depth(TABLE.queue(queue).retry_queue(3600)):
        pass
    await subscription.close(grace=5)


def event_of(delivery: Delivery) -> ObjectCreated:
    event = parse_notification(delivery.message.body, BUCKETS)
    assert isinstance(event, ObjectCreated)
    return event
