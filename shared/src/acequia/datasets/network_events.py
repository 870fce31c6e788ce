"""Network events: who talked to whom, when, for how long, and how much."""

from datetime import UTC, datetime
from types import MappingProxyType

import dataframely as dy
import polars as pl

from acequia.datasets import Dataset, Schedule

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_H = r"[0-9a-f]{1,4}"
_V6 = "|".join(
    [
        rf"(?:{_H}:){{7}}{_H}",
        rf"(?:{_H}:){{6}}{_V4}",
        rf"::(?:{_H}:){{0,5}}{_V4}",
        *(rf"(?:{_H}:){{{n}}}:(?:{_H}:){{0,{5 - n}}}{_V4}" for n in range(1, 6)),
        *(rf"(?:{_H}:){{{n}}}(?::{_H}){{1,{7 - n}}}" for n in range(1, 7)),
        rf"(?:{_H}:){{1,7}}:",
        rf"::(?:{_H}:){{0,6}}{_H}",
        "::",
    ]
)
IPV4 = rf"^{_V4}$"
"""Dotted decimal, no leading zeros."""
IPV6 = rf"^(?:{_V6})$"
"""RFC 4291 in lower case, with or without `::`, with or without a dotted tail; no zone."""
_PROTOCOL = r"^[a-z0-9][a-z0-9_.+/-]{0,31}$"

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def _address(column: str) -> pl.Expr:
    return pl.col(column).str.contains(IPV4) | pl.col(column).str.contains(IPV6)


def _at_least_zero(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column) >= 0)


def _port(column: str) -> pl.Expr:
    return pl.col(column).is_null() | pl.col(column).is_between(0, 65535)


class NetworkEvents(dy.Schema):
    """A canonical row. Units: UTC microseconds, bytes, seconds.

    Columns are declared nullable and what must be there is a rule with a name, because these names are what people
    read in quarantine and in the counts. A rule that is about a value holds where there is no value.
    """

    timestamp = dy.Datetime(nullable=True, time_unit="us", time_zone="UTC")
    src_ip = dy.String(nullable=True)
    dst_ip = dy.String(nullable=True)
    bytes = dy.Int64(nullable=True)
    duration = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    protocol = dy.String(nullable=True)
    src_port = dy.Int32(nullable=True)
    dst_port = dy.Int32(nullable=True)
    src_bytes = dy.Int64(nullable=True)
    dst_bytes = dy.Int64(nullable=True)
    src_packets = dy.Int64(nullable=True)
    dst_packets = dy.Int64(nullable=True)
    conn_state = dy.String(nullable=True)
    label = dy.String(nullable=True)

    @dy.rule()
    def timestamp_missing(cls) -> pl.Expr:
        return pl.col("timestamp").is_not_null()

    @dy.rule()
    def timestamp_range(cls) -> pl.Expr:
        """From 1970 to before 2100: what lies outside is a unit mixed up (milliseconds, nanoseconds)."""
        at = pl.col("timestamp")
        return at.is_null() | at.is_between(pl.lit(EARLIEST), pl.lit(LATEST), closed="left")

    @dy.rule()
    def src_ip_missing(cls) -> pl.Expr:
        return pl.col("src_ip").is_not_null()

    @dy.rule()
    def src_ip_valid(cls) -> pl.Expr:
        return pl.col("src_ip").is_null() | _address("src_ip")

    @dy.rule()
    def dst_ip_missing(cls) -> pl.Expr:
        return pl.col("dst_ip").is_not_null()

    @dy.rule()
    def dst_ip_valid(cls) -> pl.Expr:
        return pl.col("dst_ip").is_null() | _address("dst_ip")

    @dy.rule()
    def bytes_missing(cls) -> pl.Expr:
        return pl.col("bytes").is_not_null()

    @dy.rule()
    def bytes_negative(cls) -> pl.Expr:
        return _at_least_zero("bytes")

    @dy.rule()
    def duration_finite(cls) -> pl.Expr:
        return pl.col("duration").is_null() | pl.col("duration").is_finite()

    @dy.rule()
    def duration_negative(cls) -> pl.Expr:
        return _at_least_zero("duration")

    @dy.rule()
    def protocol_missing(cls) -> pl.Expr:
        return pl.col("protocol").is_not_null()

    @dy.rule()
    def protocol_valid(cls) -> pl.Expr:
        """A lower-case word. No list of known ones: a rare protocol is what a detector should see."""
        return pl.col("protocol").is_null() | pl.col("protocol").str.contains(_PROTOCOL)

    @dy.rule()
    def src_port_range(cls) -> pl.Expr:
        return _port("src_port")

    @dy.rule()
    def dst_port_range(cls) -> pl.Expr:
        return _port("dst_port")

    @dy.rule()
    def src_bytes_negative(cls) -> pl.Expr:
        return _at_least_zero("src_bytes")

    @dy.rule()
    def dst_bytes_negative(cls) -> pl.Expr:
        return _at_least_zero("dst_bytes")

    @dy.rule()
    def src_packets_negative(cls) -> pl.Expr:
        return _at_least_zero("src_packets")

    @dy.rule()
    def dst_packets_negative(cls) -> pl.Expr:
        return _at_least_zero("dst_packets")


DATASET = Dataset(
    name="network_events",
    title="Network events",
    schema=MappingProxyType(
        {
            "timestamp": pl.Datetime("us", "UTC"),
            "src_ip": pl.String(),
            "dst_ip": pl.String(),
            "bytes": pl.Int64(),
            "duration": pl.Float64(),
            "protocol": pl.String(),
            "src_port": pl.Int32(),
            "dst_port": pl.Int32(),
            "src_bytes": pl.Int64(),
            "dst_bytes": pl.Int64(),
            "src_packets": pl.Int64(),
            "dst_packets": pl.Int64(),
            "conn_state": pl.String(),
            "label": pl.String(),
        }
    ),
    contract=NetworkEvents,
    required=("timestamp", "src_ip", "dst_ip", "bytes", "duration", "protocol"),
    lowered=frozenset({"src_ip", "dst_ip", "protocol", "label"}),
    formats=(
        "zeek_tsv",
        "zeek_json",
        "zeek_csv",
        "suricata_eve",
        "argus",
        "nfdump_csv",
        "unsw_nb15_csv",
        "cic_ids2017_csv",
        "canonical_parquet",
        "canonical_csv",
    ),
    patterns=(
        "conn*.log*",
        "*conn.log*",
        "eve*.json*",
        "*.binetflow*",
        "nfdump*.csv*",
        "nfcapd*.csv*",
        "unsw-nb15_*.csv*",
        "*.pcap_iscx.csv*",
        "network_events*.csv*",
        "network_events*.parquet",
    ),
    readers=frozenset({"transformer", "trainer", "evaluator", "lakehouse"}),
    event_time="timestamp",
    features=(  # what the transformer adds and documents
        "log_bytes",
        "log_duration",
        "duration_missing",
        "duration_zero",
        "log_bytes_rate",
        "protocol_rarity",
        "source_interval",
        "pair_interval",
        "pair_interval_change",
        "new_destination",
        "log_fan_out",
        "log_ports_seen",
        "log_recent_events",
    ),
    synthetic=True,
    schedules=(Schedule("network_daily", "0 2 * * *", "UTC", {"kind": "synthetic", "rows": 10_000}),),
)
