"""A release of the chart on the current cluster, by kubectl and helm: everything that these tests do to it."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/almagest"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SERVICES: tuple[str, ...] = tuple(VALUES["components"])
"""The components that run our images; the table says whom each calls."""
GRPC_PORT, HTTP_PORT, DOOR_PORT, POSTGRES_PORT, REDIS_PORT = 9090, 9091, 8443, 5432, 6379
ROLLOUT_SECONDS = 300

Object = dict[str, Any]
T = TypeVar("T")


class CommandFailed(Exception):
    """A command of kubectl or helm did not end well."""


def run(*command: str, within: float = 60, given: str | None = None) -> str:
    """What a command says.

    Raises:
        CommandFailed: it failed, or took longer than `within` seconds.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=within, check=False)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{' '.join(command)} took longer than {within} s") from error
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def until(ask: Callable[[], T], holds: Callable[[T], bool], *, within: float, every: float = 1.0) -> T:
    """The first answer for which the condition holds."""
    deadline = time.monotonic() + within
    while not holds(answer := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {within} s it is {answer}")
        time.sleep(every)
    return answer


def database_servers() -> dict[str, list[str]]:
    """From a service to the names, without the release, of the bundled servers of its databases."""
    shards: Mapping[str, int] = VALUES["postgres"]["shards"]
    return {
        name: [f"postgres-{stem}-{shard}" for shard in range(shards[stem])] if stem in shards else [f"postgres-{stem}"]
        for name, component in VALUES["components"].items()
        if (stem := component.get("database"))
    }


@dataclass(frozen=True)
class Release:
    """One release in one namespace.

    Attributes:
        namespace: where it is.
        name: the release's; its objects' names begin with it.
    """

    namespace: str
    name: str

    def kubectl(self, *words: str, within: float = 60, given: str | None = None) -> str:
        """What kubectl says, in the release's namespace."""
        return run("kubectl", "--namespace", self.namespace, *words, within=within, given=given)

    def helm(self, *words: str, within: float = ROLLOUT_SECONDS * 2) -> str:
        """What helm says, in the release's namespace."""
        return run("helm", "--namespace", self.namespace, *words, within=within)

    def full(self, name: str) -> str:
        """The name of an object of the release."""
        return f"{self.name}-{name}"

    def get(self, kind: str, name: str) -> Object:
        """One object."""
        return json.loads(self.kubectl("get", kind, name, "--output", "json"))

    def pods(self, component: str) -> list[Object]:
        """The pods of a component that are ready and are not told to end."""
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        found = json.loads(self.kubectl("get", "pods", "--selector", selector, "--output", "json"))["items"]
        return [pod for pod in found if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]

    def lives(self) -> dict[str, int]:
        """From the ids of the services' pods to how often their containers were started again."""
        return {
            pod["metadata"]["uid"]: sum(status["restartCount"] for status in pod["status"]["containerStatuses"])
            for service in SERVICES
            for pod in self.pods(service)
        }

    def replicas(self, service: str) -> int:
        """How many pods a service is to have."""
        return self.get("deployment", self.full(service))["spec"]["replicas"]

    def scale(self, service: str, replicas: int) -> None:
        """Give a service so many pods, and wait until they are ready."""
        self.kubectl("scale", f"deployment/{self.full(service)}", f"--replicas={replicas}")
        self.await_rollout(service)

    def restart(self, services: Sequence[str]) -> None:
        """Replace every pod of the services, one after the other, service by service."""
        for service in services:
            self.kubectl("rollout", "restart", f"deployment/{self.full(service)}")
            self.await_rollout(service)

    def await_rollout(self, service: str) -> None:
        """Wait until all pods of a service are as they are to be, and those of before are gone."""
        self.kubectl(
            "rollout", "status", f"deployment/{self.full(service)}", f"--timeout={ROLLOUT_SECONDS}s",
            within=ROLLOUT_SECONDS + 10,
        )  # fmt: skip
        until(lambda: len(self.pods(service)), lambda count: count == self.replicas(service), within=ROLLOUT_SECONDS)

    def kill(self, pod: str) -> None:
        """End a pod without a word of warning, as a node that dies does."""
        self.kubectl("delete", "pod", pod, "--grace-period=0", "--force")

    def python(self, pod: Object, program: str, *arguments: str, within: float = 60) -> str:
        """What a Python program says that runs in a pod of a service, beside the service."""
        container = pod["spec"]["containers"][0]["name"]
        return self.kubectl(
            "exec", pod["metadata"]["name"], "--container", container, "--", "python", "-c", program, *arguments,
            within=within,
        )  # fmt: skip

    def host(self, name: str) -> str:
        """The name by which a Service of the release is found."""
        return f"{self.full(name)}.{self.namespace}.svc.{VALUES['clusterDomain']}"

    def is_of_helm(self) -> bool:
        """Whether helm installed it; otherwise Tilt did."""
        return self.name in run("helm", "--namespace", self.namespace, "list", "--short").split()


def is_ready(pod: Object) -> bool:
    """Whether a pod takes part in its service."""
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod["status"].get("conditions", [])
    )


def total(metrics: str, name: str, *having: str) -> float:
    """The sum of a counter, in Prometheus' text form, over the labels among which all of these stand."""
    found = re.findall(rf"^{name}({{.*}}) (\S+)$", metrics, re.MULTILINE)
    return sum(float(value) for labels, value in found if all(one in labels for one in having))
