"""What the auditor, the reconciler and the lakehouse answer is to be had at the ingestor's address."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from acequia.app import make_app
from acequia_cli.in_process import InProcess
from acequia_ingestor.read_side import (
    LONG,
    OF_THE_AUDITOR,
    OF_THE_LAKEHOUSE,
    OF_THE_RECONCILER,
    read_side_router,
)

LINES = {"content-type": "application/x-ndjson"}
Answer = Callable[[httpx.Request], httpx.Response]


class Lines(httpx.AsyncByteStream):
    """A first line, then what `then` does, then a second."""

    def __init__(self, then: Callable[[], Awaitable[object]]) -> None:
        self.then = then
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"progress": {"seen": 1}}\n'
        await self.then()
        yield b'{"result": {"ok": true}}\n'

    async def aclose(self) -> None:
        self.closed.set()


def ingestor(auditor: Answer, reconciler: Answer, lakehouse: Answer | None = None) -> httpx.AsyncClient:
    def client(answer: Answer) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://neighbour", timeout=5)

    app = make_app("ingestor")
    app.include_router(read_side_router(client(auditor), client(reconciler), client(lakehouse or gone)))
    return httpx.AsyncClient(transport=InProcess(app), base_url="http://ingestor")


def tell(name: str) -> Answer:
    return lambda request: httpx.Response(200, json=[name, request.method, str(request.url), request.content.decode()])


def gone(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused", request=request)


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [("auditor", *route) for route in OF_THE_AUDITOR]
    + [("reconciler", *route) for route in OF_THE_RECONCILER]
    + [("lakehouse", *route) for route in OF_THE_LAKEHOUSE],
)
async def test_each_call_reaches_who_answers_it_with_query_and_body(name: str, method: str, path: str):
    path = path.replace("{run_id}", "7").replace("{id}", "a%20b").replace("{name}", "daily")

    answer = await ingestor(tell("auditor"), tell("reconciler"), tell("lakehouse")).request(
        method, path, params={"stage": "a&b"}, content=b'{"reason": "x"}'
    )

    assert answer.json() == [name, method, f"http://neighbour{path}?stage=a%26b", '{"reason": "x"}']


async def test_a_problem_is_handed_on_as_it_is():
    def refuse(request: httpx.Request) -> httpx.Response:
        headers = {"content-type": "application/problem+json", "retry-after": "5"}
        return httpx.Response(503, json={"detail": "PostgreSQL is away"}, headers=headers)

    answer = await ingestor(refuse, gone).get("/dead-letters")

    assert answer.status_code == 503 and answer.json()["detail"] == "PostgreSQL is away"
    assert answer.headers["content-type"] == "application/problem+json" and answer.headers["retry-after"] == "5"


@pytest.mark.parametrize(("away", "path"), [("auditor", "/audit/verify"), ("reconciler", "/verify")])
async def test_who_is_away_is_named(away: str, path: str):
    answer = await ingestor(gone, gone).get(path)

    assert answer.status_code == 503
    assert f"the {away} does not answer" in answer.json()["detail"]
    assert "retry-after" in answer.headers


async def test_a_long_answer_comes_through_line_by_line():
    go_on = asyncio.Event()
    lines = Lines(go_on.wait)
    client = ingestor(gone, lambda _: httpx.Response(200, headers=LINES, stream=lines))

    async with client.stream("GET", "/verify") as answer, asyncio.timeout(10):
        assert answer.headers["content-type"] == LINES["content-type"]
        read = answer.aiter_lines()
        assert "progress" in await anext(read)
        assert not lines.closed.is_set()
        go_on.set()
        assert "result" in await anext(read)
    assert lines.closed.is_set()


async def test_a_neighbour_that_goes_away_in_the_middle_of_its_answer_ends_it_with_a_problem():
    async def fail() -> None:
        raise httpx.ReadError("reset")

    client = ingestor(gone, lambda _: httpx.Response(200, headers=LINES, stream=Lines(fail)))

    async with asyncio.timeout(10):
        last = (await client.get("/verify")).text.splitlines()[-1]

    assert json.loads(last)["problem"]["status"] == 503
    assert "the reconciler went away" in json.loads(last)["problem"]["detail"]


async def test_who_stops_listening_stops_the_neighbours_work():
    lines = Lines(asyncio.Event().wait)
    client = ingestor(gone, lambda _: httpx.Response(200, headers=LINES, stream=lines))

    async with asyncio.timeout(10):
        async with client.stream("GET", "/verify") as answer:
            await anext(answer.aiter_lines())
        await lines.closed.wait()


async def test_what_may_take_long_is_waited_for_and_what_may_not_is_given_up():
    patience: dict[str, float | None] = {}

    def note(request: httpx.Request) -> httpx.Response:
        patience[request.url.path] = request.extensions["timeout"]["read"]
        assert request.extensions["timeout"]["connect"] == 5
        return httpx.Response(200, json={})

    client = ingestor(note, note)
    for method, path in (*OF_THE_AUDITOR, *OF_THE_RECONCILER):
        await client.request(method, path)

    posts = {path for method, path in (*OF_THE_AUDITOR, *OF_THE_RECONCILER) if method == "POST"}
    assert {path for path, seconds in patience.items() if seconds is None} == posts | LONG
    assert patience["/runs"] == 5
