"""The lakehouse as it runs: events in, plans, commit objects, and its calls over HTTP."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import httpx
import polars as pl
import pytest
from psycopg.errors import DuplicateTable
from sqlalchemy.exc import ProgrammingError

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.app import House, make_app
from acequia.datasets import load_registry
from acequia.errors import ConfigurationError
from acequia.events import record_of_document
from acequia.layers import Buckets, Layer, Name, Stem, data_key, manifest_key, stage_key
from acequia.runner import PARQUET, Workshop
from acequia.topology import topology
from acequia_lakehouse.catalog import Place, open_catalog
from acequia_lakehouse.problems import CATALOG, translated, until_it_holds
from acequia_lakehouse.service import build_lakehouse
from acequia_lakehouse.settings import LakehouseSettings

from .conftest import AT, NEW, OLD, REGISTRY, people, visits

DATASET = "network_events"
BUCKETS = Buckets("test")


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    store = await DirectoryStore.open(tmp_path / "store", BUCKETS, bus)
    table = topology(BUCKETS, (1,))
    await bus.apply(table)
    await store.apply(table)
    known = json.dumps({"variants": [OLD, NEW]}).encode()
    await store.put(Layer.LEDGER, stage_key("transformer"), known, metadata={}, content_type="application/json")
    yield Workshop(store, bus, BUCKETS, load_registry(), temp_dir=tmp_path)
    await bus.close()
    await store.close()


@asynccontextmanager
async def running(workshop: Workshop, folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app, house = make_app("lakehouse"), House("lakehouse")
    house.add_routes(app)
    own = LakehouseSettings(gather_quiet=0.1, **settings)
    services = [build_lakehouse(workshop, own, Place.in_folder(folder, BUCKETS), stale_after=0.0, poll=0.05)]
    await house.open(app, workshop, services)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://lakehouse", timeout=60) as client:
        try:
            yield client
        finally:
            await house.stop(5)


async def put(
    workshop: Workshop,
    number: int,
    frame: pl.DataFrame,
    variant: str = OLD,
    *,
    dataset: str = DATASET,
    load: str = "",
    part: int = 1,
) -> Stem:
    made = Stem(dataset, AT + timedelta(seconds=number), f"{number:016x}", part)
    path = (workshop.temp_dir or Path()) / f"{made}.{variant}.parquet"
    frame.write_parquet(path)
    metadata = {"acequia-rows": str(frame.height), "acequia-run-id": str(UUID(int=number))}
    if load:
        metadata["acequia-load"] = load
    await workshop.store.put(Layer.SILVER, data_key(made, variant), path, metadata=metadata, content_type=PARQUET)
    return made


async def commits(workshop: Workshop) -> list[dict[str, Any]]:
    found = []
    async for info in workshop.store.list_objects(Layer.LAKE):
        read = await workshop.store.read(Layer.LAKE, info.key)
        assert read is not None
        document = json.loads(read[0])
        assert record_of_document(document, uri=info.uri, etag=info.etag, size=info.bytes) is not None
        assert Name.of_key(info.key) is not None
        found.append(document)
    return found


async def until(true: Callable[[list[dict[str, Any]]], bool], workshop: Workshop) -> list[dict[str, Any]]:
    for _ in range(300):
        if true(found := await commits(workshop)):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"it never came to that: {await commits(workshop)}")


async def tables(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    answer = await client.get("/lake/tables")
    assert answer.status_code == 200
    return {told["table"]: told for told in answer.json()["tables"]}


async def test_objects_of_silver_come_into_their_table_and_the_commit_object_tells_of_it(
    workshop: Workshop, tmp_path: Path
) -> None:
    async with running(workshop, tmp_path) as client:
        await put(workshop, 1, visits(1, 2))
        (commit,) = await until(bool, workshop)
        told = (await tables(client))["silver.network_events"]

    assert (commit["registered"], commit["rows_added"]) == (1, 2)
    assert (commit["record"]["stage"], commit["record"]["status"]) == ("lakehouse", "SUCCESS")
    assert commit["record"]["inputs"][0]["uri"].startswith("s3://test-silver/network_events/")
    assert (told["rows"], told["last_plan"], told["snapshot"]) == (2, "network_events/000001", commit["snapshot"])


async def test_a_newer_variant_takes_its_predecessors_place_without_being_asked_for(
    workshop: Workshop, tmp_path: Path
) -> None:
    async with running(workshop, tmp_path) as client:
        made = await put(workshop, 1, visits(1, name="old"))
        await until(bool, workshop)
        await put(workshop, 1, visits(1, 2, name="new"), NEW)
        found = await until(lambda documents: len(documents) == 2, workshop)
        rows = (await tables(client))["silver.network_events"]["rows"]

    assert (found[1]["replaced"], rows) == ([f"{made}.{OLD}"], 2)


async def test_more_rows_than_a_plan_may_have_become_several_commits(workshop: Workshop, tmp_path: Path) -> None:
    for number in range(1, 6):
        await put(workshop, number, visits(number, number + 10))
    async with running(workshop, tmp_path, plan_rows=4) as client:
        found = await until(lambda documents: sum(d["rows_in"] for d in documents) == 10, workshop)
        rows = (await tables(client))["silver.network_events"]["rows"]

    assert (sorted(d["rows_in"] for d in found), rows) == ([2, 4, 4], 10)


async def test_the_parts_of_a_full_load_come_together_though_plans_apart_cover_them(
    workshop: Workshop, tmp_path: Path
) -> None:
    """The last plan names what the earlier ones covered, also where the lakehouse began anew in between."""
    workshop.registry = REGISTRY
    parts = [people(1, {1: "a"}, 1), people(1, {2: "b"}, 2), people(1, {3: "c"}, 3)]
    states = []
    for number, frame in enumerate(parts, 1):
        async with running(workshop, tmp_path) as client:
            load = f"1.full.{number}" + ("of3" if number == 3 else "")
            await put(workshop, 1, frame, dataset="people", load=load, part=number)
            found = await until(lambda documents, n=number: len(documents) == n, workshop)  # type: ignore[misc]
            states.append((found[-1]["loads"][0]["state"], len((await tables(client)).keys())))
            rows = (await tables(client)).get("silver.people", {}).get("rows")

    assert (states, rows) == ([("staged", 0), ("staged", 0), ("replaced", 1)], 3)
    assert len(found[-1]["record"]["inputs"]) == 3


async def test_an_object_that_is_no_parquet_is_told_in_quarantine_and_the_service_goes_on(
    workshop: Workshop, tmp_path: Path
) -> None:
    async with running(workshop, tmp_path):
        made = Stem(DATASET, AT, "f" * 16, 1)
        metadata = {"acequia-rows": "1"}
        await workshop.store.put(Layer.SILVER, data_key(made, OLD), b"x", metadata=metadata, content_type=PARQUET)
        manifests: list[str] = []
        for _ in range(300):
            prefix = manifest_key("lakehouse", made).partition(DATASET)[0]
            manifests = [i.key async for i in workshop.store.list_objects(Layer.QUARANTINE, prefix)]
            if manifests:
                break
            await asyncio.sleep(0.1)
        await put(workshop, 2, visits(1))
        await until(bool, workshop)
    (manifest,) = manifests
    read = await workshop.store.read(Layer.QUARANTINE, manifest)
    assert read is not None and json.loads(read[0])["rule"] == "nothing_for_the_table"


async def test_tables_are_kept_in_order_when_it_is_asked_for(workshop: Workshop, tmp_path: Path) -> None:
    async with running(workshop, tmp_path) as client:
        for number in (1, 2, 3):
            await put(workshop, number, visits(number))
            await until(lambda documents, n=number: len(documents) == n, workshop)  # type: ignore[misc]
        told = (await client.post("/lake/compact", json={"dataset": DATASET, "dry_run": True})).json()
        done = (await client.post("/lake/compact", json={"dataset": DATASET})).json()
        later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        gone = (await client.post("/lake/expire", json={"older_than": later})).json()
        rows = (await tables(client))["silver.network_events"]
        unknown = await client.post("/lake/compact", json={"dataset": "nothing"})
        wrong = await client.post("/lake/expire", json={"older_then": later})

    assert [t["tables"][0]["files_after"] for t in (told, done)] == [1, 1]
    assert (told["tables"][0]["commits"], done["tables"][0]["commits"]) == (0, 1)
    assert gone["tables"][0]["snapshots_after"] == 1
    assert (rows["rows"], rows["files"], rows["snapshots"]) == (3, 1, 1)
    assert (unknown.status_code, unknown.json()["allowed"]) == (404, [DATASET])
    assert wrong.status_code == 422


async def test_tables_are_kept_in_order_by_the_clock(workshop: Workshop, tmp_path: Path) -> None:
    async with running(workshop, tmp_path, maintain_every=0.2, compact_files=2, most_snapshots=1) as client:
        for number in (1, 2, 3):
            await put(workshop, number, visits(number))
            await until(lambda documents, n=number: len(documents) == n, workshop)  # type: ignore[misc]
        for _ in range(300):
            told = (await tables(client))["silver.network_events"]
            if (told["files"], told["snapshots"]) == (1, 1):
                break
            await asyncio.sleep(0.1)
    assert (told["rows"], told["files"], told["snapshots"]) == (3, 1, 1)


def test_of_several_that_make_an_embedded_catalog_at_once_each_opens_it(tmp_path: Path) -> None:
    several, rounds = 8, 20
    together = Barrier(several, timeout=10)

    def opened(_: int) -> None:
        for number in range(rounds):
            together.wait()
            with open_catalog(LakehouseSettings(), Place.in_folder(tmp_path / str(number), BUCKETS)) as catalog:
                assert catalog.list_namespaces() == []

    with ThreadPoolExecutor(several) as pool:
        list(pool.map(opened, range(several)))  # raises what one of them raised
    for file in [tmp_path / str(number) / "lake" / "catalog.sqlite" for number in range(rounds)]:
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_table_that_another_made_is_found_in_whatever_language_postgresql_says_so() -> None:
    said = iter([ProgrammingError("", {}, DuplicateTable("la relación «iceberg_tables» ya existe"))])

    def made() -> str:
        with translated():
            for error in said:
                raise error
        return "found"

    assert until_it_holds(made, CATALOG) == "found"


async def test_an_embedded_installation_has_its_own_catalog_whatever_the_settings_name(tmp_path: Path) -> None:
    named = LakehouseSettings(catalog="rest", catalog_uri="http://127.0.0.1:1", warehouse="s3://elsewhere")  # type: ignore[arg-type]
    catalog = open_catalog(named, Place.in_folder(tmp_path, BUCKETS))
    assert catalog.properties["uri"] == f"sqlite:///{tmp_path}/lake/catalog.sqlite"
    assert catalog.properties["warehouse"] == f"{tmp_path}/lake"
    with pytest.raises(ConfigurationError, match="ACEQUIA_LAKEHOUSE_CATALOG_URI"):
        open_catalog(LakehouseSettings(), Place({}, "s3://lake/warehouse", {}, "test"))
