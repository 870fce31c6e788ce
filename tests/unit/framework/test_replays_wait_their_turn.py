"""What is replayed goes the way of all messages, and lets live work go first."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from tests.unit.framework.conftest import BUCKETS

from acequia import app
from acequia.app import ConsumerService, make_app, ndjson
from acequia.errors import TransientFailure
from acequia.events import Ignored, ObjectCreated, parse_notification, to_notification
from acequia.layers import CANARY_PREFIX, Layer
from acequia.ports import Ack, Delivery, Message, Retry, Settlement
from acequia.runner import Workshop
from acequia.topology import replay_queue

LIVE, LATER = "acequia.transformer", replay_queue("transformer")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "REPLAY_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(app, "REPLAY_TURN_SECONDS", 0.02)


async def until(ready: Callable[[], bool]) -> None:
    for _ in range(2000):
        if ready():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


class Hands:
    """Handles one message each time it is let."""

    def __init__(self) -> None:
        self.handled: list[str] = []
        self.let = asyncio.Semaphore(0)
        self.answer: Settlement = Ack()
        self.waiting = 0

    async def __call__(self, delivery: Delivery) -> Settlement:
        self.waiting += 1
        await self.let.acquire()
        self.waiting -= 1
        self.handled.append(delivery.queue)
        return self.answer

    async def has_handled(self, number: int) -> list[str]:
        await until(lambda: len(self.handled) >= number)
        return self.handled


async def nothing() -> None:
    return


async def publish(workshop: Workshop, queue: str, number: int) -> None:
    for n in range(number):
        await workshop.bus.publish("", queue, Message(f"{queue} {n}".encode()))


async def test_replays_wait_until_no_live_message_waits(workshop: Workshop) -> None:
    hands = Hands()
    await publish(workshop, LIVE, 3)
    await publish(workshop, LATER, 2)
    service = ConsumerService("transformer", workshop, LIVE, hands, nothing, concurrency=1)
    await service.start()
    for done in range(1, 3):
        hands.let.release()
        assert set(await hands.has_handled(done)) == {LIVE}
        await asyncio.sleep(0.1)  # several looks at the replay queue
        assert await workshop.bus.depth(LATER) == 2
    for _ in range(3):
        hands.let.release()
    assert await hands.has_handled(5) == [LIVE, LIVE, LIVE, LATER, LATER]
    await service.stop(5)
    assert await workshop.bus.depth(LATER) == 0


async def test_live_work_that_comes_stops_a_replay_after_what_is_in_hand(workshop: Workshop) -> None:
    hands = Hands()
    await publish(workshop, LATER, 6)
    service = ConsumerService("transformer", workshop, LIVE, hands, nothing, concurrency=1)
    await service.start()
    hands.let.release()
    await hands.has_handled(1)
    await publish(workshop, LIVE, 2)
    await until(lambda: hands.waiting == 2)  # one of each is in hand, one live message waits
    await asyncio.sleep(0.1)
    for _ in range(7):
        hands.let.release()
    handled = await hands.has_handled(8)
    assert handled.count(LIVE) == 2
    assert handled[-4:] == [LATER] * 4
    await service.stop(5)


async def test_a_replay_that_fails_climbs_the_ladder_of_its_stage(workshop: Workshop) -> None:
    hands = Hands()
    hands.answer = Retry("not yet")
    await publish(workshop, LATER, 1)
    service = ConsumerService("transformer", workshop, LIVE, hands, nothing, concurrency=1)
    await service.start()
    for _ in range(2):
        hands.let.release()
    assert await hands.has_handled(2) == [LATER, LIVE]
    await service.stop(5)


def test_a_canary_is_nobodys_work() -> None:
    event = ObjectCreated(layer=Layer.RAW, bucket=BUCKETS.of(Layer.RAW), key=f"{CANARY_PREFIX}x.parquet", etag="e")
    assert parse_notification(to_notification(event), BUCKETS) == Ignored(reason="canary")


async def test_a_long_answer_that_breaks_off_ends_in_a_problem() -> None:
    async def items() -> AsyncIterator[dict[str, Any]]:
        yield {"progress": {"seen": 1}}
        raise TransientFailure("gone for a while", dependency="minio")

    application = make_app("test")
    application.add_api_route("/long", lambda: ndjson(items()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=application), base_url="http://test") as client:
        answer = await client.get("/long")
    assert answer.headers["content-type"] == "application/x-ndjson"
    first, last = [json.loads(line) for line in answer.text.splitlines()]
    assert first == {"progress": {"seen": 1}}
    assert last["problem"]["status"] == 503
    assert "gone for a while" in last["problem"]["detail"]
