"""One stretch of a load: from one snapshot of the source to files that become parts, their checks, and the checkpoint.

Synchronous, for one thread. Memory: a frame of a few MiB, and of what changed unseen its keys.
"""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any

import polars as pl

from acequia.datasets import DELETED, PARTS_MOST, VERSION, Dataset, OnChange, OnFailure, Registry, contract_with
from acequia.errors import RejectedInput
from acequia_ingestor.formats import REJECTED_SCHEMA
from acequia_ingestor.tables.asking import SEEN_MOST, Asking, Position, Relation, describe, key_column
from acequia_ingestor.tables.checks import CheckResult, Counted, check_load
from acequia_ingestor.tables.columns import TIMES, Change, Layout, lay_out
from acequia_ingestor.tables.connect import Snapshot, open_snapshot, query
from acequia_ingestor.tables.keys import XID, Known, RowFile, compare, key_schema
from acequia_ingestor.tables.state import Checkpoint

log = logging.getLogger("acequia")

FETCHED_AT_ONCE = 5_000
"""Keys in one question for rows."""
MISSED_MOST = 100_000
MISSED_SHARE = 0.1
"""Of more rows than both that changed unseen the next load is a full one."""
RAW_TEXT_MOST = 64 * 1024
"""Characters that are kept of a rejected row."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The last part of the load that was put before."""

    number: int
    counted: Counted
    position: Position | None
    ended: bool = False
    """Whether the load has no further part."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a stretch is to do."""

    dataset: Dataset
    dsn: str
    statement_timeout: float
    load: int
    before: Checkpoint | None
    """Of the last load that closed."""
    began: Checkpoint | None
    """Of this load's first snapshot, if it began before."""
    full: bool
    """Whether all rows were asked for."""
    columns: Mapping[str, str]
    """Of the table's state."""
    known: Callable[[], Sequence[Known]]
    """Keys that were moved before: fetched where they are needed."""
    stored: Stored | None
    rows_per_part: int
    deadline: float
    """On the monotonic clock: reading ends there, and goes on in another stretch."""
    ends: float
    """On the same clock: all that the source is asked has to be answered by then."""
    only_validate: bool = False


@dataclass(frozen=True, slots=True)
class PartFile:
    number: int
    path: Path
    rows: int
    position: Position | None
    """How far the load has come with it."""
    counted: Counted
    """Up to its end."""
    rejected: Path | None
    """Rows that were rejected while it was read."""
    rejected_rows: int
    keys: Path | None
    keys_rows: int


@dataclass(slots=True)
class Stretch:
    """What came of it. The files lie in its folder."""

    checkpoint: Checkpoint
    layout: Layout
    columns: Mapping[str, str]
    """Of the table's state, if this load closes."""
    parts: list[PartFile] = field(default_factory=list)
    more: bool = False
    """Whether the deadline came first."""
    unchanged: bool = False
    """A table that is read in full, and is as it was at the last load."""
    counted: Counted = field(default_factory=Counted)
    rejected: Path | None = None
    """Rows that were rejected after the last part."""
    rejected_rows: int = 0
    checks: Sequence[CheckResult] = ()
    baseline: tuple[Path, int] | None = None
    """All keys, where they were compared: a file and its rows."""
    quarantine: str | None = None
    """Why all of it goes to quarantine: `schema_changed`, or `no_rows`."""
    broken_by: Mapping[str, int] = field(default_factory=dict)
    """Rows of the stretch that break the contract, by rule."""


def extract(order: Order, registry: Registry, folder: Path, stop: Event) -> Stretch:
    """Read what the order says into files below `folder`. `stop`: set by another thread to end it.

    RejectedInput where the table can't be loaded until a person acts; TransientFailure as `connect` says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    oldest = [query("oldest_transaction")]
    with open_snapshot(order.dsn, statement_timeout=order.statement_timeout, ends=order.ends, first=oldest) as (
        snapshot,
        answers,
    ):
        relation = describe(order.dataset, snapshot, answers[0])
        return _Extraction(order, registry, folder, stop, snapshot, relation).run()


class _Extraction:
    def __init__(
        self,
        order: Order,
        registry: Registry,
        folder: Path,
        stop: Event,
        snapshot: Snapshot,
        relation: Relation,
    ) -> None:
        self._order = order
        self._registry = registry
        self._folder = folder
        self._stop = stop
        self._snapshot = snapshot
        self._relation = relation
        self._dataset = order.dataset
        assert order.dataset.table is not None
        self._table = order.dataset.table

    def run(self) -> Stretch:
        order, relation = self._order, self._relation
        full = self._is_full()
        forked = not full and order.before is not None and order.before.timeline != relation.timeline
        since = None if full else order.before
        layout = lay_out(self._dataset, relation.columns, {} if order.full else order.columns)
        first = order.stored.position if order.stored else None
        ended = order.stored is not None and order.stored.ended
        began = order.began if order.began is not None and order.began.timeline == relation.timeline else None
        asking = Asking(relation, since, known=not forked, after=first, ended=ended, began=began)
        stretch = Stretch(self._checkpoint(asking, full), layout, self._columns_after(layout))
        if layout.changed:
            self._judge(layout, stretch)
        tracked = self._tracked() and not order.only_validate
        writer = _Writer(order, layout, self._folder, tracked=tracked, full=full)
        until = self._read(asking, layout, writer, stretch)
        if not stretch.more and not ended and not full and self._compare_now(forked):
            self._compare(asking, layout, writer, stretch)
        before_this = order.stored is not None or order.before is not None or order.full
        whole = full and not stretch.more and not ended and not stretch.unchanged and not order.only_validate
        if whole and not writer.counted.rows and writer.counted.rejected:
            stretch.quarantine = stretch.quarantine or "no_rows"  # what can't be read is no reason to empty a table
        elif whole and before_this:
            writer.end_a_full_load()
        writer.close()
        stretch.parts, stretch.counted, stretch.broken_by = writer.parts, writer.counted, writer.broken_by
        stretch.rejected, stretch.rejected_rows = writer.rejected_tail
        before = order.stored.counted if order.stored else Counted()
        stretch.checks = check_load(
            asking, self._snapshot, self._registry, stretch.counted, before, until if stretch.more else None
        )
        return stretch

    # what kind of load

    def _is_full(self) -> bool:
        order = self._order
        if order.began is not None:
            return order.began.full
        before = order.before
        return (
            order.full
            or order.only_validate
            or self._table.cursor is None
            or before is None
            or before.full_next
            or before.identity != self._relation.identity
        )

    def _tracked(self) -> bool:
        """Whether keys are written down, to be compared later."""
        return self._table.cursor is not None and self._table.compare_keys_every is not None

    def _compare_now(self, forked: bool) -> bool:
        before, every = self._order.before, self._table.compare_keys_every
        if every is None or before is None:
            return False
        if forked or before.compared_at is None:
            return True
        return datetime.fromisoformat(self._relation.at) - datetime.fromisoformat(before.compared_at) >= every

    def _checkpoint(self, asking: Asking, full: bool) -> Checkpoint:
        """What this load's first snapshot saw."""
        if self._order.began is not None:
            return self._order.began
        relation, before = self._relation, self._order.before
        cursor = asking.cursor()
        checkpoint = Checkpoint(
            load=self._order.load,
            full=full,
            at=relation.at,
            identity=relation.identity,
            timeline=relation.timeline,
            compared_at=relation.at if full or before is None else before.compared_at,
        )
        if cursor is None or self._order.only_validate:
            return checkpoint
        if cursor.base in TIMES:
            checkpoint = checkpoint.model_copy(update={"base": self._snapshot.value(asking.base())})
        if not relation.has_xmin:
            return checkpoint
        seen = [row["x"] for row in self._snapshot.rows(asking.seen(checkpoint))]
        if len(seen) > SEEN_MOST:
            seen = []
        return checkpoint.model_copy(update={"below": relation.xmin, "seen": tuple(sorted(seen))})

    def _columns_after(self, layout: Layout) -> dict[str, str]:
        by_name = {column.name: column.type for column in self._relation.columns}
        after = {reading.name: by_name[reading.name] for reading in layout.extra}
        kept = [n for n, change in layout.changed.items() if change is Change.RETYPED and n not in self._dataset.schema]
        return after | {name: self._order.columns[name] for name in kept}

    def _judge(self, layout: Layout, stretch: Stretch) -> None:
        """What follows from columns that are gone, or have another type."""
        told = ", ".join(f"{name} ({change.value})" for name, change in sorted(layout.changed.items()))
        match self._table.on_change:
            case OnChange.FREEZE:
                raise RejectedInput(
                    "schema_changed",
                    f"columns of {self._table.relation} changed: {told}. Say in the dataset's file what they are now; "
                    "for those that only the source has, --full-refresh takes them as they are",
                )
            case OnChange.QUARANTINE:
                stretch.quarantine = "schema_changed"
            case OnChange.EVOLVE:
                log.warning("columns of %s changed: %s", self._table.relation, told)

    # rows

    def _read(self, asking: Asking, layout: Layout, writer: "_Writer", stretch: Stretch) -> Position | None:
        """The rows of the stretch into parts; how far that came."""
        order = self._order
        digest = hashlib.sha256(json.dumps([[n, str(t)] for n, t in layout.schema.items() if n != VERSION]).encode())
        digested = self._table.cursor is None and order.stored is None
        until: Position | None = None
        frames = self._snapshot.stream(asking.rows(layout), self._stop)
        try:
            for frame in frames:
                rows = writer.take(frame, asking.since is not None)
                until = writer.position
                if digested:
                    digest.update(rows.drop(VERSION).hash_rows(seed=7).to_numpy().tobytes())
                if time.monotonic() > order.deadline and not order.only_validate:
                    stretch.more = True
                    break
        finally:
            frames.close()
        if digested and not stretch.more:
            if writer.refused_digest is not None:
                digest.update(writer.refused_digest.digest())
            stretch.checkpoint = stretch.checkpoint.model_copy(update={"digest": digest.hexdigest()})
            before = order.before
            stretch.unchanged = (
                not order.full
                and before is not None
                and before.digest == digest.hexdigest()
                and before.identity == self._relation.identity
            )
        return until

    def _typed(self, asking: Asking, keys: Sequence[Sequence[str]]) -> pl.DataFrame:
        return pl.concat(list(self._snapshot.stream(asking.typed_keys(keys), self._stop)))

    # keys

    def _compare(self, asking: Asking, layout: Layout, writer: "_Writer", stretch: Stretch) -> None:
        """Tell of keys that are gone, and fetch the rows that changed unseen."""
        parts = len(self._dataset.key)
        known = [*self._order.known(), *writer.keys_so_far()]
        there = self._snapshot.stream(asking.all_keys(), self._stop)
        baseline = RowFile(self._folder / "all-keys.parquet", key_schema(parts))
        missed: list[pl.DataFrame] = []
        missing = rows = 0
        refused = writer.refused_keys()
        for found in compare(there, known, parts, self._folder / "compared"):
            rows += found.same.height + found.missed.height
            baseline.add(found.same)
            unseen = found.missed.join(refused, on=refused.columns, how="anti")
            missing += unseen.height
            if missing <= MISSED_MOST or missing <= rows * MISSED_SHARE:
                missed.append(unseen)
            for keys in _some(found.gone):
                writer.take_gone(self._typed(asking, keys))
        if missing > max(MISSED_MOST, rows * MISSED_SHARE):
            baseline.close()
            log.warning("%s: %d rows changed unseen: the next load is a full one", self._dataset.name, missing)
            stretch.checkpoint = stretch.checkpoint.model_copy(update={"full_next": True})
            return
        for frame in missed:
            for keys in _some(frame):
                for fetched in self._snapshot.stream(asking.rows_of_keys(layout, keys), self._stop):
                    baseline.add(writer.take(fetched, cursor=False, counts=False, give_keys=True))
        stretch.baseline = (baseline.close(), baseline.rows)
        stretch.checkpoint = stretch.checkpoint.model_copy(update={"compared_at": self._relation.at})


def _some(keys: pl.DataFrame) -> Iterator[list[list[str]]]:
    for start in range(0, keys.height, FETCHED_AT_ONCE):
        yield [list(row) for row in keys.slice(start, FETCHED_AT_ONCE).iter_rows()]


class _Writer:
    """Frames as the source gave them, in; parts of a bounded number of rows, what is rejected, and keys, out."""

    def __init__(self, order: Order, layout: Layout, folder: Path, *, tracked: bool, full: bool) -> None:
        self._order = order
        self._dataset = order.dataset
        self._layout = layout
        self._folder = folder
        self._tracked = tracked
        self._keys = [key_column(n) for n in range(len(order.dataset.key))]
        wide = {r.name: r.dtype for r in layout.canonical if r.dtype != order.dataset.schema[r.name]}
        self._contract = contract_with(order.dataset.contract, wide) if wide else order.dataset.contract
        before = order.stored.counted if order.stored else Counted()
        self._read, self._rows, self._deleted, self._broken = before.read, before.rows, before.deleted, before.broken
        self._worst = before.worst
        self._of_part = (before.rows, before.broken)
        """What was counted when the part began."""
        self._rejected = Counter(before.rejected)
        self.broken_by: Counter[str] = Counter()
        self.refused_digest: Any = None
        """Of all rows that were rejected; None: there is none."""
        self._remembers = tracked and not full
        self._refused_keys: list[pl.DataFrame] = []
        self._failed = Counter(before.checks)
        self._number = order.stored.number if order.stored else 0
        self._taken = 0
        self.position = order.stored.position if order.stored else None
        self.parts: list[PartFile] = []
        self._file: RowFile | None = None
        self._key_file: RowFile | None = None
        self._refused: RowFile | None = None
        self._refused_files = 0
        self.rejected_tail: tuple[Path | None, int] = (None, 0)

    @property
    def counted(self) -> Counted:
        return Counted(
            read=self._read,
            rows=self._rows,
            deleted=self._deleted,
            rejected=dict(sorted(self._rejected.items())),
            broken=self._broken,
            worst=self._worst,
            checks=dict(sorted(self._failed.items())),
        )

    @property
    def anything(self) -> bool:
        """Whether there is a row to put."""
        return bool(self.parts) or (self._file is not None and self._file.rows > 0)

    def keys_so_far(self) -> list[Known]:
        """Of the parts that are written, and the one that is begun. Ends that one's file of keys."""
        if self._key_file is not None:
            self._close_part()
        return [Known(part.keys, True, part.keys_rows) for part in self.parts if part.keys is not None]

    def take(self, frame: pl.DataFrame, cursor: bool, *, counts: bool = True, give_keys: bool = False) -> pl.DataFrame:
        """Write rows. `cursor`: the position has one; `counts`: they are of the load's own question. Gives the rows as
        they are in RAW, or (`give_keys`) their keys."""
        written: list[pl.DataFrame] = []
        start = 0
        while start < frame.height:
            piece = frame.slice(start, self._order.rows_per_part - self._taken)
            start += piece.height
            rows, keys = self._write(piece)
            written.append(keys if give_keys else rows)
            self._taken += piece.height
            if counts:
                self._read += piece.height
                last = piece.select(*(["_cursor"] if cursor else []), *self._keys).row(-1)
                self.position = list(last)
            if self._taken >= self._order.rows_per_part:
                self._close_part()
        return pl.concat(written)

    def refused_keys(self) -> pl.DataFrame:
        """Keys of the rows that were rejected while changes were read."""
        return pl.concat([pl.DataFrame(schema=dict.fromkeys(self._keys, pl.String)), *self._refused_keys])

    def end_a_full_load(self) -> None:
        """A full load ends with a part that says how many there are, also where no row is left for it."""
        if not self.anything:
            self._file = RowFile(self._folder / f"part-{self._number + 1:06d}.parquet", self._layout.schema)

    def take_gone(self, keys: pl.DataFrame) -> None:
        """Write that the rows of these keys (as the source has them) are gone."""
        start = 0
        while start < keys.height:
            piece = keys.slice(start, self._order.rows_per_part - self._taken)
            start += piece.height
            schema = self._layout.schema
            names = set(self._dataset.key)
            rows = piece.select(
                *(
                    pl.col(name).cast(dtype) if name in names else pl.lit(None, dtype=dtype).alias(name)
                    for name, dtype in schema.items()
                )
            ).with_columns(
                pl.lit(self._version(), dtype=pl.Int64).alias(VERSION), pl.lit(True, dtype=pl.Boolean).alias(DELETED)
            )
            self._add(rows)
            self._deleted += rows.height
            self._taken += piece.height
            if self._taken >= self._order.rows_per_part:
                self._close_part()

    def _version(self) -> int:
        number = self._number + 1
        if number >= PARTS_MOST:
            raise RejectedInput("too_many_parts", "a load has at most 1,048,575 parts: set larger ones")
        return self._order.load * PARTS_MOST + number

    def _write(self, piece: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        good = piece.filter(pl.col("_unreadable").is_null())
        if good.height < piece.height:
            bad = piece.filter(pl.col("_unreadable").is_not_null())
            self._refuse(bad, ("unparsable_" + bad["_unreadable"]).to_list(), "a column of RAW can't hold this value")
        keys = good.select(*self._keys, XID)
        version = pl.lit(self._version(), dtype=pl.Int64).alias(VERSION)
        schema = self._layout.schema
        rows = good.with_columns(version).select(pl.col(name).cast(dtype) for name, dtype in schema.items())
        for check in self._dataset.checks:
            if check.rows is None:
                continue
            fails = rows.select((~(check.rows | pl.col(DELETED))).fill_null(False).alias("fails"))["fails"]
            if not (number := int(fails.sum())):
                continue
            self._failed[check.name] += number
            if check.on_failure is OnFailure.QUARANTINE:
                self._refuse(good.filter(fails), [check.name] * number, f"the check {check.name} fails")
                good, rows, keys = good.filter(~fails), rows.filter(~fails), keys.filter(~fails)
        self._deleted += int(rows[DELETED].sum())
        kept, breaking = self._contract.filter(rows.select(*self._dataset.schema, VERSION, DELETED))
        self._broken += rows.height - kept.height
        self.broken_by.update(breaking.counts())
        self._add(rows)
        if self._tracked and keys.height:
            if self._key_file is None:
                path = self._folder / f"keys-{self._number + 1:06d}.parquet"
                self._key_file = RowFile(path, key_schema(len(self._keys)))
            self._key_file.add(keys)
        return rows, keys

    def _add(self, rows: pl.DataFrame) -> None:
        self._rows += rows.height
        if self._order.only_validate or not rows.height:
            return
        if self._file is None:
            self._file = RowFile(self._folder / f"part-{self._number + 1:06d}.parquet", self._layout.schema)
        self._file.add(rows)

    def _refuse(self, rows: pl.DataFrame, rules: Sequence[str], reason: str) -> None:
        self._rejected.update(rules)
        if self._order.only_validate:
            return
        if self._remembers:
            self._refused_keys.append(rows.select(self._keys))
        if self._refused is None:
            self._refused_files += 1
            path = self._folder / f"rejected-{self._refused_files:06d}.parquet"
            self._refused = RowFile(path, dict(REJECTED_SCHEMA))
        texts = [_text(row) for row in rows.iter_rows(named=True)]
        self.refused_digest = self.refused_digest or hashlib.sha256()
        self.refused_digest.update(json.dumps([rules, texts]).encode())
        lines = range(self._read + 1, self._read + 1 + rows.height)
        given = {"_line": lines, "rule": rules, "reason": [reason] * rows.height, "raw": texts}
        self._refused.add(pl.DataFrame(given, schema=dict(REJECTED_SCHEMA)))

    def _close_part(self) -> None:
        """End the part, if it has rows; what was rejected so far goes with it."""
        self._taken = 0
        rows, broken = self._of_part
        if self._rows > rows:
            self._worst = max(self._worst, (self._broken - broken) / (self._rows - rows))
        self._of_part = (self._rows, self._broken)
        if self._file is None:
            return
        self._number += 1
        refused, self._refused = self._refused, None
        keys, self._key_file = self._key_file, None
        self.parts.append(
            PartFile(
                number=self._number,
                path=self._file.close(),
                rows=self._file.rows,
                position=self.position,
                counted=self.counted,
                rejected=refused.close() if refused else None,
                rejected_rows=refused.rows if refused else 0,
                keys=keys.close() if keys else None,
                keys_rows=keys.rows if keys else 0,
            )
        )
        self._file = None

    def close(self) -> None:
        self._close_part()
        if self._refused is not None:
            self.rejected_tail = (self._refused.close(), self._refused.rows)


def _text(row: Mapping[str, Any]) -> str:
    """A row as JSON, without what only we asked for."""
    shown = {name: value for name, value in row.items() if name == DELETED or not name.startswith("_")}
    return json.dumps(shown, default=_shown, ensure_ascii=False)[:RAW_TEXT_MOST]


def _shown(value: object) -> str:
    return "\\x" + value.hex() if isinstance(value, bytes) else str(value)
