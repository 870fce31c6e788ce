"""How pytest ends where the real servers are not there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_two_stack_tests(tmp_path):
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\nmarkers = stack\naddopts = -ra\nasyncio_mode = auto\npythonpath = {TESTS}\n"
    )
    for name in ("one", "two"):
        (tmp_path / f"test_{name}.py").write_text("def test_it(stack): ...\ndef test_other(fresh_database): ...\n")

    def run(**environment):
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MINIO_", "RABBITMQ_", "PG_", "STACK_", "ACEQUIA_", "PYTEST_"))
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
        return subprocess.run(
            command, cwd=tmp_path, env={**kept, **environment}, capture_output=True, text=True, check=False
        )

    return run


def test_tests_that_need_it_are_skipped_with_one_loud_line_that_says_how_to_get_it(run_two_stack_tests):
    done = run_two_stack_tests(ACEQUIA_STACK_MISSING="as root: apt-get install rabbitmq-server")
    assert done.returncode == 0
    assert done.stdout.count("apt-get install rabbitmq-server") == 1
    assert "4 tests that need MinIO, RabbitMQ and PostgreSQL were skipped" in done.stdout
    assert done.stdout.count("\nSKIPPED ") == 1


def test_they_fail_where_the_stack_is_required(run_two_stack_tests):
    done = run_two_stack_tests(ACEQUIA_REQUIRE_STACK="1")
    assert done.returncode == 1
    assert "4 errors" in done.stdout
