"""What tests share: the real servers, names of their own for each test, the real logs.

`make test` brings the servers up and tells of them by environment variables (`deploy/native/stack.py env` prints them).
Without those a test that uses `stack` is skipped, or fails where ACEQUIA_REQUIRE_STACK=1. Only the fixture `stack`
knows them: they are taken out of the environment, so that a test means the same with the servers and without.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from acequia.layers import Buckets
from acequia.settings import MinioSettings, PostgresSettings, RabbitSettings, load
from acequia.topology import DEFAULT_RETRY_DELAYS, topology
from acequia_auditor.settings import MigrationSettings
from harness.database import own_database

ROOT = Path(__file__).resolve().parents[1]
STACK_VARIABLES = ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "RABBITMQ_URL", "PG_HOST", "PG_PASSWORD")
NO_STACK = "needs MinIO, RabbitMQ and PostgreSQL"
IN_COMPOSE = "STACK_COMPOSE_PROJECT" in os.environ
"""Whether the servers are containers of `deploy/native/in_compose.py`."""
STACK_ENVIRONMENT = pytest.StashKey[dict[str, str]]()


@dataclass(frozen=True)
class Stack:
    """The real servers of this run."""

    minio: MinioSettings
    rabbit: RabbitSettings
    postgres: PostgresSettings
    """As the role that owns it: tests make databases."""
    env: dict[str, str]
    """What a service process needs to reach them: `{**os.environ, **stack.env}`."""
    folder: Path | None
    """Where the servers lie, if they run natively."""

    def stop_one(self, name: str, *, kill: bool = False) -> None:
        """Stop "minio", "rabbitmq" or "postgresql" and return once it is gone; its data and port stay."""
        self._control("stop-one", name, *(["--kill"] if kill else []))

    def start_one(self, name: str) -> None:
        """Start it again and return once it answers. Nothing happens where it runs already."""
        self._control("start-one", name)

    def _control(self, *arguments: str) -> None:
        if self.folder is not None:
            command = ["stack.py", *arguments, "--dir", str(self.folder)]
        elif IN_COMPOSE:
            command = ["in_compose.py", *arguments]
        else:
            pytest.skip("servers are stopped one by one only where `make test` brought them up")
        script = ROOT / "deploy" / "native" / command[0]
        subprocess.run([sys.executable, str(script), *command[1:]], check=True, timeout=120)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The real MinIO, RabbitMQ and PostgreSQL. Whoever uses it gets the marker `stack`."""
    env = request.config.stash[STACK_ENVIRONMENT]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        settings = load(MinioSettings), load(RabbitSettings), load(PostgresSettings)
        owner = load(MigrationSettings)
    if owner.user:
        settings[2].user, settings[2].password = owner.user, owner.password
    folder = os.environ.get("STACK_DIR")
    stack = Stack(*settings, env, Path(folder) if folder else None)
    yield stack
    if folder or IN_COMPOSE:  # a test that failed half-way may have left one down
        for name in ("rabbitmq", "postgresql", "minio"):
            stack.start_one(name)


@pytest.fixture
def fresh_prefix() -> str:
    """A bucket prefix that no other test has."""
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
async def fresh_database(stack: Stack) -> AsyncIterator[PostgresSettings]:
    """An empty database of the test's own, dropped at its end."""
    async with own_database(stack.postgres) as database:
        yield database


@pytest.fixture
async def clean_queues(stack: Stack) -> AsyncIterator[Callable[[Sequence[int]], Awaitable[None]]]:
    """No queue of Acequia's is there when the test starts, nor when it has ended.

    A test with retry delays other than the default ones, or with the servers to itself in the middle of it, calls what
    it is given with its delays: `await clean_queues((0, 1))`.
    """
    import aio_pika

    seen = {DEFAULT_RETRY_DELAYS}

    async def remove(delays: Sequence[int] = DEFAULT_RETRY_DELAYS) -> None:
        seen.add(tuple(delays))
        names = {
            name for some in seen for queue in topology(Buckets(), some).queues for name in (queue.name, *queue.rungs)
        }
        connection = await aio_pika.connect(stack.rabbit.url.get_secret_value())
        async with connection, connection.channel() as channel:
            for name in sorted(names):
                await channel.queue_delete(name)

    await remove()
    yield remove
    await remove()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real logs."""
    named = os.environ.get("ACEQUIA_REAL_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real logs: set ACEQUIA_REAL_DATA to their folder")
    return folder


def pytest_configure(config: pytest.Config) -> None:
    names = [name for name in os.environ if name.startswith(("MINIO_", "RABBITMQ_", "PG_", "ACEQUIA_LAKEHOUSE_"))]
    config.stash[STACK_ENVIRONMENT] = {name: os.environ.pop(name) for name in names}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker("stack")


def pytest_runtest_setup(item: pytest.Item) -> None:
    # here rather than in the fixture: so all of them are one line of pytest's own summary
    known = item.config.stash[STACK_ENVIRONMENT]
    if item.get_closest_marker("stack") and not all(known.get(name) for name in STACK_VARIABLES):
        if os.environ.get("ACEQUIA_REQUIRE_STACK") == "1":
            pytest.fail(f"{NO_STACK} (ACEQUIA_REQUIRE_STACK=1): {_why_no_stack()}", pytrace=False)
        pytest.skip(NO_STACK)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One loud line where tests were skipped for want of the servers."""
    skipped = sum(NO_STACK in str(report.longrepr) for report in terminalreporter.stats.get("skipped", ()))
    if skipped:
        terminalreporter.section("NOT TESTED ON THE REAL STACK", sep="!", red=True, bold=True)
        terminalreporter.write_line(
            f"{skipped} tests that need MinIO, RabbitMQ and PostgreSQL were skipped: {_why_no_stack()}"
        )


def _why_no_stack() -> str:
    return os.environ.get("ACEQUIA_STACK_MISSING") or "`make test` brings them up"
