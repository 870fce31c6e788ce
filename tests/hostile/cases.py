"""The table of hostile input: what it is, how it is made, how it comes, and what has to become of it.

`test_hostile_input.py` sends each case through a running installation; docs/hostile-input.md is made of this table.
"""

import bz2
import gzip
import io
import json
import pickle
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote_plus
from uuid import UUID

import polars as pl
import skops.io
import zstandard

START = datetime(2025, 12, 20, 12, 0, tzinfo=UTC)
HEADER = "timestamp,src_ip,dst_ip,bytes,duration,protocol"
MEGA = 2**20

Door = Literal["file", "upload", "landing", "request", "message", "command", "raw", "silver", "model"]
DOORS: Mapping[Door, str] = {
    "file": "uploaded over HTTP, and put into LANDING",
    "upload": "uploaded over HTTP",
    "landing": "put into LANDING",
    "request": "an HTTP request",
    "message": "a message on `acequia.objects`",
    "command": "a message on `acequia.commands`",
    "raw": "put into RAW",
    "silver": "put into SILVER",
    "model": "put into MODELS",
}


# what becomes of it


@dataclass(frozen=True)
class Quarantined:
    """Rejected whole: a manifest in QUARANTINE names `rule`, and says `words` in its sentence."""

    rule: str
    words: str
    stage: str = "ingestor"

    def __str__(self) -> str:
        return f"quarantine: `{self.rule}` ({self.stage})"


@dataclass(frozen=True)
class Noted:
    """Rejected with no object that could be quarantined: the audit says `rule` and why; the message is acknowledged."""

    rule: str
    words: str
    stage: str = "ingestor"

    def __str__(self) -> str:
        return f"audit: `REJECTED`, `{self.rule}` ({self.stage}); acknowledged"


@dataclass(frozen=True)
class Ignored:
    """None of our business: acknowledged and counted under `reason`."""

    reason: str

    def __str__(self) -> str:
        return f"acknowledged and counted: {self.reason}"


@dataclass(frozen=True)
class Refused:
    """Answered with `status` and problem+json; nothing is stored."""

    status: int
    words: str

    def __str__(self) -> str:
        return f"HTTP {self.status}"


@dataclass(frozen=True)
class Taken:
    """Taken: `rows` reach RAW; those of `rejected` are quarantined row by row."""

    rows: int
    rejected: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.rejected:
            return "taken as it is"
        return "taken; quarantined rows: " + ", ".join(f"`{rule}` {n}" for rule, n in self.rejected.items())


@dataclass(frozen=True)
class Case:
    """`make` is given a number that no other call is given, so that no two contents are the same by chance."""

    name: str
    what: str
    door: Door
    make: "Callable[[int], bytes | Forged]"
    expected: Quarantined | Noted | Ignored | Refused | Taken
    file: str = "events.csv"
    """The file's name; for `landing` the whole key."""
    format: str | None = None
    """Named with the upload, rather than detected."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    dataset: str = "network_events"
    """Named with a file."""


# making of files


def row(number: int = 0, **changes: str) -> str:
    at = START + timedelta(seconds=number)
    cells = {
        "at": at.isoformat(),
        "src": "10.0.0.1",
        "dst": "10.0.0.2",
        "bytes": f"{number + 1}",
        "s": "0.5",
        "p": "tcp",
    }
    return ",".join((cells | changes).values())


def csv(*rows: str, header: str = HEADER, end: str = "\n") -> bytes:
    return end.join([header, *rows, ""]).encode()


def good(number: int) -> bytes:
    """Three ordinary events."""
    return csv(row(number), row(number + 1), row(number + 2))


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def gzip_of_zeros(size: int) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
        for _ in range(size // MEGA):
            file.write(bytes(MEGA))
    return packed.getvalue()


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def skippable(content: bytes) -> bytes:
    """A frame of zstd that bears no content."""
    return b"\x50\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


def zstd_bomb(number: int) -> bytes:
    """Blocks of four bytes, each for 128 KiB of one and the same byte."""
    last = [False] * 511 + [True]
    blocks = [((131_072 << 3) | 2 | end).to_bytes(3, "little") + b"0" for end in last]
    return zstd(good(number)) + b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(blocks)


def parquet(number: int, rows: int = 3, **columns: pl.Series | None) -> bytes:
    """Canonical events as Parquet; a column given as None is left out."""
    frame = pl.DataFrame(
        {
            "timestamp": [START + timedelta(seconds=number + n) for n in range(rows)],
            "src_ip": ["10.0.0.1"] * rows,
            "dst_ip": ["10.0.0.2"] * rows,
            "bytes": [number + n for n in range(rows)],
            "duration": [0.5] * rows,
            "protocol": ["tcp"] * rows,
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC"), "bytes": pl.Int64()},
    )
    frame = frame.with_columns(series.alias(name) for name, series in columns.items() if series is not None)
    return written(frame.drop(name for name, series in columns.items() if series is None))


def written(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def one_text(text: str, rows: int) -> pl.Series:
    """A column that holds `text` in each row, and the file but once."""
    return pl.Series([text], dtype=pl.Enum([text])).new_from_index(0, rows)


def damaged(content: bytes) -> bytes:
    """Zeros in the middle of the data; the footer is whole."""
    return content[:8] + bytes(64) + content[72:]


def garbage(number: int, size: int = 4096) -> bytes:
    return b"\x01" + random.Random(number).randbytes(size)


def zeek(number: int, *lines: str, fields: str = "") -> bytes:
    names = "ts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\torig_bytes\tresp_bytes\tconn_state"
    line = f"{1700000000 + number}.5\tC{number}\t10.0.0.1\t40000\t10.0.0.2\t443\ttcp\t0.5\t10\t20\tSF"
    return "\n".join(["#separator \\x09", "#path\tconn", f"#fields\t{fields or names}", line, *lines, ""]).encode()


def eve(number: int, flow: str = "") -> bytes:
    """A flow of Suricata's; `flow` instead of its inner object."""
    inner = flow or '{"start":"2025-12-20T12:00:00.5+0200","end":"2025-12-20T12:00:01+0200","bytes_toserver":7}'
    outer = f'"timestamp":"2025-12-20T12:09:00Z","event_type":"flow","src_ip":"10.0.0.1","src_port":{number % 65536}'
    return f'{{{outer},"dest_ip":"10.0.0.2","proto":"TCP","flow":{inner}}}\n'.encode()


def argus(*flows: str) -> bytes:
    """Flows of Argus, each its columns from Proto to Dport."""
    header = "StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,State,TotPkts,TotBytes,SrcBytes,Label"
    rows = [f"2025/12/20 12:00:00.{n:06d},0.5,{flow},CON,2,300,100," for n, flow in enumerate(flows)]
    return csv(*rows, header=header)


def well(*rows: str, header: str = "Fecha;Pozo;Presión de succión (psi);Corriente (A);Frecuencia (Hz)") -> bytes:
    """What a well's sensors measured, as a spreadsheet exports it."""
    return csv(*rows, header=header)


def measured(number: int, pressure: str = "1.234,5", at: str = "20/12/2025") -> str:
    return f"{at} 12:00:{number % 60:02d};AYATSIL-{number};{pressure};45,1;60"


def raw(number: int, **columns: pl.Series | None) -> bytes:
    """An object of RAW as the ingestor writes it."""
    whole = pl.read_parquet(io.BytesIO(parquet(number)))
    whole = whole.with_columns(
        pl.int_range(1, 4, dtype=pl.Int64).alias("_line"),
        *(pl.lit(None, pl.Int32).alias(name) for name in ("src_port", "dst_port")),
        *(pl.lit(None, pl.Int64).alias(name) for name in ("src_bytes", "dst_bytes", "src_packets", "dst_packets")),
        *(pl.lit(None, pl.String).alias(name) for name in ("conn_state", "label")),
    )
    whole = whole.with_columns(series.alias(name) for name, series in columns.items() if series is not None)
    return written(whole.drop(name for name, series in columns.items() if series is None))


FEATURES = (
    "log_bytes", "log_duration", "duration_missing", "duration_zero", "log_bytes_rate", "protocol_rarity",
    "source_interval", "pair_interval", "pair_interval_change", "new_destination", "log_fan_out", "log_ports_seen",
    "log_recent_events",
)  # fmt: skip


def silver(number: int, feature: pl.Series | None = None, at: pl.Series | None = None) -> bytes:
    """An object of SILVER as far as a training is concerned; `feature` stands for each of its features."""
    feature = pl.Series([0.5, 1.5, number * 1.0]) if feature is None else feature
    at = (
        pl.Series([START + timedelta(seconds=n) for n in range(3)], dtype=pl.Datetime("us", "UTC"))
        if at is None
        else at
    )
    return written(pl.DataFrame({"timestamp": at, **dict.fromkeys(FEATURES, feature)}))


# making of messages


def notification(
    key: str, *, bucket: str = "{prefix}-landing", event: str = "s3:ObjectCreated:Put", **more: Any
) -> bytes:
    """`{prefix}` is filled in by the test."""
    entity = {"key": quote_plus(key), "eTag": "0" * 32, "size": 3, **more}
    record = {"eventName": event, "s3": {"bucket": {"name": bucket}, "object": entity}}
    return json.dumps({"EventName": event, "Key": f"{bucket}/{key}", "Records": [record]}).encode()


# making of models


@dataclass(frozen=True)
class Forged:
    """A genuine card moved to another folder, with `change`; and the file beside it."""

    change: Mapping[str, Any] = field(default_factory=dict)
    artifact: bytes | None = None
    """None: the genuine one. The card says its hash."""
    sha256: str | None = None
    """What the card says instead."""
    card: bytes | None = None
    """The card's own bytes, instead of a genuine one's."""
    as_it_is: bool = False
    """Whether the card is copied without a change: it still names its own folder."""
    leave_out: bool = False
    """Whether the model's file is not stored."""


def forged(artifact: Callable[[int], bytes] | None = None, **said: Any) -> Callable[[int], Forged]:
    """The test makes the real thing of it: it has a genuine card to begin with."""
    return lambda number: Forged(artifact=artifact(number) if artifact else None, **said)


class Evil:
    """A pickle that would make a file, if anybody loaded it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(Path(tempfile.gettempdir(), EVIL)), "w"))


class Stranger:
    """A type that is on nobody's list."""


def skops_of(value: Any) -> bytes:
    return bytes(skops.io.dumps(value))


def skops_bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("schema.json", "w") as entry:
        for _ in range(1100):
            entry.write(bytes(MEGA))
    return packed.getvalue()


# the table

EVIL = "acequia-ran-a-strangers-code"
RUN = UUID("00000000-0000-4000-8000-00000badcafe")

OF_WELLS: dict[str, Any] = {"file": "AYATSIL-7_all.csv", "dataset": "sensor_data"}

FILES = [
    Case("zero bytes", "a file with nothing in it", "file", lambda n: b"", Quarantined("empty", "no bytes")),
    Case("gzip of nothing", "an empty file, packed", "file", lambda n: gzipped(b""), Quarantined("empty", "no bytes")),
    Case("zero rows", "a header and nothing below it", "file", lambda n: csv(f"# {n}"),
         Quarantined("no_rows", "no record")),
    Case("blank lines", "a header and blank lines", "file", lambda n: csv("", " " * (n % 97), "\t"),
         Quarantined("no_rows", "no record")),
    Case("all rows unreadable", "no row's time reads as one", "file",
         lambda n: csv(row(n, at="yesterday"), row(n, at="32.13.2025")),
         Quarantined("no_rows", "none of the 2 records")),
    Case("all rows break the contract", "they read, and make no sense", "file",
         lambda n: csv(row(n, bytes="-1"), row(n + 1, src="somewhere")),
         Quarantined("no_rows", "2 of 2 rows break the contract", "transformer")),
    Case("too many bad rows", "more than half break the contract", "file",
         lambda n: csv(row(n), row(n, p="?"), row(n + 1, p="!")),
         Quarantined("too_many_rejected", "50% is too many", "transformer")),
    Case("truncated gzip", "the second half is missing", "file",
         lambda n: (packed := gzipped(good(n) * 50))[: len(packed) // 2],
         Quarantined("truncated", "ends in the middle"), "events.csv.gz"),
    Case("truncated bzip2", "the second half is missing", "file",
         lambda n: (packed := bz2.compress(good(n) * 50))[: len(packed) // 2],
         Quarantined("truncated", "ends in the middle"), "events.csv.bz2", format="canonical_csv"),
    Case("damaged gzip", "its checksum is wrong", "file", lambda n: gzipped(good(n))[:-8] + bytes(8),
         Quarantined("unreadable", "damaged"), "events.csv.gz"),
    Case("something behind gzip", "another file appended", "file", lambda n: gzipped(good(n)) + b"and more " * 9,
         Quarantined("unreadable", "something else behind"), "events.csv.gz"),
    Case("zip bomb", "64 MiB of zeros in 64 KB of gzip", "file", lambda n: gzipped(good(n)) + gzip_of_zeros(64 * MEGA),
         Quarantined("zip_bomb", "200 times as large"), "events.csv.gz", format="canonical_csv"),
    Case("nested packing", "gzip in gzip", "file", lambda n: gzipped(gzipped(good(n))),
         Quarantined("unknown_format", "none of the formats"), "events.csv.gz"),
    Case("zstd", "two frames, a skippable one before each", "file",
         lambda n: skippable(b"%d" % n) + zstd(good(n)) + skippable(b"") + zstd(csv(row(n + 3)).split(b"\n", 1)[1]),
         Taken(4), "events.csv.zst"),
    Case("garbage called zstd", "noise behind the first four bytes of zstd", "file",
         lambda n: b"\x28\xb5\x2f\xfd" + garbage(n), Quarantined("unreadable", "zstd"), "events.csv.zst"),
    Case("truncated zstd", "the second half is missing", "file",
         lambda n: (packed := zstd(good(n) * 50))[: len(packed) // 2],
         Quarantined("truncated", "ends in the middle"), "events.csv.zst", format="canonical_csv"),
    Case("damaged zstd", "its checksum is wrong", "file", lambda n: zstd(good(n))[:-4] + bytes(4),
         Quarantined("unreadable", "damaged"), "events.csv.zst"),
    Case("something behind zstd", "another file appended", "file", lambda n: zstd(good(n)) + b"and more " * 9,
         Quarantined("unreadable", "something else behind"), "events.csv.zst"),
    Case("zstd bomb", "64 MiB of one byte in 2 KB of zstd", "file", zstd_bomb,
         Quarantined("zip_bomb", "200 times as large"), "events.csv.zst", format="canonical_csv"),
    Case("zstd with a window of 2 GiB", "its header asks for that much memory", "file",
         lambda n: b"\x28\xb5\x2f\xfd\x00\xa8" + garbage(n), Quarantined("unreadable", "128 MiB"), "events.csv.zst"),
    Case("truncated Parquet", "without its footer", "file", lambda n: parquet(n, 1000)[:-200],
         Quarantined("unreadable", "Parquet"), "events.parquet"),
    Case("damaged Parquet", "zeros in the middle, the footer whole", "file", lambda n: damaged(parquet(n, 1000)),
         Quarantined("unreadable", "Parquet"), "events.parquet"),
    Case("Parquet without a column", "no `protocol`", "file", lambda n: parquet(n, protocol=None),
         Quarantined("missing_columns", "protocol"), "events.parquet"),
    Case("Parquet with nested values", "lists for addresses", "file",
         lambda n: parquet(n, src_ip=pl.Series([["10.0.0.1"]] * 3)),
         Quarantined("unreadable", "src_ip"), "events.parquet"),
    Case("Parquet bomb", "100,000 times a text of 1 MiB, in 1.4 MB of file", "file",
         lambda n: parquet(n, 100_000, src_ip=one_text(f"{n}".rjust(MEGA, "A"), 100_000)),
         Quarantined("no_rows", "none of the 100000 records"), "events.parquet"),
    Case("binary garbage", "4 KB of noise", "file", garbage, Quarantined("unknown_format", "none of the formats")),
    Case("binary garbage called CSV", "noise, with a format named", "file", garbage,
         Quarantined("unreadable", "no UTF-8 text"), format="canonical_csv"),
    Case("another kind of file", "a picture under a log's name", "file",
         lambda n: b"\x89PNG\r\n\x1a\n" + struct.pack(">I", n) + garbage(n),
         Quarantined("unknown_format", "none of the formats"), "conn.log"),
    Case("another log", "Zeek's dns.log", "file",
         lambda n: f"#separator \\x09\n#path\tdns\n#fields\tts\tuid\tquery\n1.5\tC{n}\texample.org\n".encode(),
         Quarantined("unknown_format", "none of the formats"), "dns.log"),
    Case("an HTML page", "an error page saved as a log", "file",
         lambda n: f"<!doctype html><title>502</title><p>{n}</p>\n".encode(),
         Quarantined("unknown_format", "<!doctype html>"), "conn.log"),
    Case("another format named", "a CSV file handed over as Zeek JSON", "file", good,
         Quarantined("no_rows", "none of the 4 records"), format="zeek_json"),
    Case("wrong extension: gzip", "a gzip file named .csv", "file", lambda n: gzipped(good(n)), Taken(3)),
    Case("wrong extension: Parquet", "a Parquet file named .csv", "file", parquet, Taken(3)),
    Case("wrong extension: CSV", "a CSV file named .parquet", "file", good, Taken(3), "events.parquet"),
    Case("wrong extension: Zeek", "a conn.log named .jpg", "file", zeek, Taken(1), "holiday.jpg"),
    Case("one long line", "64 MiB without a line end", "file", lambda n: b"%d" % n + b"7" * (64 * MEGA),
         Quarantined("unknown_format", "none of the formats")),
    Case("one long row", "a header, and a row of 64 MiB", "file", lambda n: csv(row(n, src="7" * (64 * MEGA))),
         Quarantined("no_rows", "none of the 1 records")),
    Case("a long row among good ones", "2 MiB in one cell", "file",
         lambda n: csv(row(n), row(n + 1, src="7" * (2 * MEGA)), row(n + 2)), Taken(2, {"line_too_long": 1})),
    Case("a header of 100,000 columns", "each a column of a frame", "file",
         lambda n: csv(row(n), header=HEADER + "".join(f",c{i}" for i in range(100_000))),
         Quarantined("too_many_columns", "at most 2000"), format="canonical_csv"),
    Case("NUL bytes", "in the middle of a number, and of an address", "file",
         lambda n: csv(row(n), row(n + 1, bytes="1\0" + "2"), row(n + 2)), Taken(2, {"unparsable_bytes": 1})),
    Case("NUL bytes in the header", "a name that PostgreSQL can not hold", "file",
         lambda n: csv(row(n), header=HEADER.replace("src_ip", "src\0ip")), Quarantined("missing_columns", "src_ip"),
         format="canonical_csv"),
    Case("NUL bytes alone", "a sparse file's hole", "file", lambda n: bytes(5000 + n),
         Quarantined("unknown_format", "none of the formats")),
    Case("BOM", "a UTF-8 byte order mark", "file", lambda n: b"\xef\xbb\xbf" + good(n), Taken(3)),
    Case("UTF-16", "as Excel's \"Unicode text\"", "file", lambda n: good(n).decode().encode("utf-16"),
         Quarantined("unknown_format", "none of the formats")),
    Case("Latin-1", "a row with an umlaut that is no UTF-8", "file",
         lambda n: csv(row(n), row(n + 1)) + row(n + 2, p="tcp-größe").encode("latin-1"), Taken(2, {"not_utf8": 1})),
    Case("CRLF", "line ends of Windows", "file", lambda n: csv(row(n), row(n + 1), end="\r\n"), Taken(2)),
    Case("ragged rows", "one with too few fields, one with too many", "file",
         lambda n: csv(row(n), "1,2", row(n) + ",9,9", row(n + 1)), Taken(2, {"ragged_line": 2})),
    Case("quotes that do not match", "one opened, none closed", "file",
         lambda n: csv(row(n), row(n, src='"10.0.0.1'), row(n + 1)), Taken(2, {"ragged_line": 1})),
    Case("duplicate column", "the header says `src_ip` twice", "file",
         lambda n: csv(row(n) + ",10.0.0.9", header=HEADER + ",src_ip"), Quarantined("duplicate_columns", "src_ip")),
    Case("a second header", "two files put together", "file", lambda n: good(n) + good(n + 3), Taken(6)),
    Case("numbers beyond all bounds", "1e999, 2^63, NaN", "file",
         lambda n: csv(row(n), row(n, bytes="9223372036854775808"), row(n, bytes="1e999"), row(n, bytes="0x10")),
         Taken(1, {"unparsable_bytes": 3})),
    Case("JSON without an end", "objects in objects in objects", "file",
         lambda n: b'{"ts":%d.5,"id.orig_h":"10.0.0.1","id.resp_h":"10.0.0.2","proto":"tcp","conn_state":"SF"}\n' % n
         + b'{"a":' * 50_000 + b"\n", Taken(1, {"broken_json": 1}), "conn.log"),
    Case("lines that are no records", "JSON values that are no objects", "file",
         lambda n: b'{"ts":%d.5,"id.orig_h":"10.0.0.1","id.resp_h":"10.0.0.2","proto":"tcp","conn_state":"SF"}\n' % n
         + b'[1]\nnull\n{"a":1},{"b":2}\n', Taken(1, {"broken_json": 3}), "conn.log"),
    Case("EVE without a flow", "Suricata's other events alone", "file",
         lambda n: b'{"timestamp":"2025-12-20T12:00:00Z","event_type":"alert","n":%d}\n' % n * 3,
         Quarantined("no_rows", "no record"), "eve.json"),
    Case("EVE with odd flows", "one flow is a number, one is cut off, one is nested 5,000 deep", "file",
         lambda n: eve(n) + eve(n + 1) + eve(n + 2) + eve(n, flow="7") + eve(n)[:40] + b"\n"
         + eve(n, flow='{"start":' * 5000 + "1" + "}" * 5000),
         Taken(4, {"broken_json": 2}), "eve.json"),
    Case("Argus below IP", "flows between MAC addresses, the sensor's word of itself, a port in hex", "file",
         lambda n: argus("tcp,10.0.0.1,0x0303,->,10.0.0.2,80", f"tcp,10.0.0.1,{n},->,10.0.0.2,80",
                         "llc,00:1c:23:49:8d:b7,,->,01:80:c2:00:00:00,", "man,0,,,0,"),
         Taken(3), "capture.binetflow"),
    Case("machine learning CSV", "CIC-IDS2017 without addresses and times", "file",
         lambda n: csv(f"80,{n},1,2,BENIGN", header=" Destination Port, Flow Duration, Total Fwd Packets,"
                       "Total Length of Fwd Packets, Label"),
         Quarantined("missing_columns", "no addresses"), "Monday-WorkingHours.pcap_ISCX.csv"),
    Case("NSL-KDD", "43 columns, no header, no addresses, no times", "file",
         lambda n: b"0,udp,private,SF,%d" % n + b",0" * 36 + b",teardrop,16\n",
         Quarantined("unknown_format", "without a header"), "KDDTrain+.txt"),
    Case("people's CSV", "`;`, decimal commas, Windows-1252", "file",
         lambda n: well(measured(n), measured(n + 1)).decode().encode("cp1252"), Taken(2), **OF_WELLS),
    Case("people's CSV with values that are none", "a word, the other decimal mark, a 31st of February", "file",
         lambda n: well(measured(n), measured(n, "apagado"), measured(n, "1,234.5"), measured(n, at="31/02/2025")),
         Taken(1, {"unparsable_intake_pressure_psi": 2, "unparsable_timestamp": 1}), **OF_WELLS),
    Case("people's CSV with a quote that nobody closed", "before 2 MiB of rows", "file",
         lambda n: well(f'"{measured(n)}', *[measured(n + i) for i in range(40_000)]),
         Taken(40_000, {"open_quote": 1}), **OF_WELLS),
    Case("people's CSV with a line of 64 MiB", "after one good row", "file",
         lambda n: well(measured(n), "7" * (64 * MEGA)), Taken(1, {"line_too_long": 1}), **OF_WELLS),
    Case("people's CSV with NUL bytes", "in a cell, and a row of nothing else", "file",
         lambda n: well(measured(n), measured(n, "1\0" + "2"), "\0" * 50),
         Taken(1, {"unparsable_intake_pressure_psi": 1, "ragged_line": 1}), **OF_WELLS),
    Case("people's CSV with a column twice", "two headings that mean the same", "file",
         lambda n: well(measured(n) + ";7", header="Fecha;Pozo;PIP;Corriente (A);Frecuencia (Hz);Presión succión"),
         Quarantined("duplicate_columns", "intake_pressure_psi"), **OF_WELLS),
    Case("people's CSV without a time", "no column says when", "file",
         lambda n: well(f"AYATSIL-{n};1;2", header="Pozo;PIP;Corriente (A)"),
         Quarantined("missing_columns", "timestamp"), format="people_csv", **OF_WELLS),
    Case("people's CSV in half a UTF-16", "a byte is missing at the end", "file",
         lambda n: well(measured(n)).decode().encode("utf-16")[:-1], Quarantined("unreadable", "UTF-16"), **OF_WELLS),
    Case("a spreadsheet called CSV", "a zip archive, as .xlsx files are", "file",
         lambda n: b"PK\x03\x04" + garbage(n), Quarantined("unknown_format", "none of the formats"), **OF_WELLS),
    Case("a log with two headers", "the second with other columns", "file",
         lambda n: zeek(n) + zeek(n, fields="ts\tid.orig_h"), Quarantined("missing_columns", "id.resp_h"), "conn.log"),
]  # fmt: skip

KEYS = [
    Case("key with spaces and +", "`a b+c%20d.csv`", "landing", good, Taken(3), "network_events/a b+c%20d.csv"),
    Case("key in unicode", "Chinese, an emoji, right-to-left marks", "landing", good, Taken(3),
         "network_events/\u6c34\u8def/\U0001f30a \u202esv\u0301.csv"),
    Case("key of 1,000 characters", "four folders of 240 and a name", "landing", good, Taken(3),
         "network_events/" + "/".join(["k" * 240] * 4) + "/e.csv"),
    Case("key like our own", "a file named as if it were RAW", "landing", good, Taken(3),
         "network_events/date=2025-12-20/network_events_20251220_120000_9f2c4e1a7b3d5e60_0001.parquet"),
    Case("key that says nothing", "no dataset in it, and the content tells none", "landing", garbage,
         Quarantined("unknown_dataset", "nothing says what"), "somewhere/thing.bin"),
    Case("metadata: another dataset", "`acequia-dataset` names one that there is not", "landing", good,
         Quarantined("unknown_dataset", "no dataset"), metadata={"acequia-dataset": "../../etc"}),
    Case("metadata: another format", "`acequia-format` names one that there is not", "landing", good,
         Quarantined("unknown_format", "has no format"), "network_events/f.csv", metadata={"acequia-format": "exe"}),
    Case("a run id that is none", "`acequia-run-id` is `'; DROP TABLE runs; --`", "landing", good, Taken(3),
         "network_events/r.csv", metadata={"acequia-run-id": "'; DROP TABLE runs; --"}),
    Case("a run id someone made up", "a valid one, that no run of ours has", "landing", good, Taken(3),
         "network_events/r.csv", metadata={"acequia-run-id": str(RUN)}),
    Case("a trace that is none", "`traceparent` is a header of its own", "landing", good, Taken(3),
         "network_events/t.csv", metadata={"traceparent": "00-x\" onload=alert(1)"}),
    Case("name with ..", "`..` as the file's name", "upload", good, Refused(422, "can not be stored"), "%2E%2E"),
    Case("name with a slash", "`../../etc/passwd`, escaped", "upload", good, Refused(404, "Not Found"),
         "..%2F..%2Fetc%2Fpasswd"),
    Case("name with NUL", "`a\\0b.csv`", "upload", good, Refused(422, "can not be stored"), "a%00b.csv"),
    Case("name that is no UTF-8", "`%ff%fe`", "upload", good, Taken(3), "%ff%fe.csv"),
    Case("name of 1,000 characters", "longer than any store takes", "upload", good, Refused(422, "can not be stored"),
         "k" * 1000 + ".csv"),
    Case("name with spaces and +", "`a b+c.csv`", "upload", good, Taken(3), "a%20b+c.csv"),
    Case("unknown format", "`format=exe`", "upload", good, Refused(422, "no format"), format="exe"),
]  # fmt: skip

REQUESTS = [
    Case("a body that is no JSON", "`{\"dataset\":`", "request", lambda n: b'{"dataset":', Refused(422, "json")),
    Case("JSON of another shape", "a list of lists", "request", lambda n: b"[[[]]]", Refused(422, "body")),
    Case("a body without an end", "50,000 opening brackets", "request", lambda n: b"[" * 50_000,
         Refused(422, "parsing the body")),
    Case("a body too large", "1 MB where 64 KiB are allowed", "request", lambda n: b" " * 10**6,
         Refused(413, "at most 65536 bytes")),
    Case("an unknown dataset", "`\\u0000`", "request",
         lambda n: b'{"dataset": "\\u0000", "source": {"kind": "synthetic"}}', Refused(422, "No dataset is named")),
    Case("half a surrogate", "`\\ud800` as the dataset", "request",
         lambda n: b'{"dataset": "\\ud800", "source": {"kind": "synthetic"}}', Refused(422, "")),
    Case("too many rows", "10^18", "request",
         lambda n: b'{"dataset": "network_events", "source": {"kind": "synthetic", "rows": 1000000000000000000}}',
         Refused(422, "at most 50000000")),
    Case("fields that there are not", "`source.query`", "request",
         lambda n: b'{"dataset": "network_events", "source": {"kind": "synthetic", "query": "DROP"}}',
         Refused(422, "query")),
]  # fmt: skip

MESSAGES = [
    Case("a notification that is no JSON", "text", "message", lambda n: b"hello %d" % n,
         Noted("malformed_event", "hello")),
    Case("a notification that is no text", "noise", "message", garbage, Noted("malformed_event", "notification")),
    Case("a notification of nothing", "`null`", "message", lambda n: b"null", Noted("malformed_event", "null")),
    Case("a notification without records", "`{\"Records\": []}`", "message",
         lambda n: json.dumps({"Records": [], "n": n}).encode(), Noted("malformed_event", "IndexError")),
    Case("a notification of other types", "a number for the key", "message",
         lambda n: notification("x").replace(b'"x"', b"%d" % n), Noted("malformed_event", "notification")),
    Case("a notification without an end", "100,000 opening brackets", "message", lambda n: b"[" * (100_000 + n),
         Noted("malformed_event", "notification")),
    Case("another bucket", "somebody else's on the same server", "message",
         lambda n: notification(f"{n}", bucket="holiday-pictures"), Ignored("another bucket")),
    Case("another layer of ours", "an event of RAW sent to the ingestor", "message",
         lambda n: notification(f"{n}", bucket="{prefix}-raw"), Ignored("another layer")),
    Case("another event", "an object was removed", "message",
         lambda n: notification(f"{n}", event="s3:ObjectRemoved:Delete"), Ignored("event s3:ObjectRemoved:Delete")),
    Case("a test event", "as a server sends it when it is set up", "message",
         lambda n: json.dumps({"Event": "s3:TestEvent", "n": n}).encode(), Ignored("test event")),
    Case("an object that there is not", "an event of what was never stored", "message",
         lambda n: notification(f"network_events/gone-{n}.csv"), Noted("GONE", "deleted before it was read")),
    Case("a key with .. in a notification", "`../../etc/passwd`", "message",
         lambda n: notification("../../etc/passwd"), Noted("bad_key", " key ")),
    Case("a key of 2,000 characters in a notification", "longer than S3 allows", "message",
         lambda n: notification("k" * 2000), Noted("bad_key", " key ")),
    Case("a key with NUL in a notification", "no store has it", "message",
         lambda n: notification("a\0b"), Noted("bad_key", " key ")),
    Case("a command that is none", "`{}`", "command", lambda n: b'{"n": %d}' % n,
         Noted("malformed_command", "not an ingestion command")),
    Case("a command that is no text", "noise", "command", garbage,
         Noted("malformed_command", "not an ingestion command")),
]  # fmt: skip

OBJECTS = [
    Case("RAW: not Parquet", "noise under one of our names", "raw", garbage,
         Quarantined("not_canonical", "not a Parquet file", "transformer")),
    Case("RAW: zero bytes", "nothing under one of our names", "raw", lambda n: b"",
         Quarantined("not_canonical", "not a Parquet file", "transformer")),
    Case("RAW: damaged", "zeros in the middle", "raw", lambda n: damaged(raw(n)),
         Quarantined("not_canonical", "damaged", "transformer")),
    Case("RAW: somebody else's columns", "Parquet without ours", "raw", parquet,
         Quarantined("not_canonical", "_line is missing", "transformer")),
    Case("RAW: other types", "`bytes` as text", "raw", lambda n: raw(n, bytes=pl.Series(["1", "2", f"{n}"])),
         Quarantined("not_canonical", "bytes is String", "transformer")),
    Case("RAW: no rows", "our columns, and nothing in them", "raw",
         lambda n: written(pl.read_parquet(io.BytesIO(raw(n))).clear()),
         Quarantined("no_rows", "no row", "transformer")),
    Case("RAW: somebody else's key", "not named as we name things", "raw", raw,
         Quarantined("unknown_dataset", "no dataset of ours", "transformer"), "export/part-0.parquet"),
    Case("RAW: metadata someone made up", "10^40 rows, a run id that is none", "raw", raw, Taken(3),
         metadata={"acequia-rows": "1" + "0" * 40, "acequia-run-id": "0"}),
    Case("SILVER: not Parquet", "noise under one of our names", "silver", garbage,
         Quarantined("nothing_to_train_on", "not a Parquet file", "trainer")),
    Case("SILVER: somebody else's columns", "Parquet without features", "silver", parquet,
         Quarantined("nothing_to_train_on", "has no log_bytes", "trainer")),
    Case("SILVER: features as text", "numbers in quotes", "silver", lambda n: silver(n, pl.Series(["1", "2", f"{n}"])),
         Quarantined("nothing_to_train_on", "a feature is a number", "trainer")),
    Case("SILVER: infinite features", "1/0", "silver", lambda n: silver(n, pl.Series([1.0, float("inf"), n * 1.0])),
         Quarantined("nothing_to_train_on", "not every value can be trained on", "trainer")),
    Case("SILVER: time as text", "`timestamp` is a String", "silver",
         lambda n: silver(n, at=pl.Series(["2025", "2026", f"{n}"])),
         Quarantined("nothing_to_train_on", "timestamp is String", "trainer")),
    Case("SILVER: no times", "`timestamp` is null", "silver",
         lambda n: silver(n, at=pl.Series([None] * 3, dtype=pl.Datetime("us", "UTC"))),
         Quarantined("nothing_to_train_on", "not every value can be trained on", "trainer")),
    Case("SILVER: a run id that is none", "metadata of somebody else's", "silver", garbage,
         Quarantined("nothing_to_train_on", "not a Parquet file", "trainer"),
         metadata={"acequia-run-id": "x", "acequia-rows": "-7", "acequia-time-max": "never"}),
    Case("SILVER: somebody else's key", "not named as we name things", "silver", silver,
         Noted("foreign_key", "not named as an object of ours", "trainer"), "export/part-0.parquet"),
    Case("card: no JSON", "noise as model.json", "model", forged(card=garbage(1)),
         Quarantined("malformed_card", "not a model's card", "evaluator")),
    Case("card: not ours", "JSON of another shape", "model", forged(card=b'{"model": "resnet"}'),
         Quarantined("malformed_card", "not a model's card", "evaluator")),
    Case("card: of another model", "a genuine one, copied elsewhere", "model", forged(as_it_is=True),
         Quarantined("malformed_card", "is about", "evaluator")),
    Case("card: no data to be judged by", "the hold-out is empty", "model", forged(change={"holdout": {"inputs": []}}),
         Quarantined("malformed_card", "no data", "evaluator")),
    Case("card: data that there are not", "the hold-out names an object that was never there", "model",
         forged(change={"holdout": {"inputs": [
             {"uri": "s3://x/y", "key": "network_events/nowhere.parquet", "etag": "0" * 32, "rows": 1}]}}),
         Quarantined("missing_input", "no longer there", "evaluator")),
    Case("model: missing", "the card names a file that is not there", "model", forged(leave_out=True),
         Quarantined("missing_input", "no longer there", "evaluator")),
    Case("model: another hash", "the file is not the card's", "model", forged(artifact=garbage, sha256="0" * 64),
         Quarantined("hash_mismatch", "sha256 is", "evaluator")),
    Case("model: garbage", "with the hash that the card says", "model", forged(artifact=garbage),
         Quarantined("unreadable_model", "not a skops file", "evaluator")),
    Case("model: a pickle", "that would run a stranger's code", "model",
         forged(artifact=lambda n: pickle.dumps(Evil())),
         Quarantined("unreadable_model", "not a skops file", "evaluator")),
    Case("model: a foreign type", "skops with a type that is not on our list", "model",
         forged(artifact=lambda n: skops_of(Stranger())), Quarantined("untrusted_type", "Stranger", "evaluator")),
    Case("model: no detector", "skops of a dictionary", "model", forged(artifact=lambda n: skops_of({"a": n})),
         Quarantined("unreadable_model", "gives no scores", "evaluator")),
    Case("model: a zip bomb", "1.1 GB in 1 MB of skops", "model", forged(artifact=lambda n: skops_bomb()),
         Quarantined("unreadable_model", "more than a model has", "evaluator")),
]  # fmt: skip

TABLE: Mapping[str, Sequence[Case]] = {
    "Files": FILES,
    "Keys, names and metadata": KEYS,
    "Requests": REQUESTS,
    "Messages": MESSAGES,
    "Objects of the layers that somebody else wrote": OBJECTS,
}
CASES = [case for cases in TABLE.values() for case in cases]
