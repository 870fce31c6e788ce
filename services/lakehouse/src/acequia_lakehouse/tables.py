"""A table as the lakehouse sees it: the files it holds, and one commit that changes it.

Synchronous: called in worker threads. What pyiceberg and the catalog raise is translated here (problems.py).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog
from pyiceberg.conversions import from_bytes
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, ResolveError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io import FileIO, load_file_io
from pyiceberg.io.pyarrow import (
    ArrowScan,
    _dataframe_to_data_files,
    _pyarrow_to_schema_without_ids,
    parquet_file_to_data_file,
    schema_to_pyarrow,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent
from pyiceberg.schema import Schema, promote
from pyiceberg.table import FileScanTask, Table, TableProperties
from pyiceberg.typedef import Record
from pyiceberg.types import IcebergType, IntegerType, LongType, NestedField, PrimitiveType, StringType

from acequia.errors import ConfigurationError, TransientFailure
from acequia_lakehouse.catalog import INTERNAL, Place, open_catalog, settings_at
from acequia_lakehouse.problems import Outdone, translated
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.types import NotParquet, as_rows, taken

log = logging.getLogger("acequia")

STEM = "_stem"
"""Column of every table: the SILVER object that the row came from, `<stem>.<variant>`. Null in SILVER's own files:
their path says it."""
PLAN = "acequia-plan"
"""In a snapshot's summary: the plan that made it (`network_events/000012`)."""
ACT = "acequia-act"
_LOOKS = 4
"""How often a file is read before it is called damaged: what its store answers may be damaged on its way."""
PROPERTIES: Mapping[str, str] = {
    "format-version": "2",
    "commit.retry.num-retries": "0",  # what was decided holds for the snapshot that it was decided on, and no other
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    f"write.metadata.metrics.column.{STEM}": "full",
    "write.target-file-size-bytes": str(256 << 20),  # as it lies in memory
    "gc.enabled": "false",  # other engines must not remove files: SILVER's are among them
}
T = TypeVar("T")
At = Callable[[str], None]
"""Told of each step as it is reached: tests end the process there."""
Name = tuple[str, str]
"""Namespace and table."""
_ORDERED = (IntegerType, LongType, StringType)
"""Types whose bounds are compared."""


@dataclass(frozen=True, slots=True)
class LiveFile:
    """A data file that the table's current snapshot holds."""

    path: str
    rows: int
    size: int
    spec_id: int
    lower: Mapping[int, bytes] = field(repr=False, compare=False)
    """By column id, of those columns that anybody asks for."""
    upper: Mapping[int, bytes] = field(repr=False, compare=False)

    def entry(self) -> DataFile:
        """As pyiceberg takes it: it knows a file by its path."""
        file = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self.path,
            file_format=FileFormat.PARQUET,
            partition=Record(),
            record_count=self.rows,
            file_size_in_bytes=self.size,
        )
        file.spec_id = self.spec_id
        return file

    def may_hold(self, column: NestedField, least: Any, most: Any) -> bool:
        """Whether values from `least` to `most` may be in the column: False only where its bounds say so."""
        lower, upper = self.lower.get(column.field_id), self.upper.get(column.field_id)
        if lower is None or upper is None or not isinstance(column.field_type, _ORDERED):
            return True
        # a bound of a text may be cut short: the upper one is then rounded up
        return bool(from_bytes(column.field_type, lower) <= most and from_bytes(column.field_type, upper) >= least)


class Tables:
    """The tables of one catalog. Safe among threads."""

    def __init__(self, settings: LakehouseSettings, place: Place) -> None:
        self.settings = settings = settings_at(settings, place)
        self.place = place
        self.silver = Silver(load_file_io({**place.properties, **settings.catalog_properties}, settings.warehouse))
        self._lock = threading.Lock()
        self._catalog: Catalog | None = None
        self._files: dict[str, tuple[LiveFile, ...]] = {}
        """By manifest, which never change."""

    @property
    def catalog(self) -> Catalog:
        with self._lock:
            if self._catalog is None:
                self._catalog = open_catalog(self.settings, self.place)
            return self._catalog

    def close(self) -> None:
        with self._lock:
            if self._catalog is not None:
                self._catalog.close()
            self._catalog = None

    def check(self) -> None:
        """Raise what keeps the catalog from answering."""
        with translated():
            self.catalog.namespace_exists(self.settings.namespace)

    def names(self) -> list[Name]:
        """The datasets' tables, and those of tombstones."""
        found: list[Name] = []
        with translated():
            for namespace in (self.settings.namespace, self.settings.namespace + INTERNAL):
                with suppress(NoSuchNamespaceError):
                    found += [(namespace, str(name[-1])) for name in self.catalog.list_tables(namespace)]
        return sorted(found)

    def find(self, name: Name) -> Table | None:
        """The table as it is now, or None where there is none."""
        with translated():
            try:
                return self.catalog.load_table(name)
            except (NoSuchTableError, NoSuchNamespaceError):
                return None

    def find_or_make(self, name: Name, schema: pa.Schema) -> Table:
        """The table; where there is none, a new one with these columns. Of several that make it, one does."""
        if (table := self.find(name)) is not None:
            return table
        location = None
        if self.settings.catalog != "rest":  # such a catalog decides where its tables lie
            location = f"{self.settings.warehouse}/{name[0]}/{name[1]}"
        with translated():
            self.catalog.create_namespace_if_not_exists(name[0])
            table = self.catalog.create_table_if_not_exists(
                name, schema, location=location, properties=dict(PROPERTIES)
            )
            if table.metadata.properties.get("commit.retry.num-retries") != "0":
                raise ConfigurationError(
                    f"{'.'.join(name)} was not made by Acequia: drop it, or set ACEQUIA_LAKEHOUSE_NAMESPACE"
                )
            return table

    def files(self, table: Table, columns: Iterable[str] = (STEM,)) -> list[LiveFile]:
        """What the table's current snapshot holds, sorted by path. `columns`: whose bounds are wanted.

        Memory: some hundred bytes a file, for every table that was looked at.
        """
        if (snapshot := table.current_snapshot()) is None:
            return []
        ids = {f.field_id for f in table.schema().fields if f.name in {*columns, STEM}}
        found: dict[str, tuple[LiveFile, ...]] = {}
        with translated():
            for manifest in snapshot.manifests(table.io):
                if manifest.content is not ManifestContent.DATA:
                    raise ConfigurationError(
                        f"{'.'.join(table.name())} holds delete files, which the lakehouse does not write: who does?"
                    )
                key = f"{manifest.manifest_path} {sorted(ids)}"
                found[key] = self._files.get(key) or tuple(
                    LiveFile(
                        entry.data_file.file_path,
                        entry.data_file.record_count,
                        entry.data_file.file_size_in_bytes,
                        manifest.partition_spec_id,
                        {k: v for k, v in (entry.data_file.lower_bounds or {}).items() if k in ids},
                        {k: v for k, v in (entry.data_file.upper_bounds or {}).items() if k in ids},
                    )
                    for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                )
        prefix = table.location()
        with self._lock:
            kept = {k: v for k, v in self._files.items() if not k.startswith(f"{prefix}/")}
            self._files = kept | found
        return sorted((file for files in found.values() for file in files), key=lambda f: f.path)


class Silver:
    """SILVER objects as Parquet files that lie in the store."""

    def __init__(self, io: FileIO) -> None:
        self._io = io

    def schema(self, location: str, rows: int | None = None) -> pa.Schema:
        """Raises NotParquet where it is none, or has another number of rows than `rows`, if that is known."""

        def look() -> pa.Schema:
            with translated(), NotParquet.told(location), self._io.new_input(location).open() as stream:
                metadata = pq.read_metadata(stream)
                _counted(metadata.num_rows, rows)
                return metadata.schema.to_arrow_schema()

        return _looked_again(location, look)

    def read(self, location: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole object, or some of its columns. Memory: that."""

        def look() -> pa.Table:
            with translated(), NotParquet.told(location), self._io.new_input(location).open() as stream:
                file = pq.ParquetFile(stream)
                return file.read(columns=None if columns is None else list(columns))

        return _looked_again(location, look)


def _looked_again(location: str, look: Callable[[], T]) -> T:
    """What `look` returns. Raises NotParquet only where it does so each of several times."""
    for already in range(_LOOKS - 1):
        try:
            return look()
        except NotParquet as error:
            log.info("%s is read again: %s", location, error)
            time.sleep(0.1 * 2**already)
    return look()


def _counted(found: int, rows: int | None) -> None:
    if rows is not None and found != rows:
        raise NotParquet(f"it holds {found} rows, and not {rows} as when it was written")


class Change:
    """One commit to a table, as it is put together. What it writes is removed again where it is outdone."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._tx = table.transaction()
        self._written: list[str] = []
        self.adds: list[DataFile] = []
        self.removes: list[LiveFile] = []
        self.rows_added = 0

    @property
    def schema(self) -> Schema:
        return self._tx.table_metadata.schema()

    @property
    def columns(self) -> pa.Schema:
        """The table's, as Arrow has them."""
        return schema_to_pyarrow(self.schema, include_field_ids=False)

    def evolve(self, schemas: Iterable[pa.Schema]) -> list[str]:
        """Take new columns and wider types on; which. A column that can become no such type stays as it is."""
        news: list[str] = []
        if self._tx.table_metadata.name_mapping() is None:  # SILVER's files name their columns, and have no ids
            mapping = self.schema.name_mapping.model_dump_json()
            self._tx.set_properties({TableProperties.DEFAULT_NAME_MAPPING: mapping})
        for schema in schemas:
            arrow = self._fitting(schema)
            before = {f.name: f.field_type for f in self.schema.fields}
            with translated(), self._tx.update_schema() as update:
                update.union_by_name(arrow)
            news += [f.name for f in self.schema.fields if before.get(f.name) != f.field_type]
        return sorted(set(news))

    def _fitting(self, schema: pa.Schema) -> pa.Schema:
        """Those columns whose types the table can take on."""
        known = {f.name: f.field_type for f in self.schema.fields}
        given = {f.name: f.field_type for f in _pyarrow_to_schema_without_ids(schema).fields}
        return pa.schema([f for f in schema if f.name not in known or _one_kind(known[f.name], given[f.name])])

    def takes(self, column: pa.Field) -> bool:
        """Whether the column's type can become that of the table's column, whatever the values are."""
        given = _pyarrow_to_schema_without_ids(pa.schema([column])).fields[0].field_type
        known = self.schema.find_field(column.name).field_type
        if isinstance(known, PrimitiveType) and isinstance(given, PrimitiveType):
            with suppress(ResolveError):
                return bool(promote(given, known) == known)
            return False
        return _one_kind(known, given)

    def add_file(self, location: str, rows: int | None = None) -> bool:
        """Register a file where it lies; False where its types are not quite the table's, so that it must be copied,
        or where it can't be read, or has not `rows` rows."""

        def look() -> DataFile:
            with translated(), NotParquet.told(location):
                found = parquet_file_to_data_file(self._table.io, self._tx.table_metadata, location)
            _counted(found.record_count, rows)
            return found

        try:
            file = _looked_again(location, look)
        except (ValueError, TypeError, ResolveError, NotParquet) as error:
            log.info("%s is copied into the lake: %s", location, str(error).partition("\n")[0])
            return False
        self.adds.append(file)
        self.rows_added += file.record_count
        return True

    def write(self, rows: pa.Table) -> None:
        """Write rows, in the table's columns, as files of its own."""
        if not rows.num_rows:
            return
        with translated():
            for file in _dataframe_to_data_files(self._tx.table_metadata, rows, self._table.io):
                self._written.append(file.file_path)
                self.adds.append(file)
        self.rows_added += rows.num_rows

    def copy(self, rows: pa.Table, name: str) -> None:
        """Write the rows of the SILVER object `name` (`<stem>.<variant>`). ArrowInvalid where a value does not fit."""
        self.write(as_rows(rows, self.columns, {STEM: name}))

    def read(self, file: LiveFile, columns: Sequence[str] | None = None) -> pa.Table:
        """A data file in the table's columns, or in some of them. Memory: that. TransientFailure where it was not read
        as it is."""
        schema = self.schema if columns is None else self.schema.select(*columns)
        try:
            with translated():
                scan = ArrowScan(self._tx.table_metadata, self._table.io, schema, AlwaysTrue())
                rows = scan.to_table([FileScanTask(file.entry())])
        except pa.ArrowInvalid as error:
            raise TransientFailure(f"{file.path} was read wrongly: {error}", dependency="minio") from error
        if rows.num_rows != file.rows:
            raise TransientFailure(f"{file.path}: {rows.num_rows} of {file.rows} rows were read", dependency="minio")
        return as_rows(rows, schema_to_pyarrow(schema, include_field_ids=False), {})

    def remove(self, file: LiveFile) -> None:
        self.removes.append(file)

    def set_properties(self, properties: Mapping[str, str]) -> None:
        if properties:
            self._tx.set_properties(dict(properties))

    def commit(self, summary: Mapping[str, str]) -> int:
        """Make the snapshot; its id. Outdone where the table is no longer as it was: nothing has changed then."""
        update = self._tx.update_snapshot(snapshot_properties=dict(summary))
        # either one merges manifests, or takes files away
        producer = update.overwrite() if self.removes else update.merge_append()
        for added in self.adds:
            producer.append_data_file(added)
        for removed in self.removes:
            producer.delete_data_file(removed.entry())
        try:
            with translated():
                producer.commit()
                self._tx.commit_transaction()
        except Outdone:
            self.undo()
            raise
        return producer.snapshot_id

    def undo(self) -> None:
        """Remove what was written; what is left of that is found a day later (maintain.py)."""
        for path in self._written:
            try:
                with translated():
                    self._table.io.delete(path)
            except TransientFailure as error:
                log.warning("%s stays behind for a day: %s", path, error)
        self._written.clear()


def _one_kind(known: IcebergType, given: IcebergType) -> bool:
    """Whether one of two types can become the other."""
    if not isinstance(known, PrimitiveType) or not isinstance(given, PrimitiveType):
        return known.__class__ is given.__class__ and _one_shape(known, given)
    for one, other in ((known, given), (given, known)):
        with suppress(ResolveError):
            promote(one, other)
            return True
    return False


def _one_shape(known: IcebergType, given: IcebergType) -> bool:
    """Of lists: whether their elements are of one kind. Of others: whether they are written alike."""
    of_known, of_given = getattr(known, "element_type", None), getattr(given, "element_type", None)
    if of_known is not None and of_given is not None:
        return _one_kind(of_known, of_given)
    return _without_ids(known) == _without_ids(given)


def _without_ids(kind: IcebergType) -> list[tuple[str, str]]:
    return [(f.name, str(f.field_type)) for f in getattr(kind, "fields", ())]


def new_schema(schemas: Sequence[pa.Schema], leave_out: Sequence[str] = ()) -> pa.Schema:
    """Columns of a new table: those of the first, and `_stem`."""
    fields = [f for f in taken(schemas[0]) if f.name not in leave_out]
    return pa.schema([*fields, pa.field(STEM, pa.string())])


def plan_snapshot(table: Table, plan: str) -> int | None:
    """The snapshot that the plan made, as long as it is not expired."""
    for snapshot in reversed(table.metadata.snapshots):
        if snapshot.summary is not None and snapshot.summary.additional_properties.get(PLAN) == plan:
            return snapshot.snapshot_id
    return None


def parted(rows: pa.Table, most: int) -> Iterator[pa.Table]:
    """`rows` in pieces of `most` rows."""
    for start in range(0, rows.num_rows, most):
        yield rows.slice(start, most)
