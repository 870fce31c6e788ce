"""HTTP to an app of this process without a socket; unlike httpx.ASGITransport it gives an answer while it is made."""

import asyncio
from collections.abc import AsyncIterator

import httpx
from starlette.types import ASGIApp, Message, Scope

AHEAD = 16
"""Chunks of an answer that may wait for who reads it."""


class InProcess(httpx.AsyncBaseTransport):
    """What the app raises beyond an answer of its own is raised here too: nobody reads a log of this process."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _Exchange(self._app, request)
        try:
            await exchange.begin()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(exchange.status, headers=exchange.headers, stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request and its answer, whose chunks are its items."""

    def __init__(self, app: ASGIApp, request: httpx.Request) -> None:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._body = aiter(request.stream)
        self._body_ended = False
        self._begun = asyncio.Event()
        self._room = asyncio.Semaphore(AHEAD)
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "query_string": request.url.query,
            "server": (request.url.host, request.url.port),
            "client": ("127.0.0.1", 0),
            "root_path": "",
        }
        self._life = asyncio.create_task(self._run(app, scope))

    async def begin(self) -> None:
        """Wait for the head of the answer."""
        await self._begun.wait()
        if not self.status:
            await self._life
            raise httpx.RemoteProtocolError("the app ended without an answer")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            self._room.release()
            yield chunk
        await self._life

    async def aclose(self) -> None:
        self._life.cancel()
        await asyncio.wait({self._life})

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        finally:
            self._begun.set()
            self._chunks.put_nowait(None)

    async def _receive(self) -> Message:
        if self._body_ended:
            await asyncio.Event().wait()  # who asked goes away by cancelling
        try:
            return {"type": "http.request", "body": await anext(self._body), "more_body": True}
        except StopAsyncIteration:
            self._body_ended = True
            return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
            self._begun.set()
        elif body := message.get("body", b""):
            await self._room.acquire()
            self._chunks.put_nowait(body)
