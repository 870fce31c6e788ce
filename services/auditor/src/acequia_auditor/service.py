"""The auditor composed: it drains `acequia.audit` and the dead-letter queues, and serves the read side."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.responses import StreamingResponse

from acequia.app import NDJSON, ndjson, problem_responses
from acequia.errors import ConfigurationError, TransientFailure
from acequia.ports import Subscription
from acequia.runner import Workshop
from acequia.topology import AUDIT_QUEUE, READERS, dead_queue
from acequia_auditor.act import Desk, dead_letter_router
from acequia_auditor.chain import last_anchor, read_head, read_previous, write_anchor
from acequia_auditor.compare import compare_with_store
from acequia_auditor.database import Database
from acequia_auditor.dead_letters import DeadLetterWriter
from acequia_auditor.read import read_router
from acequia_auditor.rebuild import catch_up, rebuild
from acequia_auditor.settings import AuditorSettings
from acequia_auditor.verify import verify_chain
from acequia_auditor.write import AuditWriter

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "A JSON document a line", "content": {NDJSON: {"schema": {"type": "object"}}}}
}
log = logging.getLogger("acequia")

DEAD_CONCURRENCY = 8
LAST_ANCHOR_SECONDS = 5.0
"""A stop waits no longer for the store to take the last anchor: the next start's is as good."""


class AuditorService:
    """Goes on without PostgreSQL: records wait in the queue, and reads are answered with 503."""

    name = "auditor"

    def __init__(self, workshop: Workshop, database: Database, settings: AuditorSettings) -> None:
        self._workshop = workshop
        self._database = database
        self._settings = settings
        self._writer = AuditWriter(database)
        self._dead_letters = DeadLetterWriter(
            database, workshop.store, buckets=workshop.buckets, meters=workshop.meters
        )
        self._subscriptions: list[Subscription] = []
        self._timers: list[asyncio.Task[None]] = []
        self._anchored = 0
        """The last record that is known to be anchored."""
        database.earlier = partial(last_anchor, workshop.store)
        desk = Desk(database, workshop.store, workshop.bus, workshop.buckets)
        self.routers: Sequence[APIRouter] = (
            read_router(database, workshop.registry),
            dead_letter_router(desk),
            self._router(),
        )

    async def start(self) -> None:
        try:
            await self._database.open()
        except TransientFailure as error:
            log.warning("auditor: %s; going on without it", error)
            self._database.start()
        bus = self._workshop.bus
        self._subscriptions.append(
            await bus.consume(AUDIT_QUEUE, self._writer.handle, concurrency=self._settings.prefetch)
        )
        for stage in [reader.stage for reader in READERS] + ["auditor"]:
            handle = self._dead_letters.handle
            self._subscriptions.append(await bus.consume(dead_queue(stage), handle, concurrency=DEAD_CONCURRENCY))
        self._timers = [
            asyncio.create_task(self._catch_up(), name="auditor: catch up"),
            asyncio.create_task(self._anchor_on_a_timer(), name="auditor: anchor"),
        ]

    async def stop(self, grace: float) -> None:
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        if not self._writer.ready:  # what is in hand waits for PostgreSQL: it is handed back at once
            await asyncio.gather(self._writer.close(), self._dead_letters.close())
        await asyncio.gather(*(subscription.close(grace=grace) for subscription in self._subscriptions))
        await asyncio.gather(self._writer.close(), self._dead_letters.close())
        if self._database.ready:
            try:
                async with asyncio.timeout(LAST_ANCHOR_SECONDS):
                    await self._try_to_anchor()
            except TimeoutError:
                log.warning("auditor: the audit chain is not anchored at the stop: the store does not answer")
        await self._database.close()

    async def check(self) -> None:
        await self._database.check()

    async def _catch_up(self) -> None:
        """At the start and on a timer: what recent commit objects say and the database lacks."""
        workshop, window = self._workshop, timedelta(seconds=self._settings.catch_up_window)
        while True:
            try:
                await catch_up(workshop.store, self._database, workshop.buckets, workshop.registry, window=window)
            except (TransientFailure, ConfigurationError) as error:
                log.warning("auditor: could not look for lost records: %s", error)
            except Exception:
                log.exception("auditor: looking for lost records failed")
            await asyncio.sleep(self._settings.catch_up_interval)

    async def _anchor_on_a_timer(self) -> None:
        while True:
            await asyncio.sleep(self._settings.anchor_interval)
            await self._try_to_anchor()

    async def _try_to_anchor(self) -> None:
        try:
            await self.anchor()
        except (TransientFailure, ConfigurationError) as error:
            log.warning("auditor: the audit chain is not anchored: %s", error)
        except Exception:
            log.exception("auditor: anchoring the audit chain failed")

    async def anchor(self) -> None:
        """Write the chain's head into the store, where it moved since the last time."""
        async with self._database.transaction() as connection:
            head = await read_head(connection)
            previous = await read_previous(connection) if head else None
        if head is not None and head.seq and head.seq != self._anchored:
            await write_anchor(self._workshop.store, head, previous)
            self._anchored = head.seq

    def _router(self) -> APIRouter:
        router = APIRouter(tags=["audit"])

        @router.post("/audit/rebuild", responses=problem_responses(503))
        async def audit_rebuild() -> dict[str, Any]:
            """Fill the database from the store: acceptances, outcomes, dead letters, promotions and lineage.

            Failed attempts, operators' actions and check results are not in the store: they need a database backup.
            """
            workshop = self._workshop
            counts = await rebuild(workshop.store, self._database, workshop.buckets, workshop.registry)
            return asdict(counts)

        @router.get("/audit/verify", responses=STREAMED | problem_responses(503), response_class=StreamingResponse)
        async def audit_verify() -> StreamingResponse:
            """Is the audit trail as it was written? Lines of JSON: `progress`, at last `result` (or `problem`)."""
            return ndjson(verify_chain(self._database, self._workshop.store))

        @router.get("/audit/compare", responses=STREAMED | problem_responses(503), response_class=StreamingResponse)
        async def audit_compare() -> StreamingResponse:
            """Do store and database tell of the same? Lines of JSON: `progress`, at last `result` (or `problem`)."""
            workshop = self._workshop
            return ndjson(compare_with_store(workshop.store, self._database, workshop.buckets))

        return router
