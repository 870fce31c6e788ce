"""verify, sweep, replay and audit verify, as people and programs see them."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from acequia_cli.completeness import sums_table
from acequia_cli.main import app

from .conftest import RAW, Server, lines, problem

HASH = "0f3a" * 16


def acequia(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def data(tmp_path: Path, connected: Server) -> Path:
    """A folder that is there; who is asked about it is the server."""
    return tmp_path


def row(reader: str = "transformer", layer: str = "raw", **parts: int) -> dict[str, Any]:
    counted = dict.fromkeys(("done", "quarantined", "dead", "not_applicable", "in_flight", "orphans"), 0) | parts
    return {"layer": layer, "dataset": "network_events", "reader": reader, "objects": sum(counted.values()), **counted}


def verified(*sums: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"result": {"settled": True, "ok": True, "sums": list(sums), "queues": {}, "problems": [], **more}}


def compared(**more: Any) -> dict[str, Any]:
    result = {"ok": True, "commit_objects": 4, "missing_in_database": [], "missing_in_store": [], "counts": {}, **more}
    return {"result": result}


ORPHAN = {
    "layer": "raw",
    "dataset": "network_events",
    "reader": "transformer",
    "uri": RAW,
    "since": "2025-12-20T12:12:09+00:00",
    "reason": "it has no outcome",
}


def test_a_whole_store_is_told_in_sums_and_exits_0(connected: Server, data: Path):
    connected.lay("GET", "/verify", lines(verified(row(done=1200, quarantined=3, dead=1))))

    result = acequia("verify", "--data", data)

    assert result.exit_code == 0
    assert "RAW    network_events  transformer    1,204   1,200              3       1" in result.stdout
    assert "Nothing is lost" in result.stdout
    assert "1 dead letter: `acequia dlq list`" in result.stdout


def test_an_orphan_is_listed_with_its_reason_and_exits_1(connected: Server, data: Path):
    one = verified(row(done=3, orphans=1), ok=False, problems=["1 orphan: nobody is at work on that"])
    connected.lay("GET", "/verify", lines({"orphan": ORPHAN}, one))

    told, document = acequia("verify", "--data", data), acequia("verify", "--data", data, "--json")

    assert told.exit_code == document.exit_code == 1
    assert RAW in told.stdout and "it has no outcome" in told.stdout and "days" in told.stdout
    assert "acequia sweep" in told.stdout and "Nothing is lost" not in told.stdout
    assert json.loads(document.stdout)["orphans"] == [ORPHAN]
    assert json.loads(document.stdout)["ok"] is False


def test_orphans_beyond_what_is_listed_are_counted(connected: Server, data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("acequia_cli.completeness.LISTED_MOST", 2)
    connected.lay("GET", "/verify", lines(*[{"orphan": ORPHAN}] * 5, verified(row(orphans=5), ok=False)))

    told, document = acequia("verify", "--data", data), acequia("verify", "--data", data, "--json")

    assert told.stdout.count(RAW) == 2 and "and 3 more" in told.stdout
    assert json.loads(document.stdout)["orphans_left_out"] == 3


def test_sums_that_do_not_add_up_are_a_problem_whatever_the_server_says(connected: Server, data: Path):
    connected.lay("GET", "/verify", lines(verified(row(done=3) | {"objects": 4})))

    result = acequia("verify", "--data", data)

    assert result.exit_code == 1
    assert "4 objects, but the parts add up to 3" in result.stdout


def test_the_sums_fit_a_terminal_of_80_columns():
    table = sums_table([row(done=12_345_678, in_flight=1000, orphans=99_999)], narrow=True)
    console = Console(width=80, file=StringIO())
    console.print(table)

    told = console.file.getvalue()

    assert "RAW, transformer" in told and "network_events" in told
    for number in ("12,446,677", "12,345,678", "1,000", "99,999"):
        assert number in told


def test_progress_of_a_verify_goes_to_stderr(connected: Server, data: Path):
    progress = [{"progress": {"layer": "raw", "dataset": None, "reader": "transformer", "seen": n}} for n in (1, 2000)]
    connected.lay("GET", "/verify", lines(*progress, verified(row(done=1))))

    result = acequia("verify", "--data", data, "--json")

    assert json.loads(result.stdout)["ok"] is True
    assert result.stderr == "RAW       transformer: 2,000 objects\n"


def test_settled_compares_the_database_and_shows_what_waits(connected: Server, data: Path):
    connected.lay("GET", "/verify", lines(verified(row(done=4), queues={"acequia.audit": 12, "acequia.trainer": 0})))
    connected.lay("GET", "/audit/compare", lines(compared()))

    result = acequia("verify", "--settled", "--grace", 0, "--data", data)

    assert result.exit_code == 0
    assert "agree on 4 commit objects" in result.stdout
    assert "Waiting: 12 in acequia.audit" in result.stdout
    assert dict(httpx.URL(connected.asked[0][1]).params) == {"settled": "true", "grace": "0.0"}


def test_settled_exits_1_where_the_database_lacks_a_record(connected: Server, data: Path):
    connected.lay("GET", "/verify", lines(verified(row(done=4))))
    counts = {"missing_in_database": 3, "missing_in_store": 0, "unreadable": 2}
    answer = compared(ok=False, missing_in_database=[RAW], counts=counts)
    connected.lay("GET", "/audit/compare", lines(answer))

    result = acequia("verify", "--settled", "--data", data)

    assert result.exit_code == 1
    assert f"{RAW}: not in the database; `acequia audit rebuild`" in result.stdout
    assert "and 2 more not in the database" in result.stdout and "2 objects that can't be read" in result.stdout
    assert "Nothing is lost" not in result.stdout


def test_without_settled_the_database_is_not_asked(connected: Server, data: Path):
    connected.lay("GET", "/verify", lines(verified(row(done=4))))

    document = json.loads(acequia("verify", "--data", data, "--json").stdout)

    assert document["audit"] is None and len(connected.asked) == 1


def test_a_verify_that_breaks_off_exits_1_with_one_line(connected: Server, data: Path):
    connected.lay("GET", "/verify", lines({"orphan": ORPHAN}))

    result = acequia("verify", "--data", data, "--json")

    assert result.exit_code == 1
    assert result.stderr == "acequia: http://acequia.test went away in the middle of its answer: run it again\n"
    assert json.loads(result.stdout)["exit_code"] == 1


def test_a_sweep_tells_what_it_sent(connected: Server, data: Path):
    found = {"seen": {"ingestor": 2, "transformer": 3}, "orphans": [RAW], "sent": 1, "held_back": 0, "removed": []}
    connected.lay("POST", "/sweep", found)

    result = acequia("sweep", "--grace", 5, "--data", data)

    assert result.exit_code == 0
    assert RAW in result.stdout and "5 objects looked at, 1 orphan; 1 sent again." in result.stdout
    assert dict(httpx.URL(connected.asked[0][1]).params) == {"dry_run": "false", "grace": "5.0"}


def test_a_dry_sweep_sends_nothing_and_says_so(connected: Server, data: Path):
    connected.lay("POST", "/sweep", {"seen": {"x": 1}, "orphans": [RAW], "sent": 0, "held_back": 0, "removed": []})

    result = acequia("sweep", "--dry-run", "--data", data)

    assert "nothing was sent" in result.stdout
    assert httpx.URL(connected.asked[0][1]).params["dry_run"] == "true"


def test_a_replay_asks_for_what_was_meant_and_tells_what_was_sent(connected: Server, data: Path):
    result = {"seen": 10, "matched": 4, "sent": 4, "dead": 1}
    connected.lay("POST", "/replays", lines({"progress": {**result, "sent": 1}}, {"result": result}))

    told = acequia(
        *("replay", "--layer", "RAW", "--dataset", "network_events"),
        *("--since", "2026-11-01", "--until", "2026-11-02T12:00Z", "--only-missing", "--data", data),
    )

    assert told.exit_code == 0
    assert json.loads(connected.asked[0][3]) == {
        "layer": "raw",
        "dataset": "network_events",
        "since": "2026-11-01T00:00:00+00:00",
        "until": "2026-11-02T12:00:00+00:00",
        "only_missing": True,
        "stale": False,
        "dry_run": False,
    }
    assert "10 objects seen, 4 matched, 4 sent" in told.stdout
    assert "1 dead letter left alone: `acequia dlq replay`" in told.stdout
    assert told.stderr == "RAW  10 objects seen, 4 matched, 1 sent\n"


def test_a_dry_replay_lists_the_objects(connected: Server, data: Path):
    answer = lines({"object": {"uri": RAW}}, {"result": {"seen": 3, "matched": 1, "sent": 0, "dead": 0}})
    connected.lay("POST", "/replays", answer)
    command = ("replay", "--layer", "raw", "--dataset", "network_events", "--dry-run", "--data", data)

    assert RAW in acequia(*command).stdout
    assert json.loads(acequia(*command, "--json").stdout)["objects"] == [RAW]


def test_the_spanish_flags_of_a_replay_mean_the_same(connected: Server, data: Path):
    connected.lay("POST", "/replays", lines({"result": {"seen": 0, "matched": 0, "sent": 0, "dead": 0}}))

    acequia(
        *("replay", "--capa", "silver", "--dataset", "network_events"),
        *("--desde", "2026-11-01", "--hasta", "2026-11-02", "--data", data),
    )

    body = json.loads(connected.asked[0][3])
    assert (body["layer"], body["since"][:10], body["until"][:10]) == ("silver", "2026-11-01", "2026-11-02")
    assert "--capa" not in acequia("replay", "--help").stdout


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("--layer", "quarantine"),
        ("--layer", "raw", "--only-missing", "--stale"),
        ("--layer", "raw", "--since", "soon"),
    ],
    ids=" ".join,
)
def test_a_replay_of_nothing_that_is_exits_2(connected: Server, data: Path, wrong: tuple[str, ...]):
    result = acequia("replay", "--dataset", "network_events", *wrong, "--data", data)

    assert result.exit_code == 2
    assert connected.asked == []


def test_a_whole_chain_is_one_sentence(connected: Server, data: Path):
    result = {
        "ok": True,
        "chain": "c",
        "records": 1234,
        "head": {"seq": 1234, "hash": HASH},
        "anchors": 2,
        "last_anchor": {"seq": 1200, "hash": HASH},
        "problems": [],
    }
    connected.lay("GET", "/audit/verify", lines({"progress": {"seq": 1000, "of": 1234}}, {"result": result}))

    told = acequia("audit", "verify", "--data", data)

    assert told.exit_code == 0
    assert "The chain is whole: 1,234 records" in told.stdout and "the last at record 1,200" in told.stdout
    assert told.stderr == "audit  1,000 of 1,234 records\n"
    assert "stands in for" not in told.stdout
    assert json.loads(acequia("audit", "verify", "--data", data, "--json").stdout) == result


def test_a_chain_that_began_in_place_of_another_says_so(connected: Server, data: Path):
    result = {
        "ok": True,
        "chain": "c",
        "records": 3,
        "head": {"seq": 3, "hash": HASH},
        "anchors": 0,
        "last_anchor": None,
        "previous": {"chain": "the-old-one", "seq": 1200, "hash": HASH, "anchored_at": "2026-11-01T12:00:00Z"},
        "problems": [],
    }
    connected.lay("GET", "/audit/verify", lines({"result": result}))

    told = acequia("audit", "verify", "--data", data)

    assert told.exit_code == 0
    assert "It stands in for the chain the-old-one, anchored up to record 1,200 at 2026-11-01" in told.stdout


def test_a_broken_chain_names_the_place_and_exits_1(connected: Server, data: Path):
    result = {
        "ok": False,
        "chain": "c",
        "records": 9,
        "head": {"seq": 9, "hash": HASH},
        "anchors": 0,
        "last_anchor": None,
        "problems": ["record 7 was changed"],
    }
    connected.lay("GET", "/audit/verify", lines({"result": result}))

    told = acequia("audit", "verify", "--data", data)

    assert told.exit_code == 1
    assert "The chain is broken" in told.stdout and "record 7 was changed" in told.stdout


def test_a_neighbour_that_is_away_is_named(connected: Server, data: Path):
    connected.lay("GET", "/verify", problem(503, "the reconciler does not answer"))

    result = acequia("verify", "--data", data)

    assert result.exit_code == 1
    assert "the reconciler does not answer" in result.stderr
