"""What CSV formats have in common: one header line, a separator that it tells, quotes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.formats import Chunk, Head
from acequia_ingestor.formats._columns import chunk
from acequia_ingestor.formats._lines import (
    Block,
    blocks,
    faulty,
    few_enough,
    is_blank,
    numbered,
    split_quoted,
    unquote,
    without,
)

SEPARATORS = (",", ";", "\t", "|")
Finish = Callable[[pl.DataFrame, pl.DataFrame], Chunk]


@dataclass(frozen=True, slots=True)
class CsvHeader:
    line: str
    separator: str
    names: tuple[str, ...]

    @property
    def places(self) -> Mapping[str, str]:
        """Name of each column: its name in the frame of texts."""
        return {name: str(n) for n, name in enumerate(self.names)}


def header_of(line: str, wanted: Iterable[str]) -> CsvHeader:
    """The header that `line` is, by the separator that gives most of the wanted columns."""
    want = set(wanted)
    headers = []
    for separator in SEPARATORS:
        names = unquote(line, separator) or [line]
        headers.append(CsvHeader(line, separator, tuple(name.strip().lower() for name in names)))
    return max(headers, key=lambda h: (len(want & set(h.names)), len(h.names)))


def first_header(head: Head, required: Iterable[str]) -> CsvHeader | None:
    """The header of a CSV file that has the required columns; None where it is no such file."""
    want = set(required)
    for line in head.lines():
        if line.strip() and not line.startswith("#"):
            header = header_of(line, want)
            return header if want <= set(header.names) else None
    return None


def read_csv(
    source: Path | Iterable[Block],
    dataset: Dataset,
    required: Iterable[str],
    check: Callable[[CsvHeader], None],
    *,
    columns: Iterable[str] | None = None,
    headless: Callable[[str], CsvHeader | None] = lambda line: None,
    no_records: Callable[[CsvHeader], Mapping[str, pl.Expr]] = lambda header: {},
) -> Iterator[tuple[pl.DataFrame, CsvHeader, Finish]]:
    """Blocks of records split into texts (`0`, `1`, ..), with a function that makes the chunk of what came of them.

    `check` raises where the header lacks something. `columns`: those that are read; all where it is not given.
    `headless`: the header of a file whose first line is a record already. `no_records`: conditions on `line` of what is
    skipped, by reason, beside comments, blank lines and headers that come again.
    RejectedInput where the header says a column that is read twice (`duplicate_columns`) or has too many
    (`too_many_columns`).
    """
    header: CsvHeader | None = None
    read = None if columns is None else frozenset(columns)
    for block in blocks(source) if isinstance(source, Path) else source:
        lines = block.lines
        comment = pl.col("line").str.starts_with("#") & pl.col("fault").is_null()
        candidates, comments = without(lines, comment)
        candidates, blank = without(candidates, is_blank())
        skipped = {"comment": comments, "blank": blank}
        if header is None and candidates.height:
            if candidates["fault"][0] is not None:
                raise RejectedInput("unreadable", "the header line is no UTF-8 text")
            first = candidates["line"][0]
            header = headless(first) or header_of(first, required)
            few_enough(header.names)
            twice = sorted({name for name in header.names if name and header.names.count(name) > 1})
            if twice := [name for name in twice if read is None or name in read]:
                raise RejectedInput("duplicate_columns", f"the header has {', '.join(twice)} more than once")
            check(header)
        if header is None:
            nothing = numbered(lines.clear())
            yield nothing, CsvHeader("", ",", ()), _finish(dataset, [], skipped)
            continue
        for reason, condition in no_records(header).items():
            candidates, count = without(candidates, condition & pl.col("fault").is_null())
            skipped[reason] = skipped.get(reason, 0) + count
        # a header that comes again: files put together
        candidates, skipped["header"] = without(candidates, pl.col("line") == header.line)
        good, unreadable = faulty(numbered(candidates))
        texts, ragged = split_quoted(
            good,
            header.separator,
            len(header.names),
            wanted=None if read is None else [n for n, name in enumerate(header.names) if name in read],
            data=block.data_of(good),
        )
        yield texts, header, _finish(dataset, [unreadable, ragged], skipped)


def _finish(dataset: Dataset, rejected: list[pl.DataFrame], skipped: Mapping[str, int]) -> Finish:
    def done(rows: pl.DataFrame, broken: pl.DataFrame) -> Chunk:
        return chunk(rows, [*rejected, broken], dataset.schema, skipped)

    return done
