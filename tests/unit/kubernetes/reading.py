"""How composed manifests are read: who selects whom, what a container's environment is."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.kustomize import Document, pod_specs
from harness.variables import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PORT = int(re.search(r"ACEQUIA_HTTP_PORT=(\d+)", DOCKERFILE)[1])
TEMP_DIR = re.search(r"ACEQUIA_TEMP_DIR=(\S+)", DOCKERFILE)[1]
USER = int(re.search(r"(?m)^USER (\d+):", DOCKERFILE)[1])
FULL = sorted(
    str(path.parent.relative_to(ROOT / "deploy/k8s")) for path in ROOT.glob("deploy/k8s/overlays/*/kust*.yaml")
)
"""The overlays: each is all that somebody applies."""
COMPONENTS = sorted(f"with-{path.parent.name}" for path in ROOT.glob("deploy/k8s/components/*/kustomization.yaml"))
SOURCES = {"secretRef": {"name": "acequia-sources", "optional": True}}
"""The DSNs of the databases that tables are ingested from, if there are any."""
ALL = ["base", *COMPONENTS, *FULL, "jobs"]
BUILT_IN = {"", "apps", "batch", "policy", "autoscaling", "networking.k8s.io"}
"""Kubernetes' own groups of resources."""


def kind_of(document: Mapping[str, Any]) -> str:
    return f"{document['apiVersion']} {document['kind']}"


def is_an_operators(document: Mapping[str, Any]) -> bool:
    return document["apiVersion"].rpartition("/")[0] not in BUILT_IN


def of_kind(documents: Sequence[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def named(documents: Sequence[Document], kind: str) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in of_kind(documents, kind)}


def labels_of_pods(documents: Sequence[Document]) -> dict[str, dict[str, str]]:
    """Name of each workload -> its pods' labels."""
    return {
        document["metadata"]["name"]: document["spec"]["template"]["metadata"]["labels"]
        for document in of_kind(documents, "Deployment", "StatefulSet", "Job")
    }


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """A LabelSelector; an empty one selects all."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}, selector
    for expression in selector.get("matchExpressions", ()):
        value, values = labels.get(expression["key"]), expression.get("values", ())
        match expression["operator"]:
            case "In" if value not in values:
                return False
            case "NotIn" if value in values:
                return False
            case "Exists" if value is None:
                return False
            case "In" | "NotIn" | "Exists":
                pass
            case other:
                raise AssertionError(other)
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def containers(pod: Mapping[str, Any]) -> list[Document]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def all_containers(documents: Sequence[Document]) -> Iterator[tuple[str, Document]]:
    """Each container, after a name that tells of it."""
    for workload, pod in pod_specs(documents):
        for container in containers(pod):
            yield f"{workload['metadata']['name']}/{container['name']}", container


def container_of(documents: Sequence[Document], service: str) -> Document:
    (pod,) = [pod for workload, pod in pod_specs(documents) if workload["metadata"]["name"] == service]
    (container,) = pod["containers"]
    return dict(container)


def quantity(text: str) -> int:
    """Bytes of a memory's or a volume's size."""
    number, unit = re.fullmatch(r"(\d+)([KMGT]i|)", text).groups()
    return int(number) * 1024 ** " KMGT".index(unit[:1] or " ")


def data_of(documents: Sequence[Document], kind: str) -> dict[str, dict[str, str]]:
    """ConfigMaps or Secrets by name; a Secret that another tool makes is known by its keys."""
    found = {name: dict(document.get("data") or {}) for name, document in named(documents, kind).items()}
    if kind == "Secret":
        found = {name: {k: base64.b64decode(v).decode() for k, v in data.items()} for name, data in found.items()}
        for external in of_kind(documents, "ExternalSecret"):
            target = external["spec"].get("target", {})
            made = target.get("template", {}).get("data") or {
                entry["secretKey"]: "" for entry in external["spec"].get("data", ())
            }
            found[target.get("name", external["metadata"]["name"])] = dict.fromkeys(made, "?")
    return found


def environment(documents: Sequence[Document], container: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Variable -> (where it comes from, value). AssertionError where a reference leads nowhere.

    The Secrets of base are brought by the overlays: there a reference's value is "?".
    """
    maps, secrets = data_of(documents, "ConfigMap"), data_of(documents, "Secret")
    found: dict[str, tuple[str, str]] = {}
    for source in container.get("envFrom", ()):
        if source == SOURCES:  # any number of databases, each under a name of its own
            found["ACEQUIA_SOURCE_POSTGRES_DSN"] = ("Secret/acequia-sources", "?")
            continue
        assert set(source) == {"configMapRef"}, f"{source}: secrets are named one by one"
        name = source["configMapRef"]["name"]
        assert name in maps, f"no ConfigMap {name}"
        found |= {key: (f"ConfigMap/{name}", value) for key, value in maps[name].items()}
    for entry in container.get("env", ()):
        assert len(entry.keys() - {"name"}) == 1, entry
        if "value" in entry:
            assert isinstance(entry["value"], str), entry
            found[entry["name"]] = ("", entry["value"])
            continue
        ((kind, reference),) = entry["valueFrom"].items()
        if kind == "fieldRef":
            found[entry["name"]] = ("fieldRef", reference["fieldPath"])
            continue
        assert kind in ("secretKeyRef", "configMapKeyRef"), entry
        there = secrets if kind == "secretKeyRef" else maps
        source = f"{'Secret' if kind == 'secretKeyRef' else 'ConfigMap'}/{reference['name']}"
        if secrets and not reference.get("optional"):
            assert reference["name"] in there, f"{entry['name']}: no {source}"
            assert reference["key"] in there[reference["name"]], f"{entry['name']}: {source} has no {reference['key']}"
        found[entry["name"]] = (source, there.get(reference["name"], {}).get(reference["key"], "?"))
    return found
