"""The chart, as it is rendered for development, installed and running: every pod with its own command, environment,
files, probes and limits, on the Postgres and the Valkey that the chart makes; nothing of it is said here again.
"""

import re
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from harness.door import Door
from harness.running import Reached
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from ..e2e.test_trace import Collector
from ..helm.rendering import COMPONENTS, Rendered, render
from ..helm.test_pods import quantity
from .contained import within
from .engine import Engine
from .pods import Member, Pod
from .released import Release, images_of, reached, released
from .unnoticed import unnoticed

SKU = "POD-1"
COMPONENT = "app.kubernetes.io/component"
PLANT = 'for place; do (: > "$place/planted") 2>&1; done; true'
LIMIT = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"


@pytest.fixture(scope="module")
def dev() -> Rendered:
    return render("dev")


@pytest.fixture(scope="module")
def collector() -> Collector:
    return Collector()


@pytest.fixture(scope="module")
def release(
    engine: Engine,
    images: Mapping[str, str],
    servers: Mapping[str, str],
    dev: Rendered,
    collector: Collector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    """The release, with the collector in place of Jaeger."""
    receiver = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, receiver)

    def receive(address: str) -> None:
        receiver.add_insecure_port(f"{address}:4317")
        receiver.start()

    home = tmp_path_factory.mktemp("released")
    with released(
        engine, images_of(dev, images, servers), dev, home, elsewhere={"almagest-jaeger": receive}
    ) as running:
        yield running
    receiver.stop(None)


@pytest.fixture(scope="module")
def where(release: Release, dev: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Reached:
    return reached(release, dev, tmp_path_factory.mktemp("door"))


@pytest.fixture(scope="module")
def door(where: Reached) -> Iterator[Door]:
    with Door.to(where) as door:
        yield door


def members(release: Release) -> Iterator[tuple[str, Member]]:
    for name, pod in release.pods.items():
        for container, member in pod.members.items():
            yield f"{name}/{container}", member


def test_all_that_is_rendered_runs(release: Release, dev: Rendered) -> None:
    """Every pod of every workload is ready, having been asked by each of its probes, and every Job has succeeded once."""
    made = {one["metadata"]["name"] for one in dev.of("Deployment", "StatefulSet")} - {"almagest-jaeger"}
    assert {name.rpartition("-")[0] for name in release.pods} == made
    assert made >= {f"almagest-{name}" for name in COMPONENTS}
    assert all(pod.ready for pod in release.pods.values())
    assert release.jobs.keys() == {one["metadata"]["name"] for one in dev.of("Job")}
    for name, tries in release.jobs.items():
        assert [one.code for one in tries].count(0) == 1, name
    for name in COMPONENTS:
        assert release.pods[f"almagest-{name}-0"].members[name].probes.keys() == {
            "startupProbe",
            "readinessProbe",
            "livenessProbe",
        }


def test_a_product_is_created_and_read_by_its_token(door: Door) -> None:
    """Through the door, the command side, the log and the query side."""
    product = {"sku": SKU, "kind": "general", "name": "Astrolabe in a pod", "category": "instruments"}
    created = door.call("POST", "/v1/products", json=product, headers={"Idempotency-Key": SKU})
    assert created.status_code == 201, created.text
    fresh = {"Almagest-Consistency": created.headers["Almagest-Consistency"]}
    read = door.get(f"/v1/products/{created.json()['product_id']}", headers=fresh)
    assert (read["sku"], read["name"]) == (SKU, "Astrolabe in a pod")


def test_an_import_runs_through_the_worker(door: Door) -> None:
    """The worker has its database, its queue in Valkey and its calls."""
    rows = [{"sku": f"POD-ROW-{number}", "kind": "general", "name": "Row", "category": "rows"} for number in range(5)]
    job = door.await_end(door.submit_import(rows)["job_id"])
    assert (job["state"], job["progress"]["rows_created"]) == ("succeeded", len(rows)), job


def test_every_service_sends_its_spans_where_the_chart_says(door: Door, collector: Collector) -> None:
    """What would be seen in Jaeger comes from all six."""
    assert collector.wait_for(lambda spans: {name for name, _ in spans} >= set(COMPONENTS))


def test_helm_test_passes(release: Release, dev: Rendered) -> None:
    """The pod of the smoke test finds the door by the name of its Service, and does all that it does."""
    (smoke,) = release.hooks(dev, "test").values()
    assert smoke.code == 0, smoke.log
    assert smoke.log.count("ok  ") == 7, smoke.log


def test_migrations_run_again_as_hooks_of_an_upgrade(release: Release) -> None:
    """Before anything else of it is there, on the databases that are in use; and everybody stays ready."""
    upgrade = render("dev", "--is-upgrade", "--set", "migrations.upgrade=hook")
    ended = release.hooks(upgrade, "pre-upgrade")
    assert len(ended) == 4
    assert {name: one.log for name, one in ended.items() if one.code} == {}
    assert all(pod.ready for pod in release.pods.values())


def test_no_container_may_do_more_than_its_manifest_says(release: Release) -> None:
    """User, groups, no capability and no way to one, a filter of system calls, the limit of memory, nothing writable."""
    for pod in release.pods.values():
        user = str(pod.spec["securityContext"]["runAsUser"])
        for name, member in pod.members.items():
            lines = member.container.execute("cat", "/proc/1/status").splitlines()
            status = dict(line.split(":\t", 1) for line in lines)
            assert set(status["Uid"].split()) == set(status["Gid"].split()) == {user}, name
            assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, name
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), name
            limit = member.container.execute("sh", "-c", LIMIT)
            assert int(limit) == quantity(member.spec["resources"]["limits"]["memory"]), name
            places = ["/", *(one["mountPath"] for one in member.spec["volumeMounts"] if one.get("readOnly"))]
            planted = member.container.execute("sh", "-c", PLANT, "sh", *places)
            assert planted.count("Read-only file system") == len(places), (name, planted)


def serial(address: str, port: int, identity: Path, *options: str) -> str:
    command = ["openssl", "s_client", "-connect", f"{address}:{port}", *options]
    command += ["-cert", str(identity / "tls.crt"), "-key", str(identity / "tls.key")]
    said = subprocess.run(command, input=b"", capture_output=True, check=False, timeout=20).stdout
    return ssl.PEM_cert_to_DER_cert(re.findall(r"-----BEGIN.*?END CERTIFICATE-----", said.decode(), re.DOTALL)[0]).hex()


def test_renewed_certificates_are_shown_without_a_restart(release: Release, tmp_path: Path) -> None:
    """A service and both servers take up what has changed in their volumes as a kubelet changes it."""
    for name, content in release.secret("almagest-identity-operator").items():
        (tmp_path / name).write_bytes(content)
    places = {
        "almagest-identity-event-store": ("almagest-event-store-0", 9090, ()),
        "almagest-identity-postgres": ("almagest-postgres-events-0-0", 5432, ("-starttls", "postgres")),
        "almagest-identity-redis": ("almagest-redis-0", 6379, ()),
    }
    for secret, (name, port, options) in places.items():
        where = release.pods[name].address
        before = serial(where, port, tmp_path, *options)
        release.renew(secret)
        for _ in within(60, what=f"{name} to show its new certificate"):
            if serial(where, port, tmp_path, *options) != before:
                break


def test_a_container_that_is_killed_comes_back_and_is_found(release: Release, door: Door) -> None:
    """Its Service has no name meanwhile; then callers find it again."""
    pod = release.pods["almagest-catalog-query-0"]
    member = pod.members["catalog-query"]
    release.excused[f"{pod.name}/catalog-query"] += 1
    member.container.signal("KILL")
    for _ in within(20, what="it to be missed"):
        if not pod.ready:
            break
    for _ in within(90, what="it to be ready again"):
        if pod.ready:
            break
    assert next(one for one in door.items("/v1/products") if one["sku"] == SKU)


async def test_all_services_are_replaced_at_once_and_nobody_notices(
    release: Release, dev: Rendered, where: Reached
) -> None:
    """One pod each, as the chart rolls them: no request fails, no feed stands still, no import is lost."""
    await unnoticed(where, lambda: release.roll(dev))


def test_everybody_stays_ready(release: Release) -> None:
    """Nobody was lost or said to be unwell since, and each probe has been answered more than once."""
    for where, member in members(release):
        for kind, probe in member.probes.items():
            for _ in within(60, what=f"{where} to be asked by its {kind}"):
                if len(probe.answers) > (kind != "startupProbe"):
                    break
            assert probe.turns[-1:] == [True], (where, kind, probe.answers)
            since = probe.answers[[one.well for one in probe.answers].index(True) :]
            # Who has no time to ask has not been told otherwise.
            assert not [one for one in since if not one.well and "timed out" not in one.said], (where, kind)
        assert len(member.lost) == release.excused[where], member.lost


def test_each_ends_with_0_within_its_grace(release: Release) -> None:
    """All services at once, as when a release is deleted, and then the servers."""
    services = {name: pod for name, pod in release.pods.items() if pod.labels[COMPONENT] in COMPONENTS}
    assert len(services) == len(COMPONENTS)
    for pods in (services, {name: pod for name, pod in release.pods.items() if name not in services}):
        begun = time.monotonic()
        with ThreadPoolExecutor(len(pods)) as pool:
            ended = dict(zip(pods, pool.map(Pod.end, pods.values()), strict=True))
        took = time.monotonic() - begun
        for name, pod in pods.items():
            assert ended[name].keys() == pod.members.keys(), name
            for container, how in ended[name].items():
                assert how.code == 0, (name, container, how)
            assert took < pod.spec["terminationGracePeriodSeconds"], (name, ended[name])
