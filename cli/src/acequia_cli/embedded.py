"""The embedded installation: every service in this process, with only what pip installs.

`<data>/store` is the object store, `<data>/bus.sqlite` the bus, `<data>/pg` a real PostgreSQL. One process owns the
folder; `<data>/server.json` says where it answers, if it serves HTTP.
"""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.app import House, QuietServer, Service, batch_service, make_app, stage_service
from acequia.datasets import load_registry
from acequia.errors import ConfigurationError
from acequia.events import utc_now
from acequia.runner import At, Workshop, clear_folders, keep_going
from acequia.settings import AcequiaSettings, check, load
from acequia.topology import Topology, topology
from acequia_auditor.database import Database
from acequia_auditor.service import AuditorService
from acequia_auditor.settings import AuditorSettings, MigrationSettings
from acequia_cli.in_process import InProcess
from acequia_cli.owner import SERVER_FILE
from acequia_cli.postgres import EmbeddedPostgres
from acequia_evaluator.settings import EvaluatorSettings
from acequia_evaluator.stage import build_stage as build_evaluator
from acequia_ingestor.api import AuditorClient, RunReader
from acequia_ingestor.service import build_ingestor
from acequia_ingestor.settings import IngestorSettings
from acequia_lakehouse.catalog import Place as LakePlace
from acequia_lakehouse.service import build_lakehouse
from acequia_lakehouse.settings import LakehouseSettings
from acequia_reconciler.schedules import Clock
from acequia_reconciler.service import ReconcilerService, make_scheduler
from acequia_reconciler.settings import CommandSettings, ReconcilerSettings, ScheduleSettings
from acequia_trainer.settings import TrainerSettings
from acequia_trainer.stage import build_stage as build_trainer
from acequia_transformer.settings import TransformerSettings
from acequia_transformer.stage import build_stage as build_transformer

log = logging.getLogger("acequia")

STOP_GRACE = 5.0


def all_services(
    workshop: Workshop,
    database: Database,
    read_run: RunReader,
    table: Topology,
    lake: LakePlace,
    *,
    concurrency: int,
    gather_quiet: float | None = None,
    fires: bool = False,
    clock: Clock = utc_now,
) -> list[Service]:
    """Every service over one workshop, the last of the chain first. No other process is at work on its store.

    `fires`: schedules come due by `clock`; else they are there to be looked at, and to be fired by hand.
    """
    scheduler = make_scheduler(workshop, load(ScheduleSettings), load(CommandSettings), clock=clock)
    trainer = load(TrainerSettings)
    if gather_quiet is not None:
        trainer = trainer.model_copy(update={"gather_quiet": gather_quiet})
    return [
        AuditorService(workshop, database, load(AuditorSettings)),
        stage_service(build_evaluator(load(EvaluatorSettings), workshop.registry), workshop, concurrency),
        # a start of a plan that is not ours is nobody's
        batch_service(build_trainer(trainer, workshop.registry), workshop, stale_after=0.0),
        build_lakehouse(workshop, load(LakehouseSettings), lake, stale_after=0.0),
        stage_service(build_transformer(load(TransformerSettings), workshop.registry), workshop, concurrency),
        build_ingestor(workshop, load(IngestorSettings), read_run, concurrency=concurrency),
        # what was cut off by the last stop is found at once: the first sweep spares nothing for its youth
        ReconcilerService(workshop, table, load(ReconcilerSettings), scheduler, first_grace=0.0, fires=fires),
    ]


class Embedded:
    """All services over a folder. `async with Embedded(folder) as embedded: ...`

    `fires`: for as long as it is open schedules are fired, by `clock`.
    Raises ConfigurationError where another process owns the folder.
    """

    def __init__(
        self,
        data: Path,
        *,
        gather_quiet: float | None = None,
        fires: bool = False,
        clock: Clock = utc_now,
        at: At = keep_going,
    ) -> None:
        self.data = data.resolve()
        self.app: FastAPI = make_app("Acequia")
        self._gather_quiet = gather_quiet
        self._fires = fires
        self._clock = clock
        self._at = at
        self._house = House("embedded")
        self._house.add_routes(self.app)
        self._postgres = EmbeddedPostgres(self.data)
        self._store: DirectoryStore | None = None
        self._bus: SqliteBus | None = None
        self._read_run: AuditorClient | None = None

    async def __aenter__(self) -> "Embedded":
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    def client(self) -> httpx.AsyncClient:
        """A client that talks to `app` without a socket."""
        return httpx.AsyncClient(transport=InProcess(self.app), base_url="http://embedded", timeout=3600)

    async def _open(self) -> None:
        try:
            self.data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{self.data} can't be used as the data folder: {error.strerror}") from error
        check(ScheduleSettings)  # before anything is started
        settings = load(AcequiaSettings)
        await asyncio.to_thread(clear_folders, settings.temp_dir)
        self._bus = await SqliteBus.open(self.data / "bus.sqlite")
        self._store = await DirectoryStore.open(self.data / "store", settings.buckets, self._bus)
        owner = await asyncio.to_thread(self._postgres.start)
        # the auditor works as a role that can add records, and not change them; as where it is a process of its own
        auditor = owner.model_copy(update={"user": "acequia"})
        database = Database(auditor, migration=MigrationSettings(user=owner.user))
        table = topology(settings.buckets, settings.retry_delays)
        await self._bus.apply(table)
        await self._store.apply(table)
        workshop = Workshop(
            self._store,
            self._bus,
            settings.buckets,
            load_registry(),
            meters=self._house.meters,
            temp_dir=settings.temp_dir,
            at=self._at,
        )
        self._read_run = AuditorClient(self.client())
        services = all_services(
            workshop,
            database,
            self._read_run,
            table,
            LakePlace.in_folder(self.data, settings.buckets),
            concurrency=settings.concurrency,
            gather_quiet=self._gather_quiet,
            fires=self._fires,
            clock=self._clock,
        )
        await self._house.open(self.app, workshop, services)

    async def _close(self) -> None:
        workshop_open = self._house.workshop is not None
        try:
            await self._house.close(STOP_GRACE)
            if self._read_run is not None:
                await self._read_run.close()
            if not workshop_open:
                if self._bus is not None:
                    await self._bus.close()
                if self._store is not None:
                    await self._store.close()
        finally:
            await asyncio.to_thread(self._postgres.stop)  # whatever happened: nobody else would


async def serve_embedded(
    data: Path, port: int, host: str = "127.0.0.1", on_ready: Callable[[str], None] = log.info
) -> None:
    """Run the embedded installation and its HTTP API until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    async with Embedded(data, fires=True) as embedded:
        config = uvicorn.Config(
            embedded.app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=int(STOP_GRACE),
        )
        server = QuietServer(config)
        serving = asyncio.create_task(_serve(server, host, port))
        serving.add_done_callback(lambda _: stop.set())
        await asyncio.wait({serving, asyncio.create_task(server.ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if server.started:
            bound = server.servers[0].sockets[0].getsockname()[1]
            url = f"http://{host}:{bound}"
            file = embedded.data / SERVER_FILE
            file.write_text(json.dumps({"url": url, "pid": os.getpid()}))
            on_ready(url)
            try:
                await stop.wait()
            finally:
                with suppress(OSError):
                    file.unlink()
                server.should_exit = True
        await serving


async def _serve(server: uvicorn.Server, host: str, port: int) -> None:
    try:
        await server.serve()
    except SystemExit as error:
        raise ConfigurationError(f"{host}:{port} is taken: choose another with --port (0: any free one)") from error
