"""Errors over HTTP as problem+json (RFC 9457)."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from acequia.errors import ConfigurationError, RejectedInput, TransientFailure

RETRY_AFTER = "2"


class Problem(BaseModel):
    """RFC 9457. `detail` says what is wrong and what is allowed."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


def problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(
        Problem(title=title, status=status, detail=detail).model_dump(),
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation that may answer with these problems."""
    return {
        status: {
            "description": _TITLES[status],
            "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
        }
        for status in statuses
    }


_TITLES = {404: "Unknown", 409: "Not any more", 422: "Not a valid request", 503: "Not now"}


class ProblemRoute(APIRoute):
    """A route whose errors are problems."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        answer = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await answer(request)
            except RequestValidationError as error:
                said = "; ".join(f"{'.'.join(str(p) for p in e['loc'][1:])}: {e['msg']}" for e in error.errors())
                return problem(422, _TITLES[422], said)
            except HTTPException as error:
                return problem(error.status_code, _TITLES.get(error.status_code, "Error"), str(error.detail))
            except RejectedInput as error:
                return problem(422, _TITLES[422], error.reason)
            except (TransientFailure, ConfigurationError) as error:
                return problem(503, _TITLES[503], str(error), {"Retry-After": RETRY_AFTER})

        return handler
