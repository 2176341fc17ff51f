"""A Redis client that never waits for ever, over TLS with the service's own certificate where the URL says so."""

import ssl
import time
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.connection import RedisSSLContext, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import FullJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from chassis.identity.certificate import is_half_written

_TRIES = 20
_PAUSE_SECONDS = 0.005


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


class _TlsConnection(SSLConnection):
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
    encrypted = url.startswith("rediss://")
    if encrypted and identity_directory is not None:
        options["ssl_certfile"] = str(identity_directory / "tls.crt")
        options["ssl_keyfile"] = str(identity_directory / "tls.key")
        options["ssl_ca_certs"] = str(identity_directory / "ca.crt")
    client = Redis.from_url(
        url,
        socket_connect_timeout=timeout,
        socket_timeout=timeout + blocking_seconds,
        health_check_interval=15,
        max_connections=max_connections,
        # Only the connection is tried again, and only where the command cannot have been sent or may be sent twice by
        # its caller's leave.
        retry=Retry(FullJitterBackoff(cap=0.5, base=0.05), 2),
        retry_on_error=[RedisConnectionError],
        decode_responses=False,
        **options,
    )
    if encrypted:
        client.connection_pool.connection_class = _TlsConnection
    return client
