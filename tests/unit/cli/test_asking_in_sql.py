"""`acequia query` on the folder of an embedded installation."""

import asyncio
import csv
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import DataScan, FileScanTask

from acequia.layers import Buckets, Layer
from acequia_cli import engine, stored
from acequia_cli.stored import Files, SnapshotFiles

from .laid import EVENTS, Laid, acequia

ACCOUNT = pa.schema([("account_id", pa.int64()), ("name", pa.string()), ("_version", pa.int64())])


@pytest.fixture
def laid(tmp_path: Path) -> Laid:
    place = Laid(tmp_path / "data")
    (place.data / "store").mkdir(parents=True)
    return place


def document(result: Any) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def ask(laid: Laid, sql: str, *options: object) -> Any:
    return document(laid.ask(sql, "--format", "json", *options))


# bronze


def test_bronze_is_every_object_of_raw(laid: Laid):
    laid.raw("network_events", EVENTS)
    laid.raw("network_events", EVENTS.head(1), part=2)
    laid.raw("network_events", EVENTS.head(2), day=21)

    assert ask(laid, "select count(*) as n, sum(bytes)::int as b from bronze.network_events") == [{"n": 6, "b": 1000}]


def test_bronze_says_of_each_row_the_day_it_came_in(laid: Laid):
    laid.raw("network_events", EVENTS)
    laid.raw("network_events", EVENTS.head(2), day=21)

    found = ask(laid, "select _date, count(*) as n from bronze.network_events group by all order by all")

    assert found == [{"_date": "2025-12-20", "n": 3}, {"_date": "2025-12-21", "n": 2}]


def test_a_condition_on_the_day_leaves_other_objects_unread(laid: Laid):
    laid.raw("network_events", EVENTS)
    laid.raw("network_events", EVENTS, day=21).write_bytes(b"no Parquet at all")

    assert ask(laid, "select count(*) as n from bronze.network_events where _date = '2025-12-20'") == [{"n": 3}]
    assert laid.ask("select count(*) from bronze.network_events").exit_code == 1


def test_an_object_that_lacks_a_column_has_nulls_there(laid: Laid):
    laid.raw("network_events", EVENTS.drop("duration"))
    laid.raw("network_events", EVENTS, part=2)

    assert ask(laid, "select count(duration) as n, count(label) as l from bronze.network_events") == [{"n": 2, "l": 0}]


def test_columns_that_a_table_got_later_are_there(laid: Laid):
    rows = pl.DataFrame({"account_id": [1], "name": ["Ana"], "_version": [1 << 20], "_deleted": [False]})
    laid.raw("accounts", rows)
    laid.raw("accounts", rows.with_columns(nickname=pl.lit("A")), part=2)

    found = ask(laid, "select account_id, nickname, _deleted, email from bronze.accounts order by nickname")

    assert found == [
        {"account_id": 1, "nickname": "A", "_deleted": False, "email": None},
        {"account_id": 1, "nickname": None, "_deleted": False, "email": None},
    ]


def test_a_dataset_without_an_object_is_empty_with_its_columns(laid: Laid):
    found = ask(laid, "describe bronze.network_events")

    columns = {row["column_name"]: row["column_type"] for row in found}
    assert columns["timestamp"] == "TIMESTAMP WITH TIME ZONE" and columns["bytes"] == "BIGINT"
    assert list(columns)[-2:] == ["_line", "_date"]
    assert ask(laid, "from bronze.network_events") == []


@pytest.mark.parametrize("name", ["sensor_data", "equipos", "eventos"])
def test_the_names_of_the_predecessor_are_there(laid: Laid, name: str):
    assert ask(laid, f"select count(*) as n from bronze.{name}, silver.{name}") == [{"n": 0}]


def test_what_is_no_object_of_raw_is_left_alone(laid: Laid):
    path = laid.raw("network_events", EVENTS)
    (path.parent / "notes.parquet").write_bytes(b"a person's file")
    (path.parent / f".{path.name}.part").write_bytes(b"on its way")

    assert ask(laid, "select count(*) as n from bronze.network_events") == [{"n": 3}]


def test_an_object_is_read_through_the_link_of_the_store(laid: Laid):
    path = laid.raw("network_events", EVENTS)
    version = laid.data / "store" / ".objects" / "version.parquet"
    version.parent.mkdir()
    path.rename(version)
    path.symlink_to(os.path.relpath(version, path.parent))

    assert ask(laid, "select count(*) as n from bronze.network_events") == [{"n": 3}]


# silver


def accounts(*rows: tuple[int, str, int]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(ACCOUNT.names, row, strict=True)) for row in rows], schema=ACCOUNT)


def test_silver_is_the_table_of_the_lakehouse(laid: Laid):
    laid.table("accounts", ACCOUNT).append(accounts((1, "Ana", 1), (2, "Ben", 1)))

    assert ask(laid, "select account_id, name from silver.accounts order by 1") == [
        {"account_id": 1, "name": "Ana"},
        {"account_id": 2, "name": "Ben"},
    ]


def test_files_that_were_registered_where_they_lie_are_read(laid: Laid):
    table = laid.table("accounts", ACCOUNT)
    file = laid.data / "store" / Buckets().of(Layer.SILVER) / "accounts" / "a.parquet"
    file.parent.mkdir(parents=True)
    pl.DataFrame({"account_id": [7], "name": ["Eva"], "_version": [1]}).write_parquet(file)
    table.add_files([str(file)])

    assert ask(laid, "select name from silver.accounts") == [{"name": "Eva"}]


def test_rows_that_were_replaced_or_removed_are_gone(laid: Laid):
    table = laid.table("accounts", ACCOUNT)
    table.append(accounts((1, "Ana", 1), (2, "Ben", 1)))
    table.upsert(accounts((1, "Anna", 2)), join_cols=["account_id"])
    table.delete("account_id = 2")

    assert ask(laid, "select account_id, name from silver.accounts") == [{"account_id": 1, "name": "Anna"}]


def test_a_column_that_the_table_got_later_is_null_before(laid: Laid):
    table = laid.table("accounts", ACCOUNT)
    table.append(accounts((1, "Ana", 1)))
    with table.update_schema() as update:
        update.union_by_name(pa.schema([("nickname", pa.string())]))
    table.append(accounts((2, "Ben", 1)).append_column("nickname", pa.array(["B"])))

    assert ask(laid, "select name, nickname from silver.accounts order by 1") == [
        {"name": "Ana", "nickname": None},
        {"name": "Ben", "nickname": "B"},
    ]


def test_rows_that_another_writer_marked_as_deleted_are_left_out(laid: Laid, monkeypatch: pytest.MonkeyPatch):
    """The lakehouse writes no delete files; who else works on its tables may."""
    table = laid.table("accounts", ACCOUNT)
    table.append(accounts((1, "Ana", 1), (2, "Ben", 1), (3, "Cho", 1)))
    table.append(accounts((4, "Dan", 1)))
    plan_files = DataScan.plan_files

    def with_deletes(self: DataScan) -> list[FileScanTask]:
        tasks = sorted(plan_files(self), key=lambda task: -task.file.record_count)
        deletes = laid.data / "deletes.parquet"
        positions = {"file_path": [tasks[0].file.file_path] * 2, "pos": [0, 2]}
        pq.write_table(
            pa.table(positions, schema=pa.schema([("file_path", pa.string()), ("pos", pa.int64())])), deletes
        )
        marked = DataFile.from_args(
            content=DataFileContent.POSITION_DELETES, file_path=str(deletes), file_format=FileFormat.PARQUET
        )
        return [FileScanTask(tasks[0].file, delete_files={marked}), *tasks[1:]]

    monkeypatch.setattr(DataScan, "plan_files", with_deletes)

    assert ask(laid, "select name from silver.accounts order by 1") == [{"name": "Ben"}, {"name": "Dan"}]
    assert ask(laid, "select count(*) as n from silver.accounts a join silver.accounts b using (name)") == [{"n": 2}]


def test_a_table_that_was_never_made_is_empty_with_the_columns_it_will_have(laid: Laid):
    columns = {row["column_name"] for row in ask(laid, "describe silver.network_events")}

    assert {"timestamp", "bytes", "log_bytes", "_stem"} <= columns
    assert ask(laid, "from silver.network_events") == []
    assert not (laid.data / "lake").exists()


def test_both_schemas_can_be_joined(laid: Laid):
    laid.raw("network_events", EVENTS)
    laid.table("accounts", ACCOUNT).append(accounts((1, "Ana", 1)))

    assert ask(laid, "select count(*) as n from bronze.network_events, silver.accounts") == [{"n": 3}]


def test_all_tables_are_listed(laid: Laid):
    laid.table("wells", pa.schema([("well", pa.string())]))

    found = ask(laid, "select schema as s, name from (show all tables)")

    assert {"s": "bronze", "name": "network_events"} in found
    assert {"s": "silver", "name": "wells"} in found


# as of


def test_silver_is_read_as_it_was_at_a_snapshot_or_at_a_time(laid: Laid):
    table = laid.table("accounts", ACCOUNT)
    table.append(accounts((1, "Ana", 1)))
    first = table.current_snapshot()
    time.sleep(0.05)
    between = datetime.now(UTC).isoformat()
    time.sleep(0.05)
    table.append(accounts((2, "Ben", 1)))
    assert first is not None
    number = "select count(*) as n from silver.accounts"

    assert ask(laid, number) == [{"n": 2}]
    assert ask(laid, number, "--as-of", first.snapshot_id) == [{"n": 1}]
    assert ask(laid, number, "--as-of", between) == [{"n": 1}]
    assert ask(laid, number, "--as-of", "2020-01-01") == [{"n": 0}]


def test_a_past_table_has_the_columns_it_had(laid: Laid):
    table = laid.table("accounts", ACCOUNT)
    table.append(accounts((1, "Ana", 1)))
    first = table.current_snapshot()
    assert first is not None
    with table.update_schema() as update:
        update.union_by_name(pa.schema([("nickname", pa.string())]))
    table.append(accounts((2, "Ben", 1)).append_column("nickname", pa.array(["B"])))

    assert list(ask(laid, "from silver.accounts", "--as-of", first.snapshot_id)[0]) == list(ACCOUNT.names)


def test_bronze_is_read_as_it_was_at_a_time(laid: Laid):
    laid.raw("network_events", EVENTS, modified="2025-12-20T06:00:00Z")
    laid.raw("network_events", EVENTS, part=2, modified="2025-12-20T08:00:00Z")
    number = "select count(*) as n from bronze.network_events"

    assert ask(laid, number, "--as-of", "2025-12-20T07:00Z") == [{"n": 3}]
    assert ask(laid, number, "--as-of", "2025-12-20T08:00Z") == [{"n": 6}]


def test_other_tables_are_read_as_they_were_at_the_snapshots_time(laid: Laid):
    table = laid.table("accounts", ACCOUNT)
    table.append(accounts((1, "Ana", 1)))
    snapshot = table.current_snapshot()
    assert snapshot is not None
    then = datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)
    laid.raw("network_events", EVENTS, modified=(then - timedelta(hours=1)).isoformat())
    laid.raw("network_events", EVENTS, part=2, modified=(then + timedelta(hours=1)).isoformat())

    assert ask(laid, "select count(*) as n from bronze.network_events", "--as-of", snapshot.snapshot_id) == [{"n": 3}]


def test_a_snapshot_that_no_table_has_is_a_mistake(laid: Laid):
    laid.table("accounts", ACCOUNT).append(accounts((1, "Ana", 1)))

    result = laid.ask("from silver.accounts", "--as-of", "1234567890123456789")

    assert result.exit_code == 2 and "no table has a snapshot 1234567890123456789" in result.stderr


def test_a_time_before_what_is_remembered_is_told(laid: Laid):
    table = laid.table("accounts", ACCOUNT)
    table.append(accounts((1, "Ana", 1)))
    first = table.current_snapshot()
    table.append(accounts((2, "Ben", 1)))
    assert first is not None
    table.maintenance.expire_snapshots().by_ids([first.snapshot_id]).commit()

    result = laid.ask("from silver.accounts", "--as-of", "2020-01-01")

    assert result.exit_code == 1 and "were expired" in result.stderr


# how rows are written

VALUES = """
    select 1 as n, 12345678901234567890123456789.123456789::decimal(38, 9) as exact, 19.90::decimal(10, 2) as price,
    timestamptz '2025-12-20 12:00:00.5-06' as at, date '2025-12-20' as day, ['a,b', null] as words,
    [1.10::decimal(4, 2)] as prices, {'a': 1.5, 'b': timestamp '2025-12-20 12:00:00'} as pair, map {'k': 2} as named,
    '\\xDE\\xAD'::blob as bytes, 'nan'::double as nan, null as nothing, '' as empty, 'x,"y"' || chr(10) || 'z' as text
"""


def test_csv_has_times_in_iso_8601_bytes_in_hexadecimal_and_nested_values_as_json(laid: Laid):
    result = laid.ask(VALUES, "--format", "csv")

    [row] = csv.DictReader(io.StringIO(result.stdout))
    assert row == {
        "n": "1",
        "exact": "12345678901234567890123456789.123456789",
        "price": "19.90",
        "at": "2025-12-20T18:00:00.5Z",
        "day": "2025-12-20",
        "words": '["a,b",null]',
        "prices": "[1.1]",
        "pair": '{"a":1.5,"b":"2025-12-20T12:00:00"}',
        "named": '{"k":2}',
        "bytes": "dead",
        "nan": "nan",
        "nothing": "",
        "empty": "",
        "text": 'x,"y"\nz',
    }
    assert ',nan,,"",' in result.stdout, "null and the empty text differ"


@pytest.mark.parametrize("form", ["json", "ndjson"])
def test_json_has_exact_numbers_and_no_word_that_is_not_json(laid: Laid, form: str):
    result = laid.ask(VALUES, "--format", form)

    def no_such_word(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    read = json.loads(result.stdout, parse_float=Decimal, parse_constant=no_such_word)
    [row] = read if form == "json" else [read]
    assert row == {
        "n": 1,
        "exact": Decimal("12345678901234567890123456789.123456789"),
        "price": Decimal("19.90"),
        "at": "2025-12-20T18:00:00.5Z",
        "day": "2025-12-20",
        "words": ["a,b", None],
        "prices": [Decimal("1.10")],
        "pair": {"a": Decimal("1.5"), "b": "2025-12-20T12:00:00"},
        "named": {"k": 2},
        "bytes": "dead",
        "nan": None,
        "nothing": None,
        "empty": "",
        "text": 'x,"y"\nz',
    }


def test_parquet_keeps_the_types(laid: Laid, tmp_path: Path):
    file = tmp_path / "out.parquet"

    assert laid.ask(VALUES, "--output", file).exit_code == 0

    [row] = pq.read_table(file).to_pylist()
    assert row["exact"] == Decimal("12345678901234567890123456789.123456789") and row["price"] == Decimal("19.90")
    assert row["at"] == datetime(2025, 12, 20, 18, 0, 0, 500_000, tzinfo=UTC) and row["day"] == date(2025, 12, 20)
    assert row["words"] == ["a,b", None] and row["bytes"] == b"\xde\xad"


def test_parquet_goes_through_a_pipe(laid: Laid):
    laid.raw("network_events", EVENTS)

    result = laid.ask("from bronze.network_events", "--format", "parquet")

    assert pq.read_table(io.BytesIO(result.stdout_bytes)).num_rows == 3


@pytest.mark.parametrize(("form", "printed"), [("csv", "a"), ("json", "[]"), ("ndjson", ""), ("table", "a")])
def test_no_rows_are_no_mistake(laid: Laid, form: str, printed: str):
    result = laid.ask("select 1 as a where false", "--format", form)

    assert result.exit_code == 0
    assert "".join(result.stdout.split()) == printed


def test_rows_come_in_the_order_that_was_asked_for(laid: Laid):
    result = laid.ask("select range as n from range(300000) order by n desc", "--format", "csv")

    numbers = result.stdout.split()[1:]
    assert numbers == [str(n) for n in reversed(range(300_000))]


def test_columns_of_one_name_are_all_there(laid: Laid):
    assert laid.ask("select 1 as a, 2 as a", "--format", "csv").stdout.splitlines()[1] == "1,2"


def test_a_table_says_that_there_are_more_rows(laid: Laid):
    result = laid.ask("from range(1000)", "--rows", 5)

    assert len(result.stdout.splitlines()) == 6
    assert "there are more" in result.stderr
    assert "more" not in laid.ask("from range(5)", "--rows", 5).stderr


def test_a_table_shows_no_control_character_of_the_data(laid: Laid):
    result = laid.ask("select chr(27) || '[31mred' as e, 'a' || chr(10) || 'b' as l")

    assert "\x1b" not in result.stdout and "\\x1b[31mred" in result.stdout and "a\\nb" in result.stdout


def test_a_table_in_a_pipe_cuts_nothing(laid: Laid):
    assert "x" * 500 in laid.ask("select repeat('x', 500) as long, 1 as b").stdout


def test_rows_too_wide_for_a_terminal_are_shown_a_record_at_a_time(laid: Laid, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")

    wide = re.sub(r"\x1b\[[0-9;]*m", "", laid.ask("select repeat('x', 30) as first, repeat('y', 90) as second").stdout)
    narrow = re.sub(r"\x1b\[[0-9;]*m", "", laid.ask("select 1 as first, 2 as second").stdout)

    assert wide.split() == ["row", "1", "first", "x" * 30, "second", "y" * 90]
    assert narrow.split() == ["first", "second", "1", "2"]


def test_a_plan_is_shown(laid: Laid):
    laid.raw("network_events", EVENTS)

    assert "READ_PARQUET" in laid.ask("explain select bytes from bronze.network_events").stdout
    assert laid.ask("explain select 1", "--format", "csv").exit_code == 2


def test_a_query_is_read_from_standard_input(laid: Laid):
    assert json.loads(laid.ask("-", "--format", "json", input="select 1 as a -- one").stdout) == [{"a": 1}]


def test_the_spanish_names_of_options_are_taken(laid: Laid, tmp_path: Path):
    file = tmp_path / "out"

    assert laid.ask("select 1 as a", "--formato", "csv", "--salida", file).exit_code == 0
    assert file.read_text() == "a\n1\n"


# files that are written


def test_a_file_is_written_whole_or_not_at_all(laid: Laid, tmp_path: Path):
    file = tmp_path / "out.csv"
    file.write_text("as before")

    failed = laid.ask("select 10 / (range - 500000) as a, error('no') from range(1000000)", "--output", file)

    assert failed.exit_code == 1
    assert file.read_text() == "as before"
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == ["out.csv"]


def test_nothing_is_printed_where_a_query_fails_half_way(laid: Laid):
    sql = "select case when range < 900000 then 1 else error('too late') end from range(1000000)"

    result = laid.ask(sql, "--format", "csv")

    assert result.exit_code == 1 and result.stdout == "" and "too late" in result.stderr


def test_a_link_stays_one_when_its_file_is_written(laid: Laid, tmp_path: Path):
    (tmp_path / "real.csv").write_text("")
    (tmp_path / "link.csv").symlink_to("real.csv")

    assert laid.ask("select 1 as a", "--output", tmp_path / "link.csv").exit_code == 0
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text() == "a\n1\n"


def test_rows_can_be_written_into_a_pipe(laid: Laid, tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()

    assert laid.ask("select 1 as a", "--output", pipe, "--format", "csv").exit_code == 0

    reader.join(30)
    assert read == ["a\n1\n"]


@pytest.mark.parametrize("file", ["out.xlsx", "no/such/folder.csv", "."])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_read(laid: Laid, tmp_path: Path, file: str):
    assert laid.ask("from bronze.network_events", "--output", tmp_path / file).exit_code == 2


def test_who_reads_may_have_enough_before_the_end(laid: Laid):
    script = (
        f"{sys.executable} -m acequia_cli.main query 'from range(2000000)' --format csv --data {laid.data} | head -1"
    )

    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=120, check=False)

    assert done.stdout == "range\n" and done.stderr == ""


# what goes wrong


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("selec 1", 'syntax error at or near "selec" (line 1, column 1)'),
        ("select nix from bronze.network_events", 'column "nix" not found'),
        ("from network_events", "say bronze.network_events or silver.network_events"),
        ("from bronze.network_event", "did you mean bronze.network_events?"),
        ("from silver.acounts", "did you mean silver.accounts?"),
        ("from '/etc/passwd'", "does not exist"),
        ("from read_csv('/etc/passwd')", "read_csv can't be used here"),
    ],
)
def test_a_mistake_is_told_in_one_line(laid: Laid, sql: str, said: str):
    result = laid.ask(sql)

    assert result.exit_code == 2
    assert said in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_value_that_cannot_be_computed_is_told_in_one_line(laid: Laid):
    result = laid.ask("select 'a'::int")

    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1


def test_without_an_installation_there_is_nothing_to_ask(tmp_path: Path):
    result = Laid(tmp_path / "none").ask("select 1")

    assert result.exit_code == 2 and "there is no installation" in result.stderr
    assert not (tmp_path / "none").exists()


def test_an_url_alone_is_not_enough_and_what_is_missing_is_named():
    result = acequia("query", "select 1", "--url", "http://127.0.0.1:1")

    assert result.exit_code == 2
    assert "MINIO_ENDPOINT" in result.stderr and "ACEQUIA_LAKEHOUSE_CATALOG_URI" in result.stderr


def test_a_folder_that_is_named_comes_before_servers_in_the_environment(laid: Laid, monkeypatch: pytest.MonkeyPatch):
    laid.raw("network_events", EVENTS)
    monkeypatch.setenv("MINIO_ENDPOINT", "127.0.0.1:1")
    monkeypatch.setenv("ACEQUIA_URL", "http://127.0.0.1:1")

    assert ask(laid, "select count(*) as n from bronze.network_events") == [{"n": 3}]


def test_an_environment_of_the_settings_file_may_say_where_to_read(laid: Laid, tmp_path: Path):
    laid.raw("network_events", EVENTS)
    config = tmp_path / "acequia.toml"
    config.write_text(f'[env.field]\ndata = "{laid.data}"\n')
    sql = "select count(*) as n from bronze.network_events"

    result = acequia("query", sql, "--format", "json", "--env", "field", "--config", config)

    assert document(result) == [{"n": 3}]


def test_a_settings_file_that_is_not_there_is_told(laid: Laid, tmp_path: Path):
    assert laid.ask("select 1", "--env-file", tmp_path / ".env").exit_code == 2


def test_an_amount_of_memory_that_is_none_is_told(laid: Laid):
    result = laid.ask("select 1", "--memory-limit", "much")

    assert result.exit_code == 2 and "--memory-limit much" in result.stderr


# what it reaches


def test_no_extension_is_loaded_or_fetched(laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    laid.raw("network_events", EVENTS)
    laid.table("accounts", ACCOUNT).append(accounts((1, "Ana", 1)))
    settings = "select name, value from duckdb_settings() where name like 'auto%known_extensions' order by 1"

    ask(laid, "select count(*) as n from bronze.network_events, silver.accounts")

    assert ask(laid, settings) == [
        {"name": "autoinstall_known_extensions", "value": "false"},
        {"name": "autoload_known_extensions", "value": "false"},
    ]
    assert not (tmp_path / "home").exists()


def test_the_engine_reaches_no_file_but_the_objects_whatever_it_is_told(tmp_path: Path):
    """The second wall behind `read_statement`."""
    secret, other = tmp_path / "secret.csv", tmp_path / "other"
    secret.write_text("a\n1\n")
    rows = tmp_path / "rows.parquet"
    EVENTS.write_parquet(rows)
    files = SnapshotFiles()
    pattern = files.add("bronze/x", Files({"a.parquet": rows.stat().st_size}, lambda _: pa.OSFile(str(rows))))
    before = rows.read_bytes()

    with engine.open_engine(files, memory="1GB", temp=tmp_path / "temp") as duck:
        assert duck.sql(f"select count(*) from read_parquet('{pattern}')").fetchall() == [(3,)]
        for sql in (
            f"from read_csv('{secret}')",
            f"from '{secret}'",
            f"copy (select 1) to '{other}'",
            "copy (select 1) to 'acequia://bronze/x/a.parquet' (format parquet)",
            "from read_parquet('acequia://bronze/x/b.parquet')",
            "from read_parquet('https://example.com/a.parquet')",
            f"attach '{other}'",
            "install httpfs",
            "load httpfs",
            "set enable_external_access = true",
            "set autoinstall_known_extensions = true",
            "from secret",
        ):
            with pytest.raises(engine.duckdb.Error):
                duck.execute(sql).fetchall()
    assert rows.read_bytes() == before and not other.exists()


def test_a_query_that_needs_more_than_its_memory_uses_disk_and_leaves_nothing(
    laid: Laid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "temp").mkdir()
    monkeypatch.setenv("ACEQUIA_TEMP_DIR", str(tmp_path / "temp"))
    sql = "select count(*) as n, max(h) > 0 as ok from (select hash(range) as h from range(6000000) order by h)"

    assert ask(laid, sql, "--memory-limit", "60MB") == [{"n": 6_000_000, "ok": True}]
    assert list((tmp_path / "temp").iterdir()) == []


def test_a_query_is_answered_while_another_process_writes_to_the_catalog(laid: Laid):
    laid.table("accounts", ACCOUNT).append(accounts((1, "Ana", 1)))
    writer = sqlite3.connect(laid.data / "lake" / "catalog.sqlite", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    try:
        assert ask(laid, "select name from silver.accounts") == [{"name": "Ana"}]
    finally:
        writer.execute("ROLLBACK")
        writer.close()


# objects that go meanwhile


class Vanishing:
    """Objects of RAW go between the look at them and the read, some times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, times: int) -> None:
        self.left = times
        self.looks = 0
        self._content = path.read_bytes()
        self._path = path
        walk = stored.Folder._walk

        def walked(place: stored.Folder, folder: Path, until: datetime | None) -> Any:
            path.write_bytes(self._content)
            found = list(walk(place, folder, until))
            self.looks += 1
            if self.left:
                self.left -= 1
                path.unlink()
            return iter(found)

        monkeypatch.setattr(stored.Folder, "_walk", walked)


def test_an_object_that_goes_before_it_is_read_is_looked_for_again(laid: Laid, monkeypatch: pytest.MonkeyPatch):
    vanishing = Vanishing(monkeypatch, laid.raw("network_events", EVENTS), times=1)

    assert ask(laid, "select count(bytes) as n from bronze.network_events") == [{"n": 3}]
    assert vanishing.looks == 2


def test_objects_that_keep_going_end_the_query_in_one_line(laid: Laid, monkeypatch: pytest.MonkeyPatch):
    vanishing = Vanishing(monkeypatch, laid.raw("network_events", EVENTS), times=9)

    result = laid.ask("select count(bytes) as n from bronze.network_events", "--format", "csv")

    assert result.exit_code == 1 and result.stdout == ""
    assert "go while they are read" in result.stderr and len(result.stderr.splitlines()) == 1
    assert vanishing.looks == engine.ATTEMPTS


def test_a_table_that_is_changed_meanwhile_is_planned_again(laid: Laid, monkeypatch: pytest.MonkeyPatch):
    table = laid.table("accounts", ACCOUNT)
    table.append(accounts((1, "Ana", 1)))
    plan_files = DataScan.plan_files
    gone: list[str] = []

    def and_expired(self: DataScan) -> list[FileScanTask]:
        tasks = list(plan_files(self))
        if not gone:
            gone.append(tasks[0].file.file_path)
            laid.catalog().load_table("silver.accounts").overwrite(accounts((1, "Anna", 2)))
            Path(gone[0].removeprefix("file://")).unlink()
        return tasks

    monkeypatch.setattr(DataScan, "plan_files", and_expired)

    assert ask(laid, "select name from silver.accounts") == [{"name": "Anna"}]
    assert gone


def test_ctrl_c_ends_a_query_with_130_and_leaves_nothing(laid: Laid, tmp_path: Path):
    file = tmp_path / "out.csv"
    endless = "select count(*) from range(100000000000) a, range(100000) b"
    command = [sys.executable, "-m", "acequia_cli.main", "query", endless, "--output", str(file)]
    running = subprocess.Popen(
        [*command, "--data", str(laid.data)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.csv.*")) and time.monotonic() < deadline:
        time.sleep(0.05)

    running.send_signal(2)
    _, said = running.communicate(timeout=60)

    assert running.returncode == 130
    assert said == "acequia: stopped: nothing was written\n"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


async def test_who_presses_ctrl_c_again_does_not_leave_a_query_that_goes_on():
    interrupted, over = threading.Event(), threading.Event()

    class Busy:
        def interrupt(self) -> None:
            interrupted.set()

    asking = asyncio.create_task(engine.in_thread(Busy(), lambda: over.wait(30)))  # type: ignore[arg-type]
    for _ in range(3):
        await asyncio.sleep(0.05)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    await asyncio.to_thread(interrupted.wait, 30)
    assert not asking.done()
    over.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
