"""`acequia ingest tables` over an object store alone: as processes, on a real MinIO, from a real PostgreSQL."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from acequia.adapters.minio import MinioStore
from acequia.layers import Buckets, Layer
from acequia.settings import MinioSettings, PostgresSettings
from acequia.topology import topology
from acequia_ingestor.samples import changes_script, rows_script, schema_script
from acequia_lakehouse.catalog import Place, open_catalog
from acequia_lakehouse.settings import LakehouseSettings
from harness.fleet import Fleet

pytestmark = pytest.mark.stack

ACEQUIA = shutil.which("acequia", path=str(Path(sys.executable).parent)) or "acequia"
KEYS = {
    "accounts": ("account_id",),
    "account_subscriptions": ("account_subscription_id",),
    "subscriptions": ("subscription_id",),
    "features": ("feature_id",),
    "subscription_features": ("subscription_id", "feature_id"),
    "contents": ("content_id",),
    "content_attributes": ("content_id", "name"),
    "payments": ("payment_id",),
}
PATIENCE = 120.0
SETTINGS = """
[env.prod]
MINIO_ENDPOINT = "${OURS_ENDPOINT}"
MINIO_ACCESS_KEY = "${OURS_ACCESS_KEY}"
MINIO_SECRET_KEY = "file:secret"
ACEQUIA_SOURCE_POSTGRES_DSN = "${OURS_DSN}"
ACEQUIA_PLAN_STALE_AFTER = 3
ACEQUIA_PLAN_RENEW_EVERY = 0.5
ACEQUIA_STOP_GRACE = 2
"""


@dataclass
class Workplace:
    """A store and a source of the test's own, and the command in a working directory with a settings file."""

    folder: Path
    minio: MinioSettings
    buckets: Buckets
    source: PostgresSettings
    store: MinioStore
    connection: Any
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        there = self.source
        return (
            f"postgresql://{there.user}:{there.password.get_secret_value()}@{there.host}:{there.port}/{there.database}"
        )

    @property
    def catalog_uri(self) -> str:
        return self.dsn.replace("postgresql:", "postgresql+psycopg:")

    def settings(self, **more: str) -> None:
        told = {"ACEQUIA_BUCKET_PREFIX": self.buckets.prefix, "ACEQUIA_LAKEHOUSE_CATALOG_URI": self.catalog_uri} | more
        lines = "".join(f'{name} = "{value}"\n' for name, value in told.items() if value)
        (self.folder / "acequia.toml").write_text(SETTINGS + lines)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        own = {k: v for k, v in os.environ.items() if not k.startswith(("MINIO_", "RABBITMQ_", "PG_", "ACEQUIA_"))}
        temporary = self.folder / "temporary"
        temporary.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [ACEQUIA, "ingest", "tables", "--env", "prod", "--json", *arguments],
            cwd=self.folder,
            env={
                **own,
                "OURS_ENDPOINT": self.minio.endpoint,
                "OURS_ACCESS_KEY": self.minio.access_key,
                "OURS_DSN": self.dsn,
                "ACEQUIA_TEMP_DIR": str(temporary),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def ended(self, process: "subprocess.Popen[str]") -> tuple[int, dict[str, Any]]:
        """Exit code and document."""
        out, err = process.communicate(timeout=PATIENCE)
        assert out, err
        return process.returncode, json.loads(out)

    async def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        return await asyncio.to_thread(self.ended, self.start(*arguments))

    async def changes(self, number: int, seed: int) -> None:
        await self.connection.execute(changes_script(changes=number, seed=seed, at=datetime.now(UTC)))

    async def until_there(self, layer: Layer, matches: Callable[[str], bool], process: "subprocess.Popen[str]") -> None:
        """Wait until such an object lies in the store, while the process runs."""
        until = time.monotonic() + PATIENCE
        while not any([matches(info.key) async for info in self.store.list_objects(layer)]):
            assert process.poll() is None and time.monotonic() < until
            await asyncio.sleep(0.01)

    def lake(self, dataset: str) -> list[tuple[str, ...]]:
        """Keys of the lakehouse's table, sorted; each row has one."""
        settings = LakehouseSettings(catalog_uri=SecretStr(self.catalog_uri))
        with open_catalog(settings, Place.on_server(self.minio, self.buckets)) as catalog:
            frame = catalog.load_table(("silver", dataset)).scan().to_polars()
        return sorted(tuple(map(str, row)) for row in frame.select(KEYS[dataset]).iter_rows())

    async def at_the_source(self, dataset: str) -> list[tuple[str, ...]]:
        where = " WHERE deleted_at IS NULL" if dataset == "accounts" else ""
        columns = ", ".join(KEYS[dataset])
        rows = await self.connection.fetch(f"SELECT {columns} FROM public.{dataset}{where}")
        return sorted(tuple(map(str, row)) for row in rows)

    async def differing(self, *datasets: str) -> dict[str, tuple[int, int]]:
        """Rows in the lake and at the source, of the tables (default: all) that have other keys here than there."""
        found = {}
        for dataset in datasets or KEYS:
            here, there = await asyncio.to_thread(self.lake, dataset), await self.at_the_source(dataset)
            if here != there:
                found[dataset] = (len(here), len(there))
        return found

    async def notified(self) -> list[list[str]]:
        """What the buckets of RAW and SILVER notify whom of."""
        found = []
        for layer in (Layer.RAW, Layer.SILVER):
            told = await self.store._client.get_bucket_notification(self.buckets.of(layer))
            found.append(sorted(f"{queue.config_id} {queue.queue}" for queue in told.queue_config_list or ()))
        return found

    async def open_commands(self) -> int:
        return len([info async for info in self.store.list_objects(Layer.LEDGER, "commands/")])


@pytest.fixture
async def place(stack, fresh_prefix, fresh_database, tmp_path):
    there: PostgresSettings = fresh_database
    connection = await asyncpg.connect(
        host=there.host,
        port=there.port,
        user=there.user,
        password=there.password.get_secret_value(),
        database=there.database,
    )
    await connection.execute(schema_script())
    await connection.execute(rows_script(at=datetime.now(UTC) - timedelta(hours=1)))
    buckets = Buckets(fresh_prefix)
    (tmp_path / "secret").write_text(stack.minio.secret_key.get_secret_value() + "\n")
    store = await MinioStore.open(stack.minio, buckets)
    await store.apply(replace(topology(buckets), notifications=()))
    place = Workplace(tmp_path, stack.minio, buckets, there, store, connection)
    place.settings()
    yield place
    for process in place.running:
        if process.poll() is None:
            process.kill()
            process.communicate()
    await connection.close()
    await store.close()


def moved(document: Mapping[str, Any]) -> dict[str, int]:
    return {name: table["rows"] for name, table in document["tables"].items() if table["rows"]}


async def test_a_store_alone_is_enough_to_load_check_and_merge_tables_and_end_with_0(place):
    code, first = await place.run()

    assert (code, first["ok"], first["state"]) == (0, True, "done")
    assert set(first["tables"]) == set(KEYS)
    assert all(check["passed"] for table in first["tables"].values() for check in table["checks"])
    assert await place.differing() == {}

    await place.changes(40, seed=1)
    code, second = await place.run("--full-refresh", *KEYS)
    assert (code, {table["kind"] for table in second["tables"].values()}) == (0, {"full"})
    assert await place.differing() == {}

    code, third = await place.run("--tables", "accounts", "features")
    assert (code, set(third["tables"]), moved(third), third["rows_raw"]) == (0, {"accounts", "features"}, {}, 0)
    assert await place.open_commands() == 0
    assert list((place.folder / "temporary").iterdir()) == []


STEPS = {
    "a part lies in RAW": (Layer.RAW, lambda key: key.endswith(".parquet")),
    "a part lies in SILVER": (Layer.SILVER, lambda key: key.endswith(".parquet")),
    "the lakehouse has a plan": (Layer.LEDGER, lambda key: key.startswith("plans/lakehouse/")),
    "the lakehouse has committed": (Layer.LAKE, lambda key: key.endswith("/commit.json")),
}


@pytest.mark.parametrize("step", STEPS)
async def test_killed_and_run_again_nothing_is_lost_or_doubled(place, step):
    tables = ("accounts", "payments")
    first = place.start("--tables", *tables)
    await place.until_there(*STEPS[step], first)
    first.kill()
    first.communicate()
    await place.changes(30, seed=2)

    code, document = await place.run("--tables", *tables)

    assert (code, document["problems"]) == (0, [])
    assert await place.differing(*tables) == {}
    assert await place.open_commands() == 0


async def test_two_at_the_same_time_do_each_thing_once(place):
    tables = ("accounts", "payments")
    processes = [place.start("--tables", *tables), place.start("--tables", *tables)]
    ended = await asyncio.gather(*(asyncio.to_thread(place.ended, process) for process in processes))

    assert [(code, document["problems"]) for code, document in ended] == [(0, []), (0, [])]
    assert await place.differing(*tables) == {}


async def test_a_stage_that_rejects_a_table_ends_it_with_1_and_says_why(place):
    await place.connection.execute("ALTER TABLE public.accounts DROP COLUMN email CASCADE")

    code, document = await place.run("--tables", "accounts", "features")

    assert code == 1
    assert document["problems"] and all("accounts" in problem for problem in document["problems"])
    assert "features" not in " ".join(document["problems"])
    assert place.lake("features") == await place.at_the_source("features")


async def test_a_wrong_setting_ends_it_with_2(place):
    place.settings(ACEQUIA_LAKEHOUSE_CATALOG_URI="")

    code, document = await place.run()

    assert code == 2
    assert "ACEQUIA_LAKEHOUSE_CATALOG_URI" in document["error"]


async def test_sigterm_ends_it_though_its_database_does_not_answer_and_the_next_run_goes_on(place):
    waiting = place.connection.transaction()
    await waiting.start()
    await place.connection.execute("LOCK TABLE public.accounts IN ACCESS EXCLUSIVE MODE")
    process = place.start("--tables", "accounts")
    await place.until_there(Layer.LEDGER, lambda key: key.startswith("commands/"), process)
    await asyncio.sleep(1)
    process.send_signal(signal.SIGTERM)

    code, document = await asyncio.to_thread(place.ended, process)

    assert (code, document["exit_code"]) == (130, 130)
    assert "the next run goes on with it" in document["error"]
    assert await place.open_commands() == 1
    await waiting.rollback()
    code, _ = await place.run("--tables", "accounts")
    assert (code, place.lake("accounts")) == (0, await place.at_the_source("accounts"))
    assert await place.open_commands() == 0


async def test_with_an_audit_database_its_records_are_stored_before_it_ends(place):
    there = place.source
    place.settings(
        PG_HOST=there.host,
        PG_PORT=str(there.port),
        PG_USER=there.user,
        PG_PASSWORD=there.password.get_secret_value(),
        PG_DATABASE=there.database,
    )

    code, document = await place.run("--tables", "features")

    assert code == 0
    rows = await place.connection.fetch(
        "SELECT stage, status FROM acequia.audit_events WHERE run_id = $1 AND kind <> 'note'", document["run_id"]
    )
    assert sorted(map(tuple, rows)) == [
        ("ingestor", "ACCEPTED"),
        ("ingestor", "SUCCESS"),
        ("transformer", "SUCCESS"),
    ]
    merged = "SELECT count(*) FROM acequia.audit_events WHERE stage = 'lakehouse' AND status = 'SUCCESS'"
    assert await place.connection.fetchval(merged) == 1


async def test_beside_a_running_installation_each_thing_is_done_once_and_its_notifications_stay(
    place, stack, clean_queues, tmp_path
):
    await clean_queues((1, 2, 2))
    tables = ("accounts", "payments")
    env = {
        **stack.env,
        "ACEQUIA_BUCKET_PREFIX": place.buckets.prefix,
        "ACEQUIA_LAKEHOUSE_CATALOG_URI": place.catalog_uri,
    }
    (tmp_path / "logs").mkdir()
    fleet = Fleet(env, tmp_path / "logs")
    try:
        await asyncio.to_thread(fleet.start, "lakehouse", "transformer")
        before = await place.notified()

        codes = [(await place.run("--tables", *tables))[0]]
        await place.changes(30, seed=4)
        codes.append((await place.run("--tables", *tables, "--full-refresh"))[0])
    finally:
        await asyncio.to_thread(fleet.close)

    assert codes == [0, 0]
    assert await place.differing(*tables) == {}
    assert all(before) and await place.notified() == before
    silver = [info.key async for info in place.store.list_objects(Layer.SILVER)]
    raw = [info.key async for info in place.store.list_objects(Layer.RAW)]
    assert len(silver) == len(raw)
