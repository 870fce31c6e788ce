"""Asking an app of this process is like asking one over a socket."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from acequia_cli.in_process import AHEAD, InProcess


@pytest.fixture
def app() -> FastAPI:
    return FastAPI()


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=InProcess(app), base_url="http://here") as client:
        yield client


async def test_an_answer_is_read_while_it_is_made(app: FastAPI, client: httpx.AsyncClient):
    go_on = asyncio.Event()

    async def lines() -> AsyncIterator[bytes]:
        yield b"first\n"
        await go_on.wait()
        yield b"second\n"

    app.get("/")(lambda: StreamingResponse(lines()))

    async with client.stream("GET", "/") as answer, asyncio.timeout(10):
        read = answer.aiter_lines()
        assert await anext(read) == "first"
        go_on.set()
        assert await anext(read) == "second"


async def test_a_slow_reader_holds_the_answer_back(app: FastAPI, client: httpx.AsyncClient):
    made = 0

    async def lines() -> AsyncIterator[bytes]:
        nonlocal made
        while made < 999:
            made += 1
            yield b"x\n"

    app.get("/")(lambda: StreamingResponse(lines()))

    async with client.stream("GET", "/") as answer:
        for _ in range(100):
            await asyncio.sleep(0)
        assert made == AHEAD + 1
        assert len([line async for line in answer.aiter_lines()]) == 999


async def test_an_answer_that_nobody_reads_to_its_end_is_stopped(app: FastAPI, client: httpx.AsyncClient):
    stopped = asyncio.Event()

    async def lines() -> AsyncIterator[bytes]:
        try:
            yield b"x\n"
            await asyncio.Event().wait()
        finally:
            stopped.set()

    app.get("/")(lambda: StreamingResponse(lines()))

    async with client.stream("GET", "/") as answer:
        assert await anext(answer.aiter_lines()) == "x"
    async with asyncio.timeout(10):
        await stopped.wait()


async def test_a_body_a_query_and_headers_arrive(app: FastAPI, client: httpx.AsyncClient):
    @app.put("/files/{name}")
    async def put(name: str, request: Request) -> list[object]:
        return [name, request.query_params["a"], request.headers["x-b"], (await request.body()).decode()]

    async def body() -> AsyncIterator[bytes]:
        yield b"one, "
        yield b"two"

    answer = await client.put("/files/a%20file", params={"a": "1&2"}, headers={"X-B": "3"}, content=body())

    assert answer.json() == ["a file", "1&2", "3", "one, two"]
    assert answer.headers["content-type"] == "application/json"


async def test_a_bug_in_the_app_is_raised(app: FastAPI, client: httpx.AsyncClient):
    @app.get("/")
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await client.get("/")
