from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from acequia_cli.client import Api
from acequia_cli.complaints import CommandFailed, ServerAway, WrongUse

from .conftest import RUN, Server, lines, problem


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


async def collect(server: Server) -> list[tuple[str, dict[str, object]]]:
    return [line async for line in Api(server.client()).verify(settled=True, grace=0)]


async def test_a_long_answer_is_read_line_by_line_to_its_result(server: Server):
    server.lay("GET", "/verify", lines({"progress": {"seen": 1}}, {"result": {"ok": True}}))

    assert await collect(server) == [("progress", {"seen": 1}), ("result", {"ok": True})]
    assert server.asked[0][1] == "http://acequia.test/verify?settled=true&grace=0"


@pytest.mark.parametrize("cut", ["", '{"progress": {"se', "\n"])
async def test_a_long_answer_without_a_result_says_run_it_again(server: Server, cut: str):
    server.lay("GET", "/verify", lines({"progress": {"seen": 1}}, cut=cut))

    with pytest.raises(ServerAway, match=r"went away in the middle of its answer: run it again"):
        await collect(server)


async def test_a_connection_that_breaks_in_the_middle_of_a_long_answer_says_run_it_again():
    async def broken() -> AsyncIterator[bytes]:
        yield b'{"progress": {"seen": 1}}\n'
        raise httpx.ReadError("reset by peer")

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=broken(), headers={"content-type": "application/x-ndjson"})

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://acequia.test")

    with pytest.raises(ServerAway, match="run it again"):
        [line async for line in Api(client).verify_audit()]


async def test_a_problem_in_the_middle_of_a_long_answer_is_told(server: Server):
    document = {"type": "about:blank", "title": "minio is unavailable", "status": 503, "detail": "minio is away"}
    server.lay("GET", "/verify", lines({"progress": {"seen": 1}}, {"problem": document}))

    with pytest.raises(ServerAway, match=r"minio is away .*try again"):
        await collect(server)


async def test_a_long_answer_that_is_refused_is_a_complaint_like_any_other(server: Server):
    server.lay("POST", "/replays", problem(422, "there is no layer 'x'"))

    with pytest.raises(WrongUse, match="there is no layer 'x'"):
        [line async for line in Api(server.client()).replay({"layer": "x"})]


async def test_dead_letters_are_asked_for_page_by_page(server: Server):
    server.lay("GET", "/dead-letters", {"dead_letters": [{"id": "1"}], "next": "t"}, {"dead_letters": [{"id": "2"}]})

    found = [letter async for letter in Api(server.client()).dead_letters(stage="trainer", dataset=None)]

    assert [letter["id"] for letter in found] == ["1", "2"]
    params = [dict(httpx.URL(url).params) for _, url, _, _ in server.asked]
    assert params == [{"stage": "trainer", "limit": "200"}, {"stage": "trainer", "before": "t", "limit": "200"}]
