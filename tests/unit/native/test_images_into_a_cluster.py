"""`make k8s-local`: which images, and how they get into the cluster that kubectl means."""

import stat
from pathlib import Path

import k8s_local
import pytest


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where programs are found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("K8S_LOAD", raising=False)
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("context", "command"),
    [
        ("kind-mine", ("kind", "load", "docker-image", "--name", "mine")),
        ("k3d-mine", ("k3d", "image", "import", "--cluster", "mine")),
        ("minikube", ("minikube", "image", "load")),
        ("docker-desktop", ()),
    ],
)
def test_the_context_says_how_images_get_in(programs: Path, context: str, command: tuple[str, ...]) -> None:
    script(programs / "kubectl", f"echo {context}")
    assert k8s_local.loader() == command


def test_a_cluster_that_it_does_not_know_is_told_how_by_a_variable(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(programs / "kubectl", "echo my-cluster")
    with pytest.raises(k8s_local.Failed, match=r"'my-cluster'.*K8S_LOAD"):
        k8s_local.loader()
    monkeypatch.setenv("K8S_LOAD", "push --to 'my registry'")
    assert k8s_local.loader() == ["push", "--to", "my registry"]


def test_without_kubectl_or_a_context_it_says_so(programs: Path) -> None:
    with pytest.raises(k8s_local.Failed, match="kubectl can't be run"):
        k8s_local.loader()
    script(programs / "kubectl", "exit 1")
    with pytest.raises(k8s_local.Failed, match="no current context"):
        k8s_local.loader()


def test_a_missing_docker_ends_with_one_line(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("K8S_LOAD", "true")
    monkeypatch.setattr(k8s_local, "OVERLAY", programs)
    assert k8s_local.main([]) == 1
    assert "FAILED: docker can't be run, and is needed here" in capsys.readouterr().err
