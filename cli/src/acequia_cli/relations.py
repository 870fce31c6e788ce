"""`bronze.<dataset>` over RAW and `silver.<dataset>` over the lakehouse's tables, as DuckDB views of what is there now.

bronze: the canonical columns, whatever else RAW holds (`_line`; for tables `_version`, `_deleted` and columns that
were added at the source), and `_date`, the day of ingestion: a condition on it leaves out whole objects.
silver: the table's columns at the snapshot that is read, by name; a file that lacks one has nulls there.
A dataset without an object, or without a table yet, is empty, with its columns.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import duckdb
import polars as pl
import pyarrow as pa

from acequia.datasets import Dataset, Registry
from acequia_cli.stored import Files, SnapshotFiles

LINE = "_line"
DATE = "_date"
_FROM_PATH = rf"CAST(regexp_extract(_acequia_object, '/date=(\d{{4}}-\d\d-\d\d)/', 1) AS DATE) AS {DATE}"


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
