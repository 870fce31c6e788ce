#!/usr/bin/env python3
"""What Acequia costs: measured side by side, in one run, on the real MinIO, RabbitMQ and PostgreSQL.

    a   a plain script that does the same compute in one warm process (plain.py)
    b   the bare floor: four processes that do nothing but GET, PUT and publish what the chain needs (floor.py)
    b+  the same with every request that Acequia makes: ledger, HEADs, files beside; what the protocol costs
    c   Acequia as separate service processes, from POST to the evaluation stored and its audit in PostgreSQL

    make bench                                everything, 5 to 10 minutes
    make bench ARGS='--quick'                 fewer rounds, 100,000 rows instead of 1,000,000
    make bench ARGS='--only small'            one scenario: small (10 rows), large (1,000,000 rows), burst (200 files)
    make bench ARGS='--only sizing'           each stage alone, by replicas: objects/s, rows/s, processor (sizing.py)
    make bench ARGS='--json out.json'         where the numbers go (default: bench/results/<time>.json)

It wants servers of its own (`make bench` brings them up and takes them down again) and a machine that is idle: look at
ratios, never at seconds. The rounds are interleaved (a b c a b c ...), a ratio is taken within its round, and the
median over the rounds counts; in brackets the least and the greatest.

c is clocked without polling: this script hears the audit exchange on a queue of its own, and once it has heard the
evaluation it asks PostgreSQL until every record of the run is there. The trainer's gathering is 0 (its default is
shown beside) and its window is closed, so that each training has just the rows that a has. Every service runs, the
reconciler too, with the settings that it has by default. While b is measured Acequia's queues are unbound, and the
other way round, so that neither hears the other's objects.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import aio_pika
import aiohttp
import floor as bare
import httpx
import polars as pl
import sizing
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from fleets import FAILURES, BenchFleet, hear_audit, open_database

from acequia.adapters.minio import MinioStore
from acequia.datasets import load_registry
from acequia.layers import Buckets
from acequia.settings import MinioSettings, load
from acequia.topology import OBJECTS, READERS, routing_key, topology
from acequia_ingestor.parse import write_drawn
from acequia_ingestor.sources.synthetic import SyntheticSource, draw_network_events
from harness.fleet import SERVICES

ROOT = Path(__file__).resolve().parents[1]
DATASET = "network_events"
ANOMALY_RATE = 0.02
BURST_FILES = 200
BURST_ROWS = 100
UPLOADS = 16
"""Uploads at once in a burst, in b and in c."""
SETTLE = 0.3
"""Seconds of silence between two measurements."""
NEEDED = ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "RABBITMQ_URL", "PG_HOST", "PG_PASSWORD")


class BenchFailed(Exception):
    """A chain did not go as it should: there is nothing to measure."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# the three that are measured


class Plain:
    """(a): plain.py in a process of its own."""

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, str(ROOT / "bench/plain.py"), "--serve", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    async def ask(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        await self._process.stdin.drain()
        if not (line := await self._process.stdout.readline()):
            raise BenchFailed("plain.py ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def chain(self, rows: int, seed: int) -> dict[str, Any]:
        return await self.ask(rows=rows, seed=seed, anomaly_rate=ANOMALY_RATE)

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


class Floor:
    """(b): four processes of floor.py, and the ear at their audit exchange."""

    def __init__(self, channel: AbstractChannel, prefix: str, logs: Path) -> None:
        self.channel = channel
        self.prefix = prefix
        self.logs = logs
        self._processes: list[asyncio.subprocess.Process] = []
        self._ended: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        self._started = AsyncExitStack()

    async def start(self) -> None:
        buckets = Buckets(self.prefix)
        async with await MinioStore.open(load(MinioSettings), buckets) as store:
            await store.apply(topology(buckets))
        self._session = aiohttp.ClientSession()
        self._started.push_async_callback(self._session.close)
        self._store = bare.Store(self.prefix, self._session)
        await bare.declare(self.channel)
        self._commands = await self.channel.get_exchange(bare.COMMANDS, ensure=False)
        self._audit = await self.channel.get_exchange(bare.AUDIT, ensure=False)
        queue = await self.channel.get_queue("bench.audit", ensure=False)
        await queue.consume(self._heard, no_ack=True)
        for stage in bare.STAGES:
            with (self.logs / f"floor-{stage}.log").open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    str(ROOT / "bench/floor.py"),
                    stage,
                    self.prefix,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            self._processes.append(process)
        for process in self._processes:
            assert process.stdout is not None
            if await process.stdout.readline() != b"ready\n":
                raise BenchFailed(f"a stage of the floor did not start: see {self.logs}")

    async def listen(self, on: bool) -> None:
        """Bind the stages to what MinIO publishes, or unbind them."""
        for stage, keys in bare.WAKES.items():
            queue = await self.channel.get_queue(bare.queue_name(stage), ensure=False)
            for key in keys:
                await (queue.bind(OBJECTS, key) if on else queue.unbind(OBJECTS, key))

    async def _heard(self, message: AbstractIncomingMessage) -> None:
        document = json.loads(message.body)
        if document["stage"] == "evaluate":
            self._ended.put_nowait((document["run"], time.perf_counter()))

    async def _wait(self, runs: set[str], seconds: float) -> float:
        """When the last of `runs` was heard of."""
        at = 0.0
        try:
            async with asyncio.timeout(seconds):
                while runs:
                    run, at = await self._ended.get()
                    runs.discard(run)
        except TimeoutError:
            raise BenchFailed(f"{len(runs)} bare chains did not end in {seconds} s: see {self.logs}") from None
        return at

    async def chain(self, way: str, sizes: Mapping[str, int]) -> float:
        """Seconds of one chain, from what a POST does to the last audit message."""
        run = uuid4().hex
        body = bare.command(way, run, _bare_sizes(sizes) if way == "bare" else dict(sizes))
        began = time.perf_counter()
        if way == "every":
            await self._store.act("get", "ledger/done", run, {}, "-")
            await self._store.act("put", "ledger/command", run, {}, "-")
        await bare.publish(self._audit, "ingest.accepted", b'{"stage": "accepted"}')
        await bare.publish(self._commands, "ingest", body.encode())
        return await self._wait({run}, 120) - began

    async def burst(self, sizes: Mapping[str, int], count: int, way: str = "bare") -> float:
        """Seconds of so many chains, each begun by an upload."""
        slots = asyncio.Semaphore(UPLOADS)
        runs = [uuid4().hex for _ in range(count)]
        landing = {"landing/source": sizes["landing"]}

        async def upload(run: str) -> None:
            async with slots:
                meta = bare.command(way, run, _bare_sizes(sizes) if way == "bare" else dict(sizes))
                if way != "bare":
                    await self._store.act("head", "landing/source", run, {}, "-")
                await self._store.act("put", "landing/source", run, landing, meta)
                await bare.publish(self._audit, "ingest.accepted", b'{"stage": "accepted"}')

        began = time.perf_counter()
        waiting = asyncio.create_task(self._wait(set(runs), 300))
        await asyncio.gather(*(upload(run) for run in runs))
        return await waiting - began

    async def close(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await self._started.aclose()


def _bare_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """One object a layer, as large as all that Acequia has there."""
    return {
        "raw/o.parquet": sizes["raw/o.parquet"],
        "silver/o.parquet": sizes["silver/o.parquet"],
        "models/model.json": sizes["models/model.json"] + sizes.get("models/model.skops", 0),
        "eval/o.json": sizes["eval/evaluation.json"] + sizes.get("eval/report.html", 0),
    }


@dataclass
class Heard:
    """What the audit exchange told of some runs."""

    records: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def of(self, stage: str, status: str = "SUCCESS") -> dict[str, Any]:
        return next(r for _, r in self.records if (r["stage"], r["status"]) == (stage, status))

    def sizes(self) -> dict[str, int]:
        """Bytes of each kind of object, for the floor; of several the mean."""
        found: dict[str, list[int]] = {}
        names = {
            "raw": "raw/o.parquet",
            "silver": "silver/o.parquet",
            "model.json": "models/model.json",
            "skops": "models/model.skops",
            "evaluation.json": "eval/evaluation.json",
            "html": "eval/report.html",
        }
        for _, record in self.records:
            for output in record.get("outputs", ()):
                bucket, _, key = output["uri"].removeprefix("s3://").partition("/")
                layer, file = bucket.rpartition("-")[2], key.rpartition("/")[2]
                kind = names.get(layer) or names.get(file) or names.get(file.rpartition(".")[2])
                if kind and output.get("bytes"):
                    found.setdefault(kind, []).append(output["bytes"])
        return {kind: round(statistics.mean(sizes)) for kind, sizes in found.items()}


class Acequia:
    """(c): the service processes, and the ear at the audit exchange."""

    def __init__(self, channel: AbstractChannel, prefix: str, logs: Path, *, idle_stages: bool = False) -> None:
        self.channel = channel
        self.prefix = prefix
        logs.mkdir()
        self._names, replaced = SERVICES, None
        if idle_stages:  # without the lakehouse: what they write is no Parquet
            self._names = tuple(name for name in SERVICES if name != "lakehouse")
            idle = str(ROOT / "bench/idle.py")
            replaced = {name: (idle, name) for name in ("ingestor", "transformer", "trainer", "evaluator")}
        self.fleet = BenchFleet(prefix, logs, replaced=replaced, ACEQUIA_TRAINER_GATHER_QUIET="0")
        self._closed = False
        self._started = AsyncExitStack()

    async def start(self) -> None:
        try:
            await asyncio.to_thread(self.fleet.start, *self._names)
        except AssertionError as error:
            raise BenchFailed(str(error)) from None
        self._records = await hear_audit(self.channel, self._started)
        self._http = httpx.AsyncClient(base_url=self.fleet.url("ingestor"), timeout=60)
        self._started.push_async_callback(self._http.aclose)
        self._database = await open_database(self._started)

    async def listen(self, on: bool) -> None:
        """Bind the services to what MinIO publishes, or unbind them."""
        for reader in READERS:
            queue = await self.channel.get_queue(reader.queue, ensure=False)
            key = routing_key(reader.layer)
            await (queue.bind(OBJECTS, key) if on else queue.unbind(OBJECTS, key))

    async def chain(self, rows: int, seed: int) -> tuple[float, float, Heard]:
        """Seconds from POST to the evaluation heard of, and to all records in PostgreSQL."""
        source = {"kind": "synthetic", "rows": rows, "seed": seed, "anomaly_rate": ANOMALY_RATE}
        began = time.perf_counter()
        answer = await self._http.post("/ingestions", json={"dataset": DATASET, "source": source})
        heard = await self._evaluated({_run(answer)}, 120 + rows / 5000)
        at = heard.records[-1][0]
        return at - began, await self._stored(heard) - began, heard

    async def burst(self, files: Sequence[Path]) -> tuple[float, float, Heard]:
        """The same for many files at once."""
        slots = asyncio.Semaphore(UPLOADS)

        async def upload(path: Path) -> str:
            async with slots:
                url = f"/ingestions/files/{path.name}"
                return _run(await self._http.put(url, params={"dataset": DATASET}, content=path.read_bytes()))

        began = time.perf_counter()
        runs = set(await asyncio.gather(*(upload(path) for path in files)))
        heard = await self._evaluated(runs, 600)
        at = heard.records[-1][0]
        return at - began, await self._stored(heard) - began, heard

    async def _evaluated(self, runs: set[str], seconds: float) -> Heard:
        """Everything heard until a training that covers each of `runs` is evaluated."""
        heard, open_runs = Heard(), set(runs)
        trainings: set[str] = set()
        evaluated: set[str] = set()
        try:
            async with asyncio.timeout(seconds):
                while open_runs or not trainings <= evaluated:
                    at, record = await self._records.get()
                    heard.records.append((at, record))
                    if record["status"] in FAILURES:
                        raise BenchFailed(f"{record['stage']} {record['status']}: {record.get('error')}")
                    if record["status"] != "SUCCESS":
                        continue
                    if record["stage"] == "trainer" and runs & set(record.get("parents", ())):
                        trainings.add(record["run_id"])
                        open_runs -= set(record["parents"])
                    elif record["stage"] == "evaluator":
                        evaluated.add(record["run_id"])
        except TimeoutError:
            logs = "\n".join(f"--- {name}\n{self.fleet.log(name)[-500:]}" for name in self._names)
            raise BenchFailed(f"{len(open_runs)} of {len(runs)} runs did not end in {seconds} s\n{logs}") from None
        return heard

    async def _stored(self, heard: Heard) -> float:
        """When PostgreSQL has every record that was heard."""
        ids = {UUID(record["event_id"]) for _, record in heard.records}
        statement = "SELECT count(*) FROM acequia.audit_events WHERE event_id = ANY($1::uuid[])"
        end = time.perf_counter() + 60
        while await self._database.fetchval(statement, list(ids)) < len(ids):
            if time.perf_counter() > end:
                raise BenchFailed("the audit's records do not come to PostgreSQL")
            await asyncio.sleep(0.001)
        return time.perf_counter()

    async def settle(self) -> None:
        """A moment of silence; what is still said of the last run is forgotten."""
        await asyncio.sleep(SETTLE)
        while not self._records.empty():
            self._records.get_nowait()

    async def gather_by_default(self) -> None:
        """The trainer again, with the gathering that it has by default."""
        del self.fleet.env["ACEQUIA_TRAINER_GATHER_QUIET"]
        await asyncio.to_thread(self.fleet.stop, "trainer")
        await asyncio.to_thread(self.fleet.start, "trainer")

    async def close(self) -> None:
        """A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self.fleet.close)
        await self._started.aclose()


def _run(answer: httpx.Response) -> str:
    if answer.status_code != 202:
        raise BenchFailed(f"the ingestor answered {answer.status_code}: {answer.text[:500]}")
    return str(answer.json()["run_id"])


# numbers


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of some measurements."""

    median: float
    least: float
    most: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        found = tuple(values)
        return cls(statistics.median(found), min(found), max(found), found)

    def show(self, unit: Callable[[float], str]) -> str:
        return f"{unit(self.median)} [{unit(self.least)}, {unit(self.most)}]"

    def document(self) -> dict[str, Any]:
        return {"median": self.median, "min": self.least, "max": self.most, "values": list(self.values)}


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def ratio(value: float) -> str:
    return f"{value:.2f}"


def per_second(value: float) -> str:
    return f"{value:.1f}/s"


@dataclass
class Result:
    """One scenario: its lines for people, its aim, its document."""

    title: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    aim: str = ""
    measured: Spread | None = None
    met: bool = False
    document: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, text: str, spread: Spread, unit: Callable[[float], str] = seconds) -> Spread:
        self.lines.append((text, spread.show(unit)))
        self.document[name] = spread.document()
        return spread

    def judge(self, aim: str, measured: Spread, met: bool) -> None:
        self.aim, self.measured, self.met = aim, measured, met
        self.document |= {"aim": aim, "ratio": measured.document(), "met": met}

    def show(self) -> str:
        assert self.measured is not None
        width = max(len(text) for text, _ in self.lines)
        body = "\n".join(f"  {text:<{width}}  {value}" for text, value in self.lines)
        verdict = "met" if self.met else "MISSED"
        return f"{self.title}\n{body}\n  => {self.measured.show(ratio)}   aim {self.aim}: {verdict}"


def stages(heard: Heard, posted: datetime) -> dict[str, float]:
    """Seconds of one chain of c by where they went. `to X`: from the end of the work before to X's begin of work:
    storing, the event, the delivery (to the trainer: its plan, too)."""
    found: dict[str, float] = {}
    before = posted
    for stage in ("ingestor", "transformer", "trainer", "evaluator"):
        record = heard.of(stage)
        started, finished = (datetime.fromisoformat(record[name]) for name in ("started", "finished"))
        found[f"to {stage}"] = (started - before).total_seconds()
        found[stage] = (finished - started).total_seconds()
        before = finished
    return found


# scenarios


@dataclass
class Bench:
    plain: Plain
    floor: Floor
    acequia: Acequia
    folder: Path

    async def over_floor(self) -> None:
        await self.acequia.listen(False)
        await self.floor.listen(True)

    async def over_acequia(self) -> None:
        await self.floor.listen(False)
        await self.acequia.listen(True)
        await self.acequia.settle()

    async def chains(self, rows: int, rounds: int, warm_up: int) -> dict[str, list[Any]]:
        """a, b, b+ and c, interleaved."""
        found: dict[str, list[Any]] = {name: [] for name in ("a", "b", "b+", "c", "c_heard", "steps", "stages")}
        sizes: dict[str, int] = {}
        for number in range(-warm_up, rounds):
            seed = 1000 + number
            if not sizes:
                await self.over_acequia()
                sizes = (await self.acequia.chain(rows, seed + 500_000))[2].sizes()
                await self.acequia.settle()
            a = await self.plain.chain(rows, seed)
            await self.over_floor()
            b = await self.floor.chain("bare", sizes)
            every = await self.floor.chain("every", sizes)
            await self.over_acequia()
            posted = datetime.now(UTC)
            heard_after, c, heard = await self.acequia.chain(rows, seed)
            await self.acequia.settle()
            if number < 0:
                continue
            say(
                f"  round {number + 1} of {rounds}: a {seconds(a['seconds'])}, b {seconds(b)}, b+ {seconds(every)}, "
                f"c {seconds(c)}"
            )
            values = (a["seconds"], b, every, c, heard_after, a["steps"], stages(heard, posted))
            for name, value in zip(found, values, strict=True):
                found[name].append(value)
        found["sizes"] = [sizes]
        return found

    async def small(self, rounds: int, rows: int) -> Result:
        found = await self.chains(rows, rounds, warm_up=3)
        result = _chain_result(f"{rows} rows, one at a time", found)
        parts = list(zip(found["a"], found["b"], found["b+"], found["c"], strict=True))
        result.add("ratio_every", "c / (a + b+)", Spread.of(c / (a + e) for a, _, e, c in parts), ratio)
        measured = Spread.of(c / (a + b) for a, b, _, c in parts)
        result.judge("c / (a + b) <= 1.15", measured, measured.median <= 1.15)
        return result

    async def default_gathering(self, rounds: int, rows: int, result: Result) -> None:
        """The cost of gathering, beside: Acequia alone, its trainer as it is by default."""
        say("  the trainer's gathering as by default")
        await self.over_acequia()
        await self.acequia.gather_by_default()
        values = []
        for number in range(-1, rounds):
            _, c, _ = await self.acequia.chain(rows, 9000 + number)
            await self.acequia.settle()
            if number >= 0:
                values.append(c)
        result.add("c_default_gathering", "c with the trainer's gathering by default (0.2 s)", Spread.of(values))

    async def large(self, rounds: int, rows: int) -> Result:
        found = await self.chains(rows, rounds, warm_up=0)
        result = _chain_result(f"{rows:,} rows", found)
        measured = Spread.of(c / a for a, c in zip(found["a"], found["c"], strict=True))
        result.judge("c / a <= 1.05", measured, measured.median <= 1.05)
        return result

    async def burst(self, rounds: int) -> Result:
        names = ("a", "b", "b+", "c", "trainings")
        found: dict[str, list[float]] = {name: [] for name in names}
        for number in range(-1, rounds):
            count = BURST_FILES if number >= 0 else 40
            files = self.draw_files(count, number)
            a = (await self.plain.ask(files=[str(path) for path in files]))["seconds"]
            c, b, heard, sizes = await self.both(files)
            every = await self.floor.burst(sizes, count, "every of a file")
            if number < 0:
                continue
            trainings = sum(r["stage"] == "trainer" and r["status"] == "SUCCESS" for _, r in heard.records)
            rates = [count / value for value in (a, b, every, c)]
            say("  round {} of {}: a {}, b {}, b+ {}, c {}".format(number + 1, rounds, *map(per_second, rates)))
            for name, value in zip(names, (*rates, float(trainings)), strict=True):
                found[name].append(value)
        result = Result(f"a burst of {BURST_FILES} files of {BURST_ROWS} rows")
        result.add("a", "a: plain script, one training over all", Spread.of(found["a"]), per_second)
        result.add("b", "b: bare floor, 5 PUT 4 GET a file", Spread.of(found["b"]), per_second)
        result.add("b+", "b+: every request, a training a file", Spread.of(found["b+"]), per_second)
        result.add("c", "c: Acequia", Spread.of(found["c"]), per_second)
        result.add("trainings", "c: trainings", Spread.of(found["trainings"]), lambda value: f"{value:.0f}")
        measured = Spread.of(c / b for b, c in zip(found["b"], found["c"], strict=True))
        result.judge("c / b >= 0.8", measured, measured.median >= 0.8)
        return result

    async def idle_burst(self, rounds: int, result: Result) -> None:
        """The same with stages of Acequia's that compute nothing, beside: what the framework costs by itself."""
        say("  Acequia's stages compute nothing")
        rates: list[tuple[float, float]] = []
        for number in range(-1, rounds):
            count = BURST_FILES if number >= 0 else 40
            c, b, _, _ = await self.both(self.draw_files(count, number + 500))
            if number >= 0:
                rates.append((count / b, count / c))
                say(f"  round {number + 1} of {rounds}: b {per_second(rates[-1][0])}, c {per_second(rates[-1][1])}")
        result.add("c_idle", "c with no-op stages", Spread.of(c for _, c in rates), per_second)
        result.add("ratio_idle", "c with no-op stages / b", Spread.of(c / b for b, c in rates), ratio)

    async def both(self, files: Sequence[Path]) -> tuple[float, float, Heard, dict[str, int]]:
        """Seconds of c for `files`, then of b for as many; what c said, and its objects' sizes."""
        await self.over_acequia()
        _, c, heard = await self.acequia.burst(files)
        await self.acequia.settle()
        await self.over_floor()
        sizes = {**heard.sizes(), "landing": round(statistics.mean(path.stat().st_size for path in files))}
        return c, await self.floor.burst(sizes, len(files)), heard, sizes

    def draw_files(self, count: int, number: int) -> list[Path]:
        """Small CSV files, no two alike, in no two rounds."""
        dataset = load_registry()[DATASET]
        rows = count * BURST_ROWS
        source = SyntheticSource(kind="synthetic", rows=rows, seed=number + 2000, anomaly_rate=ANOMALY_RATE)
        with tempfile.TemporaryDirectory(dir=self.folder) as drawn:
            chunks = draw_network_events(source, datetime.now(UTC).replace(microsecond=0))
            parsed = write_drawn(chunks, dataset, "synthetic", Path(drawn))
            frame = pl.read_parquet(parsed.parts[0].path).drop("_line")
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        paths = [folder / f"events-{n:04d}.csv" for n in range(count)]
        for n, path in enumerate(paths):
            frame.slice(n * BURST_ROWS, BURST_ROWS).write_csv(path)
        return paths


def _chain_result(title: str, found: Mapping[str, list[Any]]) -> Result:
    result = Result(title)
    result.add("a", "a: plain script", Spread.of(found["a"]))
    result.add("b", "b: bare floor, 4 PUT 3 GET", Spread.of(found["b"]))
    result.add("b+", "b+: every request of Acequia's, bare", Spread.of(found["b+"]))
    result.add("c", "c: Acequia, POST to stored audit", Spread.of(found["c"]))
    result.document["c_heard"] = Spread.of(found["c_heard"]).document()
    result.document["sizes"] = found["sizes"][0]
    for name, kind in (("a", "steps"), ("c", "stages")):
        medians = {key: statistics.median(values[key] for values in found[kind]) for key in found[kind][0]}
        result.lines.append((f"{name} by step", ", ".join(f"{key} {seconds(value)}" for key, value in medians.items())))
        result.document[f"{name}_{kind}"] = medians
    return result


# the whole


SCENARIOS = ("small", "large", "burst")
SIZING = "sizing"
"""No comparison, but what each stage does alone."""


async def run(options: argparse.Namespace) -> dict[str, Any]:
    quick = options.quick
    rounds = {"small": 5 if quick else 15, "large": 2 if quick else 3, "burst": 1 if quick else 3}
    if options.rounds:
        rounds = dict.fromkeys(SCENARIOS, options.rounds)
    wanted = options.only or (*SCENARIOS, SIZING)
    load_before = os.getloadavg()[0]
    if load_before > (os.cpu_count() or 1):
        say(f"the machine is busy (load {load_before:.1f}): the numbers will be of little use")
    results: list[Result] = []
    mark = uuid4().hex[:8]
    sized: list[tuple[sizing.Load, sizing.Measured]] = []
    if SIZING in wanted:
        say("each stage alone")
        loads = sizing.QUICK if quick else sizing.LOADS
        sized = await sizing.measure(loads, options.rounds or (1 if quick else 3), say)
    async with AsyncExitStack() as stack:
        if set(wanted) == {SIZING}:
            return _document(load_before, rounds, results, sized)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="acequia-bench-")))
        connection = await aio_pika.connect(os.environ["RABBITMQ_URL"])
        await stack.enter_async_context(connection)
        channel = await connection.channel(publisher_confirms=True)
        say("starting: the plain script, Acequia's services, the floor's stages")
        plain = Plain()
        await plain.start()
        stack.push_async_callback(plain.close)
        acequia = Acequia(channel, f"bench-c-{mark}", folder / "services")
        stack.push_async_callback(acequia.close)
        await acequia.start()
        floor = Floor(channel, f"bench-b-{mark}", folder)
        stack.push_async_callback(floor.close)
        await floor.start()
        bench = Bench(plain, floor, acequia, folder)
        if "small" in wanted:
            say("10 rows")
            results.append(await bench.small(rounds["small"], 10))
        if "large" in wanted:
            rows = 100_000 if quick else 1_000_000
            say(f"{rows:,} rows")
            results.append(await bench.large(rounds["large"], rows))
        if "burst" in wanted:
            say(f"a burst of {BURST_FILES} files")
            results.append(await bench.burst(rounds["burst"]))
        if "small" in wanted:
            await bench.default_gathering(rounds["small"], 10, results[0])
        if "burst" in wanted:
            await acequia.close()
            bench.acequia = Acequia(channel, f"bench-i-{mark}", folder / "idle", idle_stages=True)
            stack.push_async_callback(bench.acequia.close)
            await bench.acequia.start()
            await bench.idle_burst(rounds["burst"], results[-1])
    return _document(load_before, rounds, results, sized)


def _document(
    load_before: float,
    rounds: Mapping[str, int],
    results: Sequence[Result],
    sized: Sequence[tuple[sizing.Load, sizing.Measured]],
) -> dict[str, Any]:
    texts = [result.show() for result in results]
    if sized:
        texts.append(f"each stage alone; processor time in ms an object\n{sizing.table(sized)}")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "load": [load_before, os.getloadavg()[0]]},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("polars", "scikit-learn", "aio-pika", "miniopy-async")},
        },
        "rounds": rounds,
        "scenarios": {result.title: result.document for result in results},
        "sizing": sizing.documents(sized),
        "text": "\n\n".join(texts),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, 100,000 rows instead of 1,000,000")
    parser.add_argument(
        "--only", choices=(*SCENARIOS, SIZING), action="append", help="this scenario; may be given again"
    )
    parser.add_argument("--rounds", type=int, help="so many rounds of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go")
    options = parser.parse_args()
    if missing := [name for name in NEEDED if not os.environ.get(name)]:
        say(f"{', '.join(missing)} not set: `make bench` brings the servers up and runs this on them")
        return 2
    began = time.monotonic()
    try:
        document = asyncio.run(run(options))
    except BenchFailed as failed:
        say(f"FAILED: {failed}")
        return 1
    except KeyboardInterrupt:
        return 130
    to = options.json or ROOT / "bench/results" / f"{document['at'].replace(':', '')}.json"
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps({k: v for k, v in document.items() if k != "text"}, indent=1) + "\n")
    print(f"\n{document['text']}\n")
    say(f"{time.monotonic() - began:.0f} s; load {document['machine']['load']}; numbers in {to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
