"""Selectors match labels, references lead somewhere, ports are there."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from harness.kustomize import Document, pod_specs
from unit.kubernetes.reading import (
    ALL,
    COMPONENTS,
    FULL,
    all_containers,
    container_of,
    labels_of_pods,
    named,
    of_kind,
    selects,
)

Composed = Callable[[str], list[Document]]
PEERS = "-peers"
"""Ends the name of the headless Service by which the pods of a server that is several find each other."""
CLUSTERS = ["base", *COMPONENTS, *FULL]


@pytest.mark.parametrize("folder", ALL)
def test_a_workload_selects_its_own_pods_and_no_others(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    pods = labels_of_pods(documents)
    for workload in of_kind(documents, "Deployment", "StatefulSet"):
        selector, name = workload["spec"]["selector"], workload["metadata"]["name"]
        assert [other for other, labels in pods.items() if selects(selector, labels)] == [name]
        for constraint in workload["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            assert selects(constraint["labelSelector"], pods[name]), name


@pytest.mark.parametrize("folder", CLUSTERS)
def test_a_service_leads_to_the_pods_of_its_name_and_to_a_port_that_they_have(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    pods = labels_of_pods(documents)
    for service in of_kind(documents, "Service"):
        if "selector" not in service["spec"]:
            assert service["spec"]["type"] == "ExternalName", service
            continue
        name, selector = service["metadata"]["name"], {"matchLabels": service["spec"]["selector"]}
        met = [other for other, labels in pods.items() if selects(selector, labels)]
        if not met and folder in FULL:  # an operator's pods: not among what is applied
            assert named(documents, "Deployment").keys().isdisjoint({name}), name
            continue
        assert met == [name.removesuffix(PEERS)]
        there = {port["name"]: port["containerPort"] for port in container_of(documents, met[0])["ports"]}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in there, f"{name}: {port}"


@pytest.mark.parametrize("folder", CLUSTERS)
def test_each_deployment_has_one_disruption_budget_that_lets_its_only_pod_go(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    pods = labels_of_pods(documents)
    of_operators = named(documents, "RabbitmqCluster")
    several = [n for n, d in named(documents, "StatefulSet").items() if d["spec"]["replicas"] > 1]
    met: Counter[str] = Counter()
    for budget in of_kind(documents, "PodDisruptionBudget"):
        found = [name for name, labels in pods.items() if selects(budget["spec"]["selector"], labels)]
        name = budget["metadata"]["name"]
        assert found == ([] if folder in FULL and name in of_operators else [name])
        assert budget["spec"]["maxUnavailable"] == 1
        assert "minAvailable" not in budget["spec"]
        met.update(found)
    assert met == Counter(dict.fromkeys([*named(documents, "Deployment"), *several], 1))


@pytest.mark.parametrize("folder", ALL)
def test_each_pod_has_an_account_of_its_own_without_a_token(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    accounts = named(documents, "ServiceAccount")
    for workload, pod in pod_specs(documents):
        assert pod["automountServiceAccountToken"] is False, workload["metadata"]["name"]
        if workload["kind"] == "Deployment":
            assert pod["serviceAccountName"] == workload["metadata"]["name"]
            assert accounts[pod["serviceAccountName"]]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("folder", ALL)
def test_each_mount_has_its_volume_and_each_volume_is_mounted(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    maps = named(documents, "ConfigMap")
    for workload, pod in pod_specs(documents):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
        mounted = {
            mount["name"]
            for container in (*pod.get("initContainers", ()), *pod["containers"])
            for mount in container.get("volumeMounts", ())
        }
        assert mounted == volumes.keys() | claims, workload["metadata"]["name"]
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps


@pytest.mark.parametrize("folder", FULL)
def test_everything_is_in_one_namespace_which_enforces_the_restricted_standard(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    (namespace,) = of_kind(documents, "Namespace")
    levels = {
        key.rpartition("/")[2]: value
        for key, value in namespace["metadata"]["labels"].items()
        if key.startswith("pod-security.kubernetes.io/")
    }
    assert {levels.get(mode) for mode in ("enforce", "audit", "warn")} == {"restricted"}
    for document in documents:
        if document is not namespace and document["kind"] not in ("ClusterIssuer", "ClusterSecretStore"):
            assert document["metadata"]["namespace"] == namespace["metadata"]["name"], document["metadata"]["name"]


@pytest.mark.parametrize("folder", ALL)
def test_each_object_says_that_it_is_of_acequia(composed: Composed, folder: str) -> None:
    for document in composed(folder):
        labels: dict[str, Any] = document["metadata"].get("labels", {})
        if document["kind"] in ("Deployment", "StatefulSet", "Job", "Service", "ServiceAccount", "PodDisruptionBudget"):
            assert labels["app.kubernetes.io/part-of"] == "acequia", document["metadata"]["name"]
            assert labels["app.kubernetes.io/name"] == document["metadata"]["name"].removesuffix(PEERS)
            assert labels["app.kubernetes.io/component"] in ("service", "server", "client")


def test_nobody_refers_to_an_image_without_a_tag_in_an_overlay(composed: Composed) -> None:
    for folder in (*FULL, "jobs"):
        for name, container in all_containers(composed(folder)):
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            assert tag, f"{folder}: {name}"
            assert tag != "latest", f"{folder}: {name}"
