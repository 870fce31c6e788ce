"""Keeps tables quick to read and the lake small: small files become few, snapshots expire, what nobody names goes.

Only files below a table's own folder in the warehouse are ever removed. SILVER's objects are never: where a table has
copied their rows, they stay where they are.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlparse

import polars as pl
import pyarrow as pa
from pyarrow import fs
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from acequia.errors import TransientFailure
from acequia.layers import Layer
from acequia.layers import Name as ObjectName
from acequia_lakehouse.catalog import INTERNAL
from acequia_lakehouse.merge import LOAD_BITS, VERSION, floor_of
from acequia_lakehouse.problems import RACES, Outdone, Unsure, translated
from acequia_lakehouse.tables import ACT, PLAN, STEM, Change, LiveFile, Name, Tables
from acequia_lakehouse.types import as_rows

log = logging.getLogger("acequia")

ORPHAN_AGE = timedelta(days=1)
"""A file that no snapshot names is removed once it is so old: until then a commit may be about to name it."""
MANIFESTS_MOST = 50
"""With more of them a table's manifests are merged."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What compacting a table did, or would do."""

    table: str
    files_before: int
    files_after: int
    rows: int
    """Of the files that were written anew."""
    commits: int


@dataclass(frozen=True, slots=True)
class Expired:
    """What expiring did, or would do. Files: below the table's folder in the warehouse."""

    table: str
    snapshots_before: int
    snapshots_after: int
    files_removed: int
    orphans_removed: int


# small files become few


def compact(tables: Tables, name: Name, key: tuple[str, ...], *, at_least: int = 2, dry_run: bool = False) -> Compacted:
    """Write the table's small files anew as few, a commit each. Nothing, where there are fewer than `at_least`.

    `key`: the rows are sorted by it; those of events stay in the order of their objects. Memory: one new file.
    """
    most = tables.settings.file_rows
    table = _found(tables, name)
    before = len(tables.files(table))
    commits = rows = 0
    for _ in range(RACES * 10):
        groups = list(_groups(tables.files(table), most))
        if sum(len(g) for g in groups) < at_least:
            break
        if dry_run:
            after = before - sum(len(g) - 1 for g in groups)
            return Compacted(".".join(name), before, after, sum(f.rows for g in groups for f in g), 0)
        try:
            rows += _rewrite(tables, table, groups[0], key)
            commits += 1
        except (Outdone, Unsure) as error:
            log.info("%s: compacting decides anew: %s", ".".join(name), error)
        table = _found(tables, name)
    if not dry_run:
        _merge_manifests(tables, name)
    return Compacted(".".join(name), before, len(tables.files(_found(tables, name))), rows, commits)


def _groups(files: Sequence[LiveFile], most: int) -> Iterator[list[LiveFile]]:
    """Small files that make one of at most `most` rows, each time; a file alone is none."""
    group: list[LiveFile] = []
    rows = 0
    for file in files:
        if file.rows > most // 2:
            continue
        if rows + file.rows > most:
            if len(group) > 1:
                yield group
            group, rows = [], 0
        group.append(file)
        rows += file.rows
    if len(group) > 1:
        yield group


def _rewrite(tables: Tables, table: Table, group: Sequence[LiveFile], key: tuple[str, ...]) -> int:
    change = Change(table)
    pieces = []
    for file in group:
        rows = change.read(file)
        silver = tables.place.key(Layer.SILVER, file.path)
        own = ObjectName.of_key(silver) if silver is not None else None
        if own is not None:  # from here on the rows say what the path said
            rows = as_rows(rows, change.columns, {STEM: f"{own.stem}.{own.variant}"})
        pieces.append(rows)
        change.remove(file)
    together = pa.concat_tables(pieces)
    if table.name()[0].endswith(INTERNAL):
        of = tables.find((tables.settings.namespace, table.name()[-1]))
        together = _graves_that_count(together, key, floor_of(of)[0])
    if key:
        together = together.sort_by([(n, "ascending") for n in key])
    change.write(together)
    change.commit({ACT: "compact"})
    return int(together.num_rows)


def _graves_that_count(rows: pa.Table, key: tuple[str, ...], floor: int) -> pa.Table:
    """Of each key's tombstones the newest is enough, and none is needed that is older than the last full load."""
    frame = pl.from_arrow(rows.select([*key, VERSION, STEM]))
    assert isinstance(frame, pl.DataFrame)
    newer = frame.with_row_index("row").filter(pl.col(VERSION) >= floor << LOAD_BITS)
    # which of two variants is the newer is not known here: of one version each stays
    newest = newer.filter(pl.col(VERSION) == pl.col(VERSION).max().over(key)).unique([*key, STEM])
    return rows.take(newest["row"].sort().to_arrow())


def _merge_manifests(tables: Tables, name: Name) -> None:
    """Commits that take files away leave manifests behind: one that only adds merges them."""
    table = _found(tables, name)
    with translated():
        snapshot = table.current_snapshot()
        many = snapshot is not None and len(snapshot.manifests(table.io)) > MANIFESTS_MOST
    if many:
        try:
            Change(table).commit({ACT: "merge manifests"})
        except (Outdone, Unsure) as error:
            log.info("%s: its manifests are merged another time: %s", ".".join(name), error)


# what is old goes


def expire(
    tables: Tables, name: Name, older_than: datetime, most: int | None = None, *, dry_run: bool = False
) -> Expired:
    """Forget snapshots that others took the place of before `older_than`, and of the rest but the last `most`; then
    what nobody names goes.

    What a table was at `older_than` or later can be read, however old it was by then. The current snapshot stays, and
    those that a branch or a tag names.
    """
    table = _found(tables, name)
    for _ in range(RACES):
        doomed = _doomed(table, older_than, most)
        before = len(table.metadata.snapshots)
        with translated():
            names = _names_of(table, doomed) if doomed else set()
        try:
            if doomed and not dry_run:
                with translated():
                    table.maintenance.expire_snapshots().by_ids([s.snapshot_id for s in doomed]).commit()
                table = _found(tables, name)
            break
        except (Outdone, Unsure) as error:
            log.info("%s: expiring decides anew: %s", ".".join(name), error)
            table = _found(tables, name)
    else:
        raise TransientFailure(f"{'.'.join(name)}: others were faster {RACES} times", dependency="catalog")
    gone = {s.snapshot_id for s in doomed}
    with translated():
        kept = _names_of(table, [s for s in table.metadata.snapshots if s.snapshot_id not in gone])
    folder = table.location().rstrip("/") + "/"
    unnamed = {path for path in names - kept if path.startswith(folder)}
    if not dry_run:
        _remove(table, unnamed)
    orphans = _orphans(table, kept | _metadata_files(table) | unnamed, datetime.now(UTC) - ORPHAN_AGE)
    if not dry_run:
        _remove(table, orphans)
    return Expired(".".join(name), before, before - len(gone), len(unnamed), len(orphans))


def _doomed(table: Table, older_than: datetime, most: int | None) -> list[Snapshot]:
    named = {ref.snapshot_id for ref in table.metadata.refs.values()}
    newest_first = sorted(
        table.metadata.snapshots, key=lambda s: (s.sequence_number or 0, s.timestamp_ms), reverse=True
    )
    limit = older_than.timestamp() * 1000
    # what a table was from a snapshot's making to its successor's
    successors = zip(newest_first[1:], newest_first, strict=False)
    return [
        s
        for place, (s, successor) in enumerate(successors, 1)
        if s.snapshot_id not in named and (successor.timestamp_ms < limit or (most is not None and place >= most))
    ]


def _names_of(table: Table, snapshots: Sequence[Snapshot]) -> set[str]:
    """Every file that these snapshots name: manifest lists, manifests, data files."""
    manifests: dict[str, ManifestFile] = {}
    found: set[str] = set()
    for snapshot in snapshots:
        found.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            manifests[manifest.manifest_path] = manifest
    for path, manifest in manifests.items():
        found.add(path)
        found |= {e.data_file.file_path for e in manifest.fetch_manifest_entry(table.io, discard_deleted=True)}
    return found


def _metadata_files(table: Table) -> set[str]:
    metadata = table.metadata
    statistics = [*metadata.statistics, *getattr(metadata, "partition_statistics", ())]
    return {
        table.metadata_location,
        *(entry.metadata_file for entry in metadata.metadata_log),
        *(s.statistics_path for s in statistics),
    }


def _orphans(table: Table, named: set[str], before: datetime) -> set[str]:
    """Files in the table's folder that nobody names and that are older than `before`."""
    io, location = table.io, table.location().rstrip("/")
    if not isinstance(io, PyArrowFileIO):
        return set()
    scheme, netloc, path = io.parse_location(location)
    root = location.removesuffix(path) if location.endswith(path) else f"{urlparse(location).scheme}://"
    with translated():
        files = io.fs_by_scheme(scheme, netloc).get_file_info(
            fs.FileSelector(path, recursive=True, allow_not_found=True)
        )
    return {
        f"{root}{info.path}"
        for info in files
        if info.type is fs.FileType.File and info.mtime < before and f"{root}{info.path}" not in named
    }


def _remove(table: Table, paths: set[str]) -> None:
    for path in sorted(paths):
        try:
            with translated():
                table.io.delete(path)
        except TransientFailure as error:  # another replica was faster, or the next round finds it
            log.info("%s is not removed now: %s", path, error)


# what there is


def describe(tables: Tables, name: Name) -> dict[str, Any]:
    """Rows, files, snapshots and the last plan of a table, from its metadata alone."""
    table = _found(tables, name)
    snapshot = table.current_snapshot()
    said = snapshot.summary.additional_properties if snapshot is not None and snapshot.summary is not None else {}
    plans = (
        s.summary.additional_properties.get(PLAN) for s in reversed(table.metadata.snapshots) if s.summary is not None
    )
    history = [
        {"snapshot": s.snapshot_id, "at": datetime.fromtimestamp(s.timestamp_ms / 1000, UTC).isoformat()}
        for s in sorted(table.metadata.snapshots, key=lambda s: s.sequence_number or 0)
    ]
    at = datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC).isoformat() if snapshot is not None else None
    return {
        "table": ".".join(name),
        "dataset": name[1],
        "location": table.location(),
        "rows": int(said.get("total-records", 0)),
        "files": int(said.get("total-data-files", 0)),
        "bytes": int(said.get("total-files-size", 0)),
        "snapshots": len(table.metadata.snapshots),
        "snapshot": snapshot.snapshot_id if snapshot is not None else None,
        "changed_at": at,
        "history": history,
        "last_plan": next((p for p in plans if p is not None), None),
        "columns": {f.name: str(f.field_type) for f in table.schema().fields},
    }


def _found(tables: Tables, name: Name) -> Table:
    if (table := tables.find(name)) is None:
        raise TransientFailure(f"there is no table {'.'.join(name)} any more", dependency="catalog")
    return table
