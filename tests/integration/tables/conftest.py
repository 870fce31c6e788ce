"""Tables of a PostgreSQL, the embedded one and the stack's where it is there, and the ingestor that loads them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

import asyncpg
import polars as pl
import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.datasets import DELETED, VERSION, Dataset, Registry, Table, load_registry
from acequia.datasets._table import UTC_TIME, Column, table_dataset
from acequia.errors import TransientFailure
from acequia.events import META_BLOCKED, META_LOAD, AuditRecord, IngestionCommand, Kind, Load, SourceRequest
from acequia.layers import Buckets, Layer, command_key
from acequia.ports import Ack, Delivery, Message, Settlement
from acequia.runner import Workshop
from acequia.settings import PostgresSettings
from acequia.topology import AUDIT_QUEUE, topology
from acequia_cli.postgres import EmbeddedPostgres
from acequia_ingestor.formats import load_formats
from acequia_ingestor.ingest import COMMAND, Ingestor
from acequia_ingestor.settings import IngestorSettings, PostgresSourceSettings

BUCKETS = Buckets("test")
QUEUE = "acequia.ingestor"


class Stack(Protocol):
    """The real servers of this run, as tests/conftest.py knows them."""

    postgres: PostgresSettings


AT = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresSettings]:
    """A PostgreSQL server of these tests, which takes prepared transactions."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("source"))
    asyncio.run(_allow_prepared(postgres.start()))
    postgres.stop()
    yield postgres.start()
    postgres.stop()


@pytest.fixture(params=["embedded", pytest.param("stack", marks=pytest.mark.stack)])
def server(request: pytest.FixtureRequest) -> PostgresSettings:
    if request.param == "embedded":
        found: PostgresSettings = request.getfixturevalue("embedded")
        return found
    stack: Stack = request.getfixturevalue("stack")
    return stack.postgres


async def _allow_prepared(server: PostgresSettings) -> None:
    connection = await connect(server, "postgres")
    await connection.execute("ALTER SYSTEM SET max_prepared_transactions = 5")
    await connection.close()


def connect(server: PostgresSettings, database: str) -> Any:
    return asyncpg.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password.get_secret_value() or None,
        database=database,
    )


@dataclass
class Source:
    """A database that is ingested."""

    server: PostgresSettings
    name: str
    connection: Any
    others: list[Any] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        there, password = self.server, self.server.password.get_secret_value()
        secret = f":{password}" if password else ""
        if there.host.startswith("/"):
            return f"postgresql://{there.user}@/{self.name}?host={there.host}&port={there.port}"
        return f"postgresql://{there.user}{secret}@{there.host}:{there.port}/{self.name}"

    def dsn_of(self, user: str, password: str) -> str:
        """The same for another role."""
        there = self.server
        if there.host.startswith("/"):
            return f"postgresql://{user}@/{self.name}?host={there.host}&port={there.port}"
        return f"postgresql://{user}:{password}@{there.host}:{there.port}/{self.name}"

    async def run(self, *statements: str) -> None:
        for statement in statements:
            await self.connection.execute(statement)

    async def value(self, question: str) -> Any:
        return await self.connection.fetchval(question)

    async def session(self) -> Any:
        """Another session, to have a transaction open in."""
        self.others.append(await connect(self.server, self.name))
        return self.others[-1]


@pytest.fixture
async def source(server: PostgresSettings) -> AsyncIterator[Source]:
    name = f"s{uuid4().hex[:12]}"
    administrator = await connect(server, "postgres" if server.host.startswith("/") else server.database)
    await administrator.execute(f"CREATE DATABASE {name}")
    made = Source(server, name, await connect(server, name))
    yield made
    for connection in (*made.others, made.connection):
        await connection.close()
    await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await administrator.close()


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    store = await DirectoryStore.open(tmp_path / "store", BUCKETS, bus)
    table = topology(BUCKETS, (1,))
    await bus.apply(table)
    await store.apply(table)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    yield Workshop(store, bus, BUCKETS, load_registry(), temp_dir=temporary)
    assert list(temporary.iterdir()) == [], "temporary folders were left behind"
    await bus.close()
    await store.close()


def things(name: str = "things", **table: Any) -> Dataset:
    """A dataset of a table that tests make."""
    given = {"relation": f"public.{name}", "pack": "tests", "cursor": "updated_at"} | table
    return table_dataset(
        name=name,
        title="Things",
        columns={
            "id": Column(pl.Int64()),
            "label": Column(pl.String()),
            "amount": Column(pl.Decimal(12, 2), at_least=0),
            "updated_at": Column(UTC_TIME),
        },
        key=("id",),
        table=Table(**given),
    )


THINGS = """
CREATE TABLE things (id bigint PRIMARY KEY, label text, amount numeric(12, 2), updated_at timestamptz DEFAULT now());
CREATE INDEX things_changes ON things (updated_at, id)
"""


@dataclass
class Desk:
    """Gives commands to an ingestor and looks at what comes of them."""

    workshop: Workshop
    source: Source
    settings: PostgresSourceSettings
    folder: Path
    rows_per_part: int = 1000
    said: list[AuditRecord] = field(default_factory=list)

    def registered(self, *datasets: Dataset) -> None:
        self.workshop.registry = Registry({**self.workshop.registry, **{d.name: d for d in datasets}})

    async def ingestor(self, **settings: Any) -> Ingestor:
        made = Ingestor(
            self.workshop,
            IngestorSettings(rows_per_part=self.rows_per_part),
            load_formats(),
            self.settings.model_copy(update=settings),
        )
        await made.start()
        return made

    async def order(self, *tables: str, run_id: UUID | None = None, **asked: Any) -> Delivery:
        run_id = run_id or uuid4()
        source = {"kind": "postgres", "tables": list(tables), **asked}
        named = [*tables, *asked.get("full_refresh", ())]
        command = IngestionCommand(
            run_id=run_id,
            dataset=named[0] if len(set(named)) == 1 else "_tables",
            source=SourceRequest.model_validate(source),
            accepted_at=AT,
            fingerprint="x",
            rows_per_part=self.rows_per_part,
        )
        body = command.model_dump_json().encode()
        await self.workshop.store.put(
            Layer.LEDGER, command_key(run_id), body, metadata={}, content_type="application/json"
        )
        return Delivery(QUEUE, Message(body, type=COMMAND, message_id=str(run_id)))

    async def load(self, *tables: str, **asked: Any) -> dict[str, Any]:
        """Carry a command out; what the outcome tells of its tables."""
        delivery = await self.order(*tables, **asked)
        assert await (await self.ingestor()).handle(delivery) == Ack()
        return await self.told()

    async def told(self) -> dict[str, Any]:
        """What the last outcome tells of its tables."""
        self.said = [AuditRecord.model_validate_json(d.message.body) for d in await taken(self.workshop, AUDIT_QUEUE)]
        outcomes = [r for r in self.said if r.kind is Kind.OUTCOME]
        assert outcomes, [r.error for r in self.said]
        assert outcomes[-1].rows_in == outcomes[-1].rows_out + sum(outcomes[-1].rejected.values())
        tables: dict[str, Any] = dict(outcomes[-1].parameters["tables"])
        return tables

    async def parts(self, dataset: str = "things") -> list[tuple[Load, pl.DataFrame]]:
        """What lies in RAW and goes further, by load and part."""
        found: list[tuple[Load, pl.DataFrame]] = []
        async for info in self.workshop.store.list_objects(Layer.RAW, f"{dataset}/"):
            head = await self.workshop.store.head(Layer.RAW, info.key)
            assert head is not None
            if META_BLOCKED in head.metadata:
                continue
            load = Load.parse(head.metadata[META_LOAD])
            assert load is not None
            path = self.folder / uuid4().hex
            await self.workshop.store.get(Layer.RAW, info.key, path)
            found.append((load, pl.read_parquet(path)))
            path.unlink()
        return sorted(found, key=lambda item: (item[0].number, item[0].part))

    async def merged(self, dataset: str = "things") -> pl.DataFrame:
        """The table as its RAW says it is: the newest of each key, as the lakehouse merges it."""
        parts = await self.parts(dataset)
        whole = [load.number for load, _ in parts if load.full and load.parts is not None]
        since = max(whole, default=0)
        frames = [frame for load, frame in parts if load.number >= since]
        if not frames:
            return pl.DataFrame()
        key = list(self.workshop.registry[dataset].key)
        rows = pl.concat(frames, how="diagonal").sort(VERSION, maintain_order=True)
        newest = rows.unique(subset=key, keep="last", maintain_order=True)
        return newest.filter(~pl.col(DELETED)).drop(VERSION, DELETED).sort(key)

    async def same(self, dataset: str = "things") -> None:
        """What RAW says is what the source has."""
        columns = ", ".join(self.workshop.registry[dataset].schema)
        order = ", ".join(self.workshop.registry[dataset].key)
        rows = await self.source.connection.fetch(f"SELECT {columns} FROM {dataset} ORDER BY {order}")
        merged = await self.merged(dataset)
        assert [tuple(r.values()) for r in merged.to_dicts()] == [tuple(r.values()) for r in rows]

    async def insert(self, *rows: int, **more: str) -> None:
        for row in rows:
            names = ", ".join(["id", "label", *more])
            values = ", ".join([str(row), f"'thing {row}'", *more.values()])
            await self.source.run(f"INSERT INTO things ({names}) VALUES ({values})")

    async def moved(self, load: int, dataset: str = "things") -> list[Any]:
        """The keys that a load moved, those that are gone as negative ones."""
        frames = [frame for which, frame in await self.parts(dataset) if which.number == load]
        return sorted(-row["id"] if row[DELETED] else row["id"] for frame in frames for row in frame.to_dicts())

    async def state(self, dataset: str = "things") -> dict[str, Any]:
        return await document(self.workshop, Layer.LEDGER, f"tables/{dataset}.json")


@pytest.fixture
async def desk(workshop: Workshop, source: Source, tmp_path: Path) -> Desk:
    folder = tmp_path / "looked-at"
    folder.mkdir()
    return Desk(workshop, source, PostgresSourceSettings(dsn=source.dsn), folder)  # type: ignore[arg-type]


@pytest.fixture
async def table(desk: Desk) -> Desk:
    """A desk with the table `things`, empty."""
    desk.registered(things())
    await desk.source.run(THINGS)
    return desk


async def taken(workshop: Workshop, queue: str) -> list[Delivery]:
    found: list[Delivery] = []

    async def take(delivery: Delivery) -> Settlement:
        found.append(delivery)
        return Ack()

    subscription = await workshop.bus.consume(queue, take, concurrency=10)
    while await workshop.bus.depth(queue):
        pass
    await subscription.close(grace=5)
    return found


async def keys(workshop: Workshop, layer: Layer, prefix: str = "") -> list[str]:
    return [info.key async for info in workshop.store.list_objects(layer, prefix)]


async def document(workshop: Workshop, layer: Layer, key: str) -> dict[str, Any]:
    found = await workshop.store.read(layer, key)
    assert found is not None
    parsed: dict[str, Any] = json.loads(found[0])
    return parsed


def cut_off_at(workshop: Workshop, step: str) -> None:
    """The next time a delivery reaches `step`, it ends there as if the process had died."""

    def at(reached: str) -> None:
        if reached == step:
            workshop.at = lambda _: None
            raise TransientFailure("cut off", dependency="test")

    workshop.at = at
