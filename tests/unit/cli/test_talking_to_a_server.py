from pathlib import Path

import httpx
import pytest

from acequia_cli.client import Api
from acequia_cli.complaints import CommandFailed, ServerAway, WrongUse

from .conftest import RUN, Server, problem


async def test_a_file_is_streamed_with_its_length_and_options(server: Server, tmp_path: Path):
    file = tmp_path / "a file.log"
    file.write_bytes(b"x" * 3_000_000)
    server.lay("PUT", "/ingestions/files/a file.log", {"run_id": RUN}, status=202)
    seen: list[int] = []

    run = await Api(server.client()).ingest_file(file, dataset="network_events", idempotency_key="k", sent=seen.append)

    [(_, url, headers, body)] = server.asked
    assert run == RUN
    assert url == "http://acequia.test/ingestions/files/a%20file.log?dataset=network_events"
    assert headers["content-length"] == "3000000" and "transfer-encoding" not in headers
    assert headers["idempotency-key"] == "k"
    assert len(body) == 3_000_000
    assert seen[-1] == 3_000_000 and len(seen) == 3


async def test_a_problem_says_what_is_allowed(server: Server):
    server.lay("POST", "/ingestions", problem(422, "No dataset is named 'x'.", allowed=["network_events"]))

    with pytest.raises(WrongUse, match=r"No dataset is named 'x'\. Allowed: network_events"):
        await Api(server.client()).ingest_synthetic("x", 1, 1, 0.0)


async def test_a_503_is_a_server_that_is_away(server: Server):
    server.lay("GET", f"/ingestions/{RUN}", problem(503, "the auditor does not answer"))

    with pytest.raises(ServerAway, match="the auditor does not answer"):
        await Api(server.client()).run(RUN)


async def test_a_500_points_at_the_log(server: Server):
    server.lay("GET", "/datasets", problem(500, "Internal Server Error"))

    with pytest.raises(CommandFailed, match="its log says more"):
        await Api(server.client()).datasets()


async def test_nobody_at_the_url_says_how_to_start_it():
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    client = httpx.AsyncClient(transport=httpx.MockTransport(refuse), base_url="http://acequia.test")

    with pytest.raises(ServerAway, match=r"nothing answers at http://acequia\.test .*acequia up"):
        await Api(client).datasets()


async def test_a_server_that_has_no_such_call_points_at_the_url(server: Server):
    with pytest.raises(WrongUse, match="has no /runs: check --url"):
        await Api(server.client()).runs(limit=1)


async def test_runs_are_asked_for_page_by_page(server: Server):
    server.lay("GET", "/runs", {"runs": [{"run_id": "1"}], "next": "2025-12-20T00:00:00Z"}, {"runs": [], "next": None})

    found = await Api(server.client()).runs(limit=300, status="done")

    assert found == [{"run_id": "1"}]
    assert [httpx.URL(url).params.get("before") for _, url, _, _ in server.asked] == [None, "2025-12-20T00:00:00Z"]


async def test_a_page_that_is_not_acequias_is_wrong_use(server: Server):
    server.lay("GET", "/datasets", httpx.Response(200, text="<html>"))

    with pytest.raises(WrongUse, match="not as Acequia does"):
        await Api(server.client()).datasets()
