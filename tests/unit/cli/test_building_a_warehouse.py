"""`acequia warehouse build`: a DuckDB file with every table, built beside the old one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from acequia_cli import warehouse

from .laid import EVENTS, Laid, acequia

WELL = pa.schema([("well", pa.string()), ("depth_m", pa.decimal128(8, 2))])
READER = """
import sys, duckdb
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
count = "select count(*) from bronze.network_events"
print(con.sql(count).fetchall()[0][0], flush=True)
sys.stdin.readline()
print(con.sql(count).fetchall()[0][0], flush=True)
"""
OTHER = """
import sys, duckdb
con = duckdb.connect(sys.argv[1])
con.execute("checkpoint")
print("open", flush=True)
sys.stdin.readline()
con.close()
"""


@pytest.fixture
def laid(tmp_path: Path) -> Laid:
    place = Laid(tmp_path / "data")
    (place.data / "store").mkdir(parents=True)
    place.raw("network_events", EVENTS)
    return place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "warehouse.duckdb"


def build(laid: Laid, file: Path, *options: object) -> Any:
    return acequia("warehouse", "build", file, "--data", laid.data, *options)


def rows(file: Path, sql: str) -> list[Any]:
    with duckdb.connect(str(file), read_only=True) as warehouse:
        return warehouse.sql(sql).fetchall()


def test_every_table_is_in_the_file(laid: Laid, file: Path):
    table = laid.table("wells", WELL)
    table.append(pa.Table.from_pylist([{"well": "A-1", "depth_m": None}], schema=WELL))

    result = build(laid, file, "--json")

    built = {each["table"]: each["rows"] for each in json.loads(result.stdout)["tables"]}
    assert built["bronze.network_events"] == 3 and built["silver.wells"] == 1 and built["bronze.sensor_data"] == 0
    assert rows(file, "select sum(bytes)::int, min(_date)::varchar from bronze.network_events") == [(600, "2025-12-20")]
    assert rows(file, "select well, typeof(depth_m) from silver.wells") == [("A-1", "DECIMAL(8,2)")]
    assert rows(file, "from bronze.sensor_data") == []
    kinds = "select distinct table_type from information_schema.tables where table_schema in ('bronze', 'silver')"
    assert rows(file, kinds) == [("BASE TABLE",)]


def test_the_file_says_what_was_built_from_what(laid: Laid, file: Path):
    table = laid.table("wells", WELL)
    table.append(pa.Table.from_pylist([{"well": "A-1", "depth_m": None}], schema=WELL))
    snapshot = table.current_snapshot()
    assert snapshot is not None

    build(laid, file)

    sql = "select rows, files, snapshot, built_at is not null from acequia.built where table_name = 'wells'"
    assert rows(file, sql) == [(1, 1, snapshot.snapshot_id, True)]


def test_building_again_is_building_it_anew(laid: Laid, file: Path):
    build(laid, file)
    laid.raw("network_events", EVENTS, part=2)

    assert build(laid, file).exit_code == 0
    assert build(laid, file).exit_code == 0

    assert rows(file, "select count(*) from bronze.network_events") == [(6,)]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("how", ["read", "write"])
def test_who_has_the_old_file_open_goes_on_with_it(laid: Laid, file: Path, how: str):
    build(laid, file)
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(file), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "3\n"
    laid.raw("network_events", EVENTS, part=2)

    result = build(laid, file)

    after, _ = reader.communicate("\n", timeout=60)
    assert result.exit_code == 0, result.stderr
    assert after == "3\n"
    assert rows(file, "select count(*) from bronze.network_events") == [(6,)]


@pytest.mark.parametrize(
    ("only", "tables"),
    [
        (["bronze.network_events"], {"bronze.network_events"}),
        (["silver.accounts", "bronze.accounts"], {"silver.accounts", "bronze.accounts"}),
    ],
)
def test_only_some_tables_can_be_built(laid: Laid, file: Path, only: list[str], tables: set[str]):
    result = build(laid, file, "--json", *(word for name in only for word in ("--only", name)))

    assert {each["table"] for each in json.loads(result.stdout)["tables"]} == tables


def test_only_one_schema_can_be_built(laid: Laid, file: Path):
    result = build(laid, file, "--json", "--only", "silver", "--only", "bronze.accounts")

    built = {each["table"] for each in json.loads(result.stdout)["tables"]}
    assert {name for name in built if name.startswith("bronze.")} == {"bronze.accounts"}
    assert "silver.network_events" in built


def test_bronze_alone_needs_no_catalog(laid: Laid, file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACEQUIA_LAKEHOUSE_CATALOG_URI", "postgresql://nobody@127.0.0.1:1/none")

    result = build(laid, file, "--json", "--only", "bronze")

    built = {each["table"]: each["rows"] for each in json.loads(result.stdout)["tables"]}
    assert built["bronze.network_events"] == 3 and not any(name.startswith("silver.") for name in built)


@pytest.mark.parametrize("only", ["gold", "bronze.nothing", "network_events"])
def test_a_table_that_is_not_there_is_told(laid: Laid, file: Path, only: str):
    assert build(laid, file, "--only", only).exit_code == 2
    assert not file.exists()


def test_it_can_be_built_as_of_a_time(laid: Laid, file: Path):
    laid.raw("network_events", EVENTS, modified="2025-12-20T06:00:00Z")
    laid.raw("network_events", EVENTS, part=2, modified="2025-12-20T08:00:00Z")

    build(laid, file, "--as-of", "2025-12-20T07:00Z")

    assert rows(file, "select count(*) from bronze.network_events") == [(3,)]


def test_a_build_that_fails_leaves_the_old_file_and_nothing_else(laid: Laid, file: Path):
    build(laid, file)
    laid.raw("network_events", EVENTS, part=2).write_bytes(b"PAR1 and nothing more PAR1")

    result = build(laid, file)

    assert result.exit_code == 1 and len(result.stderr.splitlines()[-1:]) == 1
    assert rows(file, "select count(*) from bronze.network_events") == [(3,)]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_file_of_somebody_elses_is_not_replaced_unless_that_is_meant(laid: Laid, file: Path):
    with duckdb.connect(str(file)) as theirs:
        theirs.execute("create table mine as select 42 as a")

    assert build(laid, file).exit_code == 2
    assert rows(file, "from mine") == [(42,)]
    assert build(laid, file, "--replace").exit_code == 0
    assert rows(file, "select count(*) from bronze.network_events") == [(3,)]


def test_a_file_that_is_no_database_is_not_replaced(laid: Laid, file: Path):
    file.write_text("a letter")

    result = build(laid, file)

    assert result.exit_code == 2 and "was not built by this command" in result.stderr
    assert file.read_text() == "a letter"


def test_what_somebody_wrote_into_the_old_file_and_is_not_yet_in_it_keeps_it(laid: Laid, file: Path):
    build(laid, file)
    (file.parent / f"{file.name}.wal").write_bytes(b"changes")

    result = build(laid, file)

    assert result.exit_code == 1 and "lies beside it" in result.stderr


def test_what_a_killed_build_left_goes_and_one_that_lives_is_left_alone(laid: Laid, file: Path):
    (file.parent / f".{file.name}.0123456789ab.part").write_bytes(b"half")
    living = file.parent / f".{file.name}.ba9876543210.part"
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(living)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"

    result = build(laid, file)

    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in file.parent.iterdir()) == sorted([living.name, file.name])
    other.communicate("\n", timeout=60)


def test_a_folder_is_no_file(laid: Laid, file: Path):
    assert build(laid, file.parent).exit_code == 2
    assert build(laid, file / "deeper" / "x.duckdb").exit_code == 2


def test_objects_that_come_while_it_is_built_wait_for_the_next_time(
    laid: Laid, file: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is in the file is what was there when the build began, for all tables."""
    copy = warehouse._copy

    def and_another(*arguments: Any) -> int:
        laid.raw("network_events", EVENTS, part=2)
        laid.raw("sensor_data", pl.DataFrame({"well": ["A-1"], "_line": [1]}))
        return copy(*arguments)

    monkeypatch.setattr(warehouse, "_copy", and_another)

    assert build(laid, file).exit_code == 0
    assert rows(file, "select count(*) from bronze.network_events") == [(3,)]
    assert rows(file, "select count(*) from bronze.sensor_data") == [(0,)]
