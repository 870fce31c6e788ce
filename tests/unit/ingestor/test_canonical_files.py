"""Files in the dataset's own columns, as CSV and as Parquet."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from acequia.errors import RejectedInput
from acequia_ingestor.parse import NoRows

Parse = Callable[..., Any]

HEADER = "timestamp,src_ip,dst_ip,bytes,duration,protocol"
AT = datetime(2025, 12, 20, 12, 12, 9, 123456, tzinfo=UTC)
LINE = "2025-12-20T12:12:09.123456Z,10.0.0.1,10.0.0.2,300,1.5,tcp"


def test_columns_come_in_any_order_and_case_and_further_ones_are_ignored(parse: Parse) -> None:
    rows = parse("Protocol, DURATION,note,bytes,dst_ip,src_ip,timestamp,label\nTCP,,x,7,b::1,10.0.0.1,0,Benign\n").rows
    assert rows.row(0, named=True) == {
        "timestamp": datetime(1970, 1, 1, tzinfo=UTC),
        "src_ip": "10.0.0.1",
        "dst_ip": "b::1",
        "bytes": 7,
        "duration": None,
        "protocol": "tcp",
        **dict.fromkeys(("src_port", "dst_port", "src_bytes", "dst_bytes", "src_packets", "dst_packets", "conn_state")),
        "label": "benign",
        "_line": 2,
    }


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n# a comment\n"])
def test_separator_line_end_and_bom_do_not_matter(parse: Parse, separator: str, end: str, start: str) -> None:
    text = start + end.join(line.replace(",", separator) for line in (HEADER, LINE, LINE))
    rows = parse(text).rows
    assert rows["timestamp"].to_list() == [AT, AT]
    assert rows["protocol"].to_list() == ["tcp", "tcp"]


@pytest.mark.parametrize(
    "text",
    [
        "2025-12-20T12:12:09.123456Z",
        "2025-12-20 12:12:09.123456",
        "2025-12-20 12:12:09.123456 UTC",
        "2025-12-20T13:12:09.123456+01:00",
        "2025-12-20T13:12:09.123456+0100",
        "2025-12-20 13:12:09.123456 +01:00",
        "2025-12-20T12:12:09.123456789Z",
        "1766232729.123456",
    ],
)
def test_times_are_read_to_the_microsecond(parse: Parse, text: str) -> None:
    assert parse(f"{HEADER}\n{LINE.replace('2025-12-20T12:12:09.123456Z', text)}\n").rows["timestamp"].item() == AT


@pytest.mark.parametrize("text", ["2025-12-20", "2025-12-20T00:00Z", "2025-12-20 00:00", "1766188800"])
def test_coarser_times_are_the_beginning_of_what_they_say(parse: Parse, text: str) -> None:
    line = LINE.replace("2025-12-20T12:12:09.123456Z", text)
    assert parse(f"{HEADER}\n{line}\n").rows["timestamp"].item() == datetime(2025, 12, 20, tzinfo=UTC)


def test_quotes_are_undone_where_they_stand(parse: Parse) -> None:
    quoted = ",".join(f'"{field}"' for field in LINE.split(","))
    strange = LINE.replace("tcp", '"t""c,p"')
    result = parse("\n".join([HEADER, LINE, quoted, strange, LINE.replace("tcp", '"tcp'), LINE]))
    assert result.rows["protocol"].to_list() == ["tcp", "tcp", 't"c,p', "tcp"]
    assert result.rows["_line"].to_list() == [2, 3, 4, 6]
    assert result.rejected.select("_line", "rule").rows() == [(5, "ragged_line")]


def test_whole_numbers_that_were_written_as_floats_are_whole_numbers(parse: Parse) -> None:
    result = parse(
        f"{HEADER}\n{LINE.replace('300', '300.0')}\n{LINE.replace('300', '300.5')}\n{LINE.replace('300', '1e3')}"
    )
    assert result.rows["bytes"].to_list() == [300, 1000]
    assert result.parsed.rejected == {"unparsable_bytes": 1}


def test_a_header_that_comes_again_is_no_record(parse: Parse) -> None:
    result = parse("\n".join([HEADER, LINE, HEADER, LINE]))
    assert result.rows.height == 2
    assert result.parsed.lines_skipped == {"header": 2}


def test_a_line_that_is_no_utf8_is_rejected_and_its_neighbours_are_not(parse: Parse) -> None:
    bad = LINE.encode().replace(b"tcp", b"tc\xff")
    result = parse(b"\n".join([HEADER.encode(), LINE.encode(), bad, LINE.encode(), b""]))
    assert result.rows["_line"].to_list() == [2, 4]
    assert result.rejected.select("_line", "rule").rows() == [(3, "not_utf8")]


def test_a_line_of_many_megabytes_is_one_rejected_record(parse: Parse) -> None:
    long = LINE.encode() + b"x" * (20 * 2**20)
    result = parse(b"\n".join([HEADER.encode(), LINE.encode(), long, LINE.encode(), b""]))
    assert result.rows["_line"].to_list() == [2, 4]
    assert result.parsed.rejected == {"line_too_long": 1}
    assert len(result.rejected["raw"].item().encode()) <= 64 * 2**10


def test_a_missing_column_is_named(parse: Parse) -> None:
    with pytest.raises(RejectedInput, match="lacks bytes, protocol; it has timestamp") as caught:
        parse("timestamp,src_ip,dst_ip,duration\n", format="canonical_csv")
    assert caught.value.rule == "missing_columns"


def test_a_column_named_twice_is_not_guessed_at(parse: Parse) -> None:
    with pytest.raises(RejectedInput) as caught:
        parse(f"{HEADER},bytes\n{LINE},5\n")
    assert caught.value.rule == "duplicate_columns"


@pytest.mark.parametrize("text", [HEADER, f"{HEADER}\n", f"{HEADER}\r\n\r\n"])
def test_a_header_alone_is_no_rows(parse: Parse, text: str) -> None:
    with pytest.raises(NoRows) as caught:
        parse(text, format="canonical_csv")
    assert (caught.value.rule, caught.value.rows_in, caught.value.rejected_rows) == ("no_rows", 0, None)
    assert caught.value.lines_skipped["header"] == 1


def test_where_no_record_can_be_read_all_of_them_are_counted_and_kept(parse: Parse) -> None:
    with pytest.raises(NoRows) as caught:
        parse(f"{HEADER}\nnonsense\n{LINE.replace('300', 'x')}\n")
    assert caught.value.rows_in == 2
    assert caught.value.rejected == {"ragged_line": 1, "unparsable_bytes": 1}
    assert caught.value.rejected_rows is not None
    assert pl.read_parquet(caught.value.rejected_rows)["_line"].to_list() == [2, 3]


def frame(**changes: Any) -> pl.DataFrame:
    values: dict[str, Any] = {
        "timestamp": [AT],
        "src_ip": ["10.0.0.1"],
        "dst_ip": ["10.0.0.2"],
        "bytes": [300],
        "duration": [1.5],
        "protocol": ["tcp"],
    }
    return pl.DataFrame(values | changes)


def written(frame: pl.DataFrame, folder: Path) -> Path:
    path = folder / "given.parquet"
    frame.write_parquet(path)
    return path


def test_parquet_of_the_right_types_is_taken_as_it_is(parse: Parse, tmp_path: Path) -> None:
    rows = parse(written(frame(extra=["x"], src_port=[80]), tmp_path)).rows
    assert rows.select("timestamp", "src_ip", "bytes", "src_port", "label", "_line").row(0) == (
        AT,
        "10.0.0.1",
        300,
        80,
        None,
        1,
    )


@pytest.mark.parametrize(
    "timestamp",
    [
        pl.Series([AT]).dt.cast_time_unit("ns"),
        pl.Series([AT.replace(tzinfo=None)]),
        pl.Series([AT.astimezone(timezone(timedelta(hours=2)))]).dt.convert_time_zone("Europe/Madrid"),
        pl.Series(["2025-12-20 12:12:09.123456"]),
        pl.Series([1766232729.123456]),
    ],
)
def test_parquet_times_of_any_kind_become_utc_microseconds(parse: Parse, tmp_path: Path, timestamp: pl.Series) -> None:
    assert parse(written(frame(timestamp=timestamp), tmp_path)).rows["timestamp"].item() == AT


def test_parquet_from_pandas_has_floats_and_nan_where_integers_have_gaps(parse: Parse, tmp_path: Path) -> None:
    given = pl.concat([frame(bytes=[300.0], src_port=[float("nan")], duration=[float("nan")])] * 2)
    rows = parse(written(given, tmp_path)).rows
    assert rows.select("bytes", "src_port", "duration").rows() == [(300, None, None)] * 2


def test_parquet_values_that_cannot_be_read_are_rejected_with_their_row(parse: Parse, tmp_path: Path) -> None:
    given = pl.concat([frame(bytes=[text]) for text in ("1", "x", "3")])
    result = parse(written(given, tmp_path))
    assert result.rows.select("bytes", "_line", "timestamp").rows() == [(1, 1, AT), (3, 3, AT)]
    assert result.rejected.select("_line", "rule").rows() == [(2, "unparsable_bytes")]
    assert '"bytes":"x"' in result.rejected["raw"].item()


def test_parquet_dates_are_midnight(parse: Parse, tmp_path: Path) -> None:
    rows = parse(written(frame(timestamp=[date(2025, 12, 20)]), tmp_path)).rows
    assert rows["timestamp"].item() == datetime(2025, 12, 20, tzinfo=UTC)


def test_a_sound_parquet_file_is_not_rejected_for_what_this_machine_lacks(
    parse: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    path = tmp_path / "sound.parquet"
    pl.DataFrame({"timestamp": [AT], "src_ip": ["10.0.0.1"], "dst_ip": ["10.0.0.2"]}).write_parquet(path)
    monkeypatch.setattr(pl, "scan_parquet", lacks)
    with pytest.raises(OSError, match="Too many open files"):
        parse(path)


def test_a_parquet_file_that_was_cut_is_unreadable(parse: Parse, tmp_path: Path) -> None:
    content = written(frame(), tmp_path).read_bytes()
    with pytest.raises(RejectedInput) as caught:
        parse(content[: len(content) // 2])
    assert caught.value.rule == "unreadable"


def test_a_parquet_file_without_rows_is_no_rows(parse: Parse, tmp_path: Path) -> None:
    with pytest.raises(NoRows):
        parse(written(frame().clear(), tmp_path))
