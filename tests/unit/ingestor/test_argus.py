"""Argus flows, as CTU-13 hands them out and as `ra` prints them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.parse import NoRows

Parse = Callable[..., Any]

HEADER = "StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,State,sTos,dTos,TotPkts,TotBytes,SrcBytes,Label"
CTU = HEADER.split(",")
ROW = "2011/08/10 09:46:53.047277,3550.182373,tcp,10.0.0.1,1577,   ->,10.0.0.2,6881,S_RA,0,0,4,276,156,"
MAC = "00:1c:23:49:8d:b7"


def row(**changes: str) -> str:
    return ",".join(changes.get(name, cell) for name, cell in zip(CTU, ROW.split(","), strict=True))


def file(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows, ""])


def test_a_flow_of_ctu_13_arrives_whole(parse: Parse) -> None:
    result = parse(file(row()))
    assert result.parsed.format == "argus"
    assert result.rows.row(0, named=True) == {
        "timestamp": datetime(2011, 8, 10, 9, 46, 53, 47277, tzinfo=UTC),
        "src_ip": "10.0.0.1",
        "dst_ip": "10.0.0.2",
        "bytes": 276,
        "duration": 3550.182373,
        "protocol": "tcp",
        "src_port": 1577,
        "dst_port": 6881,
        "src_bytes": 156,
        "dst_bytes": 120,
        "src_packets": None,
        "dst_packets": None,
        "conn_state": "S_RA",
        "label": None,
        "_line": 2,
    }


def test_columns_go_by_name_in_any_order_with_tabs_too_and_further_ones_are_fine(parse: Parse) -> None:
    names = [*reversed(CTU), "SrcPkts", "sUdata"]
    cells = [*reversed(ROW.split(",")), "3", "x"]
    for by in "\t", ",", ";":
        only = parse(file(by.join(cells), header=by.join(names))).rows.row(0, named=True)
        assert (only["src_port"], only["bytes"], only["dst_bytes"]) == (1577, 276, 120)
        assert (only["src_packets"], only["dst_packets"]) == (3, 1)


def test_both_directions_make_the_sum_where_there_is_none(parse: Parse) -> None:
    header = "StartTime,Dur,Proto,SrcAddr,DstAddr,SrcBytes,DstBytes,SrcPkts,DstPkts"
    start = "1312969613.047277,0.5,udp,10.0.0.1,10.0.0.2"
    rows = parse(file(f"{start},60,70,1,2", f"{start},60,,1,", header=header)).rows
    assert rows["timestamp"][0] == datetime(2011, 8, 10, 9, 46, 53, 47277, tzinfo=UTC)
    assert rows["bytes"].to_list() == [130, 60]
    assert rows["dst_packets"].to_list() == [2, None]


def test_ports_may_be_in_hex_missing_or_any(parse: Parse) -> None:
    rows = parse(file(row(Sport="0x0303"), row(Sport="0xFFFF"), row(Sport=""), row(Sport="*"), row(Sport="80"))).rows
    assert rows["src_port"].to_list() == [0x303, 65535, None, None, 80]


@pytest.mark.parametrize("port", ["0x", "0xfg", "http", "0x123456789", "0xffffffff"])
def test_what_is_no_port_is_unparsable(parse: Parse, port: str) -> None:
    result = parse(file(row(), row(Dport=port)))
    assert result.rejected.select("_line", "rule").rows() == [(3, "unparsable_dst_port")]


def test_flows_below_ip_go_to_raw_and_the_contract_names_them(parse: Parse, network_events: Dataset) -> None:
    result = parse(
        file(
            row(),
            row(Proto="arp", SrcAddr="10.0.0.3", Sport="", DstAddr="10.0.0.4", Dport=""),
            row(Proto="arp", SrcAddr=MAC, Sport="", DstAddr="ff:ff:ff:ff:ff:ff", Dport=""),
            row(Proto="llc", SrcAddr=MAC, Sport="", DstAddr="01:80:c2:00:00:00", Dport=""),
        )
    )
    assert (result.parsed.rows_in, result.parsed.rejected) == (4, {})
    assert result.rows["src_ip"].to_list() == ["10.0.0.1", "10.0.0.3", MAC, MAC]
    _, failure = network_events.contract.filter(result.rows.drop("_line"))
    assert failure.counts() == {"src_ip_valid": 2, "dst_ip_valid": 2}


def test_management_records_are_no_flows(parse: Parse) -> None:
    manager = row(Proto="man", SrcAddr="0", Sport="", DstAddr="0", Dport="", State="STA", TotBytes="x")
    result = parse(file(manager, row(), row(Label="mankind"), row(State="man"), manager))
    assert result.rows["_line"].to_list() == [3, 4, 5]
    assert result.parsed.rows_in == 3
    assert result.parsed.lines_skipped == {"header": 1, "management": 2}


def test_a_file_of_management_records_alone_has_no_rows(parse: Parse) -> None:
    with pytest.raises(NoRows) as caught:
        parse(file(row(Proto="man")))
    assert (caught.value.rows_in, caught.value.lines_skipped) == (0, {"header": 1, "management": 1})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("flow=From-Normal-V42-Stribrek", "normal"),
        ("flow=Normal-V42-HTTP-windowsupdate", "normal"),
        ("flow=Background-Established-cmpgw-CVUT", "background"),
        ("flow=To-Background-UDP-CVUT-DNS-Server", "background"),
        ("flow=Background", "background"),
        ("flow=From-Botnet-V42-TCP-CC6-Plain-HTTP", "from-botnet-v42-tcp-cc6-plain-http"),
        ("Botnet", "botnet"),
        ("", None),
    ],
)
def test_labels_say_normal_background_or_which_attack(parse: Parse, text: str, label: str | None) -> None:
    assert parse(file(row(Label=text))).rows["label"].to_list() == [label]


def test_times_of_other_spellings_are_read_and_none_is_made_up(parse: Parse) -> None:
    result = parse(
        file(
            row(StartTime="2011-08-10T09:46:53.047277Z"),
            row(StartTime="2011/08/10 09:46:53"),
            row(StartTime="09:46:53.047277"),
            row(StartTime="2011/13/10 09:46:53"),
        )
    )
    assert [at.microsecond for at in result.rows["timestamp"]] == [47277, 0]
    assert result.parsed.rejected == {"unparsable_timestamp": 2}


def test_ragged_and_broken_rows_are_rejected_among_good_ones(parse: Parse) -> None:
    result = parse(file(row(), "1,2", row(Dur="long"), row() + ",more", row(TotBytes="1.5"), row()))
    assert result.rows["_line"].to_list() == [2, 7]
    assert result.rejected.select("_line", "rule").rows() == [
        (3, "ragged_line"),
        (4, "unparsable_duration"),
        (5, "ragged_line"),
        (6, "unparsable_bytes"),
    ]


def test_a_header_alone_has_no_rows_and_one_without_bytes_is_refused(parse: Parse) -> None:
    with pytest.raises(NoRows):
        parse(file())
    with pytest.raises(RejectedInput, match="totbytes") as caught:
        parse(file(header="StartTime,Dur,Proto,SrcAddr,DstAddr,SrcBytes"))
    assert caught.value.rule == "missing_columns"
