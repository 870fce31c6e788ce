"""Autoscalers name what is there, and put nobody to sleep whom no queue would wake."""

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from acequia.layers import Buckets
from acequia.topology import READERS, replay_queue, topology
from harness.kustomize import Document
from unit.kubernetes.reading import ALL, FULL, container_of, named, of_kind

Composed = Callable[[str], list[Document]]
SCALED = {"ingestor", "transformer", "evaluator"}
"""Whoever works one message at a time: beside an open plan of the trainer's or the lakehouse's no replica helps."""
NEVER_ASLEEP = {"ingestor": "it answers requests"}


@pytest.mark.parametrize("folder", ["with-autoscale-cpu", "with-autoscale-queue", *FULL])
def test_what_is_scaled_is_there_and_nobody_else_sets_its_replicas(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    deployments = named(documents, "Deployment")
    scaled = of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject")
    targets = [scaler["spec"]["scaleTargetRef"]["name"] for scaler in scaled]
    assert len(targets) == len(set(targets)), "two autoscalers of one deployment"
    for scaler in scaled:
        target = scaler["spec"]["scaleTargetRef"]
        assert target.get("kind", "Deployment") == "Deployment"
        assert target.get("apiVersion", "apps/v1") == "apps/v1"
        assert "replicas" not in deployments[target["name"]]["spec"]
        assert scaler["metadata"]["name"] == target["name"]
    if folder.startswith("with-"):
        assert set(targets) == SCALED


@pytest.mark.parametrize("folder", ALL)
def test_processor_time_is_scaled_by_where_it_is_asked_for(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    for scaler in of_kind(documents, "HorizontalPodAutoscaler"):
        container = container_of(documents, scaler["spec"]["scaleTargetRef"]["name"])
        assert "cpu" in container["resources"]["requests"]
        assert scaler["spec"]["minReplicas"] >= 1


@pytest.mark.parametrize("folder", ["with-autoscale-queue", *FULL])
def test_a_stage_is_scaled_by_its_own_queues_all_of_them(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    queues = {queue.name for queue in topology(Buckets()).queues}
    live = {reader.stage: reader.queue for reader in READERS}
    for scaler in of_kind(documents, "ScaledObject"):
        name = scaler["metadata"]["name"]
        asked = {trigger["metadata"]["queueName"] for trigger in scaler["spec"]["triggers"]}
        assert asked <= queues, name
        # its replay queue too: what is replayed would wait for ever for a stage that sleeps
        assert asked == {live[name], replay_queue(name)}, name
        assert {trigger["type"] for trigger in scaler["spec"]["triggers"]} == {"rabbitmq"}
        assert {trigger["metadata"]["mode"] for trigger in scaler["spec"]["triggers"]} == {"QueueLength"}


@pytest.mark.parametrize("folder", ["with-autoscale-queue", *FULL])
def test_only_a_stage_that_a_message_wakes_may_sleep(composed: Composed, folder: str) -> None:
    for scaler in of_kind(composed(folder), "ScaledObject"):
        name = scaler["metadata"]["name"]
        if name in NEVER_ASLEEP:
            assert scaler["spec"]["minReplicaCount"] >= 1, NEVER_ASLEEP[name]
        else:
            assert scaler["spec"]["minReplicaCount"] == 0


def test_the_broker_is_asked_where_its_management_api_answers_and_lets_keda_in_there(composed: Composed) -> None:
    local, production = composed("overlays/local"), composed("overlays/production")
    (plain,) = [
        f"http://{service['metadata']['name']}.{service['metadata']['namespace']}:{port['port']}"
        for service in of_kind(local, "Service")
        for port in service["spec"]["ports"]
        if port["name"] == "management"
    ]
    broker = named(production, "RabbitmqCluster")["rabbitmq"]["metadata"]
    by_tls = f"https://{broker['name']}.{broker['namespace']}:15671"
    for scaled, policed, wanted in (
        (composed("with-autoscale-queue"), local, plain),
        (production, production, by_tls),
    ):
        triggers = [t["metadata"] for s in of_kind(scaled, "ScaledObject") for t in s["spec"]["triggers"]]
        assert {trigger["host"] for trigger in triggers} == {wanted}
        assert {trigger["protocol"] for trigger in triggers} == {"http"}
        (rule,) = named(policed, "NetworkPolicy")["keda"]["spec"]["ingress"]
        assert [port["port"] for port in rule["ports"]] == [urlsplit(wanted).port]


@pytest.mark.parametrize("folder", ["with-autoscale-queue", *FULL])
def test_what_asks_the_broker_knows_its_secret(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    known = named(documents, "TriggerAuthentication")
    for scaler in of_kind(documents, "ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            authentication = known[trigger["authenticationRef"]["name"]]
            for reference in authentication["spec"]["secretTargetRef"]:
                if reference["parameter"] == "ca":
                    assert (reference["name"], reference["key"]) == ("rabbitmq-tls", "ca.crt")
                    continue
                assert reference["name"] == "acequia-rabbitmq"
                assert reference["key"] in {"RABBITMQ_USER", "RABBITMQ_PASSWORD", "RABBITMQ_URL", "host"}
