"""A Redis client that never waits for ever, over TLS with the service's own certificate where the URL says so."""

from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import FullJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError


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
        url: Where, as whom and which database.
        identity_directory: For `rediss://`: `tls.crt`, `tls.key` and `ca.crt`, read anew for each connection, so that
            rotation needs nothing.
        timeout: Seconds for connecting and for each answer.
        max_connections: More at once wait for none: they fail.
        blocking_seconds: The longest `BLOCK` of commands on this client, which comes on top of `timeout`.
    """
    options: dict[str, Any] = {}
    if url.startswith("rediss://"):
        options["ssl_cert_reqs"] = "required"
        options["ssl_check_hostname"] = True
        if identity_directory is not None:
            options["ssl_certfile"] = str(identity_directory / "tls.crt")
            options["ssl_keyfile"] = str(identity_directory / "tls.key")
            options["ssl_ca_certs"] = str(identity_directory / "ca.crt")
    return Redis.from_url(
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
