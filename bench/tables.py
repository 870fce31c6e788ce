#!/usr/bin/env python3
"""A table of a database, loaded in full, after a few changes, and with all keys compared, beside a bare stream of it.

    .venv/bin/python bench/tables.py                    1,000,000 rows, 1,000 changes
    .venv/bin/python bench/tables.py --rows 200000

Over an embedded PostgreSQL and a folder as the store. `bare`: the same columns by ADBC into one Parquet file, with no
check, no state and no part. `peak`: of this process, with all that it imports; the server is another one.
"""

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import adbc_driver_postgresql.dbapi as adbc
import asyncpg
import pyarrow.parquet as pq
from pydantic import SecretStr

from acequia.acceptance import COMMAND
from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.datasets import Registry, load_registry
from acequia.events import IngestionCommand, SourceRequest
from acequia.layers import Buckets, Layer, command_key, done_key
from acequia.ports import Ack, Delivery, Message
from acequia.runner import Workshop
from acequia.topology import topology
from acequia_cli.postgres import EmbeddedPostgres
from acequia_ingestor.formats import load_formats
from acequia_ingestor.ingest import Ingestor
from acequia_ingestor.samples import schema_script
from acequia_ingestor.settings import IngestorSettings, PostgresSourceSettings

FILL = """
INSERT INTO accounts (account_id, email, name, segment) VALUES (1, 'a@b', 'A', 'consumer');
INSERT INTO subscriptions VALUES (1, 'A', 'A', 'monthly', 1, 'MXN', NULL, true, now());
INSERT INTO account_subscriptions VALUES (md5('1')::uuid, 1, 1, 'active', 1, 0, now(), NULL, now());
INSERT INTO payments
SELECT
    n, md5('1')::uuid, n % 100000 / 100.0, 'MXN', 'card', 'paid', jsonb_build_object('n', n),
    decode(md5(n::text), 'hex'),
    now() - make_interval(secs => n % 7776000), now() - make_interval(secs => n % 7776000)
FROM generate_series(1, $rows) AS n;
ANALYZE payments
"""


async def measure(rows: int, changes: int, folder: Path) -> dict[str, Any]:
    postgres = EmbeddedPostgres(folder)
    server = await asyncio.to_thread(postgres.start)
    try:
        return await _measure(rows, changes, folder, server.host)
    finally:
        await asyncio.to_thread(postgres.stop)


async def _measure(rows: int, changes: int, folder: Path, host: str) -> dict[str, Any]:
    dsn = f"postgresql://postgres@/postgres?host={host}"
    source = await asyncpg.connect(dsn)
    await source.execute(schema_script())
    await source.execute(FILL.replace("$rows", str(rows)))
    bus = await SqliteBus.open(folder / "bus.sqlite")
    store = await DirectoryStore.open(folder / "store", Buckets(), bus)
    await bus.apply(topology(Buckets()))
    await store.apply(topology(Buckets()))
    workshop = Workshop(store, bus, Buckets(), load_registry(), temp_dir=folder)
    ingestor = Ingestor(workshop, IngestorSettings(), load_formats(), PostgresSourceSettings(dsn=SecretStr(dsn)))
    await ingestor.start()
    took: dict[str, Any] = {"rows": rows}
    began = time.perf_counter()
    await asyncio.to_thread(_bare, dsn, folder / "bare.parquet")
    took["bare_seconds"] = round(time.perf_counter() - began, 2)
    took["bare_peak_mib"] = _peak()
    for name in ("full", "nothing", "changes", "keys"):
        if name == "changes":
            await source.execute(
                f"UPDATE payments SET amount = 0, updated_at = now() WHERE payment_id % {rows // changes} = 0"
            )
        if name == "keys":
            await source.execute(f"DELETE FROM payments WHERE payment_id % {rows // changes} = 1")
            payments = workshop.registry["payments"]
            assert payments.table is not None
            object.__setattr__(payments.table, "compare_keys_every", timedelta(0))
            workshop.registry = Registry({**workshop.registry, "payments": payments})
        began = time.perf_counter()
        took[f"{name}_rows"] = await _load(ingestor, workshop)
        took[f"{name}_seconds"] = round(time.perf_counter() - began, 2)
        took[f"{name}_peak_mib"] = _peak()
    await source.close()
    await bus.close()
    await store.close()
    return took


def _bare(dsn: str, path: Path) -> None:
    with adbc.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT payment_id, account_subscription_id::text, amount::text, currency::text, method::text, "
            "status::text, details::text, receipt, paid_at, updated_at FROM payments ORDER BY payment_id"
        )
        reader = cursor.fetch_record_batch()
        with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)


async def _load(ingestor: Ingestor, workshop: Workshop) -> int:
    run_id = uuid4()
    command = IngestionCommand(
        run_id=run_id,
        dataset="payments",
        source=SourceRequest.model_validate({"kind": "postgres", "tables": ["payments"]}),
        accepted_at=datetime.now(UTC),
        fingerprint="x",
    )
    body = command.model_dump_json().encode()
    await workshop.store.put(Layer.LEDGER, command_key(run_id), body, metadata={}, content_type="application/json")
    assert await ingestor.handle(Delivery("acequia.ingestor", Message(body, type=COMMAND))) == Ack()
    found = await workshop.store.read(Layer.LEDGER, done_key(run_id))
    assert found is not None
    return int(json.loads(found[0])["record"]["parameters"]["tables"]["payments"]["rows"])


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--changes", type=int, default=1_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        json.dump(asyncio.run(measure(asked.rows, asked.changes, Path(folder))), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
