"""The services as processes of their own, on the real servers."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

SERVICES = ("auditor", "evaluator", "trainer", "lakehouse", "transformer", "ingestor", "reconciler")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Fleet:
    """Starts, kills and stops services. Each has its port for as long as the fleet is there.

    `names`: a service, or a replica of it (`trainer.2`).
    """

    def __init__(self, env: Mapping[str, str], logs: Path, names: Sequence[str] = SERVICES) -> None:
        self.ports = {name: free_port() for name in names}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.logs = logs
        own = {k: v for k, v in os.environ.items() if not k.startswith(("MINIO_", "RABBITMQ_", "PG_", "ACEQUIA_"))}
        asked = [name for name in ("auditor", "reconciler", "lakehouse") if name in self.ports]
        neighbours = {f"ACEQUIA_INGESTOR_{name.upper()}_URL": self.url(name) for name in asked}
        self.env = {
            **own,
            **neighbours,
            "ACEQUIA_RECONCILER_INTERVAL": "1",
            "ACEQUIA_RECONCILER_GRACE": "3",
            "ACEQUIA_PLAN_STALE_AFTER": "2",
            "ACEQUIA_PLAN_RENEW_EVERY": "0.5",
            "ACEQUIA_RETRY_DELAYS": "1,2,2",
            **env,
        }

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def command(self, name: str) -> Sequence[str]:
        return sys.executable, "-m", f"acequia_{name.partition('.')[0]}"

    def start(self, *names: str, wait: bool = True, **more: str) -> None:
        """`more`: settings for this start alone."""
        for name in names:
            with (self.logs / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    self.command(name),
                    env={**self.env, "ACEQUIA_HTTP_PORT": str(self.ports[name]), **more},
                    stdout=log,
                    stderr=log,
                )
        if wait:
            for name in names:
                self.wait_ready(name)

    def wait_ready(self, name: str, seconds: float = 90) -> None:
        self.wait(lambda: self.is_ready(name), f"{name} is not ready", seconds)

    def wait_alive(self, name: str, seconds: float = 90) -> None:
        """Until it listens, whatever it waits for."""
        self.wait(lambda: self._answers(name, "health"), f"{name} does not listen", seconds)

    def is_ready(self, name: str) -> bool:
        return self._answers(name, "ready")

    def _answers(self, name: str, path: str) -> bool:
        process = self.processes[name]
        assert process.poll() is None, f"{name} ended with {process.returncode}: {self.log(name)}"
        try:
            return httpx.get(f"{self.url(name)}/{path}", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def parts(self, name: str) -> dict[str, str]:
        """What /ready says of each part: "ok", or what is wrong."""
        answer = httpx.get(f"{self.url(name)}/ready", timeout=20).json()
        parts: dict[str, str] = answer.get("parts", answer)
        return parts

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait(30)

    def stop(self, name: str) -> int:
        """SIGTERM; the exit code."""
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(60)

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text()[-1000:]

    def said(self, name: str, words: str) -> int:
        """How often a service has logged `words`."""
        return (self.logs / f"{name}.log").read_text().count(words)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(30)

    # what a user does

    def post(self, rows: int = 10, seed: int = 7, rate: float = 0.02, **headers: str) -> httpx.Response:
        source = {"kind": "synthetic", "rows": rows, "seed": seed, "anomaly_rate": rate}
        body = {"dataset": "network_events", "source": source}
        return httpx.post(f"{self.url('ingestor')}/ingestions", json=body, headers=headers, timeout=60)

    def put(self, file: Path, name: str | None = None, **params: str) -> httpx.Response:
        with file.open("rb") as content:
            url = f"{self.url('ingestor')}/ingestions/files/{name or file.name}"
            return httpx.put(url, content=content, params=params, timeout=60)

    def page(self, run_id: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url('ingestor')}/ingestions/{run_id}", timeout=30)
        document: dict[str, Any] = answer.json()
        return document

    def finished(self, run_id: str, seconds: float = 90) -> dict[str, Any]:
        """The run's page once it is finished."""
        self.wait(lambda: self.page(run_id).get("finished"), f"run {run_id} does not finish", seconds)
        return self.page(run_id)

    def wait(self, ready: Any, why: str, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                logs = "\n".join(f"--- {name}\n{self.log(name)}" for name in self.processes)
                raise AssertionError(f"{why} within {seconds} s\n{logs}")
            time.sleep(0.1)
