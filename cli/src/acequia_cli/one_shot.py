"""One command over an object store, in this process, that ends with it: what Fargate, ECS or a CronJob run.

The services that tables need work on the store that the settings name, by a bus in a temporary SQLite file: no broker,
no notifications, no server of ours. Others may work on the same buckets at the same time, and the process may be killed
at any step: as everywhere, what a step makes is created once, under a name that follows from its input. What an earlier
process left open is taken up first.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI

from acequia.acceptance import COMMAND
from acequia.adapters.minio import MinioStore
from acequia.adapters.sqlite import SqliteBus
from acequia.adapters.telling import TellingStore
from acequia.app import House, Problem, Service, make_app, stage_service
from acequia.datasets import Registry, load_registry
from acequia.errors import ConfigurationError
from acequia.events import AuditRecord, IngestionCommand, Status, record_of_document, utc_now
from acequia.layers import Layer, Name, dead_key, done_key, manifest_key
from acequia.ports import Ack, Delivery, Message, ObjectInfo, ObjectStore, Settlement
from acequia.runner import (
    At,
    Workshop,
    clear_folders,
    committed_record,
    event_again,
    keep_going,
    newest_first,
    temporary_folder,
)
from acequia.settings import AcequiaSettings, MinioSettings, PostgresSettings, check, load
from acequia.topology import AUDIT_QUEUE, Topology, dead_queue, topology
from acequia_auditor.database import Database
from acequia_auditor.service import AuditorService
from acequia_auditor.settings import AuditorSettings, MigrationSettings
from acequia_cli.in_process import InProcess
from acequia_ingestor.service import build_ingestor
from acequia_ingestor.settings import IngestorSettings, PostgresSourceSettings
from acequia_lakehouse.catalog import Place
from acequia_lakehouse.service import build_lakehouse
from acequia_lakehouse.settings import LakehouseSettings
from acequia_reconciler.census import IN_FLIGHT, Census, Fate, Finding
from acequia_reconciler.marks import Marks
from acequia_reconciler.plans import PlanIndex
from acequia_transformer.settings import TransformerSettings
from acequia_transformer.stage import build_stage as build_transformer

log = logging.getLogger("acequia")

STAGES = ("ingestor", "transformer", "lakehouse")
"""Whose work is done here."""
OF_TABLES = "postgres"
"""The kind of source whose commands are."""
LOOK_SECONDS = 1.0
"""Between two looks at what a run still lacks: each is some listings."""
DRAIN_SECONDS = 30.0
"""The end waits so long for the audit database to take the last records. Those that it misses are in the store."""
AUDIT_AT_ONCE = 100
ENDED = frozenset({Fate.DONE, Fate.QUARANTINED, Fate.DEAD, Fate.NOT_APPLICABLE})
SENT_ON = ("transformer", Fate.DONE)
"""What the transformer made is the lakehouse's to end."""


class OneShot:
    """`async with OneShot() as one_shot: ...`, by the settings of the environment; `one_shot.client()` asks it.

    Raises ConfigurationError where a setting is wrong, TransientFailure where the store is away.
    """

    def __init__(self, *, at: At = keep_going) -> None:
        self.app: FastAPI = make_app("Acequia, once")
        self._at = at
        self._stages = House("one-shot")
        self._audit = House("auditor")
        self._folder = ExitStack()
        self._bus: SqliteBus | None = None
        self._store: ObjectStore | None = None
        self._grace = 0.0

    async def __aenter__(self) -> "OneShot":
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
        return httpx.AsyncClient(transport=InProcess(self.app), base_url="http://one-shot", timeout=3600)

    async def _open(self) -> None:
        audited = any(os.environ.get(name) for name in ("PG_HOST", "PG_PASSWORD"))
        check(
            AcequiaSettings,
            MinioSettings,
            IngestorSettings,
            PostgresSourceSettings,
            TransformerSettings,
            LakehouseSettings,
            *((PostgresSettings, MigrationSettings, AuditorSettings) if audited else ()),
        )
        source = load(PostgresSourceSettings)
        if not source.dsn and not source.connections:  # an ingestor may do without, and rejects what asks for tables
            raise ConfigurationError("settings: ACEQUIA_SOURCE_POSTGRES_DSN: field required (see .env.example)")
        settings, minio = load(AcequiaSettings), load(MinioSettings)
        self._grace = settings.stop_grace
        await asyncio.to_thread(clear_folders, settings.temp_dir)
        folder = Path(self._folder.enter_context(temporary_folder(settings.temp_dir)))
        table = topology(settings.buckets, settings.retry_delays)
        self._bus = bus = await SqliteBus.open(folder / "bus.sqlite")
        store = await MinioStore.open(minio, settings.buckets)
        self._store = telling = TellingStore(store, settings.buckets, bus)
        await bus.apply(table)
        await telling.apply(table)
        registry = Registry({name: d for name, d in load_registry().items() if d.table is not None})
        workshop = Workshop(
            telling,
            bus,
            settings.buckets,
            registry,
            meters=self._stages.meters,
            temp_dir=settings.temp_dir,
            at=self._at,
        )
        pages = Pages(workshop, table)
        workshop.fatal = pages.fail
        if audited:
            database = Database(load(PostgresSettings), migration=load(MigrationSettings))
            await self._audit.open(self.app, workshop, [AuditorService(workshop, database, load(AuditorSettings))])
        else:  # nobody stores them: each stands in its commit object, from which an auditor brings it
            await bus.consume(AUDIT_QUEUE, _let_go, concurrency=AUDIT_AT_ONCE)
        await self._stages.open(self.app, workshop, _stages(workshop, settings, minio, pages))
        pages.left = await take_up(workshop, table)

    async def _close(self) -> None:
        try:
            await self._stages.stop(self._grace)
            if self._audit.workshop is not None:
                await self._drain(self._audit.workshop)
            await self._audit.stop(self._grace)
        finally:
            if self._bus is not None:
                await self._bus.close()
            if self._store is not None:
                await self._store.close()
            self._folder.close()

    async def _drain(self, workshop: Workshop) -> None:
        """The bus goes with this process: have the auditor store what lies there."""
        until = time.monotonic() + DRAIN_SECONDS
        while left := await workshop.bus.depth(AUDIT_QUEUE):
            if time.monotonic() > until:
                log.warning("%d audit records are not in the database; `acequia audit rebuild` brings them", left)
                return
            await asyncio.sleep(0.1)


def _stages(workshop: Workshop, settings: AcequiaSettings, minio: MinioSettings, pages: "Pages") -> list[Service]:
    """The last of the chain first. Commands one after another: what was left open before what is asked for now."""
    lakehouse = load(LakehouseSettings).model_copy(update={"maintain_every": 0.0})
    patience = {"stale_after": settings.plan_stale_after, "renew_every": settings.plan_renew_every}
    place = Place.on_server(minio, settings.buckets)
    return [
        build_lakehouse(workshop, lakehouse, place, **patience),
        stage_service(build_transformer(load(TransformerSettings), workshop.registry), workshop, settings.concurrency),
        build_ingestor(workshop, load(IngestorSettings), pages, concurrency=1),
    ]


async def _let_go(delivery: Delivery) -> Settlement:
    return Ack()


# what an earlier process left


@dataclass(slots=True)
class Left:
    """What was taken up: it is waited for too, though what becomes of it is not this command's outcome."""

    runs: set[UUID] = field(default_factory=set)
    objects: dict[str, set[str]] = field(default_factory=dict)
    """By dataset: stems."""
    since: datetime = field(default_factory=utc_now)
    """No object of these has an earlier stem."""


async def take_up(workshop: Workshop, table: Topology) -> Left:
    """Send to their readers the tables' open commands, and their objects that nobody has brought on.

    One that another process is at work on just now is among them: who is second finds it done.
    """
    store, bus, left = workshop.store, workshop.bus, Left()
    async for info in store.list_objects(Layer.LEDGER, "commands/"):
        if (message := await _open_command(store, info)) is not None:
            await bus.publish("", _queue("ingestor", table), message)
            left.runs.add(UUID(message.message_id))
    for stage, layer in (("transformer", Layer.RAW), ("lakehouse", Layer.SILVER)):
        census = Census(workshop, table)
        marks = (await Marks.read(store, stage)).believed(left.since, left.since - IN_FLIGHT).datasets
        for dataset in workshop.registry:
            async for finding in census.of_dataset(stage, dataset, marks.get(dataset)):
                if finding.fate is not Fate.ORPHAN or finding.broken:
                    continue
                message = await event_again(store, workshop.buckets, layer, finding.info.key)
                name = Name.of_key(finding.info.key)
                if message is not None and name is not None:
                    await bus.publish("", _queue(stage, table), message)
                    left.objects.setdefault(dataset, set()).add(str(name.stem))
                    left.since = min(left.since, name.stem.at)
    if left.runs or left.objects:
        objects = sum(map(len, left.objects.values()))
        log.warning("taking up what was left open: commands %d, objects %d", len(left.runs), objects)
    return left


async def _open_command(store: ObjectStore, info: ObjectInfo) -> Message | None:
    """The command, if it is one of tables and no dead letter."""
    if (found := await store.read(info.layer, info.key)) is None:
        return None
    try:
        command = IngestionCommand.model_validate_json(found[0])
    except ValueError:
        return None
    if command.source.kind != OF_TABLES or await _dead_command(store, command.run_id):
        return None
    return Message(found[0], type=COMMAND, message_id=str(command.run_id))


async def _dead_command(store: ObjectStore, run_id: UUID) -> bool:
    return await store.head(Layer.LEDGER, dead_key("ingestor", str(run_id))) is not None


def _queue(stage: str, table: Topology) -> str:
    return next(queue.name for queue in table.queues if queue.stage == stage)


# how far a run is


@dataclass(slots=True)
class _Progress:
    """What is known of a run whose command was carried out."""

    record: AuditRecord | None
    """The ingestor's outcome. None: objects that were left open."""
    since: datetime
    """No object of it has an earlier stem."""
    waiting: dict[str, set[str]]
    """By dataset: stems that have not come to their end."""
    objects: int
    events: list[dict[str, Any]] = field(default_factory=list)
    """What became of those that have, as on the auditor's page."""
    rows: int = 0
    """In SILVER."""
    silver: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    looked_at: float = float("-inf")


class Pages:
    """A run's page as the store tells it: what is open of it, here and wherever else somebody works on the store.

    `acequia_ingestor.api.RunReader` where there may be no audit database.
    """

    def __init__(self, workshop: Workshop, table: Topology) -> None:
        self._workshop = workshop
        self._table = table
        self._runs: dict[UUID, _Progress] = {}
        self._plans: dict[tuple[str, str], PlanIndex] = {}
        self._fatal: ConfigurationError | None = None
        self.left = Left()
        """What is waited for beside the run that is asked for."""
        self._left_objects: _Progress | None = None

    def fail(self, error: ConfigurationError) -> None:
        """A person has to act: whoever asks is told."""
        self._fatal = error

    async def __call__(self, run_id: UUID) -> Mapping[str, Any] | None:
        if self._fatal is not None:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "a setting is wrong", str(self._fatal))
        dead = [stage for stage in STAGES if await self._workshop.bus.depth(dead_queue(stage))]
        progress = await self._looked_at(run_id)
        if progress is None:
            if dead or await _dead_command(self._workshop.store, run_id):
                return _died(run_id, dead or ["ingestor"])
            return None
        return _page(progress, await self._left_open(), dead)

    async def _looked_at(self, run_id: UUID) -> _Progress | None:
        """What is known of a run now; None where its command was not carried out yet."""
        progress = self._runs.get(run_id) or await self._begin(run_id)
        if progress is not None:
            self._runs[run_id] = progress
            await self._look(progress)
        return progress

    async def _left_open(self) -> int:
        """How many of what was left open are open still."""
        count, left = 0, self.left
        for run_id in list(left.runs):
            progress = await self._looked_at(run_id)
            if progress is not None and not progress.waiting:
                left.runs.discard(run_id)
                if (state := _page(progress, 0, ())["state"]) != "done":
                    log.warning("the run %s, which was left open, is %s", run_id, state)
            elif not await _dead_command(self._workshop.store, run_id):
                count += 1
        if self._left_objects is None:
            self._left_objects = _Progress(None, left.since, left.objects, sum(map(len, left.objects.values())))
        await self._look(self._left_objects)
        return count + sum(map(len, self._left_objects.waiting.values()))

    async def _begin(self, run_id: UUID) -> _Progress | None:
        found = await self._workshop.store.read(Layer.LEDGER, done_key(run_id))
        if found is None:
            return None
        body, info = found
        record = record_of_document(json.loads(body), uri=info.uri, etag=info.etag, size=info.bytes)
        if record is None:
            return None
        waiting: dict[str, set[str]] = {}
        since, objects = utc_now(), 0
        for output in record.outputs:
            bucket, _, key = output.uri.removeprefix("s3://").partition("/")
            name = Name.of_key(key)
            if self._workshop.buckets.layer(bucket) is Layer.RAW and name is not None:
                waiting.setdefault(name.stem.dataset, set()).add(str(name.stem))
                since, objects = min(since, name.stem.at), objects + 1
        return _Progress(record, since, waiting, objects)

    async def _look(self, progress: _Progress) -> None:
        """Find what has come to its end since the last look, unless that was just now."""
        if time.monotonic() - progress.looked_at < LOOK_SECONDS:
            return
        progress.looked_at = time.monotonic()
        for dataset, waiting in list(progress.waiting.items()):
            transformed = await self._found("transformer", dataset, progress.since, waiting)
            merged = await self._found("lakehouse", dataset, progress.since, waiting)
            for stem in sorted(waiting):
                found = [f for f in (transformed.get(stem), merged.get(stem)) if f is not None]
                # none at all: the object is gone
                if found and (found[-1].fate not in ENDED or (found[-1].reader, found[-1].fate) == SENT_ON):
                    continue
                for finding in found:
                    await self._note(progress, finding)
                waiting.discard(stem)
            if not waiting:
                del progress.waiting[dataset]

    async def _found(self, stage: str, dataset: str, since: datetime, stems: set[str]) -> dict[str, Finding]:
        """Of each stem what is best of it at the stage."""
        census = Census(self._workshop, self._table, outputs=True, plans=self._plans)
        ranks = list(Fate)
        found: dict[str, Finding] = {}
        async for finding in census.of_dataset(stage, dataset, since - timedelta(seconds=1)):
            name = Name.of_key(finding.info.key)
            if name is None or (stem := str(name.stem)) not in stems:
                continue
            if stem not in found or ranks.index(finding.fate) < ranks.index(found[stem].fate):
                found[stem] = finding
        return found

    async def _note(self, progress: _Progress, finding: Finding) -> None:
        """One event of the page."""
        record = await self._record(finding)
        if finding.reader == "transformer" and record is not None:
            for rule, rows in record.rejected.items():
                progress.rules[rule] = progress.rules.get(rule, 0) + rows
            if finding.fate is Fate.DONE:
                progress.rows, progress.silver = progress.rows + record.rows_out, progress.silver + 1
        statuses = {Fate.QUARANTINED: Status.REJECTED, Fate.DEAD: Status.DEAD}
        if record is not None and finding.fate is not Fate.DEAD:
            progress.events.append(_event(record))
        else:
            now = utc_now().isoformat()
            name = Name.of_key(finding.info.key)
            told = f"{finding.info.uri}: {finding.reason}"
            error = None if finding.fate is Fate.DONE else {"type": finding.fate.value, "rule": None, "message": told}
            progress.events.append(
                {
                    "kind": "dead" if finding.fate is Fate.DEAD else "outcome",
                    "status": statuses.get(finding.fate, Status.SUCCESS).value,
                    "run_id": str(progress.record.run_id) if progress.record else None,
                    "stage": finding.reader,
                    "stem": None if name is None else str(name.stem),
                    "started": now,
                    "finished": now,
                    "inputs": [],
                    "inputs_count": 0,
                    "parameters": {},
                    "metrics": {},
                    "error": error,
                }
            )

    async def _record(self, finding: Finding) -> AuditRecord | None:
        """The record of what ended a transformer's object; of a plan the census tells enough."""
        name = Name.of_key(finding.info.key)
        if finding.reader != "transformer" or name is None or not finding.variants:
            return None
        store = self._workshop.store
        variant = newest_first(finding.variants, finding.variants)[0]
        if finding.fate is Fate.QUARANTINED:
            info = await store.head(Layer.QUARANTINE, manifest_key("transformer", name.stem, variant))
        else:
            info = await store.head(Layer.SILVER, f"{finding.info.key.removesuffix('.parquet')}.{variant}.parquet")
        return None if info is None else await committed_record(self._workshop, info)


def _page(progress: _Progress, left: int, dead: Sequence[str]) -> Mapping[str, Any]:
    """As much of the auditor's page as a command shows. `left`: what else is waited for."""
    record = progress.record
    assert record is not None
    pending = sum(map(len, progress.waiting.values()))
    events = [_event(record), *progress.events]
    statuses = {event["status"] for event in progress.events}
    error = record.error.model_dump(mode="json") if record.error else None
    if record.status is not Status.SUCCESS:
        state = "rejected" if record.status is Status.REJECTED else "failed"
    elif pending and dead:
        state, error = "failed", _death(dead)
    elif pending:
        state = "running"
    elif Status.DEAD in statuses:
        state = "failed"
    else:
        state = "rejected" if progress.objects and not progress.silver else "done"
    if left and not dead:
        state = "running"
    if error is None and state in ("failed", "rejected"):
        error = next((event["error"] for event in progress.events if event.get("error")), None)
    stages: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        stages.setdefault(event["stage"], []).append(event)
    return {
        "run_id": str(record.run_id),
        "dataset": record.dataset,
        "source": OF_TABLES,
        "accepted_at": record.started.isoformat(),
        "state": state,
        "finished": state != "running",
        "rows_in": record.rows_in,
        "rows_raw": record.rows_out,
        "rows_silver": progress.rows,
        "rows_quarantined": sum(progress.rules.values()),
        "quarantined_by_rule": dict(progress.rules),
        "raw_objects": progress.objects,
        "silver_objects": progress.silver,
        "pending": pending + left,
        "error": error,
        "stages": stages,
    }


def _event(record: AuditRecord) -> dict[str, Any]:
    return {"error": None, **record.model_dump(mode="json"), "inputs_count": len(record.inputs)}


def _death(stages: Sequence[str]) -> dict[str, Any]:
    message = f"a message of the {', '.join(stages)} failed on every retry (the log says why); it can be run again"
    return {"type": "dead", "rule": None, "message": message}


def _died(run_id: UUID, stages: Sequence[str]) -> Mapping[str, Any]:
    """The page of a run whose command was never carried out."""
    return {
        "run_id": str(run_id),
        "dataset": "",
        "state": "failed",
        "finished": True,
        "error": _death(stages),
        "stages": {},
    }
