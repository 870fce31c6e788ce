"""Objects are sent to their reader once more, on its replay queue: those that were meant, the newest of each stem."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from acequia.app import make_app
from acequia.errors import QueueFull, TransientFailure
from acequia.events import utc_now
from acequia.layers import Layer, Stem, data_key, dead_key, done_key, folder_key, manifest_key
from acequia.ports import Message
from acequia.runner import HEADER_STALE, Workshop
from acequia.topology import READERS, replay_queue
from acequia_reconciler import replay as module
from acequia_reconciler.service import ReconcilerService, make_scheduler
from acequia_reconciler.settings import CommandSettings, ReconcilerSettings, ScheduleSettings

from .conftest import AT, DATASET, TABLE, event_of, landed, put, stem, taken, write, write_plan

OLD, NEW = "v1-ffffff", "v2-000000"


@pytest.fixture
def variants() -> Sequence[str]:
    return OLD, NEW


@pytest.fixture
async def http(workshop: Workshop) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app("test")
    scheduler = make_scheduler(workshop, ScheduleSettings(), CommandSettings())
    for router in ReconcilerService(workshop, TABLE, ReconcilerSettings(), scheduler).routers:
        app.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def put_all(workshop: Workshop, layer: Layer, *keys: str) -> None:
    for key in keys:
        await put(workshop, layer, key)


async def ask(http: httpx.AsyncClient, layer: str, **asked: Any) -> list[dict[str, Any]]:
    answer = await http.post("/replays", json={"layer": layer, "dataset": DATASET, **asked})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


async def replayed(http: httpx.AsyncClient, workshop: Workshop, stage: str, **asked: Any) -> list[str]:
    """Keys of what came to the stage's replay queue; nothing came anywhere else."""
    (layer,) = [reader.layer for reader in READERS if reader.stage == stage]
    result = (await ask(http, layer.value, **asked))[-1]["result"]
    for reader in READERS:
        assert await workshop.bus.depth(reader.queue) == 0
    found = await taken(workshop, replay_queue(stage))
    for delivery in found:
        assert event_of(delivery).layer is layer
        told = delivery.message.headers.get(HEADER_STALE)
        assert (told is not None and datetime.fromisoformat(told) <= utc_now()) if asked.get("stale") else told is None
    assert result["sent"] == result["matched"] == len(found)
    return sorted(event_of(delivery).key for delivery in found)


async def test_without_conditions_all_of_the_dataset_are_sent_with_their_metadata(
    http: httpx.AsyncClient, workshop: Workshop
) -> None:
    keys = [data_key(stem(1)), data_key(stem(2))]
    await put_all(workshop, Layer.RAW, *keys)
    await put(workshop, Layer.RAW, data_key(Stem("another_one", AT, "0" * 16, 1)))
    await put(workshop, Layer.SILVER, data_key(stem(1), NEW))
    assert await replayed(http, workshop, "transformer") == keys


async def test_since_and_until_go_by_the_time_in_the_name(http: httpx.AsyncClient, workshop: Workshop) -> None:
    keys = [data_key(stem(at=AT + timedelta(days=days))) for days in range(4)]
    await put_all(workshop, Layer.RAW, *keys)
    asked = {"since": "2025-12-21T12:12:09", "until": "2025-12-23T12:12:09Z"}
    assert await replayed(http, workshop, "transformer", **asked) == keys[1:3]


async def test_only_missing_leaves_out_what_has_an_outcome_of_any_variant(
    http: httpx.AsyncClient, workshop: Workshop
) -> None:
    await put_all(workshop, Layer.RAW, *(data_key(stem(n)) for n in range(1, 5)))
    await put(workshop, Layer.SILVER, data_key(stem(1), OLD))
    await put(workshop, Layer.QUARANTINE, manifest_key("transformer", stem(2), NEW))
    await put(workshop, Layer.LEDGER, dead_key("transformer", str(stem(3)), NEW))
    assert await replayed(http, workshop, "transformer", only_missing=True) == [data_key(stem(4))]


async def test_what_is_dead_is_left_alone_and_counted(http: httpx.AsyncClient, workshop: Workshop) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    await put(workshop, Layer.LEDGER, dead_key("transformer", str(stem()), NEW))
    assert await ask(http, "raw") == [{"result": {"seen": 1, "matched": 0, "sent": 0, "dead": 1}}]


async def test_stale_sends_what_the_current_variant_has_not_made(http: httpx.AsyncClient, workshop: Workshop) -> None:
    await put_all(workshop, Layer.RAW, *(data_key(stem(n)) for n in range(1, 6)))
    await put_all(workshop, Layer.SILVER, data_key(stem(1), OLD), data_key(stem(2), OLD), data_key(stem(2), NEW))
    await put(workshop, Layer.QUARANTINE, manifest_key("transformer", stem(3), OLD))
    await put(workshop, Layer.QUARANTINE, manifest_key("transformer", stem(4), NEW))
    assert await replayed(http, workshop, "transformer", stale=True) == [data_key(stem(n)) for n in (1, 3, 5)]


async def test_a_time_with_an_offset_is_the_same_moment(http: httpx.AsyncClient, workshop: Workshop) -> None:
    late = Stem(DATASET, datetime(2025, 12, 19, 23, 0, tzinfo=UTC), f"{1:016x}", 1)
    await put(workshop, Layer.RAW, data_key(late))
    for since in ("2025-12-19T22:00:00Z", "2025-12-20T00:00:00+02:00"):
        assert (await ask(http, "raw", since=since, dry_run=True))[-1]["result"]["seen"] == 1


async def test_of_several_variants_of_a_stem_the_newest_is_sent(http: httpx.AsyncClient, workshop: Workshop) -> None:
    await put_all(workshop, Layer.SILVER, data_key(stem(1), OLD), data_key(stem(1), NEW), data_key(stem(2), OLD))
    assert await replayed(http, workshop, "trainer") == [data_key(stem(1), NEW), data_key(stem(2), OLD)]


async def test_what_a_plan_covers_is_not_missing_and_stale_where_an_old_variant_ended_it(
    http: httpx.AsyncClient, workshop: Workshop
) -> None:
    await put_all(workshop, Layer.SILVER, *(data_key(stem(n), NEW) for n in range(1, 5)))
    for number, variant in ((1, OLD), (2, NEW), (3, None)):
        made = Stem(DATASET, AT + timedelta(hours=number), plan=number)
        await write_plan(workshop, made, {stem(number): NEW})
        if variant:
            await put(workshop, Layer.MODELS, folder_key(made, variant, "model.json"))
    assert await replayed(http, workshop, "trainer", only_missing=True) == [data_key(stem(4), NEW)]
    # the third lies in an open plan, which the current variant will end
    assert await replayed(http, workshop, "trainer", stale=True) == [data_key(stem(n), NEW) for n in (1, 4)]


async def test_what_was_made_anew_since_a_plan_covered_its_stem_is_stale(
    http: httpx.AsyncClient, workshop: Workshop
) -> None:
    await put_all(workshop, Layer.SILVER, *(data_key(stem(n), NEW) for n in (1, 2)), data_key(stem(3), OLD))
    await put(workshop, Layer.SILVER, data_key(stem(3), NEW))
    made = Stem(DATASET, AT + timedelta(hours=1), plan=1)
    await write_plan(workshop, made, {stem(1): NEW, stem(2): OLD, stem(3): OLD})
    await put(workshop, Layer.MODELS, folder_key(made, NEW, "model.json"))
    assert await replayed(http, workshop, "trainer", stale=True) == [data_key(stem(n), NEW) for n in (2, 3)]
    again = Stem(DATASET, AT + timedelta(hours=2), plan=2)
    await write_plan(workshop, again, {stem(2): NEW, stem(3): NEW})
    await put(workshop, Layer.MODELS, folder_key(again, NEW, "model.json"))
    assert await replayed(http, workshop, "trainer", stale=True) == []


async def test_files_of_landing_are_found_by_their_folder_or_by_what_they_became(
    http: httpx.AsyncClient, workshop: Workshop
) -> None:
    await put_all(workshop, Layer.LANDING, f"{DATASET}/a.csv", "top.csv", "nobody knows.csv")
    top = await workshop.store.head(Layer.LANDING, "top.csv")
    assert top is not None
    done = {"dataset": DATASET, "status": "SUCCESS", "record": {"outputs": []}}
    await write(workshop, Layer.LEDGER, done_key(landed(top)), done)
    assert await replayed(http, workshop, "ingestor") == [f"{DATASET}/a.csv", "top.csv"]
    assert await replayed(http, workshop, "ingestor", only_missing=True) == [f"{DATASET}/a.csv"]
    assert await replayed(http, workshop, "ingestor", dataset="_unknown") == ["nobody knows.csv"]


async def test_a_dry_run_names_the_objects_and_sends_nothing(http: httpx.AsyncClient, workshop: Workshop) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    assert await ask(http, "raw", dry_run=True) == [
        {"object": {"uri": f"s3://test-raw/{data_key(stem())}"}},
        {"result": {"seen": 1, "matched": 1, "sent": 0, "dead": 0}},
    ]
    assert await workshop.bus.depth(replay_queue("transformer")) == 0


async def test_while_the_replay_queue_is_full_it_waits_and_goes_on(
    http: httpx.AsyncClient, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_all(workshop, Layer.RAW, data_key(stem(1)), data_key(stem(2)))
    monkeypatch.setattr(module, "ROOM_SECONDS", 0.01)
    publish, refused = workshop.bus.publish, [1, 1, 1]

    async def full(exchange: str, queue: str, message: Message) -> None:
        if refused:
            refused.pop()
            raise QueueFull("it is full", dependency="bus")
        await publish(exchange, queue, message)

    monkeypatch.setattr(workshop.bus, "publish", full)
    documents = await ask(http, "raw")
    assert [d["progress"]["sent"] for d in documents[:-1]] == [0, 0, 0]
    assert documents[-1]["result"]["sent"] == 2


async def test_a_bus_that_is_away_ends_the_answer_with_a_problem(
    http: httpx.AsyncClient, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))

    async def away(exchange: str, queue: str, message: Message) -> None:
        raise TransientFailure("nobody answers", dependency="rabbitmq", away=True)

    monkeypatch.setattr(workshop.bus, "publish", away)
    assert (await ask(http, "raw"))[-1]["problem"]["status"] == 503


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"layer": "eval"}, "landing, raw, silver, models"),
        ({"layer": "raw", "dataset": "nonsense"}, DATASET),
        ({"layer": "landing", "stale": True}, "keeps its content"),
        ({"layer": "raw", "sinse": "2025-12-20"}, "sinse"),
        ({"layer": "raw", "since": "yesterday"}, "since"),
    ],
)
async def test_what_can_not_be_replayed_is_refused_with_what_is_allowed(
    http: httpx.AsyncClient, asked: dict[str, Any], says: str
) -> None:
    answer = await http.post("/replays", json={"dataset": DATASET, **asked})
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


async def test_verify_answers_line_by_line(http: httpx.AsyncClient, workshop: Workshop) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    lines = [json.loads(line) for line in (await http.get("/verify", params={"grace": 0})).text.splitlines()]
    assert [line["orphan"]["uri"] for line in lines if "orphan" in line] == [f"s3://test-raw/{data_key(stem())}"]
    assert lines[-1]["result"]["ok"] is False
    lines = [json.loads(line) for line in (await http.get("/verify")).text.splitlines()]  # by the setting it is young
    assert lines[-1]["result"]["ok"] is True
    assert (await http.get("/verify", params={"grace": -1})).status_code == 422


async def test_verify_without_a_store_ends_with_a_problem(
    http: httpx.AsyncClient, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **kwargs: Any) -> Any:
        raise TransientFailure("nobody answers", dependency="minio", away=True)

    monkeypatch.setattr(workshop.store, "list_objects", away)
    (line,) = (await http.get("/verify")).text.splitlines()
    assert json.loads(line)["problem"]["title"] == "minio is unavailable"
