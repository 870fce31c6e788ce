"""CSV as people and their spreadsheets make it. Which of the many ways it is in, is told from its content, by file.

- encoding: UTF-8 with or without a BOM, UTF-16 with one, else Windows-1252 (of which Latin-1 is a part)
- lines that end with LF, CRLF, or CR alone
- separator `,` `;` tab `|`; a title, blank lines or `sep=;` may stand above the header, separators at the end of lines
- columns by the names that the dataset knows (`spellings`), whatever their case, accents and punctuation; others are
  ignored, and told
- decimal mark `,` or `.`; digits grouped by the other one, a space or an apostrophe
- dates: year first; or day, month and year in the order that the file's other dates tell; or with the month's name or
  abbreviation in Spanish or English. A year of two digits is one of 1970 to 2069. Times with or without seconds,
  `p. m.`, an offset; without one the time is that of the option `timezone` (UTC unless said otherwise). The time of
  day may stand in a column of its own (`clocks`).
- quotes around fields, with separators, line breaks and doubled quotes inside (see `_people_records`)

Where nothing in the file tells (each day is a month as well: 03/04/2025) the order is day first, and the decimal mark
the comma where the separator is `;` (a spreadsheet writes it for just that reason), else the point.

Null: nothing, dashes, `null`, `none`, `na`, `nan`, `nd`, `s/d`, `sin dato`, and what a spreadsheet shows instead of a
value (`#N/A`, `#DIV/0!`). Lines that begin with `#` are comments; a line of nothing but separators is blank.
"""

import codecs
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.csv_options import checked
from acequia_ingestor.formats import Chunk, Format, Head, Reading
from acequia_ingestor.formats._columns import Field, chunk, typed
from acequia_ingestor.formats._lines import FAULTS, RAGGED, blocks_of, numbered, reject
from acequia_ingestor.formats._people_header import Header, check_header, find_header
from acequia_ingestor.formats._people_records import (
    OPEN_QUOTE,
    OPEN_QUOTE_REASON,
    Quotes,
    assemble,
    fits,
    split_plain,
)
from acequia_ingestor.formats._people_values import (
    decimals_told,
    marks_in,
    orders_told,
    read_numbers,
    read_times,
    with_clock,
)

BLOCK_BYTES = 4 * 2**20
HEAD_BYTES = 64 * 2**10
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WORDS = ("null", "none", "na", "n/a", "nan", "nd", "n/d", "s/d", "sin dato", "#n/a", "#div/0!", "#¡div/0!", "#valor!")
NULLS = (
    "",
    "-",
    "--",
    "---",
    *_WORDS,
    *map(str.upper, _WORDS),
    "NaN",
    "None",
    "Null",
    "Sin dato",
    "Sin Dato",
    "#¡VALOR!",
)
_REASONS = {**FAULTS, OPEN_QUOTE: OPEN_QUOTE_REASON}
_DEFAULTS = {"dates": "dmy", "timezone": "UTC"}


def _as_read_by_the_web() -> str:
    """Windows-1252, with the five bytes that it does not have as control characters: each file can be read."""
    return "".join(bytes([n]).decode("cp1252", "ignore") or chr(n) for n in range(256))


_WINDOWS_1252 = _as_read_by_the_web()


def detect(head: Head, dataset: Dataset) -> bool:
    """Whether more than half of the required columns, and two at least, are in the header: what is then missing, `read`
    can say."""
    header = find_header(_lines_of(head.data, None, whole=head.whole), dataset)
    if header is None:
        return False
    found = len(dataset.required) - len(header.missing(dataset))
    return found >= 2 and 2 * found > len(dataset.required)


def survey(path: Path, dataset: Dataset, asked: Mapping[str, str]) -> Reading:
    """What the whole file tells, up to where nothing is left to be told. Raises RejectedInput as `read`."""
    asked, ours = checked(asked), checked(dataset.csv)
    options = {**ours, **asked}
    told_by = {name: "upload" if name in asked else "dataset" for name in options}

    def tell(name: str, value: str, by: str) -> None:
        if name not in options:
            options[name], told_by[name] = value, by

    if "encoding" not in options:
        tell("encoding", _encoding_of(path), "content")
    header = _header_of(path, dataset, options)
    tell("separator", "tab" if header.separator == "\t" else header.separator, "content")
    tell("timezone", _DEFAULTS["timezone"], "default")
    if {"decimal", "dates"} - options.keys():
        evidence = _Evidence(dataset, header, frozenset(options))
        for batch in _batches(path, options["encoding"], header):
            if evidence.settled_by(batch.texts):
                break
        tell("decimal", *evidence.decimal(header.separator))
        tell("dates", *evidence.dates())
    return Reading(dict(sorted(options.items())), dict(sorted(told_by.items())), tuple(header.ignored()))


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    yield from read_as(path, dataset, survey(path, dataset, {}))


def read_as(path: Path, dataset: Dataset, reading: Reading) -> Iterator[Chunk]:
    options = reading.options
    header = _header_of(path, dataset, options)
    fields = [
        Field(
            header.names[place].strip(),
            str(place),
            column,
            dataset.schema[column],
            column,
            lower=column in dataset.lowered,
            read=_reader(dataset.schema[column], options),
        )
        for column, place in sorted(header.places.items(), key=lambda item: item[1])
    ]
    whole = [
        with_clock(str(header.places[column]), str(place), NULLS).alias(str(header.places[column]))
        for column, place in header.clocks.items()
    ]
    for batch in _batches(path, options["encoding"], header):
        rows, broken = typed(batch.texts.with_columns(whole), fields, NULLS, strip=True)
        yield chunk(rows, [*batch.rejected, broken], dataset.schema, batch.skipped)


def _reader(dtype: pl.DataType, options: Mapping[str, str]) -> Callable[[pl.Series], pl.Series] | None:
    if dtype.is_temporal():
        return read_times(options["dates"], options["timezone"], dtype)
    return read_numbers(options["decimal"], dtype) if dtype.is_numeric() else None


class _Evidence:
    """What a file's values tell of its decimal mark and of the order of its dates."""

    def __init__(self, dataset: Dataset, header: Header, given: frozenset[str]) -> None:
        of = {column: str(place) for column, place in header.places.items()}
        numbers = [of[column] for column in of if dataset.schema[column].is_numeric()]
        times = [of[column] for column in of if dataset.schema[column].is_temporal()]
        self._numbers = [] if "decimal" in given else numbers
        self._times = [] if "dates" in given else times
        self._decimals: Counter[str] = Counter()
        self._orders: Counter[str] = Counter()
        self._marks = self._ordered = 0

    def settled_by(self, texts: pl.DataFrame) -> bool:
        """Look at these records too; whether there is nothing more to be told."""
        for place in self._numbers:
            column = texts[place].str.strip_chars()
            self._decimals.update(decimals_told(column))
            self._marks += marks_in(column)
        for place in self._times:
            orders, ordered = orders_told(texts[place].str.strip_chars())
            self._orders.update(orders)
            self._ordered += ordered
        return not (self._numbers and not self._decimals.total()) and not (self._times and not self._orders.total())

    def decimal(self, separator: str) -> tuple[str, str]:
        comma, point = self._decimals[","], self._decimals["."]
        if comma != point:
            return ("," if comma > point else "."), "content"
        return ("," if separator == ";" else "."), "default" if self._marks else "unused"

    def dates(self) -> tuple[str, str]:
        dmy, mdy = self._orders["dmy"], self._orders["mdy"]
        if dmy != mdy:
            return ("dmy" if dmy > mdy else "mdy"), "content"
        return _DEFAULTS["dates"], "default" if self._ordered else "unused"


# bytes into lines


def _encoding_of(path: Path) -> str:
    """UTF-8 where the file says so or is; else what most of its lines with other letters are."""
    utf8 = other = 0
    with path.open("rb") as file:
        first = file.read(3)
        if first.startswith(codecs.BOM_UTF8):
            return "utf-8"
        if first.startswith(_UTF16):
            return "utf-16"
        rest = first
        while piece := file.read(2**20):
            data = rest + piece.replace(b"\r", b"\n")  # a line ends with either
            end = data.rfind(b"\n") + 1
            if end == 0 and len(data) < 2**21:
                rest = data
                continue
            rest, data = (data[end:], data[:end]) if end else (b"", data)
            good, bad = _lines_by_encoding(data)
            utf8, other = utf8 + good, other + bad
    good, bad = _lines_by_encoding(rest)
    return "windows-1252" if other + bad > utf8 + good else "utf-8"


def _lines_by_encoding(data: bytes) -> tuple[int, int]:
    """How many lines hold other letters than ASCII has, as UTF-8 and as something else."""
    if data.isascii():
        return 0, 0
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    good = sum(map(_is_utf8, lines))
    return good, len(lines) - good


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _as_utf8(path: Path, encoding: str) -> Iterator[bytes]:
    """The file in pieces of UTF-8; a line of a UTF-8 file that is none stays as it is."""
    with path.open("rb") as file:
        pieces = iter(lambda: file.read(BLOCK_BYTES), b"")
        if encoding == "windows-1252":
            for piece in pieces:
                yield codecs.charmap_decode(piece, "strict", _WINDOWS_1252)[0].encode()
        elif encoding == "utf-16":
            decoder = codecs.getincrementaldecoder("utf-16")()
            try:
                for piece in chain(pieces, (b"",)):
                    yield decoder.decode(piece, final=not piece).encode()
            except UnicodeError as error:
                raise RejectedInput("unreadable", f"the file is no UTF-16 text: {error}") from error
        else:
            yield from pieces


def _with_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same text; where its lines end with CR alone, as Macintoshes wrote, with LF."""
    alone: bool | None = None
    for piece in pieces:
        if alone is None:
            alone = _cr_alone(piece[:HEAD_BYTES])
        yield piece.replace(b"\r", b"\n") if alone else piece


def _cr_alone(head: bytes) -> bool:
    """Whether no line of a text's beginning ends with LF, and one with CR."""
    return b"\r" in head and b"\n" not in head


def _lines_of(head: bytes, encoding: str | None, *, whole: bool) -> list[str]:
    """The whole lines of a file's beginning."""
    if encoding == "utf-16" or (encoding is None and head.startswith(_UTF16)):
        head = head[: len(head) // 2 * 2].decode("utf-16", "replace").encode()
    if _cr_alone(head):
        head = head.replace(b"\r", b"\n")
    lines = head.removeprefix(codecs.BOM_UTF8).split(b"\n")
    lines = lines if whole else lines[:-1]
    as_utf8 = encoding != "windows-1252" if encoding else all(map(_is_utf8, lines))
    return [
        (
            line.decode("utf-8", "replace") if as_utf8 else codecs.charmap_decode(line, "strict", _WINDOWS_1252)[0]
        ).rstrip("\r")
        for line in lines
    ]


def _header_of(path: Path, dataset: Dataset, options: Mapping[str, str]) -> Header:
    """RejectedInput where it lacks what the dataset requires, or there is none."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES + 1)
    lines = _lines_of(head[:HEAD_BYTES], options["encoding"], whole=len(head) <= HEAD_BYTES)
    separator = {"tab": "\t"}.get(given, given) if (given := options.get("separator")) else None
    if (header := find_header(lines, dataset, separator)) is None:
        beginning = next((line for line in lines if line.strip()), "")[:200]
        raise RejectedInput("missing_columns", f"no line names columns of {dataset.name}; it begins with {beginning!r}")
    check_header(header, dataset)
    return header


# lines into records


@dataclass(frozen=True, slots=True)
class _Batch:
    """`texts`: `_line`, `_record`, `line`, and the header's columns as `0`, `1`, ..; the others apart."""

    texts: pl.DataFrame
    rejected: list[pl.DataFrame]
    skipped: Mapping[str, int]


def _batches(path: Path, encoding: str, header: Header) -> Iterator[_Batch]:
    """The records of the file, of each block of it those that end there."""
    quotes = Quotes(header.separator)
    left: pl.DataFrame | None = None
    for block in chain(blocks_of(_with_lines(_as_utf8(path, encoding))), (None,)):
        if block is not None:
            lines = block.lines.with_columns(pl.col("line").str.strip_prefix("\ufeff"))
            if left is not None:
                lines = pl.concat([left, lines])
        elif left is None:
            return
        else:
            lines = left
        if not lines.height:
            continue
        above = pl.col("_line") <= header.last + 1
        titles = lines.filter(above)
        skipped = Counter[str]()
        if titles.height:
            skipped = _titles(titles, header)
            lines = lines.filter(~above)
        records, left = assemble(lines, quotes, len(header.names), last=block is None)
        yield _batch(records.frame, records.fields, header, skipped)


def _titles(lines: pl.DataFrame, header: Header) -> Counter[str]:
    in_header = pl.col("_line") > header.first
    blank, comment = _is_blank(header.separator), pl.col("line").str.starts_with("#")
    counts = lines.select(
        header=in_header.sum(),
        blank=(~in_header & blank).sum(),
        comment=(~in_header & ~blank & comment).sum(),
        title=(~in_header & ~blank & ~comment).sum(),
    )
    return Counter(counts.row(0, named=True))


def _is_blank(separator: str) -> pl.Expr:
    return pl.col("line").str.strip_chars(f'{separator}" \t\r').str.len_bytes() == 0


def _batch(frame: pl.DataFrame, fields: Sequence[Sequence[str]], header: Header, skipped: Counter[str]) -> _Batch:
    sound = pl.col("fault").is_null()
    kind = (
        pl.when(~sound)
        .then(pl.lit("record"))
        .when(_is_blank(header.separator))
        .then(pl.lit("blank"))
        .when(pl.col("line").str.starts_with("#"))
        .then(pl.lit("comment"))
        .when(pl.col("line") == header.text)  # it comes again: files put together
        .then(pl.lit("header"))
        .otherwise(pl.lit("record"))
    )
    frame = frame.with_columns(kind=kind)
    skipped.update(dict(frame.filter(pl.col("kind") != "record")["kind"].value_counts().iter_rows()))
    records = numbered(frame.filter(pl.col("kind") == "record"))
    bad = records.filter(~sound)
    rejected = [reject(bad, pl.col("fault"), pl.col("fault").replace_strict(_REASONS))] if bad.height else []
    good = records.filter(sound)
    width = len(header.names)

    plain = good.filter(pl.col("at").is_null())
    texts, counts = split_plain(plain, header.separator, width)
    fit = counts == width
    parts = [plain.select("_line", "_record", "line").hstack(texts).filter(fit)]
    told = pl.format("{} fields where {} are expected", pl.col("n"), pl.lit(width))
    if not fit.all():
        rejected.append(reject(plain.with_columns(counts).filter(~fit), RAGGED, told))

    quoted = good.filter(pl.col("at").is_not_null())
    if quoted.height:
        mine = [fields[at] for at in quoted["at"]]
        fit = pl.Series([fits(one, width) for one in mine], dtype=pl.Boolean)
        columns = {str(n): pl.String() for n in range(width)}
        texts = pl.DataFrame([one[:width] for one in mine if fits(one, width)], schema=columns, orient="row")
        parts.append(quoted.filter(fit).select("_line", "_record", "line").hstack(texts))
        if not fit.all():
            lengths = pl.Series("n", [len(one) for one in mine], dtype=pl.Int64)
            rejected.append(reject(quoted.with_columns(lengths).filter(~fit), RAGGED, told))
    return _Batch(pl.concat(parts).sort("_record"), rejected, skipped)


FORMAT = Format(
    "people_csv",
    "CSV as people make it: columns as they call them, any separator, decimal mark, order of dates",
    detect,
    read,
    survey,
    read_as,
)
