import asyncio

import asyncpg
import pytest
from pydantic import SecretStr

from acequia.errors import ConfigurationError, RejectedInput, TransientFailure
from acequia.layers import Layer
from acequia_auditor.database import Database, open_database
from acequia_auditor.migrate import migrations
from acequia_auditor.write import store_records

OLD_QUERY = "SELECT * FROM ingestion_events ORDER BY id DESC LIMIT 10;"


async def connect(settings):
    return await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password=settings.password.get_secret_value() or None,
        database=settings.database,
    )


@pytest.fixture
async def connection(settings):
    connection = await connect(settings)
    yield connection
    await connection.close()


async def test_migrations_apply_once_however_often_and_by_however_many_the_service_starts(settings, connection):
    opened = await asyncio.gather(*(open_database(settings) for _ in range(4)))
    opened.append(await open_database(settings))
    try:
        assert all(database.ready for database in opened)
        applied = await connection.fetch("SELECT name FROM acequia.migrations ORDER BY name")
        assert [row["name"] for row in applied] == [name for name, _ in migrations()]
    finally:
        await asyncio.gather(*(database.close() for database in opened))


async def test_everything_but_the_view_of_the_predecessors_lies_in_our_schema(database, connection):
    rows = await connection.fetch(
        "SELECT relname, relkind::text AS kind FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    )
    assert [(row["relname"], row["kind"]) for row in rows] == [("ingestion_events", "v")]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE ingestion_events (id int, mine text); INSERT INTO ingestion_events VALUES (1, 'kept')",
        "CREATE VIEW ingestion_events AS SELECT 1 AS id, 'kept' AS mine",
        "CREATE MATERIALIZED VIEW ingestion_events AS SELECT 1 AS id, 'kept' AS mine",
    ],
)
async def test_another_relation_of_the_predecessors_name_is_left_alone(settings, connection, statement):
    await connection.execute(statement)
    database = await open_database(settings)
    await database.close()
    assert database.problem is None
    assert [dict(row) for row in await connection.fetch(OLD_QUERY)] == [{"id": 1, "mine": "kept"}]


async def test_a_foreign_table_of_the_predecessors_name_is_left_alone(settings, connection):
    await connection.execute(
        "CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER there FOREIGN DATA WRAPPER elsewhere; "
        "CREATE FOREIGN TABLE ingestion_events (id int) SERVER there"
    )
    database = await open_database(settings)
    await database.close()
    kind = await connection.fetchval("SELECT relkind::text FROM pg_class WHERE oid = 'ingestion_events'::regclass")
    assert (kind, database.problem) == ("f", None)


async def test_the_predecessors_query_lists_each_raw_object_and_each_refused_source(database, connection, tale):
    good, bad, again = tale(), tale(), tale()
    landing = good.obj(Layer.LANDING, "network_events/a b.log")
    await store_records(
        database,
        [
            good.accepted(file="a b.log"),
            good.ingested(10, 5, unparsable=1, inputs=(landing,)),
            bad.accepted(file="bad.csv"),
            bad.source_rejected(7),
            again.accepted(file="copy.log"),
            again.same_content(good.run_id),
        ],
    )
    rows = await connection.fetch(OLD_QUERY)
    assert list(rows[0].keys()) == [
        "id",
        "timestamp_ingesta",
        "nombre_archivo",
        "ruta_minio",
        "num_registros",
        "estado",
    ]
    told = {(row["nombre_archivo"], row["num_registros"], row["estado"]) for row in rows}
    assert told == {
        (f"{good.part(1)}.parquet", 10, "SUCCESS"),
        (f"{good.part(2)}.parquet", 5, "SUCCESS"),
        ("bad.csv", 7, "REJECTED"),
        ("copy.log", 0, "SAME_CONTENT"),
    }
    assert len({row["id"] for row in rows}) == 4
    paths = {row["ruta_minio"] for row in rows if row["estado"] == "SUCCESS"}
    assert paths == {good.raw(1).uri.removeprefix("s3://"), good.raw(2).uri.removeprefix("s3://")}


async def test_a_missing_database_is_told_with_what_to_do(settings):
    with pytest.raises(ConfigurationError, match="CREATE DATABASE nowhere"):
        await open_database(settings.model_copy(update={"database": "nowhere"}))


async def test_a_user_that_is_refused_is_told_with_the_settings_to_check(settings):
    wrong = settings.model_copy(update={"user": "nobody_of_ours", "password": SecretStr("wrong")})
    with pytest.raises(ConfigurationError, match="PG_USER and PG_PASSWORD"):
        await open_database(wrong)


async def test_a_server_that_is_away_at_the_start_stops_nothing_and_is_found_when_it_comes(settings, until):
    there, settings = settings, settings.model_copy(update={"host": "127.0.0.1", "port": 1})
    database = await open_database(settings)
    try:
        assert not database.ready
        with pytest.raises(TransientFailure) as raised:
            await database.check()
        assert (raised.value.dependency, raised.value.away) == ("postgresql", True)
        database._host, database._settings = there.host, there  # the server comes
        await until(lambda: database.ready)
        await database.check()
    finally:
        await database.close()


async def test_a_value_that_postgresql_cannot_hold_is_the_inputs_fault(database):
    with pytest.raises(RejectedInput, match="unstorable"):
        async with database.transaction() as connection:
            await connection.execute("SELECT 'x'::text::integer")
    assert database.ready


async def test_a_schema_that_was_dropped_behind_our_back_is_made_again(database, connection, tale):
    await connection.execute("DROP SCHEMA acequia CASCADE")
    with pytest.raises(TransientFailure):
        await store_records(database, [tale().accepted()])
    assert await store_records(database, [tale().accepted()]) == 1


async def test_a_database_is_not_touched_before_it_is_asked(settings):
    database = Database(settings)
    assert not database.ready
    await database.close()
