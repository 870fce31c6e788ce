"""Who reaches whom, by the NetworkPolicies, is what the services' settings need, and nothing else."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from harness.kustomize import Document
from harness.variables import ROOT, SERVICES
from unit.kubernetes.reading import FULL, PORT, container_of, environment, labels_of_pods, named, of_kind, selects

Composed = Callable[[str], list[Document]]
OUTSIDE = {"app.kubernetes.io/name": "somebody"}
OF_OTHERS = {
    "kube-system": {"k8s-app": "kube-dns"},
    "keda": {"app": "keda-operator"},
    "cnpg-system": {"app.kubernetes.io/name": "cloudnative-pg"},
    "monitoring": {"app.kubernetes.io/name": "prometheus"},
}
"""Labels of the pods by whom we are asked, or who are asked, in namespaces that are not ours."""
SERVER_OF_A_NAME = re.compile(r"(?:^|//|@)([a-z]+):(\d+)")


def reaches(policies: Sequence[Document], source: Mapping[str, str], target: Mapping[str, str], port: int) -> bool:
    """Whether pods with these labels, in the one namespace, may open that port."""
    return _allows(policies, "Egress", source, target, port) and _allows(policies, "Ingress", target, source, port)


def _allows(
    policies: Sequence[Document], way: str, isolated: Mapping[str, str], other: Mapping[str, str], port: int
) -> bool:
    about = [
        p["spec"] for p in policies if way in p["spec"]["policyTypes"] and selects(p["spec"]["podSelector"], isolated)
    ]
    if not about:
        return True
    side = {"Egress": "to", "Ingress": "from"}[way]
    return any(
        _is_peer(rule.get(side), other) and _is_port(rule.get("ports"), port)
        for spec in about
        for rule in spec.get(way.lower(), ())
    )


def _is_peer(peers: Sequence[Mapping[str, Any]] | None, labels: Mapping[str, str]) -> bool:
    if not peers:
        return True
    return any(_is_ours(peer) and selects(peer["podSelector"], labels) for peer in peers)


def _is_ours(peer: Mapping[str, Any]) -> bool:
    """Not another namespace's pods, nor an address."""
    return peer.keys() == {"podSelector"}


def _is_port(ports: Sequence[Mapping[str, Any]] | None, port: int) -> bool:
    return not ports or any(p["port"] == port and p.get("protocol", "TCP") == "TCP" for p in ports)


def test_each_pod_reaches_what_its_settings_name_and_nobody_reaches_anything_else(composed: Composed) -> None:
    documents = composed("overlays/local")
    policies = of_kind(documents, "NetworkPolicy")
    pods = labels_of_pods(documents)
    pods["chain"] = composed("jobs")[0]["spec"]["template"]["metadata"]["labels"]
    ports = {
        (name, port["port"])
        for name, service in named(documents, "Service").items()
        for port in service["spec"]["ports"]
    }
    wanted: set[tuple[str, str, int]] = {("chain", "ingestor", 8000)}
    for name in (*SERVICES, "minio"):
        told = environment(documents, container_of(documents, name))
        (workload,) = [d for d in of_kind(documents, "Deployment", "StatefulSet") if d["metadata"]["name"] == name]
        for first in workload["spec"]["template"]["spec"].get("initContainers", ()):
            told |= environment(documents, first)
        for _, value in told.values():
            wanted |= {(name, host, int(port)) for host, port in SERVER_OF_A_NAME.findall(value) if host in pods}
        if "PG_HOST" in told:
            wanted.add((name, told["PG_HOST"][1], int(told["PG_PORT"][1])))
    pairs = [(s, t, port) for s in pods for t, port in ports if s != t and t in pods]
    # each end lets it through, and nothing else: no policy relies on that of the other end
    assert {(s, t, port) for s, t, port in pairs if _allows(policies, "Egress", pods[s], pods[t], port)} == wanted
    assert {(s, t, port) for s, t, port in pairs if _allows(policies, "Ingress", pods[t], pods[s], port)} == wanted


def test_in_production_each_arrow_is_open_by_tls(composed: Composed) -> None:
    documents = composed("overlays/production")
    policies, pods = of_kind(documents, "NetworkPolicy"), labels_of_pods(documents)
    pods["rabbitmq"] = {"app.kubernetes.io/name": "rabbitmq", "app.kubernetes.io/component": "rabbitmq"}
    pods["postgres"] = {"cnpg.io/cluster": "postgres"}
    ports = {"minio": 9000, "rabbitmq": 5671, "postgres": 5432}
    wanted = {(name, server) for name in SERVICES for server in ("minio", "rabbitmq")}
    wanted |= {("auditor", "postgres"), ("lakehouse", "postgres"), ("minio", "rabbitmq")}
    wanted |= {("minio", "minio"), ("postgres", "postgres")}
    assert {(s, t) for s in pods for t, port in ports.items() if reaches(policies, pods[s], pods[t], port)} == wanted
    assert all(reaches(policies, pods["rabbitmq"], pods["rabbitmq"], port) for port in (4369, 25672))


@pytest.mark.parametrize("folder", FULL)
def test_another_namespaces_pods_are_called_as_those_who_install_them_call_them(
    composed: Composed, folder: str
) -> None:
    """Each namespace is one that the production page names, but for that of the cluster's own DNS."""
    met = set()
    for policy in of_kind(composed(folder), "NetworkPolicy"):
        for rule in (*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())):
            for peer in (*rule.get("to", ()), *rule.get("from", ())):
                if "namespaceSelector" in peer:
                    ((key, namespace),) = peer["namespaceSelector"]["matchLabels"].items()
                    assert key == "kubernetes.io/metadata.name"
                    assert peer["podSelector"]["matchLabels"] == OF_OTHERS[namespace], policy["metadata"]["name"]
                    met.add(namespace)
    assert {"kube-system", "keda", "monitoring"} <= met
    page = (ROOT / "deploy/k8s/overlays/production/README.md").read_text()
    for namespace in met - {"kube-system"}:
        assert re.search(rf"(?m)^\|.* in `{namespace}`", page), namespace


@pytest.mark.parametrize("folder", ["with-network-policy", *FULL])
def test_prometheus_is_let_in_to_each_service_and_to_nobody_else_there(composed: Composed, folder: str) -> None:
    documents = composed(folder)
    lets_in = named(documents, "NetworkPolicy")["prometheus"]["spec"]
    assert lets_in["policyTypes"] == ["Ingress"]
    met = {name for name, labels in labels_of_pods(documents).items() if selects(lets_in["podSelector"], labels)}
    assert met == set(SERVICES)
    (rule,) = lets_in["ingress"]
    assert rule["ports"] == [{"port": PORT}]


def test_who_is_not_of_acequia_reaches_nothing_and_nobody_reaches_him(composed: Composed) -> None:
    documents = composed("overlays/local")
    policies = of_kind(documents, "NetworkPolicy")
    for name, labels in labels_of_pods(documents).items():
        for port in (8000, 9000, 5672, 5432):
            assert not reaches(policies, OUTSIDE, labels, port), name
            assert not reaches(policies, labels, OUTSIDE, port), name


def test_each_policy_is_about_somebody(composed: Composed) -> None:
    documents = composed("overlays/local")
    everybody = [*labels_of_pods(documents).values(), composed("jobs")[0]["spec"]["template"]["metadata"]["labels"]]
    for policy in of_kind(documents, "NetworkPolicy"):
        spec = policy["spec"]
        about = [spec["podSelector"]]
        for way, side in (("ingress", "from"), ("egress", "to")):
            about += [
                peer["podSelector"] for rule in spec.get(way, ()) for peer in rule.get(side, ()) if _is_ours(peer)
            ]
        for selector in about:
            assert any(selects(selector, labels) for labels in everybody), (policy["metadata"]["name"], selector)


def test_each_rule_says_to_whom_and_to_which_ports(composed: Composed) -> None:
    for folder in ("overlays/local", "with-autoscale-queue"):
        for policy in of_kind(composed(folder), "NetworkPolicy"):
            for way, side in (("ingress", "from"), ("egress", "to")):
                for rule in policy["spec"].get(way, ()):
                    assert rule[side], policy["metadata"]["name"]
                    assert rule["ports"], policy["metadata"]["name"]


def test_every_pod_may_ask_for_names(composed: Composed) -> None:
    (names,) = [p for p in of_kind(composed("overlays/local"), "NetworkPolicy") if p["metadata"]["name"] == "names"]
    assert names["spec"]["podSelector"] == {}
    (rule,) = names["spec"]["egress"]
    assert {(port["protocol"], port["port"]) for port in rule["ports"]} == {("UDP", 53), ("TCP", 53)}
    pods, *addresses = rule["to"]
    assert pods.keys() == {"namespaceSelector", "podSelector"}
    # NodeLocal DNSCache, Cloud DNS: no pod has these
    assert {peer["ipBlock"]["cidr"] for peer in addresses} == {"169.254.20.10/32", "169.254.169.254/32"}


def test_an_address_outside_is_open_for_names_alone(composed: Composed) -> None:
    """Cloud DNS's address is that of the instance's metadata as well."""
    for folder in FULL:
        for policy in of_kind(composed(folder), "NetworkPolicy"):
            for rule in (*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())):
                if any("ipBlock" in peer for peer in (*rule.get("to", ()), *rule.get("from", ()))):
                    assert {port["port"] for port in rule["ports"]} == {53}, policy["metadata"]["name"]
