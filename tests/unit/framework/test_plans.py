"""Many-to-one work: every object is in exactly one plan, and every plan comes to an end."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from acequia.batches import BatchRunner, Plan
from acequia.errors import TransientFailure
from acequia.events import Status
from acequia.layers import Layer, Stem, data_key
from acequia.ports import Ack, Delivery, Settlement
from acequia.runner import HEADER_STALE, PARQUET, Workshop
from acequia.stage import BatchStage, Candidate
from acequia.topology import dead_queue
from acequia.work import Outcome, RejectedWhole, Work

from .conftest import delivery_of, document, keys, records

QUEUE = "acequia.trainer"


def train(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
    return Outcome(document={"trained_on": [i.key for i in work.inputs]}, rows_in=len(inputs))


def keep_window(inputs: Sequence[Candidate], window: Sequence[Candidate]) -> Mapping[str, Any]:
    return {"window": [asdict(c) for c in window]}


def trainer(process: Any = train, **more: Any) -> BatchStage:
    return BatchStage(
        "trainer",
        "1",
        Layer.SILVER,
        Layer.MODELS,
        process,
        "model.json",
        keep_window,
        window_days=7,
        gather_quiet=more.pop("gather_quiet", 0.1),
        **more,
    )


def stem(number: int, at: datetime | None = None) -> Stem:
    return Stem("network_events", at or datetime.now(UTC).replace(microsecond=0), f"{number:016x}", 1)


async def put_silver(workshop: Workshop, which: Stem, variant: str = "v1-000000") -> Delivery:
    """A SILVER object; its event lies in the trainer's queue too."""
    key = data_key(which, variant)
    metadata = {"acequia-rows": "1", "acequia-run-id": f"00000000-0000-0000-0000-{int(which.id, 16):012d}"}
    info = await workshop.store.put(Layer.SILVER, key, b"rows", metadata=metadata, content_type=PARQUET)
    return delivery_of(key, info.etag, 4, metadata, layer=Layer.SILVER)


@asynccontextmanager
async def running(workshop: Workshop, stage: BatchStage, **times: float) -> AsyncIterator[BatchRunner]:
    runner = BatchRunner(
        stage, workshop, **{"stale_after": 0.3, "renew_every": 0.1, "retry_pause": 0.01, "poll": 0.05, **times}
    )
    await runner.start()
    subscription = await workshop.bus.consume(QUEUE, runner.handle, concurrency=100)
    life = asyncio.create_task(runner.run(subscription))
    try:
        yield runner
    finally:
        await runner.finish(life, 5)
        await subscription.close(grace=1)


async def until(ready: Callable[[], Any]) -> None:
    """Wait until the awaited condition holds."""
    for _ in range(600):
        if await ready():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came to that")


async def cards(workshop: Workshop) -> list[dict[str, Any]]:
    return [await document(workshop, Layer.MODELS, k) for k in await keys(workshop, Layer.MODELS)]


async def plans(workshop: Workshop) -> list[dict[str, Any]]:
    found = [k for k in await keys(workshop, Layer.LEDGER, "plans/") if ".start-" not in k]
    return [await document(workshop, Layer.LEDGER, k) for k in found]


def covered(found: Sequence[Mapping[str, Any]]) -> Counter[str]:
    return Counter(c["stem"] for plan in found for c in plan["inputs"])


async def test_a_burst_of_objects_is_one_training_that_covers_them_all(workshop: Workshop) -> None:
    stems = [stem(n) for n in range(30)]
    for each in stems:
        await put_silver(workshop, each)
    async with running(workshop, trainer(gather_quiet=2.0)):
        await until(lambda: keys(workshop, Layer.MODELS))
    assert len(await cards(workshop)) == 1
    assert covered(await plans(workshop)) == Counter(str(s) for s in stems)
    by_status = Counter(r.status for r in await records(workshop, 2))
    assert by_status == {Status.PLANNED: 1, Status.SUCCESS: 1}


async def test_an_object_that_slips_in_before_the_work_begins_is_planned_rather_than_held(workshop: Workshop) -> None:
    """While a plan is made the broker may hand out one more: a long training must not keep it in hand."""
    let_go = threading.Event()

    def train_long(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        assert let_go.wait(30)
        return train(work, inputs, out)

    late: list[asyncio.Task[Settlement]] = []

    def slip_in(step: str) -> None:
        if step == "trainer.after_plan" and not late:
            late.append(asyncio.get_running_loop().create_task(runner.handle(second)))

    await put_silver(workshop, stem(1))
    async with running(replace(workshop, at=slip_in), trainer(train_long)) as runner:
        key = data_key(stem(2), "v1-000000")
        second = delivery_of(key, "etag", 4, {"acequia-rows": "1"}, layer=Layer.SILVER)
        await until(lambda: held(late))
        try:
            assert await asyncio.wait_for(late[0], 10) == Ack()
        finally:
            let_go.set()


async def held(tasks: Sequence[object]) -> bool:
    return bool(tasks)


async def test_a_later_training_reads_what_was_made_anew_in_place_of_what_an_earlier_one_took(
    workshop: Workshop,
) -> None:
    old, new = "v1-000000", "v2-000000"
    stages = json.dumps({"variants": [old, new]}).encode()
    await workshop.store.put(Layer.LEDGER, "stages/transformer.json", stages, metadata={}, content_type="x/y")
    first, second, third = (stem(number) for number in (1, 2, 3))
    for each in (first, second):
        await put_silver(workshop, each)
    async with running(workshop, trainer(gather_quiet=1.0)):
        await until(lambda: keys(workshop, Layer.MODELS))
    await put_silver(workshop, first, new)
    await put_silver(workshop, third, new)
    async with running(workshop, trainer(gather_quiet=1.0)):
        await until(lambda: finished(workshop, 2))
    assert [c["stem"] for c in (await plans(workshop))[1]["inputs"]] == [str(third)]
    (read,) = [card["trained_on"] for card in await cards(workshop) if str(third) in str(card)]
    assert set(read) == {data_key(first, new), data_key(second, old), data_key(third, new)}


async def test_a_plan_takes_the_newest_variant_of_an_object_whichever_event_comes_first(workshop: Workshop) -> None:
    old, new = "v1-000000", "v2-000000"
    stages = json.dumps({"variants": [old, new]}).encode()
    await workshop.store.put(Layer.LEDGER, "stages/transformer.json", stages, metadata={}, content_type="x/y")
    each = stem(1)
    await put_silver(workshop, each, old)
    await put_silver(workshop, each, new)
    async with running(workshop, trainer(gather_quiet=1.0)):
        await until(lambda: keys(workshop, Layer.MODELS))
    assert [c["key"] for plan in await plans(workshop) for c in plan["inputs"]] == [data_key(each, new)]


async def test_a_stale_message_is_one_training_however_often_it_comes(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the plan that it led to could not be told to the audit at first."""
    delivery = await put_silver(workshop, stem(1))
    publish, refused = workshop.bus.publish, 0

    async def full(exchange: str, routing_key: str, message: Any) -> None:
        nonlocal refused
        if "planned" in routing_key and (refused := refused + 1) <= 2:
            raise TransientFailure("it is full", dependency="bus", away=True)
        await publish(exchange, routing_key, message)

    async with running(workshop, trainer()) as runner:
        await until(lambda: finished(workshop, 1))
        asks = replace(delivery.message, headers={HEADER_STALE: datetime.now(UTC).isoformat()})
        again = replace(delivery, message=asks)
        monkeypatch.setattr(workshop.bus, "publish", full)
        assert await runner.handle(again) == Ack()
        await until(lambda: finished(workshop, 2))
        assert await runner.handle(again) == Ack()
        assert await runner.handle(again) == Ack()
    assert len(await plans(workshop)) == 2
    assert refused > 0


async def finished(workshop: Workshop, number: int) -> bool:
    return len(await keys(workshop, Layer.MODELS)) == number


async def test_an_object_that_a_plan_covers_is_acknowledged_and_trained_no_second_time(workshop: Workshop) -> None:
    delivery = await put_silver(workshop, stem(1))
    async with running(workshop, trainer()) as runner:
        await until(lambda: keys(workshop, Layer.MODELS))
        assert await runner.handle(delivery) == Ack()
    async with running(workshop, trainer()) as restarted:
        assert await restarted.handle(delivery) == Ack()
    assert len(await plans(workshop)) == 1


async def test_two_trainers_at_once_cover_each_object_once_and_end_each_plan_once(workshop: Workshop) -> None:
    stems = [stem(n) for n in range(40)]
    async with running(workshop, trainer(gather_quiet=0.01)), running(workshop, trainer(gather_quiet=0.01)):
        for each in stems:
            await put_silver(workshop, each)
            await asyncio.sleep(0.01)
        await until(lambda: _all_covered(workshop, stems))
        await until(lambda: _all_ended(workshop))
    assert covered(await plans(workshop)) == Counter(str(s) for s in stems)
    assert len(await cards(workshop)) == len(await plans(workshop))


async def _all_covered(workshop: Workshop, stems: Sequence[Stem]) -> bool:
    return len(covered(await plans(workshop))) == len(stems)


async def _all_ended(workshop: Workshop) -> bool:
    return len(await plans(workshop)) == len(await cards(workshop))


async def test_a_later_plan_is_shown_the_earlier_ones_objects_as_its_window(workshop: Workshop) -> None:
    async with running(workshop, trainer()):
        await put_silver(workshop, stem(1))
        await until(lambda: keys(workshop, Layer.MODELS))
    async with running(workshop, trainer()):
        await put_silver(workshop, stem(2))
        await until(lambda: _trainings(workshop, 2))
    second = (await plans(workshop))[1]
    assert [c["stem"] for c in second["window"]] == [str(stem(1, stem_time(second["window"][0])))]
    card = next(c for c in await cards(workshop) if len(c["trained_on"]) == 2)
    assert len(card["trained_on"]) == 2


def stem_time(candidate: Mapping[str, Any]) -> datetime:
    parsed = Stem.parse(candidate["stem"])
    assert parsed is not None
    return parsed.at


async def _trainings(workshop: Workshop, count: int) -> bool:
    return len(await keys(workshop, Layer.MODELS)) >= count


async def test_a_plan_that_fails_five_times_is_dead_and_the_next_one_goes_on(workshop: Workshop) -> None:
    failures = []

    def fail_on_first(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        if work.plan["number"] == 1:
            failures.append(1)
            raise ValueError("a bug")
        return train(work, inputs, out)

    letters: list[Delivery] = []

    async def take(delivery: Delivery) -> Settlement:
        letters.append(delivery)
        return Ack()

    subscription = await workshop.bus.consume(dead_queue("trainer"), take, concurrency=1)
    await put_silver(workshop, stem(1))
    async with running(workshop, trainer(fail_on_first)):
        await until(lambda: _there(letters))
        await put_silver(workshop, stem(2))
        await until(lambda: keys(workshop, Layer.MODELS))
    await subscription.close(grace=1)
    assert len(failures) == 5
    letter = json.loads(letters[0].message.body)
    assert (letters[0].message.type, letter["number"]) == ("Plan", 1)
    assert "a bug" in letter["error"]
    assert letter["inputs"] == [workshop.buckets.uri(Layer.SILVER, (await plans(workshop))[0]["inputs"][0]["key"])]


async def _there(letters: Sequence[Delivery]) -> bool:
    return bool(letters)


async def test_a_plan_whose_input_is_no_good_ends_in_quarantine(workshop: Workshop) -> None:
    def refuse(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        raise RejectedWhole("no_rows", "nothing to learn from")

    await put_silver(workshop, stem(1))
    async with running(workshop, trainer(refuse)):
        await until(lambda: keys(workshop, Layer.QUARANTINE))
    (manifest,) = await keys(workshop, Layer.QUARANTINE)
    assert (await document(workshop, Layer.QUARANTINE, manifest))["rule"] == "no_rows"
    async with running(workshop, trainer()):
        await asyncio.sleep(0.3)
    assert await keys(workshop, Layer.MODELS) == []


async def open_plan(workshop: Workshop, *, state: str | None) -> str:
    """A plan that another process made, with a start in `state` or none. The key of the start."""
    each = stem(1)  # once: its name holds the second
    await put_silver(workshop, each)
    (info,) = [i async for i in workshop.store.list_objects(Layer.SILVER)]
    now = datetime.now(UTC).replace(microsecond=0)
    candidate = Candidate(info.key, info.etag, str(each), "v1-000000", 4, 1, None, None, None)
    plan = Plan(
        stage="trainer",
        dataset="network_events",
        number=1,
        stem=Stem("network_events", now, plan=1),
        created_at=now,
        run_id=uuid4(),
        parents=(),
        inputs=(candidate,),
        settled_before=(now - timedelta(days=7)).date(),
        plans_from=1,
        more={"window": []},
    )
    body = json.dumps(plan.document()).encode()
    key = "plans/trainer/network_events/000001"
    await workshop.store.create(Layer.LEDGER, f"{key}.json", body, metadata={}, content_type="application/json")
    if state:
        start = json.dumps({"state": state}).encode()
        await workshop.store.create(
            Layer.LEDGER, f"{key}.start-1.json", start, metadata={}, content_type="application/json"
        )
    return f"{key}.start-1.json"


@pytest.mark.parametrize("state", [None, "released", "failed"])
async def test_an_open_plan_that_nobody_is_at_is_worked_off_at_the_start(workshop: Workshop, state: str | None) -> None:
    await open_plan(workshop, state=state)
    async with running(workshop, trainer(), stale_after=1000):
        await until(lambda: keys(workshop, Layer.MODELS))
    assert len(await plans(workshop)) == 1


async def test_a_plan_that_another_process_is_at_is_left_to_it_until_it_gives_no_sign_of_life(
    workshop: Workshop,
) -> None:
    start = await open_plan(workshop, state="running")
    async with running(workshop, trainer(), stale_after=0.5):
        for beat in range(10):
            found = await workshop.store.read(Layer.LEDGER, start)
            assert found is not None
            body = json.dumps({"state": "running", "beat": beat}).encode()
            await workshop.store.replace(
                Layer.LEDGER, start, body, etag=found[1].etag, metadata={}, content_type="application/json"
            )
            await asyncio.sleep(0.1)
            assert await keys(workshop, Layer.MODELS) == []
        await until(lambda: keys(workshop, Layer.MODELS))
    starts = [k for k in await keys(workshop, Layer.LEDGER, "plans/") if ".start-" in k]
    assert len(starts) == 2


async def test_a_stop_in_the_middle_of_a_training_releases_it_for_the_next_process(workshop: Workshop) -> None:
    import threading

    begun, go_on = threading.Event(), threading.Event()

    def slow(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        begun.set()
        go_on.wait(30)
        return train(work, inputs, out)

    await put_silver(workshop, stem(1))
    runner = BatchRunner(trainer(slow), workshop, stale_after=1000)
    await runner.start()
    subscription = await workshop.bus.consume(QUEUE, runner.handle, concurrency=10)
    life = asyncio.create_task(runner.run(subscription))
    await asyncio.to_thread(begun.wait, 30)
    await runner.finish(life, 0.1)
    await subscription.close(grace=1)
    go_on.set()
    (start,) = [k for k in await keys(workshop, Layer.LEDGER, "plans/") if ".start-" in k]
    assert (await document(workshop, Layer.LEDGER, start))["state"] == "released"
    async with running(workshop, trainer(), stale_after=1000):
        await until(lambda: keys(workshop, Layer.MODELS))


async def test_a_store_that_is_away_while_planning_costs_no_object(workshop: Workshop) -> None:
    create, refused = workshop.store.create, []

    async def away_first(layer: Layer, key: str, *args: Any, **more: Any) -> Any:
        if key.startswith("plans/") and len(refused) < 2:
            refused.append(key)
            raise TransientFailure("no answer", dependency="minio", away=True)
        return await create(layer, key, *args, **more)

    workshop.store.create = away_first  # type: ignore[method-assign]
    await put_silver(workshop, stem(1))
    async with running(workshop, trainer()):
        await until(lambda: keys(workshop, Layer.MODELS))
    assert len(refused) == 2
    assert sum(covered(await plans(workshop)).values()) == 1


async def test_a_late_object_of_a_settled_time_is_looked_up_in_the_old_plans(workshop: Workshop) -> None:
    """It is covered if an old plan covers it, and planned if none does."""
    long_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(days=60)
    known, unknown = stem(1, long_ago), stem(2, long_ago)
    again = await put_silver(workshop, known)
    async with running(workshop, trainer()):
        await until(lambda: _trainings(workshop, 1))
    async with running(workshop, trainer()):
        await put_silver(workshop, stem(3))
        await until(lambda: _trainings(workshop, 2))
    async with running(workshop, trainer()) as restarted:
        assert replace(again).queue
        assert await restarted.handle(again) == Ack()
        assert len(await plans(workshop)) == 2
        await put_silver(workshop, unknown)
        await until(lambda: _trainings(workshop, 3))
    assert covered(await plans(workshop)) == Counter(
        [str(known), str(unknown), (await plans(workshop))[1]["inputs"][0]["stem"]]
    )


async def test_a_plan_that_was_committed_by_a_process_that_died_then_is_told_at_the_next_start(
    workshop: Workshop,
) -> None:
    class DiedError(BaseException):
        pass

    def die(step: str) -> None:
        if step == "trainer.after_store":
            raise DiedError

    await put_silver(workshop, stem(1))
    workshop.at = die
    runner = BatchRunner(trainer(), workshop)
    await runner.start()
    subscription = await workshop.bus.consume(QUEUE, runner.handle, concurrency=10)
    with pytest.raises(DiedError):
        await runner.run(subscription)
    await subscription.close(grace=1)
    workshop.at = lambda step: None
    assert [r.status for r in await records(workshop, 1)] == [Status.PLANNED]
    await BatchRunner(trainer(), workshop).start()
    assert [r.status for r in await records(workshop, 1)] == [Status.SUCCESS]
