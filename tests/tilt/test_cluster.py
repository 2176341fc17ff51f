"""What the tests of a cluster name is in the chart, and they are whole: nothing here has a cluster to run them on."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from ..cluster import release as cluster
from .stand_ins import documents
from .test_tiltfile import RENDERED, ROOT

MODULES = sorted(path.stem for path in (ROOT / "tests/cluster").glob("test_*.py"))
RELEASE = cluster.Release("almagest", "almagest")


@pytest.fixture(scope="module")
def rendered() -> dict[tuple[str, str], dict[str, Any]]:
    """From kind and name to the object."""
    found = (one for one in documents(RENDERED.read_text(encoding="utf-8")) if one)
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.mark.parametrize("module", MODULES)
def test_every_test_of_a_cluster_can_be_imported(module: str) -> None:
    """With the parameters that it makes from the chart's values."""
    tests = importlib.import_module(f"..cluster.{module}", __package__)
    assert [name for name in vars(tests) if name.startswith("test_")]


def test_services_are_deployments_found_by_their_labels(rendered: dict[tuple[str, str], dict[str, Any]]) -> None:
    """With the container, and the ports of it, that the tests look into."""
    for service in cluster.SERVICES:
        template = rendered["Deployment", RELEASE.full(service)]["spec"]["template"]
        assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE.name
        assert template["metadata"]["labels"]["app.kubernetes.io/component"] == service
        ports = {port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        wanted = {cluster.DOOR_PORT} if service == "gateway" else {cluster.GRPC_PORT, cluster.HTTP_PORT}
        assert wanted <= ports


def test_servers_are_stateful_sets_with_services(rendered: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Databases, Redis and services are found in DNS by the names that the tests use, at the ports that they try."""
    network = importlib.import_module("..cluster.test_network", __package__)
    names = {name for names in cluster.database_servers().values() for name in names} | {"redis"}
    assert {name for kind, name in rendered if kind == "StatefulSet"} == {RELEASE.full(name) for name in names}
    for name, port in network.servers().items():
        service = rendered["Service", RELEASE.full(name)]
        assert port in {one["port"] for one in service["spec"]["ports"]}
        assert RELEASE.host(name) == f"{service['metadata']['name']}.almagest.svc.cluster.local"
    for service in cluster.SERVICES:
        assert network.allowed(service) <= set(network.servers())


def test_what_a_client_is_told_is_in_the_cluster(rendered: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The Secrets that k8s/with-cluster.sh reads, and the address of the first admin."""
    script = (ROOT / "k8s/with-cluster.sh").read_text(encoding="utf-8")
    assert 'secret "$release-web" ca.crt' in script
    assert rendered["Certificate", RELEASE.full("web")]["spec"]["secretName"] == RELEASE.full("web")
    assert 'secret "$release-first-admin" password' in script
    assert "password" in rendered["Secret", RELEASE.full("first-admin")]["data"]
    values = documents((ROOT / "helm/almagest/values.yaml").read_text(encoding="utf-8"))[0]
    assert f"ALMAGEST_EMAIL:-{values['admin']['email']}" in script


def test_rotation_is_about_every_certificate_but_the_authoritys(
    rendered: dict[tuple[str, str], dict[str, Any]],
) -> None:
    """As isCA tells them apart."""
    certificates = {name: one for (kind, name), one in rendered.items() if kind == "Certificate"}
    assert [name for name, one in certificates.items() if one["spec"].get("isCA")] == [RELEASE.full("authority")]
    assert len(certificates) > len(cluster.SERVICES)


def test_counters_are_read_as_services_write_them() -> None:
    """Those of a service's own metrics, by their labels."""
    registry = CollectorRegistry()
    counter = Counter("almagest_rpc_total", "As the chassis has it.", ("role", "method", "code"), registry=registry)
    query = "/almagest.catalog.v1.CatalogQueryService/GetProduct"
    counter.labels("server", query, "OK").inc(3)
    counter.labels("client", query, "OK").inc(5)
    counter.labels("server", query, "INTERNAL").inc(7)
    text = generate_latest(registry).decode()
    assert cluster.total(text, "almagest_rpc_total", 'role="server"', 'code="OK"') == 3


def test_all_images_are_pushed() -> None:
    """Each service of the chart, to where the chart is told that it is."""
    script = (ROOT / "k8s/install.sh").read_text(encoding="utf-8")
    [services] = re.findall(r"^for service in (.*); do$", script, re.MULTILINE)
    assert sorted(services.split()) == sorted(cluster.SERVICES)
    assert '--set-string "image.repository=$images,image.tag=$tag"' in script
    assert {"repository", "tag"} <= set(cluster.VALUES["image"])


def test_it_is_collected_by_its_own_target_only() -> None:
    """`make test` has no cluster."""
    conftest = Path(ROOT / "tests/cluster/conftest.py").read_text(encoding="utf-8")
    assert 'collect_ignore_glob = [] if os.environ.get("ALMAGEST_CLUSTER") else ["test_*.py"]' in conftest
    assert "ALMAGEST_CLUSTER=1" in (ROOT / "Makefile").read_text(encoding="utf-8")
