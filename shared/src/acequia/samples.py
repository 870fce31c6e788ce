"""Reading SILVER in bounded memory: one object at a time, and of more rows than wanted a sample that a seed pins.

The trainer and the evaluator draw by it, on either side of the hold-out's cut.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import polars as pl

BINS = 65_536


def rows_of(path: Path) -> int:
    """Rows of a Parquet file, from its footer."""
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())


def time_of_rank(paths: Sequence[Path], event_time: str, rank: int) -> datetime:
    """The event time that stands at `rank` (from 0) when the rows of all files are sorted by it.

    Exact. Memory: one file's column. Each pass narrows the interval 65,536-fold, so that a year of microseconds takes
    three. ValueError where there are not that many rows.
    """
    low, high = _range_of(paths, event_time)
    below = 0
    """Rows before `low`."""
    while low < high:
        width = -(-(high - low + 1) // BINS)
        counts = [0] * BINS
        for path in paths:
            at = pl.col(event_time).to_physical()
            bins = (
                pl.scan_parquet(path)
                .filter(at.is_between(low, high))
                .select(((at - low) // width).alias("bin"))
                .group_by("bin")
                .len()
                .collect()
            )
            for number, count in bins.iter_rows():
                counts[number] += count
        number = 0
        while below + counts[number] <= rank:
            below += counts[number]
            number += 1
        low, high = low + number * width, min(high, low + (number + 1) * width - 1)
    return datetime.fromtimestamp(low // 1_000_000, UTC).replace(microsecond=low % 1_000_000)


def _range_of(paths: Sequence[Path], event_time: str) -> tuple[int, int]:
    at = pl.col(event_time).to_physical()
    ranges = [
        pl.scan_parquet(path).select(at.min().alias("low"), at.max().alias("high")).collect().row(0) for path in paths
    ]
    found = [(low, high) for low, high in ranges if low is not None]
    if not found:
        raise ValueError("no row has an event time")
    return min(low for low, _ in found), max(high for _, high in found)


def count_rows(paths: Sequence[Path], keep: pl.Expr) -> list[int]:
    """How many rows of each file `keep` is true for."""
    return [int(pl.scan_parquet(path).filter(keep).select(pl.len()).collect().item()) for path in paths]


def draw_rows(paths: Sequence[Path], columns: Sequence[str], keep: pl.Expr, *, at_most: int, seed: int) -> pl.DataFrame:
    """The rows that `keep` is true for, in the files' order; of more than `at_most`, one from each of as many strata.

    The strata are runs of neighbouring rows, so the sample is spread over all files and over time.
    """
    counts = count_rows(paths, keep)
    total = sum(counts)
    chosen = _strata(total, at_most, seed) if total > at_most else None
    frames: list[pl.DataFrame] = []
    begin = index = 0
    for path, count in zip(paths, counts, strict=True):
        end = begin + count
        scan = pl.scan_parquet(path).filter(keep).select(columns)
        if chosen is None:
            frames.append(scan.collect())
        else:
            first = index
            while index < len(chosen) and chosen[index] < end:
                index += 1
            if index > first:
                frames.append(scan.collect()[[position - begin for position in chosen[first:index]]])
        begin = end
    return pl.concat(frames)


def _strata(total: int, wanted: int, seed: int) -> list[int]:
    """`wanted` distinct positions below `total`, ascending: one at random from each of as many equal runs."""
    draw = random.Random(seed).random  # noqa: S311 - a sample, not a secret
    bounds = [i * total // wanted for i in range(wanted + 1)]
    return [low + int(draw() * (high - low)) for low, high in pairwise(bounds)]
