"""NetworkPolicies as the cluster enforces them: every edge of the design is open, and no other."""

import json
import uuid
from collections.abc import Iterable

import pytest

from .release import (
    DOOR_PORT,
    GRPC_PORT,
    HTTP_PORT,
    POSTGRES_PORT,
    REDIS_PORT,
    SERVICES,
    VALUES,
    Release,
    database_servers,
    until,
)

pytestmark = pytest.mark.timeout(600)
_SECONDS = 3
_API_OF_THE_CLUSTER = ("kubernetes.default.svc", 443)

_REACHED = f"""
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def opens(address):
    try:
        socket.create_connection(address, timeout={_SECONDS}).close()
        return True
    except OSError:
        return False
addresses = [tuple(address) for address in json.loads(sys.argv[1])]
with ThreadPoolExecutor(len(addresses)) as pool:
    print(json.dumps(list(pool.map(opens, addresses))))
"""

Address = tuple[str, int]


def servers() -> dict[str, int]:
    """Everything in the release that listens, by the name of its Service, and its port for others of the release."""
    ours = {service: GRPC_PORT for service in SERVICES if service != "gateway"}
    databases = {name: POSTGRES_PORT for names in database_servers().values() for name in names}
    return {**ours, **databases, "redis": REDIS_PORT}


def allowed(service: str) -> set[str]:
    """Whom a service may talk to: the table of the chart says it."""
    component = VALUES["components"][service]
    redis = {"redis"} if component.get("redis") else set[str]()
    return {*component["calls"], *database_servers().get(service, []), *redis}


def addresses(release: Release, names: Iterable[str]) -> list[Address]:
    return [(release.host(name), servers()[name]) for name in names]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_reaches_those_that_it_must_and_no_others(release: Release, service: str) -> None:
    """Tried from its own pod to every server of the release, to other services' metrics, and to the API of the cluster."""
    names = sorted(set(servers()) - {service})
    others = sorted(set(SERVICES) - {service, "gateway"})
    asked = [*addresses(release, names), *((release.host(name), HTTP_PORT) for name in others), _API_OF_THE_CLUSTER]
    [pod, *_] = release.pods(service)
    answers: list[bool] = json.loads(release.python(pod, _REACHED, json.dumps(asked)))
    opened = {address for address, opens in zip(asked, answers, strict=True) if opens}
    assert opened == set(addresses(release, allowed(service)))


def test_a_stranger_in_the_namespace_reaches_nobody_but_the_door(release: Release) -> None:
    """A pod with none of the release's labels: only what is for everybody."""
    name = f"stranger-{uuid.uuid4().hex[:8]}"
    [gateway, *_] = release.pods("gateway")
    container = gateway["spec"]["containers"][0]
    # The door's Service has a port of its own; the pods have theirs.
    asked = [(gateway["status"]["podIP"], DOOR_PORT), *addresses(release, sorted(servers()))]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": gateway["spec"]["securityContext"],
            "containers": [
                {
                    "name": "stranger",
                    "image": container["image"],
                    "command": ["python", "-c", _REACHED, json.dumps(asked)],
                    "securityContext": container["securityContext"],
                }
            ],
        },
    }
    release.kubectl("create", "--filename", "-", given=json.dumps(pod))
    try:
        phase = until(
            lambda: release.get("pod", name)["status"]["phase"],
            lambda phase: phase in {"Succeeded", "Failed"},
            within=120,
        )
        said = release.kubectl("logs", name)
        assert phase == "Succeeded", said
        assert json.loads(said) == [not VALUES["networkPolicy"]["doorFrom"], *([False] * len(servers()))]
    finally:
        release.kubectl("delete", "pod", name, "--now")
