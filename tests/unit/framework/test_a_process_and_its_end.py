"""A service waits for servers, ends where a person must act, and stops when it is told to."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from acequia.app import House, make_app
from acequia.errors import ConfigurationError, TransientFailure
from acequia.runner import FOLDER_PREFIX, NEW_FOLDER_PREFIX, Workshop, clear_folders


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """Both servers are away."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACEQUIA_", "MINIO_", "RABBITMQ_", "PG_"))}
    return (
        kept
        | {
            "MINIO_ENDPOINT": f"127.0.0.1:{free_port()}",
            "MINIO_ACCESS_KEY": "a",
            "MINIO_SECRET_KEY": "b" * 8,
            "RABBITMQ_URL": f"amqp://guest:guest@127.0.0.1:{free_port()}/",
            "PG_PASSWORD": "p",
            "PG_PORT": str(free_port()),
            "ACEQUIA_HTTP_PORT": str(free_port()),
            "ACEQUIA_TEMP_DIR": str(tmp_path),
            "ACEQUIA_STOP_GRACE": "2",
        }
        | more
    )


@contextmanager
def process(name: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-m", f"acequia_{name}"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


@pytest.mark.parametrize("name", ["ingestor", "auditor"])
def test_a_service_waits_while_its_servers_are_away_and_stops_in_the_middle_of_that(name: str, tmp_path: Path) -> None:
    with process(name, environment(tmp_path)) as started:
        assert started.stdout is not None
        line = ""
        while "waits" not in line:
            line = started.stdout.readline()
            assert line, "it ended"
        assert started.poll() is None
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0


@pytest.mark.parametrize("name", ["ingestor", "transformer", "trainer", "evaluator", "auditor", "reconciler"])
def test_a_service_that_is_stopped_while_it_is_still_imported_ends_with_0(name: str, tmp_path: Path) -> None:
    # short sleeps: a signal that comes just before one of them is looked at only when it is over
    module = "import time\nprint('imported', flush=True)\nfor _ in range(1200):\n    time.sleep(0.05)\n"
    (tmp_path / "uvloop.py").write_text(module)
    with process(name, environment(tmp_path, PYTHONPATH=str(tmp_path))) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "imported\n"
        started.send_signal(signal.SIGTERM)
        said, _ = started.communicate(timeout=20)
    assert (started.returncode, said) == (0, "")


def test_a_migration_that_is_stopped_does_not_end_like_one_that_is_done(tmp_path: Path) -> None:
    env = environment(tmp_path, PG_MIGRATION_USER="o", PG_MIGRATION_PASSWORD="p", ACEQUIA_LOG_LEVEL="info")
    migration = [sys.executable, "-m", "acequia_auditor", "migrate"]
    with subprocess.Popen(migration, env=env, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        assert "trying again" in started.stderr.readline()
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 143


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("ingestor", "ACEQUIA_INGESTOR_ROWS_PER_PART", "many"),
        ("trainer", "ACEQUIA_TRAINER_SEED", "many"),
        ("reconciler", "ACEQUIA_RECONCILER_INTERVAL", "0"),
        ("auditor", "PG_PASSWORD", ""),
        ("ingestor", "ACEQUIA_LOG_LEVEL", "loud"),
        ("ingestor", "ACEQUIA_TEMP_DIR", "/nowhere/at/all"),
        ("ingestor", "MINIO_SECRET_KEY", ""),
    ],
)
def test_a_setting_that_a_person_must_change_ends_a_service_at_once_though_its_servers_are_away(
    name: str, variable: str, value: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, **{variable: value})
    if not value:
        del env[variable]
    with process(name, env) as started:
        said, _ = started.communicate(timeout=60)
    assert started.returncode == 2
    (line,) = said.splitlines()
    assert variable in line


def test_a_port_that_is_taken_ends_a_service_with_a_line_that_says_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = environment(tmp_path, ACEQUIA_HTTP_PORT=str(taken.getsockname()[1]))
        with process("transformer", env) as started:
            said, _ = started.communicate(timeout=60)
    assert started.returncode == 2
    assert "ACEQUIA_HTTP_PORT" in said.splitlines()[-1]


class Part:
    """A service that starts and stops as it is told."""

    def __init__(self, name: str, *, start: Exception | None = None, stop: Exception | None = None) -> None:
        self.name = name
        self.routers: Sequence[APIRouter] = ()
        self.state = "new"
        self._start = start
        self._stop = stop

    async def start(self) -> None:
        self.state = "half started"
        if self._start is not None:
            raise self._start
        self.state = "running"

    async def stop(self, grace: float) -> None:
        self.state = "stopped"
        if self._stop is not None:
            raise self._stop

    async def check(self) -> None: ...


async def test_a_start_that_fails_leaves_no_service_running_beside_those_of_the_next_try(workshop: Workshop) -> None:
    house, app = House("test"), make_app("test")
    first, second = Part("one"), Part("two", start=TransientFailure("away", dependency="x", away=True))
    with pytest.raises(TransientFailure):
        await house.open(app, workshop, [first, second])
    assert (first.state, second.state) == ("stopped", "stopped")
    await house.open(app, workshop, again := [Part("one"), Part("two")])
    assert house.services == again


async def test_who_asks_before_the_services_have_started_is_told_to_try_again(workshop: Workshop) -> None:
    house, app, part = House("test"), make_app("test"), Part("one")
    router = APIRouter()
    router.add_api_route("/runs", lambda: {"runs": []})
    part.routers = (router,)
    house.add_routes(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        early = await client.get("/runs")
        assert (early.status_code, early.headers["retry-after"]) == (503, "5")
        await house.open(app, workshop, [part])
        assert (await client.get("/runs")).status_code == 200
        assert (await client.get("/nothing")).status_code == 404


async def test_a_service_that_does_not_stop_in_good_order_keeps_no_other_from_stopping(workshop: Workshop) -> None:
    closed: list[str] = []

    class Server:
        def __init__(self, name: str) -> None:
            self.name = name

        async def close(self) -> None:
            closed.append(self.name)
            if self.name == "bus":
                raise OSError("gone")

    house, parts = House("test"), [Part("one", stop=ValueError("a bug")), Part("two")]
    there: Any = Workshop(Server("store"), Server("bus"), workshop.buckets, workshop.registry)  # type: ignore[arg-type]
    await house.open(make_app("test"), there, parts)
    with pytest.raises(OSError, match="gone"):
        await house.close(1)
    assert [p.state for p in parts] == ["stopped", "stopped"]
    assert closed == ["bus", "store"]


async def test_what_a_killed_process_left_behind_goes_and_what_is_in_use_stays(
    tmp_path: Path, workshop: Workshop
) -> None:
    long_ago = time.time() - 100_000
    names = (f"{FOLDER_PREFIX}left", f"{NEW_FOLDER_PREFIX}left", f"{NEW_FOLDER_PREFIX}young", "others")
    left, old, young, others = (tmp_path / name for name in names)
    for folder in (left, old, young, others):
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
    with workshop.folder() as in_use:
        for path in (old, others, Path(in_use)):
            os.utime(path, (long_ago, long_ago))
        await asyncio.to_thread(clear_folders, tmp_path)
        assert Path(in_use).exists()
        assert not left.exists()
        assert not old.exists()
        assert young.exists()
        assert others.exists()
    assert not Path(in_use).exists()


def test_a_folder_for_temporary_files_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="ACEQUIA_TEMP_DIR"):
        clear_folders(tmp_path / "file")
