"""Docker Compose v2 for the tests that need it."""

import os
import shutil
import subprocess

import pytest

CLIENT = ("docker", "compose", "version")
ENGINE = ("docker", "info")
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR") or name.startswith("DOCKER")
}
"""What the caller has set for other servers is not meant for ours."""


def need(untested: str, *commands: tuple[str, ...]) -> None:
    """Skip loudly, saying what is `untested`, where one of the commands fails; ACEQUIA_REQUIRE_COMPOSE=1: fail.

    In a test, or while a module of tests is imported.
    """
    if (reason := _why_not(commands)) is None:
        return
    if os.environ.get("ACEQUIA_REQUIRE_COMPOSE") == "1":
        pytest.fail(f"ACEQUIA_REQUIRE_COMPOSE=1, but {reason}", pytrace=False)
    running = " and start its engine" if ENGINE in commands else ""
    pytest.skip(f"{untested}: {reason}; install Docker with Compose v2{running}", allow_module_level=True)


def _why_not(commands: tuple[tuple[str, ...], ...]) -> str | None:
    if shutil.which("docker") is None:
        return "there is no docker"
    for command in commands:
        try:
            code = subprocess.run(command, check=False, env=ENVIRONMENT, capture_output=True, timeout=30).returncode
        except subprocess.TimeoutExpired:
            return f"`{' '.join(command)}` does not answer"
        if code != 0:
            return f"`{' '.join(command)}` fails"
    return None
