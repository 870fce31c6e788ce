"""The `acequia` command as a person starts it, on the embedded installation."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acequia.adapters.sqlite import SqliteBus
from acequia.events import ObjectCreated, to_notification
from acequia.layers import Layer
from acequia.ports import Message
from acequia.topology import dead_queue

PATIENCE = 240
CSV = "timestamp,src_ip,dst_ip,bytes,duration,protocol\n" + "".join(
    f"2025-12-20T12:{n // 60:02d}:{n % 60:02d}Z,10.0.0.{n % 7},192.0.2.{n % 5},{100 + n},{0.5 + n},tcp\n"
    for n in range(200)
)
Command = Callable[..., subprocess.CompletedProcess[str]]


def environment(**more: str) -> dict[str, str]:
    ours = ("ACEQUIA_", "MINIO_", "RABBITMQ_", "PG_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


def acequia(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "acequia_cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(**env),
        check=False,
    )


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """The one document on stdout."""
    try:
        return json.loads(done.stdout)
    except ValueError:
        pytest.fail(f"no document:\n{done.stdout}\n{done.stderr}")


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine may enter: started by root, PostgreSQL runs as a user of its own."""
    with tempfile.TemporaryDirectory(prefix="acequia-cli-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="module")
def data(open_folder: Path) -> Path:
    return open_folder / "data"


@pytest.fixture(scope="module")
def first(data: Path) -> dict[str, Any]:
    """The document of a first demo."""
    done = acequia("demo", "--rows", 1000, "--data", data, "--json")
    assert done.returncode == 0, done.stderr
    return dict(document(done))


async def bury(data: Path, uri: str) -> None:
    """Leave a message about an object among the dead of the transformer, as if it had failed on every rung."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    event = ObjectCreated(layer=Layer.RAW, bucket=bucket, key=key, etag="0" * 32, size=1)
    bus = await SqliteBus.open(data / "bus.sqlite")
    try:
        headers = {"acequia-error": "OSError: no space left on device", "acequia-attempt": "6"}
        await bus.publish("", dead_queue("transformer"), Message(to_notification(event), headers=headers))
    finally:
        await bus.close()


@pytest.fixture(scope="module")
def up(data: Path, first: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """An `acequia up` over the folder of the first demo, where meanwhile a message died."""
    asyncio.run(bury(data, first["artifacts"]["raw"][0]))
    process = subprocess.Popen(
        [sys.executable, "-m", "acequia_cli.main", "up", "--port", "0", "--data", str(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    try:
        give_up = time.monotonic() + PATIENCE
        while not (data / "server.json").exists():
            assert process.poll() is None and time.monotonic() < give_up, "it did not come up"
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_demo_accounts_for_each_row_and_its_artifacts_lie_on_the_disk(first: dict[str, Any]):
    assert first["state"] == "done"
    assert first["rows_in"] == first["rows_raw"] == 1000
    assert first["rows_in"] == first["rows_silver"] + first["rows_duplicate"] + first["rows_quarantined"]
    assert set(first["artifacts"]) == {"raw", "silver", "lake", "models", "eval"}
    assert all(Path(path).is_file() for path in first["paths"].values())
    assert "roc_auc" in first["metrics"] and first["model"] and first["seconds"] > 0


def test_the_lineage_of_a_demos_model_begins_at_raw_and_ends_at_its_evaluation(first: dict[str, Any]):
    depths = {node["uri"]: node["depth"] for node in first["lineage"]["nodes"]}

    assert depths[first["artifacts"]["raw"][0]] < depths[first["artifacts"]["silver"][0]] < 0
    assert any(depths.get(uri, 0) > 0 for uri in first["artifacts"]["eval"])


def test_a_demo_over_the_running_installation_is_a_new_run_told_for_people(
    data: Path, first: dict[str, Any], up: subprocess.Popen[str]
):
    done = acequia("demo", "--rows", 1000, "--data", data)

    assert done.returncode == 0, done.stderr
    assert first["run_id"] not in done.stdout.partition("Lineage")[0]
    for said in ("transform", "1,000 = ", "roc_auc", "Lineage of the model", "EVAL s3://"):
        assert said in done.stdout


def test_the_same_file_again_makes_nothing_new_and_says_so(data: Path, tmp_path: Path, up: subprocess.Popen[str]):
    file = tmp_path / "network_events.csv"
    file.write_text(CSV)

    once = document(acequia("ingest", "file", file, "--data", data, "--json"))
    again = acequia("ingest", "file", file, "--data", data, "--json")

    assert once["rows_silver"] == 200
    assert again.returncode == 0
    assert document(again)["state"] == "same_content" and document(again)["same_as"] == once["run_id"]
    assert document(again)["rows_silver"] == 200 and document(again)["artifacts"] == once["artifacts"]
    assert "nothing new was made" in acequia("ingest", "file", file, "--data", data).stdout


def test_a_file_of_no_known_kind_exits_1_with_its_document(data: Path, tmp_path: Path, up: subprocess.Popen[str]):
    file = tmp_path / "letter.txt"
    file.write_text("Dear reader,\n")

    done = acequia("ingest", "file", file, "--data", data, "--json")

    assert done.returncode == 1
    assert document(done)["state"] == "rejected"
    assert document(done)["error"]["rule"] == "unknown_dataset"


def test_an_unknown_dataset_exits_2_and_names_those_there_are(data: Path, up: subprocess.Popen[str]):
    done = acequia("ingest", "synthetic", "--dataset", "nope", "--data", data)

    assert done.returncode == 2
    assert "network_events" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("asked", ["model", "run_id", "uri"])
def test_a_trace_leads_from_anything_to_raw(data: Path, first: dict[str, Any], up: subprocess.Popen[str], asked: str):
    what = first["artifacts"]["eval"][0] if asked == "uri" else first[asked]

    done = acequia("trace", what, "--data", data)

    assert done.returncode == 0, done.stderr
    assert first["artifacts"]["raw"][0] in done.stdout
    assert "source.seed=7" in done.stdout and "roc_auc=" in done.stdout


def test_what_nobody_knows_has_no_trace(data: Path, up: subprocess.Popen[str]):
    done = acequia("trace", "s3://nowhere/at-all", "--data", data)

    assert done.returncode == 1
    assert done.stderr.startswith("acequia: nothing is known of s3://nowhere/at-all")


def test_runs_are_listed_over_the_url(data: Path, first: dict[str, Any], up: subprocess.Popen[str]):
    url = json.loads((data / "server.json").read_text())["url"]

    done = acequia("runs", "--json", ACEQUIA_URL=url)

    assert first["run_id"] in [run["run_id"] for run in document(done)["runs"]]
    assert urllib.request.urlopen(f"{url}/docs").status == 200


def test_a_rebuild_of_a_whole_audit_finds_nothing_to_add(data: Path, up: subprocess.Popen[str]):
    done = acequia("audit", "rebuild", "--data", data, "--json")

    assert done.returncode == 0, done.stderr
    assert document(done)["records"] > 0 and document(done)["stored"] == 0


def verified(data: Path, *options: str) -> tuple[int, Any]:
    done = acequia("verify", *options, "--data", data, "--json")
    return done.returncode, document(done)


def until_verified(data: Path, *options: str) -> Any:
    """The proof, once there is one: what was just sent is still in work."""
    give_up = time.monotonic() + PATIENCE
    while True:
        code, proof = verified(data, *options)
        if code == 0:
            return proof
        assert time.monotonic() < give_up, proof
        time.sleep(0.5)


def test_once_a_demo_is_done_nothing_is_lost_and_each_layer_adds_up(data: Path, up: subprocess.Popen[str]):
    proof = until_verified(data, "--settled", "--grace", "0")

    events = {row["layer"]: row for row in proof["sums"] if row["dataset"] == "network_events"}
    assert events.keys() >= {"raw", "silver", "models"}
    assert all(row["done"] == row["objects"] > 0 for row in events.values())
    assert proof["orphans"] == [] and set(proof["queues"].values()) == {0}
    assert proof["audit"]["ok"] and proof["audit"]["commit_objects"] > 0


def test_what_was_put_into_the_store_behind_its_back_is_an_orphan_until_a_sweep(data: Path, up: subprocess.Popen[str]):
    uri = "s3://cybersec-ml-landing/network_events/behind.csv"
    path = data / "store" / uri.removeprefix("s3://")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CSV.replace("10.0.0.", "10.9.9."))

    code, proof = verified(data, "--grace", "0")
    told = acequia("verify", "--grace", 0, "--data", data)
    dry = document(acequia("sweep", "--dry-run", "--grace", 0, "--data", data, "--json"))
    swept = document(acequia("sweep", "--grace", 0, "--data", data, "--json"))

    assert code == told.returncode == 1
    assert [orphan["uri"] for orphan in proof["orphans"]] == [uri] and proof["ok"] is False
    assert uri in told.stdout and "`acequia sweep`" in told.stdout
    assert dry["orphans"] == [uri] and dry["sent"] == 0
    assert swept["orphans"] == [uri] and swept["sent"] == 1
    proof = until_verified(data, "--grace", "0", "--settled")
    [landing] = [r for r in proof["sums"] if (r["layer"], r["dataset"]) == ("landing", "network_events")]
    assert landing["done"] == landing["objects"] >= 1


def test_a_dead_letter_is_listed_shown_and_sent_back_to_work(
    data: Path, first: dict[str, Any], up: subprocess.Popen[str]
):
    raw = first["artifacts"]["raw"][0]

    [letter] = document(acequia("dlq", "list", "--stage", "transformer", "--data", data, "--json"))["dead_letters"]
    listed = acequia("dlq", "list", "--data", data).stdout
    shown = acequia("dlq", "show", letter["id"][:8], "--data", data).stdout
    replayed = acequia("dlq", "replay", letter["id"][:8], "--data", data)

    assert letter["uri"] == raw and letter["state"] == "open"
    assert letter["id"][:8] in listed and "no space left on device" in listed and raw in listed
    assert letter["id"] in shown and raw in shown
    assert replayed.returncode == 0 and "1 dead letter replayed." in replayed.stdout
    assert acequia("dlq", "list", "--data", data).stdout == "No dead letter.\n"
    assert not list(data.glob("store/*-ledger/dead/**/*.json"))
    until_verified(data, "--grace", "0", "--settled")


def test_a_replay_names_what_it_would_send_and_one_of_what_is_missing_finds_nothing(
    data: Path, first: dict[str, Any], up: subprocess.Popen[str]
):
    replay = ("replay", "--layer", "raw", "--dataset", "network_events", "--data", data, "--json")

    dry = document(acequia(*replay, "--since", "1d", "--dry-run"))
    missing = document(acequia(*replay, "--only-missing"))

    assert first["artifacts"]["raw"][0] in dry["objects"] and dry["matched"] == len(dry["objects"])
    assert dry["sent"] == missing["sent"] == 0


def test_the_chain_of_the_audit_is_whole(data: Path, up: subprocess.Popen[str]):
    done = acequia("audit", "verify", "--data", data)

    assert done.returncode == 0, done.stderr
    assert "The chain is whole" in done.stdout


def test_a_second_up_over_the_folder_says_where_the_first_is(data: Path, up: subprocess.Popen[str]):
    url = json.loads((data / "server.json").read_text())["url"]

    done = acequia("up", "--port", 0, "--data", data)

    assert done.returncode == 2
    assert url in done.stderr


def test_up_stops_in_order_on_sigterm_and_what_it_did_is_there_afterwards(
    data: Path, first: dict[str, Any], up: subprocess.Popen[str]
):
    up.send_signal(signal.SIGTERM)
    said, _ = up.communicate(timeout=60)

    assert up.returncode == 0, said
    assert "curl" in said and "/docs" in said and "Stopped" in said
    assert not (data / "server.json").exists()
    done = document(acequia("runs", "--data", data, "--json"))  # in a process of its own now
    assert first["run_id"] in [run["run_id"] for run in done["runs"]]


def test_no_wait_without_a_server_goes_on_with_the_next_command(data: Path, first: dict[str, Any]):
    accepted = acequia("ingest", "synthetic", "--rows", 300, "--no-wait", "--idempotency-key", "k", "--data", data)

    waited = acequia("ingest", "synthetic", "--rows", 300, "--idempotency-key", "k", "--data", data, "--json")

    assert accepted.returncode == 0 and "It goes on with the next" in accepted.stdout
    assert waited.returncode == 0, waited.stderr
    assert document(waited)["run_id"] in accepted.stdout
    assert document(waited)["rows_silver"] == 300


def test_a_command_that_is_stopped_leaves_nothing_running(open_folder: Path):
    data = open_folder / "stopped"
    command = [sys.executable, "-m", "acequia_cli.main", "demo", "--rows", "2000000", "--data", str(data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    give_up = time.monotonic() + PATIENCE
    while not list(data.glob("store/*-ledger/commands/*")):
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.1)

    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)

    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("acequia: stopped.")
    assert not (data / "pg" / "postmaster.pid").exists()
