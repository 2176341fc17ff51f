"""Archives: old events in files, from which they are read as if they were still in the database.

Events leave by whole partitions, the oldest first, so that the files follow each other without a gap and one position
tells where each event is. A file is written under another name, synced, given its name, read back and compared with the
rows; only then the rows are deleted, by the transaction that records the file. Whatever ends this in between leaves the
rows where they are, and perhaps a file that nobody knows of, which the next run removes.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from event_store.application.pages import Stored
from event_store.domain.chain import StoredEvent
from event_store.domain.errors import ArchiveUnreadable


class Archived(NamedTuple):
    """An event as a file keeps it: as its readers get it, and what they do not get."""

    event: Stored
    origin: int
    metadata_bytes: int
    """How many bytes at the end of its form on the wire are its metadata, as they were stored."""


class Written(NamedTuple):
    """A file that is in place."""

    size: int
    sha256: bytes


class Archive(NamedTuple):
    """A file of consecutive events."""

    first: int
    last: int
    name: str
    size: int
    sha256: bytes
    created_at: datetime


class Archives(Protocol):
    """Where the files of one shard are kept."""

    def name_of(self, first: int, last: int) -> str:
        """What the file of a range of positions is called."""
        ...

    async def write(self, name: str, pieces: AsyncIterator[Sequence[Archived]]) -> Written:
        """Make a file, durably and all at once, in the place of any other of this name."""
        ...

    async def piece(self, name: str, position: int) -> Sequence[Archived]:
        """Consecutive events of a file, one of which is at this position.

        Raises:
            ArchiveUnreadable: The file is not there, or not what was written.
        """
        ...

    async def check(self, name: str, written: Written) -> None:
        """See that a file is still what was written.

        Raises:
            ArchiveUnreadable: It is not.
        """
        ...

    async def tidy(self, known: Collection[str]) -> None:
        """Remove the files that are not among those known: a run that did not end left them."""
        ...

    def stored(self, event: Archived) -> StoredEvent:
        """An event with all its columns."""
        ...


class Session(Protocol):
    """The right to archive a shard, which one at a time has."""

    async def archives(self) -> Sequence[Archive]:
        """What is archived, in the order of positions."""
        ...

    async def recorded_at(self, position: int) -> datetime | None:
        """When an event that is not archived was recorded; None when there is none at this position."""
        ...

    async def record(self, first: int, last: int, name: str, written: Written, last_hash: bytes) -> Archive:
        """Record a file and delete the rows that it holds, in one transaction."""
        ...


class ArchivableLog(Protocol):
    """A shard whose events can be archived."""

    def archiving(self) -> AbstractAsyncContextManager[Session]:
        """Begin.

        Raises:
            ArchivingUnderWay: Somebody else has begun.
        """
        ...

    def archivable(self, first: int, last: int) -> AsyncGenerator[Sequence[Archived], None]:
        """The rows of a range of positions, as a file keeps them."""
        ...

    async def rows(self, *, after: int, until: int, limit: int, max_bytes: int) -> Sequence[StoredEvent]:
        """The rows after a position, with all their columns."""
        ...


async def archive(
    log: ArchivableLog,
    files: Archives,
    *,
    size: int,
    until: int,
    older_than: timedelta | None,
    now: datetime,
) -> AsyncGenerator[Archive, None]:
    """Move whole partitions of `size` positions into files: those up to `until` (0: any), of which the last event is
    older than that (None: any).

    Raises:
        ArchivingUnderWay: Somebody else does.
        ArchiveUnreadable: What was written does not read as what should have been. Its rows are still there.
    """
    async with log.archiving() as session:
        known = await session.archives()
        await files.tidy([one.name for one in known])
        archived = known[-1].last if known else 0
        while True:
            first, last = archived + 1, archived + size
            recorded_at = await session.recorded_at(last)
            if recorded_at is None or (until and last > until):
                return
            if older_than is not None and recorded_at > now - older_than:
                return
            name = files.name_of(first, last)
            written = await files.write(name, log.archivable(first, last))
            last_hash = await _compare(log, files, name, written, first, last)
            yield await session.record(first, last, name, written, last_hash)
            archived = last


async def _compare(log: ArchivableLog, files: Archives, name: str, written: Written, first: int, last: int) -> bytes:
    """Read a file back and compare it with the rows, column by column; answers the hash of the last event."""
    await files.check(name, written)
    position = first - 1
    last_hash = b""
    while position < last:
        piece = [files.stored(event) for event in await files.piece(name, position + 1)]
        rows = await log.rows(after=position, until=piece[-1].position, limit=len(piece), max_bytes=2**62)
        if list(rows) != piece or piece[0].position != position + 1:
            raise ArchiveUnreadable(name, f"does not read as the events after {position}")
        position, last_hash = piece[-1].position, piece[-1].hash
    return last_hash
