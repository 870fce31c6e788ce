#!/usr/bin/env python3
"""How much memory the ingestor and the transformer take for large input: each a process of its own, its peak RSS.

    .venv/bin/python bench/memory.py            100 MB of CSV, 2,000,000 drawn rows, a Zeek log, a line of 64 MB
    .venv/bin/python bench/memory.py --large    2 GB of CSV, 50,000,000 drawn rows, 1 GB of Zeek log, a line of 1 GB

Needs no server: store and bus are the embedded ones, all else is what a service runs (its API, its consumer with
`ACEQUIA_CONCURRENCY` work items at once, the runner). Peak RSS is `VmHWM` of /proc/self/status, taken by the process
itself at its end. Exit code 1 where a process took more than the limit (1 GiB), or where a row went missing.
The large form wants 20 GB of disk below --folder, and half an hour.
"""

import argparse
import asyncio
import json
import logging
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import polars as pl

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.app import House, make_app, stage_service
from acequia.datasets import load_registry
from acequia.events import META_ROWS
from acequia.layers import Layer
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, load
from acequia.topology import topology
from acequia_ingestor.service import build_ingestor
from acequia_ingestor.settings import IngestorSettings
from acequia_ingestor.sources.synthetic import GENERATORS, SyntheticSource
from acequia_transformer.settings import TransformerSettings
from acequia_transformer.stage import build_stage as build_transformer

LIMIT_BYTES = 2**30
DATASET = "network_events"
CHUNK_BYTES = 2**20
COMMANDS = 2
"""The rows to draw are asked for in so many commands, which the ingestor carries out at once."""
START = datetime(2025, 12, 20, tzinfo=UTC)
CSV_ROW_BYTES = 118
"""About; only the number of rows to draw follows from it."""
_ZEEK_HEADER = (
    "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
    "#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\tconn_state"
    "\torig_pkts\torig_ip_bytes\tresp_pkts\tresp_ip_bytes\n"
)
_ZEEK = {
    "ts": (pl.col("timestamp").dt.epoch("us") / 1e6).round(6),
    "uid": pl.format("C{}", pl.col("_line")),
    "id.orig_h": pl.col("src_ip"),
    "id.orig_p": pl.col("src_port"),
    "id.resp_h": pl.col("dst_ip"),
    "id.resp_p": pl.col("dst_port"),
    "proto": pl.col("protocol"),
    "duration": pl.col("duration"),
    "conn_state": pl.col("conn_state"),
    "orig_pkts": pl.col("src_packets"),
    "orig_ip_bytes": pl.col("src_bytes"),
    "resp_pkts": pl.col("dst_packets"),
    "resp_ip_bytes": pl.col("dst_bytes"),
}


@dataclass(frozen=True)
class Input:
    """`rows` are drawn where `write` is None; else it makes a file of about so many bytes, and says how many rows."""

    name: str
    rows: int = 0
    bytes: int = 0
    write: Callable[[Path, int], int] | None = None
    rejected_whole: bool = False


# what goes in


def drawn(rows: int) -> Iterator[pl.DataFrame]:
    source = SyntheticSource(kind="synthetic", rows=rows, seed=7, anomaly_rate=0.02)
    for chunk in GENERATORS[DATASET](source, START):
        yield chunk.rows.drop("_record")


def write_csv(path: Path, size: int) -> int:
    """Canonical CSV of at least `size` bytes; its rows."""
    rows = math.ceil(size / CSV_ROW_BYTES * 1.3)
    written = 0
    with path.open("wb") as file:
        for frame in drawn(rows):
            frame.drop("_line").write_csv(file, include_header=file.tell() == 0)
            written += frame.height
            if file.tell() >= size:
                break
    return written


def write_zeek(path: Path, size: int) -> int:
    """A Zeek conn.log of at least `size` bytes; its rows."""
    rows = math.ceil(size / CSV_ROW_BYTES * 1.3)
    written = 0
    with path.open("wb") as file:
        file.write(_ZEEK_HEADER.encode())
        for frame in drawn(rows):
            lines = frame.select(expression.alias(name) for name, expression in _ZEEK.items())
            lines.write_csv(file, include_header=False, separator="\t", null_value="-", quote_style="never")
            written += frame.height
            if file.tell() >= size:
                break
    return written


def write_line(path: Path, size: int) -> int:
    """A CSV file whose one record is a line of `size` bytes."""
    with path.open("wb") as file:
        file.write(b"timestamp,src_ip,dst_ip,bytes,duration,protocol\n")
        for _ in range(size // CHUNK_BYTES):
            file.write(b"7" * CHUNK_BYTES)
    return 1


def inputs(*, large: bool) -> list[Input]:
    mega = 10**6
    return [
        Input("CSV", bytes=2000 * mega if large else 100 * mega, write=write_csv),
        Input("drawn rows", rows=50_000_000 if large else 2_000_000),
        Input("Zeek log", bytes=1000 * mega if large else 100 * mega, write=write_zeek),
        Input("one line", bytes=2**30 if large else 64 * 2**20, write=write_line, rejected_whole=True),
    ]


# a process of its own


async def chunks_of(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            yield data


async def serve(stage: str, folder: Path, source: Mapping[str, Any]) -> dict[str, Any]:
    """Run one stage until its input is worked off."""
    settings = load(AcequiaSettings)
    bus = await SqliteBus.open(folder / "bus.sqlite")
    store = await DirectoryStore.open(folder / "store", settings.buckets, bus)
    table = topology(settings.buckets)
    await bus.apply(table)
    await store.apply(table)
    workshop = Workshop(store, bus, settings.buckets, load_registry(), temp_dir=folder)
    app, house = make_app("memory"), House("memory")

    async def nobody_knows(_: UUID) -> None:
        return None

    if stage == "ingestor":
        service = build_ingestor(workshop, load(IngestorSettings), nobody_knows, concurrency=settings.concurrency)
    else:
        stage_of = build_transformer(load(TransformerSettings), workshop.registry)
        service = stage_service(stage_of, workshop, settings.concurrency)
    begun = time.monotonic()
    await house.open(app, workshop, [service])
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://bench", timeout=3600)
    async with client:
        rows = await (ingest(client, workshop, source) if stage == "ingestor" else transformed(workshop))
    await house.close(10)
    return {"peak": peak_rss(), "seconds": time.monotonic() - begun, **rows}


async def ingest(client: httpx.AsyncClient, workshop: Workshop, source: Mapping[str, Any]) -> dict[str, int]:
    if "file" in source:
        path = Path(source["file"])
        answer = await client.put(
            f"/ingestions/files/{path.name}", params={"dataset": DATASET}, content=chunks_of(path)
        )
    else:
        for number in range(COMMANDS):
            draw = {"kind": "synthetic", "rows": source["rows"] // COMMANDS, "seed": number}
            answer = await client.post("/ingestions", json={"dataset": DATASET, "source": draw})
    answer.raise_for_status()
    while True:
        done = [info async for info in workshop.store.list_objects(Layer.LEDGER, "done/")]
        if len(done) == (1 if "file" in source else COMMANDS):
            break
        await asyncio.sleep(0.2)
    counts = {"in": 0, "out": 0}
    for info in done:
        found = await workshop.store.read(Layer.LEDGER, info.key)
        assert found is not None
        record = json.loads(found[0])["record"]
        counts["in"] += record["rows_in"]
        counts["out"] += record["rows_out"]
    return counts


async def transformed(workshop: Workshop) -> dict[str, int]:
    store = workshop.store
    raw = [info async for info in store.list_objects(Layer.RAW)]
    counts = {"in": 0, "out": 0}
    for info in raw:
        head = await store.head(Layer.RAW, info.key)
        counts["in"] += int(head.metadata[META_ROWS]) if head else 0
    while True:
        silver = [info async for info in store.list_objects(Layer.SILVER)]
        if len(silver) == len(raw):
            break
        await asyncio.sleep(0.5)
    for info in silver:
        head = await store.head(Layer.SILVER, info.key)
        counts["out"] += int(head.metadata[META_ROWS]) if head else 0
    return counts


def peak_rss() -> int:
    """The most memory that this process has held so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


# the bench


def run_child(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


def measure(given: Input, folder: Path, limit: int) -> bool:
    """One input through both stages; whether each kept the limit and no row went missing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source: dict[str, Any] = {"rows": given.rows}
    rows, size = given.rows, given.bytes
    if given.write is not None:
        made = run_child("--write", given.name, "--folder", str(folder), "--bytes", str(given.bytes))
        rows, size = made["rows"], made["bytes"]
        source = {"file": made["file"]}
    good = True
    for stage in ("ingestor",) if given.rejected_whole else ("ingestor", "transformer"):
        found = run_child("--serve", stage, "--folder", str(folder), "--source", json.dumps(source))
        if stage == "ingestor":
            size = size or sum(p.stat().st_size for p in folder.rglob("*.parquet"))
            if given.write is not None:
                Path(source["file"]).unlink()
        kept = found["peak"] <= limit
        right = found["in"] == rows and (given.rejected_whole or found["out"] > 0)
        good = good and kept and right
        print(
            f"{given.name:11} {stage:12} {size / 1e6:9,.0f} MB {found['in']:>12,} rows {found['seconds']:7.0f} s  "
            f"peak {found['peak'] / 2**20:6,.0f} MiB = {found['peak'] / size:5.2f} x input  "
            f"{'ok' if kept else 'TOO MUCH'}{'' if right else f', ROWS MISSING: {rows:,} went in'}",
            flush=True,
        )
    shutil.rmtree(folder)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="2 GB and 50,000,000 rows")
    parser.add_argument("--only", help="one input by its name")
    parser.add_argument("--folder", type=Path, help="where the data lie meanwhile; default: a temporary folder")
    parser.add_argument("--limit", type=int, default=LIMIT_BYTES, help="most bytes of memory for each process")
    for internal in ("--serve", "--write", "--source", "--bytes"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write = next(i.write for i in inputs(large=False) if i.name == given.write)
        assert write is not None
        path = given.folder / f"{given.write.replace(' ', '-')}.{'log' if write is write_zeek else 'csv'}"
        rows = write(path, int(given.bytes))
        print(json.dumps({"rows": rows, "bytes": path.stat().st_size, "file": str(path)}))
        return 0
    if given.serve:
        logging.basicConfig(level="WARNING")
        print(json.dumps(asyncio.run(serve(given.serve, given.folder, json.loads(given.source)))))
        return 0
    good = True
    with tempfile.TemporaryDirectory(prefix="acequia-memory-", dir=given.folder) as name:
        for one in inputs(large=given.large):
            if given.only in (None, one.name):
                good = measure(one, Path(name) / "data", given.limit) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
