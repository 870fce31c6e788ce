"""What `nfdump -o csv` writes in its version 1.6 (1.7 until it got a layout of its own): ts, te, td, sa, da, sp, dp,
pr, flg, fwd, stos, ipkt, ibyt, opkt, obyt, .., in any order, further columns are ignored.

Times have no zone: nfdump prints those of the machine that it runs on. They are taken for UTC. `td` is in seconds.
Null: nothing, and flags of which none is set (`......`). `conn_state` is `flg`, the TCP flags seen. An `obyt` of 0
beside an `opkt` of 0 says nothing: a flow is one-way, the answers are another row, so `dst_bytes` and `dst_packets`
are null then. `bytes` is ibyt + obyt. A column `label`, if somebody added one, is kept in lower case.

The block at the end (`Summary`, the names of its six sums, and the sums) is skipped, as `summary`; so it is in the
middle, where files were put together.

Layout: `csv_prolog`, `flow_record_to_csv` (output_csv.c) and `PrintSummary` (nfdump.c) of nfdump 1.6.25.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.formats import Chunk, Format, Head
from acequia_ingestor.formats._columns import in_form, no_rejected, typed
from acequia_ingestor.formats._csv import CsvHeader, first_header, read_csv
from acequia_ingestor.formats._flows import both_ways, flow_fields, with_all

NAMES = {
    "timestamp": ("ts",),
    "duration": ("td",),
    "src_ip": ("sa",),
    "dst_ip": ("da",),
    "src_port": ("sp",),
    "dst_port": ("dp",),
    "protocol": ("pr",),
    "conn_state": ("flg",),
    "src_packets": ("ipkt",),
    "src_bytes": ("ibyt",),
    "dst_packets": ("opkt",),
    "dst_bytes": ("obyt",),
    "label": ("label",),
}
COLUMNS = frozenset(name for names in NAMES.values() for name in names)
REQUIRED = ("ts", "td", "sa", "da", "pr", "ibyt")
NULLS = ("", "......", "........")
_SUMMARY = r"^(?:Summary|flows,bytes,packets,avg_bps,avg_pps,avg_bpp|[0-9]+(?:,[0-9]+){5})\s*$"


def detect(head: Head, dataset: Dataset) -> bool:
    return first_header(head, REQUIRED) is not None


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    for texts, header, done in read_csv(path, dataset, REQUIRED, _check, columns=COLUMNS, no_records=_summary):
        if not header.names:
            yield done(texts, no_rejected())
            continue
        fields = flow_fields(NAMES, header.places, dataset.lowered, quick={"timestamp": in_form("%Y-%m-%d %H:%M:%S")})
        rows, broken = typed(texts, fields, NULLS, strip=True)
        yield done(_counted(rows), broken)


def _check(header: CsvHeader) -> None:
    if missing := [name for name in REQUIRED if name not in header.names]:
        raise RejectedInput(
            "missing_columns", f"the header lacks {', '.join(missing)}; it has {', '.join(header.names)[:500]}"
        )


def _summary(header: CsvHeader) -> Mapping[str, pl.Expr]:
    return {"summary": pl.col("line").str.contains(_SUMMARY)}


def _counted(rows: pl.DataFrame) -> pl.DataFrame:
    have = with_all(rows, "dst_bytes", "dst_packets")
    one_way = (pl.col("dst_bytes").fill_null(0) == 0) & (pl.col("dst_packets").fill_null(0) == 0)
    return have.with_columns(
        bytes=both_ways("bytes"),
        dst_bytes=pl.when(~one_way).then("dst_bytes"),
        dst_packets=pl.when(~one_way).then("dst_packets"),
    )


FORMAT = Format("nfdump_csv", "nfdump 1.6 (CSV)", detect, read)
