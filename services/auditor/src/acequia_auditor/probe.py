"""What only the doctor asks of PostgreSQL. It reads; it does not migrate. Errors carry, as `mend`, what to do."""

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from socket import gaierror

import asyncpg
from asyncpg import exceptions as pg

from acequia.errors import AcequiaError, ConfigurationError, TransientFailure
from acequia.settings import PostgresSettings
from acequia_auditor.connect import ASYNCPG_ERRORS, MIGRATE, query, secured
from acequia_auditor.migrate import migrations

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DatabaseLook:
    version: str
    encoding: str
    clock_ahead: timedelta
    """Of ours; half of the round trip is taken off."""
    missing_migrations: Sequence[str]
    """All of them where there is no schema yet, or none that our role may read."""
    may_migrate: bool
    """Whether our role is the schema's owner, or could make it."""
    may_change: bool
    """Whether our role could change or remove what was recorded. False while the schema is not migrated."""


async def look_at_database(settings: PostgresSettings) -> DatabaseLook:
    """TransientFailure where nobody answers; ConfigurationError where we are refused, or may not look."""
    where = f"{settings.host}:{settings.port}"
    try:
        connection = await asyncpg.connect(
            host=settings.host,
            port=settings.port,
            user=settings.user,
            password=settings.password.get_secret_value() or None,
            database=settings.database,
            ssl=secured(settings.sslmode, settings.ca_file),
            timeout=_SECONDS,
            command_timeout=_SECONDS,
            server_settings={"application_name": "acequia-doctor"},
        )
        try:
            before = datetime.now(UTC)
            server = await connection.fetchrow(query("doctor_server"))
            after = datetime.now(UTC)
            assert server is not None
            state = await connection.fetchrow(query("schema_state"))
            assert state is not None
            applied = await connection.fetch(query("applied_migrations")) if state["may_read"] else ()
            known = {row["name"] for row in applied}
            missing = [name for name, _ in migrations() if name not in known]
            return DatabaseLook(
                version=server["version"],
                encoding=state["encoding"],
                clock_ahead=server["now"] - (before + (after - before) / 2),
                missing_migrations=missing,
                may_migrate=state["may_migrate"],
                may_change=not missing and bool(await connection.fetchval(query("may_change"), None)),
            )
        finally:
            await connection.close(timeout=_SECONDS)
    except ASYNCPG_ERRORS as error:
        raise _told(error, settings, where) from error


def _told(error: Exception, settings: PostgresSettings, where: str) -> AcequiaError:
    user, name = settings.user, settings.database
    said: AcequiaError
    match error:
        case pg.InvalidPasswordError():
            said = ConfigurationError(
                f"PostgreSQL at {where} refuses the user {user!r}: there is none, or PG_PASSWORD is not its password",
                mend=f"set PG_USER and PG_PASSWORD, or on the server: ALTER ROLE {user} PASSWORD '...'",
            )
        case pg.InvalidAuthorizationSpecificationError():
            said = ConfigurationError(
                f"PostgreSQL at {where} lets {user!r} not in: {error}",
                mend=f"create the role (CREATE ROLE {user} LOGIN PASSWORD '...'), or let it in by the server's "
                "pg_hba.conf (host, database, user, address, scram-sha-256)",
            )
        case pg.InvalidCatalogNameError():
            said = ConfigurationError(
                f"PostgreSQL at {where} has no database {name!r}",
                mend=f"on the server: CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0, OWNER the role of "
                "PG_MIGRATION_USER; or set PG_DATABASE",
            )
        case pg.InsufficientPrivilegeError():
            said = ConfigurationError(
                f"the role {user!r} may not look into the database {name!r}: {error}",
                mend=f"on the server: GRANT CONNECT ON DATABASE {name} TO {user}; then `{MIGRATE}`",
            )
        case gaierror():
            said = _away(f"nobody knows the host of PG_HOST={settings.host}")
        case ssl.SSLError():
            said = ConfigurationError(
                f"PostgreSQL at {where}: no TLS connection: {error}", mend="set PG_SSLMODE and PG_CA_FILE"
            )
        case TimeoutError():
            said = _away(f"PostgreSQL at {where} does not answer within {_SECONDS:g} s")
        case OSError():
            said = _away(f"nothing listens at PG_HOST:PG_PORT={where} ({os.strerror(error.errno or 0)})")
        case asyncpg.PostgresError():
            said = TransientFailure(f"PostgreSQL at {where}: {error}", dependency="postgresql")
        case _:
            said = _away(f"{where} does not answer as PostgreSQL does: {error!r}")
    return said


def _away(message: str) -> TransientFailure:
    return TransientFailure(message, dependency="postgresql", away=True)
