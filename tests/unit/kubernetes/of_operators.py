"""Makes operators.json: of each operator's resource that deploy/k8s uses, the schema of just those fields.

    PYTHONPATH=tests python -m unit.kubernetes.of_operators FOLDER

FOLDER holds the operators' own CustomResourceDefinitions as YAML; test_operators.py says of which versions, and checks
against the whole of them where they are at hand. A field that a definition does not know ends it with an error.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.kustomize import Document, compose, read_all

ROOT = Path(__file__).resolve().parents[3]

SCHEMAS = Path(__file__).with_name("operators.json")
BUILT_IN = {"", "apps", "batch", "policy", "autoscaling", "networking.k8s.io", "kustomize.config.k8s.io"}
KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "format")

METADATA = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


class Unknown(Exception):
    """A manifest says what its definition does not know."""


def kind_of(document: Mapping[str, Any]) -> str:
    return f"{document['apiVersion']} {document['kind']}"


def is_an_operators(document: Mapping[str, Any]) -> bool:
    return document["apiVersion"].rpartition("/")[0] not in BUILT_IN


def pruned(schema: Mapping[str, Any], values: Sequence[Any], where: str) -> dict[str, Any]:
    """As much of `schema` as says something about `values`; every other field is forbidden."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {key: schema[key] for key in KEPT if key in schema and not (key == "format" and schema[key] != "date-time")}
    objects = [value for value in values if isinstance(value, dict)]
    lists = [value for value in values if isinstance(value, list)]
    if objects and "properties" in schema:
        names = sorted({name for value in objects for name in value})
        if unknown := [name for name in names if name not in schema["properties"]]:
            raise Unknown(f"{where}: {', '.join(unknown)}")
        kept["properties"] = {
            name: pruned(
                schema["properties"][name], [value[name] for value in objects if name in value], f"{where}.{name}"
            )
            for name in names
        }
        kept["additionalProperties"] = False
        if "required" in schema:
            kept["required"] = schema["required"]
    elif objects and isinstance(schema.get("additionalProperties"), dict):
        inner = [item for value in objects for item in value.values()]
        kept["additionalProperties"] = pruned(schema["additionalProperties"], inner, f"{where}.*")
    elif objects and not schema.get("x-kubernetes-preserve-unknown-fields"):
        raise Unknown(f"{where}: has no fields")
    if lists and "items" in schema:
        kept["items"] = pruned(schema["items"], [item for value in lists for item in value], f"{where}[]")
    return kept


def definitions(folder: Path) -> dict[str, Mapping[str, Any]]:
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        for crd in read_all(path.read_text()):
            for version in crd["spec"]["versions"] if crd["kind"] == "CustomResourceDefinition" else ():
                name = f"{crd['spec']['group']}/{version['name']} {crd['spec']['names']['kind']}"
                found[name] = version["schema"]["openAPIV3Schema"]
    return found


def used() -> Iterator[Document]:
    """Every operator's resource below deploy/k8s: as it stands in its file, and as it is applied."""
    folder = ROOT / "deploy/k8s"
    found = [document for path in folder.rglob("*.yaml") for document in read_all(path.read_text())]
    if (folder / "overlays/production").exists():
        found += compose(folder / "overlays/production")
    for document in found:
        whole = isinstance(document, dict) and "name" in document.get("metadata", {}) and "spec" in document
        if whole and is_an_operators(document):
            yield document


def schemas(documents: Iterable[Document], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    by_kind: dict[str, list[Document]] = {}
    for document in documents:
        by_kind.setdefault(kind_of(document), []).append(document)
    made = {}
    for kind, there in sorted(by_kind.items()):
        if kind not in known:
            raise Unknown(f"no definition of {kind}")
        schema = {**known[kind], "properties": {**known[kind]["properties"], "metadata": METADATA}}
        made[kind] = pruned(schema, there, kind.partition(" ")[2])
    return made


def main(folder: str) -> None:
    made = schemas(used(), definitions(Path(folder)))
    SCHEMAS.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    sys.stderr.write("".join(f"{kind}\n" for kind in made))


if __name__ == "__main__":
    main(*sys.argv[1:])
