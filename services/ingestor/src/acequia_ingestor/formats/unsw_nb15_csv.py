"""UNSW-NB15's raw files, `UNSW-NB15_1.csv` to `_4.csv`: 49 columns and no header line. With a header line, as people
add one (names of NUSW-NB15_features.csv, in any order and case), the columns go by name.

A file without a header is told by its first record: 49 fields, addresses in the first and the third, whole seconds in
Stime and Ltime, 0 or 1 at the end.

Times: seconds since 1970 (Stime). Ports may be in hex. Null: nothing and `-`. `label` is `normal` where Label is 0;
where it is 1, the attack's category in lower case (the files spell it ` Fuzzers `, and Backdoor and Backdoors), or
`attack` where there is none. `bytes` is sbytes + dbytes.

The training and testing sets (`UNSW_NB15_training-set.csv`) were made of these files, without addresses and times:
they are refused.

Layout: NUSW-NB15_features.csv; Moustafa, Slay 2015, doi:10.1109/MilCIS.2015.7348942.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.formats import Chunk, Format, Head
from acequia_ingestor.formats._columns import no_rejected, typed
from acequia_ingestor.formats._csv import CsvHeader, first_header, read_csv
from acequia_ingestor.formats._flows import both_ways, flow_fields, with_all

_LAYOUT = (
    "srcip sport dstip dsport proto state dur sbytes dbytes sttl dttl sloss dloss service sload dload spkts dpkts "
    "swin dwin stcpb dtcpb smeansz dmeansz trans_depth res_bdy_len sjit djit stime ltime sintpkt dintpkt tcprtt "
    "synack ackdat is_sm_ips_ports ct_state_ttl ct_flw_http_mthd is_ftp_login ct_ftp_cmd ct_srv_src ct_srv_dst "
    "ct_dst_ltm ct_src_ltm ct_src_dport_ltm ct_dst_sport_ltm ct_dst_src_ltm attack_cat label"
)
LAYOUT = tuple(_LAYOUT.split())
NAMES = {
    "timestamp": ("stime",),
    "src_ip": ("srcip",),
    "dst_ip": ("dstip",),
    "duration": ("dur",),
    "protocol": ("proto",),
    "src_port": ("sport",),
    "dst_port": ("dsport",),
    "src_bytes": ("sbytes",),
    "dst_bytes": ("dbytes",),
    "src_packets": ("spkts",),
    "dst_packets": ("dpkts",),
    "conn_state": ("state",),
    "attack": ("label",),
    "label": ("attack_cat",),
}
COLUMNS = frozenset(name for names in NAMES.values() for name in names)
REQUIRED = ("srcip", "dstip", "stime", "dur", "proto", "sbytes", "dbytes")
NULLS = ("", "-")
_OF_THE_SETS = ("dur", "proto", "sbytes", "dbytes", "attack_cat")
"""Columns that the training and testing sets have, too."""
_ADDRESS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]*")


def detect(head: Head, dataset: Dataset) -> bool:
    if first_header(head, REQUIRED) or first_header(head, _OF_THE_SETS):
        return True
    first = next((line for line in head.lines() if line.strip() and not line.startswith("#")), "")
    return _headless(first) is not None


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    for texts, header, done in read_csv(path, dataset, REQUIRED, _check, columns=COLUMNS, headless=_headless):
        if not header.names:
            yield done(texts, no_rejected())
            continue
        rows, broken = typed(texts, flow_fields(NAMES, header.places, dataset.lowered), NULLS, strip=True)
        yield done(_labelled(rows), broken)


def _headless(line: str) -> CsvHeader | None:
    """The layout, where the line is a record of it."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(LAYOUT):
        return None
    of = dict(zip(LAYOUT, cells, strict=True))
    addresses = _ADDRESS.fullmatch(of["srcip"]) and _ADDRESS.fullmatch(of["dstip"])
    if addresses and of["stime"].isdecimal() and of["ltime"].isdecimal() and of["label"] in ("0", "1"):
        return CsvHeader("", ",", LAYOUT)
    return None


def _check(header: CsvHeader) -> None:
    missing = [name for name in REQUIRED if name not in header.names]
    if {"srcip", "dstip", "stime"} <= set(missing) and set(_OF_THE_SETS) <= set(header.names):
        raise RejectedInput(
            "missing_columns",
            "this is UNSW-NB15's training or testing set, which has no addresses and times: "
            "hand over the raw files, UNSW-NB15_1.csv to UNSW-NB15_4.csv",
        )
    if missing:
        raise RejectedInput(
            "missing_columns", f"the header lacks {', '.join(missing)}; it has {', '.join(header.names)[:500]}"
        )


def _labelled(rows: pl.DataFrame) -> pl.DataFrame:
    category = pl.col("label").replace({"backdoors": "backdoor"})
    return with_all(rows, "attack", "label").with_columns(
        bytes=both_ways("bytes"),
        label=pl.when(pl.col("attack") == 0)
        .then(pl.lit("normal"))
        .when(pl.col("attack").is_not_null())
        .then(category.fill_null("attack"))
        .otherwise(category),
    )


FORMAT = Format("unsw_nb15_csv", "UNSW-NB15, raw (CSV)", detect, read)
