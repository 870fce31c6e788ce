"""`bronze.<dataset>` over RAW and `silver.<dataset>` over the lakehouse's tables, as DuckDB views of what is there now.

bronze: the canonical columns, whatever else RAW holds (`_line`; for tables `_version`, `_deleted` and columns that
were added at the source), and `_date`, the day of ingestion: a condition on it leaves out whole objects.
silver: the table's columns at the snapshot that is read, by name; a file that lacks one has nulls there.
A dataset without an object, or without a table yet, is empty, with its columns.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Snapshot

from acequia.datasets import DELETED, Dataset, Registry
from acequia_cli.complaints import CommandFailed, WrongUse
from acequia_cli.stored import Installation, RawObject, SnapshotFiles, StoredFile
from acequia_cli.times import moment
from acequia_lakehouse.problems import translated
from acequia_lakehouse.tables import STEM
from acequia_transformer.features import FEATURES

LINE = "_line"
DATE = "_date"
_FROM_PATH = rf"CAST(regexp_extract(_object, '/date=(\d{{4}}-\d\d-\d\d)/', 1) AS DATE) AS {DATE}"
SNAPSHOT_DIGITS = 10
"""Iceberg's ids are random numbers of 63 bits: a shorter one is a person's mistake for a time."""
BURST_SECONDS = 60
"""Of the transformer's features; their names and types do not depend on it."""


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
    files: Mapping[str, StoredFile]
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
        if self.files:
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
            options.append("filename = '_object'")
        if self.open_columns:
            options.append("union_by_name = true")
        else:  # said beforehand: so no file is opened before it is known to be needed
            columns = ", ".join(
                f"{text(name)}: {{'name': {text(name)}, 'type': {text(kind)}, 'default_value': NULL}}"
                for name, kind in self.columns.items()
            )
            options.append(f"schema = MAP {{{columns}}}")
        chosen = f"* EXCLUDE (_object), {_FROM_PATH}" if self.dated else "*"
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


class Lake:
    """The lakehouse's tables, as they are when first asked for."""

    def __init__(self, catalog: Catalog | None, namespace: str) -> None:
        self._catalog = catalog
        self._namespace = namespace
        self._tables: dict[str, Table | None] = {}

    def close(self) -> None:
        if self._catalog is not None:
            self._catalog.close()

    def names(self) -> list[str]:
        if self._catalog is None:
            return []
        with translated():
            try:
                return sorted(name[-1] for name in self._catalog.list_tables((self._namespace,)))
            except NoSuchNamespaceError:
                return []

    def table(self, name: str) -> Table | None:
        """None where it was never made."""
        if name not in self._tables:
            self._tables[name] = None
            if self._catalog is not None:
                with translated(), suppress(NoSuchTableError, NoSuchNamespaceError):
                    self._tables[name] = self._catalog.load_table((self._namespace, name))
        return self._tables[name]

    def moment_of(self, snapshot_id: int) -> datetime:
        """When the table that has the snapshot was so. WrongUse where none has it."""
        for name in self.names():
            table = self.table(name)
            if table is not None and (snapshot := table.snapshot_by_id(snapshot_id)) is not None:
                return _moment(snapshot)
        raise WrongUse(
            f"no table has a snapshot {snapshot_id}: `acequia lake tables --json` names them; --as-of takes a time, too"
        )


# bronze


def bronze(dataset: Dataset, objects: Sequence[RawObject], as_of: AsOf | None) -> Relation:
    """The dataset in RAW. What has a key may have columns beside the dataset's; all else has those and `_line`."""
    columns = dict(dataset.stored_schema) if dataset.key else {**dataset.schema, LINE: pl.Int64()}
    chosen = [each for each in objects if as_of is None or each.modified <= as_of.moment]
    return Relation(
        "bronze",
        dataset.name,
        types_of(columns),
        {f"date={each.name.stem.date}/{each.name.stem}.parquet": each.file for each in chosen},
        open_columns=bool(dataset.key),
        dated=True,
    )


def types_of(columns: Mapping[str, pl.DataType]) -> dict[str, str]:
    """DuckDB's types of polars' columns."""
    plain = {
        name: pl.String() if isinstance(kind, pl.Enum | pl.Categorical) else kind for name, kind in columns.items()
    }
    return _duckdb_types(pl.DataFrame(schema=plain).to_arrow().schema)


def _duckdb_types(schema: pa.Schema) -> dict[str, str]:
    with duckdb.connect() as engine:
        relation = engine.from_arrow(schema.empty_table())
        return dict(zip(relation.columns, map(str, relation.types), strict=True))


# silver


def silver(dataset: Dataset | None, name: str, table: Table | None, as_of: AsOf | None) -> Relation:
    """The table in the lakehouse, as of now or of then. Raises CommandFailed where its past is gone."""
    snapshot = None if table is None else _snapshot(table, name, as_of)
    if table is None or snapshot is None:
        known = {} if table is None else _duckdb_types(schema_to_pyarrow(table.schema(), include_field_ids=False))
        return Relation("silver", name, known or (_silver_columns(dataset) if dataset else {}), {})
    scan = table.scan(snapshot_id=snapshot.snapshot_id)
    schema = scan.projection()
    tasks = list(scan.plan_files())
    plain = [task for task in tasks if not task.delete_files]
    merged = [task for task in tasks if task.delete_files]
    return Relation(
        "silver",
        name,
        _duckdb_types(schema_to_pyarrow(schema, include_field_ids=False)),
        {f"{number:06d}.parquet": _lake_file(table, task) for number, task in enumerate(plain)},
        merged=partial(_merge, table, schema, merged) if merged else None,
        snapshot=snapshot.snapshot_id,
    )


def _lake_file(table: Table, task: FileScanTask) -> StoredFile:
    location = task.file.file_path
    return StoredFile(task.file.file_size_in_bytes, lambda: table.io.new_input(location).open())


def _merge(table: Table, schema: Any, tasks: Sequence[FileScanTask]) -> pa.RecordBatchReader:
    """The rows of these files that no delete file names."""
    scan = ArrowScan(table.metadata, table.io, schema, AlwaysTrue())
    wanted = schema_to_pyarrow(schema, include_field_ids=False)
    batches: Iterator[pa.RecordBatch] = (batch.cast(wanted) for batch in scan.to_record_batches(tasks))
    return pa.RecordBatchReader.from_batches(wanted, batches)


def _silver_columns(dataset: Dataset) -> dict[str, str]:
    """As the transformer writes them, and the lakehouse takes them on."""
    columns = dataset.stored_schema if dataset.key else {LINE: pl.Int64(), **dataset.schema}
    frame = pl.DataFrame(schema={name: kind for name, kind in columns.items() if name != DELETED})
    if (add_features := FEATURES.get(dataset.name)) is not None:
        frame = add_features(frame, BURST_SECONDS)
    return types_of({**frame.schema, STEM: pl.String()})


def _snapshot(table: Table, name: str, as_of: AsOf | None) -> Snapshot | None:
    """The one to read; None where the table was empty then."""
    if as_of is None:
        return table.current_snapshot()
    if as_of.snapshot is not None and (found := table.snapshot_by_id(as_of.snapshot)) is not None:
        return found
    history = [
        found
        for entry in sorted(table.metadata.snapshot_log, key=lambda entry: entry.timestamp_ms)
        if (found := table.snapshot_by_id(entry.snapshot_id)) is not None
    ]
    then = [snapshot for snapshot in history if _moment(snapshot) <= as_of.moment]
    if then:
        return then[-1]
    if history and (history[0].sequence_number or 0) > 1:  # the first that a table ever has is 1
        raise CommandFailed(
            f"silver.{name} can't be read as of {as_of.moment:%Y-%m-%dT%H:%M:%SZ}: its snapshots before "
            f"{_moment(history[0]):%Y-%m-%dT%H:%M:%SZ} were expired"
        )
    return None


def _moment(snapshot: Snapshot) -> datetime:
    return datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)


# planning


async def plan(
    installation: Installation, registry: Registry, asked: Iterable[tuple[str, str]] | None, as_of: str | None
) -> list[Relation]:
    """The relations that were asked for, None: all, each with what is there now.

    Raises WrongUse for what there is not, FileNotFoundError where it went while it was looked at.
    """
    lake = Lake(None, "")
    snapshot = int(as_of) if as_of and as_of.isdecimal() and len(as_of) >= SNAPSHOT_DIGITS else None
    wanted = None if asked is None else sorted(asked)
    if wanted is None or snapshot is not None or any(schema == "silver" for schema, _ in wanted):
        lake = await asyncio.to_thread(_open_lake, installation)
    try:
        then: AsOf | None = None
        if snapshot is not None:
            then = AsOf(await asyncio.to_thread(lake.moment_of, snapshot), snapshot)
        elif as_of is not None:
            then = AsOf(moment(as_of, datetime.now(UTC)))
        known = known_tables(registry, await asyncio.to_thread(lake.names) if wanted is None else ())
        relations = []
        for schema, name in sorted(known) if wanted is None else wanted:
            if schema == "silver":
                relations.append(await asyncio.to_thread(_silver, lake, registry, name, then, known))
            elif name in registry:
                relations.append(bronze(registry[name], await installation.raw(name), then))
            else:
                raise _unknown(schema, name, known)
        return relations
    finally:
        lake.close()


def _open_lake(installation: Installation) -> Lake:
    return Lake(installation.catalog(), installation.namespace())


def _silver(
    lake: Lake, registry: Registry, name: str, as_of: AsOf | None, known: frozenset[tuple[str, str]]
) -> Relation:
    with translated():
        table = lake.table(name)
        if table is None and ("silver", name) not in known:
            raise _unknown("silver", name, known | {("silver", there) for there in lake.names()})
        return silver(registry.get(name), name, table, as_of)


def _unknown(schema: str, name: str, known: Iterable[tuple[str, str]]) -> WrongUse:
    names = sorted(f"{schema}.{name}" for schema, name in known)
    close = get_close_matches(f"{schema}.{name}", names, n=1)
    meant = f", did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
    return WrongUse(f"there is no {schema}.{name}{meant}")
