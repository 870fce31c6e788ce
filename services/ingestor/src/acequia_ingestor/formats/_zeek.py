"""What the three spellings of Zeek's conn.log have in common: columns, types, how bytes are counted."""

from collections.abc import Mapping, Sequence

import polars as pl

from acequia.errors import RejectedInput
from acequia_ingestor.formats._columns import Field

_TIME = pl.Datetime("us", "UTC")
_COLUMNS: tuple[tuple[str, str, pl.DataType, str], ...] = (
    ("ts", "timestamp", _TIME, "timestamp"),
    ("id.orig_h", "src_ip", pl.String(), "src_ip"),
    ("id.resp_h", "dst_ip", pl.String(), "dst_ip"),
    ("duration", "duration", pl.Float64(), "duration"),
    ("proto", "protocol", pl.String(), "protocol"),
    ("id.orig_p", "src_port", pl.Int32(), "src_port"),
    ("id.resp_p", "dst_port", pl.Int32(), "dst_port"),
    ("orig_ip_bytes", "orig_ip_bytes", pl.Int64(), "src_bytes"),
    ("resp_ip_bytes", "resp_ip_bytes", pl.Int64(), "dst_bytes"),
    ("orig_bytes", "orig_bytes", pl.Int64(), "src_bytes"),
    ("resp_bytes", "resp_bytes", pl.Int64(), "dst_bytes"),
    ("orig_pkts", "src_packets", pl.Int64(), "src_packets"),
    ("resp_pkts", "dst_packets", pl.Int64(), "dst_packets"),
    ("conn_state", "conn_state", pl.String(), "conn_state"),
    ("label", "label", pl.String(), "label"),
)
_BYTES = ("orig_ip_bytes", "resp_ip_bytes", "orig_bytes", "resp_bytes")
SOURCES = tuple(source for source, *_ in _COLUMNS)
REQUIRED = ("ts", "id.orig_h", "id.resp_h", "duration", "proto")
NULLS = ("", "-", "(empty)")
TELLING = frozenset({"ts", "id.orig_h", "id.resp_h", "proto", "duration", "conn_state"})
"""Fields that together no other log of Zeek has."""


def require(names: Sequence[str]) -> None:
    """RejectedInput (`missing_columns`) where these are not the columns of a conn.log."""
    missing = [name for name in REQUIRED if name not in names]
    if not any(name in names for name in _BYTES):
        missing.append("orig_ip_bytes (or orig_bytes)")
    if missing:
        raise RejectedInput(
            "missing_columns",
            f"a Zeek conn.log has the columns {', '.join(missing)}; this file has {', '.join(names)[:500]}",
        )


def fields(places: Mapping[str, str], lowered: frozenset[str]) -> list[Field]:
    """The fields of a log that has the columns `places` (Zeek's name: name in the frame of texts)."""
    return [
        Field(source, places[source], column, dtype, means, lower=column in lowered)
        for source, column, dtype, means in _COLUMNS
        if source in places
    ]


def counted(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with `src_bytes`, `dst_bytes` and `bytes`: IP bytes where the log has them, else payload bytes.

    A side that was not counted adds nothing; where neither side was counted in either way, bytes are null.
    """
    have = rows.with_columns(pl.lit(None, pl.Int64).alias(name) for name in _BYTES if name not in rows.columns)
    ip = pl.col("orig_ip_bytes").is_not_null() | pl.col("resp_ip_bytes").is_not_null()
    have = have.with_columns(
        src_bytes=pl.when(ip).then("orig_ip_bytes").otherwise("orig_bytes"),
        dst_bytes=pl.when(ip).then("resp_ip_bytes").otherwise("resp_bytes"),
    )
    src, dst = pl.col("src_bytes"), pl.col("dst_bytes")
    return have.with_columns(
        bytes=pl.when(src.is_not_null() | dst.is_not_null()).then(src.fill_null(0) + dst.fill_null(0))
    )
