"""The subscription pack, from its sample database to SILVER: every type keeps its meaning."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest

from acequia.datasets import DELETED, VERSION
from acequia.events import Kind, Status
from acequia.layers import Layer, Stem
from acequia.work import Input, RejectedWhole, Work
from acequia_cli.commands import Output
from acequia_cli.complaints import CommandFailed, WrongUse
from acequia_cli.sample_database import MakeSampleDatabase
from acequia_ingestor.samples import changes_script, rows_script, schema_script
from acequia_ingestor.sources.postgres import packs
from acequia_transformer.transform import transform

from .conftest import Desk

TABLES = (
    "accounts",
    "account_subscriptions",
    "subscriptions",
    "features",
    "subscription_features",
    "contents",
    "content_attributes",
    "payments",
)
NOW = datetime.now(UTC)


@pytest.fixture
async def pack(desk: Desk) -> Desk:
    await desk.source.run(schema_script(), rows_script(accounts=60, at=NOW - timedelta(hours=1)))
    return desk


def silver_of(desk: Desk, dataset: str, raw: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """What the transformer makes of a RAW part."""
    out = folder / uuid4().hex
    out.mkdir()
    path = out / "raw.parquet"
    raw.write_parquet(path)
    work = Work(
        stage="transformer",
        variant="v1-000000",
        stem=Stem(dataset, NOW.replace(microsecond=0), "0" * 16, 1),
        dataset=dataset,
        run_id=uuid4(),
        inputs=(Input(Layer.RAW, "k", "e", "u", rows=raw.height),),
    )
    outcome = transform(work, [path], out, registry=desk.workshop.registry, burst_seconds=60)
    assert outcome.output is not None
    assert outcome.rows_in == outcome.rows_out + outcome.rows_duplicate + sum(outcome.rejected.values())
    return pl.read_parquet(outcome.output)


async def test_all_tables_of_the_pack_come_in_one_run_those_first_that_others_refer_to(pack: Desk) -> None:
    assert sorted(packs(pack.workshop.registry)["subscriptions"]) == sorted(TABLES)
    order = packs(pack.workshop.registry)["subscriptions"]
    for name in order:
        table = pack.workshop.registry[name].table
        assert table is not None
        assert all(order.index(other) < order.index(name) for other, _ in table.references.values())
    told = await pack.load()
    assert list(told) == list(order)
    for name in TABLES:
        count = await pack.source.value(f"SELECT count(*) FROM {name}")
        assert (told[name]["rows"], told[name]["kind"], told[name]["rejected"]) == (count, "full", None)
        assert all(check["passed"] for check in told[name]["checks"]), told[name]["checks"]
    (outcome,) = [r for r in pack.said if r.kind is Kind.OUTCOME]
    assert (outcome.status, outcome.dataset) == (Status.SUCCESS, "_tables")


async def test_a_days_changes_arrive_and_nothing_else(pack: Desk) -> None:
    await pack.load()
    told = await pack.load()
    assert {name: result["rows"] for name, result in told.items()} == dict.fromkeys(told, 0)
    await pack.source.run(changes_script(changes=40, seed=3, at=datetime.now(UTC)))
    told = await pack.load()
    assert 10 < sum(result["rows"] for result in told.values()) < 80
    assert told["subscriptions"]["parts"] == 0
    for name in TABLES:
        key = ", ".join(pack.workshop.registry[name].key)
        there = await pack.source.value(f"SELECT count(*) FROM {name}")
        gone = await pack.source.value(
            f"SELECT count(*) FROM {name} WHERE {'deleted_at IS NOT NULL' if name == 'accounts' else 'false'}"
        )
        removed = 0
        if name == "payments":  # keys are compared once a day
            merged = set((await pack.merged(name))["payment_id"])
            removed = len(merged) - there
        assert (await pack.merged(name)).height == there - gone + removed, key


@pytest.mark.parametrize("name", TABLES)
async def test_every_value_of_the_source_is_in_raw_and_in_silver(pack: Desk, name: str, tmp_path: Path) -> None:
    await pack.load(name)
    dataset = pack.workshop.registry[name]
    columns = list(dataset.schema)
    texts = [c for c, t in dataset.schema.items() if t == pl.String()]
    chosen = ", ".join(f"{c}::text AS {c}" if c in texts else c for c in columns)
    rows = await pack.source.connection.fetch(f"SELECT {chosen} FROM {name} ORDER BY {', '.join(dataset.key)}")
    ((_, raw),) = await pack.parts(name)
    assert dict(raw.schema) == dict(dataset.stored_schema)
    ordered = raw.sort(*dataset.key)
    for column in columns:
        found, there = ordered[column].to_list(), [row[column] for row in rows]
        if column == "ends_at":  # never
            there = [
                v if v is None or v.year < 9999 else datetime(9999, 12, 31, 23, 59, 59, 999999, UTC) for v in there
            ]
        assert found == there, column
    silver = silver_of(pack, name, raw, tmp_path)
    assert silver.equals(raw)
    assert silver.schema == raw.schema


async def test_types_that_need_care_keep_their_meaning(desk: Desk, tmp_path: Path) -> None:
    from .conftest import things

    desk.registered(things())
    await desk.source.run(
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        "CREATE DOMAIN percent AS numeric(5, 2)",
        """CREATE TABLE things (
            id bigint PRIMARY KEY, label text, amount numeric(12, 2), updated_at timestamptz, moods mood[], mood mood,
            share percent, anything numeric, small smallint, real real, flag boolean, day date, hour time,
            local timestamp,
            document jsonb, "Quoted ""name"" here" text, uuid uuid, span interval, network inet, bits bytea[],
            numbers numeric(8, 3)[], times timestamptz[], padded char(5), matrix integer[]
        )""",
        """INSERT INTO things VALUES (
            1, E'tab\\there', 0.10, '2026-03-29 01:59:59.999999+00', '{good,bad}', 'good',
            99.99, 12345678901234567890123456789012345678901.5, -5, 1.1, true, 'infinity', '23:59:59.999999',
            '2026-01-01 00:00:00', '{"b": 1, "a": [1.10, null]}', 'x', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
            '1 day 2 hours', '10.0.0.0/8', ARRAY['\\x00ff'::bytea],
            '{1.5,NULL}', '{infinity,2026-01-01 00:00:00+00}', 'ab', '{1,2}'
        )""",
        "INSERT INTO things (id, amount) VALUES (2, 'NaN')",
        "INSERT INTO things (id, matrix) VALUES (3, '{{1},{2}}')",
        "INSERT INTO things (id, hour) VALUES (4, '24:00')",
        "INSERT INTO things (id) VALUES (5)",
    )
    told = await desk.load("things")
    assert told["things"]["rows"] == 2
    (outcome,) = [r for r in desk.said if r.kind is Kind.OUTCOME]
    assert outcome.rejected == {"unparsable_amount": 1, "unparsable_hour": 1, "unparsable_matrix": 1}
    ((_, raw),) = await desk.parts()
    row = raw.row(0, named=True)
    expected: dict[str, Any] = {
        "label": "tab\there",
        "amount": Decimal("0.10"),
        "updated_at": datetime(2026, 3, 29, 1, 59, 59, 999999, UTC),
        "moods": ["good", "bad"],
        "mood": "good",
        "share": Decimal("99.99"),
        "anything": "12345678901234567890123456789012345678901.5",
        "small": -5,
        "flag": True,
        "local": datetime(2026, 1, 1),  # noqa: DTZ001 - it has no zone at the source
        "document": '{"a": [1.10, null], "b": 1}',
        'Quoted "name" here': "x",
        "uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "span": "P1DT2H",
        "network": "10.0.0.0/8",
        "bits": [b"\x00\xff"],
        "numbers": [Decimal("1.500"), None],
        "times": [datetime(9999, 12, 31, 23, 59, 59, 999999, UTC), datetime(2026, 1, 1, tzinfo=UTC)],
        "padded": "ab",
        "matrix": [1, 2],
    }
    assert {name: row[name] for name in expected} == expected
    assert (str(row["day"]), str(row["hour"])) == ("9999-12-31", "23:59:59.999999")
    assert abs(row["real"] - 1.1) < 1e-6
    assert raw.columns[:6] == ["id", "label", "amount", "updated_at", VERSION, DELETED]
    assert silver_of(desk, "things", raw, tmp_path).equals(raw)


async def test_in_silver_rows_that_break_the_contract_are_set_apart_with_all_their_columns(
    desk: Desk, tmp_path: Path
) -> None:
    from .conftest import things

    desk.registered(things())
    dataset = things()
    raw = pl.DataFrame(
        {
            "id": [1, 2, 3, None],
            "label": ["a", "b", "c", "d"],
            "amount": [Decimal(1), Decimal(-1), None, Decimal(1)],
            "updated_at": [None] * 4,
            VERSION: [2**20 + 1] * 4,
            DELETED: [False, False, True, True],
            "extra": [1, 2, 3, 4],
        },
        schema={**dataset.stored_schema, "extra": pl.Int16()},
    )
    silver = silver_of(desk, "things", pl.concat([raw, raw.head(1)]), tmp_path)
    assert silver.equals(raw.filter(pl.col("extra").is_in([1, 3])))
    with pytest.raises(RejectedWhole):
        silver_of(desk, "things", raw.filter(pl.col("extra") == 2), tmp_path)
    wider = raw.with_columns(pl.col("amount").cast(pl.Decimal(20, 2))).filter(pl.col("extra") == 1)
    assert silver_of(desk, "things", wider, tmp_path).equals(wider)
    empty = raw.clear()
    assert silver_of(desk, "things", empty, tmp_path).equals(empty)


async def test_the_sample_database_is_made_by_a_command_and_changed_by_another(desk: Desk) -> None:
    output = Output.open(True)
    dsn = desk.source.dsn
    assert await MakeSampleDatabase(dsn, accounts=20, changes=0, seed=1).run(output) == 0
    assert (await desk.load("accounts"))["accounts"]["rows"] == 20
    with pytest.raises(WrongUse, match="--changes"):
        await MakeSampleDatabase(dsn, accounts=20, changes=0, seed=1).run(output)
    assert await MakeSampleDatabase(dsn, accounts=20, changes=30, seed=1).run(output) == 0
    assert 0 < (await desk.load("accounts"))["accounts"]["rows"] < 30
    with pytest.raises(CommandFailed):
        await MakeSampleDatabase("postgresql://x@127.0.0.1:1/x", accounts=1, changes=0, seed=1).run(output)


async def test_a_table_that_was_emptied_arrives_in_silver_as_a_full_load_of_no_row(pack: Desk, tmp_path: Path) -> None:
    await pack.load("subscription_features")
    await pack.source.run("DELETE FROM public.subscription_features")
    told = (await pack.load("subscription_features"))["subscription_features"]
    assert (told["kind"], told["rows"], told["parts"], told["rejected"]) == ("full", 0, 1, None)
    load, raw = (await pack.parts("subscription_features"))[-1]
    assert (str(load), raw.height) == ("2.full.1of1", 0)
    assert silver_of(pack, "subscription_features", raw, tmp_path).height == 0
    assert (await pack.load("subscription_features"))["subscription_features"]["parts"] == 0
