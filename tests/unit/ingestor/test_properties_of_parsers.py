"""Whatever bytes a file holds: it is read, row by row accounted for, or rejected with a rule and a sentence."""

import bz2
import gzip
import hashlib
import io
import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from acequia.datasets import load_registry
from acequia.errors import RejectedInput
from acequia_ingestor.decompress import unpack
from acequia_ingestor.detect import choose_dataset, detect_format, read_head
from acequia_ingestor.formats import Head, load_formats
from acequia_ingestor.formats._lines import blocks, faulty, is_blank, numbered, split, without
from acequia_ingestor.parse import NoRows, parse_file

REGISTRY = load_registry()
DATASET = REGISTRY["network_events"]
FORMATS = load_formats()
ZSTD = zstandard.ZstdCompressor(write_checksum=True)
QUICK = settings(max_examples=60, deadline=None)

ZEEK_FIELDS = ("ts", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "duration", "conn_state")
ZEEK_FIELDS += ("orig_ip_bytes", "resp_ip_bytes")
HEADERS = {
    "canonical_csv": b"timestamp,src_ip,dst_ip,bytes,duration,protocol,src_port,label",
    "zeek_csv": b"ts,id.orig_h,id.orig_p,id.resp_h,id.resp_p,proto,duration,conn_state,orig_ip_bytes",
    "zeek_tsv": b"#separator \\x09\n#path\tconn\n#fields\t" + "\t".join(ZEEK_FIELDS).encode(),
    "zeek_json": b'{"ts":1.5,"id.orig_h":"a","id.resp_h":"b","proto":"tcp","conn_state":"SF","orig_ip_bytes":7}',
    "suricata_eve": b'{"timestamp":"2021-06-06T16:00:00Z","event_type":"flow","src_ip":"a","dest_ip":"b","proto":"TCP",'
    b'"src_port":7,"flow":{"start":"2021-06-06T15:59:46.5+0200","end":"2021-06-06T15:59:47Z","bytes_toserver":7}}',
    "argus": b"StartTime,Dur,Proto,SrcAddr,Sport,DstAddr,State,TotPkts,TotBytes,SrcBytes,Label",
    "nfdump_csv": b"ts,td,sa,da,sp,pr,flg,ipkt,ibyt,opkt,obyt",
    "unsw_nb15_csv": b"srcip,dstip,stime,dur,proto,sbytes,dbytes,sport,attack_cat,Label",
    "cic_ids2017_csv": b" Source IP, Destination IP, Source Port, Protocol, Timestamp, Flow Duration,"
    b" Total Fwd Packets,Total Length of Fwd Packets, Total Length of Bwd Packets, Label",
}
NASTY = (
    b"",
    b"-",
    b"(empty)",
    b'"',
    b'""',
    b"'",
    b"\x00",
    b"\xff\xfe",
    b"\xc3",
    b"nan",
    b"inf",
    b"-0",
    b"1e309",
    b"1e999999",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"0x10",
    b"1_000",
    b"+5",
    b" 7 ",
    b"253402300800",
    b"-62135596801",
    b"2025-13-45T25:61:61Z",
    b"2025-02-30",
    b"9999-12-31T23:59:59.9999999+14:00",
    b"0000-01-01",
    b"2025-12-20 10:00,5 UTC",
    b"\xe2\x80\xae",
    b"\xf0\x9f\x8c\x8a",
    b"{}",
    b"[",
    b'{"ts":{"ts":[1]}}',
    b"null",
    b"{",
    b"}{",
    b'{"a":1},{"a":2}',
    b"#fields",
    b"#separator \\x",
    b"#separator",
    b"#separator \\x00",
    b"#unset_field\t",
    b"#fields\tts\tts",
    b"#path\tdns",
    b"#",
    b"tcp",
    b"10.0.0.1",
    b"1545403816.962094",
    b"PAR1",
    b"\x1f\x8b",
    b"\xef\xbb\xbf",
    b"\\",
    b"\x0b",
    b"\x85",
    b"\x96",
    b"0x0303",
    b"0xffffffff",
    b"man",
    b"Summary",
    b"1,2,3,4,5,6",
    b"2011/08/10 09:46:53.047277",
    b"99999/01/01 00:00:00",
    b"7/7/2017 3:30",
    b"7/7/2017 3:30:00 PM",
    b'{"event_type":"flow","timestamp":1,"flow":7}',
    b'{"event_type":"flow","timestamp":1,"flow":{"start":[],"bytes_toserver":{"a":1}}}',
    b'{"event_type":["flow"]}',
    b'{"event_type":"dns"}',
    b'{"event_type":"flow","event_type":"dns"}',
    b'{"src_ip":"\\ud800","event_type":"flow"}',
    b'{"id.orig_h":"\\ud800"}',
)
field = st.one_of(st.sampled_from(NASTY), st.binary(max_size=12))
separator = st.sampled_from([b",", b"\t", b";", b"|"])


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Some lines, each fields between separators, with the line ends that there are."""
    one = st.builds(lambda by, fields: by.join(fields), separator, st.lists(field, max_size=11))
    found = draw(st.lists(st.one_of(one, field), max_size=8))
    return draw(st.sampled_from([b"\n", b"\r\n", b"\r"])).join(found) + draw(st.sampled_from([b"", b"\n"]))


@st.composite
def texts(draw: st.DrawFn, format: str) -> bytes:
    """Bytes that a reader of `format` may be handed: below its header, below half of it, or with none."""
    header = HEADERS.get(format, b"")
    begin = draw(st.sampled_from([header + b"\n", header[: len(header) // 2], b"\xef\xbb\xbf" + header + b"\r\n", b""]))
    return begin + draw(lines())


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def rows_as_parquet(rows: int = 3) -> bytes:
    at = datetime(2025, 12, 20, tzinfo=UTC)
    columns: dict[str, Any] = {
        "timestamp": [at + timedelta(seconds=n) for n in range(rows)],
        "src_ip": ["10.0.0.1"] * rows,
        "dst_ip": ["10.0.0.2"] * rows,
        "bytes": list(range(rows)),
        "duration": [0.5] * rows,
        "protocol": ["tcp"] * rows,
    }
    return parquet(pl.DataFrame(columns))


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` cut, or with some bytes changed."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[draw(st.integers(0, 8)) : draw(st.integers(0, len(content)))])


def told(content: bytes, format: str | None, *, rows_per_part: int = 3) -> dict[str, Any]:
    """What comes of a file: its parts, rejected rows and counts; or why it is rejected. The account is checked."""
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name, "source"), Path(name, "out")
        source.write_bytes(content)
        try:
            parsed = parse_file(source, "file", DATASET, format, out, rows_per_part=rows_per_part)
        except NoRows as nothing:
            assert nothing.rows_in == sum(nothing.rejected.values())
            assert nothing.rows_in == (height(nothing.rejected_rows) if nothing.rejected_rows else 0)
            return {"rule": nothing.rule, "reason": nothing.reason, "rejected": nothing.rejected}
        except RejectedInput as rejected:
            assert rejected.rule.isidentifier()
            assert " " in rejected.reason
            json.dumps(rejected.details)
            assert not list(out.glob(".unpacked")), "a temporary file stays behind"
            return {"rule": rejected.rule, "reason": rejected.reason}
        refused = height(parsed.rejected_rows) if parsed.rejected_rows else 0
        assert refused == sum(parsed.rejected.values())
        assert all(height(part.path) == part.rows <= rows_per_part for part in parsed.parts)
        assert parsed.rows_in == sum(part.rows for part in parsed.parts) + refused
        files = [*(part.path for part in parsed.parts), *([parsed.rejected_rows] if parsed.rejected_rows else [])]
        return {
            "rows_in": parsed.rows_in,
            "rejected": parsed.rejected,
            "skipped": parsed.lines_skipped,
            "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        }


def height(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())


@pytest.mark.parametrize("format", sorted(HEADERS))
@QUICK
@given(data=st.data())
def test_any_text_is_read_or_rejected_and_every_row_is_counted(format: str, data: st.DataObject) -> None:
    content = data.draw(texts(format))
    once = told(content, format)
    assert told(content, format) == once, "read twice, it is another thing"


@settings(max_examples=150, deadline=None)
@given(content=st.one_of(damaged(rows_as_parquet()), st.binary(max_size=64).map(lambda b: b"PAR1" + b + b"PAR1")))
def test_a_damaged_parquet_file_is_read_or_rejected(content: bytes) -> None:
    assert told(content, "canonical_parquet") == told(content, "canonical_parquet")


@QUICK
@given(content=st.one_of(st.binary(max_size=300), *(texts(f) for f in HEADERS), damaged(rows_as_parquet())))
def test_a_file_of_which_nobody_says_what_it_is_is_read_or_rejected(content: bytes) -> None:
    told(content, None)


@QUICK
@given(content=st.one_of(st.binary(max_size=300), *(texts(f) for f in HEADERS)), key=st.text(max_size=40))
def test_detection_names_one_of_the_formats_or_rejects(content: bytes, key: str) -> None:
    head = Head(content, key, whole=True)
    try:
        assert detect_format(head, DATASET.formats, FORMATS, DATASET) in DATASET.formats
    except RejectedInput as rejected:
        assert rejected.rule in ("unknown_format", "ambiguous_format")
    try:
        assert choose_dataset(None, key, head, REGISTRY, FORMATS) in REGISTRY.values()
    except RejectedInput as rejected:
        assert rejected.rule == "unknown_dataset"


@QUICK
@given(content=lines(), size=st.integers(1, 40))
def test_lines_are_the_same_however_the_file_is_cut_into_blocks(content: bytes, size: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "file")
        path.write_bytes(content)

        def read(block_bytes: int) -> Sequence[tuple[Any, ...]]:
            return [row for block in blocks(path, block_bytes) for row in block.lines.iter_rows()]

        at_once = read(2**20)
        assert [number for number, *_ in at_once] == list(range(1, len(at_once) + 1))
        text = content.removeprefix(b"\xef\xbb\xbf")
        assert len(at_once) == (text.removesuffix(b"\n").count(b"\n") + 1 if text else 0)
        # a BOM is looked for in the first block alone, which is never so small
        assert text != content or read(size) == at_once


@QUICK
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.binary(min_size=1, max_size=300).map(gzip.compress).flatmap(damaged),
        st.binary(min_size=1, max_size=300).map(bz2.compress).flatmap(damaged),
        st.binary(max_size=60).map(lambda b: b"\x28\xb5\x2f\xfd" + b),
        st.binary(max_size=60).map(lambda b: b"\x50\x2a\x4d\x18" + b),
        st.binary(min_size=1, max_size=300).map(ZSTD.compress).flatmap(damaged),
    )
)
def test_any_bytes_are_unpacked_or_rejected(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        source, to = Path(name, "source"), Path(name, "to")
        source.write_bytes(content)
        for act in (lambda: unpack(source, to, max_ratio=200, max_bytes=2**20), lambda: read_head(source)):
            try:
                act()
            except RejectedInput as rejected:
                assert rejected.rule in ("empty", "truncated", "unreadable", "zip_bomb")


@QUICK
@given(
    members=st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=3),
    packing=st.sampled_from([gzip, bz2, ZSTD]),
)
def test_what_is_packed_comes_out_as_it_went_in(members: list[bytes], packing: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "source")
        source.write_bytes(b"".join(packing.compress(member) for member in members))
        assert unpack(source, Path(name, "to"), max_ratio=200, max_bytes=2**20).read_bytes() == b"".join(members)


@QUICK
@given(size=st.integers(1, 2**20), most=st.integers(1, 2**20), zstd=st.booleans())
def test_more_than_the_limit_is_never_unpacked(size: int, most: int, *, zstd: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        source, to = Path(name, "source"), Path(name, "to")
        source.write_bytes(ZSTD.compress(b"\0" * size) if zstd else gzip.compress(b"\0" * size, 1))
        if size <= most:
            assert unpack(source, to, max_ratio=1e9, max_bytes=most).stat().st_size == size
            return
        with pytest.raises(RejectedInput) as rejected:
            unpack(source, to, max_ratio=1e9, max_bytes=most)
        assert rejected.value.rule == "zip_bomb"
        assert to.stat().st_size <= most


event = st.fixed_dictionaries(
    {
        "timestamp": st.integers(0, 4 * 10**15).map(
            lambda micros: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
        ),
        "src_ip": st.from_regex(r"[a-f0-9:.]{2,20}", fullmatch=True),
        "dst_ip": st.from_regex(r"[a-f0-9:.]{2,20}", fullmatch=True),
        "bytes": st.integers(-(2**63), 2**63 - 1),
        "duration": st.none() | st.floats(allow_nan=False, allow_infinity=False, width=64),
        "protocol": st.sampled_from(["tcp", "udp", "icmp", "esp", "a b", "x,y", 'q"q', "münz"]),
        "src_port": st.none() | st.integers(-(2**31), 2**31 - 1),
        "src_packets": st.none() | st.integers(-(2**53) + 1, 2**53 - 1),
        "label": st.none() | st.sampled_from(["benign", "c&c", "ünüsual", "#hash"]),
    }
)


@pytest.mark.parametrize("format", ["canonical_csv", "canonical_parquet"])
@QUICK
@given(events=st.lists(event, min_size=1, max_size=20), rows_per_part=st.integers(1, 25))
def test_canonical_rows_come_out_as_they_went_in(format: str, events: list[dict[str, Any]], rows_per_part: int) -> None:
    schema = {name: dtype for name, dtype in DATASET.schema.items() if name in events[0]}
    frame = pl.DataFrame(events, schema=schema, orient="row")
    content = parquet(frame) if format == "canonical_parquet" else frame.write_csv().encode()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "source")
        source.write_bytes(content)
        parsed = parse_file(source, "file", DATASET, None, Path(name, "out"), rows_per_part=rows_per_part)
        back = pl.concat([pl.read_parquet(part.path) for part in parsed.parts])
    assert parsed.format == format
    assert back.select(frame.columns).equals(frame)
    first = 1 if format == "canonical_parquet" else 2
    assert back["_line"].to_list() == list(range(first, first + len(events)))


def of_eve(flow: dict[str, Any]) -> bytes:
    inner = {
        "start": flow["at"].strftime("%Y-%m-%dT%H:%M:%S.%f+0000"),
        "end": (flow["at"] + timedelta(microseconds=flow["took"])).strftime("%Y-%m-%dT%H:%M:%S.%f+0000"),
        "bytes_toserver": flow["sent"],
        "bytes_toclient": flow["got"],
        "state": flow["state"],
    }
    outer = {"timestamp": "2000-01-01T00:00:00Z", "event_type": "flow", "src_ip": flow["src"], "dest_ip": flow["dst"]}
    return json.dumps(outer | {"src_port": flow["port"], "proto": "TCP", "flow": inner}).encode()


def of_cells(*cells: str) -> Any:
    """A line of CSV: each cell a format of what the flow is."""
    return lambda flow: ",".join(cell.format(**flow) for cell in cells).encode()


SENSORS: dict[str, tuple[bytes, Any]] = {
    "suricata_eve": (b"", of_eve),
    "argus": (
        b"StartTime,Dur,Proto,SrcAddr,Sport,DstAddr,State,TotBytes,SrcBytes\n",
        of_cells(
            "{at:%Y/%m/%d %H:%M:%S.%f}", "{s}", "tcp", "{src}", "{port:#06x}", "{dst}", "{state}", "{sum}", "{sent}"
        ),
    ),
    "nfdump_csv": (
        b"ts,td,sa,da,sp,pr,flg,ibyt,opkt,obyt\n",
        of_cells(
            "{at:%Y-%m-%d %H:%M:%S.%f}", "{s}", "{src}", "{dst}", "{port}", "TCP", "{state}", "{sent}", "1", "{got}"
        ),
    ),
    "unsw_nb15_csv": (
        b"Stime,dur,srcip,dstip,sport,proto,state,sbytes,dbytes\n",
        of_cells("{epoch}", "{s}", "{src}", "{dst}", "{port}", "tcp", "{state}", "{sent}", "{got}"),
    ),
    "cic_ids2017_csv": (
        b" Timestamp, Flow Duration, Source IP, Destination IP, Source Port, Protocol, Total Fwd Packets,"
        b"Total Length of Fwd Packets, Total Length of Bwd Packets\n",
        of_cells("{at:%Y-%m-%d %H:%M:%S.%f}", "{took}", "{src}", "{dst}", "{port}", "6", "1", "{sent}", "{got}"),
    ),
}
flow = st.fixed_dictionaries(
    {
        "micros": st.integers(0, 4 * 10**15),
        "took": st.integers(0, 10**10),
        "src": st.from_regex(r"[a-f0-9:.]{2,20}", fullmatch=True),
        "dst": st.from_regex(r"[a-f0-9:.]{2,20}", fullmatch=True),
        "sent": st.integers(0, 2**40),
        "got": st.integers(0, 2**40),
        "port": st.integers(0, 65535),
        "state": st.sampled_from(["CON", "S_RA", ".AP.SF", "no"]),
    }
)


@pytest.mark.parametrize("format", SENSORS)
@QUICK
@given(flows=st.lists(flow, min_size=1, max_size=20))
def test_flows_come_out_of_a_sensors_file_as_they_went_in(format: str, flows: list[dict[str, Any]]) -> None:
    header, line = SENSORS[format]
    for one in flows:
        one["at"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=one["micros"])
        one["epoch"] = f"{one['micros'] // 10**6}.{one['micros'] % 10**6:06}"
        one["s"] = f"{one['took'] // 10**6}.{one['took'] % 10**6:06}"
        one["sum"] = one["sent"] + one["got"]
    content = header + b"".join(line(one) + b"\n" for one in flows)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "source")
        source.write_bytes(content)
        parsed = parse_file(source, "file", DATASET, None, Path(name, "out"))
        rows = pl.read_parquet(parsed.parts[0].path)
    assert (parsed.format, parsed.rejected) == (format, {})
    assert rows["timestamp"].to_list() == [one["at"] for one in flows]
    assert rows["duration"].to_list() == pytest.approx([one["took"] / 1e6 for one in flows])
    for column, key in (("src_ip", "src"), ("dst_ip", "dst"), ("src_bytes", "sent"), ("dst_bytes", "got")):
        assert rows[column].to_list() == [one[key] for one in flows]
    assert rows["bytes"].to_list() == [one["sum"] for one in flows]
    assert rows["src_port"].to_list() == [one["port"] for one in flows]
    assert set(rows["protocol"]) == {"tcp"}
    if format != "cic_ids2017_csv":
        assert rows["conn_state"].to_list() == [one["state"] for one in flows]


@QUICK
@given(content=lines(), wanted=st.sets(st.integers(0, 3), min_size=1))
def test_lines_split_all_at_once_are_what_they_are_one_by_one(content: bytes, wanted: set[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "file")
        path.write_bytes(content)
        for block in blocks(path):
            records, _ = faulty(numbered(block.lines))
            records, _ = without(records, is_blank())
            for by in ",", "\t", ";":
                whole, _ = split(records, by, 4, wanted=sorted(wanted))
                # a ragged line among them, and they are split one by one
                ragged = pl.concat([records, records[:1].with_columns(line=pl.lit("x"))])
                one_by_one, _ = split(ragged, by, 4, wanted=sorted(wanted))
                assert whole.equals(one_by_one)
