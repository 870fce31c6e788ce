"""The schema and who may do what in it: migrations by the role that owns it, and the rights of the role at run time."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files

import asyncpg
from asyncpg import exceptions as pg

from acequia.errors import ConfigurationError, TransientFailure
from acequia.settings import PostgresSettings
from acequia_auditor.connect import ASYNCPG_ERRORS, MIGRATE, Address, Connection, query, translate
from acequia_auditor.settings import MigrationSettings

log = logging.getLogger(__name__)

MIGRATION_LOCK = 0x_ACE_0_0A
"""Key of the advisory lock under which one process at a time migrates."""
MIGRATION_SECONDS = 86_400.0
"""A migration may read the whole table."""


def migrations() -> list[tuple[str, str]]:
    """Name and text of each migration, in the order in which they are applied."""
    folder = files(__package__) / "migrations"
    return sorted((f.name, f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.name.endswith(".sql"))


async def prepare(connection: Connection, at: Address) -> None:
    """Before anything is asked of a database: bring the schema up to date if this role owns it.

    Raises TransientFailure where it is not up to date and another role has to do it, and ConfigurationError where
    text is not stored as UTF-8.
    """
    state = await _look(connection, at)
    if state["may_migrate"]:
        async with connection.transaction():
            await apply_migrations(connection)
        log.warning(
            "%s owns the schema acequia, and so could change the audit trail: give migrations a role of their own "
            "(PG_MIGRATION_USER)",
            at,
        )
        return
    applied = await connection.fetch(query("applied_migrations")) if state["may_read"] else []
    if missing := _missing(applied):
        raise TransientFailure(
            f"not migrated: {at.database} lacks {', '.join(missing)} and {at.user} may not migrate: run `{MIGRATE}` "
            "with PG_MIGRATION_USER, the role that owns the schema acequia",
            dependency="postgresql",
        )


async def bring_up_to_date(settings: PostgresSettings, migration: MigrationSettings, *, host: str | None = None) -> str:
    """Migrate, and see to it that PG_USER exists and may read and add records, but nothing else; what was done.

    By PG_MIGRATION_USER, or by PG_USER itself where that is not set: then nothing is granted. Raises TransientFailure
    where PostgreSQL is away, ConfigurationError where a person must act.
    """
    runtime = Address.of(settings, host=host)
    if not migration.user or migration.user == runtime.user:
        owner = runtime
    else:
        password = migration.password.get_secret_value()
        owner = runtime.by(migration.user, password, setting="PG_MIGRATION")
    try:
        connection = await asyncpg.connect(**owner.arguments)
        try:
            await _look(connection, owner)
            async with connection.transaction():
                applied = await apply_migrations(connection)
            done = f"{owner.database} is up to date ({len(applied)} migrations applied)"
            if owner is runtime:
                return f"{done}; {owner.user} owns it, and so could change the audit trail: set PG_MIGRATION_USER"
            await _make_role(connection, runtime)
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
                await connection.execute(query("name_runtime_role"), runtime.user)
                await connection.execute(query("grant_runtime"))
            await _set_password(connection, runtime)
            may_change = await connection.fetchval(query("may_change"), runtime.user)
        finally:
            with suppress(*ASYNCPG_ERRORS):
                await connection.close(timeout=5)
    except ASYNCPG_ERRORS as error:
        raise translate(error, owner) from error
    if may_change:
        log.warning(
            "%s could change the audit trail all the same: it is a superuser, a member of %s, or has rights from "
            "somebody else or from PUBLIC; take those from it",
            runtime.user,
            owner.user,
        )
        return f"{done}; {runtime.user} could change the audit trail"
    return f"{done}; {runtime.user} may read, and add records"


async def apply_migrations(connection: Connection) -> list[str]:
    """Bring schema `acequia` up to date, in the connection's transaction; what was applied. One process at a time."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
    await connection.execute(query("begin_schema"))
    missing = _missing(await connection.fetch(query("applied_migrations")))
    for name, text in migrations():
        if name in missing:
            await connection.execute(text, timeout=MIGRATION_SECONDS)
            await connection.execute(query("record_migration"), name)
    await connection.execute(query("offer_ingestion_events"))
    return missing


def _missing(applied: Sequence[asyncpg.Record]) -> list[str]:
    known = {row["name"] for row in applied}
    return [name for name, _ in migrations() if name not in known]


async def _look(connection: Connection, at: Address) -> asyncpg.Record:
    state = await connection.fetchrow(query("schema_state"))
    assert state is not None
    if state["encoding"] != "UTF8":
        create = f"CREATE DATABASE {at.database} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        raise ConfigurationError(
            f"the database {at.database!r} stores text as {state['encoding']}, in which not every name can be written: "
            f"make another one ({create})",
            mend=create,
        )
    return state


async def _make_role(connection: Connection, runtime: Address) -> None:
    found = await connection.fetchrow(query("find_role"), runtime.user)
    assert found is not None
    if found["there"]:
        return
    if not found["may_make_roles"]:
        create = f"CREATE ROLE {runtime.user} LOGIN PASSWORD '...'"
        raise ConfigurationError(
            f"there is no role {runtime.user!r}, and the role that migrates may not make it: run {create}; "
            "with the password that PG_PASSWORD says, then migrate again",
            mend=create,
        )
    statement = await connection.fetchval(query("create_role_statement"), runtime.user, runtime.password)
    try:
        await connection.execute(statement)
    except (pg.DuplicateObjectError, pg.UniqueViolationError):
        log.info("another process has just made the role %s", runtime.user)


async def _set_password(connection: Connection, runtime: Address) -> None:
    """Where the role is refused with its password, it gets it, if we may do that. Else it is told when it connects."""
    try:
        probe = await asyncpg.connect(**runtime.arguments)
    except pg.InvalidAuthorizationSpecificationError:
        found = await connection.fetchrow(query("find_role"), runtime.user)
        assert found is not None
        if found["may_make_roles"] and not found["is_superuser"]:
            statement = await connection.fetchval(query("set_password_statement"), runtime.user, runtime.password)
            await connection.execute(statement)
    else:
        await probe.close(timeout=5)
