"""Databases of a test's own on the real PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from acequia.settings import PostgresSettings


async def administer(there: PostgresSettings, statement: str) -> None:
    """Run one statement as the role that owns the server."""
    import asyncpg

    connection = await asyncpg.connect(
        host=there.host,
        port=there.port,
        user=there.user,
        password=there.password.get_secret_value(),
        database=there.database,
    )
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def own_database(there: PostgresSettings) -> AsyncIterator[PostgresSettings]:
    """An empty database, dropped at the end."""
    name = f"t{uuid4().hex[:12]}"
    await administer(there, f"CREATE DATABASE {name}")
    try:
        yield there.model_copy(update={"database": name})
    finally:
        await administer(there, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
