"""`acequia import` from a bucket and a table of real servers: what MinIO tells of it starts no run."""

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import aio_pika
import aiohttp
import asyncpg
import httpx
import polars as pl
import pytest
from miniopy_async.api import Minio

from acequia.adapters.minio import MinioStore
from acequia.adapters.rabbit import RabbitBus
from acequia.layers import Buckets, Layer
from acequia.topology import DEFAULT_RETRY_DELAYS, topology
from acequia_cli.elsewhere import OneBucket
from harness.fleet import Fleet

pytestmark = pytest.mark.stack

T = TypeVar("T")
IN_RAW = "network_events_20251219_090000.parquet"
NAMES = [f"network_events_202512{day}_121209.parquet" for day in (20, 21, 22)]


def theirs(name: str, count: int = 60) -> bytes:
    """A file as the predecessors wrote it; no two are alike."""
    began = datetime.strptime(name[15:23], "%Y%m%d").replace(tzinfo=UTC)
    times = [began.replace(minute=n % 60, second=n // 60) for n in range(count)]
    frame = pl.DataFrame(
        {
            "timestamp": times,
            "src_ip": [f"10.0.0.{n % 5}" for n in range(count)],
            "dst_ip": [f"192.0.2.{n % 3}" for n in range(count)],
            "bytes": [100 + n for n in range(count)],
            "duration": [0.5 + n for n in range(count)],
            "protocol": ["TCP"] * count,
        }
    )
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


class Place:
    """A fleet, and beside it what a predecessor left on the same servers."""

    def __init__(self, fleet: Fleet, stack: Any, bucket: str) -> None:
        self.fleet = fleet
        self.stack = stack
        self.bucket = bucket
        self.buckets = Buckets(fleet.env["ACEQUIA_BUCKET_PREFIX"])

    def store(self, act: Callable[[MinioStore], Awaitable[T]], buckets: Buckets | None = None) -> T:
        async def run() -> T:
            store = await MinioStore.open(self.stack.minio, buckets or self.buckets)
            try:
                return await act(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def put(self, layer: Layer, key: str, data: bytes, buckets: Buckets | None = None) -> None:
        self.store(
            lambda store: store.put(layer, key, data, metadata={}, content_type="application/octet-stream"), buckets
        )

    def keys(self, layer: Layer, prefix: str = "") -> list[str]:
        async def listed(store: MinioStore) -> list[str]:
            return [info.key async for info in store.list_objects(layer, prefix)]

        return self.store(listed)

    def depth(self, queue: str) -> int:
        async def run() -> int:
            bus = await RabbitBus.connect(self.stack.rabbit)
            try:
                return await bus.depth(queue)
            finally:
                await bus.close()

        return asyncio.run(run())

    def sql(self, statement: str, *more: Any, database: str | None = None) -> list[Any]:
        async def run() -> list[Any]:
            there = self.stack.postgres
            connection = await asyncpg.connect(
                host=there.host,
                port=there.port,
                user=there.user,
                password=there.password.get_secret_value(),
                database=database or self.fleet.env["PG_DATABASE"],
            )
            try:
                return [tuple(row) for row in await connection.fetch(statement, *more)]
            finally:
                await connection.close()

        return asyncio.run(run())

    def acequia(self, *arguments: object) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "acequia_cli.main", *map(str, arguments), "--json"],
            env={**self.fleet.env, "ACEQUIA_URL": self.fleet.url("ingestor")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def ignored(self) -> int:
        """How many events the transformer left alone because they are held back."""
        text = httpx.get(f"{self.fleet.url('transformer')}/metrics", timeout=10).text
        found = re.search(r'acequia_ignored_total\{reason="held",stage="transformer"\} ([0-9.]+)', text)
        return int(float(found[1])) if found else 0


async def clear_queues(stack: Any) -> None:
    """No queue that another test left."""
    connection = await aio_pika.connect(stack.rabbit.url.get_secret_value())
    async with connection, connection.channel() as channel:
        for delays in ((1, 2, 2), DEFAULT_RETRY_DELAYS):
            for queue in topology(Buckets(), delays).queues:
                for name in (queue.name, *queue.rungs):
                    await channel.queue_delete(name)


@pytest.fixture(scope="module")
def place(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The ingestor and the auditor run; a bucket and a table are somebody else's."""
    database, old = f"t{uuid4().hex[:12]}", f"old-{uuid4().hex[:12]}"
    asyncio.run(clear_queues(stack))
    fleet = Fleet(
        {**os.environ, **stack.env, "ACEQUIA_BUCKET_PREFIX": f"t{uuid4().hex[:12]}", "PG_DATABASE": database},
        tmp_path_factory.mktemp("logs"),
    )
    made = Place(fleet, stack, old)
    made.sql(f"CREATE DATABASE {database}", database=stack.postgres.database)
    at = stack.minio

    async def make_bucket() -> None:
        secret = at.secret_key.get_secret_value()
        async with aiohttp.ClientSession() as session:
            await Minio(at.endpoint, at.access_key, secret, secure=at.secure, session=session).make_bucket(old)

    asyncio.run(make_bucket())
    for name in NAMES:
        made.put(Layer.LANDING, name, theirs(name), OneBucket(bucket=old))
    made.put(Layer.LANDING, f"below/{NAMES[0]}", b"not at the root", OneBucket(bucket=old))
    made.sql(
        "CREATE TABLE public.history (creado timestamptz, object_name text, bucket text, record_count int, status text)"
    )
    for name in (*NAMES, "network_events_20251201_000000.parquet"):
        insert = "INSERT INTO history VALUES ($1, $2, $3, 60, 'ok')"
        made.sql(insert, datetime(2025, 12, 25, tzinfo=UTC), name, old)
    try:
        fleet.start("auditor", "ingestor")
        yield made
    finally:
        fleet.close()
        asyncio.run(clear_queues(stack))


def test_an_object_of_theirs_at_the_root_of_raw_is_taken_over_before_anybody_rejects_it(place: Place) -> None:
    place.put(Layer.RAW, IN_RAW, theirs(IN_RAW))
    code, told = place.acequia("import", f"s3://{place.buckets.of(Layer.RAW)}")
    assert (code, told["files"]["imported"], told["files"]["skipped"]) == (0, 1, {})
    assert place.depth("acequia.transformer") == 2  # of theirs and of ours
    place.fleet.start("transformer", "reconciler")
    place.fleet.wait(lambda: place.ignored() == 2, "the events are not heard")
    assert (place.keys(Layer.SILVER), place.keys(Layer.QUARANTINE)) == ([], [])


def test_what_minio_tells_of_imported_objects_starts_no_run(place: Place) -> None:
    before, there = place.ignored(), place.stack.postgres
    password = there.password.get_secret_value()
    url = f"postgresql://{there.user}:{password}@{there.host}:{there.port}/{place.fleet.env['PG_DATABASE']}"
    asked = ("import", f"s3://{place.bucket}", "--base-datos", url, "--tabla", "history", "--columnas", "at=creado")
    code, told = place.acequia(*asked)
    assert (code, told["files"]["imported"], told["rows"]) == (0, 3, {"in": 180, "raw": 180, "rejected": {}})
    assert (told["list"]["of_files"], told["list"]["imported"]) == (3, 1)
    place.fleet.wait(lambda: place.ignored() - before == 3, "the events are not heard")
    assert place.depth("acequia.transformer") == 0
    assert (place.keys(Layer.SILVER), place.keys(Layer.QUARANTINE), place.keys(Layer.MODELS)) == ([], [], [])
    code, again = place.acequia(*asked)
    assert (code, again["files"]["known"], again["list"]["known"], again["rows"]["in"]) == (0, 3, 1, 0)


def test_the_reconciler_leaves_it_and_the_proof_holds(place: Place) -> None:
    before = place.ignored()
    swept = httpx.post(f"{place.fleet.url('reconciler')}/sweep", params={"grace": 0}, timeout=60).json()
    assert (swept["orphans"], swept["sent"]) == ([], 0)
    code, proof = place.acequia("verify", "--settled", "--grace", 0)
    assert code == 0, proof
    at = {(row["reader"], row["dataset"]): row for row in proof["sums"]}
    ours, foreign = at["transformer", "network_events"], at["transformer", "_unknown"]
    assert (ours["objects"], ours["held"]) == (4, 4)
    assert (foreign["objects"], foreign["not_applicable"]) == (1, 1)
    assert place.ignored() == before


def test_their_list_shows_in_the_view_and_outlives_the_database(place: Place) -> None:
    def listed() -> list[Any]:
        return place.sql("SELECT nombre_archivo, ruta_minio, num_registros, estado FROM ingestion_events ORDER BY 1")

    def known() -> bool:
        return len(listed()) == 5

    place.fleet.wait(known, "the records do not come")
    before = listed()
    assert before == [
        ("network_events_20251201_000000.parquet", f"{place.bucket}/network_events_20251201_000000.parquet", 60, "ok"),
        (IN_RAW, f"{place.buckets.of(Layer.RAW)}/{IN_RAW}", 60, "IMPORTED"),
        *((name, f"{place.bucket}/{name}", 60, "ok") for name in NAMES),
    ]
    assert place.fleet.stop("auditor") == 0
    place.sql("DROP SCHEMA acequia CASCADE")
    place.fleet.start("auditor")
    assert place.acequia("audit", "rebuild")[0] == 0
    assert listed() == before
    code, runs = place.acequia("runs", "--status", "imported")
    assert (code, len(runs["runs"])) == (0, 5)


def test_a_replay_has_it_worked_on(place: Place) -> None:
    code, told = place.acequia(
        "replay", "--layer", "raw", "--dataset", "network_events", "--only-missing", "--since", "2025-12-20"
    )
    assert (code, told["sent"]) == (0, 3)
    place.fleet.wait(lambda: len(place.keys(Layer.SILVER)) == 3, "nothing comes to SILVER")
    code, proof = place.acequia("verify", "--grace", 60)
    assert code == 0, proof
    (ours,) = [row for row in proof["sums"] if (row["reader"], row["dataset"]) == ("transformer", "network_events")]
    assert (ours["objects"], ours["done"], ours["held"]) == (4, 3, 1)
