"""The lakehouse on MinIO and PostgreSQL: commits of two at once, the role that may do little, DuckDB as a reader."""

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import uuid4

import asyncpg
import duckdb
import polars as pl
import psycopg
import pytest
from pyarrow import fs
from pydantic import SecretStr

from acequia.adapters.minio import MinioStore
from acequia.adapters.rabbit import RabbitBus
from acequia.app import BatchService, batch_service
from acequia.datasets import load_registry
from acequia.errors import ConfigurationError, TransientFailure
from acequia.layers import Buckets, Layer, Stem, data_key
from acequia.runner import PARQUET, Workshop
from acequia.settings import PostgresSettings
from acequia.topology import topology
from acequia_lakehouse.catalog import Place, open_catalog
from acequia_lakehouse.maintain import compact, describe, expire
from acequia_lakehouse.prepare import prepare_database
from acequia_lakehouse.service import build_lakehouse
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.stage import build_stage
from acequia_lakehouse.tables import Tables

DATASET, NAME = "network_events", ("silver", "network_events")
VARIANT = "v1-3fa9c1"
AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def uri_of(postgres: PostgresSettings, *, user: str | None = None, password: str = "", database: str = "") -> str:
    own = postgres.password.get_secret_value()
    who = f"{user}:{password}" if user else f"{postgres.user}:{own}"
    return f"postgresql+psycopg://{who}@{postgres.host}:{postgres.port}/{database or postgres.database}"


@pytest.fixture
async def role(stack: Any) -> AsyncIterator[str]:
    """A role and a database of that name, to be made by the test and gone after it."""
    name = f"lake_{uuid4().hex[:8]}"
    yield name
    connection = await asyncpg.connect(
        host=stack.postgres.host,
        port=stack.postgres.port,
        user=stack.postgres.user,
        password=stack.postgres.password.get_secret_value(),
        database=stack.postgres.database,
    )
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.execute(f"DROP ROLE IF EXISTS {name}")
    await connection.close()


@pytest.fixture
async def workshop(
    stack: Any, fresh_prefix: str, clean_queues: Callable[[Sequence[int]], Awaitable[None]]
) -> AsyncIterator[Workshop]:
    buckets = Buckets(fresh_prefix)
    table = topology(buckets)
    bus = await RabbitBus.connect(stack.rabbit)
    store = await MinioStore.open(stack.minio, buckets)
    await bus.apply(table)
    await store.apply(table)
    yield Workshop(store, bus, buckets, load_registry())
    await bus.close()
    await store.close()


@pytest.fixture
def tables_at(stack: Any, workshop: Workshop) -> Iterator[Callable[[str], Tables]]:
    """Tables by the catalog of a URI, closed after the test."""
    opened: list[Tables] = []

    def tables(uri: str) -> Tables:
        settings = LakehouseSettings(catalog_uri=SecretStr(uri), gather_quiet=0.05)
        opened.append(Tables(settings, Place.on_server(stack.minio, workshop.buckets)))
        return opened[-1]

    yield tables
    for each in opened:
        each.close()


async def put(workshop: Workshop, number: int, folder: Path, *ids: int) -> Stem:
    made = Stem(DATASET, AT + timedelta(seconds=number), f"{number:016x}", 1)
    path = folder / f"{made}.parquet"
    pl.DataFrame({"id": ids, "name": ["x"] * len(ids)}).write_parquet(path)
    metadata = {"acequia-rows": str(len(ids))}
    await workshop.store.put(Layer.SILVER, data_key(made, VARIANT), path, metadata=metadata, content_type=PARQUET)
    return made


async def commits(workshop: Workshop) -> list[dict[str, Any]]:
    found = []
    async for info in workshop.store.list_objects(Layer.LAKE, f"{DATASET}/"):
        read = await workshop.store.read(Layer.LAKE, info.key)
        assert read is not None
        found.append(json.loads(read[0]))
    return found


async def until_all_are_in(workshop: Workshop, objects: int) -> list[dict[str, Any]]:
    for _ in range(600):
        found = await commits(workshop)
        if sum(c["registered"] + c["already"] for c in found) >= objects:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"not all of {objects} objects came in: {await commits(workshop)}")


def ids(tables: Tables) -> list[int]:
    table = tables.find(NAME)
    assert table is not None
    return sorted(table.scan().to_arrow().column("id").to_pylist())


async def test_two_replicas_bring_each_object_in_once_while_tables_are_kept_in_order(
    fresh_database: PostgresSettings, workshop: Workshop, tables_at: Callable[[str], Tables], tmp_path: Path
) -> None:
    services: list[BatchService] = []
    for replica in range(2):
        at = replace(workshop, host=f"replica-{replica}")
        tables = tables_at(uri_of(fresh_database))
        services.append(batch_service(build_stage(tables.settings, tables, at), at, stale_after=2.0, renew_every=0.5))
    for service in services:
        await service.start()
    keeper = tables_at(uri_of(fresh_database))
    for number in range(1, 25):
        await put(workshop, number, tmp_path, number, number + 100)
        if number % 8 == 0:
            await until_all_are_in(workshop, 1)
            await asyncio.to_thread(compact, keeper, NAME, ())
    found = await until_all_are_in(workshop, 24)
    await asyncio.to_thread(expire, keeper, NAME, datetime.now(UTC) + timedelta(days=1))
    for service in services:
        await service.stop(5)

    assert ids(keeper) == sorted([*range(1, 25), *range(101, 125)])
    assert sum(c["rows_added"] for c in found) == 48
    silver = [info.key async for info in workshop.store.list_objects(Layer.SILVER)]
    assert len(silver) == 24
    assert describe(keeper, NAME)["rows"] == 48


async def test_duckdb_reads_the_tables_files_from_minio(
    stack: Any,
    fresh_database: PostgresSettings,
    workshop: Workshop,
    tables_at: Callable[[str], Tables],
    tmp_path: Path,
) -> None:
    tables = tables_at(uri_of(fresh_database))
    service = batch_service(build_stage(tables.settings, tables, workshop), workshop)
    await service.start()
    for number in (1, 2):
        await put(workshop, number, tmp_path, number)
    await until_all_are_in(workshop, 2)
    await service.stop(5)

    table = tables.find(NAME)
    assert table is not None
    files = fs.S3FileSystem(
        access_key=stack.minio.access_key,
        secret_key=stack.minio.secret_key.get_secret_value(),
        endpoint_override=stack.minio.endpoint,
        scheme="http",
    )
    paths = [task.file.file_path.removeprefix("s3://") for task in table.scan().plan_files()]
    from pyarrow import dataset as arrow

    with duckdb.connect() as connection:
        connection.register("events", arrow.dataset(paths, filesystem=files, format="parquet"))
        assert connection.execute("select id from events order by id").fetchall() == [(1,), (2,)]


async def test_a_lakehouse_that_has_stopped_holds_no_connection_to_its_catalog(
    stack: Any, fresh_database: PostgresSettings, workshop: Workshop
) -> None:
    settings = LakehouseSettings(catalog_uri=SecretStr(uri_of(fresh_database)))
    service = build_lakehouse(workshop, settings, Place.on_server(stack.minio, workshop.buckets))

    def connections() -> int:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        with psycopg.connect(uri_of(stack.postgres).replace("+psycopg", "")) as connection:
            (found,) = connection.execute(asked, (fresh_database.database,)).fetchone() or (0,)
        return int(found)

    await service.start()
    await service.check()
    assert connections() > 0
    await service.stop(5)
    for _ in range(50):  # a server process ends a moment after its connection
        if not connections():
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{connections()} connections are left")


def test_prepare_makes_a_role_that_may_work_in_the_catalog_and_nowhere_else(stack: Any, role: str) -> None:
    owner = uri_of(stack.postgres)
    uri = uri_of(stack.postgres, user=role, password="first", database=role)

    for _ in range(2):  # as often as compose starts
        assert role in prepare_database(uri, owner)
    changed = uri_of(stack.postgres, user=role, password="second", database=role)
    prepare_database(changed, owner)

    plain = changed.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("INSERT INTO iceberg_tables VALUES ('c', 'n', 't', null, null, null)")
        connection.execute("DELETE FROM iceberg_tables")
        for forbidden in ("CREATE TABLE mine (a int)", "DROP TABLE iceberg_tables", "CREATE DATABASE mine"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(uri.replace("+psycopg", ""))


def test_the_catalogs_trouble_is_named_by_what_follows(stack: Any, fresh_prefix: str, role: str) -> None:
    place = Place.on_server(stack.minio, Buckets(fresh_prefix))
    owner = uri_of(stack.postgres)

    def opened(uri: str) -> None:
        with closing(Tables(LakehouseSettings(catalog_uri=SecretStr(uri)), place)) as tables:
            tables.check()

    with pytest.raises(ConfigurationError, match="ACEQUIA_LAKEHOUSE_CATALOG_URI"):
        open_catalog(LakehouseSettings(), place)
    with pytest.raises(ConfigurationError, match="ACEQUIA_LAKEHOUSE_CATALOG_URI"):
        opened(uri_of(stack.postgres, user=role, password="x"))
    with pytest.raises(ConfigurationError, match="ACEQUIA_LAKEHOUSE_CATALOG_URI"):
        opened("nonsense")
    with pytest.raises(TransientFailure) as away:
        opened(owner.replace(f":{stack.postgres.port}/", ":1/"))
    assert away.value.away
    with pytest.raises(ConfigurationError, match="run time"):
        prepare_database(owner, owner)


def test_of_several_that_make_the_catalogs_tables_at_once_each_opens_the_catalog(
    stack: Any, fresh_prefix: str, fresh_database: PostgresSettings
) -> None:
    place = Place.on_server(stack.minio, Buckets(fresh_prefix))
    together = Barrier(8)

    def opened(_: int) -> str:
        settings = LakehouseSettings(catalog_uri=SecretStr(uri_of(fresh_database)))
        together.wait()
        with open_catalog(settings, place) as catalog:
            return catalog.name

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(opened, range(8)))) == 8
    gc.collect()  # a connection that nobody closed would be told here


def test_python_m_prepare_ends_with_0_and_with_2_where_a_person_must_act(stack: Any, role: str) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "ACEQUIA_LAKEHOUSE_CATALOG_URI": uri_of(stack.postgres, user=role, password="p", database=role),
        "ACEQUIA_LAKEHOUSE_OWNER_URI": uri_of(stack.postgres).replace("+psycopg", ""),
    }
    command = [sys.executable, "-m", "acequia_lakehouse", "prepare"]

    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, role in done.stderr) == (0, True), done.stderr
    wrong = env | {"ACEQUIA_LAKEHOUSE_OWNER_URI": uri_of(stack.postgres, user="nobody", password="x")}
    refused = subprocess.run(command, env=wrong, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "ACEQUIA_LAKEHOUSE_OWNER_URI" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
