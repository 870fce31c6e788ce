"""How the columns of a table become those of RAW: what is asked of the source, and what type it has here.

Values keep their meaning: numeric is a Decimal where its digits fit and text where it has no bounds, JSON, enums,
UUIDs and all else are the text that PostgreSQL writes, arrays are lists. An infinite time is the first moment of the
year 1 or the last of 9999. What a type can't hold (NaN as a number, a time of 24:00, arrays of arrays, numbers with
more digits) makes its row unreadable: it is rejected by the rule `unparsable_<column>`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import polars as pl

from acequia.datasets import DELETED, VERSION, Dataset, widens
from acequia.errors import RejectedInput
from acequia_ingestor.tables.connect import quoted

RESERVED = frozenset({VERSION, DELETED, "_line", "_xid", "_cursor", "_unreadable", "rule", "rules"})
"""Names of columns that the source may have, and RAW has for itself: they are left out."""
_DIGITS = 38
_PLAIN: Mapping[str, pl.DataType] = {
    "bool": pl.Boolean(),
    "int2": pl.Int16(),
    "int4": pl.Int32(),
    "int8": pl.Int64(),
    "float4": pl.Float32(),
    "float8": pl.Float64(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us"),
    "timestamptz": pl.Datetime("us", "UTC"),
    "time": pl.Time(),
    "bytea": pl.Binary(),
    "text": pl.String(),
    "varchar": pl.String(),
}
_INFINITE = {
    "date": ("0001-01-01", "9999-12-31"),
    "timestamp": ("0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"),
    "timestamptz": ("0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"),
}
TIMES = frozenset({"timestamp", "timestamptz", "date"})


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column as the source describes it."""

    name: str
    sql: str
    """The expression that gives it."""
    type: str
    """As the source writes it: `numeric(12,2)`."""
    base: str
    """Its bare type's name; empty for one that an extension or a person made."""
    element: str = ""
    """Of an array: its elements' bare type."""
    typmod: int = -1
    not_null: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """How a column is asked for, and what comes of it."""

    name: str
    sql: str
    asked: pl.DataType
    """The type that the answer has."""
    dtype: pl.DataType
    """The type that it has in RAW."""
    unreadable: str | None = None
    """SQL that is true where the value can't be held."""


class Change(StrEnum):
    REMOVED = "removed"
    RETYPED = "retyped"
    WIDER = "wider"


@dataclass(frozen=True, slots=True)
class Layout:
    """All columns of a load, as RAW has them but for `_version` and `_deleted`."""

    canonical: tuple[Reading, ...]
    extra: tuple[Reading, ...]
    """What the source has beyond the canonical columns, in the order in which it came to be known."""
    added: tuple[str, ...] = ()
    """Those of them that are new."""
    changed: Mapping[str, Change] = field(default_factory=dict)

    @property
    def readings(self) -> tuple[Reading, ...]:
        return self.canonical + self.extra

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """RAW's columns: canonical, `_version`, `_deleted`, extra."""
        own = {VERSION: pl.Int64(), DELETED: pl.Boolean()}
        return {r.name: r.dtype for r in self.canonical} | own | {r.name: r.dtype for r in self.extra}


def lay_out(dataset: Dataset, found: Sequence[SourceColumn], known: Mapping[str, str]) -> Layout:
    """Which columns are read, and how. `known`: the extra columns of earlier loads, with their types at the source.

    RejectedInput (`unknown_column`) where the key or the cursor is missing, or has another type.
    """
    assert dataset.table is not None
    by_name = {column.name: column for column in found}
    changed: dict[str, Change] = {}
    canonical: list[Reading] = []
    for name, expected in dataset.schema.items():
        if (own := dataset.table.columns.get(name)) is not None:
            by_name[name] = made_by(name, own, expected)
        column = by_name.get(name)
        if column is None:
            changed[name] = Change.REMOVED
            canonical.append(_nothing(name, expected))
            continue
        reading, change = read_as(column, expected)
        if change is Change.RETYPED and reading is None:
            reading = _nothing(name, expected)
        assert reading is not None
        if change is not None:
            changed[name] = change
        canonical.append(reading)
    needed = [*dataset.key, *([dataset.table.cursor] if dataset.table.cursor else [])]
    if lost := [name for name in needed if changed.get(name, Change.WIDER) is not Change.WIDER]:
        raise RejectedInput(
            "unknown_column",
            f"{dataset.table.relation} has no column {', '.join(lost)} of the type that {dataset.name} expects: its "
            "rows can't be told apart. Say in the dataset's file where it is (Table.columns)",
        )
    named = [n for n in known if n not in dataset.schema]
    new = [c.name for c in found if c.name not in dataset.schema and c.name not in known and c.name not in RESERVED]
    extra: list[Reading] = []
    for name in [*named, *new]:
        column = by_name.get(name)
        if column is None:
            changed[name] = Change.REMOVED
            continue
        reading, _ = read_as(column, None)
        assert reading is not None
        if name in known and known[name] != column.type:
            before, _ = read_as(_described(name, quoted(name), known[name]), None)
            if before is not None and before.dtype != reading.dtype:
                changed[name] = Change.WIDER if widens(reading.dtype, before.dtype) else Change.RETYPED
                if changed[name] is Change.RETYPED:
                    continue
        extra.append(reading)
    return Layout(tuple(canonical), tuple(extra), tuple(new), changed)


def made_by(name: str, sql: str, dtype: pl.DataType) -> SourceColumn:
    """A canonical column that an expression of the dataset's gives: as the type that is expected of it."""
    return _described(name, f"({sql})::{pg_type(dtype)}", pg_type(dtype))


def pg_type(dtype: pl.DataType) -> str:
    """The type at the source that is nearest to ours."""
    match dtype:
        case pl.Decimal():
            return f"numeric({dtype.precision},{dtype.scale})"
        case pl.Datetime():
            return "timestamptz" if dtype.time_zone else "timestamp"
        case pl.List():
            return pg_type(pl.Series(dtype=dtype.inner).dtype) + "[]"
    return next((name for name, plain in _PLAIN.items() if plain == dtype), "text")


_LONG = {
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "real": "float4",
    "double precision": "float8",
    "boolean": "bool",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
    "time without time zone": "time",
    "character varying": "varchar",
}


def _described(name: str, sql: str, type: str) -> SourceColumn:
    """A column of a type that is known by its text only."""
    bare, array = type.removesuffix("[]"), type.endswith("[]")
    head, _, inside = bare.partition("(")
    short = _LONG.get(head.strip(), head.strip())
    typmod = -1
    if short == "numeric" and inside:
        precision, _, scale = inside.rstrip(")").partition(",")
        typmod = (int(precision) << 16 | int(scale or 0) & 0x7FF) + 4
    known = short if short in _PLAIN or short == "numeric" else ""
    return SourceColumn(name, sql, type, base="" if array else known, element=known if array else "", typmod=typmod)


def _nothing(name: str, dtype: pl.DataType) -> Reading:
    return Reading(name, "NULL::text", pl.String(), dtype)


def read_as(  # noqa: PLR0911 - a table of kinds
    column: SourceColumn, expected: pl.DataType | None
) -> tuple[Reading | None, Change | None]:
    """How to read a column that is to become `expected` (None: whatever it is), and how it differs from that.

    No reading: it is of another kind altogether.
    """
    if column.element:
        inner = pl.Series(dtype=expected.inner).dtype if isinstance(expected, pl.List) else None
        if expected is not None and inner is None:
            return _as_text(column) if expected == pl.String() else None, Change.RETYPED
        return _array(column, inner)
    if column.base == "numeric":
        return _number(column, expected)
    if column.base not in _PLAIN:
        if expected not in (None, pl.String()):
            return None, Change.RETYPED
        return _as_text(column), None
    found = _PLAIN[column.base]
    sql, unreadable = column.sql, None
    if (ends := _INFINITE.get(column.base)) is not None:
        low, high = (f"'{end}'::{column.base}" for end in ends)
        sql = f"CASE {sql} WHEN 'infinity' THEN {high} WHEN '-infinity' THEN {low} ELSE {sql} END"
    if column.base == "time":
        unreadable = f"{column.sql} = '24:00:00'"
    reading = Reading(column.name, sql, found, expected or found, unreadable)
    if expected is None or found == expected or _holds(expected, found):
        return reading, None
    if widens(found, expected):
        return Reading(column.name, sql, found, found, unreadable), Change.WIDER
    return None, Change.RETYPED


def _as_text(column: SourceColumn) -> Reading:
    return Reading(column.name, f"{column.sql}::text", pl.String(), pl.String())


def _holds(wanted: pl.DataType, found: pl.DataType) -> bool:
    """Whether each value of the type `found` has its equal in `wanted`."""
    whole: Mapping[type[pl.DataType], int] = {pl.Int16: 5, pl.Int32: 10, pl.Int64: 19}
    if isinstance(wanted, pl.Decimal):
        return type(found) in whole and wanted.precision - wanted.scale >= whole[type(found)]
    if wanted == pl.Float64():
        return isinstance(found, pl.Int16 | pl.Int32 | pl.Float32)
    return widens(wanted, found)


def bounds(typmod: int) -> tuple[int, int] | None:
    """Precision and scale of a numeric, where it has some that a Decimal can have."""
    if typmod < 4:
        return None
    precision, scale = (typmod - 4) >> 16, (typmod - 4) & 0x7FF
    if scale >= 1024:
        scale -= 2048
    return (precision, scale) if 0 <= scale <= precision <= _DIGITS else None


def _number(column: SourceColumn, expected: pl.DataType | None) -> tuple[Reading | None, Change | None]:
    has = bounds(column.typmod)
    natural = pl.Decimal(*has) if has else None
    if expected is None or expected == pl.String():
        target = natural if expected is None else None
        if target is None:
            return _as_text(column), None
    elif not isinstance(expected, pl.Decimal):
        return None, Change.RETYPED
    else:
        target = expected
    change: Change | None = None
    if natural is not None and isinstance(expected, pl.Decimal) and natural != expected:
        if widens(natural, expected):
            target, change = natural, Change.WIDER
        elif not _fits(natural, expected):
            change = Change.RETYPED  # read all the same: what does not fit is rejected row by row
    assert target is not None
    bad = _bad_number(column.sql, target, natural)
    return Reading(
        column.name, f"CASE WHEN {bad} THEN NULL ELSE {column.sql}::text END", pl.String(), target, bad
    ), change


def _fits(found: pl.Decimal, wanted: pl.Decimal) -> bool:
    return found.scale <= wanted.scale and found.precision - found.scale <= wanted.precision - wanted.scale


def _bad_number(sql: str, target: pl.Decimal, natural: pl.Decimal | None) -> str:
    """SQL that is true of a number that `target` can't hold exactly."""
    if natural is not None and _fits(natural, target):
        return f"{sql} = 'NaN'"
    # NaN and the infinities are greater, or less, than any bound
    most = 10 ** (target.precision - target.scale)
    return f"({sql} >= {most} OR {sql} <= -{most} OR {sql} <> round({sql}, {target.scale}))"


def _array(column: SourceColumn, inner: pl.DataType | None) -> tuple[Reading | None, Change | None]:
    nested = f"array_ndims({column.sql}) > 1"
    element = SourceColumn(column.name, "e", column.element, column.element, typmod=column.typmod)
    if column.element not in _PLAIN and column.element != "numeric":
        if inner not in (None, pl.String()):
            return None, Change.RETYPED
        sql = f"CASE WHEN {nested} THEN NULL ELSE {column.sql}::text[] END"
        return Reading(column.name, sql, pl.List(pl.String()), pl.List(pl.String()), nested), None
    reading, change = read_as(element, inner)
    if reading is None:
        return None, change
    bad = nested
    if reading.unreadable is not None:
        bad = f"({nested} OR EXISTS (SELECT FROM unnest({column.sql}) AS u (e) WHERE {reading.unreadable}))"
    cast = "text[]" if reading.asked == pl.String() else None
    if column.element in _INFINITE:
        given = f"(SELECT array_agg({reading.sql} ORDER BY n) FROM unnest({column.sql}) WITH ORDINALITY AS u (e, n))"
        given = f"CASE WHEN cardinality({column.sql}) = 0 THEN {column.sql} ELSE {given} END"
    else:
        given = f"{column.sql}::{cast}" if cast else column.sql
    sql = f"CASE WHEN {bad} THEN NULL ELSE {given} END"
    return Reading(column.name, sql, pl.List(reading.asked), pl.List(reading.dtype), bad), change
