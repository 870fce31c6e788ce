#!/usr/bin/env python3
"""How fast each source format is read, beside polars' own reader on the same file.

    .venv/bin/python bench/formats.py                 200,000 rows, 3 rounds
    .venv/bin/python bench/formats.py --rows 1000000

A parser of ours does more than the reader it is held against: it tells an unreadable record from a missing value and
gives both a line number, reads times and addresses strictly, unites the columns into the canonical schema, and goes
through the file in bounded memory. The ratio says what that costs: time of ours / time of polars', medians over
interleaved rounds. `cpu`: the same of the processor's time, of all threads, which a busy machine does not change.
`to RAW`: with the Parquet parts written, as the ingestor does.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import polars as pl

from acequia.datasets import load_registry
from acequia_ingestor.formats import load_formats, unsw_nb15_csv
from acequia_ingestor.parse import parse_file, write_drawn
from acequia_ingestor.sources.synthetic import SyntheticSource, draw_network_events

DATASET = load_registry()["network_events"]
ZEEK = {
    "ts": (pl.col("timestamp").dt.epoch("us") / 1e6).round(6),
    "uid": pl.format("C{}", pl.int_range(pl.len())),
    "id.orig_h": pl.col("src_ip"),
    "id.orig_p": pl.col("src_port"),
    "id.resp_h": pl.col("dst_ip"),
    "id.resp_p": pl.col("dst_port"),
    "proto": pl.col("protocol"),
    "service": pl.lit(None, pl.String),
    "duration": pl.col("duration"),
    "conn_state": pl.col("conn_state"),
    "orig_pkts": pl.col("src_packets"),
    "orig_ip_bytes": pl.col("src_bytes"),
    "resp_pkts": pl.col("dst_packets"),
    "resp_ip_bytes": pl.col("dst_bytes"),
    "label": pl.col("label"),
}


START = pl.col("timestamp")
END = START + pl.duration(microseconds=(pl.col("duration").fill_null(0) * 1e6).cast(pl.Int64))
SECONDS = pl.col("duration").fill_null(0).round(6)
FLOW = {
    "pkts_toserver": pl.col("src_packets"),
    "pkts_toclient": pl.col("dst_packets"),
    "bytes_toserver": pl.col("src_bytes"),
    "bytes_toclient": pl.col("dst_bytes"),
    "start": START.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f+0000"),
    "end": END.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f+0000"),
    "age": pl.col("duration").fill_null(0).cast(pl.Int64),
    "state": pl.lit("closed"),
    "reason": pl.lit("timeout"),
    "alerted": pl.lit(False),
}
EVE = {
    "timestamp": END.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f+0000"),
    "flow_id": pl.int_range(pl.len()) + 1_374_195_536_821_504,
    "in_iface": pl.lit("eth0"),
    "event_type": pl.lit("flow"),
    "src_ip": pl.col("src_ip"),
    "src_port": pl.col("src_port"),
    "dest_ip": pl.col("dst_ip"),
    "dest_port": pl.col("dst_port"),
    "proto": pl.col("protocol").str.to_uppercase(),
    "app_proto": pl.lit("tls"),
    "flow": pl.struct(expression.alias(name) for name, expression in FLOW.items()),
}
ARGUS = {
    "StartTime": START.dt.strftime("%Y/%m/%d %H:%M:%S%.6f"),
    "Dur": SECONDS,
    "Proto": pl.col("protocol"),
    "SrcAddr": pl.col("src_ip"),
    "Sport": pl.col("src_port"),
    "Dir": pl.lit("   ->"),
    "DstAddr": pl.col("dst_ip"),
    "Dport": pl.col("dst_port"),
    "State": pl.lit("FSPA_FSPA"),
    "sTos": pl.lit(0),
    "dTos": pl.lit(0),
    "TotPkts": pl.col("src_packets") + pl.col("dst_packets"),
    "TotBytes": pl.col("bytes"),
    "SrcBytes": pl.col("src_bytes"),
    "Label": pl.lit("flow=Background-Established-cmpgw-CVUT"),
}
NFDUMP = {
    "ts": START.dt.strftime("%Y-%m-%d %H:%M:%S"),
    "te": END.dt.strftime("%Y-%m-%d %H:%M:%S"),
    "td": SECONDS.round(3),
    "sa": pl.col("src_ip"),
    "da": pl.col("dst_ip"),
    "sp": pl.col("src_port"),
    "dp": pl.col("dst_port"),
    "pr": pl.col("protocol").str.to_uppercase(),
    "flg": pl.lit(".AP.SF"),
    **dict.fromkeys(("fwd", "stos"), pl.lit(0)),
    "ipkt": pl.col("src_packets"),
    "ibyt": pl.col("src_bytes"),
    **dict.fromkeys(("opkt", "obyt"), pl.lit(0)),
    **dict.fromkeys(("in", "out", "sas", "das", "smk", "dmk", "dtos", "dir"), pl.lit(0)),
    **dict.fromkeys(("nh", "nhb"), pl.lit("0.0.0.0")),
    **dict.fromkeys(("svln", "dvln"), pl.lit(0)),
    **dict.fromkeys(("ismc", "odmc", "idmc", "osmc"), pl.lit("00:00:00:00:00:00")),
    **{f"mpls{n}": pl.lit("0-0-0") for n in range(1, 11)},
    **dict.fromkeys(("cl", "sl", "al"), pl.lit("    0.000")),
    **{"ra": pl.lit("10.9.9.1"), "eng": pl.lit("0/0"), "exid": pl.lit(1)},
    "tr": END.dt.strftime("%Y-%m-%d %H:%M:%S%.3f"),
}
UNSW = {
    **{name: pl.lit(0) for name in unsw_nb15_csv.LAYOUT},
    "srcip": pl.col("src_ip"),
    "sport": pl.col("src_port"),
    "dstip": pl.col("dst_ip"),
    "dsport": pl.col("dst_port"),
    "proto": pl.col("protocol"),
    "state": pl.lit("FIN"),
    "dur": SECONDS,
    "sbytes": pl.col("src_bytes"),
    "dbytes": pl.col("dst_bytes"),
    "service": pl.lit("dns"),
    "sload": pl.col("src_bytes") * 8.125,
    "dload": pl.col("dst_bytes") * 8.125,
    "spkts": pl.col("src_packets"),
    "dpkts": pl.col("dst_packets"),
    "stcpb": pl.int_range(pl.len()) + 1_421_927_414,
    "dtcpb": pl.int_range(pl.len()) + 1_421_927_377,
    "stime": START.dt.epoch("s"),
    "ltime": END.dt.epoch("s"),
    "sintpkt": SECONDS / 7,
    "dintpkt": SECONDS / 11,
    "attack_cat": pl.lit(None, pl.String),
}
CIC = {
    "Flow ID": pl.format("{}-{}-{}-{}-6", "src_ip", "dst_ip", "src_port", "dst_port"),
    " Source IP": pl.col("src_ip"),
    " Source Port": pl.col("src_port"),
    " Destination IP": pl.col("dst_ip"),
    " Destination Port": pl.col("dst_port"),
    " Protocol": pl.lit(6),
    " Timestamp": START.dt.strftime("%d/%m/%Y %H:%M:%S"),
    " Flow Duration": (SECONDS * 1e6).cast(pl.Int64),
    " Total Fwd Packets": pl.col("src_packets"),
    " Total Backward Packets": pl.col("dst_packets"),
    "Total Length of Fwd Packets": pl.col("src_bytes"),
    " Total Length of Bwd Packets": pl.col("dst_bytes"),
    **{f" Feature {n}": SECONDS / n for n in range(1, 13)},
    **{f" Count {n}": pl.lit(n) for n in range(60)},
    " Label": pl.lit("BENIGN"),
}
CSV = {"argus": ARGUS, "nfdump_csv": NFDUMP, "unsw_nb15_csv": UNSW, "cic_ids2017_csv": CIC, "zeek_csv": ZEEK}


def write_files(rows: int, folder: Path) -> dict[str, Path]:
    """The same events in each format, with as many columns as its sensor writes."""
    source = SyntheticSource(kind="synthetic", rows=rows, seed=7, anomaly_rate=0.02)
    chunks = draw_network_events(source, datetime(2025, 12, 20, tzinfo=UTC))
    drawn = write_drawn(chunks, DATASET, "synthetic", folder / "drawn", rows_per_part=rows)
    events = pl.read_parquet(drawn.parts[0].path).drop("_line")
    files = {name: folder / name for name in DATASET.formats}
    events.write_csv(files["canonical_csv"])
    events.write_parquet(files["canonical_parquet"])
    for name, columns in CSV.items():
        written(events, columns).write_csv(files[name], include_header=name != "unsw_nb15_csv")
    written(events, ZEEK).write_ndjson(files["zeek_json"])
    written(events, EVE).write_ndjson(files["suricata_eve"])
    head = [
        "#separator \\x09",
        "#unset_field\t-",
        "#empty_field\t(empty)",
        "#path\tconn",
        "#fields\t" + "\t".join(ZEEK),
    ]
    with files["zeek_tsv"].open("wb") as file:
        file.write(("\n".join(head) + "\n").encode())
        written(events, ZEEK).write_csv(file, separator="\t", null_value="-", include_header=False)
    return files


def written(events: pl.DataFrame, columns: Mapping[str, pl.Expr]) -> pl.DataFrame:
    return events.select(expression.alias(name) for name, expression in columns.items())


def bare_csv(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema_length=10_000)


READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    "canonical_csv": lambda path: pl.read_csv(path, try_parse_dates=True),
    "canonical_parquet": pl.read_parquet,
    "zeek_csv": bare_csv,
    "zeek_json": pl.read_ndjson,
    "suricata_eve": pl.read_ndjson,
    "argus": bare_csv,
    "nfdump_csv": bare_csv,
    "unsw_nb15_csv": lambda path: pl.read_csv(path, has_header=False, infer_schema_length=10_000),
    "cic_ids2017_csv": bare_csv,
    "zeek_tsv": lambda path: pl.read_csv(
        path,
        separator="\t",
        comment_prefix="#",
        has_header=False,
        new_columns=list(ZEEK),
        null_values="-",
        infer_schema_length=10_000,
    ),
}
"""Polars' own, with types inferred and nothing checked."""


def ours(name: str, path: Path) -> int:
    """Rows read, chunk by chunk."""
    return sum(chunk.rows.height for chunk in load_formats()[name].read(path, DATASET))


def bare(name: str, path: Path) -> int:
    return READERS[name](path).height


def to_raw(name: str, path: Path) -> int:
    with tempfile.TemporaryDirectory() as out:
        parsed = parse_file(path, path.name, DATASET, name, Path(out) / "parts")
        return sum(part.rows for part in parsed.parts)


def timed(act: Callable[[], int], rows: int) -> tuple[float, float]:
    """Seconds, and seconds of the processor."""
    began, worked = time.perf_counter(), time.process_time()
    if (read := act()) != rows:
        raise SystemExit(f"{read} of {rows} rows were read")
    return time.perf_counter() - began, time.process_time() - worked


def measure(rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """By format: rows/s of polars', of ours, of ours to RAW; and the ratios of times."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="acequia-bench-") as folder:
        files = write_files(rows, Path(folder))
        for name, path in files.items():
            acts: dict[str, Callable[[], int]] = {
                "polars": partial(bare, name, path),
                "ours": partial(ours, name, path),
                "raw": partial(to_raw, name, path),
            }
            times: dict[str, list[float]] = {act: [] for act in acts}
            cpu: dict[str, list[float]] = {act: [] for act in acts}
            for number in range(-1, rounds):
                for act, run in acts.items():
                    took, worked = timed(run, rows)
                    if number >= 0:
                        times[act].append(took)
                        cpu[act].append(worked)
            found[name] = {f"{act}_rows_per_second": rows / statistics.median(times[act]) for act in acts}
            for act in ("ours", "raw"):
                for of, spent in (("ratio", times), ("cpu_ratio", cpu)):
                    pairs = zip(spent[act], spent["polars"], strict=True)
                    found[name][f"{act}_{of}"] = statistics.median(mine / theirs for mine, theirs in pairs)
            found[name]["bytes"] = path.stat().st_size
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args()
    found = measure(options.rows, options.rounds)
    heads = ("bytes/row", "polars", "ours", "to RAW", "ours/polars", "cpu", "to RAW/polars", "cpu")
    widths = (9, 12, 12, 12, 12, 6, 14, 6)
    print(f"{'format':18}", *(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for name, numbers in found.items():
        speeds = " ".join(f"{numbers[f'{act}_rows_per_second']:>10,.0f}/s" for act in ("polars", "ours", "raw"))
        ratios = f"{numbers['ours_ratio']:>12.1f} {numbers['ours_cpu_ratio']:>6.1f} "
        ratios += f"{numbers['raw_ratio']:>14.1f} {numbers['raw_cpu_ratio']:>6.1f}"
        print(f"{name:18} {numbers['bytes'] / options.rows:>9.0f} {speeds} {ratios}")
    print("\nrows/s; ratios are of times, the median over interleaved rounds", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps({"rows": options.rows, "formats": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
