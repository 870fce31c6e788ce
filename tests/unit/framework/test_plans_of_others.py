"""A planner goes by what it knows and looks again only where that was not enough: others are met all the same."""

import asyncio
import json
from typing import Any

import pytest

from acequia.batches import BatchRunner, Plan
from acequia.errors import TransientFailure
from acequia.layers import Layer
from acequia.runner import Workshop

from .conftest import keys
from .test_plans import QUEUE, covered, open_plan, plans, put_silver, running, stem, trainer, until


async def test_an_object_that_another_process_has_planned_since_gets_no_second_plan(workshop: Workshop) -> None:
    runner = BatchRunner(trainer(), workshop, stale_after=0.3, renew_every=0.1, retry_pause=0.01, poll=0.05)
    await runner.start()
    await open_plan(workshop, state=None)
    subscription = await workshop.bus.consume(QUEUE, runner.handle, concurrency=100)
    life = asyncio.create_task(runner.run(subscription))
    await put_silver(workshop, stem(2))
    await until(lambda: _models(workshop, 2))
    await runner.finish(life, 5)
    await subscription.close(grace=1)
    assert set(covered(await plans(workshop)).values()) == {1}


async def test_a_plan_that_another_process_began_as_soon_as_it_was_made_is_left_to_it(
    workshop: Workshop, monkeypatch: Any
) -> None:
    announce = BatchRunner._announce

    async def quicker(runner: BatchRunner, plan: Plan) -> None:
        key = f"plans/trainer/network_events/{plan.number:06d}.start-1.json"
        body = json.dumps({"state": "running"}).encode()
        await workshop.store.create(Layer.LEDGER, key, body, metadata={}, content_type="application/json")
        await announce(runner, plan)

    monkeypatch.setattr(BatchRunner, "_announce", quicker)
    async with running(workshop, trainer(), stale_after=1.5):
        await put_silver(workshop, stem(1))
        await until(lambda: plans(workshop))
        await asyncio.sleep(0.7)
        assert await keys(workshop, Layer.MODELS) == []
        await until(lambda: _models(workshop, 1))
    starts = [key for key in await keys(workshop, Layer.LEDGER, "plans/") if ".start-" in key]
    assert len(starts) == 2


async def test_a_plan_is_worked_off_though_the_store_failed_when_asked_whether_it_has_ended(
    workshop: Workshop, monkeypatch: Any
) -> None:
    await open_plan(workshop, state=None)
    head, failed = workshop.store.head, []

    async def fails_once(layer: Layer, key: str) -> Any:
        if layer is Layer.MODELS and not failed:
            failed.append(key)
            raise TransientFailure("no answer", dependency="minio")
        return await head(layer, key)

    monkeypatch.setattr(workshop.store, "head", fails_once)
    runner = BatchRunner(trainer(), workshop, poll=0.05)
    with pytest.raises(TransientFailure):
        await runner.start()
    await runner.start()  # as a service does it that could not start
    subscription = await workshop.bus.consume(QUEUE, runner.handle, concurrency=100)
    life = asyncio.create_task(runner.run(subscription))
    await until(lambda: _models(workshop, 1))
    await runner.finish(life, 5)
    await subscription.close(grace=1)


async def _models(workshop: Workshop, count: int) -> bool:
    return len(await keys(workshop, Layer.MODELS)) == count
