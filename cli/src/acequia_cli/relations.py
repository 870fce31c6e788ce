"""`bronze.<dataset>` over RAW and `silver.<dataset>` over the lakehouse's tables, as DuckDB views of what is there now.

bronze: the canonical columns, whatever else RAW holds (`_line`; for tables `_version`, `_deleted` and columns that
were added at the source), and `_date`, the day of ingestion: a condition on it leaves out whole objects.
silver: the table's columns at the snapshot that is read, by name; a file that lacks one has nulls there.
A dataset without an object, or without a table yet, is empty, with its columns.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pyarrow as pa

from acequia.datasets import Dataset, Registry
from acequia_cli.complaints import WrongUse
from acequia_cli.stored import Files, Installation, SnapshotFiles
from acequia_cli.times import moment

if TYPE_CHECKING:
    from acequia_cli.silver import Lake

LINE = "_line"
DATE = "_date"
_FROM_PATH = rf"CAST(regexp_extract(_acequia_object, '/date=(\d{{4}}-\d\d-\d\d)/', 1) AS DATE) AS {DATE}"
SNAPSHOT_DIGITS = 10
"""Iceberg's ids are random numbers of 63 bits: a shorter one is a person's mistake for a time."""


@dataclass(frozen=True, slots=True)
class AsOf:
    """The moment, or the snapshot, that is asked about."""

    moment: datetime
    snapshot: int | None = None
    """Of one table; the others are read as they were at its moment."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A view to be made, and the files that it reads."""

    schema: str
    name: str
    columns: Mapping[str, str]
    """Of those that are known before a file is read: name and DuckDB's type."""
    files: Files | None = None
    open_columns: bool = False
    """Whether the files may have columns beside these."""
    dated: bool = False
    """Whether the files' paths say of which day they are."""
    merged: Callable[[], pa.RecordBatchReader] | None = None
    """Rows of files with deletes, which DuckDB can't read by itself."""
    snapshot: int | None = None
    """Of the lakehouse's table."""

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    def create(self, engine: duckdb.DuckDBPyConnection, files: SnapshotFiles) -> None:
        """Make the view in `engine`, which reads by `files`."""
        engine.execute(f"CREATE SCHEMA IF NOT EXISTS {self.schema}")
        engine.execute(f"CREATE VIEW {self.schema}.{quoted(self.name)} AS {self.select(engine, files)}")

    def select(self, engine: duckdb.DuckDBPyConnection, files: SnapshotFiles) -> str:
        """A query that gives its rows in `engine`, which reads by `files`."""
        parts = []
        if self.files is not None and len(self.files):
            parts.append(self._reading(files.add(f"{self.schema}/{self.name}", self.files)))
        if self.merged is not None:
            table = quoted(f"merged_{self.name}")
            engine.register("arriving", self.merged())
            engine.execute(f"CREATE TEMP TABLE {table} AS SELECT * FROM arriving")  # noqa: S608 - quoted
            engine.unregister("arriving")
            parts.append(f"SELECT * FROM {table}")  # noqa: S608 - quoted
        if not parts or self.open_columns:
            nulls = [f"NULL::{kind} AS {quoted(name)}" for name, kind in self.columns.items()]
            nulls += [f"NULL::DATE AS {DATE}"] if self.dated else []
            parts.insert(0, f"SELECT {', '.join(nulls)} WHERE false")
        return " UNION ALL BY NAME ".join(parts)

    def _reading(self, pattern: str) -> str:
        options = ["hive_partitioning = false"]
        if self.dated:
            options.append("filename = '_acequia_object'")
        if self.open_columns:
            options.append("union_by_name = true")
        else:  # said beforehand: so no file is opened before it is known to be needed
            columns = ", ".join(
                f"{text(name)}: {{'name': {text(name)}, 'type': {text(kind)}, 'default_value': NULL}}"
                for name, kind in self.columns.items()
            )
            options.append(f"schema = MAP {{{columns}}}")
        chosen = f"* EXCLUDE (_acequia_object), {_FROM_PATH}" if self.dated else "*"
        return f"SELECT {chosen} FROM read_parquet({text(pattern)}, {', '.join(options)})"  # noqa: S608 - quoted


def quoted(name: str) -> str:
    """As an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """As a string in SQL."""
    return "'" + value.replace("'", "''") + "'"


# which there are


def known_tables(registry: Registry, tables: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Schema and name of each. `tables`: of the lakehouse, as its catalog lists them."""
    bronze = {("bronze", name) for name in registry}
    silver = {("silver", name) for name, dataset in registry.items() if "lakehouse" in dataset.readers}
    return frozenset(bronze | silver | {("silver", name) for name in tables})


# bronze


def bronze(dataset: Dataset, objects: Files) -> Relation:
    """The dataset in RAW. What has a key may have columns beside the dataset's; all else has those and `_line`."""
    columns = dict(dataset.stored_schema) if dataset.key else {**dataset.schema, LINE: pl.Int64()}
    return Relation(
        "bronze",
        dataset.name,
        types_of(columns),
        objects,
        open_columns=bool(dataset.key),
        dated=True,
    )


def types_of(columns: Mapping[str, pl.DataType]) -> dict[str, str]:
    """DuckDB's types of polars' columns."""
    plain = {
        name: pl.String() if isinstance(kind, pl.Enum | pl.Categorical) else kind for name, kind in columns.items()
    }
    return duckdb_types(pl.DataFrame(schema=plain).to_arrow().schema)


def duckdb_types(schema: pa.Schema) -> dict[str, str]:
    with duckdb.connect() as engine:
        relation = engine.from_arrow(schema.empty_table())
        return dict(zip(relation.columns, map(str, relation.types), strict=True))


# planning


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
