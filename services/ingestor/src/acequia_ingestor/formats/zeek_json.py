"""Zeek's conn.log as JSON lines, as its JSON writer leaves it: one object a line, fields that are unset left out.

Times: seconds since 1970 or ISO 8601 (Zeek's `json_timestamps`). Null: a key that is not there, `null`, and the texts
nothing, `-` and `(empty)`. Further keys are ignored; labels are stored in lower case. Where a line has `_path` (several
logs in one stream) and that is not `conn`, it is skipped and counted as `other_log`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia_ingestor.formats import Chunk, Format, Head, _zeek
from acequia_ingestor.formats._columns import chunk, typed
from acequia_ingestor.formats._lines import blocks, faulty, is_blank, numbered, reject

_PATH = "_path"
_KEYS = (*_zeek.SOURCES, _PATH)
_SHAPE = pl.Struct({key: pl.String() for key in _KEYS})
_TWO_OBJECTS = r"\}\s*,\s*\{"
_ONE_BY_ONE = 64


def detect(head: Head, dataset: Dataset) -> bool:
    for line in [text for text in head.lines() if text.strip()][:100]:
        if not line.lstrip().startswith("{"):
            return False
        record = _object(line)
        if record is not None and {"ts", "id.orig_h", "id.resp_h", "proto"} <= record.keys():
            if record.get(_PATH, "conn") == "conn" and ("conn_state" in record or "orig_ip_bytes" in record):
                return True
        elif record is None:
            return False
    return False


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    fields = _zeek.fields({key: key for key in _zeek.SOURCES}, dataset.lowered)
    for block in blocks(path):
        candidates = block.lines.filter(~is_blank())
        skipped = {"blank": block.lines.height - candidates.height}
        texts, is_object = _decode(candidates["line"])
        other = (texts[_PATH].is_not_null() & (texts[_PATH] != "conn")).fill_null(value=False)
        skipped["other_log"] = int(other.sum())
        whole = candidates.hstack(texts).with_columns(is_object.alias("_object")).filter(~other)
        good, unreadable = faulty(numbered(whole))
        broken = reject(good.filter(~pl.col("_object")), "broken_json", "the line is no JSON object")
        rows, unparsable = typed(good.filter("_object"), fields, _zeek.NULLS)
        yield chunk(_zeek.counted(rows), [unreadable, broken, unparsable], dataset.schema, skipped)


def _decode(lines: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """The values of `_KEYS` as texts, a row for each line, and whether the line is an object."""
    # polars reads the lines as one array: a line that holds several objects would shift all that follow.
    # None of these here, so as many objects as lines means that each line is one.
    bare = lines.str.strip_chars()
    plain = bare.str.starts_with("{") & bare.str.ends_with("}") & ~lines.str.contains(_TWO_OBJECTS)
    if lines.len() > _ONE_BY_ONE or plain.all():
        if plain.all():
            try:
                decoded = lines.str.json_decode(_SHAPE)
                if decoded.len() == lines.len():
                    return decoded.struct.unnest(), pl.Series([True], dtype=pl.Boolean).new_from_index(0, lines.len())
            except pl.exceptions.ComputeError:
                pass  # some line is none: find it
        if lines.len() > _ONE_BY_ONE:
            half = lines.len() // 2
            (left, left_is), (right, right_is) = _decode(lines[:half]), _decode(lines[half:])
            return pl.concat([left, right]), pl.concat([left_is, right_is])
    records = [_object(line) for line in lines]
    texts = {key: [_text(record.get(key)) if record else None for record in records] for key in _KEYS}
    return (
        pl.DataFrame(texts, schema={key: pl.String() for key in _KEYS}),
        pl.Series([record is not None for record in records], dtype=pl.Boolean),
    )


def _object(line: str) -> dict[str, object] | None:
    try:
        value = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


FORMAT = Format("zeek_json", "Zeek conn.log (JSON lines)", detect, read)
