import sys

import pytest
import stack as command
from parts import PartMissing


@pytest.fixture
def no_parts(monkeypatch, tmp_path):
    def find_parts():
        raise PartMissing("MinIO has to be built: install Go")

    monkeypatch.setattr(command, "find_parts", find_parts)
    monkeypatch.setattr(command, "REMEMBERED", tmp_path / "remembered")
    monkeypatch.setattr(command.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("ACEQUIA_REQUIRE_STACK", raising=False)


@pytest.fixture
def asks_why(tmp_path):
    program = "import os, sys; sys.exit(7 if os.environ.get('ACEQUIA_STACK_MISSING') else 8)"
    return ["--", sys.executable, "-c", program]


def test_where_no_stack_can_be_had_the_command_runs_without_and_is_told_why(no_parts, asks_why):
    assert command.main(["run", "--or-without", *asks_why]) == 7


@pytest.mark.parametrize("arguments", [["start"], ["run"]])
def test_where_no_stack_can_be_had_the_exit_code_is_3_and_one_line_says_how(no_parts, asks_why, arguments, capfd):
    assert command.main([*arguments, *(asks_why if arguments == ["run"] else [])]) == 3
    assert capfd.readouterr().err == "stack: NOT AVAILABLE: MinIO has to be built: install Go\n"


def test_where_the_stack_is_required_nothing_runs_without_it(no_parts, asks_why, monkeypatch):
    monkeypatch.setenv("ACEQUIA_REQUIRE_STACK", "1")
    assert command.main(["run", "--or-without", *asks_why]) == 3


def test_stopping_where_nothing_runs_is_no_error(no_parts):
    assert command.main(["stop"]) == 0
    assert command.main(["status"]) == 1


def test_a_server_of_no_stack_cannot_be_started(no_parts, capfd):
    assert command.main(["start-one", "minio"]) == 1
    assert "make stack" in capfd.readouterr().err


def test_what_a_killed_run_left_is_taken_down_by_the_next_and_a_running_ones_is_not(no_parts, asks_why, tmp_path):
    import os

    from servers import Ports, Process, Stack

    folders = {}
    for name, owner in (("dead", Process(1, "never")), ("alive", Process.of(os.getpid())), ("by-hand", None)):
        folders[name] = tmp_path / f"{command.PREFIX}{name}"
        folders[name].mkdir()
        command._save(Stack(folders[name], Ports(1, 2, 3, 4, 5, 6), dict.fromkeys(command.NAMES, ""), owner=owner))
    command.main(["run", "--or-without", *asks_why])
    assert {name: folder.exists() for name, folder in folders.items()} == {
        "dead": False,
        "alive": True,
        "by-hand": True,
    }
