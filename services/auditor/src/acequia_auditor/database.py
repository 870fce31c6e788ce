"""The audit database: one pool, brought up to date before it is used."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import asyncpg

from acequia.errors import ConfigurationError, RejectedInput, TransientFailure
from acequia.settings import PostgresSettings
from acequia_auditor.chain import Anchor
from acequia_auditor.connect import ASYNCPG_ERRORS, NOT_MIGRATED, Address, Connection, query, translate
from acequia_auditor.migrate import bring_up_to_date, prepare
from acequia_auditor.settings import MigrationSettings

log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.1, 5.0
"""Seconds between attempts while PostgreSQL is away: doubled from the first to the most."""


async def _no_anchor() -> Anchor | None:
    return None


class Database:
    """A pool to PostgreSQL that may be away, now or at the start.

    Each method raises TransientFailure (`away=True`: nobody answers), RejectedInput (`unstorable`: PostgreSQL cannot
    hold this value) and ConfigurationError where a person must act.

    `migration`: the role that owns the schema, where it is known here; else PG_USER migrates if it owns it, and waits
    for `migrate` if it does not.
    """

    earlier: Callable[[], Awaitable[Anchor | None]]
    """Asked when a chain begins here: the last anchored head of an earlier one, which the new one has to name."""

    def __init__(
        self,
        settings: PostgresSettings,
        *,
        migration: MigrationSettings | None = None,
        host: str | None = None,
        pool_size: int = 8,
    ) -> None:
        self._settings = settings
        self._migration = migration or MigrationSettings(user="")
        self._host = host or settings.host
        self._pool_size = pool_size
        self.earlier = _no_anchor
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()
        self._starter: asyncio.Task[None] | None = None
        self._problem: Exception | None = TransientFailure("not connected yet", dependency="postgresql", away=True)

    @property
    def _address(self) -> Address:
        return Address.of(self._settings, host=self._host)

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
            try:
                self._pool = await self._connect()
            except (TransientFailure, ConfigurationError) as error:
                self._problem = error
                raise

    async def _connect(self) -> "asyncpg.Pool[asyncpg.Record]":
        with self._translated():
            if self._migration.user:
                log.info("%s", await bring_up_to_date(self._settings, self._migration, host=self._host))
            at = self._address
            pool = await asyncpg.create_pool(
                **at.arguments,
                min_size=1,
                max_size=self._pool_size,
                command_timeout=60,
                max_inactive_connection_lifetime=60,
            )
            try:
                async with pool.acquire(timeout=10) as connection:
                    await prepare(connection, at)
            except BaseException:
                pool.terminate()
                raise
        return pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction, committed at the end."""
        await self.open()
        pool = self._pool
        assert pool is not None
        with self._translated():
            # each statement has to see what was committed while it waited for the chain's lock
            async with pool.acquire(timeout=10) as connection, connection.transaction(isolation="read_committed"):
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
            except ASYNCPG_ERRORS as error:
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
        except ASYNCPG_ERRORS as error:
            said = translate(error, self._address)
            if isinstance(error, NOT_MIGRATED):
                self._forget_schema()
            if not isinstance(said, RejectedInput):
                self._problem = said
            raise said from error
        else:
            self._problem = None


async def open_database(
    settings: PostgresSettings, *, migration: MigrationSettings | None = None, host: str | None = None
) -> Database:
    """Connect to `settings` (`host`: a folder with the server's socket, instead), brought up to date.

    Where PostgreSQL is away the database comes back not `ready` and goes on trying. ConfigurationError where a
    person must act.
    """
    database = Database(settings, migration=migration, host=host)
    try:
        await database.open()
    except TransientFailure as error:
        log.warning("%s", error)
        database.start()
    return database
