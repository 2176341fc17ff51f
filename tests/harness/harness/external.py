"""Servers that are not ours: Debian's Postgres and Redis, over TLS only, with client certificates and passwords.

They stand for what an operator brings: reached by TCP, with server certificates of another authority than the
system's, and suspicious of everyone.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from almagest_cli.local import accounts
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.daemons import Daemon
from almagest_cli.local.ports import free_port

_START_SECONDS = 60.0


def postgres_programs() -> Path:
    """The directory of the newest Postgres of this machine; skips the test where there is none."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not found:
        pytest.skip("Needs a Postgres that speaks TLS: apt-get install postgresql (.ci/run does).")
    return max(found, key=lambda path: int(path.parent.name))


def redis_program() -> str:
    """Where `redis-server` is; skips the test where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Needs a Redis that speaks TLS: apt-get install redis-server (.ci/run does).")
    return program


class _External:
    """One server below `directory`, on a loopback port of its own.

    Args:
        directory: where its files are, or what stands in for it (see `almagest_cli.local.accounts`).
        authority: who issues the server's certificate.
        clients: the certificate of the authority whose clients are let in.
    """

    name = ""

    def __init__(self, directory: Path, *, authority: LocalAuthority, clients: Path) -> None:
        self.directory = directory.absolute()
        self.account = accounts.server_account()
        self.home = accounts.server_home(self.directory, self.account)
        self.password = secrets.token_hex(16)
        self.port = free_port()
        web = authority.issue_web()
        for name, source in (("tls.crt", web / "tls.crt"), ("tls.key", web / "tls.key"), ("clients.crt", clients)):
            self.write(name, source.read_text(encoding="ascii"))
        self.daemon = Daemon(self.name, pid_file=self.directory / "pid", log_file=self.directory / "log")

    def write(self, name: str, content: str) -> Path:
        """Write a file that only the server can read."""
        path = self.home / name
        path.write_text(content, encoding="utf-8")
        path.chmod(0o600)
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)
        return path

    def launch(self, command: Sequence[str | Path], *, directory: Path) -> None:
        """Start the server and wait until it takes connections."""
        environment = {"PATH": os.defpath, "LC_ALL": "C"}
        self.daemon.start(
            [str(word) for word in command], environment=environment, account=self.account, directory=directory
        )
        until = time.monotonic() + _START_SECONDS
        while not self._listens():
            if self.daemon.process() is None or time.monotonic() > until:
                raise RuntimeError(f"{self.name} did not start:\n{self.daemon.tail()}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0

    def remove(self) -> None:
        """Stop the server and forget its data."""
        self.daemon.stop(first=signal.SIGINT)
        accounts.remove(self.directory)


class ExternalPostgres(_External):
    """Takes TLS only, and asks everyone for a password and for a certificate that names their role."""

    name = "external-postgres"
    superuser = "postgres"

    def start(self) -> None:
        """Make the cluster and start the server."""
        programs = postgres_programs()
        data = accounts.make_directory(self.home / "data", account=self.account)
        password = self.write("password", self.password)
        initdb = [
            programs / "initdb",
            f"--pgdata={data}",
            f"--username={self.superuser}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        environment = {"PATH": os.defpath, "LC_ALL": "C"}
        done = subprocess.run(
            initdb, env=environment, cwd=data, capture_output=True, check=False, **accounts.run_as(self.account)
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        self.write("data/pg_hba.conf", "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "ssl": "on",
            "ssl_cert_file": str(self.home / "tls.crt"),
            "ssl_key_file": str(self.home / "tls.key"),
            "ssl_ca_file": str(self.home / "clients.crt"),
            "ssl_min_protocol_version": "TLSv1.2",
            "password_encryption": "scram-sha-256",
            "max_connections": "200",
            "fsync": "off",
        }
        command = [programs / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
        self.launch(command, directory=data)


class ExternalRedis(_External):
    """Takes TLS only, with a client certificate and the name and password of its one user, who is no administrator."""

    name = "external-redis"
    user = "almagest"
    rights = "~* &* +@all -@admin -@dangerous"

    def start(self) -> None:
        """Start the server."""
        data = accounts.make_directory(self.home / "data", account=self.account)
        self.administrator = secrets.token_hex(16)
        # For who is at the machine, by no certificate: one that has expired could not be replaced otherwise.
        self.socket = Path(f"/tmp/almagest-redis-{self.port}.sock")  # noqa: S108 - names of sockets must be short
        configuration = f"""
bind 127.0.0.1
port 0
unixsocket {self.socket}
unixsocketperm 700
tls-port {self.port}
tls-cert-file {self.home / "tls.crt"}
tls-key-file {self.home / "tls.key"}
tls-ca-cert-file {self.home / "clients.crt"}
tls-auth-clients yes
user default off
user {self.user} on >{self.password} {self.rights}
user administrator on >{self.administrator} ~* &* +@all
dir {data}
save ""
appendonly no
daemonize no
"""
        self.launch([redis_program(), self.write("redis.conf", configuration)], directory=data)
