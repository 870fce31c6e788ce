"""Text files as numbered lines, in blocks of bounded size; lines as fields."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from acequia.errors import RejectedInput

BLOCK_BYTES = 8 * 2**20
MAX_LINE_BYTES = 2**20
RAW_BYTES = 64 * 2**10
MAX_COLUMNS = 2_000
"""Of a header: each is a column of a frame, whether it is wanted or not."""
_FEW = 100
_BOM = b"\xef\xbb\xbf"
_PACKED = (b"\x1f\x8b", b"x\x01", b"x^", b"x\x9c", b"x\xda", b"\x28\xb5\x2f\xfd")

NOT_UTF8 = "not_utf8"
LINE_TOO_LONG = "line_too_long"
RAGGED = "ragged_line"
FAULTS = {
    NOT_UTF8: "the line is no UTF-8 text",
    LINE_TOO_LONG: f"the line is longer than {MAX_LINE_BYTES} bytes",
}


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a file: `_line` (Int64, from 1), `line` (no line end), `fault` (a rule of FAULTS, or null)."""

    lines: pl.DataFrame
    data: bytes
    """The same, as they stand in the file."""

    def data_of(self, lines: pl.DataFrame) -> bytes | None:
        """`lines`, some of the block's, as they stand in the file; None where these are not all but a few first ones,
        or one of them can not be read."""
        first = self.lines.height - lines.height
        if not lines.height or first > _FEW or lines["_line"][0] != self.lines["_line"][first]:
            return None
        if lines["fault"].null_count() < lines.height:
            return None
        begin = 0
        for _ in range(first):
            begin = self.data.index(b"\n", begin) + 1
        return self.data[begin:]


def blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """The lines of `path` (LF or CRLF, with or without a BOM), cut the same way each time."""
    with path.open("rb") as file:
        yield from blocks_of(iter(lambda: file.read(block_bytes), b""))


def blocks_of(pieces: Iterable[bytes]) -> Iterator[Block]:
    """The lines of a text that comes in `pieces`, a block for each in which a line ends."""
    first_line = 1
    rest = b""
    at_start = True
    for piece in pieces:
        data = piece.removeprefix(_BOM) if at_start else piece
        at_start = False
        end = data.rfind(b"\n") + 1
        if end == 0:
            # of a line that is too long only the beginning is kept
            rest = rest + data if len(rest) <= MAX_LINE_BYTES else rest
            continue
        whole = rest + data[:end]
        lines = _lines(whole, first_line)
        rest = data[end:]
        first_line += lines.height
        yield Block(lines, whole)
    if rest:
        yield Block(_lines(rest, first_line), rest)


def _lines(data: bytes, first_line: int) -> pl.DataFrame:
    count = data.count(b"\n") + (not data.endswith(b"\n"))
    frame = pl.DataFrame(schema={"line": pl.String()})
    # polars undoes gzip, zlib and zstd by the first bytes of what it is handed: that is not wanted here
    if not data.startswith(_PACKED):
        with suppress(pl.exceptions.ComputeError):  # bytes that are no UTF-8: the lines are found below
            frame = pl.read_lines(data)
    as_read = frame.height == count
    frame = frame.with_columns(fault=pl.lit(None, pl.String)) if as_read else _lines_one_by_one(data)
    too_long = pl.col("line").str.len_bytes() > MAX_LINE_BYTES
    if frame.select(too_long.any()).item():
        frame = frame.with_columns(
            fault=pl.when(too_long).then(pl.lit(LINE_TOO_LONG)).otherwise("fault"),
            line=pl.when(too_long).then(pl.col("line").str.head(RAW_BYTES)).otherwise("line"),
        )
    return frame.select(
        (pl.int_range(pl.len(), dtype=pl.Int64) + first_line).alias("_line"),
        "line",
        "fault",
    )


def _lines_one_by_one(data: bytes) -> pl.DataFrame:
    texts: list[str] = []
    faults: list[str | None] = []
    for line in data.removesuffix(b"\n").split(b"\n"):
        bare = line.removesuffix(b"\r")
        try:
            texts.append(bare.decode())
            faults.append(None)
        except UnicodeDecodeError:
            texts.append(bare.decode("utf-8", "replace"))
            faults.append(NOT_UTF8)
    return pl.DataFrame({"line": texts, "fault": faults}, schema={"line": pl.String(), "fault": pl.String()})


def few_enough(names: Sequence[str]) -> None:
    """RejectedInput (`too_many_columns`) where a header names more than MAX_COLUMNS."""
    if len(names) > MAX_COLUMNS:
        raise RejectedInput("too_many_columns", f"the header has {len(names)} columns; at most {MAX_COLUMNS} are read")


def starts_as_packed(data: bytes) -> bool:
    """Whether polars would take a text for packed, or leave out its first character."""
    return data.startswith((_BOM, *_PACKED))


def is_blank() -> pl.Expr:
    return pl.col("line").str.strip_chars().str.len_bytes() == 0


def without(lines: pl.DataFrame, condition: pl.Expr) -> tuple[pl.DataFrame, int]:
    """`lines` of which `condition` does not hold, and how many it holds of."""
    holds = lines.select(condition.alias("holds")).to_series()
    count = int(holds.sum())
    return (lines.filter(~holds) if count else lines), count


def numbered(records: pl.DataFrame) -> pl.DataFrame:
    """The same lines with `_record`, their number from 0."""
    return records.with_columns(_record=pl.int_range(pl.len(), dtype=pl.Int64))


def faulty(records: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Lines that can be read, and those that cannot as `rejected` (see `reject`)."""
    if records["fault"].null_count() == records.height:
        return records, reject(records.clear(), "", "")
    bad = records.filter(pl.col("fault").is_not_null())
    return records.filter(pl.col("fault").is_null()), reject(
        bad, pl.col("fault"), pl.col("fault").replace_strict(FAULTS)
    )


def reject(records: pl.DataFrame, rule: pl.Expr | str, reason: pl.Expr | str) -> pl.DataFrame:
    """`records` (with `_line` and `line`) in the schema of rejected rows."""
    # polars 2.1 panics in `format` where a filter left a text column in chunks unlike the others
    return records.rechunk().select(
        "_line",
        (pl.lit(rule) if isinstance(rule, str) else rule).cast(pl.String).alias("rule"),
        (pl.lit(reason) if isinstance(reason, str) else reason).cast(pl.String).alias("reason"),
        cut("line").alias("raw"),
    )


def cut(column: str) -> pl.Expr:
    """At most 64 KiB of a text column. Long texts are cut by characters, so that what is left is text."""
    text = pl.col(column)
    return pl.when(text.str.len_bytes() <= RAW_BYTES).then(text).otherwise(text.str.head(RAW_BYTES // 4))


def split(
    records: pl.DataFrame,
    separator: str,
    count: int,
    *,
    wanted: Sequence[int] | None = None,
    data: bytes | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Lines (without quotes) into the fields `0` .. `count-1`, or those `wanted` of them; ragged ones as `rejected`.

    `data`: the same lines, and no other, as they stand in the file.
    """
    columns = list(range(count)) if wanted is None else sorted(wanted)
    if (whole := _split_at_once(records, separator, count, columns, data)) is not None:
        return whole, reject(records.clear(), "", "")
    parts = records.select("_line", "_record", "line", pl.col("line").str.split_exact(separator, count).alias("f"))
    fields = parts.unnest("f").rename({f"field_{n}": str(n) for n in range(count + 1)})
    fits = pl.col(str(count - 1)).is_not_null() & pl.col(str(count)).is_null()
    bad = fields.filter(~fits)
    found = pl.col("line").str.count_matches(separator, literal=True) + 1
    reason = pl.format("{} fields where {} are expected", found, pl.lit(count))
    good = fields.filter(fits).select("_line", "_record", "line", *(str(n) for n in columns))
    return good, reject(bad, RAGGED, reason)


def _split_at_once(
    records: pl.DataFrame, separator: str, count: int, columns: Sequence[int], data: bytes | None
) -> pl.DataFrame | None:
    """`split` by polars' own CSV reader, which is fast and lenient: None where a line is anything but its fields."""
    fields = pl.col("line").str.count_matches(separator, literal=True) + 1
    plain = (fields == count) & ~pl.col("line").str.ends_with("\r")
    if count < 2 or not records.height or len(separator.encode()) != 1 or not records.select(plain.all()).item():
        return None
    if data is None:
        data = records["line"].str.join("\n").item().encode()
    if starts_as_packed(data):
        return None
    # whatever it does not like: the lines are looked at one by one
    with suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
        frame = pl.read_csv(
            data,
            columns=list(columns),
            has_header=False,
            separator=separator,
            quote_char=None,
            infer_schema=False,
            empty_string_is_null=False,
        )
        if frame.height == records.height and frame.width == len(columns):
            frame.columns = [str(n) for n in columns]
            return records.select("_line", "_record", "line").hstack(frame).rechunk()
    return None


def split_quoted(
    records: pl.DataFrame,
    separator: str,
    count: int,
    *,
    wanted: Sequence[int] | None = None,
    data: bytes | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """As `split`, where fields may stand in double quotes. A quoted field cannot hold a line break."""
    has_quote = pl.col("line").str.contains('"', literal=True)
    if not records.select(has_quote.any()).item():
        return split(records, separator, count, wanted=wanted, data=data)
    columns = list(range(count)) if wanted is None else sorted(wanted)
    plain, plain_bad = split(records.filter(~has_quote), separator, count, wanted=columns)
    quoted = records.filter(has_quote)
    rows: list[Sequence[str]] = []
    bad: list[str | None] = []
    for line in quoted["line"]:
        fields = unquote(line, separator)
        if fields is not None and len(fields) == count:
            rows.append([fields[n] for n in columns])
            bad.append(None)
        else:
            found = "quotes that do not match" if fields is None else f"{len(fields)} fields"
            rows.append([""] * len(columns))
            bad.append(f"{found} where {count} fields are expected")
    fields_frame = pl.DataFrame(rows, schema={str(n): pl.String() for n in columns}, orient="row")
    whole = quoted.select("_line", "_record", "line").hstack(fields_frame)
    reasons = pl.Series("_reason", bad, dtype=pl.String)
    broken = whole.with_columns(reasons).filter(pl.col("_reason").is_not_null())
    return (
        pl.concat([plain, whole.filter(reasons.is_null())]).sort("_record"),
        pl.concat([plain_bad, reject(broken, RAGGED, pl.col("_reason"))]),
    )


def unquote(line: str, separator: str) -> list[str] | None:
    """The fields of one CSV line; None where its quotes do not match."""
    try:
        rows = list(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None
