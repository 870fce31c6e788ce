"""Acequia over HTTP, as the commands ask for it. Every answer that is no success becomes a Complaint."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from acequia_cli.complaints import CommandFailed, ServerAway, WrongUse

Document = dict[str, Any]
Sent = Callable[[int], None]
"""Called with the bytes of a file that were sent so far."""

CHUNK = 1 << 20
UPLOAD_TIMEOUT = httpx.Timeout(30, read=None, write=120)
"""The answer to an upload comes once the store has all of it, however long that takes."""
_WRONG = frozenset({400, 405, 413, 415, 422})


class Api:
    """`ingestor` and `auditor`: clients with a base URL; one and the same where one process serves both."""

    def __init__(self, ingestor: httpx.AsyncClient, auditor: httpx.AsyncClient | None = None) -> None:
        self._ingestor = ingestor
        self._auditor = auditor or ingestor

    async def ingest_synthetic(
        self, dataset: str, rows: int, seed: int, anomaly_rate: float, idempotency_key: str | None = None
    ) -> str:
        """Ask for a run; its id."""
        source = {"kind": "synthetic", "rows": rows, "seed": seed, "anomaly_rate": anomaly_rate}
        answer = await self._ask(
            self._ingestor,
            "POST",
            "/ingestions",
            json={"dataset": dataset, "source": source},
            headers=_key(idempotency_key),
        )
        return str(answer["run_id"])

    async def ingest_file(
        self,
        path: Path,
        *,
        dataset: str | None = None,
        format: str | None = None,
        idempotency_key: str | None = None,
        sent: Sent | None = None,
    ) -> str:
        """Stream a file; the id of its run. Its bytes are those that it had when the upload began."""
        size = path.stat().st_size
        options = {"dataset": dataset, "format": format}
        answer = await self._ask(
            self._ingestor,
            "PUT",
            f"/ingestions/files/{quote(path.name, safe='')}",
            params={name: value for name, value in options.items() if value is not None},
            headers={"Content-Length": str(size), **_key(idempotency_key)},
            content=_chunks(path, size, sent),
            timeout=UPLOAD_TIMEOUT,
        )
        return str(answer["run_id"])

    async def run(self, run_id: str) -> Document:
        """What happened to a run so far. ServerAway where nobody can tell just now."""
        return dict(await self._ask(self._ingestor, "GET", f"/ingestions/{run_id}"))

    async def runs(self, *, limit: int, dataset: str | None = None, status: str | None = None) -> list[Document]:
        """The newest runs first, at most `limit`."""
        found: list[Document] = []
        before: str | None = None
        while len(found) < limit:
            asked = {"limit": min(200, limit - len(found)), "dataset": dataset, "status": status, "before": before}
            given = {k: v for k, v in asked.items() if v is not None}
            page = await self._ask(self._auditor, "GET", "/runs", params=given)
            found += page["runs"]
            before = page["next"]
            if before is None:
                break
        return found

    async def lineage(self, node: str) -> Document:
        """What came from what, around a uri, a run or a model."""
        return dict(await self._ask(self._auditor, "GET", "/lineage", params={"node": node}, timeout=120))

    async def rebuild(self) -> Document:
        """Fill the audit database from the store; what was found."""
        return dict(await self._ask(self._auditor, "POST", "/audit/rebuild", timeout=None))

    async def datasets(self) -> list[Document]:
        return list(await self._ask(self._ingestor, "GET", "/datasets"))

    async def formats(self) -> list[Document]:
        return list(await self._ask(self._ingestor, "GET", "/formats"))

    @staticmethod
    async def _ask(client: httpx.AsyncClient, method: str, path: str, **asked: Any) -> Any:
        url = f"{str(client.base_url).rstrip('/')}"
        try:
            answer = await client.request(method, path, **asked)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise WrongUse(f"{url} is no URL of Acequia: {error} (for instance http://127.0.0.1:8000)") from error
        except httpx.TimeoutException as error:
            raise ServerAway(f"{url} took too long to answer {method} {path}: try again") from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise ServerAway(
                f"nothing answers at {url} ({why}): start it (`acequia up`, or docker compose up), "
                "or name another one with --url or ACEQUIA_URL"
            ) from error
        if answer.is_success:
            try:
                return answer.json()
            except ValueError as error:
                raise WrongUse(f"{url}{path} answers, but not as Acequia does: check --url") from error
        raise _complaint(url, path, answer)


def _key(idempotency_key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key} if idempotency_key else {}


async def _chunks(path: Path, size: int, sent: Sent | None) -> AsyncIterator[bytes]:
    """The first `size` bytes of the file: a log that grows meanwhile does no harm."""
    left = size
    with path.open("rb") as file:
        while left and (chunk := await asyncio.to_thread(file.read, min(CHUNK, left))):
            yield chunk
            left -= len(chunk)
            if sent:
                sent(size - left)
    if left:
        raise CommandFailed(f"{path} became shorter while it was read: nothing of it was ingested, try again")


def _complaint(url: str, path: str, answer: httpx.Response) -> Exception:
    """A problem (RFC 9457) as what a person does next."""
    problem = _problem(answer)
    detail = str(problem.get("detail") or answer.reason_phrase or f"status {answer.status_code}")
    if answer.status_code == HTTPStatus.NOT_FOUND:
        if detail == HTTPStatus.NOT_FOUND.phrase:
            hint = "it is not the auditor's" if path.startswith(("/runs", "/lineage", "/audit")) else "check --url"
            more = ": name the auditor's with --auditor-url or ACEQUIA_AUDITOR_URL" if "auditor" in hint else ""
            return WrongUse(f"{url} has no {path} ({hint}{more})")
        return CommandFailed(detail)
    if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        return ServerAway(f"{detail} ({url}: try again in a few seconds)")
    if answer.status_code in _WRONG:
        allowed = problem.get("allowed")
        listed = isinstance(allowed, list) and not all(str(value) in detail for value in allowed)
        return WrongUse(f"{detail} Allowed: {', '.join(map(str, allowed))}." if listed and allowed else detail)
    return CommandFailed(f"{url}{path} answered {answer.status_code}: {detail} (its log says more)")


def _problem(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        problem = answer.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}
