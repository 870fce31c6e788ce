"""Row counts and sums of real logs. The constants were counted with awk and Python's csv, not with our code."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from acequia.datasets import Dataset

Parse = Callable[..., Any]

ROWS = {
    "zeek-iot23/CTU-Honeypot-Capture-4-1-labeled.csv": ("zeek_csv", 452, 1),
    "zeek-iot23/CTU-Honeypot-Capture-5-1-labeled.csv": ("zeek_csv", 1374, 298),
    "zeek-iot23/CTU-Malware-Capture-34-1-labeled.csv": ("zeek_csv", 23145, 17824),
    "zeek-iot23/CTU-Malware-Capture-42-1-labeled.csv": ("zeek_csv", 4426, 992),
    "zeek-iot23/CTU-Malware-Capture-8-1-labeled.csv": ("zeek_csv", 10403, 6185),
    "zeek-strato/008-conn.log.labeled": ("zeek_tsv", 5663, 155),
    "zeek-strato/011-conn.log.labeled": ("zeek_tsv", 9048, 167),
    "zeek-samples/conn.tsv.log": ("zeek_tsv", 360, 149),
    "zeek-samples/conn.json.log": ("zeek_json", 50, 0),
}
"""File: format, rows, rows without a duration."""
RITA = (2426, 1380, 1156, 1082, 1417, 1488, 1094, 4179, 1148, 1472, 1133, 1840)
RITA += (1179, 1068, 1044, 1574, 1406, 1392, 1310, 1614, 1530, 1106, 1179, 1261)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_a_real_log_is_read_and_keeps_the_contract(
    name: str, parse: Parse, real_data: Path, network_events: Dataset
) -> None:
    format, rows, without_duration = ROWS[name]
    result = parse(real_data / name)
    assert (result.parsed.format, result.parsed.rows_in, result.rows.height) == (format, rows, rows)
    assert result.rows["duration"].null_count() == without_duration
    assert result.parsed.rejected == {}
    _, failure = network_events.contract.filter(result.rows.drop("_line"))
    assert failure.counts() == {}


def test_a_day_of_gzipped_hours_with_an_extra_first_column(parse: Parse, real_data: Path) -> None:
    files = sorted((real_data / "zeek-rita").glob("*.gz"))
    results = [parse(file) for file in files]
    assert tuple(r.rows.height for r in results) == RITA
    assert sum(RITA) == 35_478
    assert sum(r.rows["bytes"].sum() for r in results) == 118_955_276
    assert sum(r.rows["duration"].null_count() for r in results) == 1_257
    assert {r.parsed.lines_skipped["comment"] for r in results} == {9}


def test_values_of_a_labelled_log_arrive_unchanged(parse: Parse, real_data: Path) -> None:
    rows = parse(real_data / "zeek-strato/011-conn.log.labeled").rows
    first = rows.row(0, named=True)
    assert first == {
        "timestamp": datetime(2022, 6, 12, 22, 0, 9, 953394, tzinfo=UTC),
        "src_ip": "167.94.138.99",
        "dst_ip": "147.32.83.165",
        "bytes": 88,
        "duration": 0.000002,
        "protocol": "tcp",
        "src_port": 7789,
        "dst_port": 445,
        "src_bytes": 88,
        "dst_bytes": 0,
        "src_packets": 2,
        "dst_packets": 0,
        "conn_state": "S0",
        "label": "malicious",
        "_line": 9,
    }
    assert rows["bytes"].sum() == 1_591_297_196
    assert dict(rows["label"].value_counts().iter_rows()) == {"benign": 4771, "malicious": 3951, "background": 326}


def test_most_scans_of_iot23_34_1_have_no_duration_and_their_times_are_exact(parse: Parse, real_data: Path) -> None:
    rows = parse(real_data / "zeek-iot23/CTU-Malware-Capture-34-1-labeled.csv").rows
    assert rows["duration"].null_count() / rows.height == pytest.approx(0.77, abs=0.001)
    assert rows["duration"].sum() == pytest.approx(121_353.40037199984)
    assert rows["bytes"].sum() == 87_384_656
    assert rows["timestamp"][0] == datetime(2018, 12, 21, 14, 50, 16, 962094, tzinfo=UTC)
    assert rows["_line"].to_list() == list(range(2, 23_147))
    assert set(rows["label"]) == {"benign", "malicious"}


def test_json_lines_of_a_real_sensor(parse: Parse, real_data: Path) -> None:
    rows = parse(real_data / "zeek-samples/conn.json.log").rows
    assert rows["timestamp"][0] == datetime(2019, 12, 3, 22, 44, 56, 52279, tzinfo=UTC)
    assert rows["bytes"].sum() == 150_753
    assert rows["label"].null_count() == 50
