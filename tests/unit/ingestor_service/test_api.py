"""What is accepted is durable before it is answered; what can't be made durable is not accepted."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import Request

from acequia.adapters.sqlite import SqliteBus
from acequia.app import make_app
from acequia.errors import TransientFailure
from acequia.events import Kind, ObjectCreated, Status, parse_notification
from acequia.layers import Layer, command_key, done_key
from acequia.ports import Ack
from acequia.runner import Workshop
from acequia_ingestor.api import DETECT, keyed_run_id
from acequia_ingestor.ingest import Ingestor

from .conftest import BUCKETS, QUEUE, Auditor, document, keys, rows, taken, told

ASKED: dict[str, Any] = {"dataset": "network_events", "source": {"kind": "synthetic", "rows": 10, "seed": 7}}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FILE = "/ingestions/files/a.csv?dataset=network_events"


def run_of(answer: httpx.Response) -> UUID:
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/ingestions/{answer.json()['run_id']}"
    return UUID(answer.json()["run_id"])


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told_: dict[str, Any] = answer.json()
    assert told_["status"] == status
    return told_


def away(*_: Any, **__: Any) -> Any:
    raise TransientFailure("no answer", dependency="x", away=True)


async def test_a_request_is_stored_told_and_sent_before_it_is_answered(
    client: httpx.AsyncClient, workshop: Workshop
) -> None:
    run_id = run_of(await client.post("/ingestions", json=ASKED, headers={"traceparent": TRACE}))
    stored = await document(workshop, Layer.LEDGER, command_key(run_id))
    assert (stored["run_id"], stored["rows_per_part"], stored["traceparent"]) == (str(run_id), 4, TRACE)
    (accepted,) = await told(workshop)
    assert (accepted.kind, accepted.status, accepted.run_id) == (Kind.ACCEPTED, Status.ACCEPTED, run_id)
    (delivery,) = await taken(workshop, QUEUE)
    assert (delivery.message.type, delivery.message.message_id) == ("IngestionCommand", str(run_id))


@pytest.mark.parametrize("what", ["create", "publish"])
async def test_without_store_or_broker_a_request_is_refused_with_a_time_to_come_again(
    client: httpx.AsyncClient, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(workshop.store if what == "create" else workshop.bus, what, away)
        answer = await client.post("/ingestions", json=ASKED, headers={"Idempotency-Key": "k"})
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
    # what was half done is not lost: who comes again with the key ends it, and the sweep finds the command
    assert await keys(workshop, Layer.LEDGER, "commands/") == (
        [] if what == "create" else [command_key(keyed_run_id("k"))]
    )
    run_id = run_of(await client.post("/ingestions", json=ASKED, headers={"Idempotency-Key": "k"}))
    assert [d.message.message_id for d in await taken(workshop, QUEUE)] == [str(run_id)]


async def test_a_command_that_no_queue_took_is_not_accepted_told_or_kept(
    client: httpx.AsyncClient, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client comes again with a run of its own: this one must not be carried out beside it."""
    publish = workshop.bus.publish

    async def only_audit(exchange: str, key: str, message: Any) -> None:
        if message.type == "IngestionCommand":
            raise TransientFailure("unroutable", dependency="rabbitmq")
        await publish(exchange, key, message)

    monkeypatch.setattr(workshop.bus, "publish", only_audit)
    problem(await client.post("/ingestions", json=ASKED), 503)
    assert await keys(workshop, Layer.LEDGER, "commands/") == []
    assert await told(workshop) == []


@pytest.mark.parametrize("what", ["upload", "publish"])
async def test_without_store_or_broker_a_file_is_refused_with_a_time_to_come_again(
    client: httpx.AsyncClient, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(workshop.store if what == "upload" else workshop.bus, what, away)
        answer = await client.put(FILE, content=rows(3), headers={"Idempotency-Key": "k"})
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
    run_id = run_of(await client.put(FILE, content=rows(3), headers={"Idempotency-Key": "k"}))
    assert await keys(workshop, Layer.LANDING) == [f"network_events/uploads/{run_id}/a.csv"]
    assert {r.run_id for r in await told(workshop)} == {run_id}


async def test_the_same_key_and_body_give_the_same_run_before_and_after_it_is_done(
    client: httpx.AsyncClient, ingestor: Ingestor, workshop: Workshop
) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(*(client.post("/ingestions", json=ASKED, headers=headers) for _ in range(4)))
    (run_id,) = {run_of(answer) for answer in answers}
    for delivery in await taken(workshop, QUEUE):
        assert await ingestor.handle(delivery) == Ack()
    assert await keys(workshop, Layer.LEDGER, "commands/") == []
    raw = await keys(workshop, Layer.RAW)
    assert run_of(await client.post("/ingestions", json=ASKED, headers=headers)) == run_id
    assert await taken(workshop, QUEUE) == []
    assert await keys(workshop, Layer.LEDGER, "commands/") == []
    assert await keys(workshop, Layer.RAW) == raw
    assert await keys(workshop, Layer.LEDGER, "done/") == [done_key(run_id)]


@pytest.mark.parametrize("done", [False, True])
async def test_the_same_key_with_another_body_is_refused(
    client: httpx.AsyncClient, ingestor: Ingestor, workshop: Workshop, done: bool
) -> None:
    headers = {"Idempotency-Key": "k"}
    run_of(await client.post("/ingestions", json=ASKED, headers=headers))
    if done:
        for delivery in await taken(workshop, QUEUE):
            await ingestor.handle(delivery)
    other = {**ASKED, "source": {**ASKED["source"], "rows": 11}}
    assert "Idempotency-Key" in problem(await client.post("/ingestions", json=other, headers=headers), 422)["detail"]
    problem(await client.put(FILE, content=rows(3), headers=headers), 422)
    assert await keys(workshop, Layer.LANDING) == []


async def test_the_defaults_of_a_request_said_aloud_are_the_same_body(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    said = {**ASKED, "source": {**ASKED["source"], "anomaly_rate": 0.02}}
    first = run_of(await client.post("/ingestions", json=ASKED, headers=headers))
    assert run_of(await client.post("/ingestions", json=said, headers=headers)) == first


async def test_without_a_key_each_request_is_a_run_of_its_own(client: httpx.AsyncClient) -> None:
    assert run_of(await client.post("/ingestions", json=ASKED)) != run_of(await client.post("/ingestions", json=ASKED))


async def test_the_same_file_under_the_same_key_is_stored_once(client: httpx.AsyncClient, workshop: Workshop) -> None:
    headers = {"Idempotency-Key": "k"}
    first = run_of(await client.put(FILE, content=rows(3), headers=headers))
    (before,) = [i async for i in workshop.store.list_objects(Layer.LANDING)]
    assert run_of(await client.put(FILE, content=rows(3), headers=headers)) == first
    (after,) = [i async for i in workshop.store.list_objects(Layer.LANDING)]
    assert (after.etag, after.last_modified) == (before.etag, before.last_modified)
    assert len({r.event_id for r in await told(workshop)}) == 1


@pytest.mark.parametrize(
    ("url", "content"),
    [
        (FILE, rows(4)),
        (FILE, rows(3, start=1)),
        (FILE, b""),
        (FILE + "&format=canonical_csv", rows(3)),
        ("/ingestions/files/a.csv", rows(3)),
        ("/ingestions/files/b.csv?dataset=network_events", rows(3)),
    ],
)
async def test_another_file_under_the_same_key_is_refused(
    client: httpx.AsyncClient, workshop: Workshop, url: str, content: bytes
) -> None:
    headers = {"Idempotency-Key": "k"}
    run_of(await client.put(FILE, content=rows(3), headers=headers))
    problem(await client.put(url, content=content, headers=headers), 422)
    problem(await client.post("/ingestions", json=ASKED, headers=headers), 422)
    assert len(await keys(workshop, Layer.LANDING)) == 1
    assert await keys(workshop, Layer.LEDGER, "commands/") == []


@pytest.mark.parametrize("name", ["a b.csv", "日本+ü.csv", "%2e%2e", "...", "a%0Ab.csv", "a" * 255])
async def test_a_file_of_any_name_is_taken_on_with_its_options(
    client: httpx.AsyncClient, workshop: Workshop, name: str
) -> None:
    answer = await client.put(f"/ingestions/files/{name}?format=canonical_csv", content=rows(3))
    if name == "%2e%2e":
        problem(answer, 422)
        assert await keys(workshop, Layer.LANDING) == []
        return
    run_id = run_of(answer)
    (delivery,) = await taken(workshop, QUEUE)
    event = parse_notification(delivery.message.body, BUCKETS)
    assert isinstance(event, ObjectCreated)
    assert event.key.startswith(f"{DETECT}/uploads/{run_id}/")
    assert event.metadata == {"acequia-run-id": str(run_id), "acequia-format": "canonical_csv"}


async def test_a_file_without_a_byte_is_a_run_that_ends_in_quarantine(
    client: httpx.AsyncClient, ingestor: Ingestor, workshop: Workshop
) -> None:
    run_id = run_of(await client.put(FILE, content=b""))
    for delivery in await taken(workshop, QUEUE):
        assert await ingestor.handle(delivery) == Ack()
    statuses = [r.status for r in await told(workshop) if r.kind is Kind.OUTCOME and r.run_id == run_id]
    assert statuses == [Status.REJECTED]


@pytest.mark.parametrize("name", ["a" * 256, "%2e", "..%2F..%2Fa.csv", "a%00b", "a%2Fb.csv"])
async def test_a_name_that_leads_elsewhere_is_refused(client: httpx.AsyncClient, workshop: Workshop, name: str) -> None:
    answer = await client.put(f"/ingestions/files/{name}?dataset=network_events", content=rows(3))
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert await keys(workshop, Layer.LANDING) == []


async def test_an_upload_that_breaks_off_leaves_nothing(client: httpx.AsyncClient, workshop: Workshop) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield rows(3)
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await client.put(FILE, content=broken())
    assert await keys(workshop, Layer.LANDING) == []
    assert await told(workshop) == []


async def test_who_goes_away_in_the_middle_of_an_upload_is_no_fault_of_the_service() -> None:
    app = make_app("a service")

    @app.put("/file")
    async def file(request: Request) -> None:
        async for _ in request.stream():
            pass

    coming = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"x", "more_body": True}]
    answered: list[Any] = []

    async def receive() -> Any:
        return coming.pop()

    async def send(message: Any) -> None:
        answered.append(message)

    scope = {"type": "http", "method": "PUT", "path": "/file", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    assert answered[0]["status"] == 400


async def test_a_file_that_is_larger_than_it_said_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient, workshop: Workshop
) -> None:
    async def many() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    assert problem(await client.put(FILE, content=many()), 413)["allowed"] == 10_000
    assert problem(await client.put(FILE, content=b"x" * 10_001), 413)["allowed"] == 10_000
    assert await keys(workshop, Layer.LANDING) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({**ASKED, "dataset": "weather"}, "network_events"),
        ({**ASKED, "more": 1}, "more"),
        ({**ASKED, "source": {"kind": "magic"}}, "synthetic"),
        ({**ASKED, "source": {"kind": "synthetic", "rows": 1001}}, "1000"),
        ({**ASKED, "source": {"kind": "synthetic", "rows": 0}}, "greater than or equal to 1"),
        ({**ASKED, "source": {"kind": "synthetic", "row": 10}}, "row"),
        ({}, "source"),
        ({"source": ASKED["source"]}, "names no dataset"),
        ([], "body"),
    ],
)
async def test_a_wrong_request_is_told_what_is_allowed(
    client: httpx.AsyncClient, workshop: Workshop, body: Any, says: str
) -> None:
    assert says in str(problem(await client.post("/ingestions", json=body), 422))
    assert await keys(workshop, Layer.LEDGER) == []


@pytest.mark.parametrize("query", ["dataset=weather", "dataset=network_events&format=pdf", "format=pdf"])
async def test_a_file_of_an_unknown_kind_is_refused(client: httpx.AsyncClient, workshop: Workshop, query: str) -> None:
    assert problem(await client.put(f"/ingestions/files/a.csv?{query}", content=rows(3)), 422)["allowed"]
    assert await keys(workshop, Layer.LANDING) == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(client: httpx.AsyncClient, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1000

    answer = await client.post(
        "/ingestions",
        content=pieces() if chunked else b" " * 5000,
        headers={"content-type": "application/json"},
    )
    assert problem(answer, 413)["allowed"] == 2000


async def test_a_run_that_the_auditor_does_not_know_yet_is_found_right_after_the_202(
    client: httpx.AsyncClient, ingestor: Ingestor, workshop: Workshop
) -> None:
    command = run_of(await client.post("/ingestions", json=ASKED))
    upload = run_of(await client.put(FILE, content=rows(3)))
    detected = run_of(await client.put("/ingestions/files/b.csv", content=rows(4)))
    for run_id, dataset in ((command, "network_events"), (upload, "network_events"), (detected, "_unknown")):
        page = (await client.get(f"/ingestions/{run_id}")).json()
        assert (page["run_id"], page["dataset"], page["state"]) == (str(run_id), dataset, "accepted")
        assert page["finished"] is False
    for delivery in await taken(workshop, QUEUE):
        await ingestor.handle(delivery)
    assert await keys(workshop, Layer.LEDGER, "commands/") == []
    assert (await client.get(f"/ingestions/{command}")).status_code == 200


async def test_what_the_auditor_knows_is_what_is_answered(client: httpx.AsyncClient, auditor: Auditor) -> None:
    run_id = uuid4()
    auditor.pages[run_id] = {"run_id": str(run_id), "state": "done"}
    assert (await client.get(f"/ingestions/{run_id}")).json()["state"] == "done"


async def test_without_the_auditor_a_run_cannot_be_told_of_but_ingesting_goes_on(
    client: httpx.AsyncClient, auditor: Auditor
) -> None:
    auditor.wrong = TransientFailure("no answer", dependency="auditor", away=True)
    run_id = run_of(await client.post("/ingestions", json=ASKED))
    answer = await client.get(f"/ingestions/{run_id}")
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("run_id", [str(uuid4()), "x"])
async def test_a_run_that_nobody_knows_is_not_found(client: httpx.AsyncClient, run_id: str) -> None:
    problem(await client.get(f"/ingestions/{run_id}"), 422 if run_id == "x" else 404)


async def test_a_trace_that_is_none_is_left_out(client: httpx.AsyncClient, workshop: Workshop) -> None:
    run_id = run_of(await client.post("/ingestions", json=ASKED, headers={"traceparent": "00-nonsense"}))
    assert (await document(workshop, Layer.LEDGER, command_key(run_id)))["traceparent"] is None


async def test_the_description_of_the_api_has_an_example_that_works(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    (example,) = schema["components"]["schemas"]["IngestionRequest"]["examples"]
    run_of(await client.post("/ingestions", json=example))
    assert set(schema["paths"]) >= {"/ingestions", "/ingestions/files/{name}", "/ingestions/{run_id}"}
    answers = schema["paths"]["/ingestions"]["post"]["responses"]
    assert {"202", "413", "422", "503"} <= set(answers)
    assert "application/problem+json" in answers["503"]["content"]


async def test_a_command_that_is_carried_out_while_it_is_asked_for_again_is_answered_as_that_run(
    client: httpx.AsyncClient, workshop: Workshop, ingestor: Ingestor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our finding it stored and our reading it, it was done and removed."""
    headers = {"Idempotency-Key": "k"}
    run_id = run_of(await client.post("/ingestions", json=ASKED, headers=headers))
    create = workshop.store.create

    async def slowly(layer: Layer, key: str, *args: Any, **more: Any) -> Any:
        made = await create(layer, key, *args, **more)
        if key.startswith("commands/"):
            for delivery in await taken(workshop, QUEUE):
                await ingestor.handle(delivery)
        return made

    monkeypatch.setattr(workshop.store, "create", slowly)
    assert run_of(await client.post("/ingestions", json=ASKED, headers=headers)) == run_id
    assert await keys(workshop, Layer.LEDGER, "done/") == [done_key(run_id)]


async def test_a_command_that_somebody_removed_by_hand_is_not_accepted_on_its_word(
    client: httpx.AsyncClient, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = workshop.store.create

    async def taken_away(layer: Layer, key: str, *args: Any, **more: Any) -> Any:
        if key.startswith("commands/"):
            return None  # it is there, says the store; and then it is not
        return await create(layer, key, *args, **more)

    monkeypatch.setattr(workshop.store, "create", taken_away)
    problem(await client.post("/ingestions", json=ASKED, headers={"Idempotency-Key": "k"}), 503)
    assert isinstance(workshop.bus, SqliteBus)
    assert await taken(workshop, QUEUE) == []


async def test_datasets_and_formats_say_what_they_have_to_do_with_each_other(client: httpx.AsyncClient) -> None:
    datasets = {one["name"]: one for one in (await client.get("/datasets")).json()}
    formats = {one["name"]: one for one in (await client.get("/formats")).json()}
    for name, dataset in datasets.items():
        assert dataset["formats"] == [f for f in dataset["formats"] if name in formats[f]["datasets"]]
    assert formats["argus"]["datasets"] == ["network_events"]
    assert all(one["description"] for one in formats.values())
    assert datasets["network_events"]["schedules"] == [
        {"name": "network_daily", "cron": "0 2 * * *", "timezone": "UTC"}
    ]
    assert datasets["network_events"]["table"] is None
    assert datasets["payments"]["key"] == ["payment_id"]
    assert datasets["payments"]["table"] == {
        "relation": "public.payments", "pack": "subscriptions", "cursor": "updated_at"
    }  # fmt: skip
