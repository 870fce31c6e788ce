"""ingest tables: what its flags ask for, what it prints, and its exit code."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from acequia_cli.main import app

from .conftest import RUN, Server, bare_page, event, page, problem

PACK = {
    "accounts", "account_subscriptions", "subscriptions", "features", "subscription_features", "contents",
    "content_attributes", "payments",
}  # fmt: skip


def acequia(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["ingest", "tables", *arguments])


def check(name: str, *, passed: bool = True, on_failure: str = "warn", **more: Any) -> dict[str, Any]:
    return {"name": name, "on_failure": on_failure, "passed": passed, "found": 0, "expected": 0, **more}


def table(**more: Any) -> dict[str, Any]:
    return {
        "load": 7,
        "kind": "changes",
        "rows": 1000,
        "deleted": 3,
        "parts": 1,
        "checks": [check("row_count", on_failure="block"), check("freshness")],
        "columns_added": [],
        "rejected": None,
        **more,
    }


def lay(server: Server, state: str = "done", *further: Any, **tables: Any) -> Server:
    """A server that takes the run on and then tells this of it."""
    told = tables or {"accounts": table()}
    server.lay("POST", "/ingestions", {"run_id": RUN}, status=202)
    told_page = page(state, event("ingestor", parameters={"tables": told}), *further, raw_objects=len(told))
    server.lay("GET", f"/ingestions/{RUN}", bare_page(), told_page)
    return server


def asked(server: Server) -> dict[str, Any]:
    """The source of the one request."""
    [body] = [body for method, _, _, body in server.asked if method == "POST"]
    document = json.loads(body)
    assert set(document) == {"source"}
    return dict(document["source"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tables", "accounts", "subscriptions", "--full-refresh", "accounts"),
        ("--tables", "accounts,subscriptions", "--full-refresh=accounts"),
        ("--tables", "accounts", "--tables", "subscriptions", "--full-refresh", "accounts"),
        ("--full-refresh", "accounts", "--tables", "accounts", "subscriptions,accounts"),
        ("--tablas", "accounts", "subscriptions", "--refrescar", "accounts"),
    ],
)
def test_several_tables_follow_one_flag_or_commas_or_repeated_flags(connected: Server, arguments: tuple[str, ...]):
    lay(connected)

    assert acequia(*arguments).exit_code == 0

    assert asked(connected) == {
        "kind": "postgres",
        "tables": ["accounts", "subscriptions"],
        "full_refresh": ["accounts"],
        "only_validate": False,
    }


def test_without_tables_the_server_takes_all_of_the_pack(connected: Server):
    lay(connected)

    acequia("--pack", "subscriptions", "--connection", "crm")

    source = asked(connected)
    assert (source["tables"], source["pack"], source["connection"]) == ([], "subscriptions", "crm")


@pytest.mark.parametrize("flag", ["--full-refresh", "--refrescar-todo"])
def test_a_full_refresh_of_nothing_named_is_one_of_all_that_is_loaded(connected: Server, flag: str):
    lay(connected)

    acequia("--tables", "accounts", "payments", flag, "--json")

    assert asked(connected)["full_refresh"] == ["accounts", "payments"]


def test_a_full_refresh_alone_is_one_of_the_whole_pack(connected: Server):
    lay(connected)

    acequia("--full-refresh")

    assert set(asked(connected)["full_refresh"]) == PACK


@pytest.mark.parametrize("flag", ["--only-validate", "--solo-validar"])
def test_only_validating_loads_nothing_and_lists_every_check(connected: Server, flag: str):
    lay(connected, accounts=table(load=None, kind="full", parts=0))

    result = acequia(flag, "--tables", "accounts")

    assert asked(connected)["only_validate"] is True
    assert "check row_count passed: found 0, expected 0" in result.stdout
    assert "Checked: 1 table" in result.stdout and "nothing was loaded" in result.stdout
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only-validate", "--full-refresh", "accounts"), "--only-validate loads nothing"),
        (("--pack", "subscriptions", "--tables", "accounts"), "choose one"),
        (("--pack", "other", "--full-refresh"), "which pack of subscriptions"),
        (("--tables",), "--tables"),
        (("accounts",), "accounts"),
        (("--env", "prod", "--url", "http://x"), "--env prod says where Acequia is"),
    ],
)
def test_what_contradicts_itself_is_wrong_use(connected: Server, arguments: tuple[str, ...], said: str):
    result = acequia(*arguments)

    assert result.exit_code == 2
    assert said in result.stderr
    assert not connected.asked


def test_a_table_that_nobody_knows_is_wrong_use(connected: Server):
    connected.lay("POST", "/ingestions", problem(422, "No table is named 'acounts'.", allowed=["accounts"]))

    result = acequia("--tables", "acounts")

    assert result.exit_code == 2
    assert "No table is named 'acounts'. Allowed: accounts" in result.stderr


def test_it_tells_of_each_table_what_came(connected: Server):
    lay(
        connected,
        accounts=table(columns_added=["nickname"]),
        features=table(kind="full", rows=12, deleted=0, parts=2),
        payments=table(rows=0, deleted=0, parts=0),
    )

    result = acequia()
    lines = [line.split() for line in result.stdout.splitlines()]

    assert ["accounts", "changes", "1,000", "3", "1", "2", "passed"] in lines
    assert ["features", "full", "12", "0", "2", "2", "passed"] in lines
    assert ["payments", "no", "changes", "0", "0", "0", "2", "passed"] in lines
    assert "accounts: new columns: nickname" in result.stdout
    assert "Done: 3 tables, 1,012 rows, 3 of them deletions" in result.stdout
    assert result.exit_code == 0


def test_a_run_without_changes_is_a_success(connected: Server):
    lay(connected, accounts=table(rows=0, deleted=0, parts=0))

    result = acequia()

    assert "Done: 1 table, no changes" in result.stdout
    assert result.exit_code == 0


LATE = check("freshness", passed=False, found=72.5, expected=48)


def test_a_warning_is_told_and_is_no_failure(connected: Server):
    lay(connected, accounts=table(checks=[check("row_count", on_failure="block"), LATE]))

    result = acequia()

    assert "accounts: check freshness failed (warn): found 72.5, expected 48" in result.stdout
    assert "check row_count" not in result.stdout
    assert "1 passed, 1 failed" in result.stdout
    assert result.exit_code == 0


@pytest.mark.parametrize("flag", ["--validate", "--validar-calidad-datos"])
def test_with_validate_every_check_is_listed_and_a_warning_fails(connected: Server, flag: str):
    lay(connected, accounts=table(checks=[check("row_count", on_failure="block"), LATE]))

    result = acequia(flag)

    assert "check row_count passed" in result.stdout and "check freshness failed" in result.stdout
    assert "accounts: check freshness failed" in result.stdout.splitlines()[-2]
    assert result.exit_code == 1


@pytest.mark.parametrize("severity", ["block", "quarantine"])
def test_a_check_that_stops_the_data_fails_the_command(connected: Server, severity: str):
    bad = check("duplicate_keys", passed=False, on_failure=severity, found=2)
    lay(connected, accounts=table(checks=[bad]))

    result = acequia()

    assert f"accounts: check duplicate_keys failed ({severity}): found 2, expected 0" in result.stdout
    assert result.exit_code == 1


def test_a_blocked_table_is_told_once(connected: Server):
    bad = check("duplicate_keys", passed=False, on_failure="block", found=2)
    left = event("transformer", "REJECTED", error={"rule": "blocked", "message": "blocked by duplicate_keys"})
    lay(connected, "rejected", left, accounts=table(checks=[bad], blocked=["duplicate_keys"]))

    document = json.loads(acequia("--json").stdout)

    assert document["problems"] == ["accounts: check duplicate_keys failed"]


def test_a_rejected_table_fails_the_command_with_its_reason_and_the_others_are_told(connected: Server):
    lay(
        connected,
        accounts=table(),
        payments=table(rows=0, parts=0, rejected="columns_changed", reason="amount is no longer there"),
    )

    result = acequia()

    assert "payments: rejected (columns_changed): amount is no longer there" in result.stdout
    assert ["accounts", "changes", "1,000", "3", "1", "2", "passed"] in [x.split() for x in result.stdout.splitlines()]
    assert result.exit_code == 1


def test_a_stage_that_rejects_or_gives_up_fails_the_command(connected: Server):
    lay(
        connected,
        "done",
        event(
            "transformer",
            "REJECTED",
            stem="account_subscriptions_20251220_121209_9f2c4e1a7b3d5e60_0001",
            error={"rule": "too_many_rejected", "message": "half of it is wrong"},
        ),
        event("lakehouse", "DEAD", error={"message": "OSError: no space left"}),
    )

    document = json.loads(acequia("--json").stdout)

    assert document["problems"] == [
        "account_subscriptions at the transformer: half of it is wrong",
        "the lakehouse: OSError: no space left",
    ]
    assert document["ok"] is False


def test_a_run_that_was_never_carried_out_fails_with_its_reason(connected: Server):
    connected.lay("POST", "/ingestions", {"run_id": RUN}, status=202)
    error = {"type": "RejectedInput", "rule": "no_source", "message": "no database is set to read from"}
    connected.lay("GET", f"/ingestions/{RUN}", page("rejected", event("ingestor", "REJECTED"), error=error))

    result = acequia()

    assert "no database is set to read from" in result.stdout
    assert result.exit_code == 1


def test_who_gives_up_waiting_is_told_that_the_run_goes_on(connected: Server):
    connected.lay("POST", "/ingestions", {"run_id": RUN}, status=202)
    connected.lay("GET", f"/ingestions/{RUN}", bare_page())

    result = acequia("--timeout", "0")

    assert result.exit_code == 1
    assert RUN in result.stderr and "goes on" in result.stderr


@pytest.mark.parametrize("flag", ["--no-wait", "--sin-esperar"])
def test_without_waiting_it_returns_once_the_run_is_accepted(connected: Server, flag: str):
    lay(connected)

    result = acequia(flag, "--json", "--idempotency-key", "tonight")

    assert json.loads(result.stdout) == {"run_id": RUN, "state": "accepted", "finished": False}
    [(method, _, headers, _)] = connected.asked
    assert method == "POST" and headers["idempotency-key"] == "tonight"
    assert result.exit_code == 0


def test_the_help_tells_the_exit_codes_and_hides_the_spanish_names():
    text = CliRunner().invoke(app, ["ingest", "tables", "--help"]).stdout

    assert "Exit code 0" in text and "acequia ingest tables --env local --tables accounts subscriptions" in text
    assert "--tablas" not in text and "--entorno" not in text
