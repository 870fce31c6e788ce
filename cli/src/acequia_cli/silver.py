"""`silver.<dataset>`: the lakehouse's tables, found by its catalog, at the snapshot that is asked about."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import polars as pl
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Snapshot

from acequia.datasets import DELETED, Dataset
from acequia_cli.complaints import CommandFailed, WrongUse
from acequia_cli.relations import LINE, AsOf, Relation, duckdb_types, types_of
from acequia_cli.stored import Files, Opened
from acequia_lakehouse.problems import translated
from acequia_lakehouse.tables import STEM
from acequia_transformer.features import FEATURES

BURST_SECONDS = 60
"""Of the transformer's features; their names and types do not depend on it."""


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

    def relation(self, name: str, dataset: Dataset | None, as_of: AsOf | None) -> Relation | None:
        """The table, as of now or of then; where it was never made, `dataset` without a row. None: there is neither.

        Raises CommandFailed where its past is gone.
        """
        with translated():
            table = self.table(name)
            if table is not None:
                return _relation(table, name, as_of)
        return None if dataset is None else Relation("silver", name, _columns_of(dataset))

    def moment_of(self, snapshot_id: int) -> datetime:
        """When the table that has the snapshot was so. WrongUse where none has it."""
        for name in self.names():
            table = self.table(name)
            if table is not None and (snapshot := table.snapshot_by_id(snapshot_id)) is not None:
                return _moment(snapshot)
        raise WrongUse(
            f"no table has a snapshot {snapshot_id}: `acequia lake tables --json` names them; --as-of takes a time, too"
        )


def _relation(table: Table, name: str, as_of: AsOf | None) -> Relation:
    snapshot = _snapshot(table, name, as_of)
    if snapshot is None:
        return Relation("silver", name, duckdb_types(schema_to_pyarrow(table.schema(), include_field_ids=False)))
    scan = table.scan(snapshot_id=snapshot.snapshot_id)
    schema = scan.projection()
    tasks = list(scan.plan_files())
    plain = [task for task in tasks if not task.delete_files]
    merged = [task for task in tasks if task.delete_files]
    return Relation(
        "silver",
        name,
        duckdb_types(schema_to_pyarrow(schema, include_field_ids=False)),
        _files(table, plain),
        merged=partial(_merge, table, schema, merged) if merged else None,
        snapshot=snapshot.snapshot_id,
    )


def _files(table: Table, tasks: Sequence[FileScanTask]) -> Files:
    """By number: they lie anywhere."""
    places = {f"{number:06d}.parquet": task.file.file_path for number, task in enumerate(tasks)}
    sizes = {f"{number:06d}.parquet": task.file.file_size_in_bytes for number, task in enumerate(tasks)}
    # pyiceberg promises no more than reading from the beginning: Arrow's files, and ours, are read at any place
    return Files(sizes, lambda path: cast(Opened, table.io.new_input(places[path]).open()))


def _merge(table: Table, schema: Any, tasks: Sequence[FileScanTask]) -> pa.RecordBatchReader:
    """The rows of these files that no delete file names."""
    scan = ArrowScan(table.metadata, table.io, schema, AlwaysTrue())
    wanted = schema_to_pyarrow(schema, include_field_ids=False)
    batches: Iterator[pa.RecordBatch] = (batch.cast(wanted) for batch in scan.to_record_batches(tasks))
    return pa.RecordBatchReader.from_batches(wanted, batches)


def _columns_of(dataset: Dataset) -> dict[str, str]:
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
