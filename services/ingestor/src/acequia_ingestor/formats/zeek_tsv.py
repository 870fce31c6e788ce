"""Zeek's conn.log as its ASCII writer leaves it.

The header says everything: `#separator`, `#fields` (any order, any further columns), `#unset_field`, `#empty_field`.
It may come again in the middle (logs put together), even with other fields. Labelled logs have `label` and
`detailedlabel`; in IoT-23's own ones the last three columns are held apart by spaces, which is understood too.

Null: the unset field (`-`), the empty field (`(empty)`), and nothing at all. Labels are stored in lower case.
Lines that begin with `#` are comments, blank ones are blank: both are skipped and counted.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.formats import Chunk, Format, Head, _zeek
from acequia_ingestor.formats._columns import chunk, typed
from acequia_ingestor.formats._lines import Block, blocks, faulty, few_enough, is_blank, numbered, split, without

_MAX_HEADERS = 10_000
_WIDE_GAP = re.compile(r" {2,}")
_HEADER = r"^#(?:separator|fields|unset_field|empty_field|path)"


@dataclass(frozen=True, slots=True)
class Header:
    """What the `#` lines said so far."""

    separator: str = "\t"
    unset: str = "-"
    empty: str = "(empty)"
    path: str = ""
    names: tuple[str, ...] = ()
    tail: int = 0
    """How many columns the last field holds, apart by spaces, where it holds several (IoT-23)."""

    def after(self, line: str) -> "Header":
        """The header as it is once `line` (a comment) was read."""
        if line.startswith("#separator"):
            spelled = line.removeprefix("#separator").strip(" ")
            given = re.sub(r"\\x([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), spelled)
            return replace(self, separator=given or "\t")
        name, _, value = line.partition(self.separator)
        match name:
            case "#fields":
                names = tuple(value.split(self.separator))
                last = _WIDE_GAP.split(names[-1].strip())
                return replace(self, names=(*names[:-1], *last), tail=len(last) if len(last) > 1 else 0)
            case "#unset_field":
                return replace(self, unset=value)
            case "#empty_field":
                return replace(self, empty=value)
            case "#path":
                return replace(self, path=value)
        return self


def detect(head: Head, dataset: Dataset) -> bool:
    header = Header()
    for line in head.lines():
        if line.startswith("#"):
            header = header.after(line)
        elif line.strip():
            break
    return header.path in ("", "conn") and set(header.names) >= _zeek.TELLING


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    header = Header()
    headers = 0
    for block in blocks(path):
        lines = block.lines
        is_comment = pl.col("line").str.starts_with("#") & pl.col("fault").is_null()
        telling = lines.filter(is_comment & pl.col("line").str.contains(_HEADER))
        headers += telling.height
        if headers > _MAX_HEADERS:
            raise RejectedInput("unreadable", f"more than {_MAX_HEADERS} header lines: this is no log")
        done = 0
        for number, line in telling.select("_line", "line").iter_rows():
            after = header.after(line)
            if after != header:
                under = lines.filter(pl.col("_line").is_between(done + 1, number - 1))
                yield from _segment(under, block, header, dataset)
                header, done = after, number - 1
        yield from _segment(lines.filter(pl.col("_line") > done), block, header, dataset)


def _segment(lines: pl.DataFrame, block: Block, header: Header, dataset: Dataset) -> Iterator[Chunk]:
    """Those lines of a block that stand under one header."""
    if not lines.height:
        return
    comment = pl.col("line").str.starts_with("#") & pl.col("fault").is_null()
    records, comments = without(lines, comment)
    records, blank = without(records, is_blank())
    records = numbered(records)
    skipped = {"comment": comments, "blank": blank}
    if not records.height:
        yield chunk(records, [], dataset.schema, skipped)
        return
    if not header.names:
        raise RejectedInput("missing_columns", f"line {records['_line'][0]}: a record before any #fields line")
    few_enough(header.names)
    _zeek.require(header.names)
    good, unreadable = faulty(records)
    count = len(header.names) - max(header.tail - 1, 0)
    places = {name: str(n) for n, name in reversed(list(enumerate(header.names)))}
    wanted = None if header.tail else [int(place) for name, place in places.items() if name in _zeek.SOURCES]
    texts, ragged = split(good, header.separator, count, wanted=wanted, data=block.data_of(good))
    if header.tail:
        last = pl.col(str(count - 1)).str.strip_chars().str.replace_all(r" {2,}", "\t")
        parts = last.str.split_exact("\t", header.tail - 1).struct.rename_fields(
            [str(count - 1 + n) for n in range(header.tail)]
        )
        texts = texts.with_columns(parts.alias("_tail")).drop(str(count - 1)).unnest("_tail")
    nulls = ("", header.unset, header.empty)
    rows, broken = typed(texts, _zeek.fields(places, dataset.lowered), nulls)
    yield chunk(_zeek.counted(rows), [unreadable, ragged, broken], dataset.schema, skipped)


FORMAT = Format("zeek_tsv", "Zeek conn.log (TSV)", detect, read)
