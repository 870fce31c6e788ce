#!/usr/bin/env python3
"""MinIO, RabbitMQ and PostgreSQL without containers, for tests and for development.

    stack.py start              start all three on free loopback ports; `.stack/env` tells where
    stack.py stop               stop just those and remove their data
    stack.py status | env       what is running | `export` lines for a shell
    stack.py run -- CMD ...     a stack of its own for as long as CMD runs
    stack.py stop-one NAME [--kill], start-one NAME
                                one of minio, rabbitmq, postgresql; its port and data stay

Exit code 3: a part cannot be had here; the last line says how to get it.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from parts import PartMissing, find_parts, say
from servers import (
    NAMES,
    Process,
    Stack,
    StackFailed,
    free_ports,
    make_certificates,
    new_password,
    start_server,
    stop_server,
    stop_servers,
)

ROOT = Path(__file__).resolve().parents[2]
REMEMBERED = ROOT / ".stack"
"""Holds `folder` (a line: where the stack lies) and `env`, for the stack that `start` made without --dir."""

PREFIX = "acequia-stack-"
MISSING = "ACEQUIA_STACK_MISSING"
"""Tells the tests why there is no stack."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command = {
        "start": start,
        "stop": stop,
        "status": status,
        "env": print_environment,
        "run": run,
        "stop-one": stop_one,
        "start-one": start_one,
    }[options.command]
    try:
        return command(options)
    except PartMissing as missing:
        say(f"NOT AVAILABLE: {missing}")
        return 3
    except StackFailed as failed:
        say(f"FAILED: {failed}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stack.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--dir", type=Path, help="the stack in this folder, instead of the one that .stack remembers")
    for name in ("start", "stop", "status", "env"):
        commands.add_parser(name, parents=[folder])
    for name in ("stop-one", "start-one"):
        one = commands.add_parser(name, parents=[folder])
        one.add_argument("name", choices=NAMES)
        if name == "stop-one":
            one.add_argument("--kill", action="store_true", help="by SIGKILL")
    runner = commands.add_parser("run")
    runner.add_argument(
        "--or-without",
        action="store_true",
        help=f"where no stack can be had, run CMD without one and with {MISSING} set"
        " (but not with ACEQUIA_REQUIRE_STACK=1)",
    )
    runner.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD ...")
    return parser


# the commands


def start(options: argparse.Namespace) -> int:
    with _locked(options.dir):
        stack = _known(options.dir)
        if stack is not None and all(_running(stack, name) for name in NAMES):
            say(f"already up, in {stack.folder}")
            return 0
        if stack is not None:
            _remove(stack)
        _sweep()
        stack = bring_up(options.dir)
        if options.dir is None:
            (REMEMBERED / "folder").write_text(f"{stack.folder}\n")
            _write_environment(REMEMBERED / "env", stack)
        where = f"{options.dir}/env" if options.dir else ".stack/env"
        say(f"up, in {stack.folder}; settings are in {where}")
    return 0


def stop(options: argparse.Namespace) -> int:
    with _locked(options.dir):
        stack = _known(options.dir)
        if stack is None:
            say("nothing to stop")
            return 0
        _remove(stack)
        say("stopped, its data removed")
    return 0


def status(options: argparse.Namespace) -> int:
    stack = _known(options.dir)
    if stack is None:
        print("no stack")
        return 1
    addresses = stack.environment()
    for name, address in (
        ("minio", addresses["MINIO_ENDPOINT"]),
        ("rabbitmq", f"{addresses['PG_HOST']}:{stack.ports.rabbitmq}"),
        ("postgresql", f"{addresses['PG_HOST']}:{addresses['PG_PORT']}"),
    ):
        process = f"pid {stack.processes[name].pid}" if _running(stack, name) else "DOWN"
        print(f"{name:11} {address:16} {process}")
    print(f"{'folder':11} {stack.folder}")
    return 0 if all(_running(stack, name) for name in NAMES) else 1


def print_environment(options: argparse.Namespace) -> int:
    for key, value in _existing(options.dir).environment().items():
        print(f"export {key}={shlex.quote(value)}")
    return 0


def stop_one(options: argparse.Namespace) -> int:
    with _locked(options.dir):
        stack = _existing(options.dir)
        stop_server(stack, options.name, kill=options.kill)
        _save(stack)
    return 0


def start_one(options: argparse.Namespace) -> int:
    with _locked(options.dir):
        stack = _existing(options.dir)
        if not _running(stack, options.name):
            try:
                start_server(stack, find_parts(), options.name)
            finally:
                _save(stack)
            if options.dir is None:
                _write_environment(REMEMBERED / "env", stack)
    return 0


def run(options: argparse.Namespace) -> int:
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        say("run: say what to run, after --")
        return 2
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    _sweep()
    stack: Stack | None = None
    extra: dict[str, str] = {}
    try:
        try:
            stack = bring_up(None, owner=Process.of(os.getpid()))
            extra = stack.environment()
        except PartMissing as missing:
            if not options.or_without or os.environ.get("ACEQUIA_REQUIRE_STACK") == "1":
                raise
            extra = {MISSING: str(missing)}
        return _run_command(argv, {**os.environ, **extra})
    finally:
        if stack is not None:
            _remove(_load(stack.folder) or stack)
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_command(argv: list[str], environment: dict[str, str]) -> int:
    """Run it in the foreground; what the terminal sends (Ctrl-C) reaches it without us."""
    child = subprocess.Popen(argv, env=environment)
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            continue
        except SystemExit:
            child.terminate()
            child.wait()
            raise
        return code if code >= 0 else 128 - code


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


# bringing up and taking down


def bring_up(
    folder: Path | None,
    owner: Process | None = None,
    *,
    minio: Callable[[Stack], dict[str, str]] | None = None,
    tls: bool = False,
) -> Stack:
    """Start all three servers, PostgreSQL beside the others; MinIO last, so that it finds its broker.

    `minio`: settings of MinIO's in place of ours. `tls`: all three speak TLS and nothing else.

    On any failure nothing stays behind. PartMissing, StackFailed.
    """
    parts = find_parts()
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    elif folder.exists() and any(entry.name != "lock" for entry in folder.iterdir()):
        raise StackFailed(f"{folder} is not empty")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)  # PostgreSQL's user has to reach its own folder; state and settings are 0600
    stack = Stack(folder, free_ports(), {name: new_password() for name in NAMES}, owner=owner, tls=tls)
    try:
        if tls:
            make_certificates(folder / "tls")
        if minio is not None:
            stack.minio = minio(stack)
        _save(stack)
        say("starting RabbitMQ, MinIO and PostgreSQL")
        with ThreadPoolExecutor(1) as pool:
            database = pool.submit(start_server, stack, parts, "postgresql")
            try:
                start_server(stack, parts, "rabbitmq")
                _save(stack)
                start_server(stack, parts, "minio")
            finally:
                database.result()
        _save(stack)
    except BaseException:
        _remove(stack)
        raise
    return stack


def _remove(stack: Stack) -> None:
    stop_servers(stack)
    shutil.rmtree(stack.folder, ignore_errors=False)
    if _remembered_folder() == stack.folder:
        for name in ("folder", "env"):
            (REMEMBERED / name).unlink(missing_ok=True)


def _sweep() -> None:
    """Take down what a `run` left behind that was killed before it could."""
    for state in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/state.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, StackFailed):
            if state.stat().st_uid != os.geteuid():
                continue
            stack = _load(state.parent)
            if stack is not None and stack.owner is not None and not stack.owner.alive:
                say(f"taking down what an earlier run left in {stack.folder}")
                _remove(stack)


# what is remembered


def _running(stack: Stack, name: str) -> bool:
    return name in stack.processes and stack.processes[name].alive


def _remembered_folder() -> Path | None:
    try:
        return Path((REMEMBERED / "folder").read_text().strip())
    except OSError:
        return None


def _known(folder: Path | None) -> Stack | None:
    folder = folder.resolve() if folder else _remembered_folder()
    return _load(folder) if folder else None


def _existing(folder: Path | None) -> Stack:
    stack = _known(folder)
    if stack is None:
        raise StackFailed("no stack: start one with `make stack`")
    return stack


def _load(folder: Path) -> Stack | None:
    try:
        return Stack.from_json(json.loads((folder / "state.json").read_text()))
    except FileNotFoundError:
        return None


def _save(stack: Stack) -> None:
    _write(stack.folder / "state.json", json.dumps(stack.as_json(), indent=1))
    _write_environment(stack.folder / "env", stack)


def _write_environment(path: Path, stack: Stack) -> None:
    _write(path, "".join(f"{key}={shlex.quote(value)}\n" for key, value in stack.environment().items()))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)
    temporary.replace(path)


@contextlib.contextmanager
def _locked(folder: Path | None) -> Iterator[None]:
    """One command at a time on a stack."""
    REMEMBERED.mkdir(exist_ok=True)
    name = "lock" if folder is None else f"lock-{folder.resolve().name}"
    with (REMEMBERED / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if folder is not None:
                (REMEMBERED / name).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
