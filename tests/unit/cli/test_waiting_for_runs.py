from collections.abc import Sequence

import pytest

from acequia_cli.client import Api
from acequia_cli.complaints import ServerAway
from acequia_cli.follow import Watched, follow

from .conftest import RUN, Server, bare_page, done_page, event, page, problem

FIRST = "33333333-3333-4333-8333-333333333333"


class Seen:
    """A view that remembers."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.said: list[str] = []

    def show(self, watched: Sequence[Watched]) -> None:
        self.states.append(str(watched[0].page.get("state")))

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def _at_once(at_once: None) -> None: ...


async def test_a_run_is_followed_until_its_page_says_that_it_is_finished(server: Server):
    server.lay("GET", f"/ingestions/{RUN}", bare_page(), page("running", event("ingestor")), done_page())
    one, view = Watched(RUN, "conn.log"), Seen()

    await follow(Api(server.client()), [one], view)

    assert view.states == ["accepted", "running", "done"]
    assert one.finished and one.succeeded


async def test_a_rejected_run_is_finished_and_no_success(server: Server):
    server.lay("GET", f"/ingestions/{RUN}", page("rejected", event("ingestor", "REJECTED")))
    one = Watched(RUN, "conn.log")

    await follow(Api(server.client()), [one], Seen())

    assert one.finished and not one.succeeded


@pytest.mark.parametrize(("first_state", "success"), [("done", True), ("rejected", False), ("failed", False)])
async def test_the_same_content_is_as_good_as_the_first_run(server: Server, first_state: str, success: bool):
    server.lay("GET", f"/ingestions/{RUN}", page("same_content", same_as=FIRST))
    server.lay("GET", f"/ingestions/{FIRST}", page(first_state, run_id=FIRST))
    one = Watched(RUN, "conn.log")

    await follow(Api(server.client()), [one], Seen())

    assert one.finished and one.succeeded is success


async def test_the_same_content_waits_for_the_first_run(server: Server):
    server.lay("GET", f"/ingestions/{RUN}", page("same_content", same_as=FIRST))
    server.lay("GET", f"/ingestions/{FIRST}", page("running", run_id=FIRST), page("done", run_id=FIRST))
    one, view = Watched(RUN, "conn.log"), Seen()

    await follow(Api(server.client()), [one], view)

    assert len(view.states) == 2 and one.succeeded


async def test_an_auditor_that_is_away_for_a_moment_does_not_end_the_wait(server: Server):
    server.lay("GET", f"/ingestions/{RUN}", problem(503, "the auditor does not answer"), done_page())
    server.ready["GET", f"/ingestions/{RUN}"][1] = (200, done_page())
    one, view = Watched(RUN, "conn.log"), Seen()

    await follow(Api(server.client()), [one], view)

    assert one.succeeded
    assert "the auditor does not answer" in view.said[0]


async def test_a_server_that_stays_away_ends_the_wait(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("acequia_cli.follow.AWAY", 0.0)
    server.lay("GET", f"/ingestions/{RUN}", problem(503, "the auditor does not answer"))

    with pytest.raises(ServerAway):
        await follow(Api(server.client()), [Watched(RUN, "conn.log")], Seen())


async def test_silence_names_the_stage_that_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("acequia_cli.follow.SILENCE", -1.0)
    server.lay("GET", f"/ingestions/{RUN}", page("running", event("ingestor")), done_page())
    view = Seen()

    await follow(Api(server.client()), [Watched(RUN, "conn.log")], view)

    assert "waiting for the transformer (transform)" in view.said[0]


async def test_the_wait_ends_at_its_timeout_with_the_run_unfinished(server: Server):
    server.lay("GET", f"/ingestions/{RUN}", page("running", event("ingestor")))
    one = Watched(RUN, "conn.log")

    await follow(Api(server.client()), [one], Seen(), at_most=0.0)

    assert not one.finished and not one.succeeded
