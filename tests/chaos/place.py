"""Where it happens: servers of the suite's own behind proxies, and two replicas of each service."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from miniopy_async.api import Minio

from chaos.mangler import EXCHANGE, Mangler
from chaos.proxy import HOST, Proxy
from harness.fleet import SERVICES, Fleet

# the scripts below deploy/native import each other by name, as they do when they run
sys.path.append(str(Path(__file__).resolve().parents[2] / "deploy" / "native"))

import servers
import stack as native
from parts import Parts, find_parts

PREFIX = "chaos"
REPLICAS = (*SERVICES, *(f"{name}.2" for name in SERVICES))
SETTINGS = {
    "ACEQUIA_BUCKET_PREFIX": PREFIX,
    "ACEQUIA_STOP_GRACE": "10",
    "ACEQUIA_RECONCILER_INTERVAL": "4",
    "ACEQUIA_RECONCILER_GRACE": "5",
    "ACEQUIA_AUDITOR_CATCH_UP_INTERVAL": "20",
    "ACEQUIA_PLAN_STALE_AFTER": "4",
    "ACEQUIA_PLAN_RENEW_EVERY": "1",
    "ACEQUIA_LAKEHOUSE_MAINTAIN_EVERY": "15",
    "ACEQUIA_LAKEHOUSE_COMPACT_FILES": "8",
    "ACEQUIA_LAKEHOUSE_MOST_SNAPSHOTS": "10",
    "ACEQUIA_TRAINER_N_ESTIMATORS": "10",
    "ACEQUIA_TRAINER_WINDOW_OBJECTS": "5",
    "ACEQUIA_TRAINER_MIN_HOLDOUT": "10",
    "OMP_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
}


class Place:
    """Everything that takes part. `proxies`: one in front of each server."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.temp = folder / "temp"
        self.temp.mkdir()
        self.proxies = {name: Proxy(Random(f"{seed} {name}")) for name in servers.NAMES}
        self._seed = seed

    async def open(self) -> None:
        for proxy in self.proxies.values():
            await proxy.open()

    def start_servers(self) -> None:
        """Blocks. PartMissing where a server cannot be had here."""
        self.parts: Parts = find_parts()
        self.stack = native.bring_up(None, owner=servers.Process.of(os.getpid()), minio=self._minio_settings)
        for name, proxy in self.proxies.items():
            proxy.target = getattr(self.stack.ports, name)
        direct = self.stack.environment()
        self.fleet = Fleet(
            {
                **direct,
                **SETTINGS,
                "MINIO_ENDPOINT": f"{HOST}:{self.proxies['minio'].port}",
                "RABBITMQ_URL": self.stack.amqp_url_by(self.proxies["rabbitmq"].port),
                "PG_PORT": str(self.proxies["postgresql"].port),
                "ACEQUIA_LAKEHOUSE_CATALOG_URI": self._catalog_uri(self.proxies["postgresql"].port),
                "ACEQUIA_TEMP_DIR": str(self.temp),
                "TMPDIR": str(self.temp),
            },
            self.folder,
            REPLICAS,
        )
        self.mangler = Mangler(self.stack.amqp_url, Random(f"{self._seed} mangler"))

    def _minio_settings(self, stack: servers.Stack) -> dict[str, str]:
        """It tells the mangler, through the proxy; and what a killed upload left, it removes sooner than in a day."""
        url = stack.amqp_url_by(self.proxies["rabbitmq"].port)
        settings = {"MINIO_API_STALE_UPLOADS_EXPIRY": "60s", "MINIO_API_STALE_UPLOADS_CLEANUP_INTERVAL": "10s"}
        for target in servers.TARGETS:
            settings[f"MINIO_NOTIFY_AMQP_URL_{target.upper()}"] = url
            settings[f"MINIO_NOTIFY_AMQP_EXCHANGE_{target.upper()}"] = EXCHANGE
        return settings

    def start_replica(self, name: str) -> None:
        second = ".2" if name.endswith(".2") else ""
        self.fleet.start(name, wait=False, ACEQUIA_INGESTOR_AUDITOR_URL=self.fleet.url(f"auditor{second}"))

    def start_server(self, name: str) -> None:
        servers.start_server(self.stack, self.parts, name)

    def stop_server(self, name: str, *, kill: bool) -> None:
        servers.stop_server(self.stack, name, kill=kill)

    @property
    def ingestors(self) -> list[str]:
        return [self.fleet.url("ingestor"), self.fleet.url("ingestor.2")]

    def minio(self, session: aiohttp.ClientSession, *, direct: bool) -> Minio:
        endpoint = f"{HOST}:{self.stack.ports.minio if direct else self.proxies['minio'].port}"
        return Minio(
            endpoint, servers.USER, self.stack.passwords["minio"], secure=False, region="us-east-1", session=session
        )

    @property
    def database(self) -> dict[str, Any]:
        """What asyncpg wants to know."""
        return {
            "host": HOST,
            "port": self.stack.ports.postgresql,
            "user": servers.USER,
            "password": self.stack.passwords["postgresql"],
            "database": servers.USER,
        }

    def _catalog_uri(self, port: int) -> str:
        password = self.stack.passwords["postgresql"]
        return f"postgresql+psycopg://{servers.USER}:{password}@{HOST}:{port}/{servers.USER}"

    @property
    def lake(self) -> dict[str, str]:
        """What pyiceberg wants to know of the catalog."""
        return {
            "type": "sql",
            "uri": self._catalog_uri(self.stack.ports.postgresql),
            "s3.endpoint": f"http://{HOST}:{self.stack.ports.minio}",
            "s3.access-key-id": servers.USER,
            "s3.secret-access-key": self.stack.passwords["minio"],
            "s3.region": "us-east-1",
        }

    # what is left

    def queues(self) -> dict[str, int]:
        """Messages, ready and unacknowledged, by queue: those that hold any."""
        environment = servers.rabbitmq_environment(self.stack)
        command = [str(self.parts.rabbitmq.with_name("rabbitmqctl")), "-n", environment["RABBITMQ_NODENAME"], "-q"]
        command += ["list_queues", "--formatter", "json", "name", "messages_ready", "messages_unacknowledged"]
        listed = subprocess.run(
            command, env={**os.environ, **environment}, check=True, capture_output=True, text=True, timeout=60
        )
        rows = json.loads(listed.stdout)
        held = {row["name"]: row["messages_ready"] + row["messages_unacknowledged"] for row in rows}
        assert "acequia.audit" in held, listed.stdout
        return {name: messages for name, messages in held.items() if messages}

    def open_uploads(self) -> list[str]:
        """Incomplete multipart uploads, as they lie on MinIO's disk."""
        folder = self.stack.folder / "minio" / "data" / ".minio.sys" / "multipart"
        return [str(path.relative_to(folder)) for path in folder.glob("*/*")]

    def temporary_files(self) -> list[str]:
        return sorted(path.name for path in self.temp.iterdir())

    async def close(self) -> None:
        for proxy in self.proxies.values():
            await proxy.close()

    def take_down(self) -> None:
        """Blocks. The servers' logs are kept, their data go."""
        if hasattr(self, "fleet"):
            self.fleet.close()
        if hasattr(self, "stack"):
            servers.stop_servers(self.stack)
            for name in (*servers.NAMES, "rabbitmq/log/rabbitmq"):
                log = self.stack.folder / f"{name}.log"
                if log.exists():
                    shutil.copy(log, self.folder / f"server-{log.name}")
            shutil.rmtree(self.stack.folder)
