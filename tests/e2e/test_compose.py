"""`docker compose up` as a user does it: images built here, the whole stack up, chains through it, nothing left after.

Needs a Docker engine with Compose v2; without one these tests are skipped (ACEQUIA_REQUIRE_COMPOSE=1: they fail).
Building MinIO from source takes some minutes the first time.
"""

import contextlib
import dataclasses
import importlib.util
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from harness import docker

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingestor", "transformer", "trainer", "evaluator", "lakehouse", "auditor", "reconciler")
PORTS = ("ACEQUIA_PORT", "ACEQUIA_AUDITOR_PORT", "MINIO_PORT", "MINIO_CONSOLE_PORT", "RABBITMQ_MANAGEMENT_PORT")
pytestmark = [pytest.mark.compose, pytest.mark.timeout(2400)]


# here rather than in the fixture: so it is one line of pytest's summary
docker.need("NOT TESTED ON COMPOSE", docker.ENGINE, docker.CLIENT)


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, check=False, env=docker.ENVIRONMENT, capture_output=True, text=True)
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return done.stdout


@dataclass(frozen=True)
class Compose:
    """A project of its own, with ports and passwords of its own."""

    project: str
    env_file: Path
    ingestor: httpx.Client
    auditor: httpx.Client

    def __call__(self, *arguments: str, check: bool = True) -> str:
        options = ["--project-directory", str(ROOT), "--env-file", str(self.env_file), "-p", self.project]
        return run("docker", "compose", *options, *arguments, check=check)

    def container(self, service: str) -> str:
        return self("ps", "-q", "--all", service).strip()

    def until_finished(self, run_id: str) -> dict:
        """The run's page once it is finished."""
        deadline = time.monotonic() + 240
        page: dict = {}
        while time.monotonic() < deadline:
            answer = self.ingestor.get(f"/ingestions/{run_id}")
            assert answer.status_code == 200, answer.text  # from the 202 on
            page = answer.json()
            if page["finished"]:
                return page
            time.sleep(0.5)
        logs = self("logs", "--no-color", "--tail", "30", *SERVICES, check=False)
        pytest.fail(f"not finished: {json.dumps(page, indent=1)[-3000:]}\n{logs[-6000:]}")

    def ingest_synthetic(self, rows: int, seed: int) -> str:
        source = {"kind": "synthetic", "rows": rows, "seed": seed, "anomaly_rate": 0.02}
        answer = self.ingestor.post("/ingestions", json={"dataset": "network_events", "source": source})
        assert answer.status_code == 202, answer.text
        return answer.json()["run_id"]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]


def write_env(path: Path, ports: dict[str, int]) -> None:
    """What `make env` writes, with other ports and tags."""
    spec = importlib.util.spec_from_file_location("make_env_for_compose", ROOT / "deploy/native/make_env.py")
    make_env = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_env)
    assert make_env.main(path) == 0
    more = {**ports, "ACEQUIA_TAG": "test"}
    path.write_text(path.read_text() + "".join(f"{name}={value}\n" for name, value in more.items()))


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    env_file = tmp_path_factory.mktemp("compose") / ".env"
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    write_env(env_file, ports)
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{ports['ACEQUIA_PORT']}", timeout=60) as ingestor,
        httpx.Client(base_url=f"http://127.0.0.1:{ports['ACEQUIA_AUDITOR_PORT']}", timeout=60) as auditor,
    ):
        project = Compose(f"acequia-test-{uuid4().hex[:8]}", env_file, ingestor, auditor)
        try:
            # under one name: compose labels an image with its project, and each name would leave images of its own
            dataclasses.replace(project, project="acequia-test")("build")
            project("up", "--detach", "--wait", "--wait-timeout", "300")
            yield project
        finally:
            project("down", "--volumes", "--remove-orphans", check=False)


def test_ten_synthetic_rows_become_an_evaluated_model_and_the_auditor_tells_of_it(compose):
    run_id = compose.ingest_synthetic(10, seed=7)
    page = compose.until_finished(run_id)
    assert page["state"] == "done"
    assert page["rows_in"] == 10
    assert page["rows_silver"] + page["rows_duplicate"] + page["rows_quarantined"] == 10
    assert {"raw", "silver", "models", "eval"} <= set(page["artifacts"])
    listed = compose.auditor.get("/runs").json()["runs"]
    assert [r["state"] for r in listed if r["run_id"] == run_id] == ["done"]


def test_a_real_zeek_log_goes_in_by_put_and_every_row_is_accounted_for(compose, real_data):
    log = real_data / "zeek-samples" / "conn.tsv.log"
    answer = compose.ingestor.put("/ingestions/files/conn.tsv.log?dataset=network_events", content=log.read_bytes())
    assert answer.status_code == 202, answer.text
    page = compose.until_finished(answer.json()["run_id"])
    assert page["state"] == "done"
    assert page["rows_in"] == sum(not line.startswith(b"#") for line in log.read_bytes().splitlines())
    assert page["rows_in"] == page["rows_silver"] + page["rows_duplicate"] + page["rows_quarantined"]
    assert page["rows_silver"] > 0.9 * page["rows_in"]


def test_a_transformer_killed_in_the_middle_of_a_run_and_started_again_brings_it_to_its_end_once(compose):
    run_id = compose.ingest_synthetic(300_000, seed=11)
    deadline = time.monotonic() + 120
    while not compose.ingestor.get(f"/ingestions/{run_id}").json().get("raw_objects"):
        assert time.monotonic() < deadline, "the ingestor did not write RAW"
        time.sleep(0.05)
    compose("kill", "--signal", "SIGKILL", "transformer")
    compose("start", "transformer")
    page = compose.until_finished(run_id)
    assert page["state"] == "done"
    assert page["rows_in"] == 300_000 == page["rows_silver"] + page["rows_duplicate"] + page["rows_quarantined"]
    assert len(page["artifacts"]["raw"]) == len(page["artifacts"]["silver"]) == 1
    outcomes = [event for event in page["stages"]["transformer"] if event["kind"] == "outcome"]
    assert len(outcomes) == 1


def test_no_container_runs_as_root(compose):
    running = compose("ps", "--services").split()
    assert {*SERVICES} < {*running}
    for service in running:
        container = compose.container(service)
        uids = run("docker", "exec", container, "cat", "/proc/1/status").partition("Uid:")[2].split()[:4]
        assert len(uids) == 4, service
        assert "0" not in uids, service
    for service in {*compose("ps", "--all", "--services").split()} - {*running}:  # it has done its work and ended
        ended = json.loads(run("docker", "inspect", compose.container(service)))[0]
        assert ended["State"]["ExitCode"] == 0, service
        assert int(ended["Config"]["User"].partition(":")[0]) > 0, service


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_writes_nowhere_but_to_its_volume_and_its_tmp(compose, service):
    inspected = json.loads(run("docker", "inspect", compose.container(service)))[0]
    user = inspected["Config"]["User"].partition(":")[0]
    assert user.isdecimal()
    assert int(user) > 0
    assert inspected["HostConfig"]["ReadonlyRootfs"] is True
    assert inspected["HostConfig"]["CapDrop"] == ["ALL"]
    code = "import os; print([p for p in ('/', '/app', '/usr', '/var/lib', '/etc') if os.access(p, os.W_OK)])"
    assert run("docker", "exec", compose.container(service), "python", "-c", code).strip() == "[]"


def test_only_the_images_that_need_scikit_learn_have_it(compose):
    code = "import importlib.util as u; print(u.find_spec('sklearn') is not None)"
    has = {
        service: run("docker", "exec", compose.container(service), "python", "-c", code).strip() for service in SERVICES
    }
    assert {service for service, answer in has.items() if answer == "True"} == {"trainer", "evaluator"}


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_no_tools_to_build_with(compose, service):
    code = "import shutil; print([t for t in ('uv', 'gcc', 'cc', 'make') if shutil.which(t)])"
    assert run("docker", "exec", compose.container(service), "python", "-c", code).strip() == "[]"
