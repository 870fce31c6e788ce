"""Lines into records: quotes as people and their programs set them, with separators and line breaks inside.

A quote opens a field only where a field begins, and closes it only before a separator or the line's end: the inch of
`TP 3 1/2" EUE` is text in either place. Over line breaks only what a program quoted is believed (each quote within is
doubled, the record has as many fields as the header, it is at most MAX_RECORD_LINES long): a quote that somebody forgot
to close costs its own line, and the lines behind it are read as ever.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from acequia_ingestor.formats._lines import MAX_LINE_BYTES

MAX_RECORD_LINES = 100
OPEN_QUOTE = "open_quote"
OPEN_QUOTE_REASON = f"a quote begins in this line that ends neither here nor, rightly, in the next {MAX_RECORD_LINES}"
_IN_RUST = {"\t": r"\t", "|": r"\|"}


class Quotes:
    """How fields stand in quotes where `separator` is between them."""

    def __init__(self, separator: str) -> None:
        self.separator = separator
        s = re.escape(separator)
        # no possessive quantifiers: before Python 3.11.5 they match wrongly (python/cpython#100061, #106052)
        self._field = re.compile(rf' *"([^"]*)" *({s}|\Z)|(?! *")([^{s}]*)({s}|\Z)')
        self._quote = re.compile(rf'""|" *({s}|\Z)')
        s = _IN_RUST.get(separator, separator)
        one = rf'(?: *"[^"{s}]*" *|[^"{s}]*)'
        self.neat = rf"^{one}(?:{s}{one})*$"
        """Matches lines in which a quote does nothing: without them all they are the same fields."""

    def fields(self, lines: Sequence[str]) -> tuple[list[str], int] | None:
        """The fields of the record that begins with `lines[0]`, and how many lines it has. None where `lines` end
        first, where it grows beyond a line's limit, or a quote in a field of several lines is not doubled."""
        fields: list[str] = []
        open_: list[str] = []  # a field's text in the lines before this one
        size = 0
        for number, line in enumerate(lines, start=1):
            at = 0
            if (size := size + len(line)) > MAX_LINE_BYTES:
                return None
            while True:
                if not open_ and (field := self._field.match(line, at)) is not None:
                    fields.append(field[1] if field[1] is not None else field[3])
                    separated, at = field[2] or field[4], field.end()
                else:  # in quotes, and there are quotes or line breaks in it
                    begin = at if open_ else line.index('"', at) + 1
                    end = self._end(line, begin)
                    text = line[begin : end.start() if end else None]
                    if (open_ or end is None) and not _all_doubled(text):
                        return None
                    open_.append(text)
                    if end is None:
                        break
                    fields.append(_text("\n".join(open_)))
                    open_ = []
                    separated, at = end[1], end.end()
                if not separated:
                    return fields, number
        return None

    def _end(self, line: str, begin: int) -> re.Match[str] | None:
        """The quote that closes the field whose text begins at `begin`; its group 1 separates it from the next."""
        return next((quote for quote in self._quote.finditer(line, begin) if quote[1] is not None), None)


def _all_doubled(text: str) -> bool:
    return '"' not in text.replace('""', "")


def _text(quoted: str) -> str:
    return quoted.replace('""', '"')


@dataclass(frozen=True, slots=True)
class Records:
    """`frame`: `_line`, `line` (of several lines: all of them), `fault`, and `at` (Int64): where its fields stand in
    `fields`, null for a line whose quotes do nothing."""

    frame: pl.DataFrame
    fields: Sequence[Sequence[str]]


def assemble(lines: pl.DataFrame, quotes: Quotes, width: int, *, last: bool) -> tuple[Records, pl.DataFrame]:
    """The records of these lines (`_line`, `line`, `fault`), and the lines that are left for the next call.

    `width`: how many fields a record of several lines has to have, or it is none. `last`: no line comes after these.
    """
    odd = _whose_quotes_matter(lines, quotes)
    fields: list[Sequence[str]] = []
    found: list[int] = []
    joined: dict[int, str] = {}
    swallowed: list[int] = []
    broken: list[int] = []
    following: list[str] | None = None
    faulty: list[int] = []
    # each line of a record is looked at once; far more than that are lines whose quotes mean nothing
    looked_at, most = 0, 2 * lines.height + 100 * MAX_RECORD_LINES
    beyond = lines.height
    next_ = 0
    for at, text in zip(odd.to_list(), lines["line"].gather(odd).to_list(), strict=True):
        if at < next_:
            continue
        record = quotes.fields((text,))
        if record is None:
            if following is None:
                following = lines["line"].to_list()
                faulty = lines["fault"].is_not_null().arg_true().to_list()
            end = min(at + MAX_RECORD_LINES, len(following))
            sound = faulty[n] if (n := bisect_left(faulty, at)) < len(faulty) else end
            texts = following[at : min(end, sound)]
            record = quotes.fields(texts) if looked_at <= most else None
            looked_at += record[1] if record else len(texts)
            goes_on = not last and end == len(following) and end - at < MAX_RECORD_LINES and sound >= end
            if record is None and goes_on and sum(map(len, texts)) <= MAX_LINE_BYTES:
                beyond = at
                break
            if record is None or not fits(record[0], width):
                broken.append(at)
                continue
            joined[at] = "\n".join(texts[: record[1]])
        next_ = at + record[1]
        swallowed += range(at + 1, next_)
        found.append(at)
        fields.append(record[0])
    frame = lines.with_columns(at=_scattered(lines.height, found, range(len(found)), pl.Int64()))
    if broken:
        faults = _scattered(lines.height, broken, [OPEN_QUOTE] * len(broken), pl.String())
        frame = frame.with_columns(fault=pl.coalesce("fault", faults))
    if joined:
        whole = _scattered(lines.height, list(joined), list(joined.values()), pl.String())
        frame = frame.with_columns(line=pl.coalesce(whole, "line"))
    if swallowed:
        frame = frame.filter(~pl.int_range(pl.len()).is_in(pl.Series(swallowed, dtype=pl.Int64).implode()))
        frame = frame.filter(pl.col("_line") < lines["_line"][beyond]) if beyond < lines.height else frame
    else:
        frame = frame.head(beyond)
    return Records(frame, fields), lines.slice(beyond)


def _whose_quotes_matter(lines: pl.DataFrame, quotes: Quotes) -> pl.Series:
    """The places of the lines that have to be looked at one by one."""
    line = pl.col("line")
    quoted = line.str.contains('"', literal=True) & ~line.str.starts_with("#") & pl.col("fault").is_null()
    places = lines.select(quoted.arg_true()).to_series()
    return places.filter(~lines["line"].gather(places).str.contains(quotes.neat)) if places.len() else places


def _scattered(height: int, at: Sequence[int], values: Sequence[object], dtype: pl.DataType) -> pl.Series:
    """`values` at these places, null elsewhere."""
    empty = pl.repeat(None, height, dtype=dtype, eager=True)
    return empty.scatter(list(at), pl.Series(values, dtype=dtype)) if at else empty


def fits(fields: Sequence[str], width: int) -> bool:
    """Whether the record has `width` fields; further ones may be there if there is nothing in them."""
    return len(fields) >= width and not any(map(str.strip, fields[width:]))


def split_plain(lines: pl.DataFrame, separator: str, width: int) -> tuple[pl.DataFrame, pl.Series]:
    """Lines whose quotes do nothing, as texts `0` .. `width-1`, and how many fields each has (Int64).

    Separators at the end with nothing behind them do not count, where they are more than `width` needs.
    """
    text = pl.col("line").str.replace_all('"', "", literal=True)
    mark = _IN_RUST.get(separator, separator)
    lines = lines.select(text.alias("line"))
    count = pl.col("line").str.count_matches(separator, literal=True).cast(pl.Int64) + 1
    if lines.select((count > width).any()).item():
        bare = pl.col("line").str.replace(rf"(?:{mark}\s*)+$", "")
        left = bare.str.count_matches(separator, literal=True).cast(pl.Int64) + 1
        # what is short of separators then has them in `width`: only their number matters here
        spare = bare + pl.lit(separator * (width - 1)).str.head(width - left)
        lines = lines.with_columns(line=pl.when((count > width) & (left <= width)).then(spare).otherwise("line"))
    counts = lines.select(count.alias("n"))["n"]
    texts = lines.select(pl.col("line").str.split_exact(separator, width - 1).alias("f")).unnest("f")
    return texts.rename({f"field_{n}": str(n) for n in range(width)}), counts
