#!/usr/bin/env python3
"""How much each stage does, alone: its work waits, its replicas are ready, then all of it is let go.

    make bench ARGS='--only sizing'           both loads, one replica and two, five minutes or so
    make bench ARGS='--only sizing --quick'   one round

Each stage is measured by itself on the real servers, from the first message to the last outcome heard of on the audit
exchange: ingestor, transformer, trainer, lakehouse, evaluator, and the auditor by the rows in PostgreSQL. Nothing else
of Acequia's runs meanwhile; the servers share the machine. Beside the rates stands the processor's time of the stage,
of MinIO, RabbitMQ and PostgreSQL for one object: it hardly depends on what else the machine does, and says what is used
up first where each of them has a machine of its own.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import polars as pl
import psutil
from aio_pika.abc import AbstractChannel
from fleets import FAILURES, BenchFleet, Records, hear_audit, open_database

from acequia.adapters.minio import MinioStore
from acequia.adapters.rabbit import RabbitBus
from acequia.datasets import load_registry
from acequia.layers import Buckets, Layer
from acequia.settings import MinioSettings, RabbitSettings, load
from acequia.topology import READERS, topology
from acequia_ingestor.parse import write_drawn
from acequia_ingestor.sources.synthetic import SyntheticSource, draw_network_events

DATASET = "network_events"
STAGES = ("ingestor", "transformer", "trainer", "lakehouse", "evaluator")
SCALED = ("ingestor", "transformer")
"""One object in, one out: what further replicas help. A training, or a commit to a table, is one replica's."""
PARTIES = ("stage", "minio", "rabbitmq", "postgresql")
AUDIT_QUEUE = "acequia.audit"


@dataclass(frozen=True)
class Load:
    name: str
    files: int
    rows: int
    """Of one file."""


@dataclass(frozen=True)
class Measured:
    stage: str
    replicas: int
    objects: int
    rows: int
    seconds: float
    processor: Mapping[str, float]
    """Seconds of the processor, by party."""


class Processor:
    """What the servers and a stage's replicas have used of the processor since it was made."""

    def __init__(self, replicas: Sequence[int]) -> None:
        servers = {name: os.environ.get(f"STACK_PID_{name.upper()}") for name in PARTIES[1:]}
        self._pids = {"stage": list(replicas)} | {name: [int(pid)] for name, pid in servers.items() if pid}
        self._before = self._all()

    def used(self) -> dict[str, float]:
        now = self._all()
        return {party: round(now[party] - before, 3) for party, before in self._before.items()}

    def _all(self) -> dict[str, float]:
        return {party: sum(map(_used, pids)) for party, pids in self._pids.items()}


def _used(pid: int) -> float:
    """With what its children use, and used that are gone: PostgreSQL has one for each connection."""
    total = 0.0
    with_children = [psutil.Process(pid)]
    with_children += with_children[0].children(recursive=True)
    for process in with_children:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


async def until(records: Records, stage: str, objects: int, seconds: float) -> tuple[float, int]:
    """When the last of so many inputs of `stage` was dealt with; rows that went in."""
    seen, rows, at = set[str](), 0, 0.0
    async with asyncio.timeout(seconds):
        while len(seen) < objects:
            at, record = await records.get()
            if record["status"] in FAILURES:
                raise RuntimeError(f"{record['stage']}: {record['status']}: {record.get('error')}")
            if record["stage"] != stage or record["status"] != "SUCCESS":
                continue
            if stage in ("trainer", "lakehouse"):
                seen |= {given["uri"] for given in record["inputs"]}
            else:
                seen.add(record["event_id"])
            rows += record.get("rows_in") or 0
    return at, rows


async def measure(loads: Sequence[Load], rounds: int, say: Any) -> list[tuple[Load, Measured]]:
    """Each stage under each load, alone; `rounds` times."""
    if "STACK_DIR" not in os.environ:
        raise SystemExit("the sizing empties queues: run it by `make bench`, on servers of its own")
    found = []
    connection = await aio_pika.connect(os.environ["RABBITMQ_URL"])
    async with connection:
        channel = await connection.channel()
        for number in range(rounds):
            for load_ in loads:
                for replicas in (1, 2):
                    for measured in await _chain(channel, load_, replicas, seed=100 * number + replicas):
                        found.append((load_, measured))
                        rate = measured.objects / measured.seconds
                        say(f"  {load_.name}, {measured.stage} x {measured.replicas}: {rate:.1f} objects/s")
    return found


async def _chain(channel: AbstractChannel, load_: Load, replicas: int, seed: int) -> list[Measured]:
    """Files through the chain, stage after stage. Two replicas: of those alone that they help."""
    prefix = f"bench-s-{uuid4().hex[:8]}"
    table = topology(Buckets(prefix))
    found = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="acequia-bench-")))
        store = await stack.enter_async_context(await MinioStore.open(load(MinioSettings), table.buckets))
        async with await RabbitBus.connect(load(RabbitSettings)) as bus:
            await bus.apply(table)
        await store.apply(table)
        for reader in READERS:
            await (await channel.get_queue(reader.queue)).purge()
        await (await channel.get_queue(AUDIT_QUEUE)).purge()
        for n, body in enumerate(files(load_, seed)):
            key = f"{DATASET}/events-{n:04d}.csv"
            await store.put(Layer.LANDING, key, body, metadata={}, content_type="text/csv")
        records = await hear_audit(channel, stack)
        for stage in SCALED if replicas > 1 else STAGES:
            found += [await _stage(channel, records, prefix, folder, stage, replicas, load_)]
        if replicas == 1:
            found.append(await _auditor(channel, prefix, folder))
    return found


async def _stage(
    channel: AbstractChannel, records: Records, prefix: str, folder: Path, stage: str, replicas: int, load_: Load
) -> Measured:
    objects = 1 if stage == "evaluator" else load_.files
    waiting = await _taken(channel, f"acequia.{stage}", objects)
    names = [stage, *(f"{stage}.{n}" for n in range(2, replicas + 1))]
    fleet = BenchFleet(prefix, folder, names)
    try:
        await asyncio.to_thread(fleet.start, *names)
        processor = Processor([fleet.processes[name].pid for name in names])
        began = time.perf_counter()
        for message in waiting:
            await channel.default_exchange.publish(message, f"acequia.{stage}")
        at, rows = await until(records, stage, objects, 900)
        used = processor.used()
        await asyncio.gather(*(asyncio.to_thread(fleet.stop, name) for name in names))
    finally:
        fleet.close()
    rows = rows or load_.files * load_.rows  # a training, and its evaluation, are over all of them
    return Measured(stage, replicas, objects, rows, at - began, used)


async def _auditor(channel: AbstractChannel, prefix: str, folder: Path) -> Measured:
    """The records that all of it has made, once more: they waited."""
    queue = await channel.get_queue(AUDIT_QUEUE)
    depth = (await channel.declare_queue(AUDIT_QUEUE, passive=True)).declaration_result.message_count or 0
    by_id = {json.loads(message.body)["event_id"]: message for message in await _taken(channel, AUDIT_QUEUE, depth)}
    waiting = list(by_id.values())  # what was said twice is stored once
    # it is to store what waits in its queue, not what it finds in the store at its start
    fleet = BenchFleet(prefix, folder, ["auditor"], ACEQUIA_AUDITOR_CATCH_UP_WINDOW="1")
    async with AsyncExitStack() as opened:
        opened.callback(fleet.close)
        await asyncio.to_thread(fleet.start, "auditor")
        database = await open_database(opened)
        count = "SELECT count(*) FROM acequia.audit_events"
        before, processor = await database.fetchval(count), Processor([fleet.processes["auditor"].pid])
        began = time.perf_counter()
        for message in waiting:
            await channel.default_exchange.publish(message, queue.name)
        while await database.fetchval(count) < before + len(waiting):
            if time.perf_counter() > began + 300:
                raise RuntimeError("the audit's records do not come to PostgreSQL")
            await asyncio.sleep(0.1)
        seconds, used = time.perf_counter() - began, processor.used()
        await asyncio.to_thread(fleet.stop, "auditor")
    return Measured("auditor", 1, len(waiting), 0, seconds, used)


async def _taken(channel: AbstractChannel, queue: str, count: int) -> list[aio_pika.Message]:
    """What waits in a queue, out of it."""
    there = await channel.get_queue(queue)
    found: list[aio_pika.Message] = []
    end = time.monotonic() + 60
    while len(found) < count:
        message = await there.get(no_ack=True, fail=False)
        if message is None:
            if time.monotonic() > end:
                raise RuntimeError(f"{queue}: {len(found)} of {count} messages came")
            await asyncio.sleep(0.05)
            continue
        found.append(
            aio_pika.Message(
                message.body,
                headers=dict(message.headers),
                content_type=message.content_type,
                message_id=message.message_id,
                type=message.type,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
        )
    return found


def files(load_: Load, seed: int) -> Iterator[bytes]:
    """CSV files, no two alike."""
    dataset = load_registry()[DATASET]
    source = SyntheticSource(kind="synthetic", rows=load_.files * load_.rows, seed=seed, anomaly_rate=0.02)
    with tempfile.TemporaryDirectory() as drawn:
        chunks = draw_network_events(source, datetime.now(UTC).replace(microsecond=0))
        parsed = write_drawn(chunks, dataset, "synthetic", Path(drawn))
        frame = pl.concat([pl.read_parquet(part.path) for part in parsed.parts]).drop("_line")
    for n in range(load_.files):
        yield frame.slice(n * load_.rows, load_.rows).write_csv().encode()


# what is told


def table(found: Sequence[tuple[Load, Measured]]) -> str:
    """A line for each load, stage and number of replicas: medians over the rounds."""
    lines = ["| load | stage | replicas | objects/s | rows/s | x one replica | stage | MinIO | RabbitMQ | PostgreSQL |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    one: dict[tuple[str, str], float] = {}
    for (load_, stage, replicas), some in _groups(found).items():
        rate = statistics.median(m.objects / m.seconds for m in some)
        rows = statistics.median(m.rows / m.seconds for m in some)
        one.setdefault((load_, stage), rate)
        factor = f"{rate / one[load_, stage]:.2f}" if replicas > 1 else ""
        each = [statistics.median(1000 * m.processor.get(p, 0.0) / m.objects for m in some) for p in PARTIES]
        cells = [load_, stage, str(replicas), f"{rate:,.1f}", f"{rows:,.0f}" if rows else "", factor]
        lines.append(f"| {' | '.join([*cells, *(f'{ms:,.1f}' for ms in each)])} |")
    return "\n".join(lines)


def documents(found: Sequence[tuple[Load, Measured]]) -> list[dict[str, Any]]:
    return [
        {"load": load_.name, "files": load_.files, "rows_a_file": load_.rows, **vars(measured)}
        for load_, measured in found
    ]


def _groups(found: Sequence[tuple[Load, Measured]]) -> dict[tuple[str, str, int], list[Measured]]:
    groups: dict[tuple[str, str, int], list[Measured]] = {}
    for load_, measured in found:
        groups.setdefault((load_.name, measured.stage, measured.replicas), []).append(measured)
    order = [load_.name for load_, _ in found]
    stages = [*STAGES, "auditor"]
    return dict(
        sorted(groups.items(), key=lambda item: (order.index(item[0][0]), stages.index(item[0][1]), item[0][2]))
    )


LOADS = (Load("small", 400, 100), Load("large", 4, 250_000))
QUICK = (Load("small", 100, 100), Load("large", 2, 100_000))
