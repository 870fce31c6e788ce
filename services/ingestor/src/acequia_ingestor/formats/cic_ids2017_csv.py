"""CIC-IDS2017 with addresses and times: the CSV files of GeneratedLabelledFlows (TrafficLabelling), made by
CICFlowMeter; also what later versions of that tool write, which shortened the names (`Src IP`, `Tot Fwd Pkts`).

Columns by name, in any order and case, with or without the spaces before them; ` Fwd Header Length` comes twice and is
not read. Null: nothing, `NaN`. Lines of nothing but commas, with which the file of the web attacks ends, are blank.

Times: dd/mm/yyyy with seconds or without, with AM or PM or without, or ISO 8601; no zone: taken for UTC. CIC-IDS2017
was recorded from 3 to 7 July 2017 in working hours, by a clock of 12 hours whose PM got lost: on these days, 1 to 7
o'clock without AM or PM is the afternoon. `Flow Duration` is in microseconds (some are negative, which the contract
names). `bytes` is what the packets carried in both directions, without headers. Protocols are numbers; those of
PROTOCOLS get their names. Labels are stored in lower case; the dash of `Web Attack - XSS`, a byte of Windows-1252, is
understood.

The MachineLearningCSV files (MachineLearningCVE) have no addresses and times: they are refused.

Layout: FlowGenerator of CICFlowMeter; Sharafaldin, Lashkari, Ghorbani 2018, doi:10.5220/0006639801080116. The clock:
unb.ca/cic/datasets/ids-2017.html says when each attack was (Heartbleed on 5 July, 15:12 to 15:32); in the file it is
3:12 to 3:32.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.formats import Chunk, Format, Head
from acequia_ingestor.formats._columns import convert, in_form, no_rejected, typed
from acequia_ingestor.formats._csv import CsvHeader, first_header, read_csv
from acequia_ingestor.formats._flows import both_ways, flow_fields
from acequia_ingestor.formats._lines import BLOCK_BYTES, blocks_of

NAMES = {
    "timestamp": ("timestamp",),
    "src_ip": ("source ip", "src ip"),
    "dst_ip": ("destination ip", "dst ip"),
    "duration": ("flow duration",),
    "protocol": ("protocol",),
    "src_port": ("source port", "src port"),
    "dst_port": ("destination port", "dst port"),
    "src_bytes": ("total length of fwd packets", "total length of fwd packet", "totlen fwd pkts"),
    "dst_bytes": ("total length of bwd packets", "total length of bwd packet", "totlen bwd pkts"),
    "src_packets": ("total fwd packets", "total fwd packet", "tot fwd pkts"),
    "dst_packets": ("total backward packets", "total bwd packets", "tot bwd pkts"),
    "label": ("label",),
}
COLUMNS = frozenset(name for names in NAMES.values() for name in names)
REQUIRED = ("timestamp", "src_ip", "dst_ip", "duration", "protocol", "src_bytes", "dst_bytes")
NULLS = ("", "NaN", "nan")
FIRST_DAY, LAST_DAY = date(2017, 7, 3), date(2017, 7, 7)
EN_DASH = "\u2013"
_DASH = re.compile(rb"(?<![\x80-\xff])\x96")


def detect(head: Head, dataset: Dataset) -> bool:
    return any(
        first_header(head, ("flow duration", packets, size)) is not None
        for packets in NAMES["src_packets"]
        for size in NAMES["src_bytes"]
    )


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    for texts, header, done in read_csv(
        blocks_of(_utf8(path)), dataset, COLUMNS, _check, columns=COLUMNS, no_records=_commas
    ):
        if not header.names:
            yield done(texts, no_rejected())
            continue
        fields = flow_fields(
            NAMES,
            header.places,
            dataset.lowered,
            quick={"timestamp": _with_seconds},
            read={"timestamp": _otherwise},
        )
        rows, broken = typed(texts, fields, NULLS, strip=True)
        yield done(rows.with_columns(bytes=both_ways("bytes"), duration=pl.col("duration") / 1e6), broken)


def _utf8(path: Path) -> Iterator[bytes]:
    """The file with its one byte that is no UTF-8 as what it means, a dash."""
    with path.open("rb") as file:
        while piece := file.read(BLOCK_BYTES):
            yield _DASH.sub(EN_DASH.encode(), piece) if b"\x96" in piece else piece


def _check(header: CsvHeader) -> None:
    missing = [column for column in REQUIRED if not set(NAMES[column]) & set(header.names)]
    if {"src_ip", "dst_ip"} <= set(missing):
        raise RejectedInput(
            "missing_columns",
            "these flows have no addresses, as in CIC-IDS2017's MachineLearningCSV: "
            "hand over the files of GeneratedLabelledFlows (TrafficLabelling), which have Source IP and Timestamp",
        )
    if missing:
        names = ", ".join(NAMES[column][0] for column in missing)
        raise RejectedInput("missing_columns", f"the header lacks {names}; it has {', '.join(header.names)[:500]}")


def _commas(header: CsvHeader) -> Mapping[str, pl.Expr]:
    return {"blank": pl.col("line").str.contains(rf"^[\s{re.escape(header.separator)}]*$")}


def _with_seconds(column: pl.Expr) -> pl.Expr:
    return _afternoon(in_form("%d/%m/%Y %H:%M:%S")(column))


def _otherwise(texts: pl.Series) -> pl.Series:
    column = pl.col("t")
    of_12_hours = [in_form(form)(column) for form in ("%d/%m/%Y %I:%M:%S %p", "%d/%m/%Y %I:%M %p")]
    known = texts.str.strip_chars().to_frame("t")
    at = known.select(pl.coalesce(_afternoon(in_form("%d/%m/%Y %H:%M")(column)), *of_12_hours))["t"]
    return at if at.null_count() == texts.null_count() else at.fill_null(convert(texts, at.dtype))


def _afternoon(at: pl.Expr) -> pl.Expr:
    lost = at.dt.date().is_between(FIRST_DAY, LAST_DAY) & at.dt.hour().is_between(1, 7)
    return pl.when(lost).then(at.dt.offset_by("12h")).otherwise(at)


FORMAT = Format("cic_ids2017_csv", "CIC-IDS2017, GeneratedLabelledFlows (CSV)", detect, read)
