"""Workloads that are believed no more, although their certificates are still good.

Certificates here live for hours or a day, and gRPC for Python reads no revocation lists. So there is a file that each
service watches: whoever stands in it, by SPIFFE id or by the serial number of one certificate, gets no answer any more,
and what they have open is ended (see `chassis.rpc.connections`). A serial number suits a stolen key: the workload's
next certificate has another one and is let in again.

One entry a line; what follows a `#` is for people:

    spiffe://almagest.internal/worker    # runs what it should not
    serial:7f3a00c1
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge

from chassis.identity.spiffe import SpiffeId

_logger = structlog.stdlib.get_logger(__name__)
_entries = Gauge("almagest_denied_entries", "Entries of the deny list in use.")
_refusals = Counter("almagest_denied_refusals_total", "Changed deny lists that were not taken into use.")

_SERIAL = re.compile(r"serial:(?:0x)?([0-9a-f]{1,40})", re.IGNORECASE)
_Signature = tuple[int, int, int]


class InvalidDenyList(Exception):
    """A deny list that cannot be read. None is not the same as an empty one."""


@dataclass(frozen=True, slots=True)
class Denied:
    """What a deny list says."""

    spiffe_ids: frozenset[SpiffeId] = frozenset()
    serials: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Denied":
        """What the lines say.

        Raises:
            InvalidDenyList: One of them says nothing that is known. Half a list is none: an entry that is misspelt lets
                somebody in.
        """
        ids: set[SpiffeId] = set()
        serials: set[int] = set()
        for number, line in enumerate(text.splitlines(), 1):
            entry = line.partition("#")[0].strip()
            if not entry:
                continue
            serial = _SERIAL.fullmatch(entry)
            try:
                if serial is not None:
                    serials.add(int(serial[1], 16))
                else:
                    ids.add(SpiffeId.parse(entry))
            except ValueError:
                raise InvalidDenyList(f"line {number} is neither spiffe://... nor serial:<hexadecimal>") from None
        return cls(frozenset(ids), frozenset(serials))


class DenyList:
    """The deny list in a file, read again when it changes; without a file, nobody is denied."""

    def __init__(self, file: Path | None = None) -> None:
        """Read the file.

        Raises:
            InvalidDenyList: It cannot be read, or not understood.
        """
        self._file = file
        self._subscribers: list[Callable[[], None]] = []
        self._seen = self._signature()
        self._denied = Denied() if file is None else _read(file)
        self._count()

    def denies(self, spiffe_id: SpiffeId, serial: int | None = None) -> bool:
        """Whether a workload is denied, or that one certificate of it."""
        denied = self._denied
        return spiffe_id in denied.spiffe_ids or (serial is not None and serial in denied.serials)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have each change told to `callback`, on the event loop. Answers what ends it."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback) if callback in self._subscribers else None

    async def watch(self, interval: float = 0.25) -> None:
        """Look every `interval` seconds whether the file has changed; never returns."""
        while True:
            await asyncio.sleep(interval)
            self.refresh()

    def refresh(self) -> bool:
        """Take the file into use if it has changed and can be read; answers whether it was.

        Until then what was denied stays denied.
        """
        signature = self._signature()
        if self._file is None or signature == self._seen:
            return False
        self._seen = signature
        try:
            denied = _read(self._file)
        except InvalidDenyList as error:
            _refusals.inc()
            _logger.error("the changed deny list is not used", problem=str(error))  # noqa: TRY400
            return False
        if denied == self._denied:
            return False
        self._denied = denied
        self._count()
        _logger.warning(
            "deny list changed",
            spiffe_ids=sorted(map(str, denied.spiffe_ids)),
            serials=[f"{serial:x}" for serial in sorted(denied.serials)],
        )
        for callback in list(self._subscribers):
            callback()
        return True

    def _count(self) -> None:
        _entries.set(len(self._denied.spiffe_ids) + len(self._denied.serials))

    def _signature(self) -> _Signature | None:
        try:
            status = None if self._file is None else self._file.stat()
        except OSError:
            return None
        return None if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)


def _read(file: Path) -> Denied:
    try:
        return Denied.parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDenyList(f"the deny list {file} cannot be read: {error}") from error
    except InvalidDenyList as error:
        raise InvalidDenyList(f"the deny list {file}: {error}") from None
