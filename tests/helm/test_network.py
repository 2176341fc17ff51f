"""The network is open for the edges of the design, and for nothing else.

Which service may call which is said by the policies that the services start with, which caller for which RPC. The same
is said to the network by the chart. Here the second is computed from the rendered NetworkPolicies, as a network plugin
would, and compared with the first.
"""

import importlib
from itertools import product
from typing import Any

from chassis.policy import CHASSIS_POLICY, Policy

from .rendering import COMPONENTS, Document, Rendered, render

Labels = dict[str, str]


def policy_of(component: str) -> Policy:
    """The table that the service starts with; the gateway serves no RPCs."""
    if component == "gateway":
        return {}
    module: Any = importlib.import_module(f"{component.replace('-', '_')}.bootstrap")
    return module.POLICY


def edges_of_the_rpcs() -> set[tuple[str, str]]:
    """Caller and callee, for every RPC but those that every service has; operators come by a forwarded port."""
    return {
        (caller, callee)
        for callee in COMPONENTS
        for method, rule in policy_of(callee).items()
        if method not in CHASSIS_POLICY
        for caller in rule.callers
        if caller != "operator"
    }


def pods_of(rendered: Rendered) -> dict[str, Document]:
    """Each pod by the name of what makes it; metadata and spec."""
    return {name.removeprefix("almagest-"): pod for name, pod in rendered.pods()}


def _chosen(selector: Document, labels: Labels) -> bool:
    assert selector.keys() <= {"matchLabels"}, "say here how the others are read"
    return selector.get("matchLabels", {}).items() <= labels.items()


def _peers(peers: list[Document], labels: Labels) -> bool:
    return any(
        "podSelector" in peer and "namespaceSelector" not in peer and _chosen(peer["podSelector"], labels)
        for peer in peers
    )


def _ports(rule: Document, container_ports: dict[str, int], port: str) -> bool:
    number = container_ports[port]
    return "ports" not in rule or any(one["port"] in {port, number} for one in rule["ports"])


def allowed(rendered: Rendered, source: Document, target: Document, port: str) -> bool:
    """Whether a pod may connect to a port of another one: its egress and the other's ingress both say so."""
    ports = {
        one["name"]: one["containerPort"]
        for container in target["spec"]["containers"]
        for one in container.get("ports", [])
    }
    out = _direction(rendered, source, "Egress", "to", target, ports, port)
    return out and _direction(rendered, target, "Ingress", "from", source, ports, port)


def _direction(
    rendered: Rendered, pod: Document, way: str, peers: str, other: Document, ports: dict[str, int], port: str
) -> bool:
    mine = [
        policy["spec"]
        for policy in rendered.of("NetworkPolicy")
        if way in policy["spec"]["policyTypes"] and _chosen(policy["spec"]["podSelector"], pod["metadata"]["labels"])
    ]
    assert mine, f"no policy is about the {way} of {pod['metadata']}"
    rules = [rule for spec in mine for rule in spec.get(way.lower(), [])]
    return any(
        _ports(rule, ports, port) and (peers not in rule or _peers(rule[peers], other["metadata"]["labels"]))
        for rule in rules
    )


def test_the_network_is_open_where_an_rpc_has_a_caller_and_nowhere_else(rendered: Rendered) -> None:
    """The policies of RPCs and of the network cannot drift apart."""
    pods = pods_of(rendered)
    inner = [component for component in COMPONENTS if component != "gateway"]
    found = {
        (caller, callee)
        for caller, callee in product(COMPONENTS, inner)
        if allowed(rendered, pods[caller], pods[callee], "grpc")
    }
    assert found == edges_of_the_rpcs()
    assert ("gateway", "event-store") not in found


def test_nobody_else_reaches_a_service(rendered: Rendered) -> None:
    """Not servers, nor jobs, nor tests; and of a service the HTTP side is for monitoring alone."""
    pods = pods_of(rendered)
    for (name, source), callee in product(pods.items(), COMPONENTS):
        for port in ("https",) if callee == "gateway" else ("grpc", "http"):
            if port == "grpc" and name in COMPONENTS:
                continue
            expected = callee == "gateway" and name == "smoke"
            assert allowed(rendered, source, pods[callee], port) is expected, (name, callee, port)


def test_a_database_is_reached_by_its_service_and_its_migrations_alone() -> None:
    """As by their certificates, so by the network."""
    rendered = render("dev")
    pods = pods_of(rendered)
    owners = {"users": "auth", "catalog": "catalog-query", "events": "event-store", "jobs": "worker"}
    servers = {name: pod for name, pod in pods.items() if name.startswith("postgres-")}
    assert len(servers) == 7
    for (name, source), (server, target) in product(pods.items(), servers.items()):
        owner = owners[server.split("-")[1]]
        kin = (
            name == owner
            or name.startswith(f"migrate-{owner}-")
            or (name.startswith("first-admin") and owner == "auth")
        )
        assert allowed(rendered, source, target, "postgres") is kin, (name, server)


def test_redis_and_jaeger_are_reached_by_those_who_use_them() -> None:
    """Redis by the services with `redis`, Jaeger's receiver by all services."""
    rendered = render("dev")
    pods = pods_of(rendered)
    redis = {"gateway", "auth", "event-store", "worker"}
    for name, source in pods.items():
        assert allowed(rendered, source, pods["redis"], "redis") is (name in redis), name
        assert allowed(rendered, source, pods["jaeger"], "otlp") is (name in COMPONENTS), name


def test_services_are_told_where_those_are_whom_they_may_call(rendered: Rendered) -> None:
    """A target for each edge, to a Service of the chart without an address of its own, and for no other."""
    for component in COMPONENTS:
        (container,) = rendered.deployment(component)["spec"]["template"]["spec"]["containers"]
        told = rendered.environment(container)
        targets = {name: value for name, value in told.items() if name.endswith("_TARGET")}
        callees = {callee for caller, callee in edges_of_the_rpcs() if caller == component}
        assert targets == {
            f"ALMAGEST_{callee.upper().replace('-', '_')}_TARGET": f"dns:///almagest-{callee}.shop.svc.cluster.local:9090"
            for callee in callees
        }
        for callee in callees:
            service = rendered.named("Service", f"almagest-{callee}")["spec"]
            assert service["clusterIP"] == "None"
            assert {port["port"] for port in service["ports"]} == {9090, 9091}


def test_everybody_may_resolve_names_and_nobody_may_reach_the_internet(rendered: Rendered) -> None:
    """Whatever goes beyond pods of the release has a peer that the values name."""
    for policy in rendered.of("NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            assert rule["to"], policy["metadata"]["name"]
    (dns,) = (one for one in rendered.of("NetworkPolicy") if one["metadata"]["name"] == "almagest-dns")
    for name, pod in rendered.pods():
        assert _chosen(dns["spec"]["podSelector"], pod["metadata"]["labels"]), name
