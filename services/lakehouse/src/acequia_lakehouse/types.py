"""Which columns Iceberg takes, and rows in the types of a table. Pure."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa

from acequia.errors import AcequiaError

_DAMAGED = ("deserialize thrift", "Unexpected end of stream", "Corrupt", "corrupt", "Parquet magic bytes")


class NotParquet(AcequiaError):
    """What should be a Parquet file is none, or is damaged. Others of its plan are not to blame."""

    @classmethod
    @contextmanager
    def told(cls, location: str) -> Iterator[None]:
        """Raises NotParquet for what Arrow says of such a file."""
        try:
            yield
        except pa.ArrowInvalid as error:
            raise cls(f"not a Parquet file that can be read: {_first_line(error)}") from error
        except OSError as error:
            if any(word in str(error) for word in _DAMAGED):
                raise cls(f"a damaged Parquet file: {_first_line(error)}") from error
            raise


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def taken(schema: pa.Schema) -> pa.Schema:
    """The same columns in types that Iceberg (format 2) has, each holding every value; no column is required.

    ArrowTypeError names a column that has no such type.
    """
    return pa.schema([pa.field(f.name, _type(f.type, f.name)) for f in schema])


def lies_as_taken(schema: pa.Schema) -> bool:
    """Whether a file with these columns can be registered as it is: `taken` changes nothing that a reader would see."""
    return all(_type(f.type, f.name, strict=False) == f.type for f in schema)


_EQUAL = {
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}
"""Of one form in Parquet."""
_WIDENED = {
    pa.uint8(): pa.int32(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.null(): pa.string(),
}


def _type(kind: pa.DataType, name: str, *, strict: bool = True) -> pa.DataType:
    """`strict`: also where another type is stored alike. Raises ArrowTypeError where there is none."""
    if kind in _WIDENED:
        return _WIDENED[kind]
    if kind in _EQUAL or pa.types.is_int8(kind) or pa.types.is_int16(kind):
        return _EQUAL.get(kind, pa.int32()) if strict else kind
    if pa.types.is_dictionary(kind):
        return _type(kind.value_type, name) if strict else kind
    if pa.types.is_nested(kind):
        return _nested(kind, name, strict=strict)
    return _time(kind, name, strict=strict)


def _nested(kind: pa.DataType, name: str, *, strict: bool) -> pa.DataType:
    types = pa.types
    if types.is_struct(kind):
        fields = [(f.name, _type(f.type, name, strict=strict)) for f in kind.fields]
        return pa.struct(fields) if strict or [t for _, t in fields] != [f.type for f in kind.fields] else kind
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        element = _type(kind.value_type, name, strict=strict)
        return pa.list_(element) if strict or element != kind.value_type else kind
    raise pa.ArrowTypeError(f"{name}: a table has no type for {kind}")


def _time(kind: pa.DataType, name: str, *, strict: bool) -> pa.DataType:
    types = pa.types
    if types.is_timestamp(kind):
        unit_known = kind.unit == "us" or (not strict and kind.unit == "ms")
        zone = "UTC" if kind.tz is not None else None
        return kind if unit_known and kind.tz == zone else pa.timestamp("us", zone)
    if types.is_time(kind):
        return pa.time64("us")
    if types.is_duration(kind):
        return pa.int64()
    if types.is_decimal(kind) and (types.is_decimal256(kind) or not types.is_decimal128(kind)):
        if kind.precision > 38:
            raise pa.ArrowTypeError(f"{name}: {kind} has more digits than a table can hold")
        return pa.decimal128(kind.precision, kind.scale)
    simple = (
        types.is_boolean, types.is_int32, types.is_int64, types.is_float32, types.is_float64, types.is_decimal128,
        types.is_string, types.is_binary, types.is_fixed_size_binary, types.is_date32,
    )  # fmt: skip
    if any(check(kind) for check in simple):
        return kind
    raise pa.ArrowTypeError(f"{name}: a table has no type for {kind}")


def as_rows(rows: pa.Table, columns: pa.Schema, constants: Mapping[str, str]) -> pa.Table:
    """`rows` with just these columns, in these types; null where they lack one. `constants`: the same for each row.

    ArrowInvalid where a value does not fit.
    """
    arrays = []
    for f in columns:
        if f.name in constants:
            arrays.append(pa.repeat(pa.scalar(constants[f.name], f.type), rows.num_rows))
        elif f.name not in rows.column_names:
            arrays.append(pa.nulls(rows.num_rows, f.type))
        else:
            column = rows.column(f.name)
            arrays.append(column if column.type == f.type else column.cast(f.type))
    return pa.table(arrays, schema=columns)
