"""Schedules as a user has them: `acequia up` fires them, and so do the services on the real servers, each time once."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from acequia.adapters.minio import MinioStore
from acequia.events import utc_now
from acequia.layers import Buckets, Layer, done_key
from acequia.runner import JSON
from acequia_cli.embedded import Embedded
from acequia_ingestor.samples import rows_script, schema_script
from acequia_reconciler.schedules import State, run_of, schedule_key
from acequia_reconciler.times import Times
from harness.fleet import Fleet

NAME, CRON = "network_daily", "0 2 * * *"
PATIENCE = 240
DAY = timedelta(days=1)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user of the machine may enter: started by root, PostgreSQL runs as a user of its own."""
    for name in [n for n in os.environ if n.startswith(("ACEQUIA_", "MINIO_", "RABBITMQ_", "PG_"))]:
        monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="acequia-schedules-") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "data"


async def eventually(ask: Callable[[], Awaitable[Any]], seconds: float = PATIENCE) -> Any:
    """The first answer that says something."""
    async with asyncio.timeout(seconds):
        while True:
            if answer := await ask():
                return answer
            await asyncio.sleep(0.1)


class Clock:
    """Goes as all clocks do, from where somebody set it."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead

    def set(self, moment: datetime) -> None:
        self.ahead = moment - utc_now()


async def test_an_installation_that_is_up_fires_at_its_time_and_makes_up_for_the_night(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACEQUIA_SCHEDULES", NAME)
    clock = Clock()

    async with Embedded(data, gather_quiet=0.05, fires=True, clock=clock) as up, up.client() as client:
        seen = data / "store" / Buckets().of(Layer.LEDGER) / schedule_key(NAME)
        await eventually(lambda: asyncio.to_thread(seen.exists))
        first = datetime.fromisoformat((await told(client))["next"]["due"])
        clock.set(first - timedelta(seconds=0.5))
        last = await eventually(lambda: last_of(client))
        assert (last["due"], last["run_id"]) == (first.isoformat(), str(run_of(NAME, first)))
        assert (await told(client))["next"]["due"] == (first + DAY).isoformat()
        page = await eventually(lambda: finished(client, last["run_id"]))
        assert (page["state"], page["rows_raw"]) == ("done", 10_000)

    third = first + 3 * DAY
    clock.set(third + timedelta(hours=5))
    async with Embedded(data, gather_quiet=0.05, fires=True, clock=clock) as up, up.client() as client:
        page = await eventually(lambda: finished(client, str(run_of(NAME, third))))
        assert (page["state"], page["rows_raw"]) == ("done", 10_000)
        schedule = await told(client)
        assert (schedule["last"]["due"], schedule["skipped"]) == (third.isoformat(), 2)
        runs = (await client.get("/runs")).json()["runs"]
        assert {run["run_id"] for run in runs} == {str(run_of(NAME, first)), str(run_of(NAME, third))}


async def told(client: httpx.AsyncClient) -> dict[str, Any]:
    schedules = (await client.get("/schedules")).json()["schedules"]
    return next(dict(s) for s in schedules if s["name"] == NAME)


async def last_of(client: httpx.AsyncClient) -> Any:
    return (await told(client))["last"]


async def finished(client: httpx.AsyncClient, run_id: str) -> Any:
    answer = await client.get(f"/ingestions/{run_id}")
    return answer.json() if answer.is_success and answer.json()["finished"] else None


def acequia(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "acequia_cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **env},
        check=False,
    )


def test_a_person_looks_at_the_schedules_and_fires_one(data: Path) -> None:
    fired = acequia("schedules", "fire", NAME, "--data", data, "--json")
    assert fired.returncode == 0, fired.stderr
    assert json.loads(fired.stdout)["state"] == "done"
    listed = acequia("schedules", "--data", data, "--json", ACEQUIA_SCHEDULES="*")
    schedules = {s["name"]: s for s in json.loads(listed.stdout)["schedules"]}
    assert schedules[NAME]["active"] is True
    assert schedules[NAME]["last"] is None  # what a person fires is none of its times
    assert {"0 6 * * *"} <= {s["cron"] for s in schedules.values()}
    # a command that looks is no service: it fires nothing, and notes nothing
    assert not list((data / "store" / Buckets().of(Layer.LEDGER)).glob("schedules/*"))


@pytest.mark.parametrize("command", [("-m", "acequia_reconciler"), ("-m", "acequia_cli.main", "up")])
def test_a_schedule_that_there_is_not_ends_the_start_and_names_those_that_there_are(
    data: Path, command: tuple[str, ...]
) -> None:
    servers = {"MINIO_ENDPOINT": "x:1", "MINIO_ACCESS_KEY": "x", "MINIO_SECRET_KEY": "x", "RABBITMQ_URL": "amqp://x"}
    settings = {"ACEQUIA_SCHEDULES": "nightly", "ACEQUIA_DATA": str(data)} | (
        servers if "acequia_reconciler" in command else {}
    )
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert "ACEQUIA_SCHEDULES: no schedule is named nightly; there is: " in done.stderr
    assert NAME in done.stderr
    assert "Traceback" not in done.stderr


# the real servers


@pytest.fixture
def fleet(stack: Any, tmp_path: Path) -> Iterator[Fleet]:
    """An auditor, an ingestor, and two reconcilers that are not started yet."""
    database = f"t{uuid4().hex[:12]}"
    asyncio.run(_create(stack, database))
    env = {**stack.env, "ACEQUIA_BUCKET_PREFIX": f"t{uuid4().hex[:12]}", "PG_DATABASE": database}
    fleet = Fleet(env, tmp_path, ("auditor", "ingestor", "reconciler", "reconciler.2"))
    yield fleet
    fleet.close()


async def _create(stack: Any, database: str) -> None:
    await _at(stack, stack.postgres.database, f"CREATE DATABASE {database}")


async def _at(stack: Any, database: str, *scripts: str) -> None:
    there = stack.postgres
    connection = await asyncpg.connect(
        host=there.host,
        port=there.port,
        user=there.user,
        password=there.password.get_secret_value(),
        database=database,
    )
    for script in scripts:
        await connection.execute(script)
    await connection.close()


async def in_store(fleet: Fleet, stack: Any, act: Callable[[MinioStore], Awaitable[Any]]) -> Any:
    store = await MinioStore.open(stack.minio, Buckets(fleet.env["ACEQUIA_BUCKET_PREFIX"]))
    try:
        return await act(store)
    finally:
        await store.close()


async def raw(store: MinioStore) -> list[str]:
    return [info.key async for info in store.list_objects(Layer.RAW)]


def left_behind(fleet: Fleet, stack: Any, name: str, state: State) -> None:
    """What a reconciler noted that was there before."""
    body = json.dumps(state.document()).encode()
    asyncio.run(
        in_store(
            fleet,
            stack,
            lambda store: store.put(Layer.LEDGER, schedule_key(name), body, metadata={}, content_type=JSON),
        )
    )


@pytest.mark.stack
def test_two_reconcilers_that_come_back_after_days_make_one_run_for_the_latest_time(fleet: Fleet, stack: Any) -> None:
    fleet.start("auditor", "ingestor")
    now = utc_now()
    today = datetime(now.year, now.month, now.day, 2, tzinfo=UTC)
    latest = today if today <= now - timedelta(minutes=2) else today - DAY
    state = State(CRON, "UTC", since=latest - 9 * DAY, settled=latest - 3 * DAY)

    left_behind(fleet, stack, NAME, state)
    fleet.start("reconciler", "reconciler.2", ACEQUIA_SCHEDULES=NAME)
    run_id = run_of(NAME, latest)
    done = done_key(run_id)
    asyncio.run(eventually(lambda: in_store(fleet, stack, lambda store: store.head(Layer.LEDGER, done))))

    def told() -> dict[str, Any]:
        schedules = httpx.get(f"{fleet.url('ingestor')}/schedules", timeout=30).json()["schedules"]
        return next(dict(s) for s in schedules if s["name"] == NAME)

    fleet.wait(lambda: told()["last"], "the run is not noted")
    schedule = told()
    assert UUID(schedule["last"]["run_id"]) == run_id
    assert (schedule["skipped"], schedule["active"]) == (2, True)

    assert len(asyncio.run(in_store(fleet, stack, raw))) == 1
    by_hand = httpx.post(f"{fleet.url('ingestor')}/schedules/{NAME}/fire", timeout=60)
    assert by_hand.status_code == 202
    fleet.wait(lambda: fleet.page(by_hand.json()["run_id"]).get("rows_raw") == 10_000, "the run by hand is not there")


@pytest.mark.stack
def test_the_tables_of_a_database_are_loaded_at_six_in_mexico_city_by_two_reconcilers_once(
    fleet: Fleet, stack: Any
) -> None:
    there, database = stack.postgres, fleet.env["PG_DATABASE"]
    asyncio.run(_at(stack, database, schema_script(), rows_script(accounts=60, at=datetime.now(UTC))))
    password = there.password.get_secret_value()
    dsn = f"postgresql://{there.user}:{password}@{there.host}:{there.port}/{database}"
    fleet.start("auditor")
    fleet.start("ingestor", ACEQUIA_SOURCE_POSTGRES_DSN=dsn)
    name, cron, zone = "subscriptions_daily", "0 6 * * *", "America/Mexico_City"
    now = utc_now()
    due = next(Times(cron, zone).newest_first(now - timedelta(minutes=2), now - 2 * DAY))
    left_behind(fleet, stack, name, State(cron, zone, since=due - 9 * DAY, settled=due - DAY))
    fleet.start("reconciler", "reconciler.2", ACEQUIA_SCHEDULES=name)

    done = done_key(run_of(name, due))
    asyncio.run(eventually(lambda: in_store(fleet, stack, lambda store: store.head(Layer.LEDGER, done))))
    run_id = str(run_of(name, due))
    fleet.wait(lambda: fleet.page(run_id).get("raw_objects"), "the auditor does not know the run")
    page = fleet.page(run_id)
    assert (page["dataset"], page["raw_objects"]) == ("_tables", 8)
    tables = page["stages"]["ingestor"][-1]["parameters"]["tables"]
    assert {told["rejected"] for told in tables.values()} == {None}
    assert page["rows_in"] == sum(told["rows"] for told in tables.values()) > 600
    assert len(asyncio.run(in_store(fleet, stack, raw))) == 8

    schedules = httpx.get(f"{fleet.url('ingestor')}/schedules", timeout=30).json()["schedules"]
    schedule = next(s for s in schedules if s["name"] == name)
    assert (schedule["last"]["run_id"], schedule["skipped"]) == (run_id, 0)
    assert schedule["last"]["local"].endswith("T06:00:00-06:00")
