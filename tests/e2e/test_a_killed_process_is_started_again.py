"""At each step of a delivery the process is killed and started again: one artifact, one outcome, the same bytes."""

import json
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from acequia.settings import PostgresSettings
from harness.house import Place, live

STEPS = [
    "ingestor.after_fetch",
    "ingestor.after_claim",
    "ingestor.after_process",
    "ingestor.after_part",
    "ingestor.after_store",
    "ingestor.after_audit",
    "ingestor.before_ack",
    "transformer.after_fetch",
    "transformer.after_process",
    "transformer.after_store",
    "transformer.after_audit",
    "transformer.before_ack",
    "trainer.after_plan",
    "trainer.before_ack",
    "trainer.after_fetch",
    "trainer.after_process",
    "trainer.after_store",
    "trainer.after_audit",
    "lakehouse.after_plan",
    "lakehouse.before_ack",
    "lakehouse.after_fetch",
    "lakehouse.after_table",
    "lakehouse.after_process",
    "lakehouse.after_store",
    "lakehouse.after_audit",
    "evaluator.after_fetch",
    "evaluator.after_process",
    "evaluator.after_store",
    "evaluator.after_audit",
    "evaluator.before_ack",
]
COMMAND_STEPS = [step for step in STEPS if step.startswith("ingestor.after_p")] + [
    "ingestor.after_store",
    "ingestor.after_audit",
    "ingestor.before_ack",
    "evaluator.after_pointer",  # which only a model that is promoted comes to
]
ONE_EACH = {"ingestor": 1, "transformer": 1, "trainer": 1, "lakehouse": 1, "evaluator": 1}
REQUEST = {
    "dataset": "network_events",
    "source": {"kind": "synthetic", "rows": 2000, "seed": 7, "anomaly_rate": 0.05},
}
Start = Callable[..., dict[str, Any] | None]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start the house in a process of its own: what it tells at its end, or None where it was killed."""
    context = multiprocessing.get_context("forkserver")
    work = ("acequia_trainer.train", "acequia_evaluator.evaluate", "acequia_lakehouse.lake")
    context.set_forkserver_preload([live.__module__, *work])

    def run(
        place: Place, step: str | None = None, upload: Path | None = None, request: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        result = tmp_path_factory.mktemp("result") / "result.json"
        process = context.Process(target=live, args=(place, step, upload, request, result))
        process.start()
        process.join(120)
        if process.is_alive():
            process.kill()
            pytest.fail(f"the house did not end within 120 s (step {step})")
        if process.exitcode == -signal.SIGKILL:
            return None
        assert process.exitcode == 0
        document: dict[str, Any] = json.loads(result.read_text())
        return document

    return run


@pytest.fixture(scope="session")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Zeek conn.log of 300 connections: 3 can't be read, 2 break the contract."""
    fields = [
        "ts",
        "uid",
        "id.orig_h",
        "id.orig_p",
        "id.resp_h",
        "id.resp_p",
        "proto",
        "duration",
        "orig_bytes",
        "resp_bytes",
        "conn_state",
    ]
    lines = ["#separator \\x09", "#unset_field\t-", "#path\tconn", "#fields\t" + "\t".join(fields)]
    for n in range(300):
        duration = "-" if n % 3 == 0 else f"{n / 7:.6f}"
        row = [f"{1700000000 + n}.{n:06d}", f"C{n}", f"10.0.0.{n % 9}", str(40000 + n), f"10.1.{n % 5}.7", "443", "tcp"]
        row += [duration, str(n * 13), str(n * 101), "SF"]
        if n in (50, 51, 52):
            row[0] = "not-a-time"
        if n in (60, 61):
            row[8] = "-5"
        lines.append("\t".join(row))
    path = tmp_path_factory.mktemp("log") / "conn.log"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def undisturbed(start: Start, log_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the same file gives where nothing is killed."""
    document = start(Place(tmp_path_factory.mktemp("undisturbed")), upload=log_file)
    assert document is not None
    return document


def assert_done_once(document: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    assert document is not None
    page, objects = document["page"], document["objects"]
    assert page["finished"], page
    assert page["state"] == "done"
    outcomes = Counter(
        stage for stage, events in page["stages"].items() for event in events if event["kind"] == "outcome"
    )
    assert outcomes == ONE_EACH
    for figure in ("rows_in", "rows_raw", "rows_silver", "rows_duplicate", "rows_quarantined", "quarantined_by_rule"):
        assert page[figure] == expected["page"][figure], figure
    for layer in ("raw", "silver"):
        assert list(objects[layer].values()) == list(expected["objects"][layer].values()), layer
    assert [key.rpartition("/")[2] for key in objects["models"] if key.endswith(".json")].count("model.json") == 1
    assert [key.rpartition("/")[2] for key in objects["eval"]].count("evaluation.json") == 1
    assert [key.rpartition("/")[2] for key in objects["lake"]].count("commit.json") == 1
    assert [(t["table"], t["rows"], t["snapshots"]) for t in document["tables"]] == [
        ("silver.network_events", page["rows_silver"], 1)
    ]
    assert [key for key in objects["ledger"] if key.startswith("commands/")] == []
    assert len([key for key in objects["ledger"] if key.startswith("done/")]) == 1


@pytest.mark.parametrize("step", STEPS)
def test_embedded_a_file_survives_a_kill_at(
    step: str, start: Start, log_file: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    place = Place(tmp_path / "data")
    assert start(place, step, upload=log_file) is None
    assert_done_once(start(place), undisturbed)


@pytest.mark.parametrize("step", COMMAND_STEPS)
def test_embedded_a_command_survives_a_kill_at(step: str, start: Start, tmp_path: Path) -> None:
    place = Place(tmp_path / "data")
    assert start(place, step, request=REQUEST) is None
    document = start(place)
    assert document is not None
    assert_done_once(document, document)
    assert document["page"]["rows_in"] == 2000


@pytest.mark.parametrize("step", STEPS)
def test_on_the_real_servers_a_file_survives_a_kill_at(
    step: str,
    start: Start,
    log_file: Path,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    real_place: Place,
) -> None:
    assert start(real_place, step, upload=log_file) is None
    assert_done_once(start(real_place), undisturbed)


def test_the_same_command_twice_is_carried_out_once(start: Start, tmp_path: Path) -> None:
    place = Place(tmp_path / "data")
    first, second = start(place, request=REQUEST), start(place, request=REQUEST)
    assert first is not None
    assert second is not None
    assert_done_once(second, first)


@pytest.fixture
async def real_place(stack: Any, fresh_database: PostgresSettings, clean_queues: Any, tmp_path: Path) -> Place:
    return Place(tmp_path, stack.minio, stack.rabbit, fresh_database, f"t{uuid4().hex[:12]}")
