"""How PostgreSQL is reached and asked: our queries' texts, and the only place where asyncpg's errors are translated."""

import ssl
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

import asyncpg
from asyncpg import exceptions as pg
from asyncpg.pool import PoolConnectionProxy

from acequia.adapters.tls import trusting, untrusted
from acequia.errors import ConfigurationError, RejectedInput, TransientFailure
from acequia.settings import PostgresSettings, SslMode

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_Asyncpgs: TypeAlias = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

ASYNCPG_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""What a call of asyncpg's may raise; TimeoutError is an OSError."""
MIGRATE = "python -m acequia_auditor migrate"
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
NOT_MIGRATED = (pg.UndefinedTableError, pg.InvalidSchemaNameError, pg.UndefinedColumnError, pg.UndefinedFunctionError)


@cache
def query(name: str) -> str:
    """The text of `queries/<name>.sql`."""
    return (files(__package__) / "queries" / f"{name}.sql").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Address:
    """A database and the role that asks it. `setting`: what the role's settings begin with."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    setting: str = "PG"
    sslmode: SslMode = ""
    ca_file: str = ""

    @classmethod
    def of(cls, settings: PostgresSettings, *, host: str | None = None) -> "Address":
        """Where the role at run time finds its database. `host`: another one, or the folder of the server's socket."""
        password = settings.password.get_secret_value()
        return cls(
            host or settings.host,
            settings.port,
            settings.database,
            settings.user,
            password,
            sslmode=settings.sslmode,
            ca_file=settings.ca_file,
        )

    def by(self, user: str, password: str, *, setting: str) -> "Address":
        """The same database, asked by another role."""
        return replace(self, user=user, password=password, setting=setting)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}/{self.database}"

    @property
    def arguments(self) -> dict[str, Any]:
        """For asyncpg's connect and create_pool."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password or None,
            "database": self.database,
            "ssl": secured(self.sslmode, self.ca_file),
            "timeout": 5,
            # compiling our queries takes longer than running them
            "server_settings": {"application_name": "acequia-auditor", "timezone": "UTC", "jit": "off"},
        }


def secured(sslmode: SslMode, ca_file: str) -> ssl.SSLContext | _Asyncpgs | None:
    """`ssl` of asyncpg's: it knows no CA file by a setting. Raises ConfigurationError where that can't be read."""
    if not ca_file and not sslmode.startswith("verify-"):
        return sslmode or None
    context = trusting(ca_file, "PG_CA_FILE")
    context.check_hostname = sslmode != "verify-ca"
    return context


def translate(error: Exception, at: Address) -> Exception:
    """What follows from an error of asyncpg's: ConfigurationError, TransientFailure or RejectedInput (`unstorable`)."""
    said: Exception
    match error:
        case pg.InvalidAuthorizationSpecificationError():
            said = ConfigurationError(
                f"PostgreSQL refuses {at}: check {at.setting}_USER and {at.setting}_PASSWORD ({error})"
            )
        case pg.InvalidCatalogNameError():
            create = f"CREATE DATABASE {at.database}"
            said = ConfigurationError(
                f"PostgreSQL has no database {at.database!r}: create it ({create}) or set PG_DATABASE", mend=create
            )
        case pg.InsufficientPrivilegeError():
            said = ConfigurationError(
                f"{at} may not do this ({error}): a role at run time gets its rights by `{MIGRATE}`; the role that "
                f"migrates needs the schema acequia to be its own, or GRANT CREATE ON DATABASE {at.database} "
                f"TO {at.user} where there is none yet"
            )
        case pg.ClientConfigurationError():
            said = ConfigurationError(f"PostgreSQL settings: {error}")
        case _ if isinstance(error, _AWAY):
            said = TransientFailure(
                f"PostgreSQL is away ({at}): {error!r}{untrusted(error, 'PG_CA_FILE')}",
                dependency="postgresql",
                away=True,
            )
        case pg.UniqueViolationError():  # another writer was faster: what it wrote is known at the next attempt
            said = TransientFailure(f"PostgreSQL: {error!r}", dependency="postgresql")
        case _ if isinstance(error, _UNSTORABLE):
            said = RejectedInput("unstorable", f"PostgreSQL cannot hold it: {error}")
        case _ if isinstance(error, NOT_MIGRATED):
            said = TransientFailure(f"the schema is gone: {error}", dependency="postgresql")
        case asyncpg.PostgresError():
            said = TransientFailure(f"PostgreSQL: {error!r}", dependency="postgresql")
        case _:
            # asyncpg says so of a connection that was closed, or of a pool that another task has just dropped
            said = TransientFailure(f"lost the connection: {error}", dependency="postgresql", away=True)
    return said
