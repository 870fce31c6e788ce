"""What is checked of each load, what follows; columns that come, go and change; and what goes wrong at the source."""

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import polars as pl
import pytest
from pydantic import SecretStr

from acequia.datasets import VERSION, Check, Dataset, OnChange, OnFailure, Table
from acequia.datasets._table import Column, table_dataset
from acequia.errors import RejectedInput
from acequia.events import META_BLOCKED, META_LOAD, Kind, Status
from acequia.layers import Layer
from acequia.ports import Ack, Retry
from acequia_ingestor.settings import IngestorSettings
from acequia_ingestor.sources.postgres import PostgresSource, datasets
from acequia_ingestor.tables import extract, load

from .conftest import Desk, document, keys, things


def with_checks(*checks: Check, **table: Any) -> Dataset:
    made = things(**table)
    return table_dataset(
        made.name,
        made.title,
        {name: Column(dtype) for name, dtype in made.schema.items()},
        key=("id",),
        table=made.table or Table("", ""),
        checks=checks,
    )


def checks(told: dict[str, Any], table: str = "things") -> dict[str, tuple[bool, Any, Any]]:
    return {c["name"]: (c["passed"], c.get("found"), c.get("expected")) for c in told[table]["checks"]}


# checks


async def test_each_load_is_checked_against_the_source_at_its_own_snapshot(table: Desk) -> None:
    table.registered(things(references={"id": ("others", "id")}), things("others"))
    await table.source.run("CREATE TABLE others (LIKE things INCLUDING ALL)", "INSERT INTO others VALUES (1, 'x', 1)")
    await table.insert(1, 2, 3)
    found = checks(await table.load("things"))
    assert found["row_count"] == (True, 3, 3)
    assert found["duplicate_keys"] == (True, 0, 0)
    assert found["references_id"] == (False, 2, 0)
    assert found["freshness"][0]
    assert found["contract"] == (True, 0, 0.5)
    await table.insert(4)
    found = checks(await table.load("things"))
    assert (found["row_count"], found["references_id"]) == ((True, 1, 1), (False, 1, 0))
    await table.same()  # a reference that leads nowhere warns


async def test_a_key_that_is_there_twice_blocks_and_the_next_load_has_everything_again(desk: Desk) -> None:
    desk.registered(things())
    await desk.source.run("CREATE TABLE things (id bigint, label text, amount numeric(12, 2), updated_at timestamptz)")
    await desk.source.run("INSERT INTO things VALUES (1, 'a', 1, now()), (2, 'b', 1, now()), (2, 'c', 1, now())")
    told = await desk.load("things")
    assert checks(told)["duplicate_keys"] == (False, 1, 0)
    assert told["things"]["blocked"] == ["duplicate_keys"]
    (key,) = await keys(desk.workshop, Layer.RAW)
    head = await desk.workshop.store.head(Layer.RAW, key)
    assert head is not None
    assert (head.metadata[META_BLOCKED], head.metadata[META_LOAD]) == ("duplicate_keys", "1.full.1of1")
    assert "checkpoint" not in await desk.state()
    await desk.source.run("DELETE FROM things WHERE label = 'c'")
    told = await desk.load("things")
    assert (told["things"]["load"], told["things"]["rows"], told["things"]["kind"]) == (2, 2, "full")
    await desk.same()


async def test_a_table_without_news_for_long_is_not_fresh(table: Desk) -> None:
    await table.insert(1, updated_at="now() - interval '49 hours'")
    passed, found, expected = checks(await table.load("things"))["freshness"]
    assert (passed, round(found), expected) == (False, 49, 48)
    table.registered(things(fresh_within=timedelta(hours=50), severities={"freshness": OnFailure.BLOCK}))
    assert checks(await table.load("things"))["freshness"][0]


async def test_a_check_of_the_datasets_own_may_be_sql_or_an_expression_and_may_set_rows_apart(table: Desk) -> None:
    table.registered(
        with_checks(
            Check("too_much", OnFailure.QUARANTINE, rows=pl.col("amount") < 100),
            Check("unlabelled", rows=pl.col("label").is_not_null()),
            Check("negative", sql="SELECT count(*) FROM things WHERE amount < 0"),
        )
    )
    await table.source.run("INSERT INTO things VALUES (1, 'a', 5), (2, 'b', 500), (3, NULL, -1), (4, 'd', NULL)")
    found = checks(await table.load("things"))
    assert (found["too_much"], found["unlabelled"], found["negative"]) == ((False, 1, 0), (False, 1, 0), (False, 1, 0))
    (outcome,) = [r for r in table.said if r.kind is Kind.OUTCOME]
    assert (outcome.rows_in, outcome.rows_out, dict(outcome.rejected)) == (4, 3, {"too_much": 1})
    (key,) = await keys(table.workshop, Layer.QUARANTINE)
    await table.workshop.store.get(Layer.QUARANTINE, key, table.folder / "q")
    apart = pl.read_parquet(table.folder / "q")
    assert (apart["rule"].to_list(), '"id": 2' in apart["raw"][0]) == (["too_much"], True)
    assert await table.moved(1) == [1, 3, 4]


async def test_a_load_may_be_blocked_by_rows_that_break_the_contract(table: Desk) -> None:
    table.registered(things(severities={"contract": OnFailure.BLOCK}))
    await table.source.run("INSERT INTO things VALUES (1, 'a', -5), (2, 'b', -5), (3, 'c', 1)")
    told = await table.load("things")
    assert checks(told)["contract"] == (False, 0.666667, 0.5)
    assert told["things"]["blocked"] == ["contract"]


async def test_a_full_load_is_blocked_where_one_of_its_parts_would_be_rejected_further_on(table: Desk) -> None:
    table.rows_per_part = 2
    rows = ", ".join(f"({n}, 'x', {-1 if n in (3, 4) else 1})" for n in range(1, 9))
    await table.source.run(f"INSERT INTO things VALUES {rows}")
    told = await table.load("things")
    assert checks(told)["contract"] == (False, 1.0, 0.5)
    assert (told["things"]["blocked"], told["things"]["broken_by"]) == (["contract"], {"amount_range": 2})
    await table.source.run("UPDATE things SET amount = 1 WHERE id = 4")
    told = await table.load("things")
    assert (checks(told)["contract"], told["things"]["kind"], told["things"]["rows"]) == ((True, 0.5, 0.5), "full", 8)
    await table.source.run("UPDATE things SET amount = -1, updated_at = now() WHERE id = 5")
    told = await table.load("things")
    assert checks(told)["contract"] == (False, 1.0, 0.5)
    assert "blocked" not in told["things"]  # changes: the transformer sets them apart


async def test_a_load_of_which_a_check_says_quarantine_lies_there_and_not_in_raw(table: Desk) -> None:
    table.registered(with_checks(Check("sum", OnFailure.QUARANTINE, sql="SELECT sum(amount) - 6 FROM things")))
    await table.source.run("INSERT INTO things VALUES (1, 'a', 5), (2, 'b', 5)")
    told = await table.load("things")
    assert (told["things"]["rejected"], checks(told)["sum"]) == ("sum", (False, 4, 0))
    assert await keys(table.workshop, Layer.RAW) == []
    (outcome,) = [r for r in table.said if r.kind is Kind.OUTCOME]
    assert (outcome.status, outcome.rows_in, dict(outcome.rejected)) == (Status.REJECTED, 2, {"sum": 2})
    assert sorted(k.rpartition(".")[2] for k in await keys(table.workshop, Layer.QUARANTINE)) == ["json", "parquet"]
    await table.source.run("UPDATE things SET amount = 1 WHERE id = 1")
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.load("things")
    await table.same()  # what was set apart was not moved: comparing keys finds it


async def test_a_full_load_that_was_set_apart_comes_again_though_its_table_is_as_it_was(table: Desk) -> None:
    apart = {"references": OnFailure.QUARANTINE}
    table.registered(things(cursor=None, references={"id": ("others", "id")}, severities=apart), things("others"))
    await table.source.run("CREATE TABLE others (LIKE things INCLUDING ALL)")
    await table.insert(1)
    assert (await table.load("things"))["things"]["rejected"] == "references_id"
    await table.source.run("INSERT INTO others VALUES (1, 'x', 1)")
    assert (await table.load("things"))["things"]["rows"] == 1
    await table.same()


async def test_a_table_can_be_checked_without_anything_being_written(table: Desk) -> None:
    await table.source.run("INSERT INTO things VALUES (1, 'a', 5, now() - interval '5 days'), (2, 'b', -5, NULL)")
    told = await table.load("things", only_validate=True)
    assert checks(told)["freshness"][0] is False
    assert checks(told)["contract"] == (True, 0.5, 0.5)
    assert checks(told)["row_count"] == (True, 2, 2)
    assert await keys(table.workshop, Layer.RAW) == []
    assert await keys(table.workshop, Layer.LEDGER, "tables/") == []
    (outcome,) = [r for r in table.said if r.kind is Kind.OUTCOME]
    assert (outcome.status, outcome.rows_in) == (Status.SUCCESS, 0)


# columns


async def test_a_column_that_is_added_at_the_source_passes_and_is_told_of_once(table: Desk) -> None:
    await table.insert(1)
    await table.load("things")
    await table.source.run(
        "ALTER TABLE things ADD COLUMN colour text", "ALTER TABLE things ADD COLUMN size numeric(6, 1)"
    )
    await table.insert(2, colour="'red'", size="1.5")
    told = await table.load("things")
    assert told["things"]["columns_added"] == ["colour", "size"]
    (_, frame) = (await table.parts())[-1]
    assert (frame["colour"][0], str(frame["size"][0]), frame.columns[-2:]) == ("red", "1.5", ["colour", "size"])
    await table.insert(3)
    assert (await table.load("things"))["things"]["columns_added"] == []


@pytest.mark.parametrize(
    ("alteration", "change"),
    [
        ("ALTER TABLE things DROP COLUMN label", {"label": "removed"}),
        ("ALTER TABLE things ALTER COLUMN label TYPE integer USING 5", {"label": "retyped"}),
        ("ALTER TABLE things DROP COLUMN colour", {"colour": "removed"}),
        ("ALTER TABLE things ALTER COLUMN colour TYPE date USING '2026-01-01'", {"colour": "retyped"}),
    ],
)
async def test_what_follows_from_a_column_that_is_gone_or_of_another_type_is_the_datasets_choice(
    desk: Desk, alteration: str, change: dict[str, str]
) -> None:
    from .conftest import THINGS

    for policy, name in zip(OnChange, ("one", "two", "three"), strict=True):
        desk.registered(things(on_change=policy))
        await desk.source.run("DROP TABLE IF EXISTS things", THINGS, "ALTER TABLE things ADD COLUMN colour text")
        await desk.insert(1, colour=f"'{name}'")
        await desk.load(full_refresh=["things"])
        await desk.source.run(alteration, "UPDATE things SET amount = 7, updated_at = now()")
        before = len(await keys(desk.workshop, Layer.RAW))
        told = await desk.load("things")
        after = len(await keys(desk.workshop, Layer.RAW))
        if policy is OnChange.EVOLVE:
            assert (told["things"]["columns_changed"], told["things"]["rejected"]) == (change, None)
            row = (await desk.parts())[-1][1].row(-1, named=True)
            assert row.get(next(iter(change))) is None
            assert str(row["amount"]) == "7.00"
        else:
            assert told["things"]["rejected"] == "schema_changed"
            assert next(iter(change)) in told["things"]["reason"]
            assert after == before
        apart = [k for k in await keys(desk.workshop, Layer.QUARANTINE) if k.endswith(".rows.parquet")]
        assert len(apart) == (policy is OnChange.QUARANTINE)


async def test_a_wider_type_is_taken_on(desk: Desk) -> None:
    narrow = table_dataset(
        "things",
        "Things",
        {"id": Column(pl.Int32()), "amount": Column(pl.Decimal(4, 2), at_least=0), "ratio": Column(pl.Float32())},
        key=("id",),
        table=Table("public.things", "tests"),
    )
    desk.registered(narrow)
    await desk.source.run("CREATE TABLE things (id bigint PRIMARY KEY, amount numeric(9, 2), ratio double precision)")
    await desk.source.run("INSERT INTO things VALUES (5000000000, 1234567.89, 0.1), (2, -1, NULL)")
    told = await desk.load("things")
    assert set(told["things"]["columns_changed"].values()) == {"wider"}
    assert checks(told)["contract"] == (True, 0.5, 0.5)
    ((_, frame),) = await desk.parts()
    assert (frame["id"].max(), frame.schema["amount"], frame["ratio"].max()) == (5000000000, pl.Decimal(9, 2), 0.1)


async def test_numbers_with_more_digits_than_ours_are_set_apart_one_by_one(desk: Desk) -> None:
    desk.registered(things())
    await desk.source.run(
        "CREATE TABLE things (id bigint PRIMARY KEY, label text, amount numeric, updated_at timestamptz)"
    )
    await desk.source.run(
        "INSERT INTO things VALUES (1, 'a', 1.10), (2, 'b', 1.123), (3, 'c', 12345678901), (4, 'd', 'Infinity')"
    )
    await desk.load("things")
    (outcome,) = [r for r in desk.said if r.kind is Kind.OUTCOME]
    assert (outcome.rows_out, dict(outcome.rejected)) == (1, {"unparsable_amount": 3})


async def test_a_full_load_of_which_no_row_can_be_used_is_rejected_and_empties_nothing(desk: Desk) -> None:
    desk.registered(things(cursor=None))
    await desk.source.run("CREATE TABLE things (id bigint PRIMARY KEY, label text, amount numeric, updated_at text)")
    await desk.source.run("ALTER TABLE things DROP COLUMN updated_at", "INSERT INTO things VALUES (1, 'a', 1.10)")
    assert (await desk.load("things"))["things"]["rows"] == 1
    await desk.source.run("UPDATE things SET amount = 'NaN'")
    told = (await desk.load("things", only_validate=True))["things"]
    assert (told["rejected"], told["broken_by"]) == ("no_rows", {"unparsable_amount": 1})
    told = (await desk.load("things"))["things"]
    assert (told["rejected"], "1" in told["reason"]) == ("no_rows", True)
    assert len(await desk.parts()) == 1
    (outcome,) = [r for r in desk.said if r.kind is Kind.OUTCOME]
    assert (outcome.rows_in, dict(outcome.rejected)) == (1, {"unparsable_amount": 1})
    assert len([k for k in await keys(desk.workshop, Layer.QUARANTINE) if k.endswith(".rows.parquet")]) == 1
    await desk.source.run("UPDATE things SET amount = 2")
    assert (await desk.load("things"))["things"]["rows"] == 1


async def test_a_row_that_can_not_be_read_is_told_also_where_all_others_are_as_they_were(desk: Desk) -> None:
    desk.registered(things(cursor=None))
    await desk.source.run(
        "CREATE TABLE things (id bigint PRIMARY KEY, label text, amount numeric, updated_at timestamptz)"
    )
    await desk.source.run("INSERT INTO things VALUES (1, 'a', 1.10)")
    await desk.load("things")
    await desk.source.run("INSERT INTO things VALUES (2, 'b', 'NaN')")
    await desk.load("things")
    (outcome,) = [r for r in desk.said if r.kind is Kind.OUTCOME]
    assert dict(outcome.rejected) == {"unparsable_amount": 1}
    await desk.load("things")
    (outcome,) = [r for r in desk.said if r.kind is Kind.OUTCOME]
    assert (outcome.rows_in, dict(outcome.rejected)) == (0, {})  # nothing is new


async def test_a_row_that_can_not_be_read_counts_once_where_keys_are_compared_as_well(desk: Desk) -> None:
    desk.registered(things(compare_keys_every=timedelta(0)))
    await desk.source.run(
        "CREATE TABLE things (id bigint PRIMARY KEY, label text, amount numeric, updated_at timestamptz)"
    )
    await desk.source.run("INSERT INTO things VALUES (1, 'a', 1.10, now())")
    await desk.load("things")
    await desk.source.run("INSERT INTO things VALUES (2, 'b', 'NaN', now())")
    await desk.load("things")
    (outcome,) = [r for r in desk.said if r.kind is Kind.OUTCOME]
    assert (outcome.rows_in, dict(outcome.rejected)) == (1, {"unparsable_amount": 1})


async def test_a_canonical_column_may_be_an_expression_over_the_tables_own(desk: Desk) -> None:
    desk.registered(things(columns={"label": "upper(t.name) || '!'", "id": "t.number"}))
    await desk.source.run(
        "CREATE TABLE things (number int PRIMARY KEY, name text, amount numeric(12, 2), updated_at timestamptz)"
    )
    await desk.source.run("INSERT INTO things VALUES (1, 'a', 1, now()), (2, 'b', 1, now())")
    desk.rows_per_part = 1
    await desk.load("things")
    assert (await desk.merged()).select("id", "label").rows() == [(1, "A!"), (2, "B!")]
    await desk.source.run("DELETE FROM things WHERE number = 2", "UPDATE things SET name = 'c', updated_at = now()")
    desk.registered(things(columns={"label": "upper(t.name)", "id": "t.number"}, compare_keys_every=timedelta(0)))
    await desk.load("things")
    assert (await desk.merged()).select("id", "label").rows() == [(1, "C")]


# what goes wrong


async def test_one_bad_table_does_not_stop_the_others(table: Desk) -> None:
    table.registered(things(), things("absent"), things("broken"))
    await table.source.run("CREATE TABLE broken (id bigint PRIMARY KEY)")
    await table.insert(1)
    told = await table.load("absent", "things", "broken")
    assert [told[name]["rejected"] for name in told] == ["unknown_table", None, "unknown_column"]
    assert told["things"]["rows"] == 1
    (outcome,) = [r for r in table.said if r.kind is Kind.OUTCOME]
    assert outcome.status is Status.SUCCESS
    manifests = await keys(table.workshop, Layer.QUARANTINE)
    assert len(manifests) == 2
    assert (await document(table.workshop, Layer.QUARANTINE, manifests[0]))["rule"] == "unknown_table"


async def test_what_the_role_may_not_read_is_told_with_what_to_do(table: Desk) -> None:
    stranger = f"r{uuid4().hex[:12]}"
    await table.source.run(f"CREATE ROLE {stranger} LOGIN PASSWORD 'secret'")
    table.settings = table.settings.model_copy(update={"dsn": SecretStr(table.source.dsn_of(stranger, "secret"))})
    told = await table.load("things")
    assert told["things"]["rejected"] == "missing_permission"
    assert "GRANT SELECT" in told["things"]["reason"]
    await table.source.run(f"GRANT SELECT ON things TO {stranger}")
    await table.insert(1)
    assert (await table.load("things"))["things"]["rows"] == 1  # reading is all that is needed
    await table.source.run(f"DROP OWNED BY {stranger}", f"DROP ROLE {stranger}")


async def test_a_statement_that_takes_too_long_is_told_with_what_to_do(table: Desk) -> None:
    await table.source.run("CREATE VIEW slow AS SELECT things.* FROM things, pg_sleep(3)")
    table.registered(things("slow", fresh_within=None, compare_keys_every=None))
    await table.insert(1)
    table.settings = table.settings.model_copy(update={"statement_timeout": 0.5})
    told = await table.load("slow", "things")
    assert (told["slow"]["rejected"], told["things"]["rejected"]) == ("statement_timeout", None)
    assert "ACEQUIA_SOURCE_POSTGRES_STATEMENT_TIMEOUT" in told["slow"]["reason"]


async def test_no_question_keeps_a_message_longer_than_the_broker_waits(
    table: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "HELD_MOST", 2.0)
    await table.source.run("CREATE VIEW slow AS SELECT things.* FROM things, pg_sleep(600)")
    table.registered(things("slow", fresh_within=None, compare_keys_every=None))
    await table.insert(1)
    told = await table.load("slow")
    assert told["slow"]["rejected"] == "statement_timeout"
    told = await table.load("slow", only_validate=True)
    assert told["slow"]["rejected"] == "statement_timeout"


async def test_a_source_that_is_away_is_tried_again(table: Desk) -> None:
    delivery = await table.order("things")
    away = await table.ingestor(dsn=SecretStr("postgresql://nobody@127.0.0.1:1/nowhere"))
    settled = await away.handle(delivery)
    assert isinstance(settled, Retry)
    assert "source" in settled.reason
    assert await (await table.ingestor()).handle(delivery) == Ack()


@pytest.mark.parametrize("dsn", ["postgresql://postgres@{there}", None])
async def test_a_source_that_is_not_there_to_be_reached_is_told(table: Desk, dsn: str | None) -> None:
    wrong = table.source.dsn.replace(table.source.name, "no_such_database") if dsn else None
    table.settings = table.settings.model_copy(update={"dsn": SecretStr(wrong) if wrong else None})
    told = await table.load("things")
    assert told["things"]["rejected"] == ("source_refused" if dsn else "no_source")


async def test_further_databases_have_names(table: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from acequia_ingestor.settings import PostgresSourceSettings

    monkeypatch.setenv("ACEQUIA_SOURCE_POSTGRES_SHOP_DSN", table.source.dsn)
    table.settings = PostgresSourceSettings()
    await table.insert(1)
    assert (await table.load("things"))["things"]["rejected"] == "no_source"
    assert (await table.load("things", connection="shop"))["things"]["rows"] == 1


async def test_a_connection_that_breaks_while_rows_are_read_is_tried_again_and_leaves_nothing(
    table: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await table.source.run("INSERT INTO things SELECT n, repeat('x', 3000), n, now() FROM generate_series(1, 20000) n")
    write, broken = extract._Writer.take, []

    def take(self: Any, *arguments: Any, **named: Any) -> Any:
        if not broken:
            broken.append(self)
            import psycopg

            with psycopg.connect(table.source.dsn) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'acequia' AND datname = current_database()"
                )
        return write(self, *arguments, **named)

    monkeypatch.setattr(extract._Writer, "take", take)
    delivery = await table.order("things")
    ingestor = await table.ingestor()
    assert isinstance(await ingestor.handle(delivery), Retry)
    assert await keys(table.workshop, Layer.RAW) == []
    assert await ingestor.handle(delivery) == Ack()
    assert (await table.told())["things"]["rows"] == 20000


# what may be asked


def test_a_request_without_tables_means_the_pack_and_unknown_names_are_told(desk: Desk) -> None:
    ask = lambda dataset=None, **more: datasets(  # noqa: E731
        PostgresSource(kind="postgres", **more), dataset, desk.workshop.registry, IngestorSettings()
    )
    assert len(ask()) == 8
    assert ask("accounts", full_refresh=("payments",)) == ("accounts", "payments")
    assert ask(pack="subscriptions", tables=("payments",)) == ("payments",)
    for wrong in ({"tables": ("network_events",)}, {"pack": "none"}, {"full_refresh": ("x",)}):
        with pytest.raises(RejectedInput):
            ask(**wrong)
    desk.registered(things())
    with pytest.raises(RejectedInput, match="pack"):
        ask()


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://reader:very/secret@127.0.0.1:5432/shop",
        "postgresql://reader:very@secret@127.0.0.1:5432/shop",
        "postgresql://reader:very%secret@127.0.0.1:5432/shop",
        "mysql://reader:secret@127.0.0.1:5432/shop",
        "postgresql+psycopg://reader:secret@127.0.0.1:5432/shop",
        "host=127.0.0.1 user=reader password=very secret",
        "secret",
    ],
)
async def test_a_dsn_that_is_none_is_told_with_what_to_do_and_without_its_password(table: Desk, dsn: str) -> None:
    table.settings = table.settings.model_copy(update={"dsn": SecretStr(dsn)})
    told = await table.load("things")
    assert told["things"]["rejected"] == "source_refused"
    assert "postgresql://user:password@host:5432/database" in told["things"]["reason"]
    (manifest,) = await keys(table.workshop, Layer.QUARANTINE)
    said = json.dumps(await document(table.workshop, Layer.QUARANTINE, manifest))
    assert "secret" not in "".join(record.model_dump_json() for record in table.said) + said


async def test_the_dsn_is_told_nowhere(table: Desk) -> None:
    table.settings = table.settings.model_copy(
        update={"dsn": SecretStr(table.source.dsn.replace("postgres@", "postgres:verysecret@"))}
    )
    await table.insert(1)
    run_id = uuid4()
    await (await table.ingestor()).handle(await table.order("things", run_id=run_id))
    await table.told()
    assert "verysecret" not in "".join(record.model_dump_json() for record in table.said)
    for key in await keys(table.workshop, Layer.LEDGER):
        found = await table.workshop.store.read(Layer.LEDGER, key)
        assert found is not None
        assert b"verysecret" not in found[0]
    assert VERSION == "_version"
