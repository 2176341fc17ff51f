"""The system as containers: servers and identities as `almagest up` would make them, processes from images.

What each container is told is what the local runtime tells a process, with the files at the places where the chart
mounts them.
"""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import pytest
from almagest_cli.local import accounts
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.layout import ADMIN_EMAIL, AUTH, DATABASE_OWNER, SERVICES
from almagest_cli.local.ports import free_ports
from almagest_cli.local.system import System
from harness.external import ExternalPostgres, ExternalRedis
from harness.running import Reached

from .engine import Alone, Container, Engine

USER = 65532
START_SECONDS = 60.0
_LEFT_OUT = {
    # Directories to write to, which a pod has not.
    "ALMAGEST_TRACE_DIRECTORY",
    "ALMAGEST_SEARCH_DIRECTORIES",
    "ALMAGEST_ARCHIVE_DIRECTORY",
    # For these tests.
    "ALMAGEST_IMAGES",
}


class Contained:
    """The services as containers.

    Attributes:
        containers: by the names of the services.
        reached: where clients find the door.
    """

    def __init__(self, engine: Engine, images: Mapping[str, str], local: System, *, home: Path, servers: Path) -> None:
        self._engine, self._images, self._local, self._home, self._servers = engine, images, local, home, servers
        self.containers: dict[str, Container] = {}
        self.reached: Reached

    def run(
        self, name: str, *command: str, as_owner: bool = False, image: str = "", read_only: bool = True
    ) -> Container:
        """A container of a service's image: with no command, the service."""
        told = self._local.environment_of(name, as_owner=as_owner)
        environment = {
            variable: value
            for variable, value in told.items()
            if variable.startswith("ALMAGEST_") and variable not in _LEFT_OUT
        }
        identities, places = self._local.places.authority / "identities", self._local.places
        seen = {
            identities / name: "/var/run/almagest/identity",
            identities / DATABASE_OWNER: "/var/run/almagest/owner",
            places.authority / "web": "/var/run/almagest/web",
            places.key_encryption_key: "/etc/almagest/keys/key-encryption-key",
            places.deny_list: "/etc/almagest/deny-list/deny-list",
            self._servers: "/etc/almagest/servers/ca.crt",
        }
        mounts: dict[Path, str] = {}
        for source, target in seen.items():
            if any(str(source) in value for value in environment.values()):
                mounts[self._lent(source, name)] = target
                environment = {one: value.replace(str(source), target) for one, value in environment.items()}
        assert not [value for value in environment.values() if str(self._home) in value]
        return Alone(
            self._engine,
            image or self._images[name],
            environment=environment,
            mounts=mounts,
            command=command,
            read_only=read_only,
        )

    def _lent(self, source: Path, to: str) -> Path:
        """A copy that only the containers' user can read."""
        copy = self._home / "lent" / to / source.relative_to(self._home)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)
        else:
            shutil.copy2(source, copy)
        for path in (copy, *(copy.rglob("*") if copy.is_dir() else ())):
            os.chown(path, USER, USER)
            path.chmod(0o500 if path.is_dir() else 0o400)
        return copy

    def to_end(self, name: str, *command: str, as_owner: bool = False) -> str:
        """Run a command of a service's image to its end, and answer what it printed.

        Raises:
            RuntimeError: it failed.
        """
        container = self.run(name, *command, as_owner=as_owner)
        try:
            code, printed, said = container.wait(), container.printed, container.log
        finally:
            container.remove()
        if code != 0:
            raise RuntimeError(f"{name} {' '.join(command)} ended with {code}:\n{said}")
        return printed

    def remove(self, name: str) -> None:
        """End the container that is a service now, which may be another than at first."""
        self.containers[name].remove()

    def await_ready(self, name: str) -> None:
        """Wait until a service says that it is.

        Raises:
            RuntimeError: it has ended, or time is up; with its log.
        """
        container, probe = self.containers[name], self._local.probe(name)
        for _ in probe.attempts(START_SECONDS):
            if probe.ready():
                return
            if not container.running:
                break
        raise RuntimeError(f"{name} is not ready: {probe.problem}\n{container.log}")


@contextmanager
def contained(engine: Engine, images: Mapping[str, str], home: Path) -> Generator[Contained]:
    """Run the six services on servers of their own; everything is gone at the end."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environment:
        theirs, ours = LocalAuthority(home / "theirs"), LocalAuthority(home / "state" / "authority")
        postgres = ExternalPostgres(home / "postgres", authority=theirs, clients=ours.certificate_file)
        redis = ExternalRedis(home / "redis", authority=theirs, clients=ours.certificate_file)
        for server in (postgres, redis):
            stack.callback(server.remove)
            server.start()
        ca, identity = theirs.certificate_file, ours.ensure("postgres")
        tls = f"sslmode=verify-full&sslrootcert={ca}&sslcert={{0}}/tls.crt&sslkey={{0}}/tls.key"
        where = f"localhost:{postgres.port}/postgres?{tls}"
        asyncio.run(_operator(f"postgresql://postgres:{postgres.password}@{where.format(identity)}"))
        environment.setenv("ALMAGEST_POSTGRES_URL", f"postgresql://operator:made-up@{where.format('{identity}')}")
        environment.setenv(
            "ALMAGEST_REDIS_URL", f"rediss://{redis.user}:{redis.password}@localhost:{redis.port}/0?ssl_ca_certs={ca}"
        )
        accounts.make_passage(home / "state")
        local = System(home / "state", ports=free_ports())
        stack.callback(local.reset)
        local.furnish()
        ours.issue_web()
        owned = {name: (row.module,) for row in SERVICES for name in row.database_names(local.shards)}
        local.databases().ensure(owned)
        system = Contained(engine, images, local, home=home, servers=ca)
        _start(system, stack, [row.name for row in SERVICES if row.databases])
        yield system


def _start(system: Contained, stack: ExitStack, migrating: Sequence[str]) -> None:
    for _ in range(2):
        # As a hook may: once more than needed.
        for name in migrating:
            system.to_end(name, "migrate", as_owner=True)
    for row in SERVICES:
        system.containers[row.name] = system.run(row.name)
        stack.callback(system.remove, row.name)
    said = system.to_end(AUTH, "create-admin", "--email", ADMIN_EMAIL)
    local = system._local
    system.reached = Reached(
        url=local.url,
        ca=local.places.ca,
        admin_email=ADMIN_EMAIL,
        admin_password=json.loads(said.splitlines()[-1])["password"],
    )
    for name in system.containers:
        system.await_ready(name)


async def _operator(superuser: str) -> None:
    connection = await asyncpg.connect(superuser)
    await connection.execute("CREATE ROLE operator LOGIN CREATEDB CREATEROLE PASSWORD 'made-up'")
    await connection.close()


def within(seconds: float, *, what: str) -> Generator[None]:
    """Give the caller turns until time is up.

    Raises:
        TimeoutError: naming what was waited for.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        time.sleep(0.1)
    raise TimeoutError(what)
