"""The contract of network events, rule by rule."""

import ipaddress
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acequia.datasets import load_registry

DATASET = load_registry()["network_events"]
GOOD: dict[str, Any] = {
    "timestamp": datetime(2025, 12, 20, tzinfo=UTC),
    "src_ip": "10.0.0.1",
    "dst_ip": "2001:db8::1",
    "bytes": 0,
    "duration": None,
    "protocol": "tcp",
    "src_port": 0,
    "dst_port": 65_535,
    "src_bytes": 0,
    "dst_bytes": None,
    "src_packets": 1,
    "dst_packets": None,
    "conn_state": None,
    "label": None,
}


def broken_rules(**changes: Any) -> set[str]:
    frame = pl.DataFrame([GOOD, GOOD | changes], schema=dict(DATASET.schema))
    good, failure = DATASET.contract.filter(frame)
    assert good.height + len(failure) == 2
    assert all(count == 1 for count in failure.counts().values())
    return set(failure.counts())


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"timestamp": None}, "timestamp_missing"),
        ({"timestamp": datetime(1969, 12, 31, tzinfo=UTC)}, "timestamp_range"),
        ({"timestamp": datetime(2100, 1, 1, tzinfo=UTC)}, "timestamp_range"),
        ({"src_ip": None}, "src_ip_missing"),
        ({"src_ip": "10.0.0.256"}, "src_ip_valid"),
        ({"src_ip": ""}, "src_ip_valid"),
        ({"dst_ip": None}, "dst_ip_missing"),
        ({"dst_ip": "host.example"}, "dst_ip_valid"),
        ({"bytes": None}, "bytes_missing"),
        ({"bytes": -1}, "bytes_negative"),
        ({"duration": float("inf")}, "duration_finite"),
        ({"duration": float("nan")}, "duration_finite"),
        ({"duration": -0.1}, "duration_negative"),
        ({"protocol": None}, "protocol_missing"),
        ({"protocol": "TCP"}, "protocol_valid"),
        ({"protocol": "t c p"}, "protocol_valid"),
        ({"src_port": -1}, "src_port_range"),
        ({"dst_port": 65_536}, "dst_port_range"),
        ({"src_bytes": -1}, "src_bytes_negative"),
        ({"dst_bytes": -1}, "dst_bytes_negative"),
        ({"src_packets": -1}, "src_packets_negative"),
        ({"dst_packets": -1}, "dst_packets_negative"),
    ],
)
def test_a_row_that_breaks_a_rule_is_told_by_its_name(changes: dict[str, Any], rule: str) -> None:
    assert broken_rules(**changes) == {rule}


@pytest.mark.parametrize("protocol", ["udp", "icmp", "ipv6-icmp", "unknown_transport", "gre"])
def test_rows_without_what_is_optional_are_valid(protocol: str) -> None:
    optional = {name: None for name in DATASET.schema if name not in DATASET.required} | {"duration": 1.5}
    assert broken_rules(protocol=protocol, **optional) == set()


@given(st.one_of(st.ip_addresses(), st.ip_addresses(v=6)).map(str))
def test_every_address_is_valid(address: str) -> None:
    assert broken_rules(src_ip=address, dst_ip=address) == set()


@given(st.text("0123456789abcf:.", max_size=20) | st.ip_addresses(v=6).map(lambda a: a.exploded[3:]))
def test_only_addresses_are_valid(text: str) -> None:
    try:
        ipaddress.ip_address(text)
        expected = set()
    except ValueError:
        expected = {"src_ip_valid"}
    assert broken_rules(src_ip=text) == expected


def test_the_contract_has_exactly_the_canonical_columns() -> None:
    assert dict(pl.Schema(DATASET.contract)) == dict(DATASET.schema)
