"""datasets, and formats."""

import json

import pytest
from typer.testing import CliRunner, Result

from acequia_cli.main import app

from .conftest import Server

DATASETS = [
    {
        "name": "accounts",
        "title": "Accounts",
        "columns": {"account_id": "Int64"},
        "formats": [],
        "patterns": [],
        "spellings": {},
        "synthetic": False,
        "readers": ["lakehouse", "transformer"],
        "key": ["account_id"],
        "table": {"relation": "public.accounts", "pack": "subscriptions", "cursor": "updated_at"},
        "schedules": [{"name": "accounts_daily", "cron": "0 6 * * *", "timezone": "America/Mexico_City"}],
    },
    {
        "name": "events",
        "title": "Events",
        "columns": {"at": "Date"},
        "formats": ["flow_csv"],
        "patterns": ["events*.csv"],
        "spellings": {},
        "synthetic": True,
        "readers": ["transformer"],
        "key": [],
        "table": None,
        "schedules": [],
    },
]
FORMATS = [
    {
        "name": "flow_csv",
        "title": "Flows",
        "datasets": ["events"],
        "description": "What a collector writes.\n\n[Null]: -",
    },
    {"name": "log", "title": "A log", "datasets": [], "description": "Lines."},
]


def acequia(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def there(connected: Server) -> Server:
    connected.lay("GET", "/datasets", DATASETS)
    connected.lay("GET", "/formats", FORMATS)
    return connected


def test_a_dataset_is_told_with_its_table_its_key_and_its_schedules(there: Server) -> None:
    text = acequia("datasets").stdout
    for said in (
        "public.accounts of the pack subscriptions, what changed by updated_at",
        "accounts_daily: 0 6 * * * America/Mexico_City",
        "events*.csv",
        "flow_csv",
    ):
        assert said in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("key")] == ["account_id"]


def test_only_what_a_dataset_has_is_told_of_it(there: Server) -> None:
    labels = {line.split()[0] for line in acequia("datasets", "events").stdout.splitlines()[1:]}
    assert labels == {"columns", "formats", "files", "synthetic", "readers"}


def test_just_the_datasets_that_are_named_are_told(there: Server) -> None:
    assert "accounts" not in acequia("datasets", "events").stdout
    document = json.loads(acequia("datasets", "events", "--json").stdout)
    assert [dataset["name"] for dataset in document["datasets"]] == ["events"]


def test_formats_are_listed_with_what_they_give(there: Server) -> None:
    lines = acequia("formats").stdout.splitlines()
    assert lines[0].split() == ["flow_csv", "Flows", "events"]
    assert "What a collector writes" not in "".join(lines)


def test_a_format_that_is_named_is_described_as_its_file_says(there: Server) -> None:
    text = acequia("formats", "flow_csv").stdout
    assert "What a collector writes.\n\n[Null]: -" in text
    assert "Lines." not in text


@pytest.mark.parametrize(("command", "there_is"), [("datasets", "accounts, events"), ("formats", "flow_csv, log")])
def test_an_unknown_name_is_told_with_those_that_there_are(there: Server, command: str, there_is: str) -> None:
    result = acequia(command, "nothing")
    assert result.exit_code == 2
    assert f"'nothing'. There is: {there_is}." in result.stderr
