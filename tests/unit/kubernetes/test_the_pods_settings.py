"""What each pod is told: every variable has a source and is known, and compose says the same."""

import os
import re
from collections.abc import Callable, Mapping

import pytest
import yaml
from pydantic import SecretStr

from acequia_auditor.settings import MigrationSettings
from acequia_lakehouse.settings import OwnerSettings
from harness.kustomize import Document
from harness.variables import DECIDED_BY_THE_IMAGE, OF_OWNERS, ROOT, SERVICES, settings_of_service, variables_of_service
from unit.kubernetes.reading import ALL, FULL, all_containers, container_of, data_of, environment, named, of_kind

Composed = Callable[[str], list[Document]]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
PREPARE = {"migrate": "auditor", "prepare-lakehouse": "lakehouse"}
"""Services of compose that end: here they are the first containers of these pods."""
ADDRESSES = {
    "MINIO_ENDPOINT", "PG_HOST", "ACEQUIA_INGESTOR_AUDITOR_URL", "ACEQUIA_INGESTOR_RECONCILER_URL",
    "ACEQUIA_INGESTOR_LAKEHOUSE_URL",
}  # fmt: skip
"""What a cluster decides: not the default, but what compose says."""
FOR_A_POD = {"ACEQUIA_INGESTOR_MAX_UPLOAD_BYTES", "ACEQUIA_INGESTOR_MAX_UNPACKED_BYTES"}
"""What differs from the default, and from compose: the sources in work at once have to fit into the pod's `temp`."""
SECRETS = {
    "MINIO_ACCESS_KEY": "acequia-minio",
    "MINIO_SECRET_KEY": "acequia-minio",
    "MINIO_SESSION_TOKEN": "acequia-minio",
    "RABBITMQ_URL": "acequia-rabbitmq",
    "PG_USER": "acequia-audit-database",
    "PG_PASSWORD": "acequia-audit-database",
    "PG_MIGRATION_USER": "acequia-audit-owner",
    "PG_MIGRATION_PASSWORD": "acequia-audit-owner",
    "ACEQUIA_LAKEHOUSE_CATALOG_URI": "acequia-lakehouse-catalog",
    "ACEQUIA_LAKEHOUSE_OWNER_URI": "acequia-lakehouse-owner",
    "ACEQUIA_SOURCE_POSTGRES_DSN": "acequia-sources",
}


def tell(monkeypatch: pytest.MonkeyPatch, told: Mapping[str, tuple[str, str]]) -> None:
    """A container's environment as this process's: of the settings, nothing else is there."""
    for name in list(os.environ):
        if name.startswith(("ACEQUIA_", "MINIO_", "RABBITMQ_", "PG_")):
            monkeypatch.delenv(name)
    for name, (_, value) in told.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("folder", ALL)
def test_every_variable_of_every_container_has_a_source(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    for _, container in all_containers(documents):
        names = [entry["name"] for entry in container.get("env", ())]
        assert len(names) == len(set(names))
        environment(documents, container)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("folder", ["base", *FULL])
def test_a_service_is_told_each_of_its_settings_and_none_that_it_does_not_know(
    composed: Composed, folder: str, service: str
) -> None:
    told = environment(composed(folder), container_of(composed(folder), service))
    unknown = {name for name in told if name not in variables_of_service(service)}
    # a further database of tables has a name of its own in it, and Python's and the libraries' settings are no one's
    assert {name for name in unknown if name.startswith(("ACEQUIA_", "MINIO_", "RABBITMQ_", "PG_"))} == set()
    assert variables_of_service(service) - DECIDED_BY_THE_IMAGE - OF_OWNERS - told.keys() == set()


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_pod_is_told_is_the_default_or_what_compose_says(
    composed: Composed, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = environment(composed("base"), container_of(composed("base"), service))
    tell(monkeypatch, told)
    in_compose = COMPOSE[service]["environment"]
    for settings in settings_of_service(service):
        prefix = settings.model_config["env_prefix"]
        if all(f"{prefix}{field}".upper() not in told for field in settings.model_fields):
            continue
        loaded = settings()
        for field, info in type(loaded).model_fields.items():
            name = f"{prefix}{field}".upper()
            if name not in told or name in SECRETS:
                continue
            default = info.get_default(call_default_factory=True)
            given = getattr(loaded, field)
            given = given.get_secret_value() if isinstance(given, SecretStr) else given
            if name in ADDRESSES:
                assert told[name][1] == in_compose[name]
            elif name in FOR_A_POD:
                assert given != default, f"{name} is the default again: FOR_A_POD has no use for it"
            else:
                assert given == default, name


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("folder", FULL)
def test_a_service_takes_every_value_that_an_overlay_tells_it(
    composed: Composed, folder: str, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(monkeypatch, environment(composed(folder), container_of(composed(folder), service)))
    for settings in settings_of_service(service):
        if settings not in (MigrationSettings, OwnerSettings):
            settings()
    pod = named(composed(folder), "Deployment")[service]["spec"]["template"]["spec"]
    for first in pod.get("initContainers", ()):
        tell(monkeypatch, environment(composed(folder), first))
        {"auditor": MigrationSettings, "lakehouse": OwnerSettings}[service]()


@pytest.mark.parametrize("folder", ["base", *FULL])
def test_two_services_are_told_the_same_of_a_setting_that_both_know(composed: Composed, folder: str) -> None:
    values: dict[str, set[str]] = {}
    for _, container in all_containers(composed(folder)):
        for name, (source, value) in environment(composed(folder), container).items():
            if source.startswith("ConfigMap/acequia-"):
                values.setdefault(name, set()).add(value)
    assert "ACEQUIA_INGESTOR_ROWS_PER_PART" in values, "which stands in two files"
    assert {name: said for name, said in values.items() if len(said) > 1} == {}


@pytest.mark.parametrize("folder", ["base", *FULL])
def test_secrets_come_from_secrets_and_nobody_sees_one_that_he_does_not_need(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    for name, container in all_containers(documents):
        service = container["image"].rpartition("/")[2].partition(":")[0].removeprefix("acequia-")
        if service not in SERVICES:
            continue
        told = environment(documents, container)
        for variable, (source, _) in told.items():
            if variable in SECRETS:
                assert source == f"Secret/{SECRETS[variable]}", f"{name}: {variable}"
            else:
                assert not source.startswith("Secret/"), f"{name}: {variable}"
                assert not re.search(r"PASSWORD|SECRET|_DSN$", variable), f"{name}: {variable}"
        beside = name.partition("/")[2]
        in_compose = next(
            (old for old, new in PREPARE.items() if beside in (old, old.partition("-")[0]) and new == service), service
        )
        needed = {v for v in COMPOSE[in_compose]["environment"] if v in SECRETS}
        assert {v for v in told if v in SECRETS} == needed, name


def test_compose_and_kubernetes_name_the_same_services_and_servers(composed: Composed) -> None:
    documents = composed("overlays/local")
    workloads = {document["metadata"]["name"]: document for document in of_kind(documents, "Deployment", "StatefulSet")}
    assert workloads.keys() == COMPOSE.keys() - PREPARE.keys()
    assert named(documents, "Deployment").keys() == set(SERVICES)
    for name, workload in workloads.items():
        ours = COMPOSE[name]["image"]
        image = re.sub(r"\$\{ACEQUIA_IMAGES:-([^}]*)\}", r"\1", ours)
        image = re.sub(r"^\$\{MINIO_IMAGE:-([^}]*)\}", r"\1", image)
        there = workload["spec"]["template"]["spec"]["containers"][0]["image"]
        assert there.partition(":")[0] == image.partition(":")[0]
        if name in ("rabbitmq", "postgres"):
            assert there == image


@pytest.mark.parametrize("service", SERVICES)
def test_compose_and_kubernetes_tell_a_service_the_same_settings(composed: Composed, service: str) -> None:
    told = environment(composed("overlays/local"), container_of(composed("overlays/local"), service))
    assert told.keys() == COMPOSE[service]["environment"].keys()


@pytest.mark.parametrize(("prepares", "service"), PREPARE.items())
def test_what_prepares_a_database_runs_before_its_service_and_knows_what_it_knows_in_compose(
    composed: Composed, prepares: str, service: str
) -> None:
    documents = composed("overlays/local")
    pod = named(documents, "Deployment")[service]["spec"]["template"]["spec"]
    (first,) = pod["initContainers"]
    assert first["args"] == COMPOSE[prepares]["command"]
    assert first["image"] == pod["containers"][0]["image"]
    told = environment(documents, first)
    assert COMPOSE[prepares]["environment"].keys() <= told.keys()
    # beside that, what the ConfigMaps of its service say, in which there is no secret
    more = told.keys() - COMPOSE[prepares]["environment"].keys()
    assert all(told[name][0].startswith("ConfigMap/") for name in more)


def test_compose_and_kubernetes_tell_minio_the_same_targets(composed: Composed) -> None:
    told = environment(composed("overlays/local"), container_of(composed("overlays/local"), "minio"))
    in_compose = COMPOSE["minio"]["environment"]
    assert told.keys() == in_compose.keys()
    for name, (source, value) in told.items():
        if "${" not in in_compose[name]:
            assert value == in_compose[name], name
        else:
            assert source.startswith("Secret/"), name


def test_the_database_that_is_made_is_the_one_that_is_asked_for(composed: Composed) -> None:
    local, production = composed("overlays/local"), composed("overlays/production")
    made = {
        "overlays/local": environment(local, container_of(local, "postgres"))["POSTGRES_DB"][1],
        "overlays/production": named(production, "Cluster")["postgres"]["spec"]["bootstrap"]["initdb"]["database"],
    }
    for folder in FULL:
        documents = composed(folder)
        assert environment(documents, container_of(documents, "auditor"))["PG_DATABASE"][1] == made[folder]


def test_every_configmap_is_read_by_somebody(composed: Composed) -> None:
    for folder in ("base", *FULL):
        documents = composed(folder)
        read = {
            source["configMapRef"]["name"]
            for _, container in all_containers(documents)
            for source in container.get("envFrom", ())
            if "configMapRef" in source
        }
        mounted = {
            volume["configMap"]["name"]
            for document in of_kind(documents, "Deployment", "StatefulSet")
            for volume in document["spec"]["template"]["spec"].get("volumes", ())
            if "configMap" in volume
        }
        dashboards = {
            d["metadata"]["name"]
            for d in of_kind(documents, "ConfigMap")
            if "grafana_dashboard" in d["metadata"].get("labels", {})
        }
        asked = {
            reference["name"]
            for authentication in of_kind(documents, "TriggerAuthentication")
            for reference in authentication["spec"].get("configMapTargetRef", ())
        }
        assert data_of(documents, "ConfigMap").keys() == read | mounted | dashboards | asked
