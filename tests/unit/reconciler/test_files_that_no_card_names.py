"""What the loser of a race left beside a model's card goes after a day; what the card names stays."""

from datetime import timedelta

import pytest

from acequia.layers import Layer
from acequia.runner import Workshop
from acequia_reconciler import sweep
from acequia_reconciler.sweep import Sweeper

from .conftest import TABLE, put

FOLDER = "network_events/date=2025-12-20/network_events_20251220_121209_plan_000001.v1-3fa9c1"


async def put_file(workshop: Workshop, name: str, data: bytes) -> None:
    await put(workshop, Layer.MODELS, f"{FOLDER}/{name}", data)


async def models(workshop: Workshop) -> list[str]:
    return [info.key.rpartition("/")[2] async for info in workshop.store.list_objects(Layer.MODELS)]


@pytest.fixture
def everything_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "UNNAMED_AGE", timedelta(seconds=-10))


@pytest.mark.usefixtures("everything_is_old")
async def test_a_model_that_the_card_does_not_name_is_removed(workshop: Workshop) -> None:
    await put_file(workshop, "model-winner.skops", b"1")
    await put_file(workshop, "model-loser.skops", b"2")
    await put_file(workshop, "model.json", f'{{"artifact": {{"key": "{FOLDER}/model-winner.skops"}}}}'.encode())
    dry = await Sweeper(workshop, TABLE).sweep(grace=0, dry_run=True)
    assert [uri.rpartition("/")[2] for uri in dry.removed] == ["model-loser.skops"]
    assert len(await models(workshop)) == 3
    await Sweeper(workshop, TABLE).sweep(grace=0)
    assert await models(workshop) == ["model-winner.skops", "model.json"]


@pytest.mark.usefixtures("everything_is_old")
async def test_models_without_a_card_stay_for_the_training_may_still_commit(workshop: Workshop) -> None:
    await put_file(workshop, "model-one.skops", b"1")
    await put_file(workshop, "model-two.skops", b"2")
    await Sweeper(workshop, TABLE).sweep(grace=0)
    assert len(await models(workshop)) == 2


async def test_a_young_file_stays(workshop: Workshop) -> None:
    await put_file(workshop, "model-winner.skops", b"1")
    await put_file(workshop, "model-loser.skops", b"2")
    await put_file(workshop, "model.json", f'{{"artifact": {{"key": "{FOLDER}/model-winner.skops"}}}}'.encode())
    await Sweeper(workshop, TABLE).sweep(grace=0)
    assert len(await models(workshop)) == 3
