"""A namespace of the cluster of kubectl's current context: what is asked of it, and what is seen of its pods."""

import codecs
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness.fleet import free_port

Document = dict[str, Any]

NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
SECONDS_TO_ANSWER = 120
WRITTEN_WRONGLY = ("CreateContainerConfigError", "InvalidImageName", "RunContainerError")
"""Why a container is not started, where the cluster can't be blamed."""


class Failed(Exception):
    """kubectl says no."""


class NotStarted(Failed):
    """No container of a workload was ever started: nothing of what is tested here has run yet."""


def run(*command: str, said: str | None = None, check: bool = True, seconds: float = SECONDS_TO_ANSWER) -> str:
    """A command's standard output. `said`: what it reads."""
    done = subprocess.run(command, input=said, check=False, capture_output=True, text=True, timeout=seconds)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def why_not() -> str | None:
    """What keeps these tests from a cluster here, or None."""
    for tool in ("kubectl", "docker"):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    for command in (("kubectl", "version", "--request-timeout=20s"), ("docker", "info")):
        try:
            run(*command, seconds=60)
        except (Failed, subprocess.TimeoutExpired):
            return f"`{' '.join(command)}` fails"
    return None


class Cluster:
    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def __call__(self, *arguments: str, said: str | None = None, check: bool = True, seconds: float = 120) -> str:
        """kubectl, in the namespace."""
        return run("kubectl", "--namespace", self.namespace, *arguments, said=said, check=check, seconds=seconds)

    def get(self, *what: str) -> Any:
        return json.loads(self("get", *what, "-o", "json"))

    def items(self, *what: str) -> list[Document]:
        return list(self.get(*what)["items"])

    def secret(self, name: str) -> dict[str, str]:
        template = "{{range $key, $value := .data}}{{$key}}={{$value | base64decode}}\n{{end}}"
        lines = self("get", "secret", name, "-o", f"go-template={template}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def variable(self, deployment: str, name: str) -> str:
        """An environment variable, as a pod of the deployment has it."""
        return self("exec", f"deployment/{deployment}", "-c", deployment, "--", "printenv", name).strip()

    def names(self, kind: str) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.items(kind))

    def wait_rolled_out(self, *workloads: str, seconds: float = 300) -> None:
        """Until each has all of its pods ready, and no others."""
        end = time.monotonic() + seconds
        for workload in workloads:
            left = max(5, int(end - time.monotonic()))
            try:
                self("rollout", "status", workload, f"--timeout={left}s", seconds=left + 30)
            except Failed as error:
                kind = Failed if self._has_run(workload) else NotStarted
                raise kind(f"{error}\n{self.what_is_wrong()}") from None

    def _has_run(self, workload: str) -> bool:
        """Whether any of its containers was ever started, or can't be for a reason that stands in the manifests."""
        for pod in self.items("pods", f"--selector={NAME}={workload.partition('/')[2]}"):
            for container in _containers(pod):
                waiting = container["state"].get("waiting")
                if waiting is None or container.get("lastState") or waiting.get("reason") in WRITTEN_WRONGLY:
                    return True
        return False

    def evict(self, pod: str) -> None:
        """By the eviction API, as a node that is drained does it: the disruption budget is asked."""
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self("create", "--raw", path, "-f", "-", said=json.dumps(eviction))

    def what_is_wrong(self) -> str:
        """Containers, volumes and nodes that are not as they should be, and the cluster's warnings, in few lines, what
        concerns most of it last: of a long output one often has only the end."""
        lines: list[str] = []
        try:
            for pod in self.items("pods", "--all-namespaces"):
                if pod["status"]["phase"] != "Succeeded" and not _is_ready(pod):
                    lines += self._troubles_of_pod(pod)
            for claim in self.items("pvc"):
                if (phase := claim["status"]["phase"]) != "Bound":
                    lines.append(f"volume {claim['metadata']['name']}: {phase}")
            warnings = Counter(
                f"{event['reason']}: {event.get('message', '')[:400]}"
                for event in self.items("events", "--field-selector=type=Warning")
            )
            lines += [f"{count} warnings of {warning}" for warning, count in reversed(warnings.most_common(6))]
            for node in self.items("nodes"):
                lines += [f"node {node['metadata']['name']}: {line}" for line in _troubles_of_node(node)]
        except (Failed, subprocess.TimeoutExpired) as error:
            lines.append(f"the cluster tells no more: {error}")
        return "\n".join(lines) or "every node, volume and pod is as it should be"

    def _troubles_of_pod(self, pod: Document) -> Iterator[str]:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        for condition in pod["status"].get("conditions", ()):
            if condition["status"] != "True" and not condition.get("reason", "").startswith("ContainersNot"):
                yield f"{name}: {condition['type']} is {condition['status']}: {condition.get('message', '')[:300]}"
        for container in _containers(pod):
            state, how = next(iter(container["state"].items()), ("unknown", {}))
            if container["ready"] or (state == "terminated" and how["exitCode"] == 0):
                continue
            said = [f"{name}/{container['name']}: {state}", how.get("reason"), how.get("message", "")[:300]]
            if end := container.get("lastState", {}).get("terminated"):
                said.append(f"{container['restartCount']} restarts, the last end with {end['exitCode']}")
            yield ", ".join(word for word in said if word)
            logs = Cluster(namespace)("logs", name, "-c", container["name"], "--tail=4", check=False)
            yield from (f"    {line[:300]}" for line in logs.splitlines())

    def report(self, most: int) -> str:
        """Pods, events and logs, of each so many lines at `most`, for a person who looks for what went wrong."""
        said = [
            self("get", "pods,pvc,deployments,statefulsets,jobs", "-o", "wide", check=False),
            "\n".join(self("get", "events", "--sort-by=.lastTimestamp", check=False).splitlines()[-80:]),
        ]
        for pod in self.names("pods"):
            told = self("logs", pod, "--all-containers", "--prefix", f"--tail={most}", check=False)
            before = self("logs", pod, "--previous", f"--tail={most}", check=False)
            said.append(
                f"--- {pod}\n{told[-8000:]}" + (f"\n--- {pod}, the container before\n{before}" if before else "")
            )
        return "\n\n".join(said)


@dataclass
class Ended:
    """A container's end."""

    pod: str
    uid: str
    service: str
    container: str
    code: int
    reason: str
    deleted: bool
    """Whether its pod was about to go."""
    first: bool
    """Whether it is one of those that prepare."""

    def __str__(self) -> str:
        return f"{self.pod}/{self.container} ended with {self.code} ({self.reason or 'no reason'})"


@dataclass
class Watch:
    """The namespace's pods, as they are now, and how their containers ended."""

    cluster: Cluster
    ended: list[Ended] = field(default_factory=list)
    _pods: dict[str, Document] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _process: "subprocess.Popen[bytes] | None" = None
    _closed: bool = False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._live, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed = True
        if self._process is not None:
            self._process.kill()
        self._thread.join(30)

    def pods(self, service: str | None = None, component: str | None = None) -> list[Document]:
        """Those that are not about to go, the oldest first."""
        with self._lock:
            there = list(self._pods.values())
        found = [
            pod
            for pod in there
            if "deletionTimestamp" not in pod["metadata"]
            and pod["status"].get("phase") in ("Pending", "Running")
            and service in (None, pod["metadata"]["labels"].get(NAME))
            and component in (None, pod["metadata"]["labels"].get(COMPONENT))
        ]
        return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def ready(self, service: str) -> list[Document]:
        return [pod for pod in self.pods(service) if _is_ready(pod)]

    def is_ready(self, name: str) -> bool:
        return any(pod["metadata"]["name"] == name and _is_ready(pod) for pod in self.pods())

    def uids(self, name: str) -> set[str]:
        """Of the pods of this name, one that is about to go too."""
        with self._lock:
            return {uid for uid, pod in self._pods.items() if pod["metadata"]["name"] == name}

    def is_there(self, name: str) -> bool:
        return any(pod["metadata"]["name"] == name for pod in self.pods())

    def _live(self) -> None:
        command = ["kubectl", "--namespace", self.cluster.namespace, "get", "pods", "-o", "json"]
        while not self._closed:  # the server ends a watch by itself, now and then
            with suppress(Failed, subprocess.TimeoutExpired, ValueError):
                listed = {pod["metadata"]["uid"]: pod for pod in self.cluster.items("pods")}
                with self._lock:
                    self._pods = listed
            with subprocess.Popen(
                [*command, "--watch", "--output-watch-events"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as self._process:
                if self._closed:
                    self._process.kill()
                for event in _documents(self._process):
                    if event["type"] == "ERROR":
                        self._process.kill()
                        break
                    with suppress(KeyError):  # a pod that the kubelet has not seen yet
                        self._take(event)
            time.sleep(0.5)

    def _take(self, event: Document) -> None:
        pod = event["object"]
        for ended in self._ends(pod):
            self.ended.append(ended)
        with self._lock:
            if event["type"] == "DELETED":
                self._pods.pop(pod["metadata"]["uid"], None)
            else:
                self._pods[pod["metadata"]["uid"]] = pod

    def _ends(self, pod: Document) -> Iterator[Ended]:
        metadata, status = pod["metadata"], pod["status"]
        for kind in ("initContainerStatuses", "containerStatuses"):
            for container in status.get(kind, ()):
                for state in (container.get("lastState", {}), container.get("state", {})):
                    end = state.get("terminated")
                    if end is None or (name := f"{metadata['uid']} {end.get('containerID')}") in self._seen:
                        continue
                    self._seen.add(name)
                    yield Ended(
                        metadata["name"],
                        metadata["uid"],
                        metadata["labels"].get(NAME, ""),
                        container["name"],
                        end["exitCode"],
                        end.get("reason", ""),
                        "deletionTimestamp" in metadata,
                        kind == "initContainerStatuses",
                    )


def _troubles_of_node(node: Document) -> Iterator[str]:
    for condition in node["status"]["conditions"]:
        if (condition["type"] == "Ready") != (condition["status"] == "True"):
            yield f"{condition['type']} is {condition['status']}: {condition.get('message', '')}"
    for taint in node["spec"].get("taints", ()):
        yield f"has the taint {taint['key']}:{taint['effect']}"


def _containers(pod: Document) -> Sequence[Document]:
    """How they are, those that prepare first."""
    status = pod["status"]
    return *status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())


def _is_ready(pod: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


def _documents(process: "subprocess.Popen[bytes]") -> Iterator[Document]:
    """JSON documents, one after the other, as they come."""
    assert process.stdout is not None
    decoder, bytes_of, text = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8")(), ""
    while data := os.read(process.stdout.fileno(), 1 << 16):
        text += bytes_of.decode(data)
        while text := text.lstrip():
            try:
                document, end = decoder.raw_decode(text)
            except ValueError:
                break  # the rest is on its way
            yield document
            text = text[end:]


class Forward:
    """A port of this machine that leads to a ready pod of a service, to another one when that goes."""

    def __init__(self, watch: Watch, service: str, port: int) -> None:
        self.port = free_port()
        self._watch = watch
        self._service = service
        self._target = port
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"to {service}", daemon=True)
        self._thread.start()

    def wait(self, seconds: float = 60) -> None:
        until(self._answers, f"no way to {self._service}", seconds)

    def close(self) -> None:
        self._closed.set()
        self._thread.join(30)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2):
            return True
        return False

    def _live(self) -> None:
        while not self._closed.wait(0.3):
            pods = self._watch.ready(self._service) or self._watch.pods(self._service)
            if not pods:
                continue
            name = pods[0]["metadata"]["name"]
            command = ["kubectl", "--namespace", self._watch.cluster.namespace, "port-forward", f"pod/{name}"]
            self._process = subprocess.Popen(
                [*command, f"{self.port}:{self._target}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while self._process.poll() is None and not self._closed.wait(0.3):
                if not self._watch.is_there(name):
                    break
            self._end()

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)


def until(ready: Callable[[], Any], why: str, seconds: float, pause: float = 0.5) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise AssertionError(f"{why} within {seconds:.0f} s")
        time.sleep(pause)
