"""`acequia ingest tables --env local`: the embedded installation, with nothing but what pip installs."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner

from acequia.settings import PostgresSettings
from acequia_cli.main import app
from acequia_cli.postgres import EmbeddedPostgres
from acequia_ingestor.samples import changes_script, rows_script, schema_script


@dataclass(frozen=True)
class Source:
    """The sample database, in a server of its own."""

    server: PostgresSettings

    @property
    def dsn(self) -> str:
        there = self.server
        return f"postgresql://{there.user}@/{there.database}?host={there.host}&port={there.port}"

    def run(self, *scripts: str) -> None:
        asyncio.run(self._run(scripts))

    def value(self, question: str) -> Any:
        return asyncio.run(self._run((), question))

    async def _run(self, scripts: Sequence[str], question: str = "SELECT 1") -> Any:
        there = self.server
        connection = await asyncpg.connect(host=there.host, port=there.port, user=there.user, database=there.database)
        try:
            for script in scripts:
                await connection.execute(script)
            return await connection.fetchval(question)
        finally:
            await connection.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("source"))
    source = Source(postgres.start())
    now = datetime.now(UTC)
    source.run(schema_script(), rows_script(at=now - timedelta(hours=1)))
    yield source
    postgres.stop()


def test_local_loads_what_changed_and_a_query_sees_it(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    # what is meant for a server elsewhere says nothing to the installation's own
    elsewhere = {"PG_HOST": "db.example.org", "PG_CA_FILE": "/nowhere/ca.crt", "PG_SSLMODE": "verify-full"}

    def acequia(*arguments: str) -> tuple[int, Any]:
        done = CliRunner().invoke(app, arguments, env={"ACEQUIA_SOURCE_POSTGRES_DSN": source.dsn, **elsewhere})
        assert done.stdout, done.stderr
        return done.exit_code, json.loads(done.stdout)

    tables = ("ingest", "tables", "--env", "local", "--json", "--tables", "accounts", "features")
    code, first = acequia(*tables)
    assert (code, first["state"]) == (0, "done")
    assert {name: table["kind"] for name, table in first["tables"].items()} == {"accounts": "full", "features": "full"}

    source.run(changes_script(changes=20, seed=3, at=datetime.now(UTC)))
    code, second = acequia(*tables)
    assert (code, second["tables"]["accounts"]["kind"], second["tables"]["features"]["rows"]) == (0, "changes", 0)
    assert 0 < second["tables"]["accounts"]["rows"] < first["tables"]["accounts"]["rows"]

    code, rows = acequia("query", "--format", "json", "select count(*) as n from silver.accounts")
    assert (code, rows[0]["n"]) == (0, source.value("SELECT count(*) FROM public.accounts WHERE deleted_at IS NULL"))

    code, checked = acequia(
        "ingest", "tables", "--entorno", "local", "--json", "--tablas", "accounts", "--solo-validar"
    )
    assert (code, checked["tables"]["accounts"]["load"], checked["rows_raw"]) == (0, None, 0)
