"""A Redis client that never waits for ever, over TLS with the service's own certificate where the URL says so."""

import asyncio
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    RedisSSLContext,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import FullJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from chassis.identity.certificate import is_half_written

_TRIES = 20
_PAUSE_SECONDS = 0.005
_CONNECT_AGAIN = 2


class _FreshContext(RedisSSLContext):
    """TLS by the files as they are now. The library's own context is made once and keeps a certificate beyond its end;
    beside the authority that it is given it believes all those of the machine, too.
    """

    __slots__ = ()

    def get(self) -> ssl.SSLContext:
        """A new context: verification is not up to the URL."""
        for last in (*[False] * (_TRIES - 1), True):
            try:
                context = ssl.create_default_context(cafile=self.ca_certs)
                if self.certfile:
                    context.load_cert_chain(self.certfile, self.keyfile)
            except ssl.SSLError as error:
                # It takes a moment, so we wait for it.
                if last or not is_half_written(error):
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return context
        raise AssertionError  # unreachable: the last try returns or raises


class _Once(AbstractConnection):
    """A connection over which each command is sent once, and whose user can be cancelled at any time.

    The library retries what it retries: to connect, but also a command whose answer did not come in time, or whose
    connection was lost before it did. Redis may have done that one, and would do it again: count it twice, queue it
    twice, or find a nonce claimed, by ourselves. So it is told to retry nothing, and we connect again.

    The library sends within `asyncio.wait_for`, which before Python 3.12 answers as if nothing had been when the
    cancellation comes as the sending ends (python/cpython#86296): two of three loops that only call Redis went on. It
    also makes a task of each sending, which is a sixth of what a call costs.
    """

    async def connect(self) -> None:
        """Connect, if it is not connected, and try again in a moment."""

        async def disconnect(error: Exception, failures: int) -> None:
            await self.disconnect(error=error, failure_count=failures)

        await Retry(FullJitterBackoff(cap=0.5, base=0.05), _CONNECT_AGAIN).call_with_retry(
            lambda: self.connect_check_health(check_health=False, retry_socket_connect=False),
            disconnect,
            with_failure_count=True,
        )

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - the library's signature
        """Send; a connection to which half of something may have been sent is closed, as the library itself does."""
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            try:
                await self.check_health()
            except (RedisConnectionError, RedisTimeoutError):
                # Nobody was there any more, and nothing was sent yet.
                await self.connect()
        if isinstance(command, str):
            command = command.encode()
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command([command] if isinstance(command, bytes) else command)
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("Redis takes nothing more") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Redis is away: {error}") from error
        except BaseException:
            await self.disconnect(nowait=True)
            raise


class _TcpConnection(_Once, Connection):
    """Over TCP in clear, for development."""


class _SocketConnection(_Once, UnixDomainSocketConnection):
    """Over a Unix domain socket."""

    async def _connect(self) -> None:
        """Open the socket, and no more. The library shakes hands here, before its caller does, and pings meanwhile:
        a ping that fails connects again. A server that hangs up had it go round for ever.
        """
        async with asyncio.timeout(self.socket_connect_timeout):
            self._reader, self._writer = await asyncio.open_unix_connection(path=self.path)


class _TlsConnection(_Once, SSLConnection):
    """A connection that shows the certificate that is in the identity directory, and is made anew, between two
    commands, when that has been replaced. Redis looks at a certificate once, and would let an expired one stay.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        given = self.ssl_context
        self._certificate: str | None = given.certfile
        self._made_with: tuple[int, int, int] | None = None
        self.ssl_context = _FreshContext(keyfile=given.keyfile, certfile=given.certfile, ca_certs=given.ca_certs)

    async def connect(self) -> None:
        """Connect, or connect again; the pool asks so each time it lends the connection."""
        signature = self._signature()
        if self.is_connected and signature not in (self._made_with, None):
            await self.disconnect()
        if not self.is_connected:
            self._made_with = signature
        await super().connect()

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """The next answer. A subscription (`push_request`) lives on one connection: it is moved when nothing waits to
        be read, and subscribes again by itself.
        """
        if (
            options.get("push_request")
            and self._signature() not in (self._made_with, None)
            and not await self.can_read()
        ):
            await self.connect()
        return cast("Any", await super().read_response(*arguments, **options))

    def _signature(self) -> tuple[int, int, int] | None:
        if self._certificate is None:
            return None
        try:
            status = Path(self._certificate).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


_CONNECTIONS: dict[type[AbstractConnection], type[_Once]] = {
    Connection: _TcpConnection,
    SSLConnection: _TlsConnection,
    UnixDomainSocketConnection: _SocketConnection,
}


def connect(
    url: str,
    *,
    identity_directory: Path | None = None,
    timeout: float = 2.0,
    max_connections: int = 32,
    blocking_seconds: float = 0.0,
) -> Redis:
    """A client for `redis://`, `rediss://` or `unix://`; it connects on first use, and answers bytes.

    Args:
        url: Where, as whom and which database. What it says of `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` goes
            before the identity.
        identity_directory: For `rediss://`: `tls.crt`, `tls.key` and `ca.crt`, read anew for each connection, so that
            rotation needs nothing.
        timeout: Seconds for connecting and for each answer.
        max_connections: More at once wait for none: they fail.
        blocking_seconds: The longest `BLOCK` of commands on this client, which comes on top of `timeout`.
    """
    options: dict[str, Any] = {}
    if url.startswith("rediss://") and identity_directory is not None:
        options["ssl_certfile"] = str(identity_directory / "tls.crt")
        options["ssl_keyfile"] = str(identity_directory / "tls.key")
        options["ssl_ca_certs"] = str(identity_directory / "ca.crt")
    client = Redis.from_url(
        url,
        socket_connect_timeout=timeout,
        socket_timeout=timeout + blocking_seconds,
        health_check_interval=15,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        **options,
    )
    client.connection_pool.connection_class = _CONNECTIONS[client.connection_pool.connection_class]
    return client
