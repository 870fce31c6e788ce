"""A stage leaves alone what was taken over from elsewhere, until it is replayed."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from acequia.events import META_HELD, ObjectCreated, to_notification
from acequia.layers import Layer, Stem, data_key, done_key, held_key, landing_done_id
from acequia.ports import Ack, Delivery, Message
from acequia.runner import PARQUET, StageRunner, Workshop

from .conftest import keys, records, stage

STEM = Stem("network_events", datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC), "9f2c4e1a7b3d5e60", 1)


@pytest.fixture
async def runner(workshop: Workshop) -> StageRunner:
    made = StageRunner(stage(), workshop)
    await made.start()
    return made


async def put(workshop: Workshop, key: str, metadata: Mapping[str, str], *, told: bool = True) -> Delivery:
    """An object of RAW and its event; not `told`: the event of a store that says nothing of metadata."""
    info = await workshop.store.put(Layer.RAW, key, b"abc", metadata=metadata, content_type=PARQUET)
    event = ObjectCreated(
        layer=Layer.RAW,
        bucket=workshop.buckets.of(Layer.RAW),
        key=key,
        etag=info.etag,
        size=info.bytes,
        metadata=metadata if told else {},
    )
    return Delivery("acequia.transformer", Message(to_notification(event)))


async def hold(workshop: Workshop) -> None:
    key = held_key(Layer.RAW, STEM)
    await workshop.store.put(Layer.LEDGER, key, b"{}", metadata={}, content_type="application/json")


def ignored(runner: StageRunner) -> float | None:
    labels = {"stage": runner.stage.name, "reason": "held"}
    return runner.workshop.meters.registry.get_sample_value("acequia_ignored_total", labels)


@pytest.mark.parametrize("told", [True, False])
async def test_what_is_held_back_is_acknowledged_counted_and_left_alone(
    runner: StageRunner, workshop: Workshop, told: bool
) -> None:
    await hold(workshop)
    delivery = await put(workshop, data_key(STEM), {META_HELD: "import"}, told=told)
    assert await runner.handle(delivery) == Ack()
    assert (await keys(workshop, Layer.SILVER), await keys(workshop, Layer.QUARANTINE)) == ([], [])
    assert ignored(runner) == 1


async def test_once_its_mark_is_gone_it_is_worked_on(runner: StageRunner, workshop: Workshop) -> None:
    await hold(workshop)
    delivery = await put(workshop, data_key(STEM), {META_HELD: "import"})
    await runner.handle(delivery)
    await workshop.store.remove(Layer.LEDGER, held_key(Layer.RAW, STEM))
    assert await runner.handle(delivery) == Ack()
    assert len(await keys(workshop, Layer.SILVER)) == 1
    assert len(await records(workshop, 1)) == 1


async def test_a_mark_holds_back_only_what_says_that_it_may_be(runner: StageRunner, workshop: Workshop) -> None:
    """So that nothing else pays for asking."""
    await hold(workshop)
    assert await runner.handle(await put(workshop, data_key(STEM), {"acequia-rows": "3"})) == Ack()
    assert len(await keys(workshop, Layer.SILVER)) == 1


async def test_an_object_of_theirs_whose_content_was_taken_over_is_not_rejected(
    runner: StageRunner, workshop: Workshop
) -> None:
    theirs = "network_events_20251220_121209.parquet"
    delivery = await put(workshop, theirs, {})
    info = await workshop.store.head(Layer.RAW, theirs)
    assert info is not None
    done = done_key(landing_done_id(workshop.buckets.of(Layer.RAW), theirs, info.etag))
    await workshop.store.put(Layer.LEDGER, done, b"{}", metadata={}, content_type="application/json")
    assert await runner.handle(delivery) == Ack()
    assert await keys(workshop, Layer.QUARANTINE) == []
    await workshop.store.remove(Layer.LEDGER, done)
    assert await runner.handle(delivery) == Ack()
    assert len(await keys(workshop, Layer.QUARANTINE)) == 1
