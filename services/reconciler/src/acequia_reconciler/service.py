"""The reconciler composed: a timer that sweeps, a clock that fires schedules, and what people ask it over HTTP."""

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from acequia.app import NDJSON, Problem, ndjson, problem_responses
from acequia.errors import TransientFailure
from acequia.events import utc_now
from acequia.layers import UNKNOWN_DATASET, Layer
from acequia.runner import Workshop
from acequia.topology import READERS, Topology
from acequia_reconciler.replay import Replay, readers_of, replay
from acequia_reconciler.schedules import Clock, Scheduler, chosen, load_schedules
from acequia_reconciler.settings import CommandSettings, ReconcilerSettings, ScheduleSettings
from acequia_reconciler.sweep import Sweeper
from acequia_reconciler.verify import verify

log = logging.getLogger("acequia")

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "A JSON document a line", "content": {NDJSON: {"schema": {"type": "object"}}}}
}


def make_scheduler(
    workshop: Workshop, schedules: ScheduleSettings, commands: CommandSettings, *, clock: Clock = utc_now
) -> Scheduler:
    """ConfigurationError where the settings name a schedule that the workshop's datasets do not have."""
    planned = load_schedules(workshop.registry)
    return Scheduler(workshop, planned, chosen(schedules.schedules, planned), commands.rows_per_part, clock)


class ReconcilerService:
    """Sweeps at its start and then on a timer; fires schedules when they come due, with `fires`."""

    name = "reconciler"

    def __init__(
        self,
        workshop: Workshop,
        topology: Topology,
        settings: ReconcilerSettings,
        scheduler: Scheduler,
        *,
        first_grace: float | None = None,
        fires: bool = True,
    ) -> None:
        self._first_grace = first_grace
        self._scheduler = scheduler
        self._fires = fires and bool(scheduler.planned)
        self._workshop = workshop
        self._topology = topology
        self._sweeper = Sweeper(
            workshop,
            topology,
            queue_limit=settings.queue_limit,
            rate=settings.rate,
            full_every=settings.full_every,
        )
        self._settings = settings
        self._lives: list[asyncio.Task[None]] = []
        self.routers: Sequence[APIRouter] = (self._router(),)

    async def start(self) -> None:
        self._lives = [asyncio.create_task(self._run(), name=self.name)]
        if self._fires:
            self._lives.append(asyncio.create_task(self._fire_schedules(), name=f"{self.name}: schedules"))

    async def stop(self, grace: float) -> None:
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)

    async def check(self) -> None:
        if not self._lives or any(life.done() for life in self._lives):
            raise TransientFailure("the reconciler's timer does not run", dependency=self.name)

    async def _fire_schedules(self) -> None:
        while True:
            pause = await self._scheduler.tick()
            await asyncio.sleep(pause)

    async def _run(self) -> None:
        first = self._first_grace
        while True:
            try:
                grace = self._settings.grace if first is None else first
                await self._sweeper.sweep(grace=grace, at_once=first is not None, full=first is not None)
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

        @router.get("/verify", responses=STREAMED | problem_responses(422), response_class=StreamingResponse)
        async def prove(
            grace: Annotated[
                float | None, Query(ge=0, description="Seconds; what is younger is in flight. Default: the setting")
            ] = None,
            settled: Annotated[bool, Query(description="Also: every queue is empty and nothing is in flight")] = False,
        ) -> StreamingResponse:
            """What became of each object at its reader: `progress` and `orphan` as they come, at last `result`."""
            grace = self._settings.grace if grace is None else grace
            return ndjson(verify(self._workshop, self._topology, grace=grace, settled=settled))

        @router.post("/replays", responses=STREAMED | problem_responses(422), response_class=StreamingResponse)
        async def replays(asked: Replay) -> StreamingResponse:
            """Send objects to their reader once more: `progress`, in a dry run `object`, at last `result`."""
            self._check(asked)
            return ndjson(replay(self._workshop, self._topology, asked))

        @router.get("/schedules", responses=problem_responses(503))
        async def schedules() -> dict[str, Any]:
            """Each schedule: when it comes due next, what its last run was, and how many missed times were skipped."""
            return {"schedules": await self._scheduler.page()}

        @router.post("/schedules/{name}/fire", status_code=HTTPStatus.ACCEPTED, responses=problem_responses(404, 503))
        async def fire(name: str) -> dict[str, Any]:
            """Start a run of it now, whatever its times say. 202 means: stored and confirmed."""
            if name not in (there := self._scheduler.planned):
                detail = f"No schedule is named {name!r}. There is: {', '.join(there) or 'none'}."
                raise Problem(HTTPStatus.NOT_FOUND, "unknown schedule", detail, allowed=list(there))
            command = await self._scheduler.fire(name)
            return {"run_id": str(command.run_id), "dataset": command.dataset, "status": "ACCEPTED", "schedule": name}

        return router

    def _check(self, asked: Replay) -> None:
        """Problem (422) where there is nothing that could be replayed."""
        layers = list(dict.fromkeys(reader.layer.value for reader in READERS))
        if asked.layer not in layers:
            detail = f"no service reads the layer {asked.layer!r}: one of {', '.join(layers)}"
            raise Problem(422, "unknown layer", detail, allowed=layers)
        registry, readers = self._workshop.registry, readers_of(Layer(asked.layer))
        if asked.layer == Layer.LANDING:
            datasets = [*registry, UNKNOWN_DATASET]
        else:
            datasets = [name for name, d in registry.items() if any(r.stage in d.readers for r in readers)]
        if asked.dataset not in datasets:
            detail = f"no dataset {asked.dataset!r} has a reader in {asked.layer}: one of {', '.join(datasets)}"
            raise Problem(422, "unknown dataset", detail, allowed=datasets)
        if asked.stale and asked.layer == Layer.LANDING:
            detail = "What was ingested keeps its content: `stale` is for raw, silver and models."
            raise Problem(422, "not for landing", detail, allowed=[name for name in layers if name != Layer.LANDING])
