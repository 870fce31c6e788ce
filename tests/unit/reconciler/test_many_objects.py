"""The fates add up whatever lies there; memory does not grow with the number of objects."""

import asyncio
import gc
import importlib.util
import json
import random
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from acequia.batches import Plan
from acequia.datasets import load_registry
from acequia.layers import (
    Layer,
    Stem,
    data_key,
    dead_key,
    done_key,
    folder_key,
    landing_done_id,
    manifest_key,
    plan_key,
)
from acequia.runner import Workshop
from acequia.stage import Candidate
from acequia.topology import topology
from acequia_reconciler.ids import Ids, digest
from acequia_reconciler.sweep import Sweeper
from acequia_reconciler.verify import verify

from .conftest import BUCKETS, DATASET, TABLE, put

VARIANTS = ("v1-000000", "v1-ffffff", "v10-abcdef")
BENCH = Path(__file__).resolve().parents[3] / "bench"
Put = Callable[[Layer, str, bytes], Any]


@pytest.fixture
def variants() -> Sequence[str]:
    return VARIANTS


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """bench/sweep.py, for its store whose listings are made up as they are read."""
    spec = importlib.util.spec_from_file_location("bench_sweep", BENCH / "sweep.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Population:
    """Objects with fates that are drawn, and what is expected of them."""

    def __init__(self, seed: int, put: Put) -> None:
        self.random = random.Random(seed)
        self.put = put
        self.expected: dict[str, Counter[str]] = {
            reader: Counter() for reader in ("transformer", "trainer", "evaluator", "ingestor")
        }
        self.orphans: set[str] = set()

    def stem(self) -> Stem:
        """Few dates, times and ids, so that they meet."""
        draw = self.random
        at = datetime(2025, 12, 20, 23, 59, draw.randrange(60), tzinfo=UTC) + timedelta(days=draw.randrange(3))
        return Stem(DATASET, at, f"{draw.randrange(3):016x}", draw.choice((1, 2, 9999, 10000)))

    async def settle(self, stage: str, stem: Stem, commit: Callable[[str], list[tuple[Layer, str]]]) -> str:
        """Some of the outcomes that the stem may have at the stage; the first of them in the order of fates."""
        draw, variant = self.random, self.random.choice(VARIANTS)
        fates = [fate for fate in ("done", "quarantined", "dead") if draw.random() < 0.3]
        for fate in fates:
            match fate:
                case "done":
                    for layer, key in commit(variant):
                        await self.put(layer, key, b"{}")
                case "quarantined":
                    await self.put(Layer.QUARANTINE, manifest_key(stage, stem, variant), b"{}")
                case _:
                    await self.put(Layer.LEDGER, dead_key(stage, str(stem), draw.choice((variant, None))), b"{}")
        return fates[0] if fates else "orphans"

    def count(self, reader: str, fate: str, layer: Layer, key: str) -> None:
        self.expected[reader][fate] += 1
        if fate == "orphans":
            self.orphans.add(BUCKETS.uri(layer, key))

    async def raw(self, stem: Stem) -> None:
        """Its SILVER objects are commit objects of it, and nobody else's."""
        await self.put(Layer.RAW, data_key(stem), b"r")

        def commit(variant: str) -> list[tuple[Layer, str]]:
            self.silver[data_key(stem, variant)] = stem
            return [(Layer.SILVER, data_key(stem, variant))]

        fate = await self.settle("transformer", stem, commit)
        self.count("transformer", fate, Layer.RAW, data_key(stem))

    async def fill(self) -> None:
        self.silver: dict[str, Stem] = {}
        for text in sorted({str(self.stem()) for _ in range(40)}):
            stem = Stem.parse(text)
            assert stem is not None
            await self.raw(stem)
        await self.plan_all()
        for number in range(12):
            await self.landed(f"{number}.csv")

    async def plan_all(self) -> None:
        """Each SILVER stem in some plans; the best end counts. Each model is evaluated, or not."""
        ends: dict[str, list[str]] = {str(stem): [] for stem in self.silver.values()}
        for number in range(1, 6):
            covered = sorted(text for text in ends if self.random.random() < 0.25)
            if not covered:
                covered = sorted(ends)[:1]
            at = datetime(2025, 12, 24, number, tzinfo=UTC)
            made = Stem(DATASET, at, plan=number)
            inputs = tuple(Candidate(f"{s}", "x", s, VARIANTS[0], 1, 1, None, None, None) for s in covered)
            plan = Plan("trainer", DATASET, number, made, at, UUID(int=number), (), inputs, at.date(), 1, {})
            await self.put(Layer.LEDGER, plan_key("trainer", DATASET, number), json.dumps(plan.document()).encode())
            cards: list[str] = []

            def commit(variant: str, made: Stem = made, cards: list[str] = cards) -> list[tuple[Layer, str]]:
                cards.append(folder_key(made, variant, "model.json"))
                return [(Layer.MODELS, cards[0])]

            end = await self.settle("trainer", made, commit)
            for text in covered:
                ends[text].append("in_flight" if end == "orphans" else end)
            for card in cards:
                whole = lambda v, made=made: [(Layer.EVAL, folder_key(made, v, f)) for f in _FILES]  # noqa: E731
                self.count("evaluator", await self.settle("evaluator", made, whole), Layer.MODELS, card)
        order = ("done", "quarantined", "in_flight", "dead")
        for key, stem in self.silver.items():
            best = min(ends[str(stem)], key=order.index, default="orphans")
            self.count("trainer", best, Layer.SILVER, key)

    async def landed(self, key: str) -> None:
        info = await self.put(Layer.LANDING, key, key.encode())
        id = landing_done_id(BUCKETS.of(Layer.LANDING), key, info.etag)
        fate = self.random.choice(("done", "quarantined", "dead", "orphans"))
        if fate == "dead":
            await self.put(Layer.LEDGER, dead_key("ingestor", str(id)), b"{}")
        elif fate != "orphans":
            status = "SUCCESS" if fate == "done" else "REJECTED"
            document = {"dataset": DATASET, "status": status, "record": {"outputs": []}}
            await self.put(Layer.LEDGER, done_key(id), json.dumps(document).encode())
        self.count("ingestor", fate, Layer.LANDING, key)


_FILES = ("report.html", "evaluation.json")


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_lies_there_the_fates_add_up_and_the_orphans_are_those_that_were_lost(
    seed: int, workshop: Workshop
) -> None:
    population = Population(seed, partial(put, workshop))
    await population.fill()
    documents = [document async for document in verify(workshop, TABLE, grace=0)]
    found: dict[str, Counter[str]] = {reader: Counter() for reader in population.expected}
    for line in documents[-1]["result"]["sums"]:
        fates = {k: v for k, v in line.items() if k not in ("layer", "dataset", "reader", "objects") and v}
        assert sum(fates.values()) == line["objects"]
        if line["reader"] == "lakehouse":
            assert set(fates) == {"not_applicable"}
            continue
        found[line["reader"]].update(fates)
    assert found == population.expected
    assert {d["orphan"]["uri"] for d in documents if "orphan" in d} == population.orphans
    swept = await Sweeper(workshop, TABLE).sweep(grace=0, dry_run=True)
    assert {orphan.uri for orphan in swept.orphans} == population.orphans


def test_what_the_tests_draw_is_not_all_alike() -> None:
    """The populations hold every fate."""

    class Stored:
        etag = "x"

    async def put(layer: Layer, key: str, data: bytes) -> Any:
        return Stored()

    total: Counter[str] = Counter()
    for seed in range(4):
        population = Population(seed, put)
        asyncio.run(population.fill())
        for fates in population.expected.values():
            total += fates
    assert {"done", "quarantined", "dead", "in_flight", "orphans"} <= {fate for fate, n in total.items() if n > 5}


@pytest.mark.parametrize("look", ["sweep", "verify"])
async def test_ten_times_the_objects_take_no_more_memory(
    bench: ModuleType, look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PER_PLAN", 50)
    peaks: list[int] = []
    for objects in (1000, 1000, 10_000):  # the first warms up
        store = bench.MadeUpStore(objects, lost=10)
        workshop = Workshop(store, bench.NoBus(), store.buckets, load_registry())
        table = topology(store.buckets)
        gc.collect()
        tracemalloc.start()
        if look == "sweep":
            assert len((await Sweeper(workshop, table, rate=1e6).sweep(grace=0, at_once=True)).orphans) == 10
        else:
            assert not (await bench.prove(workshop, table))["ok"]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.7 * peaks[1], peaks


async def test_what_is_made_up_is_what_a_store_would_tell(bench: ModuleType) -> None:
    store = bench.MadeUpStore(2500, landing=20, lost=10)
    for layer in bench.LISTED:
        keys = [info.key async for info in store.list_objects(layer)]
        assert keys == sorted(keys)
        for after in keys[::97]:
            assert [i.key async for i in store.list_objects(layer, start_after=after)] == keys[keys.index(after) + 1 :]
    silver = [info.key async for info in store.list_objects(Layer.SILVER, f"{DATASET}/date=")]
    assert len(silver) == 2490


def test_ids_are_found_in_whatever_order_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acequia_reconciler.ids._RUN", 7)
    draw, ids, expected = random.Random(3), Ids(), dict[bytes, set[int]]()
    for number in range(500):
        id, meaning = digest(str(draw.randrange(200))), draw.randrange(3)
        ids.add(id, meaning)
        expected.setdefault(id, set()).add(meaning)
        if number % 100 == 50:
            assert id in ids
    assert len(ids) == 500
    for text in map(str, range(300)):
        assert ids.meanings(digest(text)) == sorted(expected.get(digest(text), ()))
