"""Every HTTP operation with what schemathesis draws: no 5xx, and only such answers as the OpenAPI document tells of."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
]
OF_EACH_OPERATION = 12


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded installation as a process of its own; a run may draw a few rows only."""
    data = tmp_path_factory.mktemp("openapi") / "data"
    env = {**os.environ, "ACEQUIA_INGESTOR_MAX_ROWS": "20", "ACEQUIA_TRAINER_N_ESTIMATORS": "3"}
    with (data.parent / "log").open("wb") as log:
        command = [sys.executable, "-m", "acequia_cli.main", "up", "--port", "0", "--data", str(data)]
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while not (data / "server.json").exists():
            assert process.poll() is None, (data.parent / "log").read_text()[-2000:]
            assert time.monotonic() < end, "it does not start"
            time.sleep(0.1)
        yield str(json.loads((data / "server.json").read_text())["url"])
        assert process.poll() is None, (data.parent / "log").read_text()[-2000:]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_no_answer_but_what_the_document_tells_of(url: str) -> None:
    """Each operation by itself; all that is wrong is told at once."""
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in document.get_all_operations()]
    assert {"POST /ingestions", "GET /runs/{run_id}", "POST /sweep"} <= {operation.label for operation in operations}
    wrong: dict[str, str] = {}
    for operation, mode in product(operations, schemathesis.GenerationMode):

        @settings(max_examples=OF_EACH_OPERATION, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, timeout=60)

        try:
            ask()
        except Unsatisfiable:  # an operation without parameters can't be asked in a wrong way
            assert mode is schemathesis.GenerationMode.NEGATIVE
        except BaseExceptionGroup as error:  # of failures of schemathesis
            wrong[f"{operation.label}, {mode.value}"] = str(error)
    assert not wrong, "\n".join(f"{label}: {what}" for label, what in wrong.items())


def test_afterwards_it_is_ready_and_takes_a_file(url: str, tmp_path: Path) -> None:
    content = b"timestamp,src_ip,dst_ip,bytes,duration,protocol\n1766232000,10.0.0.1,10.0.0.2,7,0.5,tcp\n"
    assert httpx.get(f"{url}/ready", timeout=60).status_code == 200
    accepted = httpx.put(f"{url}/ingestions/files/e.csv", content=content, timeout=60)
    assert accepted.status_code == 202
    end = time.monotonic() + 120
    while not httpx.get(f"{url}{accepted.json()['location']}", timeout=60).json()["finished"]:
        assert time.monotonic() < end, "the run does not finish"
        time.sleep(0.2)
