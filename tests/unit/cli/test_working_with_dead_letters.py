"""dlq list, show, replay and discard."""

import getpass
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from acequia_cli.main import app

from .conftest import RAW, RUN, Server, problem

ONE = "3f2a91c0-1111-4111-8111-111111111111"
TWO = "3f2a77aa-2222-4222-8222-222222222222"
THREE = "90000000-3333-4333-8333-333333333333"


def acequia(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def letter(id: str, **more: Any) -> dict[str, Any]:
    return {
        "id": id,
        "run_id": RUN,
        "stage": "transformer",
        "stem": "a_0001",
        "variant": "v1-aaaaaa",
        "dataset": "network_events",
        "reason": "OSError: no space left\nand more",
        "uri": RAW,
        "type": "ObjectCreated",
        "attempt": 6,
        "died_at": "2025-12-20T12:12:09Z",
        "state": "open",
        **more,
    }


@pytest.fixture
def data(tmp_path: Path, connected: Server) -> Path:
    connected.lay("GET", "/dead-letters", {"dead_letters": [letter(ONE), letter(TWO), letter(THREE)], "next": None})
    return tmp_path


def posts(server: Server) -> list[str]:
    return [url.removeprefix("http://acequia.test") for method, url, _, _ in server.asked if method == "POST"]


def test_the_list_says_stage_age_reason_and_object(data: Path):
    text = acequia("dlq", "list", "--data", data).stdout

    for said in ("3f2a91c0", "transformer", "days", "OSError: no space left", RAW):
        assert said in text
    assert "and more" not in text


def test_the_list_filters_at_the_server(connected: Server, data: Path):
    acequia("dlq", "list", "--stage", "trainer", "--older-than", "2h", "--state", "all", "--data", data)

    params = dict(httpx.URL(connected.asked[0][1]).params)
    assert params == {"stage": "trainer", "older_than": "7200.0", "state": "all", "limit": "200"}


def test_a_list_that_is_cut_says_that_there_are_more(data: Path):
    document = json.loads(acequia("dlq", "list", "--limit", 2, "--data", data, "--json").stdout)

    assert len(document["dead_letters"]) == 2 and document["more"] is True
    assert "There are more" in acequia("dlq", "list", "--limit", 2, "--data", data).stdout
    assert "There are more" not in acequia("dlq", "list", "--limit", 3, "--data", data).stdout


def test_ids_are_shown_as_long_as_it_takes_to_tell_them_apart(connected: Server, data: Path):
    close = ONE[:-1] + "2"
    connected.lay("GET", "/dead-letters", {"dead_letters": [letter(ONE), letter(close)]})

    text = acequia("dlq", "list", "--data", data).stdout

    assert ONE in text and close in text


def test_no_dead_letter_is_told(connected: Server, data: Path):
    connected.lay("GET", "/dead-letters", {"dead_letters": []})

    assert acequia("dlq", "list", "--data", data).stdout == "No dead letter.\n"
    assert acequia("dlq", "list", "--stage", "trainer", "--data", data).stdout == "No such dead letter.\n"


def test_one_is_shown_whole_by_the_beginning_of_its_id(connected: Server, data: Path):
    whole = letter(
        ONE,
        payload='{"EventName": "s3:ObjectCreated:Put"}',
        payload_is_base64=False,
        headers={"acequia-attempt": "6"},
        traceback="Traceback (most recent call last)\nOSError",
        acts=[{"act": "replayed", "at": "2025-12-21T00:00:00Z", "reason": "disk is free", "by": "ana"}],
    )
    connected.lay("GET", f"/dead-letters/{ONE}", whole)

    text = acequia("dlq", "show", "3F2A-91", "--data", data).stdout

    for said in (
        ONE,
        "and more",
        "Traceback (most recent",
        '"EventName"',
        "acequia-attempt: 6",
        "replayed by ana: disk is free",
    ):
        assert said in text
    assert f"{data}/store/cybersec-ml-raw" in text.replace("\n", "")
    assert json.loads(acequia("dlq", "show", ONE, "--data", data, "--json").stdout) == whole


def test_a_payload_that_is_no_text_is_not_thrown_at_a_person(connected: Server, data: Path):
    connected.lay("GET", f"/dead-letters/{ONE}", letter(ONE, payload="AAECAw==", payload_is_base64=True))

    assert "bytes that are no text" in acequia("dlq", "show", ONE, "--data", data).stdout


@pytest.mark.parametrize(
    ("id", "code", "said"),
    [("3f2a", 2, "begins 2 ids"), ("ffff", 1, "begins with ffff"), ("3f2", 2, "is no id"), ("model", 2, "is no id")],
)
def test_what_names_no_dead_letter_or_several_says_so(data: Path, id: str, code: int, said: str):
    result = acequia("dlq", "show", id, "--data", data)

    assert result.exit_code == code
    assert said in result.stderr


def test_the_named_are_replayed_each_once(connected: Server, data: Path):
    for id in (ONE, THREE):
        connected.lay("POST", f"/dead-letters/{id}/replay", {"id": id, "state": "replayed"})

    result = acequia("dlq", "replay", "3f2a91", ONE, "9000", "--data", data, "--json")

    assert result.exit_code == 0
    assert posts(connected) == [f"/dead-letters/{ONE}/replay", f"/dead-letters/{THREE}/replay"]
    assert json.loads(result.stdout)["replayed"] == 2


def test_all_of_a_stage_are_replayed(connected: Server, data: Path):
    for id in (ONE, TWO, THREE):
        connected.lay("POST", f"/dead-letters/{id}/replay", {"id": id, "state": "replayed"})

    result = acequia("dlq", "replay", "--all", "--stage", "transformer", "--data", data)

    assert len(posts(connected)) == 3
    assert dict(httpx.URL(connected.asked[0][1]).params)["stage"] == "transformer"
    assert dict(httpx.URL(connected.asked[0][1]).params)["state"] == "open"
    assert "3 dead letters replayed." in result.stdout and RAW in result.stdout


def test_a_dry_replay_touches_nothing(connected: Server, data: Path):
    for id in (ONE, TWO, THREE):
        connected.lay("GET", f"/dead-letters/{id}", letter(id))

    result = acequia("dlq", "replay", "--all", "--dry-run", "--data", data)

    assert posts(connected) == []
    assert "3 dead letters would be replayed (--dry-run)." in result.stdout


@pytest.mark.parametrize("status", [409, 422])
def test_one_that_is_refused_does_not_keep_the_others(connected: Server, data: Path, status: int):
    connected.lay("POST", f"/dead-letters/{ONE}/replay", problem(status, "its object is gone"))
    for id in (TWO, THREE):
        connected.lay("POST", f"/dead-letters/{id}/replay", {"id": id, "state": "replayed"})

    result = acequia("dlq", "replay", "--all", "--data", data)

    assert result.exit_code == 1
    assert len(posts(connected)) == 3
    assert "its object is gone" in result.stdout and "2 dead letters replayed." in result.stdout


def test_a_server_that_goes_away_says_how_far_it_came(connected: Server, data: Path):
    connected.lay("POST", f"/dead-letters/{ONE}/replay", {"id": ONE, "state": "replayed"})
    connected.lay("POST", f"/dead-letters/{TWO}/replay", problem(503, "the broker is away"))

    result = acequia("dlq", "replay", "--all", "--data", data)

    assert result.exit_code == 1
    assert "the broker is away" in result.stderr and "1 replayed before" in result.stderr
    assert len(posts(connected)) == 2


def test_inputs_of_a_dead_plan_that_are_gone_are_named(connected: Server, data: Path):
    connected.lay("POST", f"/dead-letters/{ONE}/replay", {"id": ONE, "state": "replayed", "sent": 2, "gone": [RAW]})

    assert f"{RAW}: not sent" in acequia("dlq", "replay", ONE, "--data", data).stdout


@pytest.mark.parametrize("reason", ["--reason", "--motivo"])
def test_a_discard_sends_its_reason(connected: Server, data: Path, reason: str):
    connected.lay("POST", f"/dead-letters/{ONE}/discard", {"id": ONE, "state": "discarded"})

    result = acequia("dlq", "discard", ONE, reason, "sent twice", "--data", data)

    assert result.exit_code == 0
    assert json.loads(connected.asked[-1][3]) == {"reason": "sent twice", "by": getpass.getuser()}
    assert "1 dead letter discarded." in result.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ("replay",),
        ("replay", ONE, "--all"),
        ("replay", ONE, "--stage", "trainer"),
        ("replay", "--all", "--older-than", "long"),
        ("discard", ONE),
        ("discard", ONE, "--reason", " "),
        ("discard", "--all", "--reason", "x"),
        ("discard", "--reason", "x"),
    ],
    ids=" ".join,
)
def test_what_is_not_said_clearly_is_not_done(connected: Server, data: Path, wrong: tuple[str, ...]):
    result = acequia("dlq", *wrong, "--data", data)

    assert result.exit_code == 2
    assert posts(connected) == []


def test_all_are_discarded_only_with_yes(connected: Server, data: Path):
    for id in (ONE, TWO, THREE):
        connected.lay("POST", f"/dead-letters/{id}/discard", {"id": id, "state": "discarded"})

    acequia("dlq", "discard", "--all", "--reason", "old", "--yes", "--data", data)

    assert len(posts(connected)) == 3
