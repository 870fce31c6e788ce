"""The programs that the native stack runs: found where they are, else fetched (apt as root, `go install`)."""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MINIO_MODULE = "github.com/minio/minio"
MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""Upstream is archived and serves no release tags: this is the module proxy's latest."""

GO_MINIMUM = (1, 21)
"""From here on Go fetches the newer toolchain that a module asks for."""

POLICY = Path("/usr/sbin/policy-rc.d")
APT_MARK = "ACEQUIA_STACK_APT"
"""Environment variable by which what a package's scripts start is recognised."""


class PartMissing(Exception):
    """A program that the stack needs cannot be had here. The message says, in one line, how to get it."""


@dataclass(frozen=True)
class Parts:
    minio: Path
    rabbitmq: Path
    """The plain `rabbitmq-server` script, not Debian's wrapper, which runs only as root or rabbitmq."""
    epmd: Path
    postgresql: Path
    """The folder with initdb, postgres and psql."""


def say(line: str) -> None:
    print(f"stack: {line}", file=sys.stderr, flush=True)


def cache_folder() -> Path:
    """Where what was fetched for the stack and the tests is kept, for all checkouts of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "acequia"


def find_parts() -> Parts:
    """Every program, fetched where it is not here yet. PartMissing where one cannot be had."""
    packages = [
        package
        for package, found in (("rabbitmq-server", find_rabbitmq()), ("postgresql", find_postgresql()))
        if found is None
    ]
    if packages:
        install_packages(packages)
    rabbitmq, postgresql = find_rabbitmq(), find_postgresql()
    epmd = shutil.which("epmd") or next((str(p) for p in sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))), None)
    if rabbitmq is None or epmd is None:
        raise PartMissing("RabbitMQ is missing: apt-get install rabbitmq-server (3.10 or newer)")
    if postgresql is None:
        raise PartMissing("PostgreSQL is missing: apt-get install postgresql (15 or newer)")
    return Parts(find_minio() or build_minio(), rabbitmq, Path(epmd), postgresql)


def find_rabbitmq() -> Path | None:
    plain = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    if plain.exists():
        return plain
    found = shutil.which("rabbitmq-server")
    return Path(found) if found else None


def find_postgresql() -> Path | None:
    """The folder of the newest PostgreSQL with a server."""
    debian = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/initdb") if (p.parent / "postgres").exists()]
    if debian:
        return max(debian, key=lambda folder: [int(n) for n in re.findall(r"\d+", folder.parent.name)])
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


# MinIO


def cached_minio() -> Path:
    return cache_folder() / f"minio-{MINIO_VERSION}" / "minio"


def find_minio() -> Path | None:
    """The pinned MinIO from our cache or from Go's bin folder."""
    cached = cached_minio()
    if os.access(cached, os.X_OK):
        return cached
    go = find_go()
    if go is None:
        return None
    installed = Path(_output([go, "env", "GOPATH"]).strip().split(os.pathsep)[0]) / "bin" / "minio"
    if os.access(installed, os.X_OK) and is_pinned_minio(_output([go, "version", "-m", str(installed)])):
        return installed
    return None


def is_pinned_minio(go_version_output: str) -> bool:
    """Does the output of `go version -m` tell of the pinned MinIO?"""
    return any(line.split()[:3] == ["mod", MINIO_MODULE, MINIO_VERSION] for line in go_version_output.splitlines())


def build_minio() -> Path:
    """Build the pinned MinIO into the cache. One builder at a time; the others wait and use what it built."""
    target = cached_minio()
    target.parent.mkdir(parents=True, exist_ok=True)
    with only_one(target.parent / "lock"):
        if os.access(target, os.X_OK):
            return target
        go = find_go() or install_go()
        say("building MinIO from source: some minutes the first time, cached after that")
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            environment = {"GOTOOLCHAIN": "auto", "CGO_ENABLED": "0", **os.environ, "GOBIN": folder}
            command = [go, "install", f"{MINIO_MODULE}@{MINIO_VERSION}"]
            built = subprocess.run(
                command, check=False, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if built.returncode != 0:
                raise PartMissing(
                    f"MinIO could not be built (`{' '.join(command[1:])}`): {last_line(built.stdout)};"
                    " it needs Go and a module proxy"
                )
            (Path(folder) / "minio").replace(target)
    return target


def find_go() -> str | None:
    """A Go that is new enough to fetch the toolchain MinIO asks for."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"):
        if candidate and os.access(candidate, os.X_OK) and go_version(_output([candidate, "version"])) >= GO_MINIMUM:
            return candidate
    return None


def go_version(text: str) -> tuple[int, ...]:
    """(1, 26) from what `go version` prints or from a Debian version (`2:1.26~1`); () where it tells none."""
    match = re.search(r"(?:^|go|:)(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else ()


def install_go() -> str:
    hint = f"MinIO has to be built: install Go {'.'.join(map(str, GO_MINIMUM))} or newer (https://go.dev/doc/install)"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise PartMissing(hint)
    _update_package_lists()
    candidate = re.search(r"Candidate: (\S+)", _output(["apt-cache", "policy", "golang-go"]))
    if candidate is None or go_version(candidate[1]) < GO_MINIMUM:
        raise PartMissing(f"{hint}; this distribution's is {candidate[1] if candidate else 'not there'}")
    install_packages(["golang-go"])
    go = find_go()
    if go is None:
        raise PartMissing(hint)
    return go


# apt

_updated = False


def install_packages(packages: Sequence[str]) -> None:
    """Install from the distribution without starting any service. PartMissing where that cannot be done here."""
    names = " ".join(packages)
    if not shutil.which("apt-get"):
        raise PartMissing(f"missing: {names}; install them with this system's package manager")
    if os.geteuid() != 0:
        raise PartMissing(f"missing: {names}; as root: apt-get install {names}")
    _update_package_lists()
    say(f"installing {names} by apt")
    with _services_stay_off():
        _apt(["install", "-y", "--no-install-recommends", *packages])
    for pid in _port_mappers_of_apt():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _update_package_lists() -> None:
    global _updated  # noqa: PLW0603
    if not _updated:
        say("updating apt's package lists")
        _apt(["update"])
        _updated = True


def _apt(arguments: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", APT_MARK: str(os.getpid())}
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *arguments]
    done = subprocess.run(
        command,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise PartMissing(f"`apt-get {' '.join(arguments)}` failed: {last_line(done.stdout)}")


@contextlib.contextmanager
def _services_stay_off() -> Iterator[None]:
    """Packages start no service meanwhile. A policy that is there already is left as it is."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _port_mappers_of_apt() -> Iterator[int]:
    """Erlang's port mapper, where RabbitMQ's package left it running on its well-known port: ours by our mark alone."""
    mark = f"{APT_MARK}={os.getpid()}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, environment = (process / "comm").read_text().strip(), (process / "environ").read_bytes()
            if name == "epmd" and mark in environment.split(b"\0"):
                yield int(process.name)


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")
