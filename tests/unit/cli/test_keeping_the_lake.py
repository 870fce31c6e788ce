"""`acequia lake`: what is asked of the lakehouse, and what a person is told."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import Result

from .conftest import Server, problem
from .laid import acequia

TABLE = {
    "table": "silver.accounts",
    "dataset": "accounts",
    "location": "s3://lake/warehouse/silver/accounts",
    "rows": 1_234_567,
    "files": 12,
    "bytes": 34_000_000,
    "snapshots": 2,
    "snapshot": 7206139580454395979,
    "changed_at": "2026-11-21T16:44:28.775000+00:00",
    "last_plan": "accounts/000002",
    "columns": {"account_id": "long"},
}
COMPACTED = {"table": "silver.accounts", "files_before": 12, "files_after": 2, "rows": 100, "commits": 1}
EXPIRED = {
    "table": "silver.accounts",
    "snapshots_before": 9,
    "snapshots_after": 2,
    "files_removed": 20,
    "orphans_removed": 1,
}


def lake(*arguments: str) -> Result:
    return acequia("lake", *arguments, "--url", "http://acequia.test")


def test_tables_are_shown_with_rows_files_and_snapshots(connected: Server):
    connected.lay("GET", "/lake/tables", {"tables": [TABLE]})

    result = lake("tables")

    assert result.exit_code == 0
    for shown in ("silver.accounts", "1,234,567", "12", "34.0 MB", "7206139580454395979", "2026-11-21 16:44:28"):
        assert shown in result.stdout


def test_the_document_of_tables_is_what_the_lakehouse_says(connected: Server):
    connected.lay("GET", "/lake/tables", {"tables": [TABLE]})

    assert json.loads(lake("tables", "--dataset", "accounts", "--json").stdout) == {"tables": [TABLE]}


def test_a_dataset_without_a_table_is_told(connected: Server):
    connected.lay("GET", "/lake/tables", {"tables": [TABLE]})

    assert lake("tables", "--dataset", "payments").exit_code == 1


def test_a_lake_without_a_table_says_when_one_comes(connected: Server):
    connected.lay("GET", "/lake/tables", {"tables": []})

    result = lake("tables")

    assert result.exit_code == 0 and "no table yet" in result.stdout


@pytest.mark.parametrize("options", [[], ["--dataset", "accounts"], ["--dry-run"]])
def test_compacting_asks_for_what_was_said(connected: Server, options: list[str]):
    connected.lay("POST", "/lake/compact", {"tables": [COMPACTED]})

    result = lake("compact", *options)

    [(_, _, _, body)] = connected.asked
    asked = json.loads(body)
    assert asked == {"dry_run": "--dry-run" in options, **({"dataset": "accounts"} if "accounts" in options else {})}
    assert result.exit_code == 0 and "10 files fewer" in result.stdout
    assert ("--dry-run" in result.stdout) == ("--dry-run" in options)


def test_what_is_older_than_a_span_expires(connected: Server):
    connected.lay("POST", "/lake/expire", {"tables": [EXPIRED]})

    result = lake("expire", "--older-than", "30d")

    [(_, _, _, body)] = connected.asked
    asked = json.loads(body)
    before = datetime.fromisoformat(asked["older_than"])
    assert abs(datetime.now(UTC) - timedelta(days=30) - before) < timedelta(minutes=5)
    assert "7 snapshots and 21 files gone" in result.stdout


def test_without_a_span_the_lakehouse_decides_what_expires(connected: Server):
    connected.lay("POST", "/lake/expire", {"tables": [EXPIRED]})

    document = json.loads(lake("expire", "--dry-run", "--json").stdout)

    [(_, _, _, body)] = connected.asked
    assert json.loads(body) == {"dry_run": True}
    assert document == {"dry_run": True, "tables": [EXPIRED]}


def test_a_span_that_is_none_is_a_mistake(connected: Server):
    assert lake("expire", "--older-than", "long").exit_code == 2
    assert not connected.asked


def test_an_unknown_table_is_told_in_one_line(connected: Server):
    connected.lay("POST", "/lake/compact", problem(404, "no table holds 'nix'"))

    result = lake("compact", "--dataset", "nix")

    assert result.exit_code == 1 and result.stderr == "acequia: no table holds 'nix'\n"
