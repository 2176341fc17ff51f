"""The chart as a cluster of one node would run it, without one: every rendered workload at once, as `helm install` makes
them, and names and addresses of Services by the pods that are ready.
"""

import base64
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from harness.running import Reached

from ..helm.rendering import COMPONENTS, NAMESPACE, Document, Rendered
from .certificates import Certificates
from .engine import Engine
from .names import Balancer, Names
from .pods import Ended, Node, Pod
from .volumes import Data, Sources

DOMAIN: Final = f"{NAMESPACE}.svc.cluster.local"
READY_SECONDS: Final = 300.0
_NETWORK: Final = "almagest-pods"
_LABEL: Final = "almagest.released"


class Release:
    """An installed chart.

    Args:
        elsewhere: Services that this machine stands in for, by name.

    Attributes:
        pods: those that stay, by name.
        jobs: how each Job's tries have ended.
        gateway: this machine's address on the network of the pods.
        excused: how often a container was lost while all was installed, or by who says so.
    """

    def __init__(self, engine: Engine, images: Mapping[str, str], home: Path, *, elsewhere: Iterable[str] = ()) -> None:
        self._engine, self._elsewhere = engine, frozenset(elsewhere)
        self._certificates = Certificates()
        self._secrets: dict[str, dict[str, bytes]] = {}
        self._configs: dict[str, dict[str, bytes]] = {}
        self._services: dict[str, Document] = {}
        self._listening: list[Names | Balancer] = []
        self._doors: dict[str, Balancer] = {}
        self.pods: dict[str, Pod] = {}
        self.jobs: dict[str, list[Ended]] = {}
        self._jobs: dict[str, threading.Thread] = {}
        self.excused: Counter[str] = Counter()
        self._removed = threading.Event()
        self._clear()
        engine("network", "create", "--disable-dns", _NETWORK)
        self.gateway = str(engine.inspect_network(_NETWORK)["subnets"][0]["gateway"])
        search = [DOMAIN, *(DOMAIN.split(".", count)[count] for count in (1, 2))]
        words = [
            f"--label={_LABEL}",
            f"--network={_NETWORK}",
            f"--dns={self.gateway}",
            *(f"--dns-search={one}" for one in search),
        ]
        self._node = Node(engine, images, home, words, Sources(self.secret, self._configs.__getitem__))

    def secret(self, name: str) -> Data:
        """What a Secret holds."""
        return self._certificates.secrets.get(name) or self._secrets[name]

    def open(self) -> None:
        """Answer for names and addresses."""
        # The network is there when somebody is on it.
        self._engine("pod", "start", self._engine("pod", "create", *self._node.network))
        self._listening.append(Names(self.gateway, self._addresses))

    def install(self, rendered: Rendered) -> None:
        """Make everything at once, as `helm install` does, and begin every pod."""
        own = [one for one in rendered.documents if not _hook(one)]
        self.know(own)
        for one in own:
            name = one["metadata"]["name"]
            match one:
                case {"kind": "Deployment" | "StatefulSet", "spec": {"template": template, **spec}}:
                    if name in self._elsewhere:
                        continue
                    for number in range(spec["replicas"]):
                        claims = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
                        self._begin(f"{name}-{number}", _with(template, claims))
                case {"kind": "Job"}:
                    self._try(one)
                case _:
                    pass

    def know(self, documents: Iterable[Document]) -> None:
        """Take objects that pods and names are made of."""
        for one in documents:
            name = one["metadata"]["name"]
            match one["kind"]:
                case "ConfigMap":
                    self._configs[name] = {key: value.encode() for key, value in one["data"].items()}
                case "Secret":
                    encoded = {key: base64.b64decode(value) for key, value in one.get("data", {}).items()}
                    plain = {key: value.encode() for key, value in one.get("stringData", {}).items()}
                    self._secrets[name] = encoded | plain
                case "Certificate" | "Issuer":
                    self._certificates.apply(one)
                case "Service":
                    self._serve(name, one["spec"])
                case _:
                    pass
        self._certificates.issue()

    def _serve(self, name: str, spec: Document) -> None:
        self._services[name] = spec
        if spec.get("clusterIP") != "None" and name not in self._elsewhere:
            (port,) = spec["ports"]

            def targets() -> list[tuple[str, int]]:
                return [(pod.address, pod.port(port["targetPort"])) for pod in self.endpoints(name)]

            self._listening.append(Balancer((self.gateway, port["port"]), targets))
            self._doors[name] = Balancer(("127.0.0.1", 0), targets)
            self._listening.append(self._doors[name])

    def _begin(self, name: str, template: Document) -> None:
        self.pods[name] = Pod(self._node, name, template)
        self.pods[name].start()

    def replace(self, name: str, template: Document, *, ready_seconds: float) -> Ended:
        """Roll a pod of one container: another, of this template, is ready for so long before this one is deleted."""
        old = self.pods[name]
        fresh = f"{name}-again"
        self._begin(fresh, template)
        until = time.monotonic() + READY_SECONDS
        while not self.pods[fresh].ready:
            if self.pods[fresh].problem or time.monotonic() > until:
                raise RuntimeError(self.account_of(fresh))
            time.sleep(0.1)
        time.sleep(ready_seconds)
        (ended,) = old.end().values()
        old.remove()
        del self.pods[name]
        return ended

    def run(self, name: str, template: Document) -> Ended:
        """Run a pod of one container to its end."""
        pod = Pod(self._node, name, template)
        try:
            pod.start()
            (ended,) = pod.completed().values()
        finally:
            pod.remove()
        return ended

    def _complete(self, job: Document) -> None:
        """Try until it succeeds, at growing distances, as often as it says."""
        name, spec = job["metadata"]["name"], job["spec"]
        tries = self.jobs.setdefault(name, [])
        for number in range(spec["backoffLimit"] + 1):
            tries.append(self.run(f"{name}-{number}", spec["template"]))
            if tries[-1].code == 0:
                return
            if self._removed.wait(min(10 * 2**number, 360)):
                return

    def roll(self, rendered: Rendered) -> list[Ended]:
        """Replace the pods of all services at once, as their Deployments say."""

        def one(deployment: Document) -> Ended:
            spec, name = deployment["spec"], deployment["metadata"]["name"]
            return self.replace(f"{name}-0", spec["template"], ready_seconds=spec["minReadySeconds"])

        deployments = [rendered.deployment(name) for name in COMPONENTS]
        with ThreadPoolExecutor(len(deployments)) as pool:
            return list(pool.map(one, deployments))

    def upgrade(self, rendered: Rendered) -> list[Ended]:
        """As `helm upgrade` does: the hooks before it, then its objects, its new Jobs, and its pods. What was made once
        stays, and so do the servers.

        Raises:
            RuntimeError: a hook failed; nothing else has changed.
        """
        for name, ended in self.hooks(rendered, "pre-upgrade").items():
            if ended.code != 0:
                raise RuntimeError(f"{name} failed: {ended.log}")
        own = [one for one in rendered.documents if not _hook(one)]
        self.know([one for one in own if one["kind"] not in {"Secret", "Service"}])
        for job in own:
            if job["kind"] == "Job" and job["metadata"]["name"] not in self.jobs:
                self._try(job)
        return self.roll(rendered)

    def _try(self, job: Document) -> None:
        name = job["metadata"]["name"]
        self._jobs[name] = threading.Thread(target=self._complete, args=(job,), daemon=True)
        self._jobs[name].start()

    def hooks(self, rendered: Rendered, hook: str) -> dict[str, Ended]:
        """Run the hooks of an upgrade or a test as Helm does: by weight, each to its end, with the objects as they are."""
        found = [one for one in rendered.documents if _hook(one) == hook]
        found.sort(key=lambda one: int(one["metadata"]["annotations"].get("helm.sh/hook-weight", "0")))
        ended: dict[str, Ended] = {}
        for one in found:
            name = one["metadata"]["name"]
            match one:
                case {"kind": "Job", "spec": {"template": template}} | ({"kind": "Pod"} as template):
                    ended[name] = self.run(name, template)
                    if ended[name].code != 0:
                        break
                case _:
                    self.know([one])
        return ended

    def endpoints(self, service: str) -> list[Pod]:
        """The pods of a Service that are ready."""
        selector = self._services[service]["selector"]
        return [pod for pod in list(self.pods.values()) if selector.items() <= pod.labels.items() and pod.ready]

    def door(self, service: str) -> int:
        """The port of this machine that leads to a Service."""
        return self._doors[service].port

    def _addresses(self, name: str) -> list[str] | None:
        service, _, domain = name.partition(".")
        if domain != DOMAIN or service not in self._services:
            return None
        if service in self._elsewhere or self._services[service].get("clusterIP") != "None":
            return [self.gateway]
        return [pod.address for pod in self.endpoints(service)]

    def await_all(self, seconds: float = READY_SECONDS) -> None:
        """Wait until every Job has succeeded and every pod is ready.

        Raises:
            RuntimeError: one is not to be, or time is up; with what is known of it.
        """
        until = time.monotonic() + seconds
        while waiting := [name for name, pod in self.pods.items() if not pod.ready] + [
            name for name, job in self._jobs.items() if job.is_alive()
        ]:
            broken = [name for name in waiting if name in self.pods and self.pods[name].problem]
            if broken or time.monotonic() > until:
                raise RuntimeError("\n\n".join(self.account_of(name) for name in broken or waiting))
            time.sleep(0.2)
        for pod in self.pods.values():
            self.excused.update({f"{pod.name}/{name}": len(one.lost) for name, one in pod.members.items()})
        for name, tries in self.jobs.items():
            if tries[-1].code != 0:
                raise RuntimeError(f"{name} failed: {tries[-1].log}")

    def account_of(self, name: str) -> str:
        """What there is to say of a pod or a Job."""
        if name not in self.pods:
            return (
                f"{name}: {[one.code for one in self.jobs[name]]}\n{self.jobs[name][-1].log if self.jobs[name] else ''}"
            )
        pod = self.pods[name]
        said = [f"{name}: {pod.problem!r}"]
        for container, member in pod.members.items():
            answers = {kind: probe.answers[-3:] for kind, probe in member.probes.items()}
            said += [f"{container}: {answers}", *member.lost, member.container.log[-3000:]]
        return "\n".join(said)

    def renew(self, secret: str) -> None:
        """Have cert-manager renew what is in a Secret, and every pod see it."""
        self._certificates.renew(secret)
        for pod in self.pods.values():
            pod.refresh()

    def remove(self) -> None:
        """Take everything away."""
        self._removed.set()
        for pod in self.pods.values():
            pod.remove()
        for server in self._listening:
            server.shutdown()
            server.server_close()
        self._clear()

    def _clear(self) -> None:
        """Take away what is there, also what somebody has left who was ended."""
        left = self._engine("pod", "ps", "--quiet", "--no-trunc", f"--filter=label={_LABEL}").split()
        if left:
            self._engine("pod", "rm", "--force", "--time=0", *left, check=False)
        self._engine("network", "rm", "--force", _NETWORK, check=False)


def _hook(document: Document) -> str:
    """When Helm makes it, if not with everything else."""
    return str(document["metadata"].get("annotations", {}).get("helm.sh/hook", ""))


def images_of(rendered: Rendered, services: Mapping[str, str], servers: Mapping[str, str]) -> dict[str, str]:
    """What stands for each image that a chart names: of services, and of the bundled servers, by name."""
    theirs = {f"almagest/{name}": image for name, image in services.items()}
    theirs |= {"docker.io/library/postgres": servers["postgres"], "docker.io/valkey/valkey": servers["valkey"]}
    return {one["image"]: theirs.get(one["image"].rpartition(":")[0], "") for _, _, one in rendered.containers()}


def reached(release: Release, rendered: Rendered, directory: Path) -> Reached:
    """The door at the host that the chart names, the chart's authority, and who was made the first admin."""
    certificate = rendered.named("Certificate", "almagest-web")["spec"]
    ca = directory / "ca.crt"
    ca.write_bytes(release.secret(certificate["secretName"])["ca.crt"])
    smoke = rendered.environment(rendered.named("Pod", "almagest-smoke")["spec"]["containers"][0])
    password = smoke["PASSWORD"]["secretKeyRef"]
    host, port = certificate["dnsNames"][0], release.door("almagest-gateway")
    secret = release.secret(password["name"])[password["key"]].decode()
    return Reached(f"https://{host}:{port}", ca, smoke["EMAIL"], secret)


def _with(template: Document, claims: Iterable[str]) -> Document:
    """A template with a volume of its own for each claim."""
    empty: list[Document] = [{"name": name, "emptyDir": {}} for name in claims]
    volumes = [*template["spec"].get("volumes", []), *empty]
    return {**template, "spec": {**template["spec"], "volumes": volumes}}


@contextmanager
def released(
    engine: Engine,
    images: Mapping[str, str],
    rendered: Rendered,
    home: Path,
    *,
    elsewhere: Mapping[str, Callable[[str], Any]],
) -> Generator[Release]:
    """Install what is rendered, and wait until all of it is ready; everything is gone at the end. What opens the Services
    that this machine stands in for (`elsewhere`) is given an address.
    """
    with ExitStack() as stack:
        release = Release(engine, images, home, elsewhere=elsewhere)
        stack.callback(release.remove)
        release.open()
        for opened in elsewhere.values():
            opened(release.gateway)
        release.install(rendered)
        release.await_all()
        yield release
