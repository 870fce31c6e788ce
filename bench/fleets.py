"""What is measured: services as processes of their own, what the audit exchange hears of them, and their database."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from acequia.topology import AUDIT
from harness.fleet import SERVICES, Fleet

FAILURES = {"REJECTED", "FAILED", "DEAD", "GONE", "SUPERSEDED"}
TESTS_OWN = (
    "ACEQUIA_RECONCILER_INTERVAL",
    "ACEQUIA_RECONCILER_GRACE",
    "ACEQUIA_PLAN_STALE_AFTER",
    "ACEQUIA_PLAN_RENEW_EVERY",
    "ACEQUIA_RETRY_DELAYS",
)
"""What the tests' fleet sets for their sake."""
OF_SERVERS = ("MINIO_", "RABBITMQ_", "PG_", "ACEQUIA_LAKEHOUSE_")

Records = asyncio.Queue[tuple[float, dict[str, Any]]]
"""Audit records, each with the time when it was heard."""


class BenchFleet(Fleet):
    """The tests' fleet, with the settings that there are by default; a training's window is closed.

    `replaced`: services that another program stands in for. `own`: settings of this fleet.
    """

    def __init__(
        self,
        prefix: str,
        logs: Path,
        names: Sequence[str] = SERVICES,
        *,
        replaced: Mapping[str, Sequence[str]] | None = None,
        **own: str,
    ) -> None:
        of_servers = {key: value for key, value in os.environ.items() if key.startswith(OF_SERVERS)}
        by_bench = {
            "ACEQUIA_BUCKET_PREFIX": prefix,
            "ACEQUIA_TRAINER_WINDOW_OBJECTS": "0",
            "ACEQUIA_LOG_LEVEL": "WARNING",
        }
        super().__init__({**of_servers, **by_bench, **own}, logs, names)
        for name in TESTS_OWN:
            del self.env[name]
        self._replaced = replaced or {}

    def command(self, name: str) -> Sequence[str]:
        return (sys.executable, *self._replaced[name]) if name in self._replaced else super().command(name)


async def hear_audit(channel: AbstractChannel, opened: AsyncExitStack) -> Records:
    """What the audit exchange says from now on, until `opened` is closed."""
    records: Records = asyncio.Queue()

    async def hear(message: AbstractIncomingMessage) -> None:
        records.put_nowait((time.perf_counter(), json.loads(message.body)))

    queue = await channel.declare_queue(exclusive=True)
    opened.push_async_callback(queue.delete, if_unused=False, if_empty=False)
    await queue.bind(AUDIT, "#")
    opened.push_async_callback(queue.cancel, await queue.consume(hear, no_ack=True))
    return records


async def open_database(opened: AsyncExitStack) -> "asyncpg.Connection[asyncpg.Record]":
    """The audit database, read as the auditor reads it, until `opened` is closed."""
    connection = await asyncpg.connect(
        host=os.environ["PG_HOST"],
        port=int(os.environ.get("PG_PORT", "5432")),
        user=os.environ.get("PG_USER", "acequia"),
        password=os.environ["PG_PASSWORD"],
        database=os.environ.get("PG_DATABASE", "acequia"),
    )
    opened.push_async_callback(connection.close)
    return connection
