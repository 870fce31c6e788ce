#!/usr/bin/env python3
"""The three servers of compose.yaml for as long as a command runs, on free local ports, with data that goes at the end.

in_compose.py possible              exit code 0 where Docker can do it
in_compose.py run -- CMD ...        with MINIO_*, RABBITMQ_URL and PG_* set for CMD; exit code 75: they did not come up
in_compose.py stop-one NAME [--kill], start-one NAME
                                    from within CMD: one of minio, rabbitmq, postgresql; its port and data stay
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from make_env import main as make_env
from parts import say
from servers import HOST

ROOT = Path(__file__).resolve().parents[2]
FILES = ("compose.yaml", "deploy/servers.yaml")
SERVICES = {"minio": "minio", "rabbitmq": "rabbitmq", "postgresql": "postgres"}
PORTS = ("MINIO_PORT", "MINIO_CONSOLE_PORT", "RABBITMQ_PORT", "RABBITMQ_MANAGEMENT_PORT", "PG_PORT")
NOT_UP = 75
PROJECT, ENV_FILE = "STACK_COMPOSE_PROJECT", "STACK_COMPOSE_ENV"


def main(argv: Sequence[str]) -> int:
    match list(argv):
        case ["possible"]:
            return 0 if is_possible() else 1
        case ["run", "--", *command] if command:
            return run(command)
        case ["stop-one", name]:
            return compose("stop", SERVICES[name])
        case ["stop-one", name, "--kill"]:
            return compose("kill", "--signal", "SIGKILL", SERVICES[name])
        case ["start-one", name]:
            return compose("up", "--detach", "--no-recreate", "--no-deps", "--wait", SERVICES[name])
        case _:
            print(__doc__, file=sys.stderr)
            return 2


def is_possible() -> bool:
    """Is there an engine that runs, and Compose v2?"""
    commands = (["docker", "info"], ["docker", "compose", "version"])
    return shutil.which("docker") is not None and all(
        subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
        for command in commands
    )


def compose(*arguments: str, project: str | None = None, env_file: str | None = None) -> int:
    """Docker Compose on our project. It sees nothing of what the caller has set for other servers."""
    known = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"} or name.startswith("DOCKER")}
    options = ["--project-directory", str(ROOT), "--project-name", project or os.environ[PROJECT]]
    options += ["--env-file", env_file or os.environ[ENV_FILE]]
    options += [option for file in FILES for option in ("-f", str(ROOT / file))]
    command = ["docker", "compose", "--progress", "quiet", *options, *arguments]
    return subprocess.run(command, check=False, env=known, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode


def run(command: Sequence[str]) -> int:
    """Exit code: the command's; NOT_UP where the servers do not come up."""
    with tempfile.TemporaryDirectory(prefix="acequia-compose-") as folder:
        env_file = Path(folder) / ".env"
        make_env(env_file)
        ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        with env_file.open("a") as file:
            file.writelines(f"{name}={port}\n" for name, port in ports.items())
        project = f"acequia-servers-{secrets.token_hex(4)}"
        before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            say("starting RabbitMQ, MinIO and PostgreSQL by compose (the first time MinIO is built: minutes)")
            up = ["up", "--detach", "--wait", "--wait-timeout", "300", *SERVICES.values()]
            if compose(*up, project=project, env_file=str(env_file)) != 0:
                say("`docker compose up` of the three servers failed")
                return NOT_UP
            told = environment(_settings(env_file), {PROJECT: project, ENV_FILE: str(env_file)})
            return subprocess.run(command, check=False, env={**os.environ, **told}).returncode
        finally:
            compose("down", "--volumes", "--remove-orphans", project=project, env_file=str(env_file))
            for number, handler in before.items():
                signal.signal(number, handler)


def environment(settings: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """What a service, or a test, needs to know: the same names as `stack.py env` prints."""
    user, password = settings["RABBITMQ_USER"], settings["RABBITMQ_PASSWORD"]
    return {
        "MINIO_ENDPOINT": f"{HOST}:{settings['MINIO_PORT']}",
        "MINIO_CONSOLE": f"{HOST}:{settings['MINIO_CONSOLE_PORT']}",
        "MINIO_ACCESS_KEY": settings["MINIO_ACCESS_KEY"],
        "MINIO_SECRET_KEY": settings["MINIO_SECRET_KEY"],
        "MINIO_REGION": "us-east-1",
        "MINIO_NOTIFY_REGION": "",
        "RABBITMQ_URL": f"amqp://{user}:{password}@{HOST}:{settings['RABBITMQ_PORT']}/",
        "PG_HOST": HOST,
        "PG_PORT": settings["PG_PORT"],
        "PG_USER": settings["PG_USER"],
        "PG_PASSWORD": settings["PG_PASSWORD"],
        "PG_MIGRATION_USER": settings["PG_MIGRATION_USER"],
        "PG_MIGRATION_PASSWORD": settings["PG_MIGRATION_PASSWORD"],
        "PG_DATABASE": settings["PG_DATABASE"],
        "ACEQUIA_LAKEHOUSE_CATALOG_URI": (
            f"postgresql+psycopg://{settings['PG_MIGRATION_USER']}:{settings['PG_MIGRATION_PASSWORD']}"
            f"@{HOST}:{settings['PG_PORT']}/{settings['PG_DATABASE']}"
        ),
        **more,
    }


def _settings(env_file: Path) -> dict[str, str]:
    lines = env_file.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind((HOST, 0))
        return [found.getsockname()[1] for found in sockets]


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
