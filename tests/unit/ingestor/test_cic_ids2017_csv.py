"""CIC-IDS2017's flows with addresses and times, and the ways in which its files are odd."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from acequia.datasets import Dataset
from acequia.errors import RejectedInput

Parse = Callable[..., Any]

HEADER = (
    "Flow ID, Source IP, Source Port, Destination IP, Destination Port, Protocol, Timestamp, Flow Duration,"
    " Total Fwd Packets, Total Backward Packets,Total Length of Fwd Packets, Total Length of Bwd Packets,Flow Bytes/s,"
    " Fwd Header Length, Bwd Header Length, Fwd Header Length, Label"
)
NAMES = HEADER.split(",")
LINE = (
    "192.168.10.5-104.16.207.165-54865-443-6,192.168.10.5,54865,104.16.207.165,443,6,7/7/2017 3:30,1293792,3,7,26,"
    "11607,Infinity,72,152,72,BENIGN"
)
ROW = LINE.split(",")


def row(**changes: str) -> str:
    names = [name.strip().lower().replace(" ", "_") for name in NAMES]
    return ",".join(changes.get(name, cell) for name, cell in zip(names, ROW, strict=True))


def file(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows, ""])


def test_a_flow_arrives_whole_under_names_with_spaces_and_a_column_that_comes_twice(parse: Parse) -> None:
    result = parse(file(row()))
    assert result.parsed.format == "cic_ids2017_csv"
    assert result.rows.row(0, named=True) == {
        "timestamp": datetime(2017, 7, 7, 15, 30, tzinfo=UTC),
        "src_ip": "192.168.10.5",
        "dst_ip": "104.16.207.165",
        "bytes": 11633,
        "duration": 1.293792,
        "protocol": "tcp",
        "src_port": 54865,
        "dst_port": 443,
        "src_bytes": 26,
        "dst_bytes": 11607,
        "src_packets": 3,
        "dst_packets": 7,
        "conn_state": None,
        "label": "benign",
        "_line": 2,
    }


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("03/07/2017 08:55:58", "2017-07-03T08:55:58"),
        ("03/07/2017 12:00:01", "2017-07-03T12:00:01"),
        ("03/07/2017 01:00:01", "2017-07-03T13:00:01"),
        ("3/7/2017 1:00:01", "2017-07-03T13:00:01"),
        ("4/7/2017 8:54", "2017-07-04T08:54:00"),
        ("7/7/2017 5:02", "2017-07-07T17:02:00"),
        ("7/7/2017 5:02:00 AM", "2017-07-07T05:02:00"),
        ("07/07/2017 05:02:00 PM", "2017-07-07T17:02:00"),
        ("7/7/2017 5:02 pm", "2017-07-07T17:02:00"),
        ("7/7/2017 12:02:00 AM", "2017-07-07T00:02:00"),
        ("8/7/2017 5:02", "2017-07-08T05:02:00"),
        ("02/03/2018 03:15:00", "2018-03-02T03:15:00"),
        ("25/12/2017 23:59:59", "2017-12-25T23:59:59"),
        ("2017-07-07 05:02:00.123456", "2017-07-07T05:02:00.123456"),
    ],
)
def test_a_day_comes_before_its_month_and_the_afternoons_of_the_capture_are_found_again(
    parse: Parse, text: str, at: str
) -> None:
    assert parse(file(row(timestamp=text))).rows["timestamp"].to_list() == [datetime.fromisoformat(f"{at}+00:00")]


@pytest.mark.parametrize("text", ["13/13/2017 8:54", "7/7/2017", "8:54", "7/7/2017 25:00", "7/7/99999 8:54:00"])
def test_a_time_that_is_none_is_unparsable(parse: Parse, text: str) -> None:
    assert parse(file(row(), row(timestamp=text))).parsed.rejected == {"unparsable_timestamp": 1}


def test_protocols_are_numbers_and_rare_ones_stay_numbers(parse: Parse) -> None:
    rows = parse(file(*(row(protocol=number) for number in ("6", "17", "0", "1", "253")))).rows
    assert rows["protocol"].to_list() == ["tcp", "udp", "hopopt", "icmp", "253"]


def test_the_dash_of_the_web_attacks_is_understood_in_each_of_its_encodings(parse: Parse) -> None:
    latin, proper, lost = (
        row(label="Web Attack # XSS").encode().replace(b"#", dash)
        for dash in (b"\x96", "\u2013".encode(), "\ufffd".encode())
    )
    result = parse(file().encode() + b"\n".join([latin, proper, lost, b""]))
    assert result.rows["label"].to_list() == ["web attack \u2013 xss"] * 2 + ["web attack \ufffd xss"]
    assert result.parsed.rejected == {}


def test_another_byte_that_is_no_utf8_is_not_guessed_at(parse: Parse) -> None:
    result = parse(file(row()).encode() + row(label="d\xe9j\xe0").encode("latin-1") + b"\n")
    assert result.parsed.rejected == {"not_utf8": 1}


def test_lines_of_nothing_but_commas_are_blank(parse: Parse) -> None:
    empty = "," * (len(NAMES) - 1)
    result = parse(file(row(), empty, row(), empty, empty, ""))
    assert result.rows["_line"].to_list() == [2, 4]
    assert result.parsed.lines_skipped == {"blank": 4, "header": 1}


def test_a_negative_duration_is_left_to_the_contract_and_a_float_counts_where_it_is_whole(
    parse: Parse, network_events: Dataset
) -> None:
    rows = parse(file(row(flow_duration="-1"), row(total_length_of_fwd_packets="26.0"))).rows
    assert rows["src_bytes"].to_list() == [26, 26]
    _, failure = network_events.contract.filter(rows.drop("_line"))
    assert failure.counts() == {"duration_negative": 1}


def test_the_shorter_names_of_later_cicflowmeters_are_known(parse: Parse) -> None:
    header = (
        "Flow ID,Src IP,Src Port,Dst IP,Dst Port,Protocol,Timestamp,Flow Duration,Tot Fwd Pkts,Tot Bwd Pkts,"
        "TotLen Fwd Pkts,TotLen Bwd Pkts,Label"
    )
    line = "x,10.0.0.1,1,10.0.0.2,2,17,02/03/2018 08:47:38 AM,5000000,2,1,100,50,Benign"
    only = parse(file(line, header=header)).rows.row(0, named=True)
    assert (only["bytes"], only["duration"], only["protocol"], only["src_packets"]) == (150, 5.0, "udp", 2)


@pytest.mark.parametrize(
    "header",
    [
        ",".join(NAMES[4:5] + NAMES[7:]),
        "Dst Port,Protocol,Timestamp,Flow Duration,Tot Fwd Pkts,Tot Bwd Pkts,TotLen Fwd Pkts,TotLen Bwd Pkts,Label",
    ],
)
def test_machine_learning_csv_is_refused_with_what_to_hand_over_instead(parse: Parse, header: str) -> None:
    with pytest.raises(
        RejectedInput, match=r"no addresses, as in .*MachineLearningCSV: hand over .*Timestamp"
    ) as caught:
        parse(file(",".join("1" for _ in header.split(",")), header=header))
    assert caught.value.rule == "missing_columns"


def test_a_header_without_times_says_so(parse: Parse) -> None:
    with pytest.raises(RejectedInput, match="lacks timestamp"):
        parse(file(header=",".join(name for name in NAMES if "Timestamp" not in name)))


def test_broken_rows_are_rejected_among_good_ones(parse: Parse) -> None:
    result = parse(file(row(), row() + ",1", row(source_port="x"), row(flow_duration="soon"), "1,2", row()))
    assert result.rows["_line"].to_list() == [2, 7]
    assert result.parsed.rejected == {"ragged_line": 2, "unparsable_duration": 1, "unparsable_src_port": 1}
