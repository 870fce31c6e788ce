"""What operators are asked for in `overlays/production` and `components/monitoring`: the test cluster has none of them.

definitions.py fetches their definitions. Where they cannot be had these tests are skipped, and say so; with
ACEQUIA_REQUIRE_CRDS=1, as in `.ci/run`, they fail.

What no schema sees is tested always: that names, ports, secrets and metrics mean the same on both sides.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml
from parts import PartMissing

from acequia.runner import Meters
from harness.kustomize import Document, pod_specs, title
from harness.variables import ROOT

from . import definitions
from .reading import ALL, all_containers, data_of, environment, is_an_operators, kind_of, named, of_kind

PRODUCTION = "overlays/production"
MONITORING = "with-monitoring"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
BY_OPERATORS = {"postgres-ca": {"ca.crt"}}
"""Secrets that an operator makes: CloudNativePG's CA of the cluster `postgres`."""
EXPORTED_BY_RABBITMQ = {"rabbitmq_detailed_queue_messages"}

Composed = Callable[[str], list[Document]]


@pytest.fixture
def production(composed: Composed) -> list[Document]:
    return composed(PRODUCTION)


# their definitions


def schema_of(kind: str) -> dict[str, Any]:
    try:
        return definitions.schema(kind)
    except PartMissing as missing:
        if kind in definitions.FETCHED and os.environ.get("ACEQUIA_REQUIRE_CRDS") == "1":
            pytest.fail(f"ACEQUIA_REQUIRE_CRDS=1, but {missing}", pytrace=False)
        pytest.skip(f"NOT TESTED: operators' resources against their definitions: {missing}")


def wrong(schema: Mapping[str, Any], value: Any) -> Iterator[tuple[str, Any]]:
    """`value` with one thing wrong by `schema`, in every way and place that there is, and which way it is."""
    schema = schema.get("anyOf", [schema])[0] if "type" not in schema else schema
    if "type" in schema:
        yield "another type", 1.5 if isinstance(value, dict | list) else {"a": "b"}
    if isinstance(value, list) and "items" in schema:
        for n, item in enumerate(value):
            for way, changed in wrong(schema["items"], item):
                yield way, [*value[:n], changed, *value[n + 1 :]]
    if not isinstance(value, dict):
        return
    if schema.get("additionalProperties") is False:
        yield "an unknown field", {**value, "acequia": "x"}
    for missing in set(schema.get("required", ())) & value.keys():
        yield "a missing field", {name: item for name, item in value.items() if name != missing}
    for name, item in value.items():
        if isinstance(inner := schema.get("properties", {}).get(name, schema.get("additionalProperties")), dict):
            for way, changed in wrong(inner, item):
                yield way, {**value, name: changed}


def test_each_kind_of_an_operators_has_a_definition(composed: Composed) -> None:
    used = {kind_of(document) for folder in ALL for document in composed(folder) if is_an_operators(document)}
    assert used == definitions.FETCHED.keys() | definitions.NOT_FETCHED, "definitions.py names what is used"


@pytest.mark.parametrize("kind", sorted(definitions.FETCHED.keys() | definitions.NOT_FETCHED))
def test_what_an_operator_is_asked_for_is_of_its_definition(composed: Composed, kind: str) -> None:
    documents = [document for folder in ALL for document in composed(folder) if kind_of(document) == kind]
    validator = jsonschema.Draft7Validator(schema_of(kind))
    assert documents
    for document in documents:
        errors = [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(document)]
        assert errors == [], title(document)
    ways = set()
    for way, changed in wrong(validator.schema, documents[0]):
        ways.add(way)
        assert not validator.is_valid(changed), f"{way} is not seen: {changed}"
    assert ways == {"another type", "an unknown field", "a missing field"}


def test_rabbitmqs_pods_are_of_kubernetes_schema(production: list[Document]) -> None:
    """What its operator takes over into them, whose own definition is not fetched."""
    (broker,) = of_kind(production, "RabbitmqCluster")
    container = {"name": "rabbitmq", "image": "rabbitmq", "resources": broker["spec"]["resources"]}
    pod = {"containers": [container], "affinity": broker["spec"]["affinity"]}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rabbitmq-server-0"}, "spec": pod}
    kubernetes_validate.validate(document, "1.34", strict=True)


def test_a_closed_schema_refuses_what_it_does_not_name() -> None:
    port = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    any_of = [{"required": ["port"]}, {"required": ["more"]}]
    fields = {
        "port": port,
        "more": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "none": {"type": "object", "properties": {}, "nullable": True},
    }
    validator = jsonschema.Draft7Validator(
        definitions.closed({"type": "object", "properties": fields, "anyOf": any_of})
    )
    right = {"port": 1, "more": {"any": "thing"}, "labels": {"any": "text"}, "none": None}
    assert validator.is_valid(right)
    for change in ({"prot": 1}, {"port": {}}, {"labels": {"any": 1}}, {"none": {"any": 1}}):
        assert not validator.is_valid(right | change), change
    assert not validator.is_valid({"none": {}})


def test_the_page_names_the_versions_that_it_was_held_against() -> None:
    rows = [row for row in (ROOT / f"deploy/k8s/{PRODUCTION}/README.md").read_text().splitlines() if row[:1] == "|"]
    for operator in definitions.OPERATORS:
        (row,) = [row for row in rows if f"({operator.project})" in row]
        assert operator.version.removeprefix("v").rpartition(".")[0] in re.findall(r"\d+\.\d+", row), operator.project


# secrets and certificates


def made_secrets(documents: list[Document]) -> dict[str, set[str]]:
    made = {name: set(data) for name, data in data_of(documents, "Secret").items()} | BY_OPERATORS
    for certificate in of_kind(documents, "Certificate"):
        made[certificate["spec"]["secretName"]] = {"tls.crt", "tls.key", "ca.crt"}
    return made


def used_secrets(value: Any) -> Iterator[tuple[str, str | None]]:
    """Name and key of each secret that a resource refers to, however it calls the reference."""
    if isinstance(value, list):
        for item in value:
            yield from used_secrets(item)
    if not isinstance(value, Mapping):
        return
    for key, part in value.items():
        if key in ("secretKeyRef", "accessKeyId", "secretAccessKey"):
            if not part.get("optional"):
                yield part["name"], part["key"]
        elif key == "secretTargetRef":
            yield from ((one["name"], one["key"]) for one in part)
        elif key == "secret" and "items" in part:
            yield from ((part.get("name") or part["secretName"], item["key"]) for item in part["items"])
        elif key == "secret":
            yield part["name"], part.get("key")
        elif key in ("passwordSecret", "externalSecret"):
            yield part["name"], None
        elif key == "secretName":
            yield part, None
        else:
            yield from used_secrets(part)


def test_each_secret_that_is_asked_for_is_made_with_the_key_that_is_asked_for(production: list[Document]) -> None:
    made = made_secrets(production)
    used = [u for d in production if d["kind"] not in ("ExternalSecret", "Certificate") for u in used_secrets(d)]
    assert {"postgres-owner", "minio-tls", "rabbitmq-login", "acequia-rabbitmq"} <= {name for name, _ in used}
    for name, key in used:
        assert name in made, f"nobody makes the secret {name}"
        assert key is None or key in made[name], f"the secret {name} has no {key}"


def test_no_secret_stands_in_the_overlay(production: list[Document]) -> None:
    assert of_kind(production, "Secret") == []


def test_an_operators_secret_is_of_its_form(production: list[Document]) -> None:
    external = named(production, "ExternalSecret")
    owner = external["postgres-owner"]["spec"]["target"]["template"]
    assert owner["type"] == "kubernetes.io/basic-auth"
    assert owner["data"].keys() == {"username", "password"}
    (cluster,) = of_kind(production, "Cluster")
    (role,) = cluster["spec"]["managed"]["roles"]
    assert owner["data"]["username"] == role["name"] == cluster["spec"]["bootstrap"]["initdb"]["owner"]
    login = external["rabbitmq-login"]["spec"]["target"]["template"]["data"]
    assert {"default_user.conf", "username", "password"} <= login.keys()


def test_both_ends_of_a_password_are_of_one_entry(production: list[Document]) -> None:
    external = named(production, "ExternalSecret")

    def entry(name: str) -> set[str]:
        return {data["remoteRef"]["key"] for data in external[name]["spec"]["data"]}

    for one, other in (
        ("acequia-rabbitmq", "rabbitmq-login"),
        ("postgres-owner", "acequia-audit-owner"),
        ("postgres-owner", "acequia-lakehouse-owner"),
    ):
        assert entry(one) == entry(other)
    assert entry("minio-root") != entry("acequia-minio"), "services are not the store's root"


def hosts(production: list[Document], server: str) -> set[str]:
    """The names by which a server is asked, as the settings have them."""
    external = named(production, "ExternalSecret")
    (pod,) = [p for w, p in pod_specs(production) if w["metadata"]["name"] == "minio"]
    if server == "minio":
        said = {data_of(production, "ConfigMap")["acequia-common"]["MINIO_ENDPOINT"].partition(":")[0]}
        (peers,) = [word for word in pod["containers"][0]["args"] if word.startswith("https://")]
        first, last = re.search(r"\{(\d)\.\.\.(\d)\}", peers).groups()
        name = urlsplit(re.sub(r"\{.*\}", "N", peers)).hostname
        return said | {name.replace("n.", f"{n}.", 1) for n in range(int(first), int(last) + 1)}
    url = external["acequia-rabbitmq"]["spec"]["target"]["template"]["data"]["RABBITMQ_URL"]
    keda = {t["metadata"]["host"] for s in of_kind(production, "ScaledObject") for t in s["spec"]["triggers"]}
    monitor = named(production, "ServiceMonitor")["acequia-queues"]["spec"]["endpoints"][0]
    return {url.rpartition("@")[2].partition(":")[0], monitor["tlsConfig"]["serverName"]} | {
        urlsplit(host).hostname for host in keda
    }


@pytest.mark.parametrize("server", ["minio", "rabbitmq"])
def test_a_certificate_is_for_each_name_that_its_server_is_asked_by(production: list[Document], server: str) -> None:
    asked = hosts(production, server)
    assert len(asked) >= 3
    assert asked <= set(named(production, "Certificate")[server]["spec"]["dnsNames"])


def test_minio_has_as_many_pods_as_its_pool_has_names(production: list[Document]) -> None:
    assert named(production, "StatefulSet")["minio"]["spec"]["replicas"] == 4
    assert {f"minio-{n}.minio-peers" for n in range(4)} <= hosts(production, "minio")


# addresses, ports, files


def test_every_service_speaks_tls_and_reads_its_cas_where_they_are_mounted(production: list[Document]) -> None:
    for name, container in all_containers(production):
        found = {key: value for key, (_, value) in environment(production, container).items()}
        if name.startswith("minio/"):
            continue
        mounts = {m["mountPath"] for m in container.get("volumeMounts", ())}
        assert "/etc/acequia/ca" in mounts, name
        assert found["MINIO_SECURE"] == "true"
        files = {key: found[key] for key in found if key.endswith("_CA_FILE")}
        assert set(files.values()) <= {f"/etc/acequia/ca/{s}.crt" for s in ("minio", "rabbitmq", "postgres")}, name
        assert all(key.split("_")[0].lower().replace("pg", "postgres") in value for key, value in files.items())
    data = data_of(production, "ConfigMap")["acequia-auditor"]
    assert (data["PG_HOST"], data["PG_SSLMODE"]) == ("postgres-rw", "verify-full")
    for secret in ("acequia-lakehouse-owner", "acequia-lakehouse-catalog"):
        (uri,) = named(production, "ExternalSecret")[secret]["spec"]["target"]["template"]["data"].values()
        assert uri.rpartition("@")[2].startswith("postgres-rw:5432/")
        assert uri.endswith("?sslmode=verify-full&sslrootcert=/etc/acequia/ca/postgres.crt")


def test_only_the_cas_certificate_is_mounted_of_a_servers_secret(production: list[Document]) -> None:
    for workload, pod in pod_specs(production):
        if workload["kind"] != "Deployment":
            continue
        (volume,) = [v for v in pod["volumes"] if v["name"] == "ca"]
        keys = {item["key"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]}
        assert keys == {"ca.crt"}, workload["metadata"]["name"]


def test_no_policy_lets_a_port_without_tls_through(production: list[Document]) -> None:
    text = yaml.safe_dump(of_kind(production, "NetworkPolicy"))
    ports = set(map(int, re.findall(r"port: (\d+)", text)))
    assert ports >= {5671, 15671, 15691, 9000, 5432}
    assert ports.isdisjoint({5672, 15672, 15692})


def test_policies_for_postgresql_select_the_operators_pods(production: list[Document]) -> None:
    policies = named(production, "NetworkPolicy")
    there = {"cnpg.io/cluster": named(production, "Cluster")["postgres"]["metadata"]["name"]}
    assert policies["postgres"]["spec"]["podSelector"]["matchLabels"] == there
    assert policies["databases"]["spec"]["egress"][0]["to"][0]["podSelector"]["matchLabels"] == there


def test_minio_is_set_up_as_compose_sets_it_up(production: list[Document]) -> None:
    ((_, container),) = [c for c in all_containers(production) if c[0] == "minio/minio"]
    ours = environment(production, container)
    theirs = COMPOSE["services"]["minio"]["environment"]
    assert theirs.keys() <= ours.keys()
    for name, value in theirs.items():
        if name.startswith("MINIO_NOTIFY_AMQP_URL_"):
            assert ours[name][0] == "Secret/acequia-rabbitmq"
        elif not name.startswith("MINIO_ROOT_"):
            assert ours[name][1] == value, name


# what is looked at


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\b((?:acequia|rabbitmq)_[a-z_]+)(?=[\[{),]| >|$)", text))


def test_rules_and_dashboard_name_metrics_that_there_are(composed: Composed) -> None:
    documents = composed(MONITORING)
    (rule,) = of_kind(documents, "PrometheusRule")
    dashboard = json.loads(named(documents, "ConfigMap")["acequia-dashboard"]["data"]["acequia.json"])
    asked = [r["expr"] for group in rule["spec"]["groups"] for r in group["rules"]]
    asked += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    meters = Meters()
    for counter in (meters.deliveries, meters.rows, meters.ignored):
        counter.labels("a", "b")
    for counted in (meters.seconds, meters.dead, meters.sent_again):
        counted.labels("a")
    there = {sample.name for family in meters.registry.collect() for sample in family.samples}
    named_there = set().union(*map(metrics_in, asked))
    assert len(named_there) >= 6
    assert named_there <= there | EXPORTED_BY_RABBITMQ


def test_the_monitor_meets_each_service_at_a_port_that_it_has(composed: Composed) -> None:
    documents = composed(MONITORING)
    spec = named(documents, "ServiceMonitor")["acequia"]["spec"]
    services = [
        s
        for s in of_kind(documents, "Service")
        if spec["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()
    ]
    assert {s["metadata"]["name"] for s in services} >= {p.name for p in (ROOT / "services").iterdir() if p.is_dir()}
    for service in services:
        assert spec["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
