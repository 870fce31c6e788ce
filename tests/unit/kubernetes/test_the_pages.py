"""deploy/k8s/README.md says what is there, and its example is one that can be applied."""

import re
from collections.abc import Callable
from pathlib import Path

import yaml

from harness.kustomize import Document, compose
from harness.variables import ROOT, SERVICES

from .reading import container_of, data_of, environment, named

SERVERS = ("minio", "rabbitmq", "postgres")
PAGE = (ROOT / "deploy/k8s/README.md").read_text()


def blocks(kind: str = "") -> list[str]:
    return re.findall(rf"(?ms)^```{kind}\n(.*?)^```$", PAGE)


def test_two_commands_bring_the_local_overlay_up() -> None:
    commands = blocks()[0].splitlines()
    assert commands == ["make k8s-local", "kubectl apply -k deploy/k8s/overlays/local"]
    assert re.search(r"(?m)^k8s-local:", (ROOT / "Makefile").read_text())


def test_its_table_names_what_is_there() -> None:
    told = set(re.findall(r"(?m)^\| `([^`]+)` \|", PAGE))
    there = {"base/", *(f"overlays/{path.name}/" for path in (ROOT / "deploy/k8s/overlays").iterdir())}
    there |= {f"components/{path.name}/" for path in (ROOT / "deploy/k8s/components").iterdir()}
    there |= {f"jobs/{path.name}" for path in (ROOT / "deploy/k8s/jobs").iterdir()}
    assert told == there


def test_the_example_of_an_overlay_changes_what_it_says(manifests: Path) -> None:
    (example,) = blocks("yaml")
    mine = manifests / "overlays/mine"
    mine.mkdir(exist_ok=True)
    (mine / "kustomization.yaml").write_text(example)
    documents = compose(mine)
    assert "transformer" in named(documents, "ScaledObject")
    for scaled in named(documents, "ScaledObject"):
        assert "replicas" not in named(documents, "Deployment")[scaled]["spec"]
    told = environment(documents, container_of(documents, "transformer"))
    for literal in yaml.safe_load(example)["configMapGenerator"][0]["literals"]:
        name, _, value = literal.partition("=")
        assert told[name][1] == value
    # what it does not speak of stays as it was
    assert set(SERVICES) == named(documents, "Deployment").keys()
    assert (
        data_of(documents, "ConfigMap")["acequia-common"]
        == data_of(compose(manifests / "base"), "ConfigMap")["acequia-common"]
    )


def test_its_table_of_requests_and_limits_is_what_is_asked_for(composed: Callable[[str], list[Document]]) -> None:
    rows = re.findall(r"(?m)^\| ([a-z]+) \|.*\| (\w+), (\w+) \| (\w+) \|$", PAGE)
    assert sorted(name for name, *_ in rows) == sorted([*SERVICES, *SERVERS])
    for name, processor, memory, limit in rows:
        resources = container_of(composed("overlays/local" if name in SERVERS else "base"), name)["resources"]
        assert resources == {"requests": {"cpu": processor, "memory": memory}, "limits": {"memory": limit}}, name


def test_each_secret_of_base_is_explained() -> None:
    text = "".join(path.read_text() for path in (ROOT / "deploy/k8s/base").glob("*.yaml"))
    asked = re.findall(r"secretKeyRef: \{ name: ([a-z-]+), key: ([A-Z_]+) \}", text)
    assert asked
    for name, key in asked:
        assert f"`{name}`" in PAGE
        assert f"`{key}`" in PAGE
