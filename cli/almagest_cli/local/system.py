"""The whole system on one machine: what `almagest up`, `down`, `status` and `reset` do, and what the end-to-end tests
start.

Every process is detached and known by its pid file, so each command finds what an earlier one started. Starting is
idempotent: what runs stays, what is missing is started. When something cannot be started, whatever this attempt
started is stopped again.
"""

import base64
import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from almagest_cli.local import accounts, layout
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.daemons import Daemon, write_private
from almagest_cli.local.databases import OWNER, Databases, ExternalPostgres, Passwords
from almagest_cli.local.errors import LocalError, NotReadyError, ProcessDiedError
from almagest_cli.local.layout import ADMIN_EMAIL, AUTH, GATEWAY, WORKLOADS, Places, Ports, Service
from almagest_cli.local.migrating import Steps
from almagest_cli.local.ports import require_free
from almagest_cli.local.postgres import EmbeddedPostgres
from almagest_cli.local.probes import Probe
from almagest_cli.local.programs import python, run_to_end
from almagest_cli.local.trust import Lifetimes
from almagest_cli.local.valkey import EmbeddedValkey

POSTGRES = "postgres"
VALKEY = "valkey"
CERTIFICATES = "certificates"
"""The small process that renews identities."""

Report: TypeAlias = Callable[[str, str], None]
"""Called with a process's name and what happens to it: `starting`, `migrating`, `ready`, `stopped`. Of a migration that
takes long, `migrating`, a comma, and what it does at the moment.
"""

_SILENT_SECONDS = 660.0
"""How long a migration may say nothing: longer than the longest statement that it may make."""


@dataclass(frozen=True)
class Credentials:
    """The first admin."""

    email: str
    password: str | None
    """None when the admin was there before: then nobody here knows it."""


@dataclass(frozen=True)
class Started:
    """A system that is ready."""

    url: str
    ca: Path
    admin: Credentials
    already_running: bool


class Cancelled(Exception):
    """This part of the start was given up because another failed."""


class System:
    """Almagest below one state directory.

    Args:
        state: the directory, made when the system starts.
        ports: where to listen; by default as last time, or else the usual ports.
        shards: how many databases for events, read models and users; by default as last time, or else two. Fixed once
            there is data.
        report: told of each step.
        told: environment variables that a service's process gets besides its usual ones, by its name.
    """

    def __init__(
        self,
        state: Path,
        *,
        ports: Ports | None = None,
        shards: int | None = None,
        report: Report | None = None,
        told: Callable[[str], Mapping[str, str]] | None = None,
    ) -> None:
        self.places = Places(state.absolute())
        described = self._described()
        self._last_ports = _ports(described)
        self.ports = ports or self._last_ports or Ports.usual()
        self._rows = self.ports.processes()
        known = described.get("shards")
        if isinstance(known, int) and shards not in {None, known}:
            raise LocalError(
                f"The data in {self.places.state} has {known} shards, not {shards}. Their number cannot change under "
                "data: leave --shards out, or `almagest reset` first."
            )
        self.shards = shards or (known if isinstance(known, int) else 2)
        self._report: Report = report or (lambda _name, _state: None)
        self._told = told
        self._cancelled = threading.Event()
        self._migrating: set[str] = set()
        self._started: list[Daemon] = []
        self._postgres = EmbeddedPostgres(self.places.state / POSTGRES, log=self.places.log(POSTGRES))
        self._valkey = EmbeddedValkey(self.places.state / VALKEY, log=self.places.log(VALKEY))
        self._all: Mapping[str, Daemon] = {
            POSTGRES: self._postgres.daemon,
            VALKEY: self._valkey.daemon,
            **{
                name: Daemon(name, pid_file=self.places.pid(name), log_file=self.places.log(name))
                for name in (CERTIFICATES, *(row.name for row in self._rows))
            },
        }

    @property
    def url(self) -> str:
        """Where the gateway is."""
        return f"https://localhost:{self.ports.gateway}"

    @property
    def redis_url(self) -> str:
        """Where a started system finds Redis: in the embedded Valkey, unless the environment names another."""
        return os.environ.get("ALMAGEST_REDIS_URL") or self._valkey.url

    def daemons(self) -> Mapping[str, Daemon]:
        """Every process of the system by name, running or not, servers first."""
        theirs = {
            name
            for name, variable in ((POSTGRES, "ALMAGEST_POSTGRES_URL"), (VALKEY, "ALMAGEST_REDIS_URL"))
            if os.environ.get(variable)
        }
        return {name: daemon for name, daemon in self._all.items() if name not in theirs}

    def probe(self, name: str) -> Probe:
        """What tells whether a service is ready."""
        if name == GATEWAY:
            return Probe(self.ports.gateway, ca=self.places.ca)
        return Probe(self.ports.http[name])

    def up(self, *, timeout: float = 90) -> Started:
        """Start what does not run, and wait until every service says that it is ready, each at most `timeout` seconds
        from when no database is being migrated any more.

        Raises:
            LocalError: saying which part failed and why, with its log. What this call started is stopped again.
        """
        accounts.make_passage(self.places.state)
        with self.exclusively():
            if self.places.restoring.exists():
                raise LocalError(
                    f"In {self.places.state} a restore is under way, and has not come to its end. Give the same "
                    "`almagest backup restore` again."
                )
            self._started.clear()
            self._cancelled.clear()
            missing = {name for name, daemon in self.daemons().items() if daemon.process() is None}
            services = {row.name for row in self._rows}
            if self._last_ports not in (None, self.ports) and services - missing:
                raise LocalError("Almagest runs on other ports than these. `almagest down` first.")
            try:
                for name in sorted(services & missing):
                    require_free(name, self.ports.of(name))
                admin = self._up(missing, timeout=timeout)
            except BaseException:
                self._cancelled.set()
                self._stop_all(reversed(self._started))
                raise
            return Started(url=self.url, ca=self.places.ca, admin=admin, already_running=not missing)

    def down(self) -> list[str]:
        """Stop everything, the door first and the servers last; answers the names of what ran."""
        if not self.places.state.is_dir():
            return []
        with self.exclusively():
            # All that may run, also servers that a changed environment no longer asks for.
            running = [daemon for daemon in self._all.values() if daemon.process() is not None]
            self._stop_all(reversed(running))
            return [daemon.name for daemon in running]

    def reset(self) -> None:
        """Stop everything and forget all data, identities and passwords. Databases of an external Postgres stay."""
        self.down()
        for path in self.places.everything():
            accounts.remove(path)
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            # Whatever else lies there is not ours.
            self.places.state.rmdir()

    def start(self, name: str, *, timeout: float = 90) -> None:
        """Start one process of a system that was started before, and wait until it is ready."""
        if name == POSTGRES:
            self._postgres.start()
        elif name == VALKEY:
            self._valkey.start()
        elif name == CERTIFICATES:
            self._start_renewal()
        else:
            row = next(row for row in self._rows if row.name == name)
            require_free(name, self.ports.of(name))
            self._launch(row, self.environment_of(name))
            self._await_ready(row, timeout=timeout)

    def environment_of(self, name: str, *, as_owner: bool = False) -> dict[str, str]:
        """What the process of a service is told, for one that is to act in its place; or in that of its migrations."""
        row = next(row for row in self._rows if row.name == name)
        return self._environment(row, self.databases(), self.redis_url, as_owner=as_owner)

    def stop(self, name: str) -> None:
        """Stop one process cleanly."""
        self._stop(self._all[name])

    def kill(self, name: str) -> None:
        """End one process as a crash would: SIGKILL."""
        self._all[name].kill()

    def furnish(self) -> None:
        """What a start needs besides servers: identities, secrets, directories, and the description of it all."""
        places = self.places
        LocalAuthority(places.authority, lifetimes=Lifetimes.told()).renew(WORKLOADS)
        places.deny_list.touch(mode=0o600)
        if not places.key_encryption_key.exists():
            places.key_encryption_key.parent.mkdir(mode=0o700, exist_ok=True)
            write_private(places.key_encryption_key, base64.b64encode(secrets.token_bytes(32)))
        for directory in (places.logs, places.traces):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._describe()

    def _up(self, missing: set[str], *, timeout: float) -> Credentials:
        self.furnish()
        if GATEWAY in missing:
            LocalAuthority(self.places.authority, lifetimes=Lifetimes.told()).issue_web()
        if CERTIFICATES in missing:
            self._start_renewal()
        redis_url = self._start_valkey(missing)
        databases = self._start_postgres(missing)
        if any(row.databases and row.name in missing for row in self._rows):
            databases.ensure({name: (row.module,) for row in self._rows for name in row.database_names(self.shards)})
        # Further replicas come when the first of each has migrated what they share.
        for rows in ([row for row in self._rows if not row.replica_of], [row for row in self._rows if row.replica_of]):
            if rows:
                self._bring_up_all(rows, databases, redis_url, missing=missing, timeout=timeout)
        return self._admin_to_show()

    def _bring_up_all(
        self, rows: Sequence[Service], databases: Databases, redis_url: str, *, missing: set[str], timeout: float
    ) -> None:
        with ThreadPoolExecutor(max_workers=len(rows)) as pool:
            parts = {
                row.name: pool.submit(
                    self._bring_up, row, databases, redis_url, missing=row.name in missing, timeout=timeout
                )
                for row in rows
            }
            try:
                done, _ = wait(parts.values(), return_when="FIRST_EXCEPTION")
            except BaseException:
                self._cancelled.set()
                raise
            # What fails after this does so because it was given up.
            causes = [error for part in done if (error := part.exception()) is not None]
            if causes:
                self._cancelled.set()
        if causes:
            raise causes[0]

    def _bring_up(self, row: Service, databases: Databases, redis_url: str, *, missing: bool, timeout: float) -> None:
        """Migrate, start and await one service; for auth, make the first admin as well."""
        told = self._environment(row, databases, redis_url)
        if missing:
            if row.databases and not row.replica_of:
                self._migrate(row, self._environment(row, databases, redis_url, as_owner=True))
            self._report(row.name, "starting")
            self._launch(row, told)
            if row.name == AUTH:
                # Kept until it is shown: this start may yet fail for another reason.
                said = run_to_end(
                    row.module,
                    "create-admin",
                    "--email",
                    ADMIN_EMAIL,
                    environment=told,
                    directory=self.places.state,
                    given_up=lambda: False,
                )
                answer = said.splitlines()[-1].encode()
                if orjson.loads(answer)["password"] is not None:
                    write_private(self.places.first_admin, answer)
        self._await_ready(row, timeout=timeout)
        self._report(row.name, "ready")

    def _migrate(self, row: Service, told: Mapping[str, str]) -> None:
        """For as long as it takes: what others wait for is not late."""
        self._report(row.name, "migrating")
        self._check()
        self._migrating.add(row.name)
        try:
            run_to_end(
                row.module,
                "migrate",
                environment=told,
                directory=self.places.state,
                given_up=self._cancelled.is_set,
                limit_seconds=_SILENT_SECONDS,
                heard=Steps(lambda step: self._report(row.name, f"migrating, {step}")).heard,
            )
        finally:
            self._migrating.discard(row.name)

    def _admin_to_show(self) -> Credentials:
        """The first admin, with the password the first time that a start succeeds."""
        try:
            answer = orjson.loads(self.places.first_admin.read_bytes())
        except FileNotFoundError:
            return Credentials(ADMIN_EMAIL, None)
        self.places.first_admin.unlink()
        return Credentials(email=str(answer["email"]), password=str(answer["password"]))

    def _launch(self, row: Service, told: Mapping[str, str]) -> None:
        self._check()
        daemon = self._all[row.name]
        self._started.append(daemon)
        daemon.start(python(row.module, "serve"), environment=told, directory=self.places.state)

    def _await_ready(self, row: Service, *, timeout: float) -> None:
        daemon, probe = self._all[row.name], self.probe(row.name)
        for _ in probe.attempts(timeout, held_up=lambda: bool(self._migrating)):
            self._check()
            if probe.ready():
                return
            if daemon.process() is None:
                ended = "" if daemon.exit_code is None else f" (exit code {daemon.exit_code})"
                raise ProcessDiedError(
                    f"{row.name} ended{ended} before it was ready. "
                    f"The last lines of {daemon.log_file}:\n{daemon.tail()}"
                )
        raise NotReadyError(
            f"{row.name} was not ready after {timeout:g} seconds: {probe.problem}. "
            f"The last lines of {daemon.log_file}:\n{daemon.tail()}"
        )

    def _start_renewal(self) -> None:
        daemon = self._all[CERTIFICATES]
        self._started.append(daemon)
        daemon.start(
            python("almagest_cli.local.renewal", str(self.places.state)),
            environment={name: value for name, value in os.environ.items() if not name.startswith("ALMAGEST_")},
            directory=self.places.state,
        )
        self._report(CERTIFICATES, "ready")

    def _start_valkey(self, missing: set[str]) -> str:
        if VALKEY in missing:
            self._report(VALKEY, "starting")
            server = self._valkey
            self._started.append(server.daemon)
            server.start()
            self._report(VALKEY, "ready")
        return self.redis_url

    def _start_postgres(self, missing: set[str]) -> Databases:
        if POSTGRES in missing:
            self._report(POSTGRES, "starting")
            server = self._postgres
            self._started.append(server.daemon)
            server.start()
            self._report(POSTGRES, "ready")
        return self.databases()

    def databases(self) -> Databases:
        """Where the databases are: in the embedded Postgres, unless the environment names another."""
        if external := os.environ.get("ALMAGEST_POSTGRES_URL"):
            secret = self.places.state / "secrets" / "external-postgres"
            secret.parent.mkdir(mode=0o700, exist_ok=True)
            identities = self.places.authority / "identities"
            return ExternalPostgres(external, passwords=Passwords(secret), identities=identities)
        return self._postgres

    def _environment(
        self, row: Service, databases: Databases, redis_url: str, *, as_owner: bool = False
    ) -> dict[str, str]:
        names = row.database_names(self.shards)
        usual = layout.environment(
            row,
            places=self.places,
            ports=self.ports,
            database_urls=tuple(databases.dsn(name, row.module) for name in names),
            owner_urls=tuple(databases.dsn(name, OWNER) for name in names) if as_owner else (),
            redis_url=redis_url,
        )
        return usual if self._told is None else {**usual, **self._told(row.name)}

    def _stop_all(self, daemons: Iterator[Daemon]) -> None:
        """Stop the processes in the given order: the gateway, then the services side by side, then the servers."""
        waiting = list(daemons)
        inner = {row.name for row in self._rows if row.name != GATEWAY} | {CERTIFICATES}
        for group in (
            [daemon for daemon in waiting if daemon.name == GATEWAY],
            [daemon for daemon in waiting if daemon.name in inner],
            [daemon for daemon in waiting if daemon.name in {POSTGRES, VALKEY}],
        ):
            if group:
                with ThreadPoolExecutor(max_workers=len(group)) as pool:
                    list(pool.map(self._stop, group))

    def _stop(self, daemon: Daemon) -> None:
        if daemon is self._postgres.daemon:
            self._postgres.stop()
        else:
            daemon.stop()
        self._report(daemon.name, "stopped")

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    @contextlib.contextmanager
    def exclusively(self) -> Generator[None]:
        """Only one command at a time changes what runs."""
        with (self.places.state / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalError(
                    f"Another almagest command is starting or stopping the system in {self.places.state}. Wait for it."
                ) from None
            yield

    def _describe(self) -> None:
        ports = {"gateway": self.ports.gateway, "grpc": dict(self.ports.grpc), "http": dict(self.ports.http)}
        content = {"url": self.url, "ca": str(self.places.ca), "ports": ports, "shards": self.shards}
        write_private(self.places.description, orjson.dumps(content, option=orjson.OPT_INDENT_2))

    def _described(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = orjson.loads(self.places.description.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise LocalError(
                f"{self.places.description} cannot be read ({error}). Remove it, or `almagest reset`."
            ) from None
        return content


def _ports(described: Mapping[str, Any]) -> Ports | None:
    ports = described.get("ports")
    return None if ports is None else Ports(gateway=ports["gateway"], grpc=ports["grpc"], http=ports["http"])
