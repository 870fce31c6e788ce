"""Suricata's EVE log: which lines are rows, and what becomes of them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from acequia.errors import RejectedInput
from acequia_ingestor.parse import NoRows

Parse = Callable[..., Any]


def flow(**changes: object) -> dict[str, object]:
    """A flow event; a name of the inner object begins with `flow_`; "drop" leaves the key out."""
    inner: dict[str, object] = {
        "pkts_toserver": 3,
        "pkts_toclient": 2,
        "bytes_toserver": 300,
        "bytes_toclient": 200,
        "start": "2021-06-06T15:59:46.457984+0200",
        "end": "2021-06-06T15:59:47.707985+0200",
        "age": 1,
        "state": "closed",
        "reason": "timeout",
        "alerted": False,
    }
    outer: dict[str, object] = {
        "timestamp": "2021-06-06T16:10:00.000001+0200",
        "flow_id": 1374195536821504,
        "event_type": "flow",
        "src_ip": "10.0.0.1",
        "src_port": 51698,
        "dest_ip": "FE80::1",
        "dest_port": 445,
        "proto": "TCP",
        "app_proto": "smb",
    }
    inner |= {k.removeprefix("flow_"): v for k, v in changes.items() if k.startswith("flow_")}
    outer |= {k: v for k, v in changes.items() if not k.startswith("flow_")}
    kept: dict[str, object] = {k: v for k, v in inner.items() if v != "drop"}
    return {"flow": kept, **{k: v for k, v in outer.items() if v != "drop"}}


def other(event_type: object) -> dict[str, object]:
    """An event that bears a flow, as alerts do, and is none."""
    return flow(event_type=event_type)


def jsonl(*records: object) -> str:
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


def test_a_flow_begins_when_the_flow_began_not_when_the_line_was_written(parse: Parse) -> None:
    only = parse(jsonl(flow())).rows.row(0, named=True)
    assert only == {
        "timestamp": datetime(2021, 6, 6, 13, 59, 46, 457984, tzinfo=UTC),
        "src_ip": "10.0.0.1",
        "dst_ip": "fe80::1",
        "bytes": 500,
        "duration": 1.250001,
        "protocol": "tcp",
        "src_port": 51698,
        "dst_port": 445,
        "src_bytes": 300,
        "dst_bytes": 200,
        "src_packets": 3,
        "dst_packets": 2,
        "conn_state": "closed",
        "label": None,
        "_line": 1,
    }


@pytest.mark.parametrize(
    "start", ["2021-06-06T13:59:46.457984Z", "2021-06-06T13:59:46.457984+00:00", "2021-06-06T06:59:46.457984-0700"]
)
def test_any_offset_means_the_same_moment(parse: Parse, start: str) -> None:
    assert parse(jsonl(flow(flow_start=start))).rows["timestamp"][0] == datetime(
        2021, 6, 6, 13, 59, 46, 457984, tzinfo=UTC
    )


def test_other_events_are_skipped_under_their_type_and_strange_ones_together(parse: Parse) -> None:
    lines = jsonl(
        other("alert"),
        flow(),
        other("dns"),
        other("dns"),
        other("made_up"),
        {"timestamp": "x"},
        other(None),
        flow(),
        "",
    )
    result = parse(lines)
    assert result.rows["_line"].to_list() == [2, 8]
    assert result.parsed.rows_in == 2
    assert result.parsed.lines_skipped == {"alert": 1, "blank": 1, "dns": 2, "other_event": 3}


def test_an_event_type_deep_inside_makes_no_flow(parse: Parse) -> None:
    alert = other("alert") | {"http": {"event_type": "flow"}, "text": '"event_type":"flow"'}
    result = parse(jsonl(flow(), alert))
    assert (result.parsed.rows_in, result.parsed.lines_skipped) == (1, {"alert": 1})


def test_what_a_flow_does_not_say_is_null(parse: Parse) -> None:
    lines = jsonl(
        flow(src_port="drop", dest_port="drop", proto="ICMP"),
        flow(flow_end="drop", flow_state="drop"),
        flow(flow_bytes_toclient="drop", flow_pkts_toclient=None),
        flow(flow_bytes_toclient="drop", flow_bytes_toserver="drop"),
    )
    rows = parse(lines).rows
    assert rows["src_port"].to_list() == [None, 51698, 51698, 51698]
    assert rows["duration"].null_count() == 1
    assert rows["conn_state"].to_list() == ["closed", None, "closed", "closed"]
    assert rows["bytes"].to_list() == [500, 500, 300, None]
    assert rows["dst_packets"].to_list() == [2, 2, None, 2]


def test_a_flow_without_its_inner_object_goes_to_raw_and_the_contract_names_it(
    parse: Parse, network_events: Any
) -> None:
    bare = {"timestamp": "2021-06-06T16:10:00Z", "event_type": "flow", "src_ip": "10.0.0.1", "dest_ip": "10.0.0.2"}
    rows = parse(jsonl(flow(), bare, bare | {"flow": 5})).rows
    assert rows["timestamp"].null_count() == 2
    _, failure = network_events.contract.filter(rows.drop("_line"))
    assert failure.counts() == {"timestamp_missing": 2, "bytes_missing": 2, "protocol_missing": 2}


def test_broken_lines_are_rejected_and_each_keeps_its_number(parse: Parse) -> None:
    good = [flow() for _ in range(100)]
    lines = jsonl(
        *good, '{"event_type":"flow",', flow(src_port="http"), "[1]", '{"a":1},{"b":2}', flow(flow_start="soon"), *good
    )
    result = parse(lines)
    assert result.rejected.select("_line", "rule").rows() == [
        (101, "broken_json"),
        (102, "unparsable_src_port"),
        (103, "broken_json"),
        (104, "broken_json"),
        (105, "unparsable_timestamp"),
    ]
    assert result.rows["_line"].to_list() == [*range(1, 101), *range(106, 206)]
    assert (
        result.rejected["reason"].to_list()[1] == "column 'src_port' holds 'http', which is no whole number (32 bits)"
    )


def test_a_log_without_a_flow_has_no_rows(parse: Parse) -> None:
    with pytest.raises(NoRows) as caught:
        parse(jsonl(other("alert"), other("dns")))
    assert (caught.value.rows_in, caught.value.lines_skipped) == (0, {"alert": 1, "dns": 1})


def test_json_of_another_kind_is_not_taken_for_eve(parse: Parse) -> None:
    with pytest.raises(RejectedInput, match="JSON with the keys 'event', 'when'") as caught:
        parse(jsonl({"event": "flow", "when": "2021-06-06T16:10:00Z"}))
    assert caught.value.rule == "unknown_format"


def test_half_a_surrogate_pair_is_no_reason_to_stop(parse: Parse) -> None:
    text = jsonl(flow()) + '{"event_type":"flow","src_ip":"\\ud800"}\nno JSON\n'
    result = parse(text)
    assert result.rows["src_ip"].to_list() == ["10.0.0.1", "?"]
    assert result.parsed.rejected == {"broken_json": 1}


@pytest.mark.parametrize(("begin", "rule"), [(b"x\xda", "not_utf8"), (b"x\x01", "broken_json"), (b"x^", "broken_json")])
def test_a_first_line_that_looks_packed_is_a_line_like_others(parse: Parse, begin: bytes, rule: str) -> None:
    result = parse(begin + b"\n" + jsonl(flow()).encode(), format="suricata_eve")
    assert (result.rows["_line"].to_list(), result.parsed.rejected) == ([2], {rule: 1})
