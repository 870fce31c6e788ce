"""What `kubectl kustomize` makes of a folder, composed in Python, where there may be no kubectl.

It knows the part of kustomize that deploy/k8s uses, and refuses what it does not know. A test holds it against
kubectl's own answer wherever there is one. Names of generated ConfigMaps and Secrets have no hash here.
"""

import base64
import copy
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "StorageClass", "PriorityClass", "ClusterIssuer"}
WITH_TEMPLATE = {"Deployment", "StatefulSet", "Job", "DaemonSet"}
KNOWN = {
    "apiVersion", "kind", "metadata", "resources", "components", "namespace", "labels", "images", "patches", "replicas",
    "configMapGenerator", "secretGenerator", "generatorOptions",
}  # fmt: skip
MERGE_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "topologySpreadConstraints": ("topologyKey",),
    "imagePullSecrets": ("name",),
}
"""Lists whose items a patch finds by a key; `ports` by another in a Service. All others are replaced."""
BUILT_IN = {"networking.k8s.io", "rbac.authorization.k8s.io"}
"""Groups with a dot of which kustomize has the schemas."""
HASH = re.compile(r"-[2456789bcdfghkmt]{10}$")


class NotKnown(Exception):
    """The composer knows no such part of kustomize."""


def compose(folder: Path) -> list[Document]:
    """The resources of a kustomization."""
    return _accumulate(folder.resolve(), [])


def read_all(text: str) -> list[Any]:
    """The documents of a YAML file."""
    return [document for document in yaml.load_all(text, LOADER) if document]


def by_kubectl(folder: Path, command: Iterable[str] = ("kubectl", "kustomize")) -> list[Document]:
    """The same, as kubectl says it; the hashes are cut off."""
    said = subprocess.run([*command, str(folder)], check=True, capture_output=True, text=True, timeout=120).stdout
    documents = read_all(said)
    generated = {
        document["metadata"]["name"]
        for document in documents
        if document["kind"] in ("ConfigMap", "Secret") and HASH.search(document["metadata"]["name"])
    }

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, list):
            return [cut(item) for item in value]
        return HASH.sub("", value) if isinstance(value, str) and value in generated else value

    for document in documents:
        if document["kind"] == "Secret":  # kubectl breaks long ones into lines
            document["data"] = {key: "".join(value.split()) for key, value in document["data"].items()}
    return [cut(document) for document in documents]


def comparable(documents: Iterable[Document]) -> dict[str, Any]:
    """By kind and name, and without the order of lists."""

    def order(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: order(item) for key, item in value.items()}
        if isinstance(value, list):
            return sorted((order(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
        return value

    return {title(document): order(document) for document in documents}


def title(document: Mapping[str, Any]) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def _accumulate(folder: Path, before: list[Document]) -> list[Document]:
    """`before`: what a component changes; a kustomization of its own starts with nothing."""
    path = folder / "kustomization.yaml"
    (text,) = read_all(path.read_text())
    if unknown := set(text) - KNOWN:
        raise NotKnown(f"{path}: {sorted(unknown)}")
    found = list(before)
    for name in text.get("resources", ()):
        there = folder / name
        if there.is_dir():
            found += _accumulate(there.resolve(), [])
        else:
            found += read_all(there.read_text())
    _refuse_doubles(path, found)
    for kind in ("configMap", "secret"):
        for generator in text.get(f"{kind}Generator", ()):
            _generate(folder, kind, generator, text.get("generatorOptions", {}), found)
    for name in text.get("components", ()):
        found = _accumulate((folder / name).resolve(), found)
    for patch in text.get("patches", ()):
        found = _patched(folder, patch, found)
    if namespace := text.get("namespace"):
        for document in found:
            if document["kind"] == "Namespace":
                document["metadata"]["name"] = namespace
            elif document["kind"] not in CLUSTER_WIDE:
                document["metadata"]["namespace"] = namespace
    for labels in text.get("labels", ()):
        _label(path, labels, found)
    for image in text.get("images", ()):
        for container in _containers(found):
            _retag(image, container)
    for replicas in text.get("replicas", ()):
        for document in found:
            if document["metadata"]["name"] == replicas["name"] and document["kind"] in ("Deployment", "StatefulSet"):
                document["spec"]["replicas"] = replicas["count"]
    _refuse_doubles(path, found)
    return found


def _refuse_doubles(path: Path, documents: Iterable[Document]) -> None:
    seen = set()
    for document in documents:
        name = title(document)
        if name in seen:
            raise ValueError(f"{path}: {name} is there twice")
        seen.add(name)


def _generate(
    folder: Path, kind: str, generator: Mapping[str, Any], options: Mapping[str, Any], found: list[Document]
) -> None:
    if unknown := set(generator) - {"name", "envs", "files", "literals", "behavior", "options", "type"}:
        raise NotKnown(f"{folder}: {kind}Generator with {sorted(unknown)}")
    data: dict[str, str] = {}
    for name in generator.get("envs", ()):
        lines = (line.strip() for line in (folder / name).read_text().splitlines())
        data |= {k: v for k, _, v in (line.partition("=") for line in lines if line and not line.startswith("#"))}
    for name in generator.get("files", ()):
        key, _, path = name.rpartition("=")
        data[key or Path(path).name] = (folder / path).read_text()
    data |= {k: v for k, _, v in (literal.partition("=") for literal in generator.get("literals", ()))}
    if kind == "secret":
        data = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    full = {"configMap": "ConfigMap", "secret": "Secret"}[kind]
    standing = [d for d in found if d["kind"] == full and d["metadata"]["name"] == generator["name"]]
    match generator.get("behavior", "create"):
        case "merge":
            (there,) = standing
            there["data"] = {**there.get("data", {}), **data}
        case "replace":
            (there,) = standing
            there["data"] = data
        case _:
            made: Document = {"apiVersion": "v1", "kind": full, "metadata": {"name": generator["name"]}, "data": data}
            if kind == "secret":
                made["type"] = generator.get("type", "Opaque")
            given = {**options, **generator.get("options", {})}
            for key in ("labels", "annotations"):
                if key in given:
                    made["metadata"][key] = dict(given[key])
            found.append(made)


def _patched(folder: Path, patch: Mapping[str, Any], found: list[Document]) -> list[Document]:
    if unknown := set(patch) - {"path", "patch", "target"}:
        raise NotKnown(f"{folder}: a patch with {sorted(unknown)}")
    text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
    for part in read_all(text):
        target = patch.get("target") or {"kind": part["kind"], "name": part["metadata"]["name"]}
        met = [document for document in found if _is_target(target, document)]
        if not met:
            raise ValueError(f"{folder}: a patch meets nothing: {target}")
        for document in met:
            if isinstance(part, list):
                for operation in part:
                    _operate(document, operation)
            elif part.get("$patch") == "delete":
                found = [other for other in found if other is not document]
            else:
                change = {key: value for key, value in part.items() if key not in ("apiVersion", "kind", "metadata")}
                metadata = {k: v for k, v in part.get("metadata", {}).items() if k != "name"}
                keyed = _group(document) in BUILT_IN or "." not in _group(document)
                merged = _merge(document, {**change, **({"metadata": metadata} if metadata else {})}, keyed, document)
                document.clear()
                document.update(merged)
    return found


def _group(document: Document) -> str:
    return document["apiVersion"].rpartition("/")[0]


def _is_target(target: Mapping[str, Any], document: Document) -> bool:
    if unknown := set(target) - {"group", "version", "kind", "name", "labelSelector"}:
        raise NotKnown(f"a patch's target with {sorted(unknown)}")
    group, _, version = document["apiVersion"].rpartition("/")
    if target.get("group", group) != group or target.get("version", version) != version:
        return False
    if not re.fullmatch(target.get("kind", ".*"), document["kind"]):
        return False
    if not re.fullmatch(target.get("name", ".*"), document["metadata"]["name"]):
        return False
    labels = document["metadata"].get("labels", {})
    wanted = [part.partition("=") for part in target.get("labelSelector", "").split(",") if part]
    if any(not sign or "!" in key or " " in key for key, sign, _ in wanted):
        raise NotKnown(f"labelSelector {target['labelSelector']}")
    return all(labels.get(key) == value for key, _, value in wanted)


def _merge(base: Any, change: Any, keyed: bool, document: Document) -> Any:
    """A strategic merge patch; of resources that kustomize has no schema of (`keyed` false), a JSON merge patch."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return copy.deepcopy(change)
    if change.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in change.items() if key != "$patch"}
    if "$patch" in change:
        raise NotKnown(f"$patch: {change['$patch']}")
    merged = dict(base)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        elif (
            isinstance(value, list)
            and keyed
            and (names := _merge_keys(key, document))
            and isinstance(base.get(key), list)
        ):
            merged[key] = _merge_lists(base[key], value, names, document)
        else:
            merged[key] = _merge(base.get(key), value, keyed, document)
    return merged


def _merge_keys(key: str, document: Document) -> tuple[str, ...]:
    if key == "ports":
        return ("port",) if document["kind"] == "Service" else ("containerPort",)
    return MERGE_KEYS.get(key, ())


def _merge_lists(base: list[Any], change: list[Any], names: tuple[str, ...], document: Document) -> list[Any]:
    merged = list(base)
    for item in change:
        at = [n for n, there in enumerate(merged) if all(there.get(name) == item.get(name) for name in names)]
        if item.get("$patch") == "delete":
            merged = [there for n, there in enumerate(merged) if n not in at]
        elif at:
            merged[at[0]] = _merge(merged[at[0]], item, True, document)
        else:
            merged.append(copy.deepcopy(item))
    return merged


def _operate(document: Document, operation: Mapping[str, Any]) -> None:
    """One operation of a JSON patch."""
    *way, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
    place: Any = document
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    match operation["op"], place:
        case "add", list():
            place.insert(len(place) if last == "-" else int(last), copy.deepcopy(operation["value"]))
        case ("replace", list()):
            place[int(last)] = copy.deepcopy(operation["value"])
        case ("remove", list()):
            del place[int(last)]
        case "remove", dict():
            del place[last]
        case (("replace" | "add"), dict()):
            if operation["op"] == "replace" and last not in place:
                raise ValueError(f"{title(document)}: nothing to replace at {operation['path']}")
            place[last] = copy.deepcopy(operation["value"])
        case op, _:
            raise NotKnown(f"the operation {op}")


def _label(path: Path, labels: Mapping[str, Any], found: Iterable[Document]) -> None:
    if unknown := set(labels) - {"pairs", "includeSelectors", "includeTemplates"}:
        raise NotKnown(f"{path}: labels with {sorted(unknown)}")
    if labels.get("includeSelectors"):
        raise NotKnown(f"{path}: labels with includeSelectors")
    for document in found:
        document["metadata"]["labels"] = {**(document["metadata"].get("labels") or {}), **labels["pairs"]}
        if labels.get("includeTemplates"):
            for metadata in _inner_metadata(document):
                metadata["labels"] = {**metadata.get("labels", {}), **labels["pairs"]}


def _inner_metadata(document: Document) -> Iterator[Document]:
    if document["kind"] in WITH_TEMPLATE:
        yield document["spec"]["template"].setdefault("metadata", {})
        for claim in document["spec"].get("volumeClaimTemplates", ()):
            yield claim.setdefault("metadata", {})
    if document["kind"] == "CronJob":
        yield document["spec"]["jobTemplate"]["spec"]["template"].setdefault("metadata", {})


def pod_specs(documents: Iterable[Document]) -> Iterator[tuple[Document, Document]]:
    """Each workload, and what its pods are."""
    for document in documents:
        if document["kind"] in WITH_TEMPLATE:
            yield document, document["spec"]["template"]["spec"]
        elif document["kind"] == "CronJob":
            yield document, document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        elif document["kind"] == "Pod":
            yield document, document["spec"]


def _containers(documents: Iterable[Document]) -> Iterator[Document]:
    for _, pod in pod_specs(documents):
        yield from (*pod.get("initContainers", ()), *pod["containers"])


def _retag(image: Mapping[str, Any], container: Document) -> None:
    if unknown := set(image) - {"name", "newName", "newTag", "digest"}:
        raise NotKnown(f"images with {sorted(unknown)}")
    match = re.fullmatch(r"(.+?)(?::([^/:@]+))?(?:@(.+))?", container["image"])
    assert match is not None
    if match[1] != image["name"]:
        return
    tag = f":{match[2]}" if match[2] else ""
    if "newTag" in image:
        tag = f":{image['newTag']}"
    if "digest" in image:
        tag = f"@{image['digest']}"
    container["image"] = image.get("newName", match[1]) + tag
