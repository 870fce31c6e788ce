"""Tables through MinIO and RabbitMQ into the lakehouse, with two ingestors that die, while people go on working."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from acequia.adapters.minio import MinioStore
from acequia.layers import Buckets, Layer, done_key
from acequia.settings import MinioSettings, PostgresSettings
from acequia_ingestor.samples import changes_script, rows_script, schema_script
from acequia_lakehouse.catalog import Place, open_catalog
from acequia_lakehouse.settings import LakehouseSettings
from harness.fleet import Fleet

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

INGESTORS = ("ingestor", "ingestor.2")
PATIENCE = 180.0
COLUMNS = {
    "accounts": ("account_id", "balance", "updated_at"),
    "payments": ("payment_id", "status", "updated_at"),
    "content_attributes": ("content_id", "name", "value", "updated_at"),
    "subscription_features": ("subscription_id", "feature_id"),
}


@dataclass
class House:
    fleet: Fleet
    store: MinioStore
    minio: MinioSettings
    buckets: Buckets
    catalog_uri: str
    dsn: str
    source: Any

    async def ask(self, ingestor: str, key: str, **source: Any) -> UUID:
        body = {"source": {"kind": "postgres", **source}}
        async with httpx.AsyncClient(timeout=60) as client:
            url, headers = f"{self.fleet.url(ingestor)}/ingestions", {"Idempotency-Key": key}
            return UUID((await client.post(url, json=body, headers=headers)).raise_for_status().json()["run_id"])

    async def done(self, run_id: UUID) -> None:
        await self.until(lambda: self.store.head(Layer.LEDGER, done_key(run_id)), f"run {run_id} does not end")

    async def until(self, there: Callable[[], Awaitable[Any]], why: str) -> None:
        end = time.monotonic() + PATIENCE
        while not await there():
            assert time.monotonic() < end, (why, [self.fleet.log(name) for name in self.fleet.processes])
            await asyncio.sleep(0.2)

    def in_the_lake(self, dataset: str) -> list[tuple[str, ...]] | None:
        settings = LakehouseSettings(catalog_uri=SecretStr(self.catalog_uri))
        with open_catalog(settings, Place.on_server(self.minio, self.buckets)) as catalog:
            if not catalog.table_exists(("silver", dataset)):
                return None
            frame = catalog.load_table(("silver", dataset)).scan().to_polars()
        return sorted(tuple(map(str, row)) for row in frame.select(COLUMNS[dataset]).iter_rows())

    async def at_the_source(self, dataset: str) -> list[tuple[str, ...]]:
        where = " WHERE deleted_at IS NULL" if dataset == "accounts" else ""
        rows = await self.source.fetch(f"SELECT {', '.join(COLUMNS[dataset])} FROM public.{dataset}{where}")
        return sorted(tuple(map(str, row)) for row in rows)

    async def same(self, dataset: str) -> None:
        there = await self.at_the_source(dataset)

        async def equal() -> bool:
            return await asyncio.to_thread(self.in_the_lake, dataset) == there

        await self.until(equal, f"{dataset} in the lakehouse is not as at the source")


@pytest.fixture
async def house(
    stack: Any,
    fresh_prefix: str,
    fresh_database: PostgresSettings,
    clean_queues: Callable[[Sequence[int]], Awaitable[None]],
    tmp_path: Path,
) -> AsyncIterator[House]:
    there = fresh_database
    secret = there.password.get_secret_value()
    dsn = f"postgresql://{there.user}:{secret}@{there.host}:{there.port}/{there.database}"
    source = await asyncpg.connect(dsn)
    await source.execute("SET TimeZone = 'UTC'")
    await source.execute(schema_script())
    await source.execute(rows_script(accounts=150, at=datetime.now(UTC)))
    await clean_queues((1, 2, 2))
    catalog_uri = dsn.replace("postgresql:", "postgresql+psycopg:")
    env = {
        **stack.env,
        "ACEQUIA_BUCKET_PREFIX": fresh_prefix,
        "ACEQUIA_SOURCE_POSTGRES_DSN": dsn,
        "ACEQUIA_SOURCE_POSTGRES_LOAD_SECONDS": "0.2",
        "ACEQUIA_INGESTOR_ROWS_PER_PART": "60",
        "ACEQUIA_LAKEHOUSE_CATALOG_URI": catalog_uri,
    }
    fleet = Fleet(env, tmp_path, names=("transformer", "lakehouse", *INGESTORS))
    try:
        await asyncio.to_thread(fleet.start, *fleet.ports)
        buckets = Buckets(fresh_prefix)
        store = await MinioStore.open(stack.minio, buckets)
        yield House(fleet, store, stack.minio, buckets, catalog_uri, dsn, source)
        await store.close()
    finally:
        await asyncio.to_thread(fleet.close)
        await source.close()


async def test_while_people_work_and_ingestors_die_nothing_is_lost_or_doubled_and_an_emptied_table_is_empty(
    house: House,
) -> None:
    working = True

    async def work() -> None:
        seed = 0
        while working:
            seed += 1
            person = await asyncpg.connect(house.dsn)  # the script's functions are its session's
            await person.execute(changes_script(changes=40, seed=seed, at=datetime.now(UTC)))
            await person.close()
            await asyncio.sleep(0.1)

    people = asyncio.create_task(work())
    tables = ["accounts", "payments", "content_attributes", "subscription_features"]
    for number in range(4):
        dies, stays = INGESTORS[number % 2], INGESTORS[1 - number % 2]
        run_id = await house.ask(dies, f"load {number}", tables=tables)
        assert await house.ask(stays, f"load {number}", tables=tables) == run_id  # the command is sent twice
        await asyncio.sleep(number * 0.4)
        house.fleet.kill(dies)
        await house.done(run_id)
        await asyncio.to_thread(house.fleet.start, dies)
    working = False
    await people

    await house.done(await house.ask("ingestor", "changes", tables=["accounts", "content_attributes"]))
    await house.done(await house.ask("ingestor.2", "gone", full_refresh=["payments"]))
    for dataset in tables:
        await house.same(dataset)

    await house.source.execute("DELETE FROM public.subscription_features")
    await house.done(await house.ask("ingestor", "emptied", tables=["subscription_features"]))
    await house.same("subscription_features")
    assert await asyncio.to_thread(house.in_the_lake, "subscription_features") == []
