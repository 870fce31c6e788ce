"""The auditor's read side at the ingestor's address, so that a user needs one URL."""

from http import HTTPStatus

import httpx
from fastapi import APIRouter, Request
from starlette.responses import Response

from acequia.app import problem_responses
from acequia.errors import TransientFailure

READ = ("/runs", "/runs/{run_id}", "/artifacts", "/lineage", "/dead-letters")
REBUILD_SECONDS = 3600.0
"""A rebuild reads the whole store."""


def read_side_router(auditor: httpx.AsyncClient) -> APIRouter:
    """Hands on what the auditor answers. Where it is away: 503, for these calls only."""
    router = APIRouter(tags=["read side"])

    async def hand_on(request: Request) -> Response:
        timeout = REBUILD_SECONDS if request.method == "POST" else httpx.USE_CLIENT_DEFAULT
        try:
            answer = await auditor.request(
                request.method, request.url.path, params=str(request.query_params), timeout=timeout
            )
        except httpx.HTTPError as error:
            raise TransientFailure(
                f"the auditor does not answer: {error!r}", dependency="auditor", away=True
            ) from error
        headers = {name: answer.headers[name] for name in ("content-type", "retry-after") if name in answer.headers}
        return Response(answer.content, answer.status_code, headers)

    for path in READ:
        router.add_api_route(
            path,
            hand_on,
            methods=["GET"],
            responses=problem_responses(HTTPStatus.SERVICE_UNAVAILABLE),
            summary=f"The auditor's {path}",
        )
    router.add_api_route("/audit/rebuild", hand_on, methods=["POST"], summary="The auditor's /audit/rebuild")
    return router
