"""The client certificate that a connection to Postgres is made with, which somebody else replaces.

asyncpg reads the files that a DSN names for each connection, so a new connection shows the new certificate. Two things
are left: an open connection must not outlive the certificate that it was made with, since Postgres looks at it once;
and the files are several, so that whoever reads them while they are replaced may hold a key without its certificate.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from chassis.identity.certificate import is_half_written

_TRIES = 80
_PAUSE_SECONDS = 0.025

Signature = tuple[int, int, int] | None


class ClientCertificate:
    """The file of a DSN's `sslcert`; none when it names none."""

    def __init__(self, dsn: str) -> None:
        named = parse_qs(urlsplit(dsn).query).get("sslcert", [""])[-1]
        self._file = Path(named) if named else None

    def __bool__(self) -> bool:
        return self._file is not None

    def signature(self) -> Signature:
        """What is another when the file has been replaced."""
        try:
            status = None if self._file is None else self._file.stat()
        except OSError:
            return None
        return None if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)

    async def watch(self, replaced: Callable[[], Awaitable[None]], interval: float) -> None:
        """Call `replaced` each time the file has been, looking every `interval` seconds; never returns."""
        seen = self.signature()
        while True:
            await asyncio.sleep(interval)
            signature = self.signature()
            if signature not in (seen, None):
                seen = signature
                await replaced()


async def connect_by_files(*arguments: Any, **options: Any) -> Any:
    """As `asyncpg.connect`, but tried again when key and certificate do not belong together, as they do not for a
    moment while they are replaced.
    """
    for last in (*[False] * (_TRIES - 1), True):
        try:
            return await asyncpg.connect(*arguments, **options)
        except ssl.SSLError as error:
            if last or not is_half_written(error):
                raise
            await asyncio.sleep(_PAUSE_SECONDS)
    raise AssertionError  # unreachable: the last try returns or raises
