"""schedules, and schedules fire."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from acequia_cli.client import Api
from acequia_cli.connection import Connection, Where
from acequia_cli.main import app

from .conftest import RUN, Server, done_page, problem


def acequia(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def schedule(**more: Any) -> dict[str, Any]:
    return {
        "name": "network_daily",
        "dataset": "network_events",
        "cron": "0 2 * * *",
        "timezone": "UTC",
        "source": {"kind": "synthetic", "rows": 10},
        "misfire": "last",
        "active": True,
        "next": dict.fromkeys(("due", "local"), (datetime.now(UTC) + timedelta(hours=9.5)).isoformat()),
        "last": None,
        "skipped": 0,
        "skipped_last": None,
        **more,
    }


LAST = {
    "due": "2026-11-21T12:00:00+00:00",
    "local": "2026-11-21T06:00:00-06:00",
    "fired": "2026-11-21T12:00:00.4+00:00",
    "run_id": RUN,
}


@pytest.fixture
def data(tmp_path: Path, connected: Server) -> Path:
    connected.lay("GET", f"/ingestions/{RUN}", done_page())
    return tmp_path


def lay(server: Server, *schedules: dict[str, Any]) -> None:
    server.lay("GET", "/schedules", {"schedules": list(schedules)})


def test_the_list_says_when_each_comes_due_and_what_became_of_its_last_run(connected: Server, data: Path):
    told = schedule(last=LAST, timezone="America/Mexico_City", skipped=3, skipped_last=LAST["due"])
    lay(connected, told)

    text = acequia("schedules", "--data", data).stdout

    for said in ("network_daily", "network_events", "0 2 * * *", "America/Mexico_City"):
        assert said in text
    coming = datetime.fromisoformat(told["next"]["due"])
    assert f"next     {coming:%Y-%m-%d %H:%M} UTC, in 9 hours" in text
    assert f"last     2026-11-21 06:00 -06:00 (12:00 UTC): done, run {RUN}" in text
    assert "3 missed times, the latest 2026-11-21 12:00 UTC" in text


def test_a_time_that_is_another_day_in_utc_is_shown_with_both_days(connected: Server, data: Path):
    late = {**LAST, "due": "2026-11-22T02:00:00+00:00", "local": "2026-11-21T20:00:00-06:00"}
    lay(connected, schedule(last=late))

    assert "2026-11-21 20:00 -06:00 (2026-11-22 02:00 UTC)" in acequia("schedules", "--data", data).stdout


def test_a_schedule_that_is_not_named_says_how_it_would_be(connected: Server, data: Path):
    lay(connected, schedule(active=False, next=None))

    assert "never: ACEQUIA_SCHEDULES does not name it" in acequia("schedules", "--data", data).stdout


def test_the_document_has_the_state_of_the_last_run(connected: Server, data: Path):
    lay(connected, schedule(last=LAST), schedule(name="other"))

    one, other = json.loads(acequia("schedules", "--data", data, "--json").stdout)["schedules"]

    assert (one["last"]["run_id"], one["last"]["state"]) == (RUN, "done")
    assert other["last"] is None


def test_a_last_run_of_which_nobody_can_tell_does_not_hide_the_schedules(connected: Server, data: Path):
    connected.lay("GET", f"/ingestions/{RUN}", problem(503, "the auditor does not answer"))
    lay(connected, schedule(last=LAST))

    assert "state unknown" in acequia("schedules", "--data", data).stdout
    (one,) = json.loads(acequia("schedules", "--data", data, "--json").stdout)["schedules"]
    assert one["last"]["state"] is None


@pytest.mark.parametrize("in_process", [True, False])
def test_where_nothing_serves_the_folder_it_says_that_nothing_fires(
    monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path, in_process: bool
):
    @asynccontextmanager
    async def connect(where: Where, **_: Any) -> AsyncIterator[Connection]:
        async with server.client() as client:
            yield Connection(Api(client), where.data, in_process=in_process)

    monkeypatch.setattr("acequia_cli.commands.connect", connect)
    lay(server, schedule())
    assert ("`acequia up` serves" in acequia("schedules", "--data", tmp_path).stdout) == in_process
    lay(server, schedule(active=False, next=None))
    assert "`acequia up` serves" not in acequia("schedules", "--data", tmp_path).stdout


def test_firing_by_hand_waits_for_the_run(connected: Server, data: Path):
    connected.lay("POST", "/schedules/network_daily/fire", {"run_id": RUN}, status=202)

    done = acequia("schedules", "fire", "network_daily", "--data", data, "--json")

    assert done.exit_code == 0
    assert (json.loads(done.stdout)["run_id"], json.loads(done.stdout)["state"]) == (RUN, "done")


def test_firing_what_is_not_there_names_what_is(connected: Server, data: Path):
    told = problem(404, "No schedule is named 'nightly'. There is: network_daily.")
    connected.lay("POST", "/schedules/nightly/fire", told)

    done = acequia("schedules", "fire", "nightly", "--data", data)

    assert done.exit_code == 1
    assert "There is: network_daily." in done.stderr
