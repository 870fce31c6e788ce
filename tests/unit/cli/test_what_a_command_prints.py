import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from acequia_cli.commands import expand
from acequia_cli.complaints import WrongUse
from acequia_cli.main import app

from .conftest import MODEL, MODEL_ID, RAW, RUN, Server, done_page, event, page, problem

FIRST = "33333333-3333-4333-8333-333333333333"


def acequia(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def accept(server: Server, *pages: Any) -> None:
    server.lay("POST", "/ingestions", {"run_id": RUN}, status=202)
    server.lay("PUT", "/ingestions/files/conn.log", {"run_id": RUN}, status=202)
    server.lay("GET", f"/ingestions/{RUN}", *pages)
    server.lay("GET", "/lineage", {"node": MODEL_ID, "nodes": [], "edges": [], "truncated": False})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "conn.log"
    path.write_text("a line\n")
    return path


def test_a_done_run_gives_one_document_whose_rows_add_up(connected: Server):
    accept(connected, done_page())

    result = acequia("ingest", "synthetic", "--rows", 12, "--json")

    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert document["run_id"] == RUN and document["state"] == "done"
    assert document["rows_in"] == sum(document[f"rows_{part}"] for part in ("silver", "duplicate", "quarantined"))
    assert document["quarantined_by_rule"] == {"bytes_negative": 1}
    assert list(document["artifacts"]) == ["raw", "silver", "models", "eval"]
    assert document["artifacts"]["models"] == [MODEL]
    assert document["model"] == MODEL_ID
    assert document["metrics"] == {"roc_auc": 0.97}
    assert document["promoted"] is True and document["scope"] == "holdout"
    assert document["seconds"] >= 0


def test_progress_goes_to_stderr_beside_a_document(connected: Server):
    accept(connected, done_page())

    assert "transform" in acequia("ingest", "synthetic", "--json").stderr


def test_people_are_told_what_each_number_means(connected: Server):
    accept(connected, done_page())

    text = acequia("demo", "--data", "here").stdout

    assert "12 = 10 SILVER + 1 duplicate + 1 quarantined" in text
    assert "bytes_negative" in text
    assert "chance that an attack scores above a harmless event" in text
    assert f"here/store/{RAW.removeprefix('s3://')}" in text


def test_lines_that_are_no_rows_are_told_by_reason(connected: Server, log: Path):
    document = done_page()
    document["stages"]["ingestor"][0]["lines_skipped"] = {"dns": 680, "alert": 745}
    accept(connected, document)

    words = [line.split()[:2] for line in acequia("ingest", "file", log).stdout.splitlines()]
    at = words.index(["skipped", "1,425"])
    assert words[at + 1 : at + 3] == [["alert", "745"], ["dns", "680"]]
    told = json.loads(acequia("ingest", "file", log, "--json").stdout)
    assert told["lines_skipped"] == {"dns": 680, "alert": 745}


def test_the_same_content_again_is_told_with_the_lines_that_were_skipped_the_first_time(connected: Server, log: Path):
    document = done_page()
    document["stages"]["ingestor"][0]["lines_skipped"] = {"comment": 8}
    accept(connected, page("same_content", event("ingestor", "SAME_CONTENT"), same_as=FIRST))
    connected.lay("GET", f"/ingestions/{FIRST}", {**document, "run_id": FIRST})

    assert json.loads(acequia("ingest", "file", log, "--json").stdout)["lines_skipped"] == {"comment": 8}


def test_an_evaluation_in_sample_says_so(connected: Server):
    document = done_page()
    document["stages"]["evaluator"][0]["parameters"]["scope"] = "in_sample"
    accept(connected, document)

    assert "scope: in_sample" in acequia("demo").stdout


def test_a_rejected_run_exits_1_and_still_gives_its_document(connected: Server, log: Path):
    error = {"type": "RejectedInput", "rule": "no_rows", "message": "no row survives", "traceback": "at line 1"}
    accept(connected, page("rejected", event("ingestor", "REJECTED"), error=error, rows_in=3, rows_quarantined=3))

    result = acequia("ingest", "file", log, "--json")

    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["state"] == "rejected" and document["rows_quarantined"] == 3
    assert document["error"] == {"type": "RejectedInput", "rule": "no_rows", "message": "no row survives"}
    assert "no row survives" in acequia("ingest", "file", log).stdout


def test_the_same_file_again_says_so_with_the_first_runs_numbers(connected: Server, log: Path):
    accept(connected, {**done_page(), "state": "same_content", "same_as": FIRST})
    connected.lay("GET", f"/ingestions/{FIRST}", page("done", run_id=FIRST))

    told, document = acequia("ingest", "file", log), acequia("ingest", "file", log, "--json")

    assert told.exit_code == document.exit_code == 0
    assert f"The same content as run {FIRST}: nothing new was made." in told.stdout
    assert json.loads(document.stdout)["rows_in"] == 12


def test_several_files_give_one_document_of_runs(connected: Server, log: Path):
    other = log.with_name("b.log")
    other.write_text("another\n")
    accept(connected, done_page())
    connected.lay("PUT", "/ingestions/files/b.log", {"run_id": RUN}, status=202)

    result = acequia("ingest", "file", str(log.parent / "*.log"), "--json")

    assert len(json.loads(result.stdout)["runs"]) == 2


def test_no_wait_returns_with_the_run_accepted(connected: Server):
    accept(connected, page("accepted"))

    result = acequia("ingest", "synthetic", "--no-wait", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["state"] == "accepted"


def test_a_wait_that_is_given_up_exits_1(connected: Server):
    accept(connected, page("running", event("ingestor")))

    result = acequia("ingest", "synthetic", "--timeout", 0, "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["finished"] is False
    assert "gave up waiting" in result.stderr


def test_a_refused_request_exits_2_with_one_line(connected: Server):
    connected.lay("POST", "/ingestions", problem(422, "No dataset is named 'x'. There is: network_events."))

    result = acequia("ingest", "synthetic", "--dataset", "x", "--json")

    assert result.exit_code == 2
    assert result.stderr == "acequia: No dataset is named 'x'. There is: network_events.\n"
    assert json.loads(result.stdout)["exit_code"] == 2


def test_a_spanish_flag_means_the_same(connected: Server):
    accept(connected, done_page())

    acequia("demo", "--filas", 5, "--semilla", 0)

    asked = next(body for method, _, _, body in connected.asked if method == "POST")
    assert json.loads(asked)["source"] == {"kind": "synthetic", "rows": 5, "seed": 0, "anomaly_rate": 0.02}
    assert "--filas" not in acequia("demo", "--help").stdout


def test_runs_are_a_table_and_a_document(connected: Server, tmp_path: Path):
    connected.lay("GET", "/runs", {"runs": [done_page()], "next": None})

    assert RUN in acequia("runs", "--data", tmp_path).stdout
    assert json.loads(acequia("runs", "--data", tmp_path, "--json").stdout)["runs"][0]["run_id"] == RUN


def test_a_state_that_is_none_exits_2(tmp_path: Path):
    assert acequia("runs", "--data", tmp_path, "--status", "nope").exit_code == 2


def test_no_installation_yet_says_what_to_do(tmp_path: Path):
    result = acequia("runs", "--data", tmp_path / "none")

    assert result.exit_code == 2
    assert "acequia demo" in result.stderr
    assert not (tmp_path / "none").exists()


def test_a_url_without_a_scheme_exits_2():
    result = acequia("runs", "--url", "localhost:8000")

    assert result.exit_code == 2
    assert "http://" in result.stderr


def test_an_idempotency_key_for_two_files_exits_2(tmp_path: Path):
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_text(name)

    assert acequia("ingest", "file", tmp_path / "*.log", "--idempotency-key", "k").exit_code == 2


def test_a_file_that_is_not_there_exits_2_before_anything_starts(tmp_path: Path):
    data = tmp_path / "data"

    result = acequia("ingest", "file", tmp_path / "no.log", "--data", data)

    assert result.exit_code == 2
    assert result.stderr.endswith("no.log: no such file\n")
    assert not data.exists()


def test_a_folder_is_no_file(tmp_path: Path):
    with pytest.raises(WrongUse, match="is a folder"):
        expand([str(tmp_path)])


def test_a_file_named_twice_is_meant_once(tmp_path: Path):
    file = tmp_path / "a[1].log"
    file.write_text("x")

    assert expand([str(file), str(file)]) == [file]


@pytest.mark.parametrize(
    "command",
    [
        ("demo",),
        ("up",),
        ("ingest", "synthetic"),
        ("ingest", "file"),
        ("runs",),
        ("trace",),
        ("verify",),
        ("sweep",),
        ("replay",),
        ("dlq", "list"),
        ("dlq", "show"),
        ("dlq", "replay"),
        ("dlq", "discard"),
        ("audit", "verify"),
        ("audit", "rebuild"),
    ],
    ids=" ".join,
)
def test_each_command_teaches_by_example(command: tuple[str, ...]):
    result = acequia(*command, "--help")

    assert result.exit_code == 0
    assert f"acequia {' '.join(command)}" in result.stdout.partition("Example")[2]


def test_help_loads_none_of_the_heavy_packages():
    code = (
        "import sys, acequia_cli.main; "
        "print([m for m in ('polars', 'sklearn', 'fastapi', 'httpx', 'pydantic') if m in sys.modules])"
    )

    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert said.strip() == "[]"
