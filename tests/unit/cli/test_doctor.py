"""What the doctor says of what it was told, and how it prints it. What it finds on servers is in tests/integration."""

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from acequia.adapters.rabbit_probe import Heard, QueueLook
from acequia.errors import ConfigurationError, TransientFailure
from acequia.layers import Buckets
from acequia.settings import PostgresSettings
from acequia.topology import topology
from acequia_auditor.probe import DatabaseLook
from acequia_cli.doctor.broker import explain_queue, tell_dead, tell_lengths, tell_missing, tell_version
from acequia_cli.doctor.command import SERVERS
from acequia_cli.doctor.database import tell_database
from acequia_cli.doctor.events import Canary, tell_events
from acequia_cli.doctor.findings import Chart, Finding, State
from acequia_cli.doctor.here import examine_clock, examine_folder
from acequia_cli.doctor.services import examine_services
from acequia_cli.main import app

from .conftest import Server, problem

TABLE = topology(Buckets())
RAW = next(n for n in TABLE.notifications if n.routing_key == "object.raw")


def only(chart: Chart) -> Finding:
    [finding] = chart.findings
    return finding


# how it is told


def test_a_finding_is_one_line_and_its_mend_line_stands_below_what_is_wrong():
    finding = Finding("buckets", State.FAIL, "missing: x-raw", "start a service")
    first, second = finding.lines(10)
    assert first == "FAIL    buckets     missing: x-raw"
    assert second.strip() == "mend: start a service"
    assert second.index("mend") == first.index("missing")


def test_what_is_well_has_no_mend_line():
    assert list(Finding("buckets", State.OK, "all are there").lines(8)) == ["ok      buckets   all are there"]


def test_findings_are_told_as_they_come():
    told: list[str] = []
    chart = Chart(lambda finding: told.append(finding.check))
    chart.ok("a", "")
    assert told == ["a"]
    chart.skip(("b", "c"), "a failed")
    assert told == ["a", "b", "c"]


def test_an_error_inside_a_check_fails_it_with_the_errors_own_mend_line_or_the_checks():
    chart = Chart()
    with chart.examining("a", "start it"):
        raise ConfigurationError("the password is wrong", mend="set the password")
    with chart.examining("b", "start it"):
        raise TransientFailure("nobody answers", dependency="minio", away=True)
    assert [(f.said, f.mend) for f in chart.findings] == [
        ("the password is wrong", "set the password"),
        ("nobody answers", "start it"),
    ]
    assert chart.failed("a") and chart.failed("b") and not chart.failed("c")


def test_a_bug_inside_a_check_is_not_hidden():
    with pytest.raises(ZeroDivisionError), Chart().examining("a", "start it"):
        _ = 1 / 0


def test_only_what_failed_makes_the_verdict_bad():
    chart = Chart()
    chart.ok("a", "")
    chart.warn("b", "slow", "wait")
    chart.skip(("c",), "not asked")
    assert chart.document()["ok"] is True
    assert chart.verdict() == "All is well: 1 ok, 1 to look at, 1 not looked at."
    chart.fail("d", "gone", "bring it back")
    assert chart.document()["ok"] is False
    assert chart.document()["counts"] == {"ok": 1, "warn": 1, "fail": 1, "skipped": 1}
    assert chart.verdict().startswith("Something is wrong: ")


# the command


def acequia(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("ACEQUIA_") or n in SERVERS]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("without_settings")
def test_settings_come_from_the_file_and_what_is_missing_in_it_is_named(tmp_path: Path):
    file = tmp_path / "some.env"
    file.write_text('RABBITMQ_URL="amqp://acequia:hush@127.0.0.1:1/"\nMINIO_ENDPOINT=127.0.0.1:1\n')
    result = acequia("doctor", "--env-file", file, "--json")
    assert result.exit_code == 1
    found = {f["check"]: f for f in json.loads(result.stdout)["checks"]}
    assert "MINIO_ACCESS_KEY: field required; MINIO_SECRET_KEY: field required" in found["settings"]["said"]
    assert str(file) in found["settings"]["mend"]
    assert "nothing listens at 127.0.0.1:1 of RABBITMQ_URL" in found["broker address"]["said"]
    assert found["queues"] == {"check": "queues", "state": "skipped", "said": "broker address failed", "mend": ""}
    assert "hush" not in result.stdout


@pytest.mark.usefixtures("without_settings")
def test_the_environment_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "some.env"
    file.write_text("RABBITMQ_URL=amqp://acequia:hush@127.0.0.1:1/\n")
    monkeypatch.setenv("RABBITMQ_URL", "amqp://acequia:hush@127.0.0.1:2/")
    result = acequia("doctor", "--env-file", file)
    assert "nothing listens at 127.0.0.1:2" in result.stdout


@pytest.mark.usefixtures("without_settings")
def test_addresses_that_can_not_be_read_say_how_they_are_written(tmp_path: Path):
    file = tmp_path / "some.env"
    file.write_text(
        "RABBITMQ_URL='amqp://acequia:pa#ss@broker:5672/'\nMINIO_ENDPOINT=http://store:9000\nMINIO_ACCESS_KEY=a\n"
        "MINIO_SECRET_KEY=b\n"
    )
    result = acequia("doctor", "--env-file", file, "--json")
    found = {f["check"]: f for f in json.loads(result.stdout)["checks"]}
    assert found["broker address"]["state"] == found["store address"]["state"] == "fail"
    assert "`#` is %23" in found["broker address"]["mend"]
    assert "without http://" in found["store address"]["said"]
    assert found["queues"]["state"] == found["buckets"]["state"] == "skipped"


@pytest.mark.usefixtures("without_settings")
def test_with_an_address_alone_the_services_there_are_asked_and_no_folder():
    result = acequia("doctor", "--url", "http://127.0.0.1:1", "--json")
    assert result.exit_code == 1
    found = {f["check"]: f["state"] for f in json.loads(result.stdout)["checks"]}
    assert found == {
        "temporary folder": "ok",
        "ingestor": "fail",
        "auditor": "skipped",
        "reconciler": "skipped",
    }


def test_an_env_file_that_is_not_there_is_wrong_use(tmp_path: Path):
    result = acequia("doctor", "--env-file", tmp_path / "none")
    assert result.exit_code == 2


@pytest.mark.usefixtures("without_settings")
def test_for_people_each_check_is_a_line_and_the_verdict_comes_last(tmp_path: Path):
    file = tmp_path / "some.env"
    file.write_text("RABBITMQ_URL=amqp://acequia:hush@127.0.0.1:1/\n")
    lines = acequia("doctor", "--env-file", file).stdout.splitlines()
    assert any(line.startswith("FAIL    broker address") for line in lines)
    assert any(line.strip().startswith("mend: start RabbitMQ") for line in lines)
    assert any(line.startswith("skipped broker login") for line in lines)
    assert lines[-1].startswith("Something is wrong: ")


# this machine


def test_a_folder_that_can_not_be_written_to_says_which_setting_names_another(tmp_path: Path):
    chart = Chart()
    examine_folder(chart, "temporary folder", tmp_path / "none", "ACEQUIA_TEMP_DIR")
    assert only(chart).state is State.FAIL
    assert "ACEQUIA_TEMP_DIR" in only(chart).mend


@pytest.mark.parametrize(("free", "state"), [(10 << 30, State.OK), (500 << 20, State.WARN), (10 << 20, State.FAIL)])
def test_little_free_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: State):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
    chart = Chart()
    examine_folder(chart, "temporary folder", tmp_path, "ACEQUIA_TEMP_DIR")
    assert only(chart).state is state
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "state"),
    [(0.4, State.OK), (-4.0, State.OK), (30.0, State.WARN), (-30.0, State.WARN), (1000.0, State.FAIL)],
)
def test_a_clock_may_be_off_by_seconds_not_by_minutes(seconds: float, state: State):
    chart = Chart()
    examine_clock(chart, "store clock", timedelta(seconds=seconds), "the store")
    assert only(chart).state is state


def test_it_is_said_whose_clock_is_behind():
    chart = Chart()
    examine_clock(chart, "database clock", timedelta(seconds=-60), "PostgreSQL")
    assert "the clock of PostgreSQL is 60 s behind ours" in only(chart).said
    assert "NTP" in only(chart).mend


# the broker


@pytest.mark.parametrize(("version", "state"), [("3.9.29", State.FAIL), ("3.10.8", State.OK), ("4.1.0", State.OK)])
def test_the_broker_has_to_dead_letter_at_least_once(version: str, state: State):
    chart = Chart()
    tell_version(chart, version)
    assert only(chart).state is state
    assert version in only(chart).said


def test_what_a_broker_says_of_an_argument_is_put_in_plain_words():
    said = (
        "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'acequia.trainer' in vhost '/': "
        "received the value '' of type 'longstr' but current is none"
    )
    told = explain_queue("acequia.trainer", said)
    assert told.startswith("acequia.trainer has no dead-letter exchange")
    assert told.endswith(f"({said})")


def test_many_missing_queues_are_not_listed_one_by_one():
    assert tell_missing([f"q{n}" for n in range(9)], 30) == "missing: q0, q1, q2, q3, q4, q5 and 3 more"
    assert tell_missing(["q"] * 30, 30).startswith("none of the 30 queues is there")


def test_dead_letters_that_are_being_taken_are_no_trouble():
    chart = Chart()
    tell_dead(chart, TABLE, {"acequia.trainer.dead": QueueLook(500, 1)}, {"acequia.trainer.dead": QueueLook(20, 1)})
    assert only(chart).state is State.OK


def test_a_queue_that_is_long_and_grows_is_told_so():
    chart = Chart()
    name = "acequia.trainer"
    tell_lengths(chart, [name], {name: QueueLook(2000, 1)}, {name: QueueLook(2500, 1)})
    assert only(chart).state is State.WARN
    assert only(chart).said == "2,500 messages wait in acequia.trainer and they get more"


# events


def told_of(*heard: Heard | None) -> Finding:
    """Of canaries that were put at 100 s, and heard of so."""
    canaries = [Canary(RAW, put_at=100.0) for _ in heard]
    came = {c.token: event for c, event in zip(canaries, heard, strict=True) if event is not None}
    chart = Chart()
    tell_events(chart, canaries, came, Buckets(), 6.0)
    return only(chart)


def heard(after: float = 0.002, key: str = "object.raw", persistent: bool = True) -> Heard:
    return Heard(key, b"", persistent, 100.0 + after)


def test_an_event_that_came_at_once_is_well():
    assert told_of(heard(), heard()).state is State.OK


def test_no_event_names_the_targets_settings():
    finding = told_of(None, None)
    assert finding.state is State.FAIL
    assert "MINIO_NOTIFY_AMQP_EXCHANGE_RAW=acequia.objects" in finding.mend


def test_one_event_of_two_is_told():
    assert told_of(heard(), None).state is State.WARN


def test_another_routing_key_names_the_right_one():
    finding = told_of(heard(key="object.silver"), heard(key="object.silver"))
    assert finding.state is State.FAIL
    assert "MINIO_NOTIFY_AMQP_ROUTING_KEY_RAW=object.raw" in finding.mend


def test_a_late_event_hints_at_the_queue_folder():
    finding = told_of(heard(), heard(after=2.4))
    assert finding.state is State.WARN
    assert "2.4 s" in finding.said
    assert "QUEUE_DIR_RAW" in finding.mend


def test_a_canarys_key_is_one_that_its_bucket_notifies_of():
    for notification in TABLE.notifications:
        key = Canary(notification).key
        assert key.startswith("_doctor/")
        assert key.endswith(notification.suffix)


# the database


def database(**more: object) -> list[tuple[str, State, str]]:
    known = {
        "version": "17.2",
        "encoding": "UTF8",
        "clock_ahead": timedelta(),
        "missing_migrations": (),
        "may_migrate": False,
        "may_change": False,
    }
    chart = Chart()
    tell_database(chart, DatabaseLook(**(known | more)), PostgresSettings(user="ana", password="x", database="audit"))
    return [(f.check, f.state, f.mend) for f in chart.findings]


def test_who_may_migrate_starts_the_auditor_and_who_may_not_runs_migrate():
    [_, (_, own, start), _] = database(missing_migrations=("0001_audit.sql",), may_migrate=True)
    [_, (_, other, migrate), (_, role, _)] = database(missing_migrations=("0001_audit.sql",))
    assert own is other is State.FAIL
    assert role is State.SKIPPED
    assert "start the auditor" in start
    assert "python -m acequia_auditor migrate" in migrate


def test_a_role_that_may_change_records_is_a_warning():
    [_, _, (check, state, mend)] = database(may_change=True)
    assert (check, state) == ("database role", State.WARN)
    assert "PG_MIGRATION_USER to ana" in mend


# the services


async def examined(server: Server) -> dict[str, Finding]:
    chart = Chart()
    await examine_services(chart, "http://acequia.test", transport=httpx.MockTransport(server))
    return {finding.check: finding for finding in chart.findings}


async def test_services_that_answer_through_the_ingestor_are_well(server: Server):
    server.lay("GET", "/ready", {"store": "ok"})
    server.lay("GET", "/runs", {"runs": []})
    server.lay("POST", "/replays", problem(422, "layer: field required"))
    assert {name: finding.state for name, finding in (await examined(server)).items()} == {
        "ingestor": State.OK,
        "auditor": State.OK,
        "reconciler": State.OK,
    }


async def test_a_service_that_is_not_ready_says_what_it_waits_for(server: Server):
    server.lay("GET", "/ready", problem(503, "bus: RabbitMQ at broker:5672 cannot be reached"))
    found = await examined(server)
    assert "bus: RabbitMQ at broker:5672 cannot be reached" in found["ingestor"].said
    assert found["auditor"].state is State.SKIPPED


async def test_an_auditor_that_the_ingestor_does_not_reach_names_the_setting(server: Server):
    server.lay("GET", "/ready", {"store": "ok"})
    server.lay("GET", "/runs", problem(503, "the auditor does not answer"))
    server.lay("POST", "/replays", problem(422, "layer: field required"))
    finding = (await examined(server))["auditor"]
    assert (finding.state, finding.said) == (State.FAIL, "the auditor does not answer")
    assert "ACEQUIA_INGESTOR_AUDITOR_URL" in finding.mend


async def test_another_server_at_the_address_is_told(server: Server):
    found = await examined(server)
    assert "this is none of our services" in found["ingestor"].said
