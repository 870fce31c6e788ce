"""UNSW-NB15's raw files, which have no header, and those to which somebody gave one."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.formats.unsw_nb15_csv import LAYOUT

Parse = Callable[..., Any]

LINE = (
    "59.166.0.0,1390,149.171.126.6,53,udp,CON,0.001055,132,164,31,29,0,0,dns,500473.9375,621800.9375,2,2,0,0,0,0,66,82,"
    "0,0,0,0,1421927414,1421927414,0.017,0.013,0,0,0,0,0,0,0,0,3,7,1,3,1,1,1,,0"
)
ROW = LINE.split(",")


def row(**changes: str) -> str:
    assert len(ROW) == len(LAYOUT) == 49
    return ",".join(changes.get(name, cell) for name, cell in zip(LAYOUT, ROW, strict=True))


def test_the_first_line_of_a_raw_file_is_a_row(parse: Parse) -> None:
    result = parse("\ufeff" + row() + "\r\n" + row(sport="47439") + "\r\n")
    assert (result.parsed.format, result.parsed.rows_in, result.parsed.lines_skipped) == ("unsw_nb15_csv", 2, {})
    assert result.rows.row(0, named=True) == {
        "timestamp": datetime(2015, 1, 22, 11, 50, 14, tzinfo=UTC),
        "src_ip": "59.166.0.0",
        "dst_ip": "149.171.126.6",
        "bytes": 296,
        "duration": 0.001055,
        "protocol": "udp",
        "src_port": 1390,
        "dst_port": 53,
        "src_bytes": 132,
        "dst_bytes": 164,
        "src_packets": 2,
        "dst_packets": 2,
        "conn_state": "CON",
        "label": "normal",
        "_line": 1,
    }


def test_with_a_header_the_columns_go_by_name(parse: Parse) -> None:
    names = ["id", *reversed(LAYOUT)]
    header = ",".join(name.capitalize() if name == "label" else name for name in names)
    result = parse("\n".join([header, ",".join(["1", *reversed(row().split(","))]), ""]))
    assert result.parsed.format == "unsw_nb15_csv"
    assert result.rows.select("src_ip", "dst_port", "bytes", "label", "_line").row(0) == (
        "59.166.0.0", 53, 296, "normal", 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("attack", "category", "label"),
    [
        ("0", "", "normal"),
        ("1", " Fuzzers ", "fuzzers"),
        ("1", "Exploits", "exploits"),
        ("1", "Backdoor", "backdoor"),
        ("1", "Backdoors", "backdoor"),
        ("1", "", "attack"),
    ],
)
def test_the_label_is_the_attacks_category(parse: Parse, attack: str, category: str, label: str) -> None:
    assert parse(row(label=attack, attack_cat=category) + "\n").rows["label"].to_list() == [label]


def test_ports_may_be_in_hex_or_missing_and_one_that_is_too_large_is_left_to_the_contract(
    parse: Parse, network_events: Dataset
) -> None:
    lines = [row(sport="0x000b", dsport="-"), row(), row(dsport="0x20205321")]
    rows = parse("\n".join(lines) + "\n").rows
    assert rows["src_port"].to_list() == [11, 1390, 1390]
    assert rows["dst_port"].to_list() == [None, 53, 0x20205321]
    _, failure = network_events.contract.filter(rows.drop("_line"))
    assert failure.counts() == {"dst_port_range": 1}


def test_broken_rows_are_rejected_among_good_ones(parse: Parse) -> None:
    lines = [row(), row() + ",", row(stime="late"), row(label="maybe"), row()[:30], row()]
    result = parse("\n".join(lines) + "\n")
    assert result.rows["_line"].to_list() == [1, 6]
    assert result.rejected.select("_line", "rule").rows() == [
        (2, "ragged_line"),
        (3, "unparsable_timestamp"),
        (4, "unparsable_label"),
        (5, "ragged_line"),
    ]


@pytest.mark.parametrize("changes", [{"srcip": "host"}, {"stime": "1.5"}, {"label": "2"}])
def test_49_columns_alone_make_no_raw_file(parse: Parse, changes: dict[str, str]) -> None:
    with pytest.raises(RejectedInput, match="a record of 49 fields without a header") as caught:
        parse(row(**changes) + "\n")
    assert caught.value.rule == "unknown_format"


def test_the_training_set_is_refused_with_what_to_hand_over_instead(parse: Parse) -> None:
    header = "id,dur,proto,service,state,spkts,dpkts,sbytes,dbytes,rate,attack_cat,label"
    with pytest.raises(RejectedInput, match="no addresses and times: hand over the raw files") as caught:
        parse(header + "\n1,0.1,tcp,-,FIN,6,4,258,172,74.08,Normal,0\n")
    assert caught.value.rule == "missing_columns"


def test_a_header_that_lacks_one_column_says_which(parse: Parse) -> None:
    with pytest.raises(RejectedInput, match="lacks dbytes"):
        parse("srcip,dstip,stime,dur,proto,sbytes\n", format="unsw_nb15_csv")
