"""Text into typed columns: what does not read as the type is told apart from what is not there."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from acequia_ingestor.formats import REJECTED_SCHEMA, Chunk
from acequia_ingestor.formats._lines import reject

_FIRST = -62_135_596_800_000_000  # 0001-01-01 and 9999-12-31 in microseconds
_LAST = 253_402_300_799_999_999
_EXACT = 2**53
_KINDS: tuple[tuple[pl.DataType, str], ...] = (
    (pl.Datetime("us", "UTC"), "time"),
    (pl.Int64(), "whole number (64 bits)"),
    (pl.Int32(), "whole number (32 bits)"),
    (pl.Float64(), "number"),
    (pl.Date(), "date"),
)
_COMMON_TIMES = (("%Y-%m-%dT%H:%M:%S%.f%#z", True), ("%Y-%m-%d %H:%M:%S%.f%#z", True))
_TIMES = (
    _COMMON_TIMES[0],
    ("%Y-%m-%dT%H:%M:%S%.f", False),
    ("%Y-%m-%dT%H:%M%#z", True),
    ("%Y-%m-%dT%H:%M", False),
)


@dataclass(frozen=True, slots=True)
class Field:
    """`source`: the column's name in the file; `at`: its name in the frame of texts; `column`: the name it gets;
    `means`: the canonical column that the rule is named after; `read`: text into `dtype`, null where it does not read,
    for a format that spells its values in another way than `convert` takes."""

    source: str
    at: str
    column: str
    dtype: pl.DataType
    means: str
    lower: bool = False
    read: Callable[[pl.Series], pl.Series] | None = None
    quick: Callable[[pl.Expr], pl.Expr] | None = None
    """The spelling that a format's files have as a rule; what it leaves null is read by `read` or `convert`."""


def typed(
    records: pl.DataFrame, fields: Sequence[Field], nulls: Iterable[str], *, strip: bool = False
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`records` (`_line`, `_record`, `line` and texts) with a column for each field, and what is unparsable as
    `rejected`: rule `unparsable_<column>`, for the first field that does not read."""
    empty = list(nulls)

    def text(field: Field) -> pl.Expr:
        value = pl.col(field.at)
        if strip:
            value = value.str.strip_chars()
        value = pl.when(value.is_in(empty)).then(None).otherwise(value)
        return (value.str.to_lowercase() if field.lower else value).alias(field.column)

    # lazily, so that a text that is looked at twice is made once
    values = records.lazy().select(_quick(field, text(field)) for field in fields).collect()
    bad: dict[str, pl.Series] = {}
    for field in fields:
        column, source = values[field.column], records[field.at]
        if (field.dtype == pl.String and not field.read) or column.null_count() == source.null_count():
            continue
        # whether a text stands for null is asked only where it did not read
        unread = column.is_null() & source.is_not_null()
        left = records.filter(unread).select(text(field)).to_series()
        if left.null_count() == left.len():
            continue
        again = _again(field, left)
        positions = unread.arg_true()
        values = values.with_columns(column.clone().scatter(positions, again))
        broken = positions.filter(left.is_not_null() & again.is_null())
        if broken.len():
            bad[field.column] = _none_of(records).scatter(broken, values=True)
    rows = records.select("_line", "_record").hstack(values)
    if not bad:
        return rows, no_rejected()
    first = _none_of(records)
    rejected = []
    for field in fields:
        if (mask := bad.get(field.column)) is None:
            continue
        mine = mask & ~first
        first = first | mask
        reason = pl.format(
            "column '{}' holds '{}', which is no {}",
            pl.lit(field.source),
            pl.col("_text").str.head(100),
            pl.lit(_kind(field.dtype)),
        )
        unreadable = records.filter(mine).with_columns(text(field).alias("_text"))
        rejected.append(reject(unreadable, f"unparsable_{field.means}", reason))
    return rows.filter(~first), pl.concat(rejected)


def _none_of(records: pl.DataFrame) -> pl.Series:
    return pl.Series([False], dtype=pl.Boolean).new_from_index(0, records.height)


def _again(field: Field, left: pl.Series) -> pl.Series:
    """What could not be read as it stands in the file, without its padding, and in every other spelling."""
    at = left.clear(left.len()).cast(field.dtype)
    if field.quick is not None and field.dtype != pl.String:
        at = left.to_frame("t").select(field.quick(pl.col("t"))).to_series()
    if at.null_count() == left.null_count():
        return at
    return at.zip_with(at.is_not_null(), field.read(left) if field.read else convert(left, field.dtype))


def _kind(dtype: pl.DataType) -> str:
    return next((kind for known, kind in _KINDS if known == dtype), str(dtype))


def _quick(field: Field, text: pl.Expr) -> pl.Expr:
    """The common spelling of each type, as `field.column`; null where it is another one, or none. `text`: what the file
    says, without padding, null where it says nothing."""
    if field.dtype == pl.String and not field.read:
        return field.quick(text).alias(field.column) if field.quick else text
    column = pl.col(field.at)
    if field.quick is not None:
        value = field.quick(column)
    elif field.read is not None:
        value = pl.repeat(None, pl.len(), dtype=field.dtype)
    elif field.dtype == pl.Datetime("us", "UTC"):
        value = _of_epoch(column)
    elif field.dtype.is_float():
        value = column.cast(field.dtype, strict=False).fill_nan(None)  # `nan` may stand for null
    else:
        value = column.cast(field.dtype, strict=False)
    return value.alias(field.column)


def in_form(form: str, *, zoned: bool = False) -> Callable[[pl.Expr], pl.Expr]:
    """A reader of texts that are times in the one form `form`, with an offset (`zoned`) or without (UTC); null where a
    text is none."""

    def read(column: pl.Expr) -> pl.Expr:
        at = column.str.to_datetime(form, time_unit="us", time_zone="UTC" if zoned else None, strict=False)
        micros = at.to_physical()
        return pl.when(micros.is_between(_FIRST, _LAST)).then(micros).cast(pl.Datetime("us", "UTC"))

    return read


def _of_epoch(column: pl.Expr) -> pl.Expr:
    """Seconds since 1970, with a fraction, to the microsecond (a float's precision is 0.24 us until 2038 and later)."""
    micros = (column.cast(pl.Float64, strict=False) * 1_000_000).round().cast(pl.Int64, strict=False)
    return pl.when(micros.is_between(_FIRST, _LAST)).then(micros).cast(pl.Datetime("us", "UTC"))


def convert(text: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Every spelling that we take; null where the text is none of them.

    Times: seconds since 1970, or ISO 8601 with `T` or a space, with any offset or none (then UTC), to the minute or
    finer. Whole numbers may be written with a zero fraction (`80.0`, `1e3`).
    """
    text = text.str.strip_chars()
    if dtype == pl.Datetime("us", "UTC"):
        return _times(text)
    if dtype.is_integer():
        number = pl.col("n")
        whole = number.is_finite() & (number == number.floor()) & (number.abs() < _EXACT)
        floats = text.cast(pl.Float64, strict=False).alias("n").to_frame()
        return floats.select(pl.when(whole).then(number).cast(dtype, strict=False)).to_series()
    return text.cast(dtype, strict=False)


def _times(text: pl.Series) -> pl.Series:
    at = text.to_frame("t").select(_of_epoch(pl.col("t")).alias("at"))["at"]
    at = _iso(at, text, _COMMON_TIMES)
    if at.null_count() > text.null_count():
        tidy = (
            pl.col("t")
            .str.replace(r"\s*(?:UTC|GMT|z)$", "Z")
            .str.replace(r"^([0-9]{4}-[0-9]{2}-[0-9]{2})(?:t|\s+)", "${1}T")
            .str.replace(r"^([0-9]{4}-[0-9]{2}-[0-9]{2})$", "${1}T00:00")
            .str.replace(r"\s+([+-][0-9]{2}:?[0-9]{2})$", "${1}")
            .str.replace(",", ".", literal=True)
        )
        at = _iso(at, text.to_frame("t").select(tidy)["t"], _TIMES)
    return at.alias(text.name)


def _iso(at: pl.Series, text: pl.Series, formats: Sequence[tuple[str, bool]]) -> pl.Series:
    """`at`, and where it is null what `text` says in one of `formats` (and whether that has an offset)."""
    shaped = text.str.contains(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]").fill_null(value=False)
    for form, zoned in formats:
        open_ = at.is_null() & shaped
        if not open_.any():
            break
        parsed = text.filter(open_).str.to_datetime(
            form, time_unit="us", time_zone="UTC" if zoned else None, strict=False
        )
        if not zoned:
            parsed = parsed.dt.replace_time_zone("UTC")
        fits = parsed.to_physical().is_between(_FIRST, _LAST).fill_null(value=False)
        at = at.clone().scatter(open_.arg_true(), parsed.zip_with(fits, parsed.clear(parsed.len())))
    return at


def no_rejected() -> pl.DataFrame:
    return pl.DataFrame(schema=dict(REJECTED_SCHEMA))


def chunk(
    rows: pl.DataFrame,
    rejected: Sequence[pl.DataFrame],
    schema: Mapping[str, pl.DataType],
    skipped: Mapping[str, int],
) -> Chunk:
    """A chunk whose rows have exactly the canonical columns, in order; those that the source lacks are null."""
    canonical = rows.select(
        *(
            (pl.col(name) if name in rows.columns else pl.lit(None)).cast(dtype).alias(name)
            for name, dtype in schema.items()
        ),
        "_line",
        "_record",
    )
    refused = pl.concat(rejected) if rejected else no_rejected()
    if refused.height:
        refused = refused.sort("_line", maintain_order=True)
    return Chunk(canonical, refused, canonical.height + refused.height, {k: v for k, v in skipped.items() if v})
