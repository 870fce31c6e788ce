"""Argus flows as `ra` prints them with a separator, and as CTU-13 and other Stratosphere captures hand them out
(`.binetflow`): a header line with StartTime, Dur, Proto, SrcAddr, Sport, Dir, DstAddr, Dport, State, .., TotPkts,
TotBytes, SrcBytes, Label, in any order; further columns (SrcPkts, DstBytes, DstPkts are read) are fine, so is a tab.

Times: `2011/08/10 09:46:53.047277`, ISO 8601, or seconds since 1970. They bear no zone: UTC, which is what `ra` prints
with TZ=UTC; whoever ran it elsewhere has times that are off. Ports may be in hex (`0x0303`, as ICMP's type and code
are). Null: nothing, and `*`, ra's word for any. `bytes` is TotBytes; what of it did not come from the source went to
it.

A flow below IP (arp, llc, ..) has MAC addresses where it has no IP ones. Such a row is a record that was read, so it
goes to RAW, and the contract names it there (`src_ip_valid`, `dst_ip_valid`). Management records (Proto `man`: the
sensor speaks of itself) are no flows: skipped, as `management`.

Labels of CTU-13 say how they came about (`flow=From-Normal-V42-Grill`): `normal` and `background` is kept of those, of
others (`flow=From-Botnet-V42-TCP-CC1-HTTP`) all that follows `flow=`; in lower case.

Layout: ra(1) of argus-clients 3; Garcia, Grill, Stiborek, Zunino 2014, doi:10.1016/j.cose.2014.05.011 (CTU-13).
"""

import re
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
    "timestamp": ("starttime",),
    "duration": ("dur",),
    "protocol": ("proto",),
    "src_ip": ("srcaddr",),
    "src_port": ("sport",),
    "dst_ip": ("dstaddr",),
    "dst_port": ("dport",),
    "conn_state": ("state",),
    "bytes": ("totbytes",),
    "src_bytes": ("srcbytes",),
    "dst_bytes": ("dstbytes",),
    "packets": ("totpkts",),
    "src_packets": ("srcpkts",),
    "dst_packets": ("dstpkts",),
    "label": ("label",),
}
COLUMNS = frozenset(name for names in NAMES.values() for name in names)
TELLING = frozenset({"starttime", "proto", "srcaddr", "dstaddr"})
REQUIRED = ("starttime", "dur", "proto", "srcaddr", "dstaddr")
NULLS = ("", "*")
_SPOKEN_OF = r"^flow=(?:from-|to-)?(normal|background)(?:-|$)"


def detect(head: Head, dataset: Dataset) -> bool:
    return first_header(head, TELLING) is not None


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    for texts, header, done in read_csv(
        path, dataset, REQUIRED, _check, columns=COLUMNS, no_records=_management_records
    ):
        if not header.names:
            yield done(texts, no_rejected())
            continue
        fields = flow_fields(
            NAMES, header.places, dataset.lowered, quick={"timestamp": in_form("%Y/%m/%d %H:%M:%S%.f"), "label": _label}
        )
        rows, broken = typed(texts, fields, NULLS, strip=True)
        yield done(_counted(rows), broken)


def _check(header: CsvHeader) -> None:
    missing = [name for name in REQUIRED if name not in header.names]
    if "totbytes" not in header.names and not {"srcbytes", "dstbytes"} <= set(header.names):
        missing.append("totbytes (or srcbytes and dstbytes)")
    if missing:
        raise RejectedInput(
            "missing_columns", f"the header lacks {', '.join(missing)}; it has {', '.join(header.names)[:500]}"
        )


def _management_records(header: CsvHeader) -> Mapping[str, pl.Expr]:
    by = re.escape(header.separator)
    before = rf"(?:[^{by}]*{by}){{{header.names.index('proto')}}}"
    return {"management": pl.col("line").str.contains(rf"^{before}\s*man\s*(?:{by}|$)")}


def _label(column: pl.Expr) -> pl.Expr:
    return pl.coalesce(column.str.extract(_SPOKEN_OF), column.str.strip_prefix("flow="))


def _counted(rows: pl.DataFrame) -> pl.DataFrame:
    have = with_all(rows, "bytes", "src_bytes", "dst_bytes", "packets", "src_packets", "dst_packets")
    return have.with_columns(
        bytes=pl.coalesce("bytes", both_ways("bytes")),
        dst_bytes=pl.coalesce("dst_bytes", pl.col("bytes") - pl.col("src_bytes")),
        dst_packets=pl.coalesce("dst_packets", pl.col("packets") - pl.col("src_packets")),
    )


FORMAT = Format("argus", "Argus flows (CTU-13 binetflow)", detect, read)
