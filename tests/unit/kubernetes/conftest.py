"""What deploy/k8s comes to: each kustomization composed once, in a copy with secrets of its own."""

import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kustomize import compose, read_all
from harness.variables import ROOT

sys.path.append(str(ROOT / "deploy/native"))  # the scripts there import each other by name

import k8s_local

SOURCE = ROOT / "deploy/k8s"


@pytest.fixture(scope="session")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of deploy/k8s with secrets, and for each component a folder `with-<component>`: base and it."""
    folder = tmp_path_factory.mktemp("manifests") / "k8s"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("secrets"))
    k8s_local.write_secrets(folder / "overlays/local/secrets")
    for component in (SOURCE / "components").iterdir():
        there = folder / f"with-{component.name}"
        there.mkdir()
        both = {"resources": ["../base"], "components": [f"../components/{component.name}"]}
        (there / "kustomization.yaml").write_text(yaml.safe_dump(both))
    return folder


@pytest.fixture(scope="session")
def composed(manifests: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The resources of `base`, `overlays/...`, `with-<component>` or `jobs`. Not to be changed."""

    @cache
    def documents(name: str) -> list[dict[str, Any]]:
        if (manifests / name / "kustomization.yaml").exists():
            return compose(manifests / name)
        files = sorted((manifests / name).glob("*.yaml"))
        return [document for file in files for document in read_all(file.read_text())]

    return documents
