"""Many-to-one work over a long life: stops that end, memory that stays, clocks that jump, plans that others left."""

import asyncio
import json
import time
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from acequia import batches
from acequia.batches import BatchRunner, Plan, Plans
from acequia.errors import TransientFailure
from acequia.events import Status
from acequia.layers import Layer, Stem
from acequia.ports import Ack
from acequia.runner import Workshop
from acequia.stage import Candidate

from .conftest import keys, records
from .test_plans import (
    QUEUE,
    covered,
    open_plan,
    plans,
    put_silver,
    running,
    stem,
    train,
    trainer,
    until,
)

NOW = datetime.now(UTC).replace(microsecond=0)


def plan_of(number: int, stems: list[Stem], *, settled_before: date, plans_from: int) -> Plan:
    candidates = tuple(Candidate(f"{s}.parquet", "e", str(s), "v1-000000", 4, 1, None, None, None) for s in stems)
    return Plan(
        stage="trainer",
        dataset="network_events",
        number=number,
        stem=Stem("network_events", NOW, plan=number),
        created_at=NOW,
        run_id=uuid4(),
        parents=(),
        inputs=candidates,
        settled_before=settled_before,
        plans_from=plans_from,
        more={"window": [asdict(c) for c in candidates]},
    )


async def test_a_stop_ends_though_the_store_went_away_in_the_middle_of_a_training(workshop: Workshop) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(*_: Any) -> Any:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.5)
        raise AssertionError("nobody waits for it")

    await put_silver(workshop, stem(1))
    runner = BatchRunner(trainer(slow), workshop, poll=0.05)
    await runner.start()
    subscription = await workshop.bus.consume(QUEUE, runner.handle, concurrency=10)
    life = asyncio.create_task(runner.run(subscription))
    await asyncio.wait_for(begun.wait(), 30)

    async def away(*_: Any, **__: Any) -> Any:
        raise TransientFailure("no answer", dependency="minio", away=True)

    replace, workshop.store.replace = workshop.store.replace, away  # type: ignore[method-assign]
    try:
        await asyncio.wait_for(runner.finish(life, 0.1), 10)
    finally:
        workshop.store.replace = replace  # type: ignore[method-assign]
    assert life.cancelled()
    await subscription.close(grace=1)


async def test_a_stop_that_comes_as_a_plan_ends_is_heard(workshop: Workshop) -> None:
    """The cancel meets the runner just while it puts its renewing to rest."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(*given: Any) -> Any:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.3)
        return train(*given)

    await put_silver(workshop, stem(1))
    runner = BatchRunner(trainer(slow), workshop, poll=0.05)
    await runner.start()
    subscription = await workshop.bus.consume(QUEUE, runner.handle, concurrency=10)
    life = asyncio.create_task(runner.run(subscription))
    await asyncio.wait_for(begun.wait(), 30)
    await runner._idle.wait()
    life.cancel()
    await asyncio.wait({life}, timeout=5)
    assert life.cancelled()
    await subscription.close(grace=1)


async def test_the_memory_of_plans_does_not_grow_with_the_plans(workshop: Workshop) -> None:
    known = Plans(workshop, "trainer", "network_events")
    long_ago = NOW - timedelta(days=60)
    for number in range(1, 21):
        at = long_ago + timedelta(days=number)
        plan = plan_of(
            number, [stem(number, at)], settled_before=(at - timedelta(days=3)).date(), plans_from=max(1, number - 3)
        )
        assert await known.create(plan)
    assert set(known.known) == {17, 18, 19, 20}
    assert await known.covers(stem(20, long_ago + timedelta(days=20)))
    assert await known.covers(stem(2, long_ago + timedelta(days=2)))
    assert not await known.covers(stem(99, long_ago + timedelta(days=2)))
    at = long_ago + timedelta(days=21)
    assert await known.create(plan_of(21, [stem(21, at)], settled_before=at.date(), plans_from=18))
    assert set(known.known) == {18, 19, 20, 21}
    assert await known.covers(stem(1, long_ago + timedelta(days=1)))


async def test_a_clock_that_goes_back_covers_no_object_twice(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one plan said to be settled stays so: the plans below are looked up, however late it seems to be."""
    old = NOW - timedelta(days=10)
    again = await put_silver(workshop, stem(1, old))
    async with running(workshop, trainer()):
        await until(lambda: keys(workshop, Layer.MODELS))
    await put_silver(workshop, stem(2))
    async with running(workshop, trainer()):
        await until(lambda: _plans(workshop, 2))
    monkeypatch.setattr(batches, "utc_now", lambda: NOW - timedelta(days=20))
    await put_silver(workshop, stem(3, NOW + timedelta(seconds=1)))
    async with running(workshop, trainer()):
        await until(lambda: _plans(workshop, 3))
    monkeypatch.undo()
    async with running(workshop, trainer()) as runner:
        assert await runner.handle(again) == Ack()
    assert max(covered(await plans(workshop)).values()) == 1


async def _plans(workshop: Workshop, count: int) -> bool:
    return len(await plans(workshop)) >= count


async def test_a_plan_that_another_process_left_for_good_is_found_though_nothing_new_comes(workshop: Workshop) -> None:
    async with running(workshop, trainer(), look_every=0.1):
        await asyncio.sleep(0.2)
        start = await open_plan(workshop, state="running")
        assert start
        await until(lambda: keys(workshop, Layer.MODELS))
    assert len(await plans(workshop)) == 1


async def test_the_plan_is_told_to_the_audit_though_its_maker_died_before_it_could(workshop: Workshop) -> None:
    await open_plan(workshop, state=None)
    async with running(workshop, trainer()):
        await until(lambda: keys(workshop, Layer.MODELS))
    assert {r.status for r in await records(workshop, 2)} == {Status.PLANNED, Status.SUCCESS}


async def test_a_plan_is_told_once_by_who_makes_it_and_works_it_off(workshop: Workshop) -> None:
    await put_silver(workshop, stem(1))
    async with running(workshop, trainer(train)):
        await until(lambda: keys(workshop, Layer.MODELS))
    assert json.dumps([r.status for r in await records(workshop, 2)]) == '["PLANNED", "SUCCESS"]'


async def test_an_outage_of_the_bus_however_long_does_not_use_up_the_starts_of_a_plan(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_STARTS", 3)
    bus, publish, tried = workshop.bus, workshop.bus.publish, 0

    async def away(exchange: str, routing_key: str, message: Any) -> None:
        nonlocal tried
        tried += 1
        if tried <= 8:
            raise TransientFailure("the bus is away", dependency="bus", away=True)
        await publish(exchange, routing_key, message)

    await put_silver(workshop, stem(1))
    monkeypatch.setattr(bus, "publish", away)
    async with running(workshop, trainer(), poll=0.001):
        await until(lambda: keys(workshop, Layer.MODELS))
    assert tried > 8
    assert await keys(workshop, Layer.LEDGER, "dead/") == []


async def test_a_plan_whose_starts_were_cut_off_again_and_again_is_dead(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_STARTS", 3)
    first = await open_plan(workshop, state="running")
    for number in (2, 3):
        key = first.replace("start-1", f"start-{number}")
        await workshop.store.put(
            Layer.LEDGER, key, b'{"state": "running"}', metadata={}, content_type="application/json"
        )
    async with running(workshop, trainer(), stale_after=0.2):
        await until(lambda: workshop.bus.depth("acequia.trainer.dead"))
    assert await keys(workshop, Layer.MODELS) == []
