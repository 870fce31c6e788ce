"""The lakehouse as the batch runner sees it."""

import asyncio
from collections.abc import Sequence
from functools import partial

from acequia.layers import Layer
from acequia.runner import Workshop
from acequia.stage import BatchStage
from acequia_lakehouse.lake import bring_in, compose, reach
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.tables import Tables

VERSION = "1"
"""Raise it where plans are to be committed otherwise than before. No setting changes what a table holds."""


def build_stage(settings: LakehouseSettings, tables: Tables, workshop: Workshop) -> BatchStage:
    """To be called where the event loop runs: the work's thread asks it about QUARANTINE."""
    loop = asyncio.get_running_loop()

    async def look(keys: Sequence[str]) -> list[bool]:
        heads = await asyncio.gather(*(workshop.store.head(Layer.QUARANTINE, key) for key in keys))
        return [info is not None for info in heads]

    def rejected(keys: Sequence[str]) -> Sequence[bool]:
        return asyncio.run_coroutine_threadsafe(look(keys), loop).result()

    return BatchStage(
        name="lakehouse",
        version=VERSION,
        reads=Layer.SILVER,
        writes=Layer.LAKE,
        process=partial(bring_in, tables=tables, registry=workshop.registry, rejected=rejected, at=workshop.at),
        commit_file="commit.json",
        compose=compose,
        reach=reach,
        most_rows=settings.plan_rows,
        supersedes=True,
        fetch=False,
        gather_quiet=settings.gather_quiet,
        gather_most=settings.gather_most,
    )
