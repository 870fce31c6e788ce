"""What sensors' flow records have in common: protocols by number, ports in hex, two directions that make one sum."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import polars as pl

from acequia_ingestor.formats._columns import Field, convert

PROTOCOLS: Mapping[str, str] = MappingProxyType(
    {
        "0": "hopopt",
        "1": "icmp",
        "2": "igmp",
        "4": "ipv4",
        "6": "tcp",
        "8": "egp",
        "17": "udp",
        "33": "dccp",
        "41": "ipv6",
        "46": "rsvp",
        "47": "gre",
        "50": "esp",
        "51": "ah",
        "58": "ipv6-icmp",
        "88": "eigrp",
        "89": "ospf",
        "103": "pim",
        "108": "ipcomp",
        "112": "vrrp",
        "115": "l2tp",
        "132": "sctp",
        "136": "udplite",
    }
)
"""IANA's numbers that are met with. Another number stays what it is."""

Quick = Callable[[pl.Expr], pl.Expr]
Read = Callable[[pl.Series], pl.Series]

_TYPES: Mapping[str, pl.DataType] = MappingProxyType(
    {
        "timestamp": pl.Datetime("us", "UTC"),
        "end": pl.Datetime("us", "UTC"),
        "src_ip": pl.String(),
        "dst_ip": pl.String(),
        "bytes": pl.Int64(),
        "duration": pl.Float64(),
        "protocol": pl.String(),
        "src_port": pl.Int32(),
        "dst_port": pl.Int32(),
        "src_bytes": pl.Int64(),
        "dst_bytes": pl.Int64(),
        "packets": pl.Int64(),
        "src_packets": pl.Int64(),
        "dst_packets": pl.Int64(),
        "conn_state": pl.String(),
        "label": pl.String(),
        "attack": pl.Int32(),
    }
)
_MEANS = {"end": "duration", "packets": "src_packets", "attack": "label"}


def flow_fields(
    names: Mapping[str, Sequence[str]],
    places: Mapping[str, str],
    lowered: frozenset[str],
    *,
    quick: Mapping[str, Quick] | None = None,
    read: Mapping[str, Read] | None = None,
) -> list[Field]:
    """The fields of a file that has the columns `places`. `names`: what the file may call each column of ours; `quick`
    and `read`: how it spells them, where that is not the usual way. Beside the canonical columns there are `end` (a
    time), `packets` (both directions) and `attack` (0 or 1)."""
    spelled = {"src_port": _port, "dst_port": _port, "protocol": _protocol, **(quick or {})}
    spelled_else = {"src_port": port_of_text, "dst_port": port_of_text, **(read or {})}
    fields = []
    for column, aliases in names.items():
        source = next((name for name in aliases if name in places), None)
        if source is None:
            continue
        fields.append(
            Field(
                source,
                places[source],
                column,
                _TYPES[column],
                _MEANS.get(column, column),
                lower=column in lowered,
                read=spelled_else.get(column),
                quick=spelled.get(column),
            )
        )
    return fields


def with_all(rows: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """`rows` with these columns, null where the file has none."""
    return rows.with_columns(
        pl.lit(None, _TYPES[column]).alias(column) for column in columns if column not in rows.columns
    )


def both_ways(kind: str) -> pl.Expr:
    """`src_<kind>` + `dst_<kind>`. A direction that was not counted adds nothing; null where neither was."""
    src, dst = pl.col(f"src_{kind}"), pl.col(f"dst_{kind}")
    return pl.when(src.is_not_null() | dst.is_not_null()).then(src.fill_null(0) + dst.fill_null(0))


def port_of_text(texts: pl.Series) -> pl.Series:
    """Ports in hex (`0x0303`), or as `convert` takes whole numbers; null where a text is neither."""
    bare = texts.str.strip_chars().str.to_lowercase()
    is_hex = bare.str.contains(r"^0x[0-9a-f]{1,8}$").fill_null(value=False)
    digits = bare.str.strip_prefix("0x").set(~is_hex, None)
    ports = digits.str.to_integer(base=16, strict=False).cast(pl.Int32, strict=False)
    return ports.zip_with(is_hex, convert(texts, pl.Int32()))


def _port(column: pl.Expr) -> pl.Expr:
    return column.cast(pl.Int32, strict=False)


def _protocol(column: pl.Expr) -> pl.Expr:
    return column.replace(PROTOCOLS)
