"""The subscription pack's sample database: made in an empty database of a server, or changed, to load from it again."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from acequia_cli.commands import Output
from acequia_cli.complaints import DONE, CommandFailed, WrongUse
from acequia_ingestor.samples import changes_script, rows_script, schema_script

TABLES = (
    "accounts",
    "account_subscriptions",
    "subscriptions",
    "features",
    "subscription_features",
    "contents",
    "content_attributes",
    "payments",
)


@dataclass(frozen=True, slots=True)
class MakeSampleDatabase:
    """Make the tables and fill them; where they are there, change about `changes` rows."""

    dsn: str
    accounts: int
    changes: int
    seed: int

    async def run(self, output: Output) -> int:
        try:
            connection = await asyncpg.connect(self.dsn)
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CommandFailed(f"the database can't be reached: {error}") from error
        try:
            return await self._fill(connection, output)
        except asyncpg.PostgresError as error:
            raise CommandFailed(f"the database says: {error}") from error
        finally:
            await connection.close()

    async def _fill(self, connection: Any, output: Output) -> int:
        now = datetime.now(UTC)
        there = await connection.fetchval(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename = ANY($1)", TABLES
        )
        if 0 < there < len(TABLES):
            raise WrongUse("some tables of these names are there already: give a database of its own")
        async with connection.transaction():
            if there:
                if not self.changes:
                    raise WrongUse("the sample database is there already: --changes N changes about so many rows")
                # another seed each time, so that another run changes other rows
                seed = self.seed * 1_000_003 + int(await connection.fetchval("SELECT txid_current() % 1000000"))
                await connection.execute(changes_script(changes=self.changes, seed=seed, at=now))
            else:
                await connection.execute(schema_script())
                await connection.execute(rows_script(accounts=self.accounts, seed=self.seed, at=now))
        rows = {name: await connection.fetchval(f"SELECT count(*) FROM {name}") for name in TABLES}  # noqa: S608 - ours
        output.document({"made": not there, "rows": rows})
        if not output.as_json:
            for name, count in rows.items():
                output.remark(f"{name}: {count:,} rows")
            output.remark("Load them: ACEQUIA_SOURCE_POSTGRES_DSN=<the same> acequia ingest tables")
        return DONE
