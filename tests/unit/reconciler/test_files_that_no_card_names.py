"""What the loser of a race left beside a model's card goes after a day; what the card names stays."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.datasets import load_registry
from acequia.layers import Buckets, Layer
from acequia.runner import Workshop
from acequia.topology import topology
from acequia_reconciler import sweep
from acequia_reconciler.sweep import Sweeper

FOLDER = "network_events/date=2025-12-20/network_events_20251220_121209_plan_000001.v1-3fa9c1"
TABLE = topology(Buckets("test"))


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    store = await DirectoryStore.open(tmp_path / "store", TABLE.buckets, bus)
    await bus.apply(TABLE)
    await store.apply(TABLE)
    yield Workshop(store, bus, TABLE.buckets, load_registry())
    await bus.close()
    await store.close()


async def put(workshop: Workshop, name: str, data: bytes) -> None:
    await workshop.store.put(Layer.MODELS, f"{FOLDER}/{name}", data, metadata={}, content_type="x/y")


async def models(workshop: Workshop) -> list[str]:
    return [info.key.rpartition("/")[2] async for info in workshop.store.list_objects(Layer.MODELS)]


@pytest.fixture
def everything_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "UNNAMED_AGE", timedelta(seconds=-10))


@pytest.mark.usefixtures("everything_is_old")
async def test_a_model_that_the_card_does_not_name_is_removed(workshop: Workshop) -> None:
    await put(workshop, "model-winner.skops", b"1")
    await put(workshop, "model-loser.skops", b"2")
    await put(workshop, "model.json", f'{{"artifact": {{"key": "{FOLDER}/model-winner.skops"}}}}'.encode())
    dry = await Sweeper(workshop, TABLE).sweep(grace=0, dry_run=True)
    assert [uri.rpartition("/")[2] for uri in dry.removed] == ["model-loser.skops"]
    assert len(await models(workshop)) == 3
    await Sweeper(workshop, TABLE).sweep(grace=0)
    assert await models(workshop) == ["model-winner.skops", "model.json"]


@pytest.mark.usefixtures("everything_is_old")
async def test_models_without_a_card_stay_for_the_training_may_still_commit(workshop: Workshop) -> None:
    await put(workshop, "model-one.skops", b"1")
    await put(workshop, "model-two.skops", b"2")
    await Sweeper(workshop, TABLE).sweep(grace=0)
    assert len(await models(workshop)) == 2


async def test_a_young_file_stays(workshop: Workshop) -> None:
    await put(workshop, "model-winner.skops", b"1")
    await put(workshop, "model-loser.skops", b"2")
    await put(workshop, "model.json", f'{{"artifact": {{"key": "{FOLDER}/model-winner.skops"}}}}'.encode())
    await Sweeper(workshop, TABLE).sweep(grace=0)
    assert len(await models(workshop)) == 3
