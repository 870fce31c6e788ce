"""The catalog's database and the role that works in it: made by another role, once, and as often as you like."""

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pyiceberg.catalog.sql import SqlCatalogBaseTable
from sqlalchemy import create_engine

from acequia.errors import ConfigurationError, TransientFailure
from acequia_lakehouse.catalog import POSTGRES
from acequia_lakehouse.problems import CATALOG, translated, until_it_holds

LOCK = 0x_ACE_0_1A
"""Key of the advisory lock under which one process at a time prepares."""
TABLES = ("iceberg_tables", "iceberg_namespace_properties")


def prepare_database(catalog_uri: str, owner_uri: str) -> str:
    """Make the database and the role that `catalog_uri` names, and the catalog's tables; what was done.

    The role may read and write those tables' rows, and nothing else: it owns nothing and makes nothing. Raises
    TransientFailure where PostgreSQL is away, ConfigurationError where a person must act.
    """
    if not catalog_uri.startswith(POSTGRES):
        return "the catalog is none of PostgreSQL's: there is nothing to make"
    try:
        ours, owners = conninfo_to_dict(_plain(catalog_uri)), conninfo_to_dict(_plain(owner_uri))
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(f"ACEQUIA_LAKEHOUSE_CATALOG_URI, ACEQUIA_LAKEHOUSE_OWNER_URI: {error}") from error
    role, password, database = (str(ours.get(name) or "") for name in ("user", "password", "dbname"))
    if not (role and database):
        raise ConfigurationError("ACEQUIA_LAKEHOUSE_CATALOG_URI: it names no role or no database")
    if role == owners.get("user"):
        raise ConfigurationError(f"ACEQUIA_LAKEHOUSE_OWNER_URI: {role} is the role at run time: name another one")
    try:
        with psycopg.connect(_plain(owner_uri), autocommit=True, connect_timeout=10) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
            _make_role(connection, role, password)
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone() is None:
                made = sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
                connection.execute(made.format(sql.Identifier(database)))
            there = make_conninfo(_plain(owner_uri), dbname=database)
            _make_tables(there)
            with psycopg.connect(there, autocommit=True, connect_timeout=10) as inside:
                _grant(inside, role, database)
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(f"ACEQUIA_LAKEHOUSE_OWNER_URI: {_said(error)}") from error
    except psycopg.OperationalError as error:
        if "authentication failed" in str(error) or "does not exist" in str(error):
            raise ConfigurationError(f"ACEQUIA_LAKEHOUSE_OWNER_URI: {_said(error)}") from error
        raise TransientFailure(f"PostgreSQL: {_said(error)}", dependency="postgresql", away=True) from error
    return f"{role} may read and write the catalog's tables in {database}"


def _make_role(connection: psycopg.Connection, role: str, password: str) -> None:
    """With this password; where the role is there already, it gets it."""
    there = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is not None
    act = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}" if there else "CREATE ROLE {} LOGIN PASSWORD {}")
    connection.execute(act.format(sql.Identifier(role), sql.Literal(password)))


def _make_tables(uri: str) -> None:
    parts = conninfo_to_dict(uri)
    engine = create_engine("postgresql+psycopg://", connect_args={**parts, "connect_timeout": 10})

    def made() -> None:
        with translated():
            SqlCatalogBaseTable.metadata.create_all(engine)

    try:
        until_it_holds(made, CATALOG)
    finally:
        engine.dispose()


def _grant(connection: psycopg.Connection, role: str, database: str) -> None:
    who, where = sql.Identifier(role), sql.Identifier(database)
    statements: list[sql.SQL | sql.Composed] = [
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(where),
        sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC"),
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(where, who),
        sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(who),
        *(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}").format(sql.Identifier(t), who) for t in TABLES),
    ]
    for statement in statements:
        connection.execute(statement)


def _plain(uri: str) -> str:
    """As libpq spells it: SQLAlchemy names the driver in it."""
    return uri.replace("postgresql+psycopg://", "postgresql://", 1)


def _said(error: Exception) -> str:
    return str(error).partition("\n")[0]
