"""JSON lines into texts, all lines of a block at once."""

import json
from collections.abc import Mapping

import polars as pl

from acequia_ingestor.formats._lines import starts_as_packed

Shape = Mapping[str, "pl.DataType"]
_ONE_BY_ONE = 64
_NOT_READ = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


def decode(lines: pl.Series, shape: Shape, data: bytes | None = None) -> tuple[pl.DataFrame, pl.Series]:
    """The values of `shape` (texts, or structs of texts) as texts, a row for each line, and whether the line is one.

    A value that is an object or a list stands as its JSON. What is no object where a struct is wanted is null.
    `data`: the same lines, and no other, as they stand in the file.
    """
    data = data or lines.str.join("\n").item().encode()
    if lines.len() and not starts_as_packed(data):
        try:
            # each line by itself: a line that holds two objects, or half of one, is an error
            decoded = pl.read_ndjson(data, schema=dict(shape))
            if decoded.height == lines.len():
                return decoded.rechunk(), pl.Series([True], dtype=pl.Boolean).new_from_index(0, lines.len())
        except _NOT_READ:
            pass  # some line is none: find it
    if lines.len() > _ONE_BY_ONE:
        half = lines.len() // 2
        (left, left_is), (right, right_is) = decode(lines[:half], shape), decode(lines[half:], shape)
        return pl.concat([left, right]), pl.concat([left_is, right_is])
    records = [object_of(line) for line in lines]
    texts = {
        key: [_of(dtype, record.get(key)) if record else None for record in records] for key, dtype in shape.items()
    }
    return (
        pl.DataFrame(texts, schema=dict(shape)),
        pl.Series([record is not None for record in records], dtype=pl.Boolean),
    )


def object_of(line: str) -> dict[str, object] | None:
    """The object that a line is; None where it is none. Numbers stay as they are spelled."""
    try:
        value = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _of(dtype: pl.DataType, value: object) -> object:
    if isinstance(dtype, pl.Struct):
        if not isinstance(value, dict):
            return None
        return {field.name: _text(value.get(field.name)) for field in dtype.fields}
    return _text(value)


def _text(value: object) -> str | None:
    if value is None:
        return None
    # half of a surrogate pair is a text to JSON, and none to UTF-8
    text = value if isinstance(value, str) else json.dumps(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
