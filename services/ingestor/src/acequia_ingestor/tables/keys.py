"""All keys of a table compared with those that were moved, in bounded memory: what is gone, and what was missed.

Keys are text, as PostgreSQL writes them, with the number of the transaction that wrote the row (32 bits, as the row has
them): the same key of the same transaction is the same row, so that a row which changed without its cursor, or became
visible later than the lag allows, is found here at the latest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from acequia_ingestor.tables.asking import key_column

XID = "_xid"
SURE = "_sure"
KEYS_PER_PARTITION = 500_000
PARTITIONS_MOST = 256


def key_schema(parts: int) -> dict[str, pl.DataType]:
    """The columns of a file of keys."""
    return {**{key_column(n): pl.String() for n in range(parts)}, XID: pl.Int64()}


class RowFile:
    """Frames of one schema into one Parquet file, a row group for each."""

    def __init__(self, path: Path, schema: dict[str, pl.DataType]) -> None:
        self.path = path
        self.rows = 0
        self._columns = list(schema)
        self._schema = pl.DataFrame(schema=schema).to_arrow().schema
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", compression_level=1)

    def add(self, frame: pl.DataFrame) -> None:
        if frame.height:
            self._writer.write_table(frame.select(self._columns).to_arrow().cast(self._schema))
            self.rows += frame.height

    def close(self) -> Path:
        self._writer.close()
        return self.path


@dataclass(frozen=True, slots=True)
class Differences:
    """What one partition tells."""

    gone: pl.DataFrame
    """Keys that were moved and are no longer there."""
    missed: pl.DataFrame
    """Keys that are there, and whose rows were not moved as they are."""
    same: pl.DataFrame
    """Keys, with their transactions, whose rows were moved as they are."""


@dataclass(frozen=True, slots=True)
class Known:
    """A file of keys that were moved; `sure`: just so. Otherwise they may have been."""

    path: Path
    sure: bool
    rows: int


def compare(there: Iterable[pl.DataFrame], known: Sequence[Known], parts: int, folder: Path) -> Iterator[Differences]:
    """`there`: frames of all keys at the source; `known`: those that were moved, the oldest first; `parts`: a key's.

    Memory: a partition of about KEYS_PER_PARTITION keys, and a frame.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partitions = min(PARTITIONS_MOST, 1 + sum(file.rows for file in known) // KEYS_PER_PARTITION)
    schema = key_schema(parts)
    names = [key_column(n) for n in range(parts)]
    source = _spread(there, schema, partitions, folder / "there")
    moved_schema = {**schema, SURE: pl.Boolean()}
    moved = _spread(_moved(known), moved_schema, partitions, folder / "known")
    for at_source, before in zip(source, moved, strict=True):
        now = pl.read_parquet(at_source)
        was = pl.read_parquet(before).group_by(names, maintain_order=True).agg(pl.col(XID).filter(pl.col(SURE)).last())
        matched = now.join(was.rename({XID: "_was"}), on=names, how="left")
        is_same = (pl.col("_was") == pl.col(XID)).fill_null(False)
        yield Differences(
            gone=was.join(now, on=names, how="anti").select(names),
            missed=matched.filter(~is_same).select(names),
            same=matched.filter(is_same).select(*schema),
        )
        at_source.unlink()
        before.unlink()


def _moved(known: Sequence[Known]) -> Iterator[pl.DataFrame]:
    for file in known:
        reader = pq.ParquetFile(file.path)
        for batch in reader.iter_batches():
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame.with_columns(pl.lit(file.sure).alias(SURE))


def _spread(
    frames: Iterable[pl.DataFrame], schema: dict[str, pl.DataType], partitions: int, folder: Path
) -> list[Path]:
    """The rows of `frames`, in their order, in as many files, each key in just one."""
    folder.mkdir()
    files = [RowFile(folder / f"{n}.parquet", schema) for n in range(partitions)]
    keys = [name for name in schema if name.startswith("_key_")]
    for frame in frames:
        if partitions == 1:
            files[0].add(frame)
            continue
        place = (pl.struct(keys).hash(seed=7) % partitions).alias("_place")
        for (number,), rows in frame.with_columns(place).partition_by("_place", as_dict=True).items():
            files[int(str(number))].add(rows)
    return [file.close() for file in files]
