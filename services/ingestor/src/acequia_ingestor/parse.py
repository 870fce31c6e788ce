"""A file of one of the known formats, or what a source drew, in; RAW parts in the dataset's canonical schema out.

Pure and synchronous. Rows are accounted for exactly: `rows_in = sum(part.rows) + sum(rejected.values())`. A row is a
record of the format's kind; comments, headers and blank lines are `lines_skipped`. Only what cannot be read as a
record is rejected here (a ragged line, a number that is none, broken JSON); a value that reads but makes no sense
(negative bytes, a bad address) goes through to RAW, where the contract finds it.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia.work import RejectedWhole
from acequia_ingestor._spool import Spool
from acequia_ingestor.csv_options import read_csv_options
from acequia_ingestor.decompress import unpack
from acequia_ingestor.detect import resolve_format
from acequia_ingestor.formats import REJECTED_SCHEMA, Chunk, Reading, load_formats

ROWS_PER_PART = 1_000_000
MAX_RATIO = 200.0
MAX_BYTES = 64 * 2**30


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """All that changes what a file's bytes are read as. Its digest, with the bytes' own, names the claim.

    `format` is better resolved first (`detect.resolve_format`), so that naming the format that would have been
    detected anyway is the same claim.
    """

    dataset: str
    format: str | None = None
    csv: Mapping[str, str] = field(default_factory=dict)
    """How a CSV file that people made is read (`Reading.options`)."""
    named: Mapping[str, str] = field(default_factory=dict)
    """What the file's name tells of its rows (`told_by_name`)."""

    def claim_digest(self, content_sha256: str) -> str:
        """Hex sha256 over the content's sha256 and these options."""
        given = {name: value for name, value in asdict(self).items() if name in ("dataset", "format") or value}
        options = json.dumps(given, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{content_sha256}\n{options}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PartFile:
    """One RAW object to be: Parquet, the canonical schema and `_line` (Int64, from 1).

    Part `number` (from 1) holds the source's records (number-1)*rows_per_part+1 .. number*rows_per_part without the
    unparsable ones; a part of which nothing is left is not written, so that numbers may have gaps.
    """

    number: int
    path: Path
    rows: int
    time_range: tuple[str, str] | None
    """ISO 8601 UTC of the first and the last event; None where no row has a timestamp."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a source gave. `parts` is never empty: a source without a row raises `NoRows`."""

    parts: Sequence[PartFile]
    rows_in: int
    format: str
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Unparsable records by rule."""
    rejected_rows: Path | None = None
    """Parquet, in the source's order: `_line` (Int64), `rule`, `reason`, `raw` (its text, cut at 64 KiB)."""
    lines_skipped: Mapping[str, int] = field(default_factory=dict)
    """Lines that are no records, by reason (`comment`, `header`, `blank`)."""
    reading: Reading | None = None
    """How it was read, where its format leaves that open."""


class NoRows(RejectedWhole):
    """The source was read to its end and no record of it can be used (rule `no_rows`): all of them are counted."""

    def __init__(
        self,
        reason: str,
        *,
        rows_in: int,
        rejected: Mapping[str, int],
        rejected_rows: Path | None,
        lines_skipped: Mapping[str, int],
        format: str,
    ) -> None:
        super().__init__("no_rows", reason, rows_in=rows_in, rejected=rejected)
        self.rejected_rows = rejected_rows
        self.lines_skipped = dict(lines_skipped)
        self.format = format


def parse_file(
    source: Path,
    file_name: str,
    dataset: Dataset,
    format: str | None,
    out: Path,
    *,
    rows_per_part: int = ROWS_PER_PART,
    max_ratio: float = MAX_RATIO,
    max_bytes: int = MAX_BYTES,
    max_rows: int | None = None,
    reading: Reading | None = None,
) -> Parsed:
    """Read `source` (gzip, bzip2 and zstd are unpacked, whatever the name says) into parts below the folder `out`.

    `format` None: detected by content. `file_name` is used in messages, and for what it tells (`Dataset.from_name`).
    `reading`: how it is read, as `survey_file` found. The same bytes, so read, give the same files, byte for byte.
    Nothing of the result may be used where this raises.
    Raises RejectedInput where the whole file is no good: `empty`, `truncated`, `unreadable`, `zip_bomb`,
    `unknown_format`, `ambiguous_format`, `missing_columns`, `too_many_rows`; NoRows (`no_rows`).
    """
    name = resolve_format(source, file_name, dataset, format)
    found = load_formats()[name]
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / ".unpacked"
    try:
        unpacked = unpack(source, temporary, max_ratio=max_ratio, max_bytes=max_bytes)
        if found.survey is None or found.read_as is None:
            chunks = found.read(unpacked, dataset)
        else:
            reading = reading or found.survey(unpacked, dataset, {})
            chunks = found.read_as(unpacked, dataset, reading)
        named = told_by_name(file_name, dataset)
        parsed = _write(chunks, dataset, name, out, rows_per_part, max_rows, named)
        return replace(parsed, reading=reading)
    finally:
        temporary.unlink(missing_ok=True)


def survey_file(
    source: Path,
    dataset: Dataset,
    format: str,
    asked: str | None,
    temporary: Path,
    *,
    max_ratio: float = MAX_RATIO,
    max_bytes: int = MAX_BYTES,
) -> Reading | None:
    """How `source` is to be read; None where its format can be read in one way only.

    `asked`: what a person said of it, as `csv_options` reads it. `temporary`: where it is unpacked meanwhile.
    Raises RejectedInput as `parse_file`; `csv_options` where what was asked for is none of the format's.
    """
    survey = load_formats()[format].survey
    if survey is None:
        if asked:
            raise RejectedInput("csv_options", f"{format} is read in one way: it takes no options, and got {asked!r}")
        return None
    try:
        unpacked = unpack(source, temporary, max_ratio=max_ratio, max_bytes=max_bytes)
        return survey(unpacked, dataset, read_csv_options(asked) if asked else {})
    finally:
        temporary.unlink(missing_ok=True)


def told_by_name(file_name: str, dataset: Dataset) -> dict[str, str]:
    """Column -> what the file's name says that its rows have there."""
    found = {column: re.search(pattern, file_name) for column, pattern in dataset.from_name.items()}
    told = {column: match[1] for column, match in found.items() if match}
    return {column: text.upper() if column in dataset.uppered else text for column, text in told.items()}


def write_drawn(
    chunks: Iterator[Chunk], dataset: Dataset, kind: str, out: Path, *, rows_per_part: int = ROWS_PER_PART
) -> Parsed:
    """What a source of the kind `kind` gave, as parts below `out`. The same chunks give the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    return _write(chunks, dataset, kind, out, rows_per_part, None, {})


def _write(
    chunks: Iterator[Chunk],
    dataset: Dataset,
    format: str,
    out: Path,
    rows_per_part: int,
    max_rows: int | None,
    named: Mapping[str, str],
) -> Parsed:
    """The chunks of one source as parts and rejected rows. `named`: what rows have in columns that they leave out."""
    filled = [
        *(pl.col(column).str.to_uppercase() for column in sorted(dataset.uppered - named.keys())),
        *(
            (pl.col(column).str.to_uppercase() if column in dataset.uppered else pl.col(column)).fill_null(text)
            for column, text in sorted(named.items())
        ),
    ]
    schema = {**dataset.schema, "_line": pl.Int64()}
    rejected_rows = Spool(out / "rejected.parquet", REJECTED_SCHEMA)
    rejected: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    parts: list[PartFile] = []
    part = _Part(1, out, schema, dataset.event_time)
    records = 0
    for chunk in chunks:
        skipped.update(chunk.skipped)
        if chunk.rejected.height:
            rejected.update(dict(chunk.rejected["rule"].value_counts().iter_rows()))
            rejected_rows.add(chunk.rejected)
        rows = chunk.rows.with_columns(*filled, _part=(pl.col("_record") + records) // rows_per_part + 1)
        records += chunk.records
        if max_rows is not None and records > max_rows:
            raise RejectedInput("too_many_rows", f"the source has more than {max_rows} records", max_rows=max_rows)
        for number in range(part.number, (records - 1) // rows_per_part + 2 if records else 1):
            if number > part.number:
                parts += part.close()
                part = _Part(number, out, schema, dataset.event_time)
            part.add(rows.filter(pl.col("_part") == number).select(*schema))
    parts += part.close()
    refused = rejected_rows.close() if rejected_rows.rows else None
    counts = dict(sorted(rejected.items()))
    lines = dict(sorted(skipped.items()))
    if not parts:
        raise NoRows(
            f"none of the {records} records can be read" if records else "there is no record in it",
            rows_in=records,
            rejected=counts,
            rejected_rows=refused,
            lines_skipped=lines,
            format=format,
        )
    return Parsed(tuple(parts), records, format, counts, refused, lines)


class _Part:
    """A part while its rows come."""

    def __init__(self, number: int, out: Path, schema: Mapping[str, pl.DataType], event_time: str | None) -> None:
        self.number = number
        self._event_time = event_time
        self._spool = Spool(out / f"part-{number:04d}.parquet", schema)
        self._first: datetime | None = None
        self._last: datetime | None = None

    def add(self, rows: pl.DataFrame) -> None:
        self._spool.add(rows)
        if self._event_time is None:
            return
        first, last = rows.select(
            pl.col(self._event_time).min().alias("first"), pl.col(self._event_time).max().alias("last")
        ).row(0)
        self._first = min((t for t in (self._first, first) if t is not None), default=None)
        self._last = max((t for t in (self._last, last) if t is not None), default=None)

    def close(self) -> list[PartFile]:
        if not self._spool.rows:
            return []
        span = None
        if self._first is not None and self._last is not None:
            span = (_iso(self._first), _iso(self._last))
        return [PartFile(self.number, self._spool.close(), self._spool.rows, span)]


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")
