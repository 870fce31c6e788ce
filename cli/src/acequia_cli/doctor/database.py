"""PostgreSQL, which the auditor alone needs."""

from acequia.settings import PostgresSettings
from acequia_auditor.connect import MIGRATE
from acequia_auditor.probe import DatabaseLook, look_at_database
from acequia_cli.doctor.findings import Chart
from acequia_cli.doctor.here import examine_clock

DATABASE, CLOCK, ENCODING = "database", "database clock", "database encoding"
SCHEMA, ROLE = "database schema", "database role"
AFTER_DATABASE = (CLOCK, ENCODING, SCHEMA, ROLE)
START_POSTGRES = "start PostgreSQL, or set PG_HOST and PG_PORT to its address as this machine reaches it"


async def examine_database(chart: Chart, settings: PostgresSettings) -> None:
    look: DatabaseLook | None = None
    with chart.examining(DATABASE, START_POSTGRES):
        look = await look_at_database(settings)
        chart.ok(DATABASE, f"PostgreSQL {look.version.split()[0]} takes PG_USER, PG_PASSWORD and PG_DATABASE")
    if look is None:
        chart.skip(AFTER_DATABASE, f"{DATABASE} failed")
        return
    examine_clock(chart, CLOCK, look.clock_ahead, "PostgreSQL")
    tell_database(chart, look, settings)


def tell_database(chart: Chart, look: DatabaseLook, settings: PostgresSettings) -> None:
    name, user = settings.database, settings.user
    if look.encoding != "UTF8":
        chart.fail(
            ENCODING,
            f"the database {name!r} is encoded in {look.encoding}, which can not hold every name and reason",
            "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, set PG_DATABASE to it, restart the auditor, run "
            "`acequia audit rebuild`",
        )
    else:
        chart.ok(ENCODING, "UTF8")
    if look.missing_migrations:
        lacks = f"the schema acequia lacks {', '.join(look.missing_migrations)}, or {user!r} may not read it"
        if look.may_migrate:
            chart.fail(SCHEMA, lacks, "start the auditor of this version: it migrates at its start")
        else:
            chart.fail(SCHEMA, lacks, f"run `{MIGRATE}` with PG_MIGRATION_USER, the role that owns the schema acequia")
        chart.skip((ROLE,), f"{SCHEMA} failed")
        return
    chart.ok(SCHEMA, "migrated to this version")
    if look.may_change:
        chart.warn(
            ROLE,
            f"the role {user!r} may change and remove what was recorded",
            f"set PG_MIGRATION_USER to {user}, PG_USER to another role, and run `{MIGRATE}`: that other role may then "
            "read and add, no more",
        )
    else:
        chart.ok(ROLE, f"the role {user!r} may add records, and neither change nor remove them")
