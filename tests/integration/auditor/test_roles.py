"""At run time the auditor's role only reads and adds; another role owns the schema and migrates."""

import asyncio
import os
import subprocess
import sys
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from acequia.datasets import load_registry
from acequia.errors import ConfigurationError, TransientFailure
from acequia.events import ObjectCreated, to_notification
from acequia.layers import Layer
from acequia.ports import Ack, Delivery, Message
from acequia.runner import Workshop
from acequia.topology import AUDIT, dead_queue
from acequia_auditor.act import Desk, WhyDiscarded
from acequia_auditor.database import Database, open_database
from acequia_auditor.dead_letters import DeadLetterWriter, State
from acequia_auditor.migrate import bring_up_to_date, migrations
from acequia_auditor.probe import look_at_database
from acequia_auditor.service import AuditorService
from acequia_auditor.settings import AuditorSettings, MigrationSettings
from acequia_auditor.verify import verify_chain
from acequia_auditor.write import store_records


@pytest.fixture
async def roles(settings, connect):
    """Names for roles of the test's own; who was made is dropped at the end."""
    names = [f"r{uuid4().hex[:10]}" for _ in range(2)]
    yield names
    connection = await connect(settings)
    for name in names:
        if await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", name):
            await connection.execute(f"DROP OWNED BY {name}")
            await connection.execute(f"DROP ROLE {name}")
    await connection.close()


@pytest.fixture
def owner(settings):
    return MigrationSettings(user=settings.user, password=settings.password)


@pytest.fixture
def runtime(settings, roles):
    """The settings of the role at run time, which is not there yet."""
    return settings.model_copy(update={"user": roles[0], "password": SecretStr("secret")})


async def test_the_role_at_run_time_is_made_and_does_all_that_the_auditor_does(
    runtime, owner, store, bus, buckets, tale
):
    database = await open_database(runtime, migration=owner)
    try:
        one = tale()
        assert await store_records(database, [one.accepted(), one.ingested(10), one.transformed()]) == 3
        assert await store_records(database, [one.accepted()]) == 0
        event = ObjectCreated(layer=Layer.RAW, bucket=buckets.of(Layer.RAW), key="x.parquet", etag="e")
        dead = Delivery(dead_queue("transformer"), Message(to_notification(event), message_id="m"))
        assert await DeadLetterWriter(database, store, buckets=buckets).handle(dead) == Ack()
        desk = Desk(database, store, bus, buckets)
        (letter,) = (await desk.page()).dead_letters
        assert (await desk.discard(letter.id, WhyDiscarded(reason="old"))).state is State.DISCARDED
        service = AuditorService(Workshop(store, bus, buckets, load_registry()), database, AuditorSettings())
        await service.anchor()
        *_, last = [line async for line in verify_chain(database, store)]
        assert (last["result"]["ok"], last["result"]["anchors"]) == (True, 1)
    finally:
        await database.close()


TABLES = (
    *("audit_events", "event_objects", "artifacts", "runs", "chains"),
    *("dead_letters", "dead_letter_acts", "migrations"),
)


@pytest.mark.parametrize("table", TABLES)
async def test_the_role_at_run_time_may_change_remove_or_empty_nothing(runtime, owner, connect, tale, table):
    database = await open_database(runtime, migration=owner)
    await store_records(database, [tale().ingested(1)])
    await database.close()
    connection = await connect(runtime)
    try:
        column = await connection.fetchval(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'acequia' AND table_name = $1",
            table,
        )
        for statement in (
            f"UPDATE acequia.{table} SET {column} = {column}",
            f"DELETE FROM acequia.{table}",
            f"TRUNCATE acequia.{table} CASCADE",
            f"DROP TABLE acequia.{table} CASCADE",
            f"ALTER TABLE acequia.{table} DISABLE TRIGGER ALL",
            f"CREATE TRIGGER mine BEFORE INSERT ON acequia.{table} EXECUTE FUNCTION tsvector_update_trigger()",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE TABLE acequia.mine ()")
    finally:
        await connection.close()


async def test_rights_that_somebody_gave_are_taken_back_by_the_next_migration(runtime, owner, settings, connect):
    await bring_up_to_date(runtime, owner)
    connection = await connect(settings)
    for what in (
        "ALL ON ALL TABLES IN SCHEMA acequia",
        "UPDATE (hash) ON acequia.audit_events",
        "ALL ON ALL SEQUENCES IN SCHEMA acequia",
        "ALL ON SCHEMA acequia",
    ):
        await connection.execute(f"GRANT {what} TO {runtime.user}")
    await bring_up_to_date(runtime, owner)
    for asked in (
        "has_table_privilege($1, 'acequia.audit_events', 'UPDATE')",
        "has_any_column_privilege($1, 'acequia.audit_events', 'UPDATE')",
        "has_sequence_privilege($1, 'acequia.numbers', 'UPDATE')",
        "has_schema_privilege($1, 'acequia', 'CREATE')",
    ):
        assert not await connection.fetchval(f"SELECT {asked}", runtime.user), asked
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "GRANT {owner} TO {role}",
        "GRANT UPDATE (hash) ON acequia.audit_events TO PUBLIC",
        "GRANT DELETE ON acequia.dead_letter_acts TO PUBLIC",
        "GRANT TRUNCATE ON acequia.runs TO PUBLIC",
        "GRANT UPDATE ON acequia.artifacts TO {other}; GRANT {other} TO {role}",
    ],
)
async def test_a_role_that_could_change_records_all_the_same_is_told(
    runtime, owner, settings, connect, roles, statement, caplog
):
    assert "may read, and add records" in await bring_up_to_date(runtime, owner)
    assert not (await look_at_database(runtime)).may_change
    connection = await connect(settings)
    try:
        await connection.execute(f"CREATE ROLE {roles[1]}")
        await connection.execute(statement.format(owner=owner.user, role=runtime.user, other=roles[1]))
        assert not [r for r in caplog.records if "all the same" in r.message]
        assert (await bring_up_to_date(runtime, owner)).endswith(f"{runtime.user} could change the audit trail")
        assert [r for r in caplog.records if "all the same" in r.message]
        assert (await look_at_database(runtime)).may_change
    finally:
        await connection.close()


async def test_who_lacks_the_database_is_not_told_to_give_it_to_the_role_at_run_time(settings):
    with pytest.raises(ConfigurationError, match="no database 'nowhere'") as raised:
        await look_at_database(settings.model_copy(update={"database": "nowhere"}))
    assert "CREATE DATABASE nowhere ENCODING 'UTF8'" in raised.value.mend
    assert f"OWNER {settings.user}" not in raised.value.mend
    assert "OWNER the role of PG_MIGRATION_USER" in raised.value.mend


async def test_a_role_that_may_not_migrate_waits_and_says_what_to_run(runtime, owner, settings, connect, until, tale):
    connection = await connect(settings)
    await connection.execute(f"CREATE ROLE {runtime.user} LOGIN PASSWORD 'secret'")
    await connection.close()
    database = await open_database(runtime)
    try:
        with pytest.raises(TransientFailure, match=r"not migrated: .* run `python -m acequia_auditor migrate`"):
            await database.check()
        assert not database.ready
        await bring_up_to_date(runtime, owner)
        await until(lambda: database.ready)
        assert await store_records(database, [tale().accepted()]) == 1
    finally:
        await database.close()


async def test_an_auditor_that_waits_for_the_migration_says_so_in_ready_and_stores_what_came_meanwhile(
    runtime, owner, settings, connect, store, bus, buckets, deliver, tale, until
):
    connection = await connect(settings)
    await connection.execute(f"CREATE ROLE {runtime.user} LOGIN PASSWORD 'secret'")
    await connection.close()
    database = Database(runtime)
    service = AuditorService(Workshop(store, bus, buckets, load_registry()), database, AuditorSettings())
    await service.start()
    try:
        with pytest.raises(TransientFailure, match="not migrated"):
            await service.check()
        await bus.publish(AUDIT, "accepted", deliver(tale().accepted()).message)
        await bring_up_to_date(runtime, owner)
        await until(lambda: service._writer.stored == 1)
        await service.check()
    finally:
        await service.stop(1)


def run_once(settings, *arguments, **more):
    env = {
        "PATH": os.environ["PATH"],
        "PG_HOST": settings.host,
        "PG_PORT": str(settings.port),
        "PG_DATABASE": settings.database,
        "PG_USER": settings.user,
        "PG_PASSWORD": settings.password.get_secret_value(),
    }
    command = [sys.executable, "-m", "acequia_auditor", *arguments]
    return subprocess.run(command, env=env | more, check=False, capture_output=True, text=True)


async def test_migrating_is_one_command_that_can_be_given_again(runtime, owner, connect):
    migration = {
        "PG_MIGRATION_USER": owner.user,
        "PG_MIGRATION_PASSWORD": owner.password.get_secret_value(),
    }
    for applied in (len(migrations()), 0):
        done = await asyncio.to_thread(run_once, runtime, "migrate", **migration)
        assert done.returncode == 0, done.stderr
        assert f"up to date ({applied} migrations applied); {runtime.user} may read, and add records" in done.stderr
    connection = await connect(runtime)
    assert await connection.fetchval("SELECT count(*) FROM acequia.audit_events") == 0
    await connection.close()


async def test_migrating_without_the_settings_it_needs_ends_with_one_line(runtime):
    nowhere = runtime.model_copy(update={"database": "nowhere"})
    ended = await asyncio.to_thread(run_once, nowhere, "migrate")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    ended = await asyncio.to_thread(run_once, runtime, "migrate", PG_PORT="many")
    assert (ended.returncode, "PG_PORT" in ended.stderr) == (2, True)
    ended = await asyncio.to_thread(run_once, runtime, "migrat")
    assert (ended.returncode, "usage" in ended.stderr) == (1, True)


async def test_a_schema_that_lacks_the_newest_migration_is_waited_for(runtime, owner, settings, connect):
    await bring_up_to_date(runtime, owner)
    connection = await connect(settings)
    last = await connection.fetchval("DELETE FROM acequia.migrations WHERE name LIKE '0004%' RETURNING name")
    await connection.close()
    database = Database(runtime)
    with pytest.raises(TransientFailure, match=f"lacks {last}"):
        await database.open()
    await database.close()


async def test_a_user_that_owns_the_schema_migrates_by_itself_with_a_warning(settings, caplog):
    database = await open_database(settings)
    await database.close()
    assert database.ready
    (warning,) = [r for r in caplog.records if "owns the schema" in r.message]
    assert "PG_MIGRATION_USER" in warning.message


async def test_a_role_that_may_not_make_roles_says_which_to_make(settings, connect, roles):
    connection = await connect(settings)
    await connection.execute(f"CREATE ROLE {roles[1]} LOGIN PASSWORD 'weak'")
    await connection.execute(f"GRANT CREATE ON DATABASE {settings.database} TO {roles[1]}")
    runtime = settings.model_copy(update={"user": roles[0], "password": SecretStr("secret")})
    migration = MigrationSettings(user=roles[1], password=SecretStr("weak"))
    with pytest.raises(ConfigurationError, match=f"run CREATE ROLE {roles[0]} LOGIN") as raised:
        await bring_up_to_date(runtime, migration)
    assert "secret" not in str(raised.value)
    await connection.execute(f"CREATE ROLE {roles[0]} LOGIN PASSWORD 'secret'")
    await connection.close()
    await bring_up_to_date(runtime, migration)
    database = Database(runtime)
    await database.open()
    await database.close()


async def test_a_role_that_may_not_migrate_at_all_is_told_what_it_needs(settings, connect, roles):
    connection = await connect(settings)
    await connection.execute(f"CREATE ROLE {roles[1]} LOGIN PASSWORD 'weak'")
    await connection.close()
    with pytest.raises(ConfigurationError, match="GRANT CREATE ON DATABASE"):
        await bring_up_to_date(settings, MigrationSettings(user=roles[1], password=SecretStr("weak")))


async def test_a_changed_password_reaches_the_role(runtime, owner, server, connect):
    if "/" in server.settings.host:
        pytest.skip("the embedded server asks for no password")
    await bring_up_to_date(runtime, owner)
    changed = runtime.model_copy(update={"password": SecretStr("another one, with 'quotes'")})
    with pytest.raises(ConfigurationError, match="check PG_USER and PG_PASSWORD"):
        await open_database(changed)
    await bring_up_to_date(changed, owner)
    await (await connect(changed)).close()


async def test_a_wrong_password_of_the_migrating_role_is_told_by_its_setting(runtime, server):
    if "/" in server.settings.host:
        pytest.skip("the embedded server asks for no password")
    wrong = MigrationSettings(user="nobody_of_ours", password=SecretStr("wrong"))
    with pytest.raises(ConfigurationError, match="PG_MIGRATION_USER and PG_MIGRATION_PASSWORD"):
        await bring_up_to_date(runtime, wrong)


async def test_several_that_migrate_at_once_make_one_role(runtime, owner):
    databases = await asyncio.gather(*(open_database(runtime, migration=owner) for _ in range(4)))
    assert all(database.ready for database in databases)
    await asyncio.gather(*(database.close() for database in databases))


async def test_the_predecessors_query_works_for_the_role_at_run_time(runtime, owner, connect):
    await bring_up_to_date(runtime, owner)
    connection = await connect(runtime)
    assert await connection.fetch("SELECT * FROM ingestion_events ORDER BY id DESC LIMIT 10;") == []
    await connection.close()


async def test_a_database_that_cannot_hold_every_name_is_refused_with_what_to_do(settings, connect):
    connection = await connect(settings)
    name = f"{settings.database}_ascii"
    await connection.execute(
        f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        with pytest.raises(ConfigurationError, match=r"SQL_ASCII.*ENCODING 'UTF8'"):
            await open_database(settings.model_copy(update={"database": name}))
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()
