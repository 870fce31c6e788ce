#!/usr/bin/env python3
"""What it costs to look for what was lost: a sweep and `verify` over many objects, beside the bare listings.

    .venv/bin/python bench/sweep.py                               10,000 and 1,000,000 objects a layer, on a listing
                                                                  that is made up as it is read; no server is needed
    deploy/native/stack.py run -- .venv/bin/python bench/sweep.py --minio 100000
                                                                  so many objects in a MinIO of its own

`bare` lists each layer that a sweep compares, and does nothing else. `full` is a sweep over everything, as it is made
once a day; `marked` is the next one, from the low-water marks on, as the timer makes it; `verify` opens the documents
too, to see that every output is there. `sweep / bare` is the ratio to look at: seconds do not travel from one machine
to another. Memory is the growth of the process's peak, without what the made-up listing itself holds.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from acequia.adapters.minio import MinioStore
from acequia.batches import Plan
from acequia.datasets import load_registry
from acequia.layers import (
    Buckets,
    Layer,
    Stem,
    data_key,
    done_key,
    folder_key,
    landing_done_id,
    plan_key,
    stage_key,
)
from acequia.ports import Message, ObjectInfo, ObjectStore
from acequia.runner import Workshop
from acequia.settings import MinioSettings, load
from acequia.topology import Topology, topology
from acequia_reconciler.sweep import Sweeper
from acequia_reconciler.verify import verify

DATASET = "network_events"
VARIANT = "v1-3fa9c1"
DAYS = 30
PER_PLAN = 1000
PUTS = 64
"""Objects that are put at once."""
LISTED = (Layer.LANDING, Layer.RAW, Layer.SILVER, Layer.MODELS, Layer.EVAL, Layer.QUARANTINE, Layer.LEDGER)


class MadeUpStore:
    """As much of a store as the reconciler needs, holding `objects` in each layer, of which `lost` have no SILVER.

    The listings are made up as they are read: RAW and SILVER have `objects` keys in 30 dates, a plan covers 1,000 of
    them, each plan has its model and its evaluation, and LANDING has `landing` files, all ingested.
    """

    def __init__(self, objects: int, *, landing: int = 0, lost: int = 0) -> None:
        self.buckets = Buckets("bench")
        self.objects = objects
        self.landing = landing
        self.lost = frozenset(range(objects - lost, objects))
        self.plans = -(-objects // PER_PLAN)
        self.begin = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS + 2)
        self._step = DAYS * 86_400 / max(objects, 1)
        ids = sorted(self._done_id(n).bytes for n in range(landing))
        self._done = b"".join(ids)
        self._written: dict[tuple[Layer, str], bytes] = {
            (Layer.LEDGER, stage_key(stage)): json.dumps({"variants": [VARIANT]}).encode()
            for stage in ("transformer", "trainer", "evaluator")
        }

    def stem(self, number: int) -> Stem:
        return Stem(DATASET, self.begin + timedelta(seconds=int(number * self._step)), f"{number:016x}", 1)

    def plan_stem(self, number: int) -> Stem:
        """Of the plan `number`, from 1 on."""
        last = min(number * PER_PLAN, self.objects) - 1
        return Stem(DATASET, self.begin + timedelta(seconds=int(last * self._step) + 60), plan=number)

    def plan(self, number: int) -> bytes:
        """Its document."""
        made, common = self.plan_stem(number), {"etag": "etag", "variant": VARIANT, "bytes": 1, "rows": 1}
        none = {"time_min": None, "time_max": None, "run_id": None}
        stems = [self.stem(n) for n in range((number - 1) * PER_PLAN, min(number * PER_PLAN, self.objects))]
        plan = Plan(
            stage="trainer",
            dataset=DATASET,
            number=number,
            stem=made,
            created_at=made.at,
            run_id=UUID(int=number),
            parents=(),
            inputs=(),
            settled_before=made.date - timedelta(days=2),
            plans_from=max(1, number - 3 * self.plans // DAYS),
            more={},
        )
        inputs = [{"key": data_key(s, VARIANT), "stem": str(s), **common, **none} for s in stems]
        return json.dumps(plan.document() | {"inputs": inputs}).encode()

    def column(self, layer: Layer, prefix: str = "") -> tuple[int, Callable[[int], str]]:
        """How many keys there are, and each of them, in order."""
        match layer:
            case Layer.LANDING:
                return self.landing, lambda n: f"{DATASET}/{n:08d}.csv"
            case Layer.RAW:
                return self.objects, lambda n: data_key(self.stem(n))
            case Layer.SILVER:
                return self.objects, lambda n: data_key(self.stem(n), VARIANT)
            case Layer.MODELS:
                files = ("model-0.skops", "model.json")
                return 2 * self.plans, lambda n: folder_key(self.plan_stem(n // 2 + 1), VARIANT, files[n % 2])
            case Layer.EVAL:
                reports = ("evaluation.json", "report.html")
                return 2 * self.plans, lambda n: folder_key(self.plan_stem(n // 2 + 1), VARIANT, reports[n % 2])
            case Layer.LEDGER if prefix.startswith("plans/"):
                return self.plans, lambda n: plan_key("trainer", DATASET, n + 1)
            case Layer.LEDGER if prefix in ("", "done/"):
                return self.landing, lambda n: done_key(UUID(bytes=self._done[16 * n : 16 * n + 16]))
            case _:
                return 0, lambda n: ""

    async def list_objects(self, layer: Layer, prefix: str = "", *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        count, key_of = self.column(layer, prefix)
        numbers = range(count)
        first = bisect_right(numbers, start_after, key=key_of) if start_after > prefix else -1
        if first < 0:
            first = bisect_left(numbers, prefix, key=key_of)
        for number in range(first, count):
            if layer is Layer.SILVER and number in self.lost:
                continue
            if not (key := key_of(number)).startswith(prefix):
                return
            yield self._info(layer, key)

    async def list_folders(self, layer: Layer, prefix: str = "") -> list[str]:
        return [f"{DATASET}/"] if self.column(layer)[0] else []

    async def head(self, layer: Layer, key: str) -> ObjectInfo | None:
        if (layer, key) in self._written or layer in (Layer.LANDING, Layer.RAW):
            return self._info(layer, key)
        return None  # asked for what is lost only

    async def read(self, layer: Layer, key: str) -> tuple[bytes, ObjectInfo] | None:
        body = self._written.get((layer, key)) or self._document(layer, key)
        return (body, self._info(layer, key)) if body else None

    async def put(
        self, layer: Layer, key: str, data: bytes, *, metadata: Mapping[str, str], content_type: str
    ) -> ObjectInfo:
        self._written[layer, key] = data
        return self._info(layer, key)

    def _document(self, layer: Layer, key: str) -> bytes | None:
        file = key.rpartition("/")[2].removesuffix(".json")
        if key.startswith("plans/") and 0 < int(file) <= self.plans:
            return self.plan(int(file))
        if key.startswith("done/"):
            return json.dumps({"dataset": DATASET, "status": "SUCCESS", "record": {"outputs": []}}).encode()
        if layer is Layer.MODELS:
            return json.dumps({"artifact": {"key": key.replace("model.json", "model-0.skops")}}).encode()
        return None

    def _done_id(self, number: int) -> UUID:
        return landing_done_id(self.buckets.of(Layer.LANDING), self.column(Layer.LANDING)[1](number), "etag")

    def _info(self, layer: Layer, key: str) -> ObjectInfo:
        return ObjectInfo(layer, key, self.buckets.uri(layer, key), "etag", 1, self.begin)


class NoBus:
    """Takes every message and keeps none."""

    sent = 0

    async def publish(self, exchange: str, routing_key: str, message: Message) -> None:
        self.sent += 1

    async def depth(self, queue: str) -> int:
        return 0


async def bare(store: Any) -> int:
    """Keys of all that a sweep compares, listed and forgotten."""
    count = 0
    for layer in LISTED:
        async for _ in store.list_objects(layer):
            count += 1
    return count


async def clocked(act: Awaitable[Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = await act
    return time.perf_counter() - began, result


def peak() -> float:
    """MiB that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def prove(workshop: Workshop, table: Topology) -> Mapping[str, Any]:
    result: Mapping[str, Any] = {}
    async for document in verify(workshop, table, grace=0):
        result = document.get("result", result)
    return result


async def measure(store: Any, buckets: Buckets, *, lost: int) -> dict[str, float]:
    """Seconds of each look, how much it was, and MiB that it took. AssertionError where what was lost is not found."""
    table, bus = topology(buckets), NoBus()
    workshop = Workshop(store, bus, buckets, load_registry())  # type: ignore[arg-type]
    sweeper = Sweeper(workshop, table, rate=1e6)
    numbers: dict[str, float] = {}
    numbers["bare"], keys = await clocked(bare(store))
    before = peak()
    numbers["full"], full = await clocked(sweeper.sweep(grace=0, at_once=True, dry_run=False))
    numbers["sweep_mib"] = peak() - before
    numbers["objects"], numbers["keys"] = sum(full.seen.values()), keys
    assert len(full.orphans) == lost == bus.sent, (len(full.orphans), lost)
    numbers["marked"], marked = await clocked(sweeper.sweep(grace=0, dry_run=True, full=False))
    numbers["marked_objects"] = sum(marked.seen.values())
    numbers["verify"], proof = await clocked(prove(workshop, table))
    numbers["verify_mib"] = peak() - before
    assert sum(line["orphans"] for line in proof["sums"]) == lost
    return numbers


def table_of(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The figures, a line each."""
    columns = ("objects", "sweep/bare", "objects/s", "marked/full", "verify/bare", "sweep", "verify")
    head = f"{'':20}" + "".join(f"{column:>13}" for column in columns)
    lines = [head]
    for name, n in rows.items():
        cells = (
            f"{n['objects']:,.0f}",
            f"{n['full'] / n['bare']:.2f}",
            f"{n['objects'] / n['full']:,.0f}",
            f"{n['marked'] / n['full']:.4f}",
            f"{n['verify'] / n['bare']:.2f}",
            f"{n['sweep_mib']:.0f} MiB",
            f"{n['verify_mib']:.0f} MiB",
        )
        lines.append(f"{name:20}" + "".join(f"{cell:>13}" for cell in cells))
    return "\n".join(lines)


async def on_minio(objects: int) -> dict[str, float]:
    """The same on a real MinIO, in buckets of its own that tell nobody."""
    buckets = Buckets(f"bench-sweep-{uuid4().hex[:8]}")
    made_up = MadeUpStore(objects, lost=100)
    async with await MinioStore.open(load(MinioSettings), buckets) as store:
        await store.apply(replace(topology(buckets), notifications=()))
        began = time.perf_counter()
        await fill(store, made_up)
        say(f"{objects:,} objects a layer were put in {time.perf_counter() - began:.0f} s")
        return await measure(store, buckets, lost=len(made_up.lost))


async def fill(store: ObjectStore, made_up: MadeUpStore) -> None:
    slots = asyncio.Semaphore(PUTS)

    async def put(layer: Layer, key: str) -> None:
        found = await made_up.read(layer, key)
        async with slots:
            await store.put(layer, key, found[0] if found else b"x", metadata={}, content_type="x/y")

    for layer in (Layer.RAW, Layer.SILVER, Layer.MODELS, Layer.EVAL):
        batch: list[Awaitable[None]] = []
        async for info in made_up.list_objects(layer):
            batch.append(put(layer, info.key))
            if len(batch) == PUTS:
                await asyncio.gather(*batch)
                batch.clear()
        await asyncio.gather(*batch)
    for stage in ("transformer", "trainer", "evaluator"):
        await put(Layer.LEDGER, stage_key(stage))
    for number in range(made_up.plans):
        await put(Layer.LEDGER, plan_key("trainer", DATASET, number + 1))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def in_a_process(objects: int) -> dict[str, float]:
    """One size in a process of its own, so that its memory is its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--made-up", str(objects), "--json"], check=True, capture_output=True, text=True
    )
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench/sweep.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--made-up", type=int, metavar="N", help="one size of the made-up listing")
    parser.add_argument("--minio", type=int, metavar="N", help="so many objects in MinIO (MINIO_* say where)")
    parser.add_argument("--json", action="store_true", help="the numbers as JSON")
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    if options.minio:
        if not os.environ.get("MINIO_ENDPOINT"):
            say("MINIO_ENDPOINT is not set: `deploy/native/stack.py run -- ...` brings up a server and runs this on it")
            return 2
        rows[f"MinIO, {options.minio:,}"] = asyncio.run(on_minio(options.minio))
    elif options.made_up:
        store = MadeUpStore(options.made_up, landing=options.made_up // 10, lost=100)
        rows["made up"] = asyncio.run(measure(store, store.buckets, lost=len(store.lost)))
        if options.json:
            print(json.dumps(rows["made up"]))
            return 0
    else:
        for objects in (10_000, 1_000_000):
            rows[f"made up, {objects:,}"] = in_a_process(objects)
    print(json.dumps(rows, indent=1) if options.json else table_of(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
