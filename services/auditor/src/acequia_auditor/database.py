"""The audit database: one pool, migrations at the start, and the only place where asyncpg's errors are translated."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

import asyncpg
from asyncpg import exceptions as pg
from asyncpg.pool import PoolConnectionProxy

from acequia.errors import ConfigurationError, RejectedInput, TransientFailure
from acequia.settings import PostgresSettings

log = logging.getLogger(__name__)

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

MIGRATION_LOCK = 0x_ACE_0_0A
"""Key of the advisory lock under which one process at a time migrates."""
RETRY_FIRST, RETRY_MOST = 0.1, 5.0
"""Seconds between attempts while PostgreSQL is away: doubled from the first to the most."""
_AWAY = (
    pg.PostgresConnectionError,
    pg.CannotConnectNowError,
    pg.TooManyConnectionsError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.IdleSessionTimeoutError,
    pg.ReadOnlySQLTransactionError,
    pg.InternalClientError,
    OSError,
    TimeoutError,
    EOFError,
)
_UNSTORABLE = (pg.DataError, pg.IntegrityConstraintViolationError, pg.ProgramLimitExceededError)
_NOT_MIGRATED = (pg.UndefinedTableError, pg.InvalidSchemaNameError, pg.UndefinedColumnError)


@cache
def query(name: str) -> str:
    """The text of `queries/<name>.sql`."""
    return (files(__package__) / "queries" / f"{name}.sql").read_text(encoding="utf-8")


def migrations() -> list[tuple[str, str]]:
    """Name and text of each migration, in the order in which they are applied."""
    folder = files(__package__) / "migrations"
    return sorted((f.name, f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.name.endswith(".sql"))


class Database:
    """A pool to PostgreSQL that may be away, now or at the start.

    Each method raises TransientFailure (`away=True`: nobody answers), RejectedInput (`unstorable`: PostgreSQL cannot
    hold this value) and ConfigurationError where a person must act.
    """

    def __init__(self, settings: PostgresSettings, *, host: str | None = None, pool_size: int = 8) -> None:
        self._settings = settings
        self._host = host or settings.host
        self._pool_size = pool_size
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()
        self._starter: asyncio.Task[None] | None = None
        self._problem: Exception | None = TransientFailure("not connected yet", dependency="postgresql", away=True)

    @property
    def ready(self) -> bool:
        """Whether the last thing asked of PostgreSQL was answered."""
        return self._problem is None

    @property
    def problem(self) -> Exception | None:
        """What is wrong, where it is not `ready`."""
        return self._problem

    def start(self) -> None:
        """Go on trying, in the background, until it is connected and migrated."""
        if self._starter is None or self._starter.done():
            self._starter = asyncio.create_task(self._start(), name="auditor: open the database")

    async def _start(self) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                await self.open()
            except (TransientFailure, ConfigurationError) as error:
                log.warning("the audit database cannot be opened: %s; trying again in %.1f s", error, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_MOST)
            else:
                return

    async def open(self) -> None:
        """Connect and migrate, once; nothing where that is done."""
        async with self._opening:
            if self._pool is not None:
                return
            with self._translated():
                pool = await asyncpg.create_pool(
                    host=self._host,
                    port=self._settings.port,
                    user=self._settings.user,
                    password=self._settings.password.get_secret_value() or None,
                    database=self._settings.database,
                    min_size=1,
                    max_size=self._pool_size,
                    timeout=5,
                    command_timeout=60,
                    max_inactive_connection_lifetime=60,
                    # compiling our queries takes longer than running them
                    server_settings={"application_name": "acequia-auditor", "timezone": "UTC", "jit": "off"},
                )
                try:
                    async with pool.acquire(timeout=10) as connection, connection.transaction():
                        await _migrate(connection)
                except BaseException:
                    pool.terminate()
                    raise
            self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction, committed at the end."""
        await self.open()
        pool = self._pool
        assert pool is not None
        with self._translated():
            async with pool.acquire(timeout=10) as connection, connection.transaction():
                yield connection

    async def fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        """The rows that `queries/<name>.sql` gives."""
        await self.open()
        pool = self._pool
        assert pool is not None
        with self._translated():
            async with pool.acquire(timeout=10) as connection:
                return list(await connection.fetch(query(name), *arguments))

    async def check(self) -> None:
        """Return if PostgreSQL answers; raise what is wrong otherwise."""
        await self.fetch("ping")

    async def close(self) -> None:
        if self._starter is not None:
            self._starter.cancel()
            with suppress(asyncio.CancelledError):
                await self._starter
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), timeout=5)
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.info("the pool was not closed in good order: %s", error)
                pool.terminate()

    def _forget_schema(self) -> None:
        """Another, empty database answers at the same address: connect anew, which migrates it."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError) as error:
            said = self._translate(error)
            if not isinstance(said, RejectedInput):
                self._problem = said
            raise said from error
        else:
            self._problem = None

    def _translate(self, error: Exception) -> Exception:
        name, user = self._settings.database, self._settings.user
        where = f"{user}@{self._host}:{self._settings.port}/{name}"
        said: Exception
        match error:
            case pg.InvalidAuthorizationSpecificationError():
                said = ConfigurationError(f"PostgreSQL refuses {where}: check PG_USER and PG_PASSWORD ({error})")
            case pg.InvalidCatalogNameError():
                said = ConfigurationError(
                    f"PostgreSQL has no database {name!r}: create it (CREATE DATABASE {name}) or set PG_DATABASE"
                )
            case pg.InsufficientPrivilegeError():
                said = ConfigurationError(
                    f"{where} may not do this: GRANT CREATE ON DATABASE {name} TO {user}, "
                    f"or make {user} the owner of the schema acequia ({error})"
                )
            case pg.ClientConfigurationError():
                said = ConfigurationError(f"PostgreSQL settings: {error}")
            case _ if isinstance(error, _AWAY):
                said = TransientFailure(f"PostgreSQL is away ({where}): {error!r}", dependency="postgresql", away=True)
            case _ if isinstance(error, _UNSTORABLE):
                said = RejectedInput("unstorable", f"PostgreSQL cannot hold it: {error}")
            case _ if isinstance(error, _NOT_MIGRATED):
                self._forget_schema()
                said = TransientFailure(f"the schema is gone: {error}", dependency="postgresql")
            case asyncpg.PostgresError():
                said = TransientFailure(f"PostgreSQL: {error!r}", dependency="postgresql")
            case _:
                # asyncpg says so of a connection that was closed, or of a pool that another task has just dropped
                said = TransientFailure(f"lost the connection: {error}", dependency="postgresql", away=True)
        return said


async def open_database(settings: PostgresSettings, *, host: str | None = None) -> Database:
    """Connect to `settings` (`host`: a folder with the server's socket, instead) and migrate.

    Where PostgreSQL is away the database comes back not `ready` and goes on trying. ConfigurationError where a
    person must act.
    """
    database = Database(settings, host=host)
    try:
        await database.open()
    except TransientFailure as error:
        log.warning("%s", error)
        database.start()
    return database


async def _migrate(connection: Connection) -> None:
    """Bring schema `acequia` up to date, in the connection's transaction. Idempotent; one process at a time."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
    if await connection.fetchval(query("schema_is_missing")):
        await connection.execute(query("begin_schema"))
    applied: Sequence[Any] = await connection.fetch(query("applied_migrations"))
    known = {row["name"] for row in applied}
    for name, text in migrations():
        if name not in known:
            await connection.execute(text)
            await connection.execute(query("record_migration"), name)
    await connection.execute(query("offer_ingestion_events"))
