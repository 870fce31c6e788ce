"""What the auditor, the reconciler and the lakehouse answer, at the ingestor's address: a user needs one URL."""

import json
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from acequia.app import NDJSON, Problem, problem_responses
from acequia.errors import TransientFailure

log = logging.getLogger("acequia")

OF_THE_AUDITOR = (
    ("GET", "/runs"),
    ("GET", "/runs/{run_id}"),
    ("GET", "/artifacts"),
    ("GET", "/lineage"),
    ("GET", "/dead-letters"),
    ("GET", "/dead-letters/{id}"),
    ("POST", "/dead-letters/{id}/replay"),
    ("POST", "/dead-letters/{id}/discard"),
    ("POST", "/audit/rebuild"),
    ("GET", "/audit/verify"),
    ("GET", "/audit/compare"),
)
OF_THE_RECONCILER = (
    ("POST", "/sweep"),
    ("GET", "/verify"),
    ("POST", "/replays"),
    ("GET", "/schedules"),
    ("POST", "/schedules/{name}/fire"),
)
OF_THE_LAKEHOUSE = (("GET", "/lake/tables"), ("POST", "/lake/compact"), ("POST", "/lake/expire"))
LONG = frozenset({"/audit/verify", "/audit/compare", "/verify"})
"""GETs that may read the whole store or the whole database: the answer takes as long as it takes, as a POST's does."""
_HANDED_ON = ("content-type", "retry-after")


def read_side_router(
    auditor: httpx.AsyncClient, reconciler: httpx.AsyncClient, lakehouse: httpx.AsyncClient
) -> APIRouter:
    """Hands on what these answer, long answers line by line. Where one is away: 503, for its calls only."""
    router = APIRouter(tags=["read side"])
    for name, client, routes in (
        ("auditor", auditor, OF_THE_AUDITOR),
        ("reconciler", reconciler, OF_THE_RECONCILER),
        ("lakehouse", lakehouse, OF_THE_LAKEHOUSE),
    ):
        neighbour = _Neighbour(name, client)
        for method, path in routes:
            router.add_api_route(
                path,
                neighbour.hand_on,
                methods=[method],
                responses=problem_responses(HTTPStatus.SERVICE_UNAVAILABLE),
                summary=f"The {name}'s {path}",
            )
    return router


class _Neighbour:
    """Another service of ours, over HTTP."""

    def __init__(self, name: str, client: httpx.AsyncClient) -> None:
        self._name = name
        self._client = client

    async def hand_on(self, request: Request) -> Response:
        path, patience = request.url.path, self._client.timeout
        if request.method == "POST" or path in LONG:
            patience = httpx.Timeout(patience.connect, read=None)
        asked = self._client.build_request(
            request.method,
            quote(path),
            params=str(request.query_params),
            content=await request.body(),
            headers={name: request.headers[name] for name in ("content-type",) if name in request.headers},
            timeout=patience,
        )
        try:
            answer = await self._client.send(asked, stream=True)
            headers = {name: answer.headers[name] for name in _HANDED_ON if name in answer.headers}
            if headers.get("content-type", "").startswith(NDJSON):
                return _Handed(self._name, answer, headers)
            try:
                return Response(await answer.aread(), answer.status_code, headers)
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise TransientFailure(
                f"the {self._name} does not answer: {error!r}", dependency=self._name, away=True
            ) from error


class _Handed(StreamingResponse):
    """An answer that is sent on as it comes in, and let go of when either side has gone."""

    def __init__(self, neighbour: str, answer: httpx.Response, headers: dict[str, str]) -> None:
        super().__init__(self._lines(), answer.status_code, headers)
        self._neighbour = neighbour
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()

    async def _lines(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._answer.aiter_bytes():
                yield chunk
        except httpx.HTTPError as error:
            log.warning("the %s went away in the middle of an answer: %r", self._neighbour, error)
            problem = Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self._neighbour} is unavailable",
                f"the {self._neighbour} went away in the middle of its answer",
            )
            yield b"\n" + json.dumps({"problem": problem.document()}).encode() + b"\n"
