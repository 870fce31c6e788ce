"""The composer of these tests against kubectl, and what it refuses."""

import shutil
from pathlib import Path

import pytest
import yaml

from harness.kustomize import NotKnown, by_kubectl, comparable, compose
from harness.variables import ROOT

FOLDERS = sorted(
    f"with-{path.parent.name}" if "components" in path.parts else str(path.parent.relative_to(ROOT / "deploy/k8s"))
    for path in (ROOT / "deploy/k8s").rglob("kustomization.yaml")
)
KUSTOMIZE = ("kubectl", "kustomize") if shutil.which("kubectl") else ("kustomize", "build")


@pytest.mark.skipif(
    shutil.which(KUSTOMIZE[0]) is None,
    reason="NOT TESTED: the composed manifests were not held against kubectl's; install kubectl or kustomize",
)
@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_tested_here_is_what_kubectl_makes_of_it(manifests: Path, folder: str) -> None:
    ours, theirs = comparable(compose(manifests / folder)), comparable(by_kubectl(manifests / folder, KUSTOMIZE))
    assert ours.keys() == theirs.keys()
    for name, document in ours.items():
        assert document == theirs[name], name


@pytest.mark.parametrize("key", ["replacements", "helmCharts", "namePrefix"])
def test_what_the_composer_does_not_know_it_refuses(tmp_path: Path, key: str) -> None:
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [], key: []}))
    with pytest.raises(NotKnown, match=key):
        compose(tmp_path)


def test_a_patch_that_meets_nothing_is_an_error(tmp_path: Path) -> None:
    patch = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: nobody}, spec: {replicas: 2}}"
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"patches": [{"patch": patch}]}))
    with pytest.raises(ValueError, match="nobody"):
        compose(tmp_path)
