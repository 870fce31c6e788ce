"""A dataset's canonical schema as Parquet: columns by name, in any order; further ones are ignored.

Types are converted where that loses nothing: any integer, whole floats (pandas makes them of integers with gaps), times
of any unit (finer than a microsecond is cut; without a zone means UTC), dates, texts as canonical CSV has them. Null:
null, NaN, and for texts what is null in canonical CSV. `_line` is the row's number, from 1.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.formats import Chunk, Format, Head
from acequia_ingestor.formats._columns import Field, chunk, typed
from acequia_ingestor.formats._lines import numbered
from acequia_ingestor.formats.canonical_csv import NULLS

_BATCH_ROWS = 131_072
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
        raise RejectedInput("unreadable", f"no readable Parquet file: {str(error)[:300]}") from error
    if missing := [name for name in dataset.required if name not in have]:
        raise RejectedInput("missing_columns", f"the file lacks {', '.join(missing)}; it has {', '.join(have)[:500]}")
    names = [name for name in dataset.schema if name in have]
    for name in names:
        if have[name].is_nested():
            raise RejectedInput("unreadable", f"column {name} holds {have[name]}, not single values")
    first_row = 1
    batches = source.select(names).collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, engine="streaming")
    while True:
        try:
            batch = next(batches, None)
        except UNREADABLE as error:
            raise RejectedInput("unreadable", f"the Parquet file is broken: {str(error)[:300]}") from error
        if batch is None:
            return
        if batch.height:
            yield _chunk(batch, dataset, first_row)
            first_row += batch.height


def _chunk(batch: pl.DataFrame, dataset: Dataset, first_row: int) -> Chunk:
    """Values of the right type as they are; the others by way of their text, which says what cannot be read."""
    records = numbered(batch).with_columns(
        (pl.col("_record") + first_row).alias("_line"),
        pl.struct(pl.all().exclude("_record")).struct.json_encode().alias("line")
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
        return chunk(records.select("_line", "_record", *direct), [], dataset.schema, {})
    rows, broken = typed(records, fields, NULLS, strip=True)
    kept = records.join(rows, on=["_line", "_record"], how="semi", maintain_order="left") if broken.height else records
    whole = kept.select("_line", "_record", *direct).hstack(
        rows.select(pl.col(field.column).alias(field.source) for field in fields)
    )
    return chunk(whole, [broken], dataset.schema, {})


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
