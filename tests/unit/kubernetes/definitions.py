"""Operators' CustomResourceDefinitions, fetched when a test wants them: they are not ours to ship.

Each of these operators is a Go module with its definitions in it. `go mod download` fetches the version that is named
here, by way of the public module proxy, and holds it against Go's checksum database; the few files that are needed are
kept in the user's cache, beside MinIO. After that neither Go nor a network is asked for.

ACEQUIA_CRDS names a folder with definitions (*.yaml, any number in a file) to take instead, where it has a kind's.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import parts

from harness.kustomize import read_all

SECONDS = 240
"""That a download may take: pytest ends a test after 300."""


@dataclass(frozen=True)
class Operator:
    project: str
    module: str
    version: str
    folder: str
    """Where in the module its definitions lie."""
    kinds: tuple[str, ...]

    @property
    def cached(self) -> Path:
        return parts.cache_folder() / f"{self.module.split('/')[2]}-{self.version}"


OPERATORS = (
    Operator(
        "https://cloudnative-pg.io",
        "github.com/cloudnative-pg/cloudnative-pg",
        "v1.30.0",
        "config/crd/bases",
        ("postgresql.cnpg.io/v1 Cluster", "postgresql.cnpg.io/v1 ScheduledBackup"),
    ),
    Operator(
        "https://cloudnative-pg.io/plugin-barman-cloud",
        "github.com/cloudnative-pg/plugin-barman-cloud",
        "v0.14.0",
        "config/crd/bases",
        ("barmancloud.cnpg.io/v1 ObjectStore",),
    ),
    Operator(
        "https://cert-manager.io",
        "github.com/cert-manager/cert-manager",
        "v1.21.1",
        "deploy/crds",
        ("cert-manager.io/v1 Certificate", "cert-manager.io/v1 Issuer"),
    ),
    Operator(
        "https://external-secrets.io",
        "github.com/external-secrets/external-secrets",
        "v1.3.2",  # the newest that is a Go module: from 2.0 on its path would have to end in /v2
        "config/crds/bases",
        ("external-secrets.io/v1 ExternalSecret",),
    ),
    Operator(
        "https://keda.sh",
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "config/crd/bases",
        ("keda.sh/v1alpha1 ScaledObject", "keda.sh/v1alpha1 TriggerAuthentication"),
    ),
    Operator(
        "https://prometheus-operator.dev",
        "github.com/prometheus-operator/prometheus-operator",
        "v0.93.0",
        "example/prometheus-operator-crd",
        ("monitoring.coreos.com/v1 PrometheusRule", "monitoring.coreos.com/v1 ServiceMonitor"),
    ),
)

FETCHED = {kind: operator for operator in OPERATORS for kind in operator.kinds}
NOT_FETCHED = {"rabbitmq.com/v1beta1 RabbitmqCluster"}
"""RabbitMQ's operator could not be had from the module proxy: a folder has to bring its definition."""


def schema(kind: str) -> dict[str, Any]:
    """What a resource of a kind ("<apiVersion> <kind>") has to be. PartMissing where its definition can't be had."""
    folder = os.environ.get("ACEQUIA_CRDS")
    if folder and kind in (there := _of_folder(Path(folder))):
        return there[kind]
    if kind not in FETCHED:
        raise parts.PartMissing(f"{kind} is not fetched; ACEQUIA_CRDS names a folder with its definition")
    found = _fetched_or_why_not(FETCHED[kind])
    if isinstance(found, parts.PartMissing):
        raise found
    return _read(found / _file_of(kind))[kind]


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenAPI schema of a definition as a JSON schema that refuses fields which it does not name."""
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if "properties" in schema:
        made["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
    if "items" in schema:
        made["items"] = closed(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = closed(schema["additionalProperties"])
    elif (
        schema.get("type") == "object"
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
        made.pop("format", None)
    if made.pop("nullable", False):
        made = {"anyOf": [made, {"type": "null"}]}
    return made


def _file_of(kind: str) -> str:
    version, _, name = kind.partition(" ")
    return f"{version.partition('/')[0]}_{name.lower()}s.yaml"


@cache
def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Kind -> schema, of each version that is served."""
    found = {}
    for document in read_all(path.read_text()):
        if document.get("kind") != "CustomResourceDefinition":
            continue
        spec = document["spec"]
        for version in spec["versions"]:
            if version["served"]:
                whole = closed(version["schema"]["openAPIV3Schema"])
                whole["properties"]["metadata"] = {"type": "object"}
                found[f"{spec['group']}/{version['name']} {spec['names']['kind']}"] = whole
    return found


@cache
def _of_folder(folder: Path) -> dict[str, dict[str, Any]]:
    return {kind: schema for path in sorted(folder.rglob("*.yaml")) for kind, schema in _read(path).items()}


@cache
def _fetched_or_why_not(operator: Operator) -> Path | parts.PartMissing:
    """Asked once: where there is no network, each attempt takes its time."""
    try:
        return fetch(operator)
    except parts.PartMissing as missing:
        return missing


def fetch(operator: Operator) -> Path:
    """The folder in the cache with the operator's definitions. One fetches at a time, the others wait for it."""
    target, files = operator.cached, [_file_of(kind) for kind in operator.kinds]
    target.parent.mkdir(parents=True, exist_ok=True)
    with parts.only_one(target.parent / "lock"):
        if all((target / file).exists() for file in files):
            return target
        go = parts.find_go()
        if go is None:
            raise parts.PartMissing("they are fetched as Go modules: install Go (https://go.dev/doc/install)")
        with tempfile.TemporaryDirectory(dir=target.parent) as empty:  # in a folder with a go.mod it would ask that
            there = _download(go, operator, empty) / operator.folder
            target.mkdir(exist_ok=True)
            for file in files:
                shutil.copyfile(there / file, Path(empty) / file)
                (Path(empty) / file).replace(target / file)
    return target


def _download(go: str, operator: Operator, folder: str) -> Path:
    wanted = f"{operator.module}@{operator.version}"
    command = [go, "mod", "download", "-json", wanted]
    environment = {"GOTOOLCHAIN": "auto", **os.environ}
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise parts.PartMissing(f"`go mod download {wanted}` took more than {SECONDS} s") from None
    told = json.loads(done.stdout or "{}")
    if done.returncode != 0:
        raise parts.PartMissing(
            f"`go mod download` needs a module proxy: {parts.last_line(told.get('Error') or done.stderr)}"
        )
    return Path(told["Dir"])
