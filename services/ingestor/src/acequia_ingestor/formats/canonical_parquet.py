"""A dataset's canonical schema as Parquet: columns by name, in any order; further ones are ignored.

Types are converted where that loses nothing: any integer, whole floats (pandas makes them of integers with gaps), times
of any unit (finer than a microsecond is cut; without a zone means UTC), dates, texts as canonical CSV has them. Null:
null, NaN, and for texts what is null in canonical CSV. `_line` is the row's number, from 1. A row with a text of more
than 64 KiB is rejected (`value_too_long`).
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia.errors import RejectedInput, of_this_machine
from acequia_ingestor.formats import Chunk, Format, Head
from acequia_ingestor.formats._columns import Field, chunk, no_rejected, typed
from acequia_ingestor.formats._lines import numbered
from acequia_ingestor.formats.canonical_csv import NULLS

MAX_VALUE_BYTES = 64 * 2**10
_BATCH_ROWS = 131_072
_PIECE_BYTES = 16 * 2**20
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""What polars raises for a damaged file. A panic is no Exception: it would get past whoever decides about a message."""
_TIME = pl.Datetime("us", "UTC")


def detect(head: Head, dataset: Dataset) -> bool:
    return head.data.startswith(b"PAR1")


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    try:
        source = pl.scan_parquet(path)
        have = source.collect_schema()
    except UNREADABLE as error:
        if of_this_machine(error):
            raise
        raise RejectedInput("unreadable", f"no readable Parquet file: {str(error)[:300]}") from error
    if missing := [name for name in dataset.required if name not in have]:
        raise RejectedInput("missing_columns", f"the file lacks {', '.join(missing)}; it has {', '.join(have)[:500]}")
    names = [name for name in dataset.schema if name in have]
    for name in names:
        if have[name].is_nested():
            raise RejectedInput("unreadable", f"column {name} holds {str(have[name])[:100]}, not single values")
    first_row = 1
    batches = source.select(names).collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, engine="streaming")
    while True:
        try:
            batch = next(batches, None)
        except UNREADABLE as error:
            if of_this_machine(error):
                raise
            raise RejectedInput("unreadable", f"the Parquet file is broken: {str(error)[:300]}") from error
        if batch is None:
            return
        for piece in _pieces(batch):
            yield _chunk(piece, dataset, first_row)
            first_row += piece.height


def _pieces(batch: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """`batch` in pieces with few bytes of text each: in the file one text may stand for thousands of rows."""
    if not (sizes := _text_bytes(batch)):
        if batch.height:
            yield batch
        return
    # a text that is too long is not read at all
    row = pl.sum_horizontal(pl.when(size <= MAX_VALUE_BYTES).then(size).otherwise(0) for size in sizes.values())
    piece = batch.select((row.cast(pl.Int64).cum_sum() // _PIECE_BYTES).alias("piece"))["piece"]
    begin = 0
    for height in piece.rle().struct.field("len"):
        yield batch.slice(begin, height)
        begin += height


def _text_bytes(batch: pl.DataFrame) -> dict[str, pl.Expr]:
    """Column -> bytes of each of its texts, 0 for null; of the columns that hold texts."""
    sizes: dict[str, pl.Expr] = {}
    for name, dtype in batch.schema.items():
        if dtype == pl.Binary:
            sizes[name] = pl.col(name).bin.size()
        elif dtype == pl.String:
            sizes[name] = pl.col(name).str.len_bytes()
        elif dtype in (pl.Categorical, pl.Enum):
            sizes[name] = pl.col(name).cat.len_bytes()
    return {name: size.fill_null(0).cast(pl.Int64) for name, size in sizes.items()}


def _without_long_texts(records: pl.DataFrame, sizes: dict[str, pl.Expr]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`records` (with `_line`) without those that hold a text of more than 64 KiB, and these as `rejected`."""
    rejected: list[pl.DataFrame] = []
    for name, size in sizes.items():
        long = size > MAX_VALUE_BYTES
        reason = pl.format("column '{}' holds a text of {} bytes", pl.lit(name), size)
        bad = records.lazy().filter(long).select("_line", reason.alias("reason")).collect()
        if bad.height:
            records = records.filter(~long)
            rejected.append(bad.select("_line", pl.lit("value_too_long").alias("rule"), "reason", raw=pl.lit("")))
    return records, pl.concat(rejected) if rejected else no_rejected()


def _chunk(batch: pl.DataFrame, dataset: Dataset, first_row: int) -> Chunk:
    """Values of the right type as they are; the others by way of their text, which says what cannot be read."""
    records = numbered(batch).with_columns((pl.col("_record") + first_row).alias("_line"))
    records, long = _without_long_texts(records, _text_bytes(batch))
    records = records.with_columns(
        pl.struct(pl.all().exclude("_record", "_line")).struct.json_encode().alias("line")
        if any(_by_text(batch.schema[name], dataset.schema[name]) for name in batch.columns)
        else pl.lit(None, pl.String).alias("line"),
    )
    direct: list[pl.Expr] = []
    fields: list[Field] = []
    for name in batch.columns:
        dtype, wanted = batch.schema[name], dataset.schema[name]
        if not _by_text(dtype, wanted):
            direct.append(_direct(name, dtype, wanted, lower=name in dataset.lowered))
            continue
        fields.append(Field(name, f"text:{name}", f"typed:{name}", wanted, name, lower=name in dataset.lowered))
        value = pl.col(name)
        if dtype.is_float():
            value = value.fill_nan(None)
        if dtype == pl.Binary:
            value = value.bin.encode("hex")
        records = records.with_columns(value.cast(pl.String).alias(f"text:{name}"))
    if not fields:
        return chunk(records.select("_line", "_record", *direct), [long], dataset.schema, {})
    rows, broken = typed(records, fields, NULLS, strip=True)
    kept = records.join(rows, on=["_line", "_record"], how="semi", maintain_order="left") if broken.height else records
    whole = kept.select("_line", "_record", *direct).hstack(
        rows.select(pl.col(field.column).alias(field.source) for field in fields)
    )
    return chunk(whole, [long, broken], dataset.schema, {})


def _by_text(dtype: pl.DataType, wanted: pl.DataType) -> bool:
    """Whether a value has to be read, rather than only widened."""
    if wanted == pl.String:
        return True
    if wanted == _TIME:
        return not (isinstance(dtype, pl.Datetime) or dtype == pl.Date)
    if wanted.is_integer():
        return dtype not in (pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, wanted)
    return not (dtype.is_float() or dtype.is_integer())


def _direct(name: str, dtype: pl.DataType, wanted: pl.DataType, *, lower: bool) -> pl.Expr:
    value = pl.col(name)
    if wanted == _TIME:
        value = value.cast(pl.Datetime("us", getattr(dtype, "time_zone", None)), strict=False)
        if getattr(dtype, "time_zone", None) is None:
            return value.dt.replace_time_zone("UTC").alias(name)
        return value.dt.convert_time_zone("UTC").alias(name)
    if wanted.is_float():
        return value.cast(wanted).fill_nan(None).alias(name)
    return value.cast(wanted).alias(name)


FORMAT = Format("canonical_parquet", "Canonical columns as Parquet", detect, read)
