"""Row counts and sums of real sensors' files. The constants were counted with wc, jq and awk, not with our code."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from acequia.datasets import Dataset
from acequia.errors import RejectedInput

Parse = Callable[..., Any]

OTHER_EVENTS = {"alert": 745, "anomaly": 3, "dns": 680, "fileinfo": 3, "http": 56, "tls": 1}


def keeps_the_contract(dataset: Dataset, rows: pl.DataFrame) -> bool:
    _, failure = dataset.contract.filter(rows.drop("_line"))
    return failure.counts() == {}


def test_of_a_real_eve_log_the_flows_are_rows_and_the_other_events_are_counted(
    parse: Parse, real_data: Path, network_events: Dataset
) -> None:
    result = parse(real_data / "suricata/eve.json")
    assert (result.parsed.format, result.parsed.rows_in, result.parsed.rejected) == ("suricata_eve", 3512, {})
    assert result.parsed.lines_skipped == OTHER_EVENTS
    assert result.parsed.rows_in + sum(OTHER_EVENTS.values()) == 5000
    rows = result.rows
    assert keeps_the_contract(network_events, rows)
    assert rows.select(pl.sum("bytes", "src_packets", "dst_packets")).row(0) == (5_030_629, 30_191, 8_980)
    assert rows["duration"].sum() == pytest.approx(87_580.546340)
    assert (rows["timestamp"].min(), rows["timestamp"].max()) == (
        datetime(2021, 6, 6, 13, 57, 39, 105835, tzinfo=UTC),
        datetime(2021, 6, 7, 13, 56, 4, 947028, tzinfo=UTC),
    )
    assert dict(rows["protocol"].value_counts().iter_rows()) == {"tcp": 2336, "udp": 1176}
    assert dict(rows["conn_state"].value_counts().iter_rows()) == {"closed": 1980, "established": 537, "new": 995}


def test_every_flow_of_real_argus_files_is_read(parse: Parse, real_data: Path, network_events: Dataset) -> None:
    wide = parse(real_data / "argus/test2.binetflow")
    assert (wide.parsed.format, wide.parsed.rows_in, wide.parsed.rejected) == ("argus", 6751, {})
    assert wide.parsed.lines_skipped == {"header": 1}
    assert keeps_the_contract(network_events, wide.rows)
    sums = wide.rows.select(pl.sum("bytes", "src_bytes", "src_packets", "dst_packets")).row(0)
    assert sums == (348_705_565, 26_271_460, 206_003, 491_156 - 206_003)
    assert wide.rows["duration"].sum() == pytest.approx(744_953.890664)
    assert dict(wide.rows["protocol"].value_counts().iter_rows()) == {"icmp": 65, "igmp": 7, "tcp": 3925, "udp": 2754}
    assert (wide.rows["src_port"] == 0x0303).sum() == 44
    assert wide.rows["src_port"].null_count() == 7

    narrow = parse(real_data / "argus/test4.binetflow")
    assert (narrow.parsed.format, narrow.parsed.rows_in, narrow.parsed.rejected) == ("argus", 394, {})
    assert narrow.parsed.lines_skipped == {"header": 1}
    assert keeps_the_contract(network_events, narrow.rows)
    assert narrow.rows.select(pl.sum("bytes", "src_bytes")).row(0) == (434_264, 59_842)
    assert narrow.rows["src_packets"].null_count() == 394
    assert narrow.rows.filter(pl.col("protocol") == "arp")["src_ip"].to_list() == ["192.168.2.12"] * 2


def test_nsl_kdd_is_refused_with_what_was_seen(parse: Parse, real_data: Path) -> None:
    with pytest.raises(RejectedInput, match="a record of 43 fields without a header that names them") as caught:
        parse(real_data / "kdd/KDDTrain+_20Percent.txt")
    assert caught.value.rule == "unknown_format"


def test_every_file_there_but_nsl_kdd_is_read_to_its_last_line(parse: Parse, real_data: Path) -> None:
    files = sorted(file for file in real_data.glob("*/*") if file.parent.name != "kdd")
    assert len(files) == 36
    for file in files:
        result = parse(file)
        lines = len(pl.read_lines(file)) if file.suffix == ".gz" else file.read_bytes().count(b"\n")
        account = result.parsed
        assert account.rows_in + sum(account.lines_skipped.values()) == lines, file.name
        assert (account.rejected, result.rows.height) == ({}, account.rows_in), file.name
