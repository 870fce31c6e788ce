"""Tables of a PostgreSQL database: whole, or what changed since the last load. `tables/` carries it out."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from acequia.datasets import Registry
from acequia.errors import RejectedInput
from acequia_ingestor.settings import IngestorSettings
from acequia_ingestor.sources import AskedFor, Source

Names = Annotated[tuple[str, ...], Field(max_length=1000)]


class PostgresSource(AskedFor):
    """Tables of a database, each with the state of its own loads."""

    kind: Literal["postgres"]
    tables: Annotated[Names, Field(description="Datasets; none: all of the pack")] = ()
    full_refresh: Annotated[Names, Field(description="Datasets whose tables are read and replaced in full")] = ()
    only_validate: Annotated[bool, Field(description="Only check the tables; nothing is written")] = False
    pack: Annotated[
        str | None, Field(description="Whose tables are meant where none are named; none: the only pack there is")
    ] = None
    connection: Annotated[
        str | None,
        Field(
            pattern="^[A-Za-z0-9_]+$",
            max_length=64,
            description="Name of the database, of ACEQUIA_SOURCE_POSTGRES_<NAME>_DSN; none: the one without a name",
        ),
    ] = None


def packs(registry: Registry) -> Mapping[str, tuple[str, ...]]:
    """The datasets of each pack: those that others refer to first."""
    found: dict[str, list[str]] = {}
    for dataset in registry.values():
        if dataset.table is not None:
            found.setdefault(dataset.table.pack, []).append(dataset.name)
    return {pack: tuple(_referred_to_first(names, registry)) for pack, names in sorted(found.items())}


def _referred_to_first(names: list[str], registry: Registry) -> list[str]:
    ordered: list[str] = []

    def place(name: str, above: tuple[str, ...]) -> None:
        table = registry[name].table
        if name in ordered or name in above or table is None:
            return
        for other, _ in table.references.values():
            if other in names:
                place(other, (*above, name))
        ordered.append(name)

    for name in names:
        place(name, ())
    return ordered


def datasets(
    source: PostgresSource, dataset: str | None, registry: Registry, settings: IngestorSettings
) -> tuple[str, ...]:
    """The tables that are asked for: those named, with the dataset beside the source; else all of the pack."""
    there = packs(registry)
    named = dict.fromkeys((*((dataset,) if dataset else ()), *source.tables, *source.full_refresh))
    if source.pack is not None and source.pack not in there:
        raise RejectedInput(
            "unknown_pack", f"No pack is named {source.pack!r}. There is: {', '.join(there)}.", allowed=list(there)
        )
    known = [name for names in there.values() for name in names]
    if unknown := [name for name in named if name not in known]:
        raise RejectedInput(
            "unknown_dataset",
            f"No table is named {', '.join(map(repr, unknown))}. There is: {', '.join(known)}.",
            allowed=known,
        )
    # a request that names tables only to refresh them means just those
    if named:
        return tuple(named)
    pack = source.pack or (next(iter(there)) if len(there) == 1 else None)
    if pack is None:
        raise RejectedInput("unknown_pack", f"Say which pack is meant: {', '.join(there)}.", allowed=list(there))
    return there[pack]


SOURCE = Source("postgres", "Tables of a PostgreSQL database", PostgresSource, datasets, tables=True)
