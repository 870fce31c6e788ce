"""What SQL is taken for a query, and of which tables."""

from pathlib import Path

import duckdb
import pytest

from acequia_cli.complaints import WrongUse
from acequia_cli.statement import read_statement


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("select * from bronze.a join Silver.B using (x)", {("bronze", "a"), ("silver", "b")}),
        ("with a as (from bronze.b) select (select max(x) from silver.c) from a", {("bronze", "b"), ("silver", "c")}),
        ("describe bronze.a", {("bronze", "a")}),
        ("explain analyze select 1 from bronze.a", {("bronze", "a")}),
        ("from (pivot silver.a on x in (1, 2) using sum(y))", {("silver", "a")}),
        ('select 1 where exists (from "bronze"."a") -- silver.b', {("bronze", "a")}),
        ("values (1)", set()),
    ],
)
def test_the_tables_of_a_query_are_those_it_names(sql: str, tables: set[tuple[str, str]]):
    statement = read_statement(sql)

    assert statement.tables == tables
    assert not statement.all_tables


@pytest.mark.parametrize(
    "sql",
    [
        "show all tables",
        "from information_schema.tables",
        "from duckdb_views()",
        "from query_table('bronze.a')",
    ],
)
def test_what_asks_about_tables_as_such_is_about_all_of_them(sql: str):
    assert read_statement(sql).all_tables


@pytest.mark.parametrize(
    "sql",
    [
        "copy (select 1) to '{file}'",
        "explain analyze copy (select 1) to '{file}'",
        "with a as (copy (select 1) to '{file}') from a",
        "with a as (with b as (copy (select 1) to '{file}') from b) from a",
        "with a as (insert into t values (1) returning *) from a",
        "attach '{file}'",
        "create table t as select 1",
        "export database '{file}'",
        "install httpfs",
        "set memory_limit = '1TB'",
        "prepare p as copy (select 1) to '{file}'",
        "call force_checkpoint()",
        "from query('copy (select 1) to ''{file}''')",
        "from enable_logging(storage = 'file', storage_path = '{file}')",
        "from read_csv('{file}')",
        "from read_text('{file}')",
        "from glob('/*')",
    ],
)
def test_what_writes_or_reads_elsewhere_is_no_query(sql: str, tmp_path: Path):
    with pytest.raises(WrongUse):
        read_statement(sql.format(file=tmp_path / "x"))

    assert not list(tmp_path.iterdir())


def test_duckdb_itself_takes_a_select_that_writes_for_a_query(tmp_path: Path):
    """Why the statement's kind is not enough. Where this fails, DuckDB has become stricter."""
    sql = f"with a as (copy (select 1) to '{tmp_path / 'x'}') from a"

    [statement] = duckdb.extract_statements(sql)

    assert statement.type == duckdb.StatementType.SELECT


@pytest.mark.parametrize("sql", ["select 1; select 2", "", " ; ", "-- nothing", "/* nothing */"])
def test_just_one_statement_is_run(sql: str):
    with pytest.raises(WrongUse):
        read_statement(sql)


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("selec 1", "line 1, column 1"),
        ("select 1\nfrom a wher b", "line 2, column 13"),
        ("explain selec 1", "line 1, column 9"),
        ("select 'é' from a wher b", "line 1, column 24"),
    ],
)
def test_a_syntax_error_says_where_it_is(sql: str, place: str):
    with pytest.raises(WrongUse, match=f"{place}"):
        read_statement(sql)


@pytest.mark.parametrize("tail", [";", " ; ;", "; -- that was it", " /* ; */ ;"])
def test_what_follows_a_statement_does_no_harm(tail: str):
    assert read_statement(f"select ';' as a{tail}").text == "select ';' as a"


def test_a_query_that_is_nested_too_deeply_is_told_so():
    with pytest.raises(WrongUse, match="too deeply"):
        read_statement("select " + "abs(" * 900 + "1" + ")" * 900)
