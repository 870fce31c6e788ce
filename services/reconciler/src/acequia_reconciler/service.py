"""The reconciler composed: a timer that sweeps, and `POST /sweep`."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query

from acequia.app import problem_responses
from acequia.errors import TransientFailure
from acequia.runner import Workshop
from acequia.topology import Topology
from acequia_reconciler.settings import ReconcilerSettings
from acequia_reconciler.sweep import Sweeper

log = logging.getLogger("acequia")


class ReconcilerService:
    """Sweeps at its start and then on a timer."""

    name = "reconciler"

    def __init__(
        self,
        workshop: Workshop,
        topology: Topology,
        settings: ReconcilerSettings,
        *,
        first_grace: float | None = None,
    ) -> None:
        self._first_grace = first_grace
        self._sweeper = Sweeper(workshop, topology, queue_limit=settings.queue_limit)
        self._settings = settings
        self._life: asyncio.Task[None] | None = None
        self.routers: Sequence[APIRouter] = (self._router(),)

    async def start(self) -> None:
        self._life = asyncio.create_task(self._run(), name=self.name)

    async def stop(self, grace: float) -> None:
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)

    async def check(self) -> None:
        if self._life is None or self._life.done():
            raise TransientFailure("the reconciler's timer does not run", dependency=self.name)

    async def _run(self) -> None:
        first = self._first_grace
        while True:
            try:
                grace = self._settings.grace if first is None else first
                await self._sweeper.sweep(grace=grace, at_once=first is not None)
                first = None
            except TransientFailure as error:
                log.warning("reconciler: this sweep is left out: %s", error)
            except Exception:
                log.exception("reconciler: this sweep failed")
            await asyncio.sleep(self._settings.interval)

    def _router(self) -> APIRouter:
        router = APIRouter(tags=["reconciler"])

        @router.post("/sweep", responses=problem_responses(503))
        async def sweep(
            grace: Annotated[
                float | None, Query(ge=0, description="Seconds; what is younger is left alone. Default: the setting")
            ] = None,
            dry_run: Annotated[bool, Query(description="Only say what would be sent again")] = False,
        ) -> dict[str, Any]:
            """Find what was lost and send it again, now."""
            grace = self._settings.grace if grace is None else grace
            result = await self._sweeper.sweep(grace=grace, dry_run=dry_run, at_once=True)
            return {
                "seen": result.seen,
                "orphans": [o.uri for o in result.orphans],
                "sent": result.sent,
                "held_back": result.held_back,
                "removed": result.removed,
            }

        return router
