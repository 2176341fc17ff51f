"""The chart and the servers agree: what they are told, where they are asked, how long they are waited for."""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from almagest_cli.local.layout import SERVICES
from almagest_cli.local.layout import Service as Row
from chassis.http import Readiness, application
from gateway.entrypoints import operations

from .rendering import COMPONENTS, ROOT, Document, Rendered, render

sys.path.insert(0, str(ROOT / "tools"))
import chart_schema

ROWS: dict[str, Row] = {row.name: row for row in SERVICES}


def _container(rendered: Rendered, component: str) -> Document:
    (container,) = rendered.deployment(component)["spec"]["template"]["spec"]["containers"]
    return container


def _told(rendered: Rendered) -> list[tuple[str, str, dict[str, Any]]]:
    """The environment of each container of ours: where, whose settings, and what."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for where, _, container in rendered.containers():
        if container["image"].startswith("almagest/") and container["command"][:2] == ["python", "-m"]:
            found.append((where, container["command"][2].replace("_", "-"), rendered.environment(container)))
    return found


def test_every_variable_is_a_setting_of_its_service(rendered: Rendered) -> None:
    """A name that the service does not read would be a value that has no effect."""
    for where, component, told in _told(rendered):
        known = chart_schema.environment_of(chart_schema.settings_of(component))
        assert told.keys() <= known.keys(), where


def test_every_value_is_one_that_its_service_takes(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings class reads what a pod is told, whole, with secrets as they will be."""
    for where, component, told in _told(rendered):
        with monkeypatch.context() as patch:
            for name, value in told.items():
                secret = {
                    "ALMAGEST_REDIS_URL": "rediss://u:p@redis/0",
                    "ALMAGEST_DATABASE_URLS": '["postgresql://x@y/z"]',
                }
                patch.setenv(name, value if isinstance(value, str) else secret[name])
            chart_schema.settings_of(component)()  # type: ignore[call-arg]
        assert told["ALMAGEST_IDENTITY_DIRECTORY"] == "/var/run/almagest/identity", where


def test_the_chart_wires_services_as_a_laptop_does() -> None:
    """Who has which databases and who uses Redis is the same as in `almagest up`."""
    rendered = render("dev")
    for component in COMPONENTS:
        told, row = rendered.environment(_container(rendered, component)), ROWS[component]
        assert ("ALMAGEST_DATABASE_URLS" in told) is bool(row.databases), component
        uses_redis = "redis_url" in chart_schema.settings_of(component).model_fields
        assert ("ALMAGEST_REDIS_URL" in told) is uses_redis, component
        assert set(row.calls) <= {
            name.removeprefix("ALMAGEST_").removesuffix("_TARGET").lower().replace("_", "-")
            for name in told
            if name.endswith("_TARGET")
        }, component


@pytest.mark.parametrize(("values", "shards"), [("dev", 2), ("large", 4)])
def test_databases_are_told_in_shard_order_and_entered_by_certificate(values: str, shards: int) -> None:
    """Each DSN names a server that the chart has, the role that the certificate proves, and no password."""
    rendered = render(values)
    server = "StatefulSet" if values == "dev" else "Cluster"
    for component, stem in (("event-store", "events"), ("catalog-query", "catalog")):
        told = json.loads(rendered.environment(_container(rendered, component))["ALMAGEST_DATABASE_URLS"])
        assert [urlsplit(dsn).path for dsn in told] == [f"/{stem}_{shard}" for shard in range(shards)]
        for shard, dsn in enumerate(told):
            url = urlsplit(dsn)
            assert (url.username, url.password) == (component.replace("-", "_"), None)
            host = (url.hostname or "").partition(".")[0].removesuffix("-rw")
            assert host == f"almagest-postgres-{stem}-{shard}"
            assert rendered.named(server, host)
            query = parse_qs(url.query)
            assert query["sslmode"] == ["verify-full"]
            assert {query[name][0] for name in ("sslcert", "sslkey", "sslrootcert")} == {
                f"/var/run/almagest/identity/{name}" for name in ("tls.crt", "tls.key", "ca.crt")
            }
    owners = [one for one in rendered.of("Job") if "-migrate-" in one["metadata"]["name"]]
    assert len(owners) == 4
    for job in owners:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        for dsn in json.loads(rendered.environment(container)["ALMAGEST_DATABASE_URLS"]):
            assert urlsplit(dsn).username == "almagest_owner"


def test_certificates_name_their_workload_by_uri_name_and_role() -> None:
    """Exactly one SPIFFE id, the DNS name that gRPC verifies, the role that Postgres does, for a short time."""
    rendered = render("dev")
    for workload in (*COMPONENTS, "operator", "almagest-owner"):
        spec = rendered.named("Certificate", f"almagest-identity-{workload}")["spec"]
        assert spec["uris"] == [f"spiffe://almagest.internal/{workload}"]
        assert spec["dnsNames"] == [f"{workload}.almagest.internal"]
        assert spec["commonName"] == workload.replace("-", "_")
        assert spec["privateKey"] == {
            "algorithm": "ECDSA",
            "size": 256,
            "encoding": "PKCS8",
            "rotationPolicy": "Always",
        }
        assert set(spec["usages"]) == {"digital signature", "server auth", "client auth"}
        assert spec["secretName"] == f"almagest-identity-{workload}"


def test_the_csi_driver_is_asked_for_the_same() -> None:
    """With keys that never leave the node, a certificate says what it says otherwise."""
    rendered = render("large")
    for component in COMPONENTS:
        volumes = rendered.deployment(component)["spec"]["template"]["spec"]["volumes"]
        (identity,) = (one["csi"]["volumeAttributes"] for one in volumes if one["name"] == "identity")
        said = {name.removeprefix("csi.cert-manager.io/"): value for name, value in identity.items()}
        assert said["uri-sans"] == f"spiffe://almagest.internal/{component}"
        assert said["dns-names"] == f"{component}.almagest.internal"
        assert said["common-name"] == component.replace("-", "_")
        assert said["issuer-name"] == "almagest-workloads.example"
        assert (said["key-encoding"], said["fs-group"]) == ("PKCS8", "65532")


def test_every_probe_is_answered_by_its_server(rendered: Rendered) -> None:
    """Path, port and scheme are those of the HTTP side of a service, and of the gateway's own."""
    inner = {getattr(route, "path", "") for route in application(Readiness()).routes}
    door = {getattr(route, "path", "") for route in operations.router.routes}
    for component in COMPONENTS:
        container = _container(rendered, component)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        told = rendered.environment(container)
        gateway = component == "gateway"
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[kind]["httpGet"]
            assert asked["path"] in (door if gateway else inner), (component, kind)
            assert asked["scheme"] == ("HTTPS" if gateway else "HTTP")
            listens = told["ALMAGEST_LISTEN" if gateway else "ALMAGEST_HTTP_LISTEN"]
            assert listens == f"0.0.0.0:{ports[asked['port']]}"
            # The HTTP side gives up after two seconds, and then says so.
            assert container[kind]["timeoutSeconds"] > 2
        if not gateway:
            assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"
            assert told["ALMAGEST_LISTEN"] == f"0.0.0.0:{ports['grpc']}"


def test_ports_have_names_which_services_use(rendered: Rendered) -> None:
    """Whoever refers to a port does so by a name that the container gives it."""
    pods = dict(rendered.pods())
    for service in rendered.of("Service"):
        (names,) = (
            {port["name"] for one in pod["spec"]["containers"] for port in one.get("ports", [])}
            for pod in pods.values()
            if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        )
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
        assert all(port["name"] for port in service["spec"]["ports"])


def test_a_pod_is_given_the_time_that_its_server_takes_to_end(rendered: Rendered) -> None:
    """The wait for balancers, the drain, and some more; and the drain is as long as the longest request."""
    for component in COMPONENTS:
        spec = rendered.deployment(component)["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        drains = float(rendered.environment(container)["ALMAGEST_DRAIN_SECONDS"])
        assert waits >= 3
        assert drains >= 10
        assert spec["terminationGracePeriodSeconds"] >= waits + drains + 10


def test_commands_are_those_of_the_services(rendered: Rendered) -> None:
    """`python -m <service> serve`, `migrate`, or one that auth has."""
    for where, _, container in rendered.containers():
        if container["image"].startswith("almagest/") and container["command"][1] == "-m":
            module, command = container["command"][2:4]
            main = importlib.import_module(f"{module}.__main__").__file__ if module == "auth" else None
            known = {"serve", "migrate"} | set(re.findall(r'"([a-z-]+)":', Path(main).read_text() if main else ""))
            assert command in known, where
            assert container["image"].startswith(f"almagest/{module.replace('_', '-')}:"), where


def test_a_kms_runs_beside_those_who_ask_it() -> None:
    """Before them, and until after their end; where auth looks for it; others have neither the plugin nor its socket."""
    external = render("external")
    having = {name: pod["spec"] for name, pod in external.pods() if "initContainers" in pod["spec"]}
    asking = {
        f"{name}/{container['name']}": spec
        for name, spec, container in external.containers()
        if "ALMAGEST_KEY_MANAGEMENT_SOCKET" in external.environment(container)
    }
    assert len(having) == len(asking) == 2
    assert any(where.endswith("/first-admin") for where in asking)
    for where, spec in asking.items():
        (plugin,) = spec["initContainers"]
        assert plugin["restartPolicy"] == "Always", where
        (container,) = spec["containers"]
        socket = Path(external.environment(container)["ALMAGEST_KEY_MANAGEMENT_SOCKET"])
        for one in (plugin, container):
            assert str(socket.parent) in {mount["mountPath"] for mount in one["volumeMounts"] if mount["name"] == "kms"}
        assert f"-socket=unix://{socket}" in plugin["args"], where
    for component in ("auth", "first-admin"):
        egress = external.named("NetworkPolicy", f"almagest-{component}")["spec"]["egress"]
        assert [{"port": 8200}] in [rule["ports"] for rule in egress]
