"""`make k8s-local` brings what the local overlay and the Job run."""

from collections.abc import Callable

import k8s_local

from harness.kustomize import Document, pod_specs
from harness.variables import SERVICES


def test_what_is_brought_is_what_runs(composed: Callable[[str], list[Document]]) -> None:
    documents = [*composed("overlays/local"), *composed("jobs")]
    images = {
        c["image"] for _, pod in pod_specs(documents) for c in (*pod["containers"], *pod.get("initContainers", ()))
    }
    assert {*k8s_local.SERVICES} == {*SERVICES, "cli"}
    ours = {f"acequia-{name}:{k8s_local.TAG}" for name in k8s_local.SERVICES}
    assert images == {*ours, k8s_local.MINIO, *k8s_local.SERVERS}
