"""`acequia query` and `acequia warehouse build` on MinIO, with the lakehouse's catalog in PostgreSQL."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from pydantic import SecretStr
from pyiceberg.table import Table

from acequia.adapters.minio import MinioStore
from acequia.datasets import load_registry
from acequia.layers import Buckets, Layer, Stem, data_key
from acequia.settings import PostgresSettings
from acequia.topology import DEFAULT_RETRY_DELAYS, topology
from acequia_cli.engine import Vanished, explained, open_engine
from acequia_cli.plan import plan
from acequia_cli.stored import Chosen, SnapshotFiles, reached
from acequia_lakehouse.catalog import Place, open_catalog, table_name
from acequia_lakehouse.settings import LakehouseSettings
from conftest import Stack

WELL = pa.schema([("well", pa.string()), ("depth", pa.int64())])
READINGS = pl.DataFrame({"well": ["A-1", "A-2"], "frequency_hz": [50.0, 60.0], "_line": [1, 2]})


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    said: str

    def rows(self) -> Any:
        assert self.code == 0, self.said
        return json.loads(self.out)


class Servers:
    """Buckets and a catalog of the test's own."""

    def __init__(self, stack: Stack, store: MinioStore, buckets: Buckets, uri: str) -> None:
        self.store = store
        self._place = Place.on_server(stack.minio, buckets)
        self._settings = LakehouseSettings(catalog_uri=SecretStr(uri))
        self.catalog = open_catalog(self._settings, self._place)
        self.env = stack.env | {"ACEQUIA_BUCKET_PREFIX": buckets.prefix, "ACEQUIA_LAKEHOUSE_CATALOG_URI": uri}

    async def lay(self, layer: Layer, dataset: str, rows: pl.DataFrame, folder: Path, part: int = 1) -> str:
        """Put an object there; its key."""
        path = folder / "object.parquet"
        rows.write_parquet(path)
        stem = Stem(dataset, datetime(2025, 12, 20, 6, 0, 0, tzinfo=UTC), "0123456789abcdef", part)
        key = data_key(stem, None if layer is Layer.RAW else "v1-aaaaaa")
        await self.store.put(layer, key, path, metadata={}, content_type="application/vnd.apache.parquet")
        return key

    def table(self, name: str, columns: pa.Schema) -> Table:
        namespace, _ = full = table_name(name, self._settings)
        self.catalog.create_namespace_if_not_exists(namespace)
        return self.catalog.create_table(full, columns)

    def location(self, layer: Layer, key: str) -> str:
        return self._place.location(layer, key)

    async def acequia(self, *arguments: object, **env: str) -> Done:
        ours = ("ACEQUIA_", "MINIO_", "RABBITMQ_", "PG_")
        plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "acequia_cli.main", *map(str, arguments)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**plain, **self.env, **env},
        )
        out, said = await process.communicate()
        return Done(process.returncode or 0, out.decode(), said.decode())

    async def ask(self, sql: str, *options: object, **env: str) -> Done:
        return await self.acequia("query", sql, "--format", "json", *options, **env)


@pytest.fixture
async def servers(stack: Stack, fresh_prefix: str, fresh_database: PostgresSettings) -> AsyncIterator[Servers]:
    db = fresh_database
    uri = f"postgresql+psycopg://{db.user}:{db.password.get_secret_value()}@{db.host}:{db.port}/{db.database}"
    buckets = Buckets(fresh_prefix)
    async with await MinioStore.open(stack.minio, buckets) as store:
        await store.apply(replace(topology(buckets, DEFAULT_RETRY_DELAYS), notifications=()))
        servers = Servers(stack, store, buckets, uri)
        yield servers
        servers.catalog.close()


async def test_raw_is_read_in_the_store(servers: Servers, tmp_path: Path):
    await servers.lay(Layer.RAW, "sensor_data", READINGS, tmp_path)
    await servers.lay(Layer.RAW, "sensor_data", READINGS, tmp_path, part=2)

    found = await servers.ask(
        "select well, count(*) as n, max(_date) as day from bronze.sensor_data group by all order by all"
    )

    assert found.rows() == [{"well": "A-1", "n": 2, "day": "2025-12-20"}, {"well": "A-2", "n": 2, "day": "2025-12-20"}]


async def test_the_lakehouses_tables_are_read_where_their_files_lie(servers: Servers, tmp_path: Path):
    """In LAKE what the lakehouse wrote, in SILVER what it registered."""
    key = await servers.lay(Layer.SILVER, "wells", pl.DataFrame({"well": ["B-1"], "depth": [700]}), tmp_path)
    table = await asyncio.to_thread(servers.table, "wells", WELL)
    await asyncio.to_thread(table.append, pa.table({"well": ["A-1"], "depth": [500]}, schema=WELL))
    first = table.current_snapshot()
    assert first is not None
    await asyncio.to_thread(table.add_files, [servers.location(Layer.SILVER, key)])
    sql = "select well, depth from silver.wells order by 1"

    assert (await servers.ask(sql)).rows() == [{"well": "A-1", "depth": 500}, {"well": "B-1", "depth": 700}]
    assert (await servers.ask(sql, "--as-of", first.snapshot_id)).rows() == [{"well": "A-1", "depth": 500}]


async def test_a_warehouse_is_built_from_the_store(servers: Servers, tmp_path: Path):
    await servers.lay(Layer.RAW, "sensor_data", READINGS, tmp_path)
    table = await asyncio.to_thread(servers.table, "wells", WELL)
    await asyncio.to_thread(table.append, pa.table({"well": ["A-1"], "depth": [500]}, schema=WELL))
    file = tmp_path / "warehouse.duckdb"

    built = await servers.acequia("warehouse", "build", file)

    assert built.code == 0, built.said
    with duckdb.connect(str(file), read_only=True) as warehouse:
        joined = "select well, frequency_hz, depth from bronze.sensor_data join silver.wells using (well)"
        assert warehouse.sql(joined).fetchall() == [("A-1", 50.0, 500)]


async def test_settings_may_stand_in_a_file(servers: Servers, tmp_path: Path):
    await servers.lay(Layer.RAW, "sensor_data", READINGS, tmp_path)
    file = tmp_path / ".env"
    file.write_text("".join(f"{name}={value}\n" for name, value in servers.env.items()))
    servers.env = {}

    found = await servers.ask("select count(*) as n from bronze.sensor_data", "--env-file", file)

    assert found.rows() == [{"n": 2}]


async def test_bronze_needs_no_catalog_and_silver_names_the_setting(servers: Servers, tmp_path: Path):
    await servers.lay(Layer.RAW, "sensor_data", READINGS, tmp_path)
    none = {"ACEQUIA_LAKEHOUSE_CATALOG_URI": ""}

    assert (await servers.ask("select count(*) as n from bronze.sensor_data", **none)).rows() == [{"n": 2}]
    refused = await servers.ask("from silver.sensor_data", **none)
    assert refused.code == 2 and "ACEQUIA_LAKEHOUSE_CATALOG_URI" in refused.said


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("MINIO_SECRET_KEY", "wrong", "MINIO_"),
        ("MINIO_ENDPOINT", "127.0.0.1:1", "127.0.0.1:1"),
        ("ACEQUIA_LAKEHOUSE_CATALOG_URI", "postgresql+psycopg://nobody:x@127.0.0.1:1/x", "catalog"),
    ],
)
async def test_what_is_away_or_refuses_is_told_in_one_line(servers: Servers, setting: str, value: str, said: str):
    asked = "from bronze.sensor_data" if setting.startswith("MINIO") else "from silver.sensor_data"

    result = await servers.ask(asked, **{setting: value})

    assert result.code in (1, 2)
    assert said in result.said and len(result.said.splitlines()) == 1


async def test_an_object_that_goes_after_it_was_opened_is_known_to_be_gone(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """So that the query is begun again, and does not end as if the store were broken."""
    key = await servers.lay(Layer.RAW, "sensor_data", READINGS, tmp_path)
    for name, value in servers.env.items():
        monkeypatch.setenv(name, value)
    async with reached(Chosen(None, None, None, tmp_path)) as installation:
        found = await plan(installation, load_registry(), [("bronze", "sensor_data")], None)
        files = SnapshotFiles()
        with open_engine(files, memory="1GB", temp=tmp_path) as engine:
            [relation] = found
            await asyncio.to_thread(relation.create, engine, files)
            [path] = files.glob("acequia://bronze/sensor_data/**")
            opened = files.open(path)
            await servers.store.remove(Layer.RAW, key)

            with pytest.raises(OSError):
                await asyncio.to_thread(opened.read, 10)
            assert files.gone == path
            with pytest.raises(Vanished), explained(files):
                await asyncio.to_thread(lambda: engine.sql("from bronze.sensor_data").fetchall())
