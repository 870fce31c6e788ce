"""Table datasets: rows change and go, and the newest of each key is what counts.

Every row says its version (`_version`; the loads of a table are numbered, and so are their parts). Whatever order they
come in, and however often, the table ends with the newest row of each key, or with none where the newest word on it is
that it is gone: that word is kept as a tombstone, in a table of its own which readers do not see. Where a version is
equal, the newer variant of the SILVER object counts.

A load that is `full` replaces the table, in one commit, once all its parts are there: rows that later loads brought
stay, and everything older than it is history from then on (`FLOOR`).

Memory: the keys of the plan's rows (a plan has a bounded number), the keys of one file of the table, and one object.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
from pyiceberg.table import Table

from acequia.errors import AcequiaError
from acequia_lakehouse.given import Given, Order, Report, Skipped, parse_name
from acequia_lakehouse.register import readable, schemas_of
from acequia_lakehouse.tables import (
    ACT,
    PLAN,
    STEM,
    At,
    Change,
    LiveFile,
    Name,
    Silver,
    Tables,
    new_schema,
    parted,
    plan_snapshot,
)
from acequia_lakehouse.types import as_rows, taken

VERSION, DELETED = "_version", "_deleted"
LOAD_BITS = 20
"""A row's version is its load's number, shifted by so many bits, and its part."""
FLOOR = "acequia.full-load"
"""Property: number and variants of the full load that the table was last replaced by. Whatever is older is history."""
MISSING_MOST = 100
"""Missing parts of a load that are named."""
_RANK, _SOURCE, _ROW = "__rank", "__source", "__row"
_THEIRS, _THEIR_RANK = "__version", "__their_rank"


@dataclass(frozen=True, slots=True)
class FullLoad:
    """The parts of one full load that there are."""

    number: int
    parts: Mapping[int, Given]
    of: int | None

    @property
    def missing(self) -> list[int]:
        """Parts that have not come, as far as it is known how many there are."""
        return [n for n in range(1, (self.of or max(self.parts)) + 1) if n not in self.parts]

    @property
    def is_whole(self) -> bool:
        return self.of is not None and not self.missing

    @property
    def variants(self) -> list[str]:
        """In the order of the parts; one, where all are of one."""
        named = [self.parts[n].variant for n in sorted(self.parts)]
        return named[:1] if len(set(named)) == 1 else named

    @property
    def least(self) -> int:
        """The version that all its rows have, or a higher one."""
        return self.number << LOAD_BITS

    @property
    def beyond(self) -> int:
        """The least version of what later loads bring."""
        return (self.number + 1) << LOAD_BITS


def full_loads(given: Sequence[Given], order: Order) -> list[FullLoad]:
    """By number. Of a part that is there twice, the newest variant."""
    parts: dict[int, dict[int, Given]] = {}
    counts: dict[int, int] = {}
    for one in sorted(given, key=lambda g: order.rank(g.variant)):
        if one.load is not None and one.load.full:
            parts.setdefault(one.load.number, {})[one.load.part] = one
            if one.load.parts:
                counts[one.load.number] = one.load.parts
    return [FullLoad(number, parts[number], counts.get(number)) for number in sorted(parts)]


class Unfit(AcequiaError):
    """An object's values can't become the table's: the others of its plan are merged without it."""

    def __init__(self, one: Given, reason: str) -> None:
        super().__init__(f"{one.uri}: {reason}")
        self.one = one
        self.reason = f"its values do not fit the table: {reason}"


@dataclass(slots=True)
class _Merge:
    """One try to merge a plan into a table as it is now."""

    tables: Tables
    name: Name
    tombstones: Name
    key: tuple[str, ...]
    order: Order
    plan: str
    at: At
    report: Report
    changes: list[Given] = field(default_factory=list)
    held: list[pa.Table] = field(default_factory=list)
    """Rows that are yet to be written, together."""

    @property
    def most(self) -> int:
        """Rows of a file."""
        return self.tables.settings.file_rows

    @property
    def silver(self) -> Silver:
        return self.tables.silver

    # what comes

    def incoming(self, change: Change, floor: int) -> pl.DataFrame:
        """Of each key that the changes name, the newest row: key, version, rank, whether it is gone, where it lies."""
        frames = []
        for number, one in enumerate(self.changes):
            rows = _keys(self.silver.read(one.location, self._columns_of(one)), change.columns, self.key)
            frames.append(rows.with_columns(pl.lit(number, pl.Int64).alias(_SOURCE), self._rank_of(one.variant)))
        every = pl.concat(frames) if frames else _no_keys(change.columns, self.key)
        newest = every.sort(VERSION, _RANK, _SOURCE, _ROW).unique(self.key, keep="last", maintain_order=True)
        kept = newest.filter(pl.col(VERSION) >= floor << LOAD_BITS)
        self.report.rows_outdated += every.height - kept.height
        return kept

    def fit(self, change: Change, bringing: Sequence[Given]) -> None:
        """Unfit where an object has a column that can't become the table's, before anything is written."""
        for one in bringing:
            assert one.schema is not None
            given = taken(one.schema)
            odd = [f.name for f in change.columns if f.name in given.names and not change.takes(given.field(f.name))]
            if odd:
                try:
                    as_rows(self.silver.read(one.location, odd), pa.schema([change.columns.field(n) for n in odd]), {})
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise Unfit(one, str(error).partition("\n")[0]) from error

    def _whole(self, change: Change, one: Given) -> pa.Table:
        return as_rows(self.silver.read(one.location), change.columns, {STEM: one.name})

    def _columns_of(self, one: Given) -> list[str]:
        assert one.schema is not None
        return [n for n in (*self.key, VERSION, DELETED) if n in one.schema.names]

    def _rank_of(self, variant: str) -> pl.Expr:
        version, place = self.order.rank(variant)
        return pl.lit((version << 32) + place, pl.Int64).alias(_RANK)

    def _with_ranks(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`_stem` as the rank of its variant."""
        names = rows[STEM].unique().to_list()
        ranks = {}
        for name in names:
            version, place = self.order.rank(parse_name(name or "")[1])
            ranks[name] = (version << 32) + place
        return rows.with_columns(
            pl.col(STEM).replace_strict(list(ranks), list(ranks.values()), return_dtype=pl.Int64).alias(_RANK)
        ).drop(STEM)

    # tombstones

    def graves(self, table: Table | None, keys: pl.DataFrame, beyond: int | None) -> pl.DataFrame:
        """The newest tombstone of each of these keys, and (`beyond`) all of this version or a higher one."""
        if table is None:
            return _no_graves(keys, self.key)
        change = Change(table)
        frames = []
        for file in self.tables.files(table, (*self.key, VERSION)):
            if beyond is None and not _near(file, table, keys, self.key):
                continue
            rows = self._with_ranks(_frame(change.read(file), keys, self.key))
            near = rows.join(keys.select(self.key), on=self.key, how="semi", nulls_equal=True)
            if beyond is not None:
                near = pl.concat([near, rows.filter(pl.col(VERSION) >= beyond).select(near.columns)])
            frames.append(near)
        if not frames:
            return _no_graves(keys, self.key)
        every = pl.concat(frames)
        return every.sort(VERSION, _RANK).unique(self.key, keep="last").select(*self.key, VERSION, _RANK)

    def bury(self, table: Table | None, gone: pl.DataFrame, change: Change) -> None:
        """Write tombstones: before the table loses the rows, so that nothing older comes back in between."""
        if not gone.height:
            return
        if table is None:
            fields = [change.columns.field(n) for n in (*self.key, VERSION, STEM)]
            table = self.tables.find_or_make(self.tombstones, pa.schema(fields))
        grave = Change(table)
        named = pl.Series(STEM, [one.name for one in self.changes], pl.String)
        rows = gone.select(*self.key, VERSION, named.gather(gone[_SOURCE]).alias(STEM))
        grave.write(as_rows(rows.to_arrow(), grave.columns, {}).sort_by([(n, "ascending") for n in self.key]))
        grave.commit({PLAN: self.plan, ACT: "tombstones"})
        self.at("lakehouse.after_tombstones")

    # the table's files

    def settle(
        self, change: Change, files: Sequence[LiveFile], table: Table, news: pl.DataFrame, swap: FullLoad | None
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Take out of the table's files what is outdated. Gives what of `news` is newer than the table, and the keys
        that stay in it beside a full load."""
        stays: list[pl.DataFrame] = []
        for file in files:
            if swap is None and not _near(file, table, news, self.key):
                continue
            rows = self._with_ranks(_frame(change.read(file, [*self.key, VERSION, STEM]), news, self.key))
            rows = rows.with_row_index(_ROW)
            if swap is not None:
                rows = rows.filter(pl.col(VERSION) >= swap.beyond)
            theirs = news.select(*self.key, pl.col(VERSION).alias(_THEIRS), pl.col(_RANK).alias(_THEIR_RANK), DELETED)
            both = rows.join(theirs, on=self.key, how="left", nulls_equal=True)
            beaten = pl.col(_THEIRS).is_not_null() & _less(pl.col(VERSION), pl.col(_RANK), _THEIRS, _THEIR_RANK)
            kept = both.filter(~beaten)
            lost = both.filter(beaten)
            self.report.rows_updated += int(lost.select((~pl.col(DELETED)).sum()).item())
            self.report.rows_deleted += int(lost.select(pl.col(DELETED).sum()).item())
            standing = kept.filter(pl.col(_THEIRS).is_not_null())
            if standing.height:
                equal = (pl.col(_THEIRS) == pl.col(VERSION)) & (pl.col(_THEIR_RANK) == pl.col(_RANK))
                self.report.rows_outdated += standing.height - int(standing.select(equal.sum()).item())
                news = news.join(standing.select(self.key), on=self.key, how="anti", nulls_equal=True)
            if swap is not None:
                stays.append(kept.select(self.key))
            if kept.height == file.rows:
                continue
            change.remove(file)
            if kept.height:
                rest = change.read(file).take(kept[_ROW].sort().to_arrow())
                if kept.height > self.most // 2:
                    change.write(rest)
                else:
                    self._hold(change, rest)
        if swap is not None:  # the parts of the load come first
            self._flush(change)
        none = _no_keys(change.columns, self.key).select(self.key)
        return news, pl.concat(stays) if stays else none

    # rows that come in

    def bring_load(self, change: Change, swap: FullLoad, over: pl.DataFrame) -> None:
        """Write the rows of a full load, but for those whose keys are in `over`: later loads said more of these."""
        numbers = sorted(swap.parts)
        spans: list[tuple[int, Any, Any]] = []
        for number in reversed(numbers):
            one = swap.parts[number]
            keys = _keys(self.silver.read(one.location, self._columns_of(one)), change.columns, self.key)
            keys = keys.filter(~pl.col(DELETED)).sort(VERSION, _ROW).unique(self.key, keep="last")
            kept = keys.join(over, on=self.key, how="anti", nulls_equal=True)
            least, greatest = keys[self.key[0]].min(), keys[self.key[0]].max()
            for later, low, high in spans:
                # parts of one read in the order of the key do not overlap: then there is nothing to compare
                if least is None or low is None or (low <= greatest and high >= least):
                    other = swap.parts[later]
                    theirs = _keys(self.silver.read(other.location, self._columns_of(other)), change.columns, self.key)
                    kept = kept.join(theirs.select(self.key), on=self.key, how="anti", nulls_equal=True)
            spans.append((number, least, greatest))
            if kept.height:
                self._hold(change, self._whole(change, one).take(kept[_ROW].sort().to_arrow()))
                self._flush(change)
                self.report.rows_added += kept.height

    def bring_changes(self, change: Change, news: pl.DataFrame) -> None:
        """Write the rows that are new or changed, an object at a time."""
        for number, one in enumerate(self.changes):
            chosen = news.filter((pl.col(_SOURCE) == number) & ~pl.col(DELETED))[_ROW].sort()
            if len(chosen):
                self._hold(change, self._whole(change, one).take(chosen.to_arrow()))
                self.report.rows_added += len(chosen)
        self._flush(change)

    def _hold(self, change: Change, rows: pa.Table) -> None:
        """Few rows are written together with others: a merge leaves no more files than it must."""
        self.held.append(rows)
        if sum(held.num_rows for held in self.held) >= self.most:
            self._flush(change)

    def _flush(self, change: Change) -> None:
        """Sorted by the key, so that later merges find what they look for in few files."""
        if self.held:
            rows = pa.concat_tables(self.held).sort_by([(n, "ascending") for n in self.key])
            self.held.clear()
            for piece in parted(rows, self.most):
                change.write(piece)


def merge(
    tables: Tables,
    name: Name,
    tombstones: Name,
    key: tuple[str, ...],
    given: Sequence[Given],
    order: Order,
    plan: str,
    at: At,
) -> Report:
    """Merge the plan's objects into the table, in one commit. Outdone where somebody else changed it meanwhile."""
    unfit: dict[str, str] = {}
    while True:
        report = Report(".".join(name), rows_in=sum(g.rows or 0 for g in given))
        report.skipped += [Skipped(uri, reason) for uri, reason in unfit.items()]
        rest = [g for g in given if g.uri not in unfit]
        usable = _with_columns(readable(tables.silver, rest, report), key, report)
        changes = [g for g in usable if g.load is None or not g.load.full]
        try:
            _merge(_Merge(tables, name, tombstones, key, order, plan, at, report, changes), usable)
        except Unfit as error:
            unfit[error.one.uri] = error.reason
        else:
            return report


def _merge(task: _Merge, usable: Sequence[Given]) -> None:
    tables, report, key = task.tables, task.report, task.key
    table = tables.find(task.name)
    floor, variants = floor_of(table)
    swap = _choose(full_loads(usable, task.order), floor, variants, task.order, report)
    if swap is None and not task.changes:
        report.snapshot = plan_snapshot(table, task.plan) if table is not None else None
        return
    bringing = [*task.changes, *(swap.parts.values() if swap else ())]
    schemas = [pa.schema([f for f in schema if f.name != DELETED]) for schema in schemas_of(bringing)]
    if table is None:
        table = tables.find_or_make(task.name, new_schema(schemas))
    change = Change(table)
    report.columns_added = change.evolve(schemas)
    task.fit(change, bringing)
    # read after the table was: whoever buries a key makes a snapshot of the table afterwards, and so outdoes us
    graveyard = tables.find(task.tombstones)
    news = task.incoming(change, swap.number if swap else floor)
    dying = bool(news[DELETED].any())
    graves = task.graves(graveyard, news, swap.beyond if swap else None)
    news, unburied = _against(news, graves, key, report)
    task.bury(graveyard, unburied, change)
    news, stays = task.settle(change, tables.files(table, (*key, VERSION)), table, news, swap)
    if swap is not None:
        over = [stays, news.select(key), graves.filter(pl.col(VERSION) >= swap.beyond).select(key)]
        task.bring_load(change, swap, pl.concat(over))
        change.set_properties({FLOOR: json.dumps({"load": swap.number, "variants": swap.variants})})
    task.bring_changes(change, news)
    task.at("lakehouse.after_files")
    report.snapshot = plan_snapshot(table, task.plan)
    moved = change.adds or change.removes or swap is not None or report.columns_added
    if moved or (dying and report.snapshot is None):
        report.copied = len(bringing)
        report.snapshot = change.commit({PLAN: task.plan, ACT: "replace" if swap else "merge"})
    else:
        report.already = len(task.changes)


def floor_of(table: Table | None) -> tuple[int, list[str]]:
    """The full load that the table was last replaced by, and its variants; 0: by none."""
    said = json.loads(table.properties.get(FLOOR, "{}")) if table is not None else {}
    return int(said.get("load", 0)), list(said.get("variants", ()))


def _choose(
    loads: Sequence[FullLoad], floor: int, variants: Sequence[str], order: Order, report: Report
) -> FullLoad | None:
    """The full load that the table is to be replaced by: the latest whole one, if the table has no later one."""
    chosen: FullLoad | None = None
    states: dict[int, str] = {}
    for load in loads:
        if load.number < floor:
            states[load.number] = "older"
        elif not load.is_whole:
            states[load.number] = "staged"
        elif load.number == floor and not _newer(load.variants, variants, order):
            states[load.number] = "stands"
        else:
            if chosen is not None:
                states[chosen.number] = "older"
            chosen = load
            states[load.number] = "replaced"
    for load in loads:
        here = load.missing if states[load.number] == "staged" else []
        report.loads.append(
            {"number": load.number, "state": states[load.number], "parts": load.of, "missing": here[:MISSING_MOST]}
        )
        report.older += len(load.parts) if states[load.number] == "older" else 0
        report.already += len(load.parts) if states[load.number] == "stands" else 0
    return chosen


def _newer(ours: Sequence[str], theirs: Sequence[str], order: Order) -> bool:
    """Whether the same load is there in newer variants, and in no older one."""
    most = max(len(ours), len(theirs))
    mine, known = (list(v) * most if len(v) == 1 else list(v) for v in (ours, theirs))
    pairs = zip(mine, known, strict=False)
    ranks = [(order.rank(one), order.rank(other)) for one, other in pairs]
    return any(one > other for one, other in ranks) and not any(one < other for one, other in ranks)


def _with_columns(given: Sequence[Given], key: tuple[str, ...], report: Report) -> list[Given]:
    found = []
    for one in given:
        assert one.schema is not None
        if missing := [n for n in (*key, VERSION) if n not in one.schema.names]:
            report.skipped.append(Skipped(one.uri, f"it has no column {', '.join(missing)}"))
        else:
            found.append(one)
    return found


def _keys(rows: pa.Table, columns: pa.Schema, key: tuple[str, ...]) -> pl.DataFrame:
    """Key, version, whether it is gone, and the place of each row."""
    wanted = pa.schema([*(columns.field(n) for n in key), (VERSION, pa.int64()), (DELETED, pa.bool_())])
    frame = _polars(as_rows(rows, wanted, {}))
    return frame.with_columns(pl.col(VERSION).fill_null(0), pl.col(DELETED).fill_null(value=False)).with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias(_ROW)
    )


def _no_keys(columns: pa.Schema, key: tuple[str, ...]) -> pl.DataFrame:
    empty = _keys(columns.empty_table(), columns, key)
    return empty.with_columns(pl.lit(0, pl.Int64).alias(_SOURCE), pl.lit(0, pl.Int64).alias(_RANK))


def _no_graves(keys: pl.DataFrame, key: tuple[str, ...]) -> pl.DataFrame:
    return keys.clear().select(*key, VERSION, _RANK)


def _frame(rows: pa.Table, like: pl.DataFrame, key: tuple[str, ...]) -> pl.DataFrame:
    """Rows whose keys have the types of `like`."""
    return _polars(rows).with_columns(pl.col(n).cast(like.schema[n]) for n in key)


def _polars(rows: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _less(version: pl.Expr, rank: pl.Expr, other: str, other_rank: str) -> pl.Expr:
    """Whether a row is older than the other of its key."""
    return (version < pl.col(other)) | ((version == pl.col(other)) & (rank < pl.col(other_rank)))


def _against(
    news: pl.DataFrame, graves: pl.DataFrame, key: tuple[str, ...], report: Report
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What of `news` is newer than the tombstones; and those that are gone and have no tombstone that says so yet.

    What is gone by the very tombstone that stands stays: the table may not know yet.
    """
    newest = graves.sort(VERSION, _RANK).unique(key, keep="last")
    theirs = newest.select(*key, pl.col(VERSION).alias(_THEIRS), pl.col(_RANK).alias(_THEIR_RANK))
    both = news.join(theirs, on=key, how="left", nulls_equal=True)
    buried = pl.col(_THEIRS).is_not_null()
    same = buried & (pl.col(VERSION) == pl.col(_THEIRS)) & (pl.col(_RANK) == pl.col(_THEIR_RANK))
    newer = ~buried | ~(_less(pl.col(VERSION), pl.col(_RANK), _THEIRS, _THEIR_RANK) | same)
    kept = both.filter(newer | (same & pl.col(DELETED)))
    report.rows_outdated += both.height - kept.height
    return kept.select(news.columns), kept.filter(pl.col(DELETED) & newer).select(news.columns)


def _near(file: LiveFile, table: Table, news: pl.DataFrame, key: tuple[str, ...]) -> bool:
    """Whether the file may hold one of these keys."""
    first = news[key[0]]
    if not len(first):
        return False
    return bool(first.null_count()) or file.may_hold(table.schema().find_field(key[0]), first.min(), first.max())
