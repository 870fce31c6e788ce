"""Which relations a question needs, each with what is there at the moment that is asked about."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING

from acequia.datasets import Registry
from acequia_cli.complaints import WrongUse
from acequia_cli.relations import AsOf, Relation, bronze, known_tables
from acequia_cli.stored import Installation
from acequia_cli.times import moment

if TYPE_CHECKING:
    from acequia_cli.silver import Lake

SNAPSHOT_DIGITS = 10
"""Iceberg's ids are random numbers of 63 bits: a shorter one is a person's mistake for a time."""


async def plan(
    installation: Installation, registry: Registry, asked: Iterable[tuple[str, str]] | None, as_of: str | None
) -> list[Relation]:
    """The relations that were asked for, None: all, each with what is there now.

    Raises WrongUse for what there is not, FileNotFoundError where it went while it was looked at.
    """
    snapshot = int(as_of) if as_of and as_of.isdecimal() and len(as_of) >= SNAPSHOT_DIGITS else None
    wanted = None if asked is None else sorted(asked)
    needed = wanted is None or snapshot is not None or any(schema == "silver" for schema, _ in wanted)
    async with _lake(installation, needed=needed) as lake:
        then: AsOf | None = None
        if snapshot is not None:
            assert lake is not None
            then = AsOf(await asyncio.to_thread(lake.moment_of, snapshot), snapshot)
        elif as_of is not None:
            then = AsOf(moment(as_of, datetime.now(UTC)))
        known = known_tables(registry, await asyncio.to_thread(lake.names) if lake and wanted is None else ())
        relations = []
        for schema, name in sorted(known) if wanted is None else wanted:
            if schema == "bronze":
                if name not in registry:
                    raise _unknown(schema, name, known)
                relations.append(bronze(registry[name], await installation.raw(name, then.moment if then else None)))
            else:
                assert lake is not None
                dataset = registry[name] if ("silver", name) in known and name in registry else None
                found = await asyncio.to_thread(lake.relation, name, dataset, then)
                if found is None:
                    there = await asyncio.to_thread(lake.names)
                    raise _unknown(schema, name, known | {("silver", other) for other in there})
                relations.append(found)
        return relations


@asynccontextmanager
async def _lake(installation: Installation, *, needed: bool) -> "AsyncIterator[Lake | None]":
    """The lakehouse, where it is needed."""
    if not needed:
        yield None
        return
    from acequia_cli.silver import Lake  # noqa: PLC0415 - it brings SQLAlchemy, which takes its time

    lake = await asyncio.to_thread(lambda: Lake(installation.catalog(), installation.namespace()))
    try:
        yield lake
    finally:
        lake.close()


def _unknown(schema: str, name: str, known: Iterable[tuple[str, str]]) -> WrongUse:
    names = sorted(f"{schema}.{name}" for schema, name in known)
    close = get_close_matches(f"{schema}.{name}", names, n=1)
    meant = f", did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
    return WrongUse(f"there is no {schema}.{name}{meant}")
