"""Looking after the databases of a system on this machine: its Postgres alone, without the services."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from almagest_cli.local import accounts
from almagest_cli.local.databases import Databases
from almagest_cli.local.errors import LocalError
from almagest_cli.local.layout import SERVICES, Service
from almagest_cli.local.postgres import EmbeddedPostgres
from almagest_cli.local.programs import run_to_end
from almagest_cli.local.system import POSTGRES, VALKEY, System
from almagest_cli.local.valkey import EmbeddedValkey

_HOURS = 12.0 * 3600.0
"""How long a command may take: it may read every event that there is."""


@dataclass(frozen=True)
class Maintenance:
    """What may be done to a system's databases."""

    system: System

    def sources(self) -> Mapping[str, Service]:
        """Every database by name, with the service that owns it, in the order of services and shards."""
        return {name: row for row in SERVICES for name in row.database_names(self.system.shards)}

    @contextmanager
    def server(self, *, alone: bool) -> Generator[Databases]:
        """The Postgres of the system, started for as long as the block lasts if it does not run.

        Args:
            alone: no service may run meanwhile, and no other command start one.

        Raises:
            LocalError: It cannot be started, or a service runs.
        """
        system = self.system
        accounts.make_passage(system.places.state)
        with system.exclusively() if alone else nullcontext():
            daemons = system.daemons()
            running = [name for name, daemon in daemons.items() if name != POSTGRES and daemon.process() is not None]
            if alone and running:
                raise LocalError(f"Almagest runs ({', '.join(running)}). `almagest down` first.")
            if alone:
                system.furnish()
            started = POSTGRES in daemons and daemons[POSTGRES].process() is None
            if started:
                system.start(POSTGRES)
            try:
                yield system.databases()
            finally:
                if started:
                    system.stop(POSTGRES)

    def run(self, name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command of a service with databases to its end, as their owner, and answer what it prints.

        Raises:
            ProcessDiedError: It failed; with what it said last.
        """
        row = next(row for row in SERVICES if row.name == name)
        return run_to_end(
            row.module,
            *arguments,
            environment={**self.system.environment_of(name, as_owner=True), **(environment or {})},
            directory=self.system.places.state,
            given_up=lambda: False,
            limit_seconds=_HOURS,
        )

    @property
    def embedded_programs(self) -> Path | None:
        """The programs of the embedded Postgres; None when the server is another one."""
        if POSTGRES not in self.system.daemons():
            return None
        return EmbeddedPostgres(self.system.places.state / POSTGRES).programs()

    @property
    def archives(self) -> Path:
        """Where the files of old events are."""
        named = os.environ.get("ALMAGEST_ARCHIVE_DIRECTORY")
        return Path(named) if named else self.system.places.archives

    def forget_redis(self) -> bool:
        """Forget what the embedded Valkey knows, which is never the truth; False when Redis is not ours."""
        if VALKEY not in self.system.daemons():
            return False
        accounts.remove(EmbeddedValkey(self.system.places.state / VALKEY).data)
        return True
