"""The lakehouse composed: its queue's consumer, a timer that keeps the tables in order, and `/lake/...`."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from acequia.app import Problem, Service, batch_service, problem_responses
from acequia.errors import ConfigurationError, TransientFailure
from acequia.runner import Workshop, in_thread
from acequia_lakehouse.catalog import INTERNAL, Place
from acequia_lakehouse.maintain import compact, describe, expire
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.stage import build_stage
from acequia_lakehouse.tables import Name, Tables

log = logging.getLogger("acequia")

T = TypeVar("T")


class Asked(BaseModel):
    """Which tables to keep in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Annotated[str | None, Field(description="One dataset's table; default: every table")] = None
    dry_run: Annotated[bool, Field(description="Only say what would be done")] = False


class AskedToExpire(Asked):
    older_than: Annotated[
        AwareDatetime | None, Field(description="Snapshots replaced before; default: as the settings say")
    ] = None


class Keeper:
    """Keeps the tables in order: on a timer, and when it is asked to. One act at a time; replicas do no harm."""

    def __init__(self, workshop: Workshop, settings: LakehouseSettings, tables: Tables) -> None:
        self._workshop = workshop
        self._settings = settings
        self._tables = tables
        self._one = asyncio.Lock()
        self._life: asyncio.Task[None] | None = None
        self.routers: Sequence[APIRouter] = (self._router(),)

    async def start(self) -> None:
        """Raises what keeps the catalog from answering, so that it is told at the start."""
        await asyncio.to_thread(self._tables.check)
        if self._settings.maintain_every:
            self._life = asyncio.create_task(self._run(), name="lake keeper")

    async def stop(self) -> None:
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)

    async def check(self) -> None:
        """The catalog answers, and the timer runs."""
        await asyncio.to_thread(self._tables.check)
        if self._life is not None and self._life.done():
            raise TransientFailure("the timer that keeps the tables in order does not run", dependency="lakehouse")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.maintain_every)
            try:
                await self._round()
            except TransientFailure as error:
                log.warning("lakehouse: the tables are kept in order another time: %s", error)
            except ConfigurationError as error:
                log.critical("lakehouse: %s", error)
                if self._workshop.fatal is not None:
                    self._workshop.fatal(error)
                return
            except Exception:
                log.exception("lakehouse: keeping the tables in order failed")

    async def _round(self) -> None:
        for name in await asyncio.to_thread(self._tables.names):
            try:
                done = await self._alone(compact, name, self._key(name), at_least=self._settings.compact_files)
                gone = await self._alone(expire, name, *self._limits(None))
            except TransientFailure as error:  # what keeps one table from it is no trouble of the others
                if error.away:
                    raise
                log.warning("lakehouse: %s is kept in order another time: %s", ".".join(name), error)
                continue
            if done.commits or gone.files_removed or gone.orphans_removed:
                log.info("lakehouse: %s; %s", done, gone)

    async def _alone(self, act: Callable[..., T], name: Name, *arguments: Any, **more: Any) -> T:
        """Do it in a thread, after what is being done."""
        async with self._one:
            return await in_thread(act, self._tables, name, *arguments, **more)

    def _key(self, name: Name) -> tuple[str, ...]:
        dataset = self._workshop.registry.get(name[1])
        return dataset.key if dataset is not None else ()

    def _limits(self, older_than: datetime | None) -> tuple[datetime, int | None]:
        """What is older goes; where nobody says how old, also what is more than a table should remember."""
        if older_than is not None:
            return older_than, None
        return datetime.now(UTC) - timedelta(seconds=self._settings.keep_snapshots), self._settings.most_snapshots

    async def _names(self, dataset: str | None) -> list[Name]:
        """Problem (404) where there is no such table."""
        names = await asyncio.to_thread(self._tables.names)
        chosen = [name for name in names if dataset in (None, name[1])]
        if dataset is not None and not chosen:
            known = sorted({name[1] for name in names})
            raise Problem(
                404,
                "unknown table",
                f"no table holds {dataset!r}: there are {', '.join(known) or 'none'}",
                allowed=known,
            )
        return chosen

    def _router(self) -> APIRouter:
        router = APIRouter(tags=["lakehouse"])

        @router.get("/lake/tables", responses=problem_responses(503))
        async def tables() -> dict[str, Any]:
            """Each dataset's table: rows, files, snapshots, the last plan that changed it."""
            names = [n for n in await self._names(None) if not n[0].endswith(INTERNAL)]
            return {"tables": [await in_thread(describe, self._tables, name) for name in names]}

        @router.post("/lake/compact", responses=problem_responses(404, 503))
        async def compact_tables(asked: Asked) -> dict[str, Any]:
            """Write small files anew as few. Tombstones are kept in order with their table."""
            return {
                "tables": [
                    asdict(await self._alone(compact, name, self._key(name), dry_run=asked.dry_run))
                    for name in await self._names(asked.dataset)
                ]
            }

        @router.post("/lake/expire", responses=problem_responses(404, 503))
        async def expire_snapshots(asked: AskedToExpire) -> dict[str, Any]:
            """Forget old snapshots, and remove files of the warehouse that no snapshot names any more."""
            older_than, most = self._limits(asked.older_than)
            return {
                "tables": [
                    asdict(await self._alone(expire, name, older_than, most, dry_run=asked.dry_run))
                    for name in await self._names(asked.dataset)
                ]
            }

        return router


class Lakehouse:
    """The stage and the keeper, over the same tables."""

    name = "lakehouse"

    def __init__(self, keeper: Keeper, batches: Service, tables: Tables) -> None:
        self._keeper = keeper
        self._batches = batches
        self._tables = tables
        self.routers: Sequence[APIRouter] = (*keeper.routers, *batches.routers)

    async def start(self) -> None:
        """The keeper first: it looks at the catalog before any work is taken."""
        await self._keeper.start()
        await self._batches.start()

    async def stop(self, grace: float) -> None:
        """Both, then the connections to the catalog: nobody uses them any more."""
        try:
            await asyncio.gather(self._keeper.stop(), self._batches.stop(grace))
        finally:
            await asyncio.to_thread(self._tables.close)

    async def check(self) -> None:
        await self._keeper.check()
        await self._batches.check()


def build_lakehouse(workshop: Workshop, settings: LakehouseSettings, place: Place, **patience: float) -> Lakehouse:
    """`patience`: BatchRunner's times."""
    tables = Tables(settings, place)
    stage = build_stage(settings, tables, workshop)
    return Lakehouse(Keeper(workshop, settings, tables), batch_service(stage, workshop, **patience), tables)
