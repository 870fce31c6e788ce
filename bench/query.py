#!/usr/bin/env python3
"""What `acequia query` costs beside bare DuckDB over the same files.

    .venv/bin/python bench/query.py                        20 objects of 250,000 rows in a folder of its own
    .venv/bin/python bench/query.py --objects 2000 --rows 100

`bare` runs the query over read_parquet of the paths of the files, by the file system of DuckDB, its file cache off.
`acequia` does what the command does from the listing of RAW on: views, the read-only file system, the locked engine.
Both in this process, rounds interleaved; what is compared is the answer as rows. `cpu` is the processor time of all
threads: on a machine that is not idle it is the ratio to look at. Imports (once per command) are not in it.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from acequia.datasets import load_registry
from acequia.layers import Buckets, Layer, Stem, data_key
from acequia_cli.engine import open_engine
from acequia_cli.plan import plan
from acequia_cli.stored import Chosen, SnapshotFiles, reached

DATASET = "network_events"
MEMORY = "4GB"
QUERIES = {
    "count": "select count(*) from {table}",
    "sums": "select protocol, count(*), sum(bytes), max(duration) from {table} group by all order by all",
    "groups": "select src_ip, sum(bytes)::bigint as b from {table} group by all order by b desc, src_ip limit 10",
    "few rows": "select * from {table} where src_ip = '10.0.0.7' and bytes > 99990 order by all limit 20",
}


def rows(number: int, seed: int) -> pl.DataFrame:
    """Events of one object of RAW."""
    draw = np.random.default_rng(seed)
    hosts = pl.Series([f"10.0.{n // 250}.{n % 250}" for n in range(5000)])
    start = datetime(2025, 12, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "timestamp": pl.Series(draw.integers(0, 86_400_000_000, number)).cast(pl.Duration("us")) + start,
            "src_ip": hosts[draw.integers(0, len(hosts), number)],
            "dst_ip": hosts[draw.integers(0, len(hosts), number)],
            "bytes": draw.integers(0, 100_000, number),
            "duration": draw.random(number),
            "protocol": pl.Series(["tcp", "udp", "icmp"])[draw.integers(0, 3, number)],
            "_line": np.arange(1, number + 1),
        }
    )


def lay(data: Path, objects: int, number: int) -> None:
    bucket = data / "store" / Buckets().of(Layer.RAW)
    for place in range(objects):
        at = datetime(2025, 12, 1, tzinfo=UTC) + timedelta(days=place % 30)
        path = bucket / data_key(Stem(DATASET, at, f"{place:016x}", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        rows(number, place).write_parquet(path, compression="zstd")


def bare(data: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as engine:
        engine.execute("SET enable_external_file_cache = false")
        engine.execute("SET TimeZone = 'UTC'")
        files = sorted(str(path) for path in data.glob(f"store/*-raw/{DATASET}/*/*.parquet"))
        return engine.sql(f"select columns(*)::varchar from ({sql.format(table=f'read_parquet({files})')})").fetchall()


def acequia(data: Path, sql: str) -> list[tuple[object, ...]]:
    async def planned() -> list[object]:
        async with reached(Chosen(data, None, None, data)) as installation:
            return await plan(installation, load_registry(), [("bronze", DATASET)], None)

    relations = asyncio.run(planned())
    files = SnapshotFiles()
    with tempfile.TemporaryDirectory() as temp, open_engine(files, memory=MEMORY, temp=Path(temp)) as engine:
        for relation in relations:
            relation.create(engine, files)
        view = "(select * exclude (_date, src_port, dst_port, src_bytes, dst_bytes, src_packets, dst_packets, "
        view += f"conn_state, label) from bronze.{DATASET})"
        return engine.sql(f"select columns(*)::varchar from ({sql.format(table=view)})").fetchall()


def clocked(act: Callable[[Path, str], object], data: Path, sql: str) -> tuple[float, float, object]:
    """Seconds by the wall and of the processor, and the answer."""
    wall, processor = time.perf_counter(), time.process_time()
    answer = act(data, sql)
    return time.perf_counter() - wall, time.process_time() - processor, answer


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--objects", type=int, default=20)
    options.add_argument("--rows", type=int, default=250_000, help="of one object")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, help="where the numbers go")
    asked = options.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        lay(Path(folder), asked.objects, asked.rows)
        print(f"{asked.objects} objects of {asked.rows:,} rows; medians of {asked.rounds} rounds")
        print(f"{'':<10}{'bare':>10}{'acequia':>10}{'wall':>8}{'cpu':>8}")
        for name, sql in QUERIES.items():
            rounds = []
            for _ in range(asked.rounds):
                plain = clocked(bare, Path(folder), sql)
                ours = clocked(acequia, Path(folder), sql)
                if plain[2] != ours[2]:
                    sys.exit(f"{name}: the answers differ")
                rounds.append((plain[0], ours[0], ours[0] / plain[0], ours[1] / plain[1]))
            seconds, ours_seconds, wall, processor = map(statistics.median, zip(*rounds, strict=True))
            print(f"{name:<10}{seconds:>9.3f}s{ours_seconds:>9.3f}s{wall:>8.2f}{processor:>8.2f}")
            found[name] = {"bare": seconds, "acequia": ours_seconds, "wall_ratio": wall, "cpu_ratio": processor}
    if asked.json:
        asked.json.write_text(json.dumps({"objects": asked.objects, "rows": asked.rows, "queries": found}, indent=1))


if __name__ == "__main__":
    main()
