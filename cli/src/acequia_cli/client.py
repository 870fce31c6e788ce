"""Acequia over HTTP, as the commands ask for it. Every answer that is no success becomes a Complaint."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from acequia_cli.complaints import CommandFailed, NotThere, ServerAway, TooLarge, WrongUse

Document = dict[str, Any]
Sent = Callable[[int], None]
"""Called with the bytes of a file that were sent so far."""

CHUNK = 1 << 20
UPLOAD_TIMEOUT = httpx.Timeout(30, read=None, write=120)
"""The answer to an upload comes once the store has all of it, however long that takes."""
LONG = httpx.Timeout(30, read=None)
"""For what may read the whole store: the server says when it is through, and where it is meanwhile."""
PAGE = 200
"""Dead letters, or runs, that are asked for at once."""
Line = tuple[str, Document]
"""A line of a long answer: what it is ("progress", "orphan", ..., at last "result"), and its document."""
_WRONG = frozenset({400, 405, 413, 415, 422})
_AWAY = frozenset({502, 503, 504})
"""A 503 is the server's own; with the others a proxy says that it does not reach it."""


class Api:
    """`client` has the base URL of an ingestor, which hands on what others answer, or of the whole in one process."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ingest_synthetic(
        self, dataset: str, rows: int, seed: int, anomaly_rate: float, idempotency_key: str | None = None
    ) -> str:
        """Ask for a run; its id."""
        source = {"kind": "synthetic", "rows": rows, "seed": seed, "anomaly_rate": anomaly_rate}
        return await self.ingest(source, idempotency_key, dataset=dataset)

    async def ingest(self, source: Document, idempotency_key: str | None = None, **more: str) -> str:
        """Ask for a run of a source that no file holds; its id."""
        answer = await self._ask("POST", "/ingestions", json={**more, "source": source}, headers=_key(idempotency_key))
        return str(answer["run_id"])

    async def ingest_file(
        self,
        path: Path,
        *,
        dataset: str | None = None,
        format: str | None = None,
        csv: str | None = None,
        idempotency_key: str | None = None,
        sent: Sent | None = None,
        sha256: str | None = None,
    ) -> str:
        """Stream a file; the id of its run. Its bytes are those that it had when the upload began.

        `sha256`: what it has to be; where it is something else by now, nothing of it is taken on (CommandFailed).
        """
        size = path.stat().st_size
        options = {"dataset": dataset, "format": format, "csv": csv}
        answer = await self._ask(
            "PUT",
            f"/ingestions/files/{quote(path.name, safe='')}",
            params={name: value for name, value in options.items() if value is not None},
            headers={"Content-Length": str(size), **_key(idempotency_key)},
            content=_chunks(path, size, sent, sha256),
            timeout=UPLOAD_TIMEOUT,
        )
        return str(answer["run_id"])

    async def import_file(
        self,
        path: Path,
        *,
        name: str,
        uri: str,
        etag: str,
        at: str,
        dataset: str,
        listed: Document | None,
        dry_run: bool,
    ) -> Document:
        """Have a file of a predecessor's taken over; what became of it."""
        size = path.stat().st_size
        asked = _given(
            uri=uri, etag=etag, at=at, dataset=dataset, listed=json.dumps(listed) if listed else None, dry_run=dry_run
        )
        return dict(
            await self._ask(
                "PUT",
                f"/imports/files/{quote(name, safe='')}",
                params=asked,
                headers={"Content-Length": str(size)},
                content=_chunks(path, size, None),
                timeout=UPLOAD_TIMEOUT,
            )
        )

    async def import_rows(self, asked: Document) -> Document:
        """Have rows of a predecessor's list taken over; how many were new."""
        return dict(await self._ask("POST", "/imports/rows", json=asked, timeout=LONG))

    async def imports_known(self, objects: list[Document]) -> list[bool]:
        """Which objects were taken over already."""
        return list((await self._ask("POST", "/imports/known", json={"objects": objects}, timeout=LONG))["known"])

    async def run(self, run_id: str) -> Document:
        """What happened to a run so far. ServerAway where nobody can tell just now."""
        return dict(await self._ask("GET", f"/ingestions/{run_id}"))

    async def runs(self, *, limit: int, dataset: str | None = None, status: str | None = None) -> list[Document]:
        """The newest runs first, at most `limit`."""
        found: list[Document] = []
        before: str | None = None
        while len(found) < limit:
            asked = _given(limit=min(PAGE, limit - len(found)), dataset=dataset, status=status, before=before)
            page = await self._ask("GET", "/runs", params=asked)
            found += page["runs"]
            before = page["next"]
            if before is None:
                break
        return found

    async def lineage(self, node: str) -> Document:
        """What came from what, around a uri, a run or a model."""
        return dict(await self._ask("GET", "/lineage", params={"node": node}, timeout=120))

    async def rebuild(self) -> Document:
        """Fill the audit database from the store; what was found."""
        return dict(await self._ask("POST", "/audit/rebuild", timeout=None))

    async def datasets(self) -> list[Document]:
        return list(await self._ask("GET", "/datasets"))

    async def formats(self) -> list[Document]:
        return list(await self._ask("GET", "/formats"))

    async def sweep(self, *, dry_run: bool, grace: float | None) -> Document:
        """Have what was lost sent again; what was found."""
        asked = _given(dry_run=str(dry_run).lower(), grace=grace)
        return dict(await self._ask("POST", "/sweep", params=asked, timeout=LONG))

    def verify(self, *, settled: bool, grace: float | None) -> AsyncIterator[Line]:
        """The sum per layer, dataset and reader. Lines: progress, orphan, result."""
        return self._lines("GET", "/verify", params=_given(settled=str(settled).lower(), grace=grace))

    def replay(self, body: Document) -> AsyncIterator[Line]:
        """Send objects to their readers once more. Lines: progress, object (a dry run's), result."""
        return self._lines("POST", "/replays", json=body)

    async def lake_tables(self) -> list[Document]:
        """The lakehouse's tables: rows, files, snapshots."""
        answer = await self._ask("GET", "/lake/tables", timeout=120)
        return list(answer["tables"])

    async def lake_compact(self, dataset: str | None, *, dry_run: bool) -> list[Document]:
        """Have small files written anew as few; what became of each table."""
        body = {**_given(dataset=dataset), "dry_run": dry_run}
        answer = await self._ask("POST", "/lake/compact", json=body, timeout=LONG)
        return list(answer["tables"])

    async def lake_expire(self, dataset: str | None, older_than: datetime | None, *, dry_run: bool) -> list[Document]:
        """Have snapshots forgotten, None: as the server's settings say; what became of each table."""
        before = older_than.isoformat() if older_than else None
        body = {**_given(dataset=dataset, older_than=before), "dry_run": dry_run}
        answer = await self._ask("POST", "/lake/expire", json=body, timeout=LONG)
        return list(answer["tables"])

    async def schedules(self) -> list[Document]:
        """Each schedule, its next time and its last run."""
        return list((await self._ask("GET", "/schedules"))["schedules"])

    async def fire_schedule(self, name: str) -> str:
        """Start a run of a schedule now; its id."""
        return str((await self._ask("POST", f"/schedules/{quote(name, safe='')}/fire"))["run_id"])

    def verify_audit(self) -> AsyncIterator[Line]:
        """Recompute the chain over the audit events. Lines: progress, result."""
        return self._lines("GET", "/audit/verify")

    def compare_audit(self) -> AsyncIterator[Line]:
        """The audit database against the commit objects. Lines: progress, result."""
        return self._lines("GET", "/audit/compare")

    async def dead_letters(self, **filters: str | float | None) -> AsyncIterator[Document]:
        """All dead letters that the filters leave, the newest first, a page at a time."""
        before: str | None = None
        while True:
            asked = _given(**filters, before=before, limit=PAGE)
            page = await self._ask("GET", "/dead-letters", params=asked)
            for letter in page["dead_letters"]:
                yield letter
            if (before := page.get("next")) is None:
                return

    async def dead_letter(self, id: str) -> Document:
        """Everything about one."""
        return dict(await self._ask("GET", f"/dead-letters/{quote(id, safe='')}"))

    async def replay_dead_letter(self, id: str, by: str) -> Document:
        """Send it back to work; once or several times is the same. `by`: who wants it."""
        path = f"/dead-letters/{quote(id, safe='')}/replay"
        return dict(await self._ask("POST", path, json={"by": by}, timeout=LONG))

    async def discard_dead_letter(self, id: str, reason: str, by: str) -> Document:
        """Mark that it will not be worked on; once or several times is the same."""
        path = f"/dead-letters/{quote(id, safe='')}/discard"
        return dict(await self._ask("POST", path, json={"reason": reason, "by": by}, timeout=LONG))

    async def _ask(self, method: str, path: str, **asked: Any) -> Any:
        with self._translated(method, path):
            answer = await self._client.request(method, path, **asked)
        if answer.is_success:
            try:
                return answer.json()
            except ValueError as error:
                raise WrongUse(f"{self._url}{path} answers, but not as Acequia does: check --url") from error
        raise _complaint(self._url, path, answer)

    async def _lines(self, method: str, path: str, **asked: Any) -> AsyncIterator[Line]:
        """A long answer, line by line, until its result. ServerAway where it ends without one."""
        cut_off = ServerAway(f"{self._url} went away in the middle of its answer: run it again")
        request = self._client.build_request(method, path, timeout=LONG, **asked)
        with self._translated(method, path):
            answer = await self._client.send(request, stream=True)
        try:
            if not answer.is_success:
                await answer.aread()
                raise _complaint(self._url, path, answer)
            if not answer.headers.get("content-type", "").startswith("application/x-ndjson"):
                raise WrongUse(f"{self._url}{path} answers, but not as Acequia does: check --url")
            async for line in answer.aiter_lines():
                if not line:
                    continue
                [(kind, document)] = json.loads(line).items()
                if kind == "problem":
                    raise _explained(self._url, path, int(document.get("status", 500)), document)
                yield kind, document
                if kind == "result":
                    return
        except (httpx.HTTPError, ValueError) as error:  # gone, or gone in the middle of a line
            raise cut_off from error
        finally:
            await answer.aclose()
        raise cut_off

    @property
    def _url(self) -> str:
        return str(self._client.base_url).rstrip("/")

    @contextmanager
    def _translated(self, method: str, path: str) -> Iterator[None]:
        """A request that is not answered as a Complaint."""
        try:
            yield
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise WrongUse(f"{self._url} is no URL of Acequia: {error} (for instance http://127.0.0.1:8000)") from error
        except httpx.TimeoutException as error:
            raise ServerAway(f"{self._url} took too long to answer {method} {path}: try again") from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise ServerAway(
                f"nothing answers at {self._url} ({why}): start it (`acequia up`, or docker compose up), "
                "or name another one with --url or ACEQUIA_URL"
            ) from error


def _given(**asked: str | float | None) -> dict[str, str | float]:
    return {name: value for name, value in asked.items() if value is not None}


def _key(idempotency_key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": idempotency_key} if idempotency_key else {}


async def _chunks(path: Path, size: int, sent: Sent | None, sha256: str | None = None) -> AsyncIterator[bytes]:
    """The first `size` bytes of the file: a log that grows meanwhile does no harm."""
    left = size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while left and (chunk := await asyncio.to_thread(file.read, min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
            if not left and sha256 not in (None, digest.hexdigest()):
                raise CommandFailed(f"{path} became another file while it was read: nothing of it was ingested")
            yield chunk
            if sent:
                sent(size - left)
    if left:
        raise CommandFailed(f"{path} became shorter while it was read: nothing of it was ingested, try again")


def _complaint(url: str, path: str, answer: httpx.Response) -> Exception:
    """An answer that is no success, as what a person does next."""
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    document = problem if isinstance(problem, dict) else {}
    return _explained(url, path, answer.status_code, {"detail": answer.reason_phrase, **document})


def _explained(url: str, path: str, status: int, problem: Mapping[str, Any]) -> Exception:
    """A problem (RFC 9457) as what a person does next."""
    detail = str(problem.get("detail") or f"status {status}")
    if status == HTTPStatus.NOT_FOUND:
        if detail == HTTPStatus.NOT_FOUND.phrase:
            return WrongUse(f"{url} has no {path}: check --url")
        return NotThere(detail)
    if status in (HTTPStatus.CONFLICT, HTTPStatus.GONE):
        return CommandFailed(detail)
    if status in _AWAY:
        return ServerAway(f"{detail} ({url}: try again in a few seconds)")
    if status in _WRONG:
        complaint = TooLarge if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else WrongUse
        allowed = problem.get("allowed")
        listed = isinstance(allowed, list) and not all(str(value) in detail for value in allowed)
        return complaint(f"{detail} Allowed: {', '.join(map(str, allowed))}." if listed and allowed else detail)
    return CommandFailed(f"{url}{path} answered {status}: {detail} (its log says more)")
