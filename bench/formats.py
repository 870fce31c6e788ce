#!/usr/bin/env python3
"""How fast each source format is read, beside polars' own reader on the same file.

    .venv/bin/python bench/formats.py                 200,000 rows, 3 rounds
    .venv/bin/python bench/formats.py --rows 1000000

A parser of ours does more than the reader it is held against: it tells an unreadable record from a missing value and
gives both a line number, reads times and addresses strictly, unites the columns into the canonical schema, and goes
through the file in bounded memory. The ratio says what that costs: time of ours / time of polars', medians over
interleaved rounds. `to RAW`: with the
Parquet parts written, as the ingestor does.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from acequia.datasets import load_registry
from acequia_ingestor.formats import load_formats
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


def write_files(rows: int, folder: Path) -> dict[str, Path]:
    """The same events in each format."""
    source = SyntheticSource(kind="synthetic", rows=rows, seed=7, anomaly_rate=0.02)
    chunks = draw_network_events(source, datetime(2025, 12, 20, tzinfo=UTC))
    drawn = write_drawn(chunks, DATASET, "synthetic", folder / "drawn", rows_per_part=rows)
    events = pl.read_parquet(drawn.parts[0].path).drop("_line")
    zeek = events.select(expression.alias(name) for name, expression in ZEEK.items())
    files = {name: folder / name for name in load_formats()}
    events.write_csv(files["canonical_csv"])
    events.write_parquet(files["canonical_parquet"])
    zeek.write_csv(files["zeek_csv"])
    zeek.write_ndjson(files["zeek_json"])
    head = [
        "#separator \\x09",
        "#unset_field\t-",
        "#empty_field\t(empty)",
        "#path\tconn",
        "#fields\t" + "\t".join(ZEEK),
    ]
    with files["zeek_tsv"].open("wb") as file:
        file.write(("\n".join(head) + "\n").encode())
        zeek.write_csv(file, separator="\t", null_value="-", include_header=False)
    return files


READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    "canonical_csv": lambda path: pl.read_csv(path, try_parse_dates=True),
    "canonical_parquet": pl.read_parquet,
    "zeek_csv": lambda path: pl.read_csv(path, infer_schema_length=10_000),
    "zeek_json": pl.read_ndjson,
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


def to_raw(name: str, path: Path) -> int:
    with tempfile.TemporaryDirectory() as out:
        parsed = parse_file(path, path.name, DATASET, name, Path(out) / "parts")
        return sum(part.rows for part in parsed.parts)


def timed(act: Callable[[], int], rows: int) -> float:
    began = time.perf_counter()
    if (read := act()) != rows:
        raise SystemExit(f"{read} of {rows} rows were read")
    return time.perf_counter() - began


def measure(rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """By format: rows/s of polars', of ours, of ours to RAW; and the ratios of times."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="acequia-bench-") as folder:
        files = write_files(rows, Path(folder))
        for name, path in files.items():
            acts: dict[str, Callable[[], int]] = {
                "polars": lambda name=name, path=path: READERS[name](path).height,  # type: ignore[misc]
                "ours": lambda name=name, path=path: ours(name, path),  # type: ignore[misc]
                "raw": lambda name=name, path=path: to_raw(name, path),  # type: ignore[misc]
            }
            times: dict[str, list[float]] = {act: [] for act in acts}
            for number in range(-1, rounds):
                for act, run in acts.items():
                    took = timed(run, rows)
                    if number >= 0:
                        times[act].append(took)
            found[name] = {f"{act}_rows_per_second": rows / statistics.median(times[act]) for act in acts}
            for act in ("ours", "raw"):
                pairs = zip(times[act], times["polars"], strict=True)
                found[name][f"{act}_ratio"] = statistics.median(mine / theirs for mine, theirs in pairs)
            found[name]["bytes"] = path.stat().st_size
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args()
    found = measure(options.rows, options.rounds)
    heads = ("bytes/row", "polars", "ours", "to RAW", "ours/polars", "to RAW/polars")
    print(f"{'format':18}", *(f"{head:>{width}}" for head, width in zip(heads, (9, 12, 12, 12, 12, 14), strict=True)))
    for name, numbers in found.items():
        speeds = " ".join(f"{numbers[f'{act}_rows_per_second']:>10,.0f}/s" for act in ("polars", "ours", "raw"))
        ratios = f"{numbers['ours_ratio']:>12.1f} {numbers['raw_ratio']:>14.1f}"
        print(f"{name:18} {numbers['bytes'] / options.rows:>9.0f} {speeds} {ratios}")
    print("\nrows/s; ratios are of times, the median over interleaved rounds", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps({"rows": options.rows, "formats": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
