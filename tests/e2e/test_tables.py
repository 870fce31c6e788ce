"""Tables of a database through the embedded installation: from a request to SILVER, the run's page, verify, rebuild."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from acequia_cli.embedded import Embedded
from acequia_ingestor.samples import changes_script, rows_script, schema_script


async def connect(data: Path, database: str) -> Any:
    return await asyncpg.connect(host=str(data / "pg"), user="postgres", database=database)


async def finished(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    while True:
        page: dict[str, Any] = (await client.get(f"/ingestions/{run_id}")).raise_for_status().json()
        if page.get("finished"):
            return page
        await asyncio.sleep(0.1)


async def ask(client: httpx.AsyncClient, **source: Any) -> dict[str, Any]:
    asked = {"source": {"kind": "postgres", **source}}
    answer = (await client.post("/ingestions", json=asked)).raise_for_status().json()
    return await finished(client, answer["run_id"])


async def test_the_tables_of_a_pack_come_through_and_everything_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv("ACEQUIA_SOURCE_POSTGRES_DSN", f"postgresql://postgres@/shop?host={data / 'pg'}")
    async with Embedded(data) as embedded, embedded.client() as client:
        administrator = await connect(data, "postgres")
        await administrator.execute("CREATE DATABASE shop")
        shop = await connect(data, "shop")
        await shop.execute(schema_script())
        await shop.execute(rows_script(accounts=60, at=datetime.now(UTC)))
        page = await ask(client)
        assert (page["state"], page["dataset"]) == ("done", "_tables")
        assert (page["raw_objects"], page["silver_objects"]) == (8, 8)
        assert page["rows_in"] == page["rows_silver"] + page["rows_duplicate"] + page["rows_quarantined"]
        tables = page["stages"]["ingestor"][-1]["parameters"]["tables"]
        assert sum(table["rows"] for table in tables.values()) == page["rows_in"] > 600

        page = await ask(client)  # nothing has changed
        assert (page["state"], page["rows_in"], page["raw_objects"]) == ("done", 0, 0)

        await shop.execute(changes_script(changes=30, seed=1, at=datetime.now(UTC)))
        page = await ask(client, tables=["accounts"])
        assert (page["state"], page["dataset"]) == ("done", "accounts")
        assert 0 < page["rows_in"] < 40

        page = await ask(client, tables=["payments", "accounts"], only_validate=True)
        assert (page["state"], page["rows_in"]) == ("done", 0)

        answer = (await client.get("/verify", timeout=60)).raise_for_status().text
        result = json.loads(answer.splitlines()[-1])
        assert "orphan" not in json.dumps(result) or _orphans(result) == 0, result

        checks = await administrator.fetch(
            "SELECT dataset, check_name, passed FROM acequia.check_results WHERE kind = 'full'"
        )
        assert {"accounts", "payments", "features"} <= {row["dataset"] for row in checks}
        assert all(row["passed"] for row in checks if row["check_name"] == "row_count")
        before = await administrator.fetchval("SELECT count(*) FROM acequia.check_results")
        datasets = await administrator.fetch("SELECT DISTINCT dataset FROM acequia.artifacts WHERE layer = 'raw'")
        assert "_tables" not in {row["dataset"] for row in datasets}
        await administrator.execute(
            "ALTER TABLE acequia.audit_events DISABLE TRIGGER ALL; "
            "TRUNCATE acequia.audit_events, acequia.event_objects, acequia.artifacts, acequia.runs, acequia.chains "
            "CASCADE"
        )
        (await client.post("/audit/rebuild", timeout=60)).raise_for_status()
        assert await administrator.fetchval("SELECT count(*) FROM acequia.check_results") == before
        await shop.close()
        await administrator.close()


def _orphans(result: dict[str, Any]) -> int:
    """All counts of orphans, wherever they stand."""
    found = 0
    waiting: list[Any] = [result]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            found += sum(v for k, v in one.items() if k == "orphan" and isinstance(v, int))
            waiting += list(one.values())
        elif isinstance(one, list):
            waiting += one
    return found
