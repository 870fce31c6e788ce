#!/usr/bin/env python3
"""(b) The bare floor: four stages that do nothing, over MinIO and RabbitMQ, by miniopy-async and aio-pika alone.

Each stage is a process: it takes a message from its quorum queue, GETs what it woke for, PUTs an object of the size
that Acequia's has there (on which MinIO notifies the next stage), publishes an audit message, confirmed, and
acknowledges. Two ways, said by the message:

    bare    4 PUT, 3 GET: nothing but the chain itself
    every   each request that Acequia makes for the same chain, its ledger, HEADs and files beside included

What a stage has to know travels in the object's user metadata. `run.py` starts the stages.
"""

import argparse
import asyncio
import json
import os
import signal
from contextlib import suppress
from io import BytesIO
from urllib.parse import unquote_plus
from uuid import uuid4

import aio_pika
import aiohttp
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, FieldValue
from miniopy_async import Minio
from miniopy_async.error import S3Error

STAGES = ("ingest", "transform", "train", "evaluate")
OBJECTS = "acequia.objects"
"""Where MinIO publishes to: its targets are a setting of the server."""
AUDIT = "bench.audit"
COMMANDS = "bench.commands"
WAKES = {
    "ingest": ("object.landing",),
    "transform": ("object.raw",),
    "train": ("object.silver",),
    "evaluate": ("object.models",),
}
AUDIT_BYTES = 1500
PREFETCH = 2
META = "bench"

Step = tuple[tuple[str, str], ...]
"""Requests that go out at once: (act, object). An object's name says its bucket: the part before the first `/`."""

BARE: dict[str, tuple[Step, ...]] = {
    "ingest": ((("put", "raw/o.parquet"),), (("say", ""),)),
    "transform": ((("get", "raw/o.parquet"),), (("put", "silver/o.parquet"),), (("say", ""),)),
    "train": ((("get", "silver/o.parquet"),), (("put", "models/model.json"),), (("say", ""),)),
    "evaluate": ((("get", "models/model.json"),), (("put", "eval/o.json"),), (("say", ""),)),
}
EVERY: dict[str, tuple[Step, ...]] = {
    "ingest": (
        (("get", "ledger/done"),),
        (("put", "raw/o.parquet"),),
        (("put", "ledger/done"),),
        (("say", ""),),
        (("remove", "ledger/command"),),
    ),
    "transform": (
        (("head", "silver/o.parquet"), ("head", "quarantine/o"), ("get", "raw/o.parquet")),
        (("put", "silver/o.parquet"),),
        (("say", ""),),
    ),
    "train": (
        (("put", "ledger/plan"),),
        (("say", ""),),
        (("put", "ledger/start"),),
        (("get", "silver/o.parquet"),),
        (("put", "models/model.skops"),),
        (("put", "models/model.json"),),
        (("say", ""),),
    ),
    "evaluate": (
        (("head", "eval/evaluation.json"), ("head", "quarantine/q"), ("get", "models/model.json")),
        (("get", "models/model.skops"), ("get", "silver/o.parquet"), ("get", "models/champion")),
        (("put", "eval/report.html"),),
        (("put", "eval/evaluation.json"),),
        (("say", ""),),
    ),
}
EVERY_OF_A_FILE = {
    **EVERY,
    "ingest": (
        (("get", "ledger/done"),),
        (("say", ""),),
        (("put", "ledger/claim"),),
        (("get", "ledger/done"),),
        (("put", "raw/o.parquet"),),
        (("put", "ledger/done"),),
        (("say", ""),),
    ),
}
WAYS = {"bare": BARE, "every": EVERY, "every of a file": EVERY_OF_A_FILE}


def buckets(prefix: str) -> dict[str, str]:
    names = ("landing", "raw", "silver", "models", "eval", "quarantine", "ledger")
    return {name: f"{prefix}-{name}" for name in names}


def queue_name(stage: str) -> str:
    return f"bench.{stage}"


def command(way: str, run: str, sizes: dict[str, int]) -> str:
    """What travels with the chain."""
    return json.dumps({"way": way, "run": run, "sizes": sizes}, separators=(",", ":"))


class Store:
    """The requests, bare."""

    def __init__(self, prefix: str, session: aiohttp.ClientSession) -> None:
        self.client = Minio(
            os.environ["MINIO_ENDPOINT"],
            access_key=os.environ["MINIO_ACCESS_KEY"],
            secret_key=os.environ["MINIO_SECRET_KEY"],
            secure=False,
            region=os.environ.get("MINIO_REGION", "us-east-1"),
            session=session,
        )
        self.buckets = buckets(prefix)
        self.zeros = b""

    def place(self, run: str, name: str) -> tuple[str, str]:
        bucket, _, rest = name.partition("/")
        return self.buckets[bucket], f"{run}/{rest}"

    def of_size(self, size: int) -> bytes:
        if len(self.zeros) < size:
            self.zeros = os.urandom(size)
        return self.zeros[:size]

    async def act(self, what: str, name: str, run: str, sizes: dict[str, int], meta: str) -> None:
        bucket, key = self.place(run, name)
        if what == "put":
            data = self.of_size(sizes.get(name, 600))
            await self.client.put_object(
                bucket,
                key,
                BytesIO(data),
                len(data),
                metadata={META: meta},
                part_size=max(5 * 2**20, len(data)),
                num_parallel_uploads=1,
            )
        elif what == "get":
            with suppress(S3Error):  # what Acequia looks for and does not find
                response = await self.client.get_object(bucket, key)
                async with response:
                    async for _ in response.content.iter_any():
                        pass
        elif what == "head":
            with suppress(S3Error):
                await self.client.stat_object(bucket, key)
        elif what == "remove":
            await self.client.remove_object(bucket, key)


async def declare(channel: AbstractChannel) -> None:
    """The queues, not yet bound to what MinIO publishes: `run.py` binds them while it measures this."""
    audit = await channel.declare_exchange(AUDIT, "topic", durable=True)
    commands = await channel.declare_exchange(COMMANDS, "topic", durable=True)
    quorum: dict[str, FieldValue] = {"x-queue-type": "quorum"}
    for stage in STAGES:
        queue = await channel.declare_queue(queue_name(stage), durable=True, arguments=quorum)
        if stage == "ingest":
            await queue.bind(commands, "ingest")
    trail = await channel.declare_queue("bench.audit", durable=True, arguments=quorum)
    await trail.bind(audit, "#")


async def publish(exchange: AbstractExchange, routing_key: str, body: bytes) -> None:
    mode = aio_pika.DeliveryMode.PERSISTENT
    await exchange.publish(aio_pika.Message(body, delivery_mode=mode, message_id=uuid4().hex), routing_key)


def parse(body: bytes) -> tuple[str | None, str]:
    """The object that a message is about (None: it is a command), and what travels with it."""
    document = json.loads(body)
    if "Records" not in document:
        return None, body.decode()
    entity = document["Records"][0]["s3"]["object"]
    told = {k.lower(): v for k, v in entity["userMetadata"].items()}
    return unquote_plus(entity["key"]), told[f"x-amz-meta-{META}"]


async def run_stage(stage: str, prefix: str) -> None:
    connection = await aio_pika.connect(os.environ["RABBITMQ_URL"])
    async with connection, aiohttp.ClientSession() as session:
        store = Store(prefix, session)
        publishing = await connection.channel(publisher_confirms=True)
        await declare(publishing)
        audit = await publishing.get_exchange(AUDIT, ensure=False)
        consuming = await connection.channel(publisher_confirms=False)
        await consuming.set_qos(prefetch_count=PREFETCH)
        queue = await consuming.get_queue(queue_name(stage), ensure=False)
        hands: set[asyncio.Task[None]] = set()

        async def work(message: AbstractIncomingMessage) -> None:
            key, meta = parse(message.body)
            told = json.loads(meta)
            run, sizes = told["run"], told["sizes"]
            if stage == "ingest" and key is not None:
                await store.act("get", "landing/source", run, sizes, meta)
            for step in WAYS[told["way"]][stage]:
                if step[0][0] == "say":
                    body = json.dumps({"run": run, "stage": stage, "x": "x" * AUDIT_BYTES}).encode()
                    await publish(audit, f"{stage}.success", body)
                elif len(step) == 1:
                    await store.act(*step[0], run, sizes, meta)
                else:
                    await asyncio.gather(*(store.act(what, name, run, sizes, meta) for what, name in step))
            await message.ack()

        async def receive(message: AbstractIncomingMessage) -> None:
            task = asyncio.create_task(work(message))
            hands.add(task)
            task.add_done_callback(hands.discard)

        await queue.consume(receive)
        print("ready", flush=True)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, stop.set)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("prefix", help="of the buckets")
    options = parser.parse_args()
    asyncio.run(run_stage(options.stage, options.prefix))


if __name__ == "__main__":
    main()
