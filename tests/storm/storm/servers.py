"""A Postgres and a Redis over TLS only, whose certificates and whose trust are rotated like everybody else's."""

import asyncio
import signal
import sys
from pathlib import Path

import redis.asyncio
from almagest_cli.local.authority import LocalAuthority
from harness.external import ExternalPostgres, ExternalRedis
from redis.exceptions import RedisError

_LOOK_SECONDS = 0.1


class Servers:
    """The two, below a directory.

    Args:
        directory: where they live.
        authority: who signs their certificates, and whom they believe of their clients.
    """

    def __init__(self, directory: Path, authority: LocalAuthority) -> None:
        self._authority = authority
        self.postgres = ExternalPostgres(
            directory / "postgres", authority=authority, clients=authority.certificate_file
        )
        self.redis = ExternalRedis(directory / "redis", authority=authority, clients=authority.certificate_file)
        self.reloads = 0

    def start(self) -> None:
        """Start both."""
        self.postgres.start()
        self.redis.start()

    def remove(self) -> None:
        """Stop both and forget their data."""
        self.redis.remove()
        self.postgres.remove()

    def certificate_parameters(self, identity: str) -> str:
        """What a DSN says of certificates, for whoever's identity is in the directory."""
        return f"sslmode=verify-full&sslrootcert={identity}/ca.crt&sslcert={identity}/tls.crt&sslkey={identity}/tls.key"

    async def follow(self) -> None:
        """Take each new certificate and each new trust into use without a restart, as long as there are any."""
        seen = self._files()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                found = self._files()
            except FileNotFoundError:
                # The system is gone, and its authority with it.
                return
            if found == seen:
                continue
            await asyncio.to_thread(self._write, *found)
            self.postgres.daemon.send(signal.SIGHUP)
            try:
                await self._reload_redis()
            except (RedisError, OSError) as error:
                # The operator's own files are being replaced; a moment later they are whole.
                sys.stderr.write(f"Redis is to be told again: {error}\n")
                continue
            seen = found
            self.reloads += 1

    def _write(self, certificate: str, key: str, trusted: str) -> None:
        for server in (self.postgres, self.redis):
            for name, content in (("clients.crt", trusted), ("tls.key", key), ("tls.crt", certificate)):
                server.write(name, content)

    def _files(self) -> tuple[str, str, str]:
        directory = self._authority.directory
        files = (directory / "web" / "tls.crt", directory / "web" / "tls.key", directory / "ca.crt")
        certificate, key, trusted = (file.read_text(encoding="ascii") for file in files)
        return certificate, key, trusted

    async def _reload_redis(self) -> None:
        home = self.redis.home
        client = redis.asyncio.Redis(
            unix_socket_path=str(self.redis.socket), username="administrator", password=self.redis.administrator
        )
        files = {"tls-cert-file": "tls.crt", "tls-key-file": "tls.key", "tls-ca-cert-file": "clients.crt"}
        words = [word for setting, name in files.items() for word in (setting, str(home / name))]
        async with client:
            await client.execute_command("CONFIG SET", *words)
