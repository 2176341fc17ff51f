"""podman, told to keep its images and containers in a directory of its own, and to work in a machine that is itself a
container.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("podman", "buildah", "runc", "catatonit", "mmdebstrap", "postgresql", "redis-server")

_CONTAINERS = """
[containers]
# A container's limits are ours, which may be below podman's own.
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
log_driver = "k8s-file"
base_hosts_file = "none"
[engine]
# crun refuses hybrid cgroups.
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{directory}/storage"
runroot = "{directory}/run"
"""


def missing() -> list[str]:
    """The programs that these tests need and this machine lacks."""
    found = {name: shutil.which(name) for name in ("podman", "runc", "mmdebstrap", "redis-server")}
    found["postgres"] = next((str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")), None)
    return [name for name, path in found.items() if path is None]


class EngineFailed(Exception):
    """The engine did not do what it was asked; the message is what it said."""


class Engine:
    """podman below a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        files = {"CONTAINERS_CONF": _CONTAINERS, "CONTAINERS_STORAGE_CONF": _STORAGE.format(directory=directory)}
        for variable, content in files.items():
            (directory / variable).write_text(content, encoding="utf-8")
        self.environment = {**os.environ, **{variable: str(directory / variable) for variable in files}}

    def __call__(self, *words: str | Path, check: bool = True, timeout: float = 600) -> str:
        """Run a command of podman, and answer what it printed.

        Raises:
            EngineFailed: it failed.
        """
        command = ["podman", *(str(word) for word in words)]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and done.returncode != 0:
            raise EngineFailed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def inspect(self, what: str) -> dict[str, Any]:
        """What the engine knows of an image or a container."""
        return json.loads(self("inspect", what))[0]

    def inspect_network(self, name: str) -> dict[str, Any]:
        """What the engine knows of a network."""
        return json.loads(self("network", "inspect", name))[0]


class Container:
    """One container, begun in the background by what `podman run` is told."""

    def __init__(self, engine: Engine, *words: str | Path) -> None:
        self._engine = engine
        self.name = engine("run", "--detach", "--no-healthcheck", *words)

    @property
    def printed(self) -> str:
        """What it has printed."""
        return self._logs().stdout

    @property
    def log(self) -> str:
        """What it has said, on either stream."""
        logs = self._logs()
        return logs.stdout + logs.stderr

    def _logs(self) -> "subprocess.CompletedProcess[str]":
        command = ["podman", "logs", self.name]
        return subprocess.run(command, env=self._engine.environment, capture_output=True, text=True, check=False)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return bool(self._engine.inspect(self.name)["State"]["Running"])

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return int(self._engine("wait", self.name))

    def execute(self, *command: str) -> str:
        """Run a program in it."""
        return self._engine("exec", self.name, *command)

    def signal(self, name: str) -> None:
        """Send a signal to its first process."""
        self._engine("kill", f"--signal={name}", self.name)

    def remove(self) -> None:
        """End it, if need be at once."""
        self._engine("rm", "--force", "--time=0", self.name)


class Alone(Container):
    """A container as the chart runs a service: nobody's root, no capability, nothing writable but /tmp; but on this
    machine's network.
    """

    def __init__(
        self,
        engine: Engine,
        image: str,
        *,
        environment: Mapping[str, str],
        mounts: Mapping[Path, str],
        command: Sequence[str] = (),
        read_only: bool = True,
    ) -> None:
        words = ["--network=host", "--tmpfs=/tmp:rw,mode=1777,size=64m"]
        words += ["--read-only", "--read-only-tmpfs=false"] if read_only else []
        words += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=65532:65532", "--pids-limit=512"]
        words += [f"--env={name}={value}" for name, value in environment.items()]
        words += [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        super().__init__(engine, *words, image, *command)
