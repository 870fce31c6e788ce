"""Sweep, verify and replay over MinIO's listings and RabbitMQ's queues. No service runs: what is put stays lost."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from acequia.adapters.minio import MinioStore
from acequia.adapters.rabbit import RabbitBus
from acequia.datasets import load_registry
from acequia.events import utc_now
from acequia.layers import Buckets, Layer, Stem, data_key, dead_key, folder_key, manifest_key, stage_key
from acequia.runner import Workshop
from acequia.topology import replay_queue, topology
from acequia_reconciler.replay import Replay, replay
from acequia_reconciler.sweep import Sweeper
from acequia_reconciler.verify import verify

OLD, NEW = "v1-000000", "v2-3fa9c1"
DATASET = "network_events"
AT = utc_now().replace(microsecond=0) - timedelta(days=1)


@pytest.fixture
async def workshop(
    stack: Any, fresh_prefix: str, clean_queues: Callable[[Sequence[int]], Awaitable[None]]
) -> AsyncIterator[Workshop]:
    buckets = Buckets(fresh_prefix)
    table = topology(buckets)
    bus = await RabbitBus.connect(stack.rabbit)
    store = await MinioStore.open(stack.minio, buckets)
    await bus.apply(table)
    await store.apply(replace(table, notifications=()))
    workshop = Workshop(store, bus, buckets, load_registry())
    for stage in ("transformer", "trainer", "evaluator"):
        await put(workshop, Layer.LEDGER, stage_key(stage), json.dumps({"variants": [OLD, NEW]}).encode())
    yield workshop
    await bus.close()
    await store.close()


async def put(workshop: Workshop, layer: Layer, key: str, data: bytes = b"rows") -> None:
    await workshop.store.put(layer, key, data, metadata={}, content_type="x/y")


def stem(number: int, part: int = 1) -> Stem:
    return Stem(DATASET, AT + timedelta(hours=number), f"{number:016x}", part)


async def lines(workshop: Workshop, **asked: Any) -> tuple[dict[str, Any], list[str]]:
    """By reader what is not 0; keys of the orphans."""
    documents = [d async for d in verify(workshop, topology(workshop.buckets), grace=0, **asked)]
    counts = {
        line["reader"]: {k: n for k, n in line.items() if n and k not in ("layer", "dataset", "reader", "objects")}
        for line in documents[-1]["result"]["sums"]
    }
    return counts, [d["orphan"]["uri"].partition("/date=")[2][11:] for d in documents if "orphan" in d]


async def depth(workshop: Workshop, queue: str, expected: int) -> bool:
    """The broker counts a little later."""
    for _ in range(100):
        if await workshop.bus.depth(queue) == expected:
            return True
        await asyncio.sleep(0.1)
    return False


async def test_what_was_lost_is_named_sent_to_its_reader_and_then_in_flight(workshop: Workshop) -> None:
    parts = [stem(0, part) for part in (1, 2, 9999, 10000)] + [stem(number) for number in range(1, 5)]
    for each in parts:
        await put(workshop, Layer.RAW, data_key(each))
    await put(workshop, Layer.SILVER, data_key(parts[1], OLD))
    await put(workshop, Layer.SILVER, data_key(parts[3], NEW))
    await put(workshop, Layer.QUARANTINE, manifest_key("transformer", parts[5], OLD), b"{}")
    await put(workshop, Layer.LEDGER, dead_key("transformer", str(parts[6]), NEW), b"{}")
    await put(workshop, Layer.RAW, "_doctor/canary.parquet")
    lost = [parts[0], parts[2], parts[4], parts[7]]
    counts, orphans = await lines(workshop)
    assert counts["transformer"] == {"done": 2, "quarantined": 1, "dead": 1, "orphans": 4}
    assert set(orphans) >= {f"{each}.parquet" for each in lost}
    assert counts["trainer"] == counts["lakehouse"] == {"orphans": 2}
    sweeper = Sweeper(workshop, topology(workshop.buckets))
    assert (await sweeper.sweep(grace=0)).sent == 8
    assert await depth(workshop, "acequia.transformer", 4)
    assert await depth(workshop, "acequia.trainer", 2)
    assert await depth(workshop, "acequia.lakehouse", 2)
    counts, orphans = await lines(workshop)
    assert counts["transformer"] == {"done": 2, "quarantined": 1, "dead": 1, "in_flight": 4}
    assert orphans == []
    assert (await sweeper.sweep(grace=0)).sent == 0


async def test_the_next_sweep_begins_at_the_marks(workshop: Workshop) -> None:
    for number in range(3):
        await put(workshop, Layer.RAW, data_key(stem(number)))
        await put(workshop, Layer.SILVER, data_key(stem(number), NEW))
    sweeper = Sweeper(workshop, topology(workshop.buckets))
    assert (await sweeper.sweep(grace=0, full=True)).seen["transformer"] == 3
    await put(workshop, Layer.RAW, data_key(recent := Stem(DATASET, utc_now().replace(microsecond=0), "f" * 16, 1)))
    second = await Sweeper(workshop, topology(workshop.buckets)).sweep(grace=0, full=False, dry_run=True)
    assert second.seen["transformer"] == 1
    assert data_key(recent) in [orphan.info.key for orphan in second.orphans]
    # SILVER waits for its plan, and holds its mark
    assert second.seen["trainer"] == 3


async def test_a_replay_goes_to_the_queue_that_waits_for_live_work(workshop: Workshop) -> None:
    for number in range(3):
        await put(workshop, Layer.RAW, data_key(stem(number)))
    await put(workshop, Layer.SILVER, data_key(stem(0), OLD))
    await put(workshop, Layer.SILVER, data_key(stem(1), NEW))
    asked = Replay(layer="raw", dataset=DATASET, stale=True)
    documents = [d async for d in replay(workshop, topology(workshop.buckets), asked)]
    assert documents[-1] == {"result": {"seen": 3, "matched": 2, "sent": 2, "dead": 0}}
    assert await depth(workshop, replay_queue("transformer"), 2)
    assert await workshop.bus.depth("acequia.transformer") == 0


async def test_an_evaluation_without_its_report_is_told(workshop: Workshop) -> None:
    plan = Stem(DATASET, AT, plan=1)
    await put(workshop, Layer.MODELS, folder_key(plan, NEW, "model.json"), b"{}")
    await put(workshop, Layer.EVAL, folder_key(plan, NEW, "evaluation.json"))
    counts, _ = await lines(workshop)
    assert counts["evaluator"] == {"orphans": 1}
    await put(workshop, Layer.EVAL, folder_key(plan, NEW, "report.html"))
    counts, _ = await lines(workshop)
    assert counts["evaluator"] == {"done": 1}
