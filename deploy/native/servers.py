"""MinIO, RabbitMQ and PostgreSQL as processes of ours: how each is configured, started, asked whether it is ready,
and stopped. Everything lies in one folder and listens on the loopback interface only."""

import base64
import contextlib
import http.client
import os
import pwd
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from parts import Parts

NAMES = ("minio", "rabbitmq", "postgresql")
TARGETS = ("landing", "raw", "silver", "models")
"""The layers whose new objects MinIO tells the broker of, one AMQP target each."""

HOST = "127.0.0.1"
MARK = "ACEQUIA_STACK_SERVER"
"""Environment variable by which the processes of a stack are recognised."""

USER = "acequia"
AUDITOR = "acequia_auditor"
"""The role that the auditor has at run time. USER owns the schema; migrating makes the other one."""


class StackFailed(Exception):
    """A server did not start, or did not stop. The message says which, and the end of its log."""


@dataclass(frozen=True)
class Ports:
    minio: int
    console: int
    rabbitmq: int
    distribution: int
    epmd: int
    postgresql: int


@dataclass(frozen=True)
class Process:
    """A process id with its start time, so that a number used again is not mistaken for it."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        return cls(pid, start_time(pid))

    @property
    def alive(self) -> bool:
        return self.started != "" and start_time(self.pid) == self.started

    def signal(self, number: int) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass
class Stack:
    """What is known of a stack; `state.json` in its folder holds the same."""

    folder: Path
    ports: Ports
    passwords: dict[str, str]
    processes: dict[str, Process] = field(default_factory=dict)
    owner: Process | None = None
    """The process that takes the stack down at its end; None where a person does."""
    minio: dict[str, str] = field(default_factory=dict)
    """Settings of MinIO's in place of ours: a test may stand between it and its broker."""
    tls: bool = False
    """All three speak TLS and nothing else, by a certificate of a CA made for this stack: `tls/ca.crt`."""

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "folder": str(self.folder)}

    @classmethod
    def from_json(cls, data: dict[str, object]) -> "Stack":
        owner = data["owner"]
        return cls(
            Path(str(data["folder"])),
            Ports(**data["ports"]),  # type: ignore[arg-type]
            dict(data["passwords"]),  # type: ignore[call-overload]
            {name: Process(**process) for name, process in data["processes"].items()},  # type: ignore[attr-defined]
            Process(**owner) if owner else None,  # type: ignore[arg-type]
            dict(data["minio"]),  # type: ignore[call-overload]
            bool(data.get("tls")),
        )

    @property
    def ca_file(self) -> Path:
        return self.folder / "tls" / "ca.crt"

    @property
    def trusted(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.ca_file) if self.tls else None

    @property
    def amqp_url(self) -> str:
        return self.amqp_url_by(self.ports.rabbitmq)

    def amqp_url_by(self, port: int) -> str:
        return f"{'amqps' if self.tls else 'amqp'}://{USER}:{self.passwords['rabbitmq']}@{HOST}:{port}/"

    def environment(self) -> dict[str, str]:
        """What a service, or a test, needs to know."""
        variables = {
            "MINIO_ENDPOINT": f"{HOST}:{self.ports.minio}",
            "MINIO_CONSOLE": f"{HOST}:{self.ports.console}",
            "MINIO_ACCESS_KEY": USER,
            "MINIO_SECRET_KEY": self.passwords["minio"],
            "MINIO_REGION": "us-east-1",
            # our MinIO is started without a region of its own, so that part of its ARNs is empty
            "MINIO_NOTIFY_REGION": "",
            "RABBITMQ_URL": self.amqp_url,
            "PG_HOST": HOST,
            "PG_PORT": str(self.ports.postgresql),
            "PG_USER": AUDITOR,
            "PG_PASSWORD": self.passwords["postgresql"],
            "PG_MIGRATION_USER": USER,
            "PG_MIGRATION_PASSWORD": self.passwords["postgresql"],
            "PG_DATABASE": USER,
            "ACEQUIA_LAKEHOUSE_CATALOG_URI": (
                f"postgresql+psycopg://{USER}:{self.passwords['postgresql']}@{HOST}:{self.ports.postgresql}/{USER}"
            ),
            "STACK_DIR": str(self.folder),
        }
        if self.tls:
            ca_file = str(self.ca_file)
            variables |= {"MINIO_SECURE": "true", "PG_SSLMODE": "verify-full"}
            variables |= {f"{server}_CA_FILE": ca_file for server in ("MINIO", "RABBITMQ", "PG")}
            variables["ACEQUIA_LAKEHOUSE_CATALOG_URI"] += f"?sslmode=verify-full&sslrootcert={ca_file}"
        return variables | {f"STACK_PID_{name.upper()}": str(p.pid) for name, p in self.processes.items()}


# certificates

_CA = "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"
_SERVER = f"subjectAltName=IP:{HOST},DNS:localhost", "basicConstraints=critical,CA:FALSE"


def make_certificates(folder: Path) -> None:
    """`ca.crt`, and for this machine's own addresses `server.crt` and `server.key`, good for two days."""
    folder.mkdir(exist_ok=True)
    ca, server = (folder / "ca.crt", folder / "ca.key"), (folder / "server.crt", folder / "server.key")
    for (certificate, key), name, said, signer in (
        (ca, "a CA for tests", _CA, ()),
        (server, HOST, _SERVER, ("-CA", str(ca[0]), "-CAkey", str(ca[1]))),
    ):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate), *signer]
        command += [word for extension in said for word in ("-addext", extension)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except OSError as error:
            raise StackFailed(f"openssl can't be run: {error.strerror}") from error
        if done.returncode != 0:
            raise StackFailed(f"openssl made no certificate: {done.stderr.strip()[-500:]}")


# starting


def start_server(stack: Stack, parts: Parts, name: str) -> None:
    """Start one server and return once it really answers. StackFailed where it does not."""
    launch: dict[str, Callable[[Stack, Parts], None]] = {
        "minio": _launch_minio,
        "rabbitmq": _launch_rabbitmq,
        "postgresql": _launch_postgresql,
    }
    launch[name](stack, parts)


def minio_environment(stack: Stack) -> dict[str, str]:
    """Credentials and one AMQP target per layer. Flags must be exactly `on`."""
    environment = {
        "MINIO_ROOT_USER": USER,
        "MINIO_ROOT_PASSWORD": stack.passwords["minio"],
        "MINIO_API_SYNC_EVENTS": "on",
        "MINIO_UPDATE": "off",
        "HOME": str(stack.folder / "minio"),
    }
    if stack.tls:
        # of its broker it trusts what Go does by default, not what lies in certs/CAs
        environment["SSL_CERT_FILE"] = str(stack.ca_file)
    for layer in TARGETS:
        target = {
            "ENABLE": "on",
            "URL": stack.amqp_url,
            "EXCHANGE": "acequia.objects",
            "EXCHANGE_TYPE": "topic",
            "ROUTING_KEY": f"object.{layer}",
            "DURABLE": "on",
            "DELIVERY_MODE": "2",
            "MANDATORY": "off",
            "PUBLISHING_CONFIRMS": "on",
        }
        environment |= {f"MINIO_NOTIFY_AMQP_{key}_{layer.upper()}": value for key, value in target.items()}
    return environment | stack.minio


def _launch_minio(stack: Stack, parts: Parts) -> None:
    home = _home(stack, "minio")
    command = [str(parts.minio), "server", "--address", f"{HOST}:{stack.ports.minio}"]
    command += ["--console-address", f"{HOST}:{stack.ports.console}"]
    if stack.tls:
        certificates = home / "certs"
        certificates.mkdir(exist_ok=True)
        for theirs, ours in (("public.crt", "server.crt"), ("private.key", "server.key")):
            shutil.copy(stack.folder / "tls" / ours, certificates / theirs)
        command += ["--certs-dir", str(certificates)]
    _launch(stack, "minio", [*command, str(home / "data")], minio_environment(stack))
    _wait(stack, "minio", lambda: minio_answers(stack.ports.minio, stack.trusted))


def minio_answers(port: int, trusted: ssl.SSLContext | None = None) -> bool:
    """It is up, and no longer answers 503 (it does while it loads its configuration)."""
    for path, status in (("/minio/health/ready", 200), ("/", 403)):
        connection = (
            http.client.HTTPSConnection(HOST, port, timeout=5, context=trusted)
            if trusted
            else http.client.HTTPConnection(HOST, port, timeout=5)
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status != status or response.getheader("x-minio-server-status"):
                return False
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
    return True


def rabbitmq_environment(stack: Stack) -> dict[str, str]:
    """Everything in the stack's folder; nothing of the system's installation is read or written."""
    home = stack.folder / "rabbitmq"
    return {
        "HOME": str(home),
        "ERL_EPMD_PORT": str(stack.ports.epmd),
        "ERL_EPMD_ADDRESS": HOST,
        "RABBITMQ_NODENAME": f"acequia-{stack.ports.rabbitmq}@localhost",
        "RABBITMQ_DIST_PORT": str(stack.ports.distribution),
        "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        # the script then becomes the server instead of staying as its parent
        "RUNNING_UNDER_SYSTEMD": "true",
    }


def _launch_rabbitmq(stack: Stack, parts: Parts) -> None:
    home = _home(stack, "rabbitmq")
    environment = rabbitmq_environment(stack)
    certificates = stack.folder / "tls"
    listeners = (
        f"listeners.tcp = none\nlisteners.ssl.default = {HOST}:{stack.ports.rabbitmq}\n"
        f"ssl_options.cacertfile = {certificates / 'ca.crt'}\nssl_options.certfile = {certificates / 'server.crt'}\n"
        f"ssl_options.keyfile = {certificates / 'server.key'}\nssl_options.verify = verify_none\n"
        if stack.tls
        else f"listeners.tcp.default = {HOST}:{stack.ports.rabbitmq}\n"
    )
    files = {
        "rabbitmq-env.conf": "",
        "rabbitmq.conf": (
            f"{listeners}default_user = {USER}\ndefault_pass = {stack.passwords['rabbitmq']}\n"
            "disk_free_limit.absolute = 50MB\nlog.console = false\nlog.file = rabbitmq.log\n"
        ),
        "advanced.config": "[].\n",
        "enabled_plugins": "[].\n",
    }
    for name, text in files.items():
        (home / name).write_text(text)
    if "epmd" not in stack.processes or not stack.processes["epmd"].alive:
        # a port mapper of our own, as a plain child: no daemon of another user's is used, and none stays behind
        command = [str(parts.epmd), "-port", str(stack.ports.epmd), "-address", HOST]
        _launch(stack, "epmd", command, environment)
        _wait(stack, "epmd", lambda: _connects(stack.ports.epmd))
    _launch(stack, "rabbitmq", [str(parts.rabbitmq)], environment)
    _wait(stack, "rabbitmq", lambda: amqp_opens(stack.ports.rabbitmq, USER, stack.passwords["rabbitmq"], stack.trusted))


def amqp_opens(port: int, user: str, password: str, trusted: ssl.SSLContext | None = None) -> bool:
    """Log in and open the virtual host `/`, as a client does."""
    try:
        with contextlib.ExitStack() as opened_here:
            connection = opened_here.enter_context(socket.create_connection((HOST, port), timeout=5))
            if trusted:
                connection = opened_here.enter_context(trusted.wrap_socket(connection, server_hostname=HOST))
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            if _method(connection) != (10, 10):
                return False
            response = f"\0{user}\0{password}".encode()
            start_ok = struct.pack(">HHI", 10, 11, 0) + b"\x05PLAIN" + struct.pack(">I", len(response)) + response
            _send(connection, start_ok + b"\x05en_US")
            if _method(connection) != (10, 30):
                return False
            _send(connection, struct.pack(">HHHIH", 10, 31, 8, 131072, 0))
            _send(connection, struct.pack(">HH", 10, 40) + b"\x01/\x00\x00")
            opened = _method(connection) == (10, 41)
            _send(connection, struct.pack(">HHH", 10, 50, 200) + b"\x00" + struct.pack(">HH", 0, 0))
            with contextlib.suppress(OSError, struct.error):
                _method(connection)
            return opened
    except (OSError, struct.error):
        return False


def _send(connection: socket.socket, method: bytes) -> None:
    connection.sendall(struct.pack(">BHI", 1, 0, len(method)) + method + b"\xce")


def _method(connection: socket.socket) -> tuple[int, int]:
    """Class and method of the next frame. struct.error where the server hung up."""
    _, _, size = struct.unpack(">BHI", _receive(connection, 7))
    class_id, method_id = struct.unpack(">HH", _receive(connection, size + 1)[:4])
    return class_id, method_id


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


POSTGRESQL_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "max_prepared_transactions": "8",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
"""Durability stays as it is by default: fsync and synchronous_commit are on."""


def _launch_postgresql(stack: Stack, parts: Parts) -> None:
    home = _home(stack, "postgresql")
    data = home / "data"
    account = postgresql_account()
    if account is not None:
        os.chown(home, account.pw_uid, account.pw_gid)
    first = not data.exists()
    if first:
        _initialise_postgresql(stack, parts, account)
    elif not any(_is_postgres_of(pid, stack.folder) for pid in _all_processes()):
        # after SIGKILL; it would take the zombie of its predecessor for a server that still runs
        (data / "postmaster.pid").unlink(missing_ok=True)
    settings = [f"-c{key}={value}" for key, value in POSTGRESQL_SETTINGS.items()]
    if stack.tls:
        settings += [
            "-cssl=on",
            *(f"-cssl_{kind}_file={_owned(home, stack, account, kind)}" for kind in ("cert", "key")),
        ]
    command = [str(parts.postgresql / "postgres"), "-D", str(data), "-p", str(stack.ports.postgresql), *settings]
    _launch(stack, "postgresql", as_account(command, account), {"HOME": str(home)})
    _wait(stack, "postgresql", lambda: _psql(stack, parts, "template1", "SELECT 1"))
    if first and not _psql(stack, parts, "template1", f"CREATE DATABASE {USER}"):
        raise StackFailed(f"postgresql: the database {USER} could not be made{_log_end(stack, 'postgresql')}")


def _owned(home: Path, stack: Stack, account: "pwd.struct_passwd | None", kind: str) -> Path:
    """The certificate, or its key, as PostgreSQL's own: it takes no other's key."""
    name = {"cert": "server.crt", "key": "server.key"}[kind]
    own = home / name
    shutil.copy(stack.folder / "tls" / name, own)
    own.chmod(0o600)
    if account is not None:
        os.chown(own, account.pw_uid, account.pw_gid)
    return own


def _initialise_postgresql(stack: Stack, parts: Parts, account: "pwd.struct_passwd | None") -> None:
    home = stack.folder / "postgresql"
    password_file = home / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(stack.passwords["postgresql"])
    if account is not None:
        os.chown(password_file, account.pw_uid, account.pw_gid)
    command = [str(parts.postgresql / "initdb"), "-D", str(home / "data"), "-U", USER, "--pwfile", str(password_file)]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
    with (home / "initdb.log").open("wb") as log:
        done = subprocess.run(
            as_account(command, account),
            check=False,
            cwd=home,
            env=_server_environment(stack, {"HOME": str(home)}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    password_file.unlink()
    if done.returncode != 0:
        text = (home / "initdb.log").read_text(errors="replace").strip()
        raise StackFailed(f"postgresql: initdb failed (each parent folder must be open to its user)\n{text[-1500:]}")


def postgresql_account() -> "pwd.struct_passwd | None":
    """PostgreSQL refuses to run as root: whom it runs as there; None where we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise StackFailed("postgresql: it does not run as root, and there is neither a user postgres nor nobody")


def as_account(command: list[str], account: "pwd.struct_passwd | None") -> list[str]:
    """The command, run as that account without a process in between."""
    if account is None:
        return command
    return [
        "setpriv",
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        "--",
        *command,
    ]


def _psql(stack: Stack, parts: Parts, database: str, statement: str) -> bool:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PGPASSWORD": stack.passwords["postgresql"],
        "PGCONNECT_TIMEOUT": "5",
    }
    if stack.tls:
        environment |= {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(stack.ca_file)}
    command = [str(parts.postgresql / "psql"), "-XqAt", "-h", HOST, "-p", str(stack.ports.postgresql)]
    command += ["-U", USER, "-d", database, "-c", statement]
    asked = subprocess.run(command, check=False, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    return asked.returncode == 0


def _home(stack: Stack, name: str) -> Path:
    home = stack.folder / name
    home.mkdir(mode=0o700, exist_ok=True)
    return home


def _server_environment(stack: Stack, extra: dict[str, str]) -> dict[str, str]:
    """Little of the caller's environment: what MINIO_*, RABBITMQ_* and PG* say to a client is wrong for a server."""
    kept = {key: value for key in ("PATH", "TZ") if (value := os.environ.get(key))}
    return {"LANG": "C.UTF-8", **kept, MARK: str(stack.folder), **extra}


def _launch(stack: Stack, name: str, command: list[str], environment: dict[str, str]) -> None:
    home = _home(stack, "rabbitmq" if name == "epmd" else name)
    with (stack.folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=home,
            env=_server_environment(stack, environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stack.processes[name] = Process.of(process.pid)
    _children[process.pid] = process


_children: dict[int, "subprocess.Popen[bytes]"] = {}
"""Servers that this very process started: they must be waited for, or they stay as zombies until it ends."""


def _reap(pid: int) -> None:
    if (child := _children.get(pid)) is not None:
        child.poll()


def _wait(stack: Stack, name: str, ready: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _reap(stack.processes[name].pid)
        if not stack.processes[name].alive:
            raise StackFailed(f"{name}: ended while starting{_log_end(stack, name)}")
        if ready():
            return
        time.sleep(0.1)
    raise StackFailed(f"{name}: not ready after {seconds:.0f} s{_log_end(stack, name)}")


def _log_end(stack: Stack, name: str) -> str:
    with contextlib.suppress(OSError):
        return "\n" + (stack.folder / f"{name}.log").read_text(errors="replace").strip()[-1500:]
    return ""


def _connects(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=5).close()
    except OSError:
        return False
    return True


def free_ports() -> Ports:
    """Free loopback ports below those the system gives to outgoing connections, so that a server that is stopped
    for a while finds its port free again."""
    limit = 32768
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(12000, limit) if limit > 13000 else range(20000, 32000)
    found: list[int] = []
    for port in random.sample(candidates, len(candidates)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
        if len(found) == len(Ports.__annotations__):
            return Ports(*found)
    raise StackFailed("no free loopback ports")


# stopping

_POLITE = {"minio": signal.SIGTERM, "rabbitmq": signal.SIGTERM, "postgresql": signal.SIGINT, "epmd": signal.SIGTERM}
_AT_ONCE = {"postgresql": signal.SIGQUIT}


def stop_server(stack: Stack, name: str, *, kill: bool = False) -> None:
    """Stop one server, politely or by SIGKILL, and return once all of its processes are gone. Its data stays."""
    process = stack.processes.get(name)
    if process is not None:
        process.signal(signal.SIGKILL if kill else _POLITE[name])
    if not _gone(stack, (name,), 30):
        raise StackFailed(f"{name}: still running 30 s after it was told to stop")


def stop_servers(stack: Stack) -> None:
    """Stop everything at once: the data is thrown away anyway."""
    for name, process in stack.processes.items():
        process.signal(_AT_ONCE.get(name, signal.SIGKILL))
    if _gone(stack, (*NAMES, "epmd"), 3):
        return
    for pid in members(stack.folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if not _gone(stack, (*NAMES, "epmd"), 10):
        raise StackFailed(f"processes {', '.join(map(str, members(stack.folder)))} do not stop")


def _gone(stack: Stack, names: tuple[str, ...], seconds: float) -> bool:
    """Wait until these servers, and what they started, have ended."""
    deadline = time.monotonic() + seconds
    whole = set(stack.processes) <= set(names)
    while True:
        for name in names:
            if name in stack.processes:
                _reap(stack.processes[name].pid)
        running = any(stack.processes[name].alive for name in names if name in stack.processes)
        if not running and "postgresql" in names:
            running = any(_is_postgres_of(pid, stack.folder) for pid in _all_processes())
        if not running and not (whole and members(stack.folder)):
            for name in names:
                if name in stack.processes and (child := _children.pop(stack.processes[name].pid, None)):
                    child.wait(10)  # a zombie, some of whose threads may not have ended yet
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def members(folder: Path) -> list[int]:
    """Every process that belongs to the stack in `folder`, by the mark in its environment; PostgreSQL's overwrite
    theirs and are known by the folder they work in."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for pid in _all_processes():
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") or _is_postgres_of(pid, folder):
                found.append(pid)
    return found


def _is_postgres_of(pid: int, folder: Path) -> bool:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return name == "postgres" and Path(f"/proc/{pid}/cwd").readlink() == folder / "postgresql" / "data"
    except OSError:
        return False


def _all_processes() -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def start_time(pid: int) -> str:
    """When the process started, in the system's own words; empty where there is none, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists() or not shutil.which("ps"):
            return ""
        command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        listed = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        return "" if listed.lstrip().startswith("Z") else listed.strip().partition(" ")[2]
    return "" if fields[0] in "ZX" else fields[19]


def new_password() -> str:
    return base64.b32encode(os.urandom(20)).decode().lower()
