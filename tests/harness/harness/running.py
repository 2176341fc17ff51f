"""The whole system, started by the same code as `almagest up`."""

import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from almagest_cli.local.ports import free_ports
from almagest_cli.local.system import System


@dataclass(frozen=True)
class Reached:
    """A system that is ready, wherever it runs: all that a client of it knows.

    Attributes:
        url: of the gateway, such as `https://localhost:40123`.
        ca: what a client must trust.
        admin_email: the first admin.
        admin_password: their password.
    """

    url: str
    ca: Path
    admin_email: str
    admin_password: str


@dataclass(frozen=True)
class RunningSystem(Reached):
    """A system on this machine, whose processes are in our hands.

    Attributes:
        local: starts, kills and finds single processes.
    """

    local: System

    @property
    def traces(self) -> Path:
        """The directory of the services' spans."""
        return self.local.places.traces

    @property
    def redis_url(self) -> str:
        """Where the services find Redis."""
        return self.local.redis_url

    def log(self, process: str) -> str:
        """What a process has logged so far."""
        return self.local.places.log(process).read_text(encoding="utf-8", errors="replace")

    def kill(self, process: str) -> None:
        """End a process (a service, `postgres` or `valkey`) by SIGKILL."""
        self.local.kill(process)

    def start(self, process: str) -> None:
        """Start a process that was ended, and wait until it is ready."""
        self.local.start(process)


@contextmanager
def running_system(
    state: Path,
    *,
    shards: int | None = None,
    replicas: Mapping[str, int] | None = None,
    told: Callable[[str], Mapping[str, str]] | None = None,
    logs: Path | None = None,
) -> Generator[RunningSystem]:
    """Start a system of its own below the directory, on free ports; it ends, and its data with it, at the end.

    Args:
        state: the directory, made if it is not there.
        shards: how many databases for events, read models and users.
        replicas: how many processes of a service there are to be, where not one; further ones are named as
            `event-store-2`.
        told: environment variables that a service's process gets besides its usual ones, by its name.
        logs: where the logs of its processes are kept when it ends.
    """
    local = System(state, ports=free_ports(replicas), shards=shards, told=told)
    try:
        started = local.up()
        if started.admin.password is None:
            raise RuntimeError("A fresh system has an admin whose password nobody knows.")
        yield RunningSystem(
            url=started.url,
            ca=started.ca,
            admin_email=started.admin.email,
            admin_password=started.admin.password,
            local=local,
        )
    finally:
        if logs is not None and local.places.logs.is_dir():
            shutil.copytree(local.places.logs, logs, dirs_exist_ok=True)
        local.reset()
