"""Zeek's conn.log in its three spellings."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acequia.errors import RejectedInput
from acequia_ingestor.formats._columns import convert

Parse = Callable[..., Any]

FIELDS = ("ts", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "duration", "orig_bytes", "resp_bytes")
FIELDS += ("conn_state", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes")
ROW = (
    "1545403816.962094",
    "10.0.0.1",
    "41040",
    "10.0.0.2",
    "80",
    "tcp",
    "3.5",
    "10",
    "20",
    "SF",
    "2",
    "100",
    "3",
    "200",
)


def header(fields: tuple[str, ...] = FIELDS, *, unset: str = "-") -> str:
    return f"#separator \\x09\n#empty_field\t(empty)\n#unset_field\t{unset}\n#path\tconn\n" + "\t".join(
        ["#fields", *fields]
    )


def row(**changes: str) -> tuple[str, ...]:
    return tuple(changes.get(name.replace(".", "_"), value) for name, value in zip(FIELDS, ROW, strict=True))


def tsv(*rows: tuple[str, ...]) -> str:
    return "\n".join([header(), *("\t".join(r) for r in rows), "#close\t2025", ""])


def test_ip_bytes_count_and_payload_bytes_stand_in_where_they_are_missing(parse: Parse) -> None:
    rows = parse(
        tsv(
            row(),
            row(orig_ip_bytes="-", resp_ip_bytes="-"),
            row(resp_ip_bytes="-"),
            row(orig_ip_bytes="-", resp_ip_bytes="-", orig_bytes="-", resp_bytes="-"),
        )
    ).rows
    assert rows["bytes"].to_list() == [300, 30, 100, None]
    assert rows["src_bytes"].to_list() == [100, 10, 100, None]
    assert rows["dst_bytes"].to_list() == [200, 20, None, None]


def test_the_header_names_the_columns_in_any_order_and_the_unset_field(parse: Parse) -> None:
    fields = ("_node_name", *reversed(FIELDS))
    text = header(fields, unset="NIL") + "\n" + "\t".join(["worker-1", *reversed(row(duration="NIL"))]) + "\n"
    only = parse(text).rows.row(0, named=True)
    assert (only["src_ip"], only["dst_port"], only["bytes"], only["duration"]) == ("10.0.0.1", 80, 300, None)


def test_a_header_that_comes_again_may_name_other_columns(parse: Parse) -> None:
    again = header((*FIELDS, "label"))
    result = parse(tsv(row()) + again + "\n" + "\t".join([*row(), "Malicious"]) + "\n")
    assert result.rows["label"].to_list() == [None, "malicious"]
    assert result.rows["_line"].to_list() == [6, 13]
    assert result.parsed.lines_skipped == {"comment": 11}


def test_the_last_columns_of_iot23_own_logs_are_held_apart_by_spaces(parse: Parse) -> None:
    fields = (*FIELDS, "tunnel_parents   label   detailed-label")
    text = header(fields) + "\n" + "\t".join([*row(), "-   Malicious   PartOfAHorizontalPortScan"]) + "\n"
    assert parse(text).rows["label"].to_list() == ["malicious"]


def test_another_separator_is_followed(parse: Parse) -> None:
    text = f"#separator ;\n#fields;{';'.join(FIELDS)}\n{';'.join(row())}\n"
    assert parse(text).rows["bytes"].to_list() == [300]


def test_ipv6_addresses_and_whole_seconds(parse: Parse) -> None:
    only = parse(tsv(row(ts="1540469303", id_orig_h="FE80::1"))).rows.row(0, named=True)
    assert only["timestamp"] == datetime(2018, 10, 25, 12, 8, 23, tzinfo=UTC)
    assert only["src_ip"] == "fe80::1"


def test_what_cannot_be_read_is_rejected_with_its_line_and_column(parse: Parse) -> None:
    lines = tsv(
        row(),
        row()[:-1],
        row(id_orig_p="http"),
        row(ts="yesterday", duration="long"),
        (*row(), "more"),
        row(),
    )
    result = parse(lines)
    assert result.rows["_line"].to_list() == [6, 11]
    assert result.rejected.select("_line", "rule").rows() == [
        (7, "ragged_line"),
        (8, "unparsable_src_port"),
        (9, "unparsable_timestamp"),
        (10, "ragged_line"),
    ]
    assert result.parsed.rejected == {"ragged_line": 2, "unparsable_src_port": 1, "unparsable_timestamp": 1}
    assert result.rejected["reason"].to_list() == [
        "13 fields where 14 are expected",
        "column 'id.orig_p' holds 'http', which is no whole number (32 bits)",
        "column 'ts' holds 'yesterday', which is no time",
        "15 fields where 14 are expected",
    ]
    assert result.rejected["raw"][1] == "\t".join(row(id_orig_p="http"))


def test_values_that_read_but_make_no_sense_are_left_to_the_contract(parse: Parse) -> None:
    result = parse(tsv(row(orig_ip_bytes="-5", id_orig_h="nonsense", duration="-1", id_resp_p="70000")))
    only = result.rows.row(0, named=True)
    assert (only["src_bytes"], only["src_ip"], only["duration"], only["dst_port"]) == (-5, "nonsense", -1.0, 70_000)


@pytest.mark.parametrize("text", ["nan", "inf", "1e300", "-99999999999999", "2025-13-01T00:00:00Z", "0x10", "1 2"])
def test_a_time_that_is_none_is_unparsable(parse: Parse, text: str) -> None:
    assert parse(tsv(row(), row(ts=text))).parsed.rejected == {"unparsable_timestamp": 1}


@given(st.lists(st.integers(0, 4_102_444_799_999_999), min_size=1, max_size=50))
def test_every_microsecond_until_2100_is_read_exactly(micros: list[int]) -> None:
    texts = pl.Series([f"{m // 1_000_000}.{m % 1_000_000:06d}" for m in micros])
    assert convert(texts, pl.Datetime("us", "UTC")).to_physical().to_list() == micros


def test_a_log_of_another_kind_lacks_columns(parse: Parse) -> None:
    text = "#separator \\x09\n#path\tdns\n#fields\tts\tid.orig_h\tid.resp_h\tproto\tquery\n1.0\ta\tb\tudp\tx\n"
    with pytest.raises(RejectedInput, match="duration") as caught:
        parse(text, format="zeek_tsv")
    assert caught.value.rule == "missing_columns"
    with pytest.raises(RejectedInput) as caught:
        parse(text)
    assert caught.value.rule == "unknown_format"


def test_records_without_a_header_are_no_log(parse: Parse) -> None:
    with pytest.raises(RejectedInput, match="before any #fields line"):
        parse("\t".join(row()) + "\n", format="zeek_tsv")


def record(**changes: object) -> dict[str, object]:
    values: dict[str, object] = dict(zip(FIELDS, ROW, strict=True))
    values |= {"ts": 1545403816.962094, "id.orig_p": 41040, "orig_ip_bytes": 100, "resp_ip_bytes": 200, "duration": 3.5}
    return {k: v for k, v in (values | {k.replace("id_", "id."): v for k, v in changes.items()}).items() if v != "drop"}


def jsonl(*records: object) -> str:
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


def test_json_times_may_be_iso_8601_and_unset_fields_are_left_out(parse: Parse) -> None:
    rows = parse(jsonl(record(), record(ts="2018-12-21T14:50:16.962094Z", duration="drop"))).rows
    assert set(rows["timestamp"]) == {datetime(2018, 12, 21, 14, 50, 16, 962094, tzinfo=UTC)}
    assert rows["duration"].to_list() == [3.5, None]


def test_broken_json_is_rejected_line_by_line(parse: Parse) -> None:
    result = parse(
        jsonl(
            record(),
            '{"ts": 1.0,',
            "[1, 2]",
            record(id_orig_p="x"),
            "",
            '{"ts":1.0},{"ts":2.0}',
            '{"ts":1.0} x',
            record(orig_ip_bytes={"a": 1}),
            '{"a":' + "[" * 100_000,
            record(),
        ),
        format="zeek_json",
    )
    assert result.rows["_line"].to_list() == [1, 10]
    assert result.rejected.select("_line", "rule").rows() == [
        (2, "broken_json"),
        (3, "broken_json"),
        (4, "unparsable_src_port"),
        (6, "broken_json"),
        (7, "broken_json"),
        (8, "unparsable_src_bytes"),
        (9, "broken_json"),
    ]
    assert result.parsed.lines_skipped == {"blank": 1}


def test_lines_that_only_together_are_json_are_not_taken_for_one(parse: Parse) -> None:
    many = [record() for _ in range(100)]
    result = parse(jsonl(*many, '{"ts":1.0,"a":[{}', "{}]}", '{"ts":1.0},{"ts":2.0}', *many))
    assert result.rejected["_line"].to_list() == [101, 102, 103]


def test_other_logs_in_a_json_stream_are_skipped(parse: Parse) -> None:
    result = parse(jsonl(record(_path="conn"), record(_path="dns"), record()))
    assert result.rows["_line"].to_list() == [1, 3]
    assert result.parsed.rows_in == 2
    assert result.parsed.lines_skipped == {"other_log": 1}


def test_csv_nulls_are_nothing_a_dash_and_empty(parse: Parse) -> None:
    lines = [",".join(FIELDS), *(",".join(row(duration=null)) for null in ("", "-", "(empty)", "1.5"))]
    assert parse("\r\n".join(lines)).rows["duration"].to_list() == [None, None, None, 1.5]
