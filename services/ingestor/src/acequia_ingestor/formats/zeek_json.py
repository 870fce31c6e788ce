"""Zeek's conn.log as JSON lines, as its JSON writer leaves it: one object a line, fields that are unset left out.

Times: seconds since 1970 or ISO 8601 (Zeek's `json_timestamps`). Null: a key that is not there, `null`, and the texts
nothing, `-` and `(empty)`. Further keys are ignored; labels are stored in lower case. Where a line has `_path` (several
logs in one stream) and that is not `conn`, it is skipped and counted as `other_log`.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia_ingestor.formats import Chunk, Format, Head, _zeek
from acequia_ingestor.formats._columns import chunk, typed
from acequia_ingestor.formats._json import decode, object_of
from acequia_ingestor.formats._lines import blocks, faulty, is_blank, numbered, reject, without

_PATH = "_path"
_KEYS = (*_zeek.SOURCES, _PATH)
_SHAPE = {key: pl.String() for key in _KEYS}


def detect(head: Head, dataset: Dataset) -> bool:
    for line in [text for text in head.lines() if text.strip()][:100]:
        if not line.lstrip().startswith("{"):
            return False
        record = object_of(line)
        if record is not None and {"ts", "id.orig_h", "id.resp_h", "proto"} <= record.keys():
            if record.get(_PATH, "conn") == "conn" and ("conn_state" in record or "orig_ip_bytes" in record):
                return True
        elif record is None:
            return False
    return False


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    fields = _zeek.fields({key: key for key in _zeek.SOURCES}, dataset.lowered)
    for block in blocks(path):
        candidates, blank = without(block.lines, is_blank())
        skipped = {"blank": blank}
        texts, is_object = decode(candidates["line"], _SHAPE, block.data_of(candidates))
        other = (texts[_PATH].is_not_null() & (texts[_PATH] != "conn")).fill_null(value=False)
        skipped["other_log"] = int(other.sum())
        whole = candidates.hstack(texts).with_columns(is_object.alias("_object")).filter(~other)
        good, unreadable = faulty(numbered(whole))
        broken = reject(good.filter(~pl.col("_object")), "broken_json", "the line is no JSON object")
        rows, unparsable = typed(good.filter("_object"), fields, _zeek.NULLS)
        yield chunk(_zeek.counted(rows), [unreadable, broken, unparsable], dataset.schema, skipped)


FORMAT = Format("zeek_json", "Zeek conn.log (JSON lines)", detect, read)
