"""The restricted standard, probes that hit something, a stop that has its time, room for temporary files."""

import re
from collections.abc import Callable, Iterator

import pytest

from acequia.app import House, make_app
from harness.kustomize import Document, pod_specs
from harness.variables import SERVICES
from unit.kubernetes.reading import (
    ALL,
    FULL,
    PORT,
    TEMP_DIR,
    USER,
    all_containers,
    container_of,
    containers,
    data_of,
    environment,
    named,
    of_kind,
    quantity,
)

Composed = Callable[[str], list[Document]]
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
MINIO_PATHS = {"/minio/health/live", "/minio/health/ready", "/minio/health/cluster"}
AFTER_GRACE = 10
"""Seconds that are left after ACEQUIA_STOP_GRACE: what is handed back is handed back, connections are closed."""
VOLUMES = {"emptyDir", "configMap", "secret", "projected", "downwardAPI", "persistentVolumeClaim", "ephemeral", "csi"}


@pytest.mark.parametrize("folder", ALL)
def test_every_pod_keeps_the_restricted_standard(composed: Composed, folder: str) -> None:
    for workload, pod in pod_specs(composed(folder)):
        name = workload["metadata"]["name"]
        assert pod.keys().isdisjoint({"hostNetwork", "hostPID", "hostIPC"}), name
        together = pod["securityContext"]
        assert together["runAsNonRoot"] is True, name
        assert together["runAsUser"] > 0, name
        assert together["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert all(volume.keys() & VOLUMES for volume in pod.get("volumes", ())), name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context.keys().isdisjoint({"privileged", "runAsUser", "procMount"}), name
            assert not any("hostPort" in port for port in container.get("ports", ())), name


@pytest.mark.parametrize("folder", ALL)
def test_our_pods_run_as_the_images_user(composed: Composed, folder: str) -> None:
    for _, pod in pod_specs(composed(folder)):
        ours = [c for c in pod["containers"] if c["image"].partition(":")[0].rpartition("acequia-")[2] in SERVICES]
        if ours:
            assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == USER


@pytest.mark.parametrize("folder", ALL)
def test_every_container_says_what_it_needs_and_at_most_takes(composed: Composed, folder: str) -> None:
    for name, container in all_containers(composed(folder)):
        resources = container["resources"]
        assert resources["requests"].keys() == {"cpu", "memory"}, name
        # of processor time there is no limit: it would slow down work that nobody else has use for
        assert resources["limits"].keys() == {"memory"}, name
        assert quantity(resources["limits"]["memory"]) >= quantity(resources["requests"]["memory"]), name
        assert container["imagePullPolicy"] == "IfNotPresent", name


@pytest.mark.parametrize("folder", ALL)
def test_no_variable_comes_from_the_names_of_services(composed: Composed, folder: str) -> None:
    """A Service `minio` would give every pod a MINIO_PORT of its own kind."""
    for workload, pod in pod_specs(composed(folder)):
        assert pod["enableServiceLinks"] is False, workload["metadata"]["name"]


def routes() -> set[str]:
    app = make_app("test")
    House("test").add_routes(app)
    return set(app.openapi()["paths"])


def probes(container: Document) -> Iterator[tuple[str, Document]]:
    for probe in PROBES:
        if probe in container:
            yield probe, container[probe]


@pytest.mark.parametrize("folder", ["base", *FULL])
@pytest.mark.parametrize("service", SERVICES)
def test_a_services_probes_ask_for_what_it_answers_at_the_port_that_it_listens_on(
    composed: Composed, folder: str, service: str
) -> None:
    container = container_of(composed(folder), service)
    assert container["ports"] == [{"name": "http", "containerPort": PORT}]
    asked = {probe: settings["httpGet"] for probe, settings in probes(container)}
    assert all(request["port"] == "http" for request in asked.values())
    assert {request["path"] for request in asked.values()} <= routes()
    # alive is not ready: where a server is away, a restart would not help
    assert {probe: request["path"] for probe, request in asked.items()} == {
        "startupProbe": "/health",
        "livenessProbe": "/health",
        "readinessProbe": "/ready",
    }


@pytest.mark.parametrize("folder", FULL)
def test_a_servers_probes_hit_something(composed: Composed, folder: str) -> None:
    for workload in of_kind(composed(folder), "StatefulSet"):
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        found = dict(probes(container))
        assert found.keys() == set(PROBES), workload["metadata"]["name"]
        for settings in found.values():
            for kind in ("httpGet", "tcpSocket"):
                if kind in settings:
                    assert settings[kind]["port"] in ports
            if "httpGet" in settings:
                assert settings["httpGet"]["path"] in MINIO_PATHS
                secure = data_of(composed(folder), "ConfigMap")["acequia-common"]["MINIO_SECURE"] == "true"
                assert settings["httpGet"].get("scheme", "HTTP") == ("HTTPS" if secure else "HTTP")


def test_a_distributed_minio_has_started_once_it_can_write(composed: Composed) -> None:
    """Its other two answer 200 with no store behind them."""
    documents = composed("overlays/production")
    assert container_of(documents, "minio")["startupProbe"]["httpGet"]["path"] == "/minio/health/cluster"
    # none of them can be there before the others are
    assert named(documents, "StatefulSet")["minio"]["spec"]["podManagementPolicy"] == "Parallel"
    assert named(documents, "Service")["minio-peers"]["spec"]["publishNotReadyAddresses"] is True


def test_the_broker_holds_publishers_back_before_its_memory_or_its_disk_is_full(composed: Composed) -> None:
    documents = composed("overlays/local")
    text = data_of(documents, "ConfigMap")["rabbitmq"]["rabbitmq.conf"]
    (memory,) = re.findall(r"(?m)^vm_memory_high_watermark\.absolute = (\d+)MiB$", text)
    (disk,) = re.findall(r"(?m)^disk_free_limit\.absolute = (\d+)MB$", text)
    assert int(memory) * 2**20 <= 0.6 * quantity(container_of(documents, "rabbitmq")["resources"]["limits"]["memory"])
    (claim,) = named(documents, "StatefulSet")["rabbitmq"]["spec"]["volumeClaimTemplates"]
    assert int(disk) * 10**6 < quantity(claim["spec"]["resources"]["requests"]["storage"])


@pytest.mark.parametrize("folder", ["base", *FULL])
@pytest.mark.parametrize("service", SERVICES)
def test_a_stopped_service_may_finish_its_work(composed: Composed, folder: str, service: str) -> None:
    documents = composed(folder)
    (pod,) = [pod for workload, pod in pod_specs(documents) if workload["metadata"]["name"] == service]
    (container,) = pod["containers"]
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = float(environment(documents, container)["ACEQUIA_STOP_GRACE"][1])
    assert pod["terminationGracePeriodSeconds"] >= before + grace + AFTER_GRACE


@pytest.mark.parametrize("folder", ["base", *FULL])
@pytest.mark.parametrize("service", SERVICES)
def test_large_temporary_files_lie_on_a_disk_and_are_bounded(composed: Composed, folder: str, service: str) -> None:
    (pod,) = [pod for workload, pod in pod_specs(composed(folder)) if workload["metadata"]["name"] == service]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for path in (TEMP_DIR, "/tmp"):
        there = volumes[mounts[path]]["emptyDir"]
        assert there.keys() == {"sizeLimit"}, path


@pytest.mark.parametrize("folder", ["base", *FULL])
def test_the_largest_sources_that_are_in_work_at_once_fit_into_the_ingestors_room(
    composed: Composed, folder: str
) -> None:
    told = environment(composed(folder), container_of(composed(folder), "ingestor"))
    at_once, packed, unpacked = (
        int(told[name][1])
        for name in (
            "ACEQUIA_CONCURRENCY",
            "ACEQUIA_INGESTOR_MAX_UPLOAD_BYTES",
            "ACEQUIA_INGESTOR_MAX_UNPACKED_BYTES",
        )
    )
    volumes = named(composed(folder), "Deployment")["ingestor"]["spec"]["template"]["spec"]["volumes"]
    (temp,) = [volume["emptyDir"] for volume in volumes if volume["name"] == "temp"]
    assert at_once * (packed + unpacked) < quantity(temp["sizeLimit"]), "their parts lie there too"


@pytest.mark.parametrize("folder", ["base", *FULL])
def test_a_rollout_takes_no_replica_away_before_the_new_one_is_ready(composed: Composed, folder: str) -> None:
    for deployment in of_kind(composed(folder), "Deployment"):
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
