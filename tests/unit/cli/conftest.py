"""Pages as the server answers them, and a server that answers them one after another."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from acequia_cli.client import Api
from acequia_cli.connection import Connection, Where

RUN = "11111111-1111-4111-8111-111111111111"
TRAINING = "22222222-2222-4222-8222-222222222222"
RAW = "s3://cybersec-ml-raw/network_events/date=2025-12-20/a_0001.parquet"
SILVER = "s3://cybersec-ml-silver/network_events/date=2025-12-20/a_0001.v1-aaaaaa.parquet"
MODEL_ID = "network_events_20251220_121211_plan_000001.v1-bbbbbb"
MODEL = f"s3://cybersec-ml-models/network_events/date=2025-12-20/{MODEL_ID}/model.json"
EVALUATION = "s3://cybersec-ml-eval/network_events/date=2025-12-20/plan_000001.v1-cccccc/evaluation.json"

Answer = Callable[[httpx.Request], httpx.Response]


def event(stage: str, status: str = "SUCCESS", **more: Any) -> dict[str, Any]:
    return {
        "kind": "dead" if status == "DEAD" else "note" if status == "FAILED" else "outcome",
        "status": status,
        "stage": stage,
        "run_id": RUN if stage in ("ingestor", "transformer") else TRAINING,
        "started": "2025-12-20T12:12:10Z",
        "finished": "2025-12-20T12:12:10.500000Z",
        "inputs": [],
        "inputs_count": 0,
        "parameters": {},
        "metrics": {},
        "error": None,
        **more,
    }


def page(state: str, *events: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    stages: dict[str, list[Any]] = {}
    for one in events:
        stages.setdefault(one["stage"], []).append(one)
    return {
        "run_id": RUN,
        "dataset": "network_events",
        "source": "conn.log",
        "accepted_at": "2025-12-20T12:12:09Z",
        "finished_at": None,
        "state": state,
        "finished": state not in ("accepted", "running"),
        "rows_in": None,
        "rows_raw": None,
        "rows_silver": None,
        "rows_duplicate": None,
        "rows_quarantined": None,
        "same_as": None,
        "raw_objects": sum(e["status"] == "SUCCESS" for e in stages.get("ingestor", ())),
        "pending": 0,
        "quarantined_by_rule": {},
        "artifacts": {},
        "model": None,
        "metrics": {},
        "error": None,
        "stages": stages,
        **more,
    }


def bare_page() -> dict[str, Any]:
    """What the ingestor answers before the auditor knows the run."""
    return {
        "run_id": RUN,
        "dataset": "network_events",
        "state": "accepted",
        "finished": False,
        "accepted_at": "2025-12-20T12:12:09+00:00",
        "events": [],
    }


def done_page() -> dict[str, Any]:
    return page(
        "done",
        event("ingestor"),
        event("transformer"),
        event("lakehouse", inputs=[{"uri": SILVER}], inputs_count=1, metrics={"rows_added": 10.0}),
        event(
            "trainer",
            inputs=[{"uri": SILVER}],
            inputs_count=1,
            metrics={"rows_trained": 8.0, "rows_held_out": 2.0},
        ),
        event("evaluator", parameters={"scope": "holdout"}),
        rows_in=12,
        rows_raw=12,
        rows_silver=10,
        rows_duplicate=1,
        rows_quarantined=1,
        quarantined_by_rule={"bytes_negative": 1},
        artifacts={"eval": [EVALUATION], "models": [MODEL], "raw": [RAW], "silver": [SILVER]},
        model=MODEL_ID,
        metrics={"roc_auc": 0.97, "promoted": 1.0},
    )


class Server:
    """Answers each path with what was laid ready for it, one after another; the last again and again."""

    def __init__(self) -> None:
        self.ready: dict[tuple[str, str], list[Any]] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    def lay(self, method: str, path: str, *answers: Any, status: int = 200) -> None:
        self.ready[method, path] = [a if isinstance(a, httpx.Response) else (status, a) for a in answers]

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(
            (
                request.method,
                str(request.url),
                {k.lower(): v for k, v in request.headers.items()},
                await request.aread(),
            )
        )
        answers = self.ready.get((request.method, request.url.path))
        if answers is None:
            return problem(404, "Not Found")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, content=answer.content, headers=answer.headers)
        return httpx.Response(answer[0], content=json.dumps(answer[1]))

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self), base_url="http://acequia.test")


def lines(*documents: Mapping[str, Any], cut: str = "") -> httpx.Response:
    """A long answer, a document a line; `cut`: what it breaks off with."""
    text = "".join(f"{json.dumps(document)}\n" for document in documents) + cut
    return httpx.Response(200, content=text, headers={"content-type": "application/x-ndjson"})


def problem(status: int, detail: str, **more: Any) -> httpx.Response:
    document = {"type": "about:blank", "title": "a title", "status": status, "detail": detail, **more}
    return httpx.Response(status, json=document, headers={"content-type": "application/problem+json"})


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for between two questions."""
    monkeypatch.setattr("acequia_cli.follow.PAUSE", 0.0)
    monkeypatch.setattr("acequia_cli.follow.PAUSE_MOST", 0.0)


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch, at_once: None, server: Server) -> Server:
    """Each command talks to the server."""

    @asynccontextmanager
    async def connect(where: Where, *, once: bool = False) -> AsyncIterator[Connection]:
        async with server.client() as client:
            yield Connection(Api(client), where.data, in_process=False)

    monkeypatch.setattr("acequia_cli.commands.connect", connect)
    return server
