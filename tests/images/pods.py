"""A rendered pod as containers, kept as a kubelet keeps it: its files, its probes, its restarts, its end."""

import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from ..helm.rendering import Document
from ..helm.test_pods import quantity
from .engine import Container, Engine, EngineFailed
from .probes import KINDS, Asked, Probe
from .volumes import Sources, Volume, files_of

_BACK_OFF_SECONDS: Final = (0.0, 10.0, 20.0, 40.0, 80.0)
_TURN_SECONDS: Final = 0.25


@dataclass(frozen=True)
class Node:
    """What pods are given by the machine that they are on.

    Attributes:
        engine: runs the containers.
        images: what stands here for the images that the chart names.
        home: where volumes are.
        network: what `podman pod create` is told of the network.
        sources: where objects are found.
    """

    engine: Engine
    images: Mapping[str, str]
    home: Path
    network: Sequence[str]
    sources: Sources


class Ended(NamedTuple):
    """How a container ended."""

    code: int
    seconds: float
    log: str


@dataclass
class Member:
    """A container of a pod, in all its lives.

    Attributes:
        spec: as rendered.
        container: the present one.
        probes: of the present one, by kind.
        lost: why each of those before ended.
    """

    spec: Document
    container: Container
    handle: int
    probes: dict[str, Probe]
    lost: list[str] = field(default_factory=list[str])
    again_at: float | None = None

    @property
    def started(self) -> bool:
        """Whether it is past its start."""
        return "startupProbe" not in self.probes or self.probes["startupProbe"].well is True

    @property
    def ready(self) -> bool:
        """Whether it may be sent requests."""
        asked = self.probes.get("readinessProbe")
        return self.again_at is None and self.started and (asked is None or asked.well is True)

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return bool(select.select([self.handle], [], [], 0)[0])


class Pod:
    """One pod.

    Attributes:
        address: where it is on the network, once it has begun.
        members: its containers by name.
        problem: why it is not kept any more.
    """

    def __init__(self, node: Node, name: str, template: Document) -> None:
        self.name = name
        self.labels: Mapping[str, str] = template["metadata"]["labels"]
        self.spec: Document = template["spec"]
        self.address = ""
        self.members: dict[str, Member] = {}
        self.problem: BaseException | None = None
        self.volumes: dict[str, Volume] = {}
        self._node = node
        self._ending = threading.Event()
        self._stays = self.spec.get("restartPolicy", "Always") == "Always"
        self._kept = threading.Thread(target=self._keep, daemon=True)

    @property
    def ready(self) -> bool:
        """Whether all its containers are, and it is not about to end."""
        members = list(self.members.values())
        begun = len(members) == len(self.spec["containers"])
        return begun and not self._ending.is_set() and all(one.ready for one in members)

    def port(self, name: str | int) -> int:
        """A port by the name that a container gives it."""
        ports = [port for one in self.spec["containers"] for port in one.get("ports", [])]
        return name if isinstance(name, int) else next(p["containerPort"] for p in ports if p["name"] == name)

    def refresh(self) -> None:
        """Show in its volumes what objects hold now."""
        for volume in self.spec.get("volumes", []):
            if files := files_of(volume, self._node.sources):
                self.volumes[volume["name"]].write(files)

    def start(self) -> None:
        """Begin, and keep the containers until it is told to end."""
        self._kept.start()

    def _keep(self) -> None:
        try:
            self._begin()
            while not self._ending.wait(_TURN_SECONDS) and self._turn():
                pass
        except BaseException as error:  # noqa: BLE001 - whoever waits for the pod says so
            self.problem = error

    def _begin(self) -> None:
        if self.spec.get("initContainers"):
            raise ValueError("init containers are not known here")
        engine = self._node.engine
        engine("pod", "create", f"--name={self.name}", f"--hostname={self.name[:63]}", *self._node.network)
        engine("pod", "start", self.name)
        infra = engine.inspect(engine("pod", "inspect", "--format={{.InfraContainerID}}", self.name))
        (network,) = infra["NetworkSettings"]["Networks"].values()
        self.address = network["IPAddress"]
        group = self.spec["securityContext"]["fsGroup"]
        home = self._node.home / self.name
        for volume in self.spec.get("volumes", []):
            made = self.volumes[volume["name"]] = Volume(home / volume["name"], group=group)
            files = files_of(volume, self._node.sources)
            made.open() if files is None else made.write(files)
        for spec in self.spec["containers"]:
            self._run(spec)

    def _run(self, spec: Document) -> None:
        name = spec["name"]
        lost = self.members[name].lost if name in self.members else []
        engine = self._node.engine
        container = Container(engine, f"--name={self.name}-{name}-{len(lost)}", *self._words(spec))
        state = engine.inspect(container.name)["State"]
        ports = {port["name"]: port["containerPort"] for port in spec.get("ports", [])}
        probes = {
            kind: Probe(kind, spec[kind], address=self.address, ports=ports, execute=self._executing(container))
            for kind in KINDS
            if kind in spec
        }
        try:
            handle = os.pidfd_open(state["Pid"])
        except (ProcessLookupError, OSError):
            # It has ended already; what it was opened as is always readable.
            handle = os.open(os.devnull, os.O_RDONLY)
        if name in self.members:
            os.close(self.members[name].handle)
        self.members[name] = Member(spec, container, handle, probes, lost)

    def _words(self, spec: Document) -> list[str]:
        pod, own = self.spec["securityContext"], spec["securityContext"]
        user, group = pod["runAsUser"], pod["runAsGroup"]
        if own["privileged"] or (own["runAsNonRoot"] and user == 0):
            raise ValueError(f"{self.name} would run as root")
        words = [f"--pod={self.name}", f"--user={user}:{group}", f"--group-add={pod['fsGroup']}"]
        words += ["--http-proxy=false", "--stop-timeout=1"]
        words += ["--read-only", "--read-only-tmpfs=false"] if own["readOnlyRootFilesystem"] else []
        words += [] if own["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]
        words += [f"--cap-drop={name}" for name in own["capabilities"]["drop"]]
        limits, requests = spec["resources"]["limits"], spec["resources"]["requests"]
        memory = int(quantity(limits["memory"]))
        words += [f"--memory={memory}", f"--memory-swap={memory}", f"--cpus={quantity(limits['cpu'])}"]
        words += [f"--cpu-shares={max(2, int(1024 * quantity(requests['cpu'])))}"]
        words += [f"--env={name}={value}" for name, value in self.environment(spec).items()]
        for mount in spec["volumeMounts"]:
            mode = "ro" if mount.get("readOnly") else "rw"
            words.append(f"--volume={self.volumes[mount['name']].directory}:{mount['mountPath']}:{mode}")
        if "command" in spec:
            words.append(f"--entrypoint={json.dumps(spec['command'])}")
        return [*words, self._node.images[spec["image"]], *spec.get("args", [])]

    def environment(self, spec: Document) -> dict[str, str]:
        """What a container is told, with what objects hold now."""
        sources, told = self._node.sources, dict[str, str]()
        for source in spec.get("envFrom", []):
            data = sources.config_map(source["configMapRef"]["name"])
            told |= {name: value.decode() for name, value in data.items()}
        for one in spec.get("env", []):
            match one:
                case {"name": name, "value": str(value)}:
                    told[name] = value
                case {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}:
                    told[name] = sources.secret(secret)[key].decode()
                case _:
                    raise ValueError(f"a variable that is not known here: {one}")
        return told

    def _executing(self, container: Container) -> Callable[[Sequence[str], float], Asked]:
        def execute(command: Sequence[str], seconds: float) -> Asked:
            try:
                return Asked(well=True, said=self._node.engine("exec", container.name, *command, timeout=seconds))
            except (EngineFailed, subprocess.TimeoutExpired) as error:
                return Asked(well=False, said=str(error))

        return execute

    def _turn(self) -> bool:
        """Look after each container once, and answer whether there is more to look after."""
        for member in list(self.members.values()):
            if member.again_at is not None:
                if time.monotonic() >= member.again_at:
                    self._run(member.spec)
            elif member.ended:
                if not self._stays:
                    continue
                self._lose(member, f"it ended with {member.container.wait()}: {member.container.log[-3000:]}")
            else:
                self._ask(member)
        return self._stays or not all(member.ended for member in self.members.values())

    def _ask(self, member: Member) -> None:
        for kind, probe in member.probes.items():
            if probe.due > time.monotonic() or member.started == (kind == "startupProbe"):
                continue
            probe.ask()
            if probe.well is False and kind != "readinessProbe":
                self._stop(member, self.spec["terminationGracePeriodSeconds"])
                self._lose(member, f"its {kind} failed: {probe.answers[-1].said}\n{member.container.log[-3000:]}")
                return

    def _lose(self, member: Member, why: str) -> None:
        member.lost.append(why)
        delay = _BACK_OFF_SECONDS[min(len(member.lost), len(_BACK_OFF_SECONDS)) - 1]
        member.again_at = time.monotonic() + delay

    def _stop(self, member: Member, seconds: float) -> Ended:
        begun = time.monotonic()
        self._node.engine("stop", f"--time={max(0, int(seconds))}", member.container.name)
        return Ended(member.container.wait(), time.monotonic() - begun, member.container.log)

    def completed(self) -> dict[str, Ended]:
        """How the containers of a pod that does not stay have ended, once they have."""
        self._kept.join()
        if self.problem:
            raise self.problem
        return {name: Ended(one.container.wait(), 0, one.container.log) for name, one in self.members.items()}

    def end(self) -> dict[str, Ended]:
        """Delete it: no more requests, preStop, SIGTERM, and SIGKILL when its time is up."""
        self._ending.set()
        self._kept.join()
        members = {name: one for name, one in self.members.items() if not one.ended}
        with ThreadPoolExecutor(len(members) or 1) as pool:
            return dict(zip(members, pool.map(self._end, members.values()), strict=True))

    def _end(self, member: Member) -> Ended:
        seconds = self.spec["terminationGracePeriodSeconds"]
        match member.spec.get("lifecycle", {}).get("preStop"):
            case None:
                pass
            case {"sleep": {"seconds": pause}}:
                time.sleep(pause)
                seconds -= pause
            case hook:
                raise ValueError(f"a hook that is not known here: {hook}")
        return self._stop(member, seconds)

    def remove(self) -> None:
        """Take it away, whatever it does."""
        self._ending.set()
        self._kept.join()
        for member in self.members.values():
            os.close(member.handle)
        self.members.clear()
        self._node.engine("pod", "rm", "--force", "--time=0", self.name, check=False)
