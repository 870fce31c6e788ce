#!/usr/bin/env python3
"""What the lakehouse's commits cost: registering objects of events, and merging changes into a table.

    .venv/bin/python bench/lakehouse.py [ROWS]        ROWS of the table, 1,000,000 if left out; no server is needed

Over a folder and a SQLite catalog. Each step is a process of its own, so that its peak memory is its own; the first
says what such a process needs before it begins.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from acequia.events import Load
from acequia.layers import Buckets, Layer, Stem, data_key
from acequia_lakehouse.catalog import Place
from acequia_lakehouse.given import Given, Order
from acequia_lakehouse.maintain import compact
from acequia_lakehouse.merge import merge
from acequia_lakehouse.register import register
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.tables import Tables

VARIANT = "v1-000000"
EVENTS, PEOPLE, GRAVES = ("silver", "events"), ("silver", "people"), ("silver_internal", "people")
OBJECTS = 100


def put(tables: Tables, dataset: str, number: int, frame: pl.DataFrame, load: str | None = None) -> Given:
    """A SILVER object of that name."""
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    stem = Stem(dataset, at, f"{number:016x}", 1)
    path = Path(tables.place.location(Layer.SILVER, data_key(stem, VARIANT)))
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
    return Given(str(stem), VARIANT, str(path), f"s3://silver/{stem}", frame.height, Load.parse(load))


def people(rows: int, load: int, every: int = 1) -> pl.DataFrame:
    """Ten columns; of each `every`-th key."""
    ids = pl.int_range(0, rows * every, every, eager=True)
    frame = pl.DataFrame({"id": ids}).with_columns(
        pl.format("name {} of load {}", "id", pl.lit(load)).alias("name"),
        *((pl.col("id") * n).cast(pl.Float64).alias(f"value_{n}") for n in range(1, 8)),
    )
    return frame.with_columns(_version=pl.lit((load << 20) + 1), _deleted=pl.lit(value=False))


def merged(tables: Tables, frame: pl.DataFrame, load: int, kind: str) -> None:
    given = [put(tables, "people", load, frame, f"{load}.{kind}.1of1")]
    began = time.perf_counter()
    merge(tables, PEOPLE, GRAVES, ("id",), given, Order([VARIANT]), f"people/{load:06d}", lambda step: None)
    told(began)


def told(began: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "peak": peak}))


def registered(tables: Tables, first: int, count: int) -> None:
    frame = people(10, 1).drop("_version", "_deleted")
    given = [put(tables, "events", number, frame) for number in range(first, first + count)]
    began = time.perf_counter()
    register(tables, EVENTS, given, Order([VARIANT]), f"events/{first:06d}")
    told(began)


def compacted(tables: Tables) -> None:
    began = time.perf_counter()
    compact(tables, EVENTS, ())
    told(began)


STEPS: Mapping[str, Callable[[Tables, int], None]] = {
    "nothing: a process that has imported all": lambda tables, rows: told(time.perf_counter()),
    f"register {OBJECTS} objects of events in one commit": lambda tables, rows: registered(tables, 1, OBJECTS),
    "register one more": lambda tables, rows: registered(tables, OBJECTS + 1, 1),
    "compact them": lambda tables, rows: compacted(tables),
    "a full load of ROWS rows": lambda tables, rows: merged(tables, people(rows, 1), 1, "full"),
    "merge 1,000 changes among ROWS rows": lambda tables, rows: merged(
        tables, people(1000, 2, max(1, rows // 1000)), 2, "changes"
    ),
    "merge ROWS changes into ROWS rows": lambda tables, rows: merged(tables, people(rows, 3), 3, "changes"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        tables = Tables(LakehouseSettings(), Place.in_folder(asked.folder, Buckets("bench")))
        STEPS[asked.step](tables, asked.rows)
        return
    print(f"{'step':<50}{'seconds':>9}{'peak, MiB':>11}")
    with tempfile.TemporaryDirectory(prefix="bench-lake-") as folder:
        for step in STEPS:
            command = [sys.executable, __file__, str(asked.rows), "--step", step, "--folder", folder]
            ended = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(ended.stdout.splitlines()[-1])
            name = step.replace("ROWS", f"{asked.rows:,}")
            print(f"{name:<50}{found['seconds']:>9.2f}{found['peak']:>11}", flush=True)


if __name__ == "__main__":
    main()
