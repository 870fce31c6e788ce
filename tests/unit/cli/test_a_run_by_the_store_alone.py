"""What a command over a store takes up, and how far it says that its run is."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.app import Problem
from acequia.datasets import load_registry
from acequia.errors import ConfigurationError
from acequia.events import META_DATASET, META_RUN_ID, IngestionCommand, SourceRequest
from acequia.layers import Buckets, Layer, Stem, command_key, data_key, dead_key
from acequia.ports import Message
from acequia.runner import JSON, PARQUET, Workshop
from acequia.topology import dead_queue, topology
from acequia_cli.one_shot import OneShot, Pages, take_up

BUCKETS = Buckets("once")
TABLE = topology(BUCKETS, (1,))
AT = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)


@pytest.fixture
async def workshop(tmp_path: Path) -> AsyncIterator[Workshop]:
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    store = await DirectoryStore.open(tmp_path / "store", BUCKETS)
    await bus.apply(TABLE)
    await store.apply(TABLE)
    yield Workshop(store, bus, BUCKETS, load_registry())
    await bus.close()
    await store.close()


async def command(workshop: Workshop, kind: str = "postgres", **asked: Any) -> UUID:
    """An open command."""
    run_id = uuid4()
    source = SourceRequest.model_validate({"kind": kind, **asked})
    told = IngestionCommand(run_id=run_id, dataset="accounts", source=source, accepted_at=AT, fingerprint="f")
    body = told.model_dump_json().encode()
    await workshop.store.create(Layer.LEDGER, command_key(run_id), body, metadata={}, content_type=JSON)
    return run_id


async def dead(workshop: Workshop, run_id: UUID) -> None:
    key = dead_key("ingestor", str(run_id))
    await workshop.store.create(Layer.LEDGER, key, b"{}", metadata={}, content_type=JSON)


async def part(workshop: Workshop, dataset: str) -> Stem:
    """An object of RAW that nobody has read."""
    stem = Stem(dataset, AT, uuid4().hex[:16], 1)
    metadata = {META_RUN_ID: str(uuid4()), META_DATASET: dataset}
    await workshop.store.create(Layer.RAW, data_key(stem), b"PAR1", metadata=metadata, content_type=PARQUET)
    return stem


async def test_open_commands_of_tables_are_taken_up_and_no_others(workshop: Workshop):
    run_id = await command(workshop, tables=["accounts"])
    await command(workshop, "synthetic", rows=1, seed=1, anomaly_rate=0.0)
    await dead(workshop, await command(workshop))

    left = await take_up(workshop, TABLE)

    assert left.runs == {run_id}
    assert await workshop.bus.depth("acequia.ingestor") == 1


async def test_parts_that_nobody_has_read_are_taken_up(workshop: Workshop):
    stem = await part(workshop, "accounts")

    left = await take_up(workshop, TABLE)

    assert left.objects == {"accounts": {str(stem)}}
    assert await workshop.bus.depth("acequia.transformer") == 1
    assert await workshop.bus.depth("acequia.lakehouse") == 0


async def test_what_nobody_has_heard_of_has_no_page(workshop: Workshop):
    assert await Pages(workshop, TABLE)(uuid4()) is None


async def test_a_command_whose_message_died_has_failed(workshop: Workshop):
    run_id = await command(workshop)
    await workshop.bus.publish("", dead_queue("ingestor"), Message(b"{}"))

    page = await Pages(workshop, TABLE)(run_id)

    assert page is not None
    assert (page["state"], page["finished"]) == ("failed", True)
    assert "a message of the ingestor failed on every retry" in page["error"]["message"]


async def test_a_command_that_an_auditor_buried_has_failed(workshop: Workshop):
    run_id = await command(workshop)
    await dead(workshop, run_id)

    page = await Pages(workshop, TABLE)(run_id)

    assert page is not None and page["state"] == "failed"


async def test_what_a_person_has_to_mend_is_told_to_who_waits(workshop: Workshop):
    pages = Pages(workshop, TABLE)
    pages.fail(ConfigurationError("MINIO_SECRET_KEY is wrong"))

    with pytest.raises(Problem, match="MINIO_SECRET_KEY is wrong") as told:
        await pages(uuid4())
    assert told.value.status_code == 422


async def test_without_a_database_to_read_from_it_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("ACEQUIA_", "MINIO_", "PG_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "MINIO_ENDPOINT": "127.0.0.1:1",
        "MINIO_ACCESS_KEY": "a",
        "MINIO_SECRET_KEY": "b",
        "ACEQUIA_LAKEHOUSE_CATALOG": "sql",
        "ACEQUIA_LAKEHOUSE_CATALOG_URI": "postgresql+psycopg://nobody@127.0.0.1:1/x",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="ACEQUIA_SOURCE_POSTGRES_DSN: field required"):
        async with OneShot():
            raise AssertionError
