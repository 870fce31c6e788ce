"""What `nfdump -o csv` writes: flows of one direction, and a summary that is none."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from acequia.errors import RejectedInput
from acequia_ingestor.parse import NoRows

Parse = Callable[..., Any]

HEADER = (
    "ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt,in,out,sas,das,smk,dmk,dtos,dir,nh,nhb,svln,dvln,ismc,odmc,"
    "idmc,osmc,mpls1,mpls2,mpls3,mpls4,mpls5,mpls6,mpls7,mpls8,mpls9,mpls10,cl,sl,al,ra,eng,exid,tr"
)
NAMES = HEADER.split(",")
ROW = (
    "2020-03-01 10:00:01,2020-03-01 10:00:03,2.128,10.0.0.1,10.0.0.2,51234,443,TCP,.AP.SF,0,0,12,3456,0,0,1,2,64500,"
    "64501,24,16,0,0,10.9.9.9,0.0.0.0,0,0,00:00:00:00:00:00,00:00:00:00:00:00,00:00:00:00:00:00,00:00:00:00:00:00,"
    + ",".join(["0-0-0"] * 10)
    + ",    0.000,    0.000,    0.000,10.9.9.1,0/0,1,2020-03-01 10:00:04.123"
)
SUMMARY = ["Summary", "flows,bytes,packets,avg_bps,avg_pps,avg_bpp", "3,10368,36,1234,2,288"]


def row(**changes: str) -> str:
    cells = ROW.split(",")
    assert len(cells) == len(NAMES) == 48
    return ",".join(changes.get(name + "_", cell) for name, cell in zip(NAMES, cells, strict=True))


def file(*lines: str) -> str:
    return "\n".join([HEADER, *lines, ""])


def test_a_flow_arrives_whole_and_the_summary_is_skipped(parse: Parse) -> None:
    result = parse(file(row(), row(pr_="UDP"), row(pr_="47"), *SUMMARY))
    assert (result.parsed.format, result.parsed.rows_in) == ("nfdump_csv", 3)
    assert result.parsed.lines_skipped == {"header": 1, "summary": 3}
    assert result.rows["protocol"].to_list() == ["tcp", "udp", "gre"]
    assert result.rows.row(0, named=True) == {
        "timestamp": datetime(2020, 3, 1, 10, 0, 1, tzinfo=UTC),
        "src_ip": "10.0.0.1",
        "dst_ip": "10.0.0.2",
        "bytes": 3456,
        "duration": 2.128,
        "protocol": "tcp",
        "src_port": 51234,
        "dst_port": 443,
        "src_bytes": 3456,
        "dst_bytes": None,
        "src_packets": 12,
        "dst_packets": None,
        "conn_state": ".AP.SF",
        "label": None,
        "_line": 2,
    }


def test_the_way_back_is_another_row_unless_the_exporter_counted_it(parse: Parse) -> None:
    rows = parse(file(row(), row(opkt_="4", obyt_="500"), row(opkt_="4", obyt_="0"))).rows
    assert rows["bytes"].to_list() == [3456, 3956, 3456]
    assert rows["dst_bytes"].to_list() == [None, 500, 0]
    assert rows["dst_packets"].to_list() == [None, 4, 4]


def test_files_put_together_have_a_summary_in_the_middle(parse: Parse) -> None:
    result = parse(file(row(), *SUMMARY) + file(row(), *SUMMARY))
    assert result.rows["_line"].to_list() == [2, 7]
    assert result.parsed.lines_skipped == {"header": 2, "summary": 6}


def test_a_summary_alone_has_no_rows(parse: Parse) -> None:
    with pytest.raises(NoRows) as caught:
        parse(file(*SUMMARY))
    assert (caught.value.rows_in, caught.value.lines_skipped) == (0, {"header": 1, "summary": 3})


def test_flags_of_which_none_is_set_say_nothing(parse: Parse) -> None:
    rows = parse(file(row(flg_="......"), row(flg_="........"), row(flg_="...A...."))).rows
    assert rows["conn_state"].to_list() == [None, None, "...A...."]


def test_fractions_of_seconds_and_ipv6_are_read_and_padding_does_not_matter(parse: Parse) -> None:
    only = parse(file(row(ts_="2020-03-01 10:00:01.250", sa_=" 2001:DB8::1 ", sp_="  53", pr_="ICMP6 "))).rows
    assert only["timestamp"][0] == datetime(2020, 3, 1, 10, 0, 1, 250_000, tzinfo=UTC)
    assert only.select("src_ip", "src_port", "protocol").row(0) == ("2001:db8::1", 53, "icmp6")


def test_columns_go_by_name_and_an_added_label_is_kept(parse: Parse) -> None:
    text = "label,ibyt,pr,da,sa,td,ts\nBlacklist,5,TCP,10.0.0.2,10.0.0.1,0.0,2020-03-01 10:00:01\n"
    only = parse(text).rows.row(0, named=True)
    assert (only["label"], only["bytes"], only["src_port"], only["src_ip"]) == ("blacklist", 5, None, "10.0.0.1")


def test_a_record_cut_in_the_middle_and_one_of_words_are_rejected(parse: Parse) -> None:
    result = parse(file(row(), row()[:40], row(td_="?"), row(ibyt_="1.2M"), row()))
    assert result.rows["_line"].to_list() == [2, 6]
    assert result.parsed.rejected == {"ragged_line": 1, "unparsable_duration": 1, "unparsable_src_bytes": 1}


def test_statistics_of_nfdump_are_no_flows(parse: Parse) -> None:
    with pytest.raises(RejectedInput, match="a header of 14 columns") as caught:
        parse("ts,te,td,pr,val,fl,flP,ipkt,ipktP,ibyt,ibytP,ipps,ibps,ibpp\n")
    assert caught.value.rule == "unknown_format"
