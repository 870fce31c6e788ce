"""Whatever lies in a file: each record is counted once, and nothing crashes."""

import json
import tempfile
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acequia.datasets import load_registry
from acequia.errors import RejectedInput
from acequia_ingestor.parse import NoRows, parse_file

DATASET = load_registry()["network_events"]
CANONICAL = ("timestamp", "src_ip", "dst_ip", "bytes", "duration", "protocol")
ZEEK = ("ts", "id.orig_h", "id.resp_h", "proto", "duration", "conn_state", "orig_ip_bytes", "resp_ip_bytes")
many = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

words = st.one_of(
    st.sampled_from(
        ["", "-", "(empty)", "1", "1.5", "-3", "nan", "inf", "1e400", "10.0.0.1", "::1", "tcp", "x", '"', "#"]
    ),
    st.sampled_from(["2025-12-20T12:12:09Z", "9" * 30, "2025-99-99T00:00:00Z", "é", "\x00", "\x85", "\u2028", " "]),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=12),
)


GOOD = {
    "csv": ("1.5", "10.0.0.1", "::1", "300", "0.5", "tcp"),
    "zeek": ("1.5", "10.0.0.1", "::1", "tcp", "-", "SF", "100", "200"),
}


@st.composite
def rows_of(draw: st.DrawFn, kind: str) -> list[str]:
    """A row that reads, most of the time with something wrong in it."""
    row = list(GOOD[kind])
    for place in draw(st.lists(st.integers(0, len(row) - 1), max_size=2)):
        row[place] = draw(words)
    length = draw(st.sampled_from([len(row)] * 6 + [len(row) - 1, 1, 0]))
    return [*row[:length], *draw(st.sampled_from([[]] * 6 + [["more"]]))]


def account(content: bytes, format: str, records: int | None, rows_per_part: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.write_bytes(content)
        total = content.count(b"\n") + (not content.endswith(b"\n"))
        try:
            parsed = parse_file(source, "x", DATASET, format, Path(folder) / "out", rows_per_part=rows_per_part)
        except NoRows as nothing:
            assert nothing.rows_in == sum(nothing.rejected.values())
            assert records is None or nothing.rows_in == records
            kept = pl.read_parquet(nothing.rejected_rows) if nothing.rejected_rows else pl.DataFrame()
            assert kept.height == nothing.rows_in
            assert nothing.rows_in + sum(nothing.lines_skipped.values()) == total
            return
        except RejectedInput:
            assert records is None
            return
        rows = pl.concat([pl.read_parquet(p.path) for p in parsed.parts])
        assert rows.height == sum(p.rows for p in parsed.parts)
        assert parsed.rows_in == rows.height + sum(parsed.rejected.values())
        assert records is None or parsed.rows_in == records
        assert max(p.rows for p in parsed.parts) <= rows_per_part
        where = rows["_line"].to_list()
        if parsed.rejected_rows:
            rejected = pl.read_parquet(parsed.rejected_rows)
            assert rejected.height == sum(parsed.rejected.values())
            assert rejected["_line"].is_sorted()
            where += rejected["_line"].to_list()
        assert len(set(where)) == parsed.rows_in
        assert parsed.rows_in + sum(parsed.lines_skipped.values()) == total


def is_record(line: str, *, comments: bool = True) -> bool:
    return bool(line.strip()) and not (comments and line.startswith("#"))


@many
@given(st.lists(rows_of("csv"), max_size=30), st.integers(1, 12), st.sampled_from(["\n", "\r\n"]))
def test_canonical_csv_accounts_for_each_line(rows: list[list[str]], per_part: int, end: str) -> None:
    lines = [",".join(row) for row in rows]
    account(end.join([",".join(CANONICAL), *lines, ""]).encode(), "canonical_csv", None, per_part)


@many
@given(st.lists(rows_of("zeek"), max_size=30), st.integers(1, 12))
def test_zeek_csv_accounts_for_each_line(rows: list[list[str]], per_part: int) -> None:
    account("\n".join([",".join(ZEEK), *(",".join(row) for row in rows)]).encode(), "zeek_csv", None, per_part)


@many
@given(st.lists(rows_of("zeek"), max_size=30), st.integers(1, 12))
def test_zeek_tsv_accounts_for_each_line(rows: list[list[str]], per_part: int) -> None:
    lines = ["\t".join(row) for row in rows]
    head = ["#separator \\x09", "#fields\t" + "\t".join(ZEEK)]
    headers = [line for line in lines if line.startswith(("#fields", "#separator"))]
    records = None if headers else sum(is_record(line) for line in lines)
    account("\n".join([*head, *lines]).encode(), "zeek_tsv", records, per_part)


values = st.one_of(words, st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers(), max_size=2))
whole = dict(zip(ZEEK, GOOD["zeek"], strict=True))
objects = st.dictionaries(st.sampled_from(ZEEK), values, max_size=3).map(lambda changes: json.dumps(whole | changes))
broken = st.one_of(
    objects.map(lambda t: t[:-1]), objects.map(lambda t: f"{t},{t}"), words, st.just('{"a":[{}'), st.just("{}]}")
)


@many
@given(st.lists(st.one_of(objects, broken), max_size=150), st.integers(1, 40))
def test_zeek_json_accounts_for_each_line(lines: list[str], per_part: int) -> None:
    records = sum(is_record(line, comments=False) for line in lines)
    account("".join(f"{line}\n" for line in lines).encode() or b"\n", "zeek_json", records, per_part)


@many
@given(
    st.binary(max_size=400),
    st.sampled_from(["canonical_csv", "zeek_csv", "zeek_tsv", "zeek_json", "canonical_parquet"]),
)
def test_any_bytes_end_in_an_account_or_a_refusal(content: bytes, format: str) -> None:
    heads = {
        "canonical_csv": ",".join(CANONICAL) + "\n",
        "zeek_csv": ",".join(ZEEK) + "\n",
        "zeek_tsv": "#fields\t" + "\t".join(ZEEK) + "\n",
    }
    account(heads.get(format, "").encode() + content + b"\n", format, None, 5)
