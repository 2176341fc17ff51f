"""Reading a shard whose oldest events are in files.

No query is spent on finding out whether they are: positions in a shard and revisions in a stream are dense, so what is
missing in an answer shows, and the one query where a filter would hide it tells in the same moment how far the files
reach. Events leave by the transaction that records their file, so that what was missing can then be found.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

from almagest.eventstore.v1.event_pb2 import RecordedEvent
from chassis.database.pool import Database

from event_store.adapters.encoding import decoded
from event_store.adapters.postgres.reading import EventsArchived, ReadingLog
from event_store.adapters.postgres.reading_sql import bounded
from event_store.adapters.postgres.stored import StoredRows
from event_store.application.archives import Archive, Archived, Archives, Written
from event_store.application.derived import Unreadable
from event_store.application.pages import (
    Filter,
    Page,
    PageBounds,
    StreamContent,
    StreamPage,
    StreamRange,
)
from event_store.domain.chain import StoredEvent
from event_store.domain.errors import ArchiveUnreadable, ArchivingUnderWay

_ARCHIVES: Final = "SELECT first, last, name, bytes, sha256, created_at FROM public.archives ORDER BY first"
_HOLDING: Final = "SELECT first, last, name FROM public.archives WHERE first <= $1 ORDER BY first DESC LIMIT 1"
_PLACES: Final = """
    SELECT a.first, a.name, p.first_revision, cardinality(p.places) AS events,
        p.places[greatest($2 - p.first_revision, 0) + 1 : $3 - p.first_revision + 1] AS places
    FROM public.archived_streams AS p JOIN public.archives AS a ON a.first = p.archive
    WHERE p.origin = (SELECT origin FROM public.streams WHERE stream = $1) AND p.first_revision <= $4
    ORDER BY p.first_revision DESC LIMIT 1
"""
_ROWS: Final = bounded("position > $1 AND position <= $2", "position").replace("SELECT pos", "SELECT origin, pos")
_LOCK: Final = "SELECT pg_try_advisory_lock(0x416c6d61, 0x41726368)"
_UNLOCK: Final = "SELECT pg_advisory_unlock(0x416c6d61, 0x41726368)"
_RECORD: Final = "SELECT public.archive_events($1, $2, $3, $4, $5, $6)"
_RECORD_SECONDS: Final = 300
_NOWHERE: Final = "(no directory of archives is set)"


class ArchivedLog(ReadingLog, StoredRows):
    """Reads one shard, wherever its events are."""

    def __init__(
        self, database: Database, shard: int, *, append_seconds: float = 10.0, archives: Archives | None = None
    ) -> None:
        super().__init__(database, shard, append_seconds=append_seconds)
        self._archives = archives

    @property
    def files(self) -> Archives:
        """Where the files are.

        Raises:
            ArchiveUnreadable: That is not known.
        """
        if self._archives is None:
            raise ArchiveUnreadable(_NOWHERE, "cannot be read")
        return self._archives

    async def page(self, *, after: int, until: int, kept: Filter, bounds: PageBounds, limit: int) -> Page:
        """The events after a position that the filter keeps; see `pages.ReadableLog`."""
        try:
            return await super().page(after=after, until=until, kept=kept, bounds=bounds, limit=limit)
        except EventsArchived:
            return await self._archived_page(after, until, kept, bounds, limit)

    async def _archived_page(self, after: int, until: int, kept: Filter, bounds: PageBounds, limit: int) -> Page:
        holding = await self._holding(after + 1)
        if holding is None:
            raise ArchiveUnreadable(_NOWHERE, f"does not hold position {after + 1}")
        sieve = kept.sieve()
        end = min(until, holding["last"], after + bounds.window)
        position = after
        found: list[Any] = []
        while position < end and not found:
            for archived in await self.files.piece(holding["name"], position + 1):
                event = archived.event
                if position < event.position <= end:
                    position = event.position
                    if sieve is None or sieve(event):
                        found.append(event)
                        if len(found) >= limit:
                            break
        return Page(found, position)

    async def _holding(self, position: int) -> Any:
        """The file that holds a position; None when it is not archived."""
        async with self._asking() as connection:
            row: Any = await connection.fetchrow(_HOLDING, position)
        return row if row is not None and row["last"] >= position else None

    async def stream_page(
        self, stream: str, *, first: int, last: int, backwards: bool, bounds: PageBounds
    ) -> StreamPage:
        """The events of a stream between two revisions; see `pages.ReadableLog`."""
        page = await super().stream_page(stream, first=first, last=last, backwards=backwards, bounds=bounds)
        if page.events and page.events[0].revision == (last if backwards else first):
            more = page.more or (backwards and page.events[-1].revision > first)
            return StreamPage(page.events, more)
        return await self._archived_stream_page(stream, first, last, backwards=backwards, bounds=bounds)

    async def _archived_stream_page(
        self, stream: str, first: int, last: int, *, backwards: bool, bounds: PageBounds
    ) -> StreamPage:
        begin = last if backwards else first
        low, high = (max(first, last - bounds.events + 1), last) if backwards else (first, last)
        async with self._asking() as connection:
            row: Any = await connection.fetchrow(_PLACES, stream, low, high, begin)
        if row is None or begin >= row["first_revision"] + row["events"]:
            raise ArchiveUnreadable(_NOWHERE, f"does not hold revision {begin} of {stream}")
        places: Sequence[int] = row["places"]
        events: list[RecordedEvent] = []
        size = 0
        piece: dict[int, Archived] = {}
        for place in reversed(places) if backwards else places:
            position = row["first"] + place
            if position not in piece:
                piece = {one.event.position: one for one in await self.files.piece(row["name"], position)}
            encoded = piece[position].event.encoded
            events.append(decoded(encoded))
            size += len(encoded)
            if size >= bounds.bytes or len(events) >= bounds.events:
                break
        return StreamPage(events, more=events[-1].revision != (first if backwards else last))

    async def streams(
        self, ranges: Sequence[StreamRange], *, max_events: int, max_bytes: int
    ) -> Sequence[StreamContent] | None:
        """Several streams; see `pages.ReadableLog`. What is archived of them is read one after the other."""
        contents = await super().streams(ranges, max_events=max_events, max_bytes=max_bytes)
        if contents is None:
            return None
        left = max_events - sum(len(content.events) for content in contents)
        whole: list[StreamContent] = []
        for wanted, content in zip(ranges, contents, strict=True):
            if content.last_revision is None or content.ended:
                whole.append(content)
                continue
            present = content.events[0].revision if content.events else content.last_revision + 1
            missing = present - content.first_revision
            if missing <= 0:
                whole.append(content)
                continue
            left -= missing
            if left < 0:
                return None
            before: list[RecordedEvent] = []
            first = content.first_revision
            while first < present:
                page = await self._archived_stream_page(
                    wanted.stream, first, present - 1, backwards=False, bounds=PageBounds()
                )
                before.extend(page.events)
                first = before[-1].revision + 1
            whole.append(content._replace(events=[*before, *content.events]))
        return whole

    async def stored(self, *, after: int, until: int, limit: int, max_bytes: int) -> Sequence[StoredEvent]:
        """The first events after a position, with all that is stored of them; see `verify.StoredLog`."""
        rows = await super().stored(after=after, until=until, limit=limit, max_bytes=max_bytes)
        if after >= until or (rows and rows[0].position == after + 1):
            return rows
        holding = await self._holding(after + 1)
        if holding is None:
            return rows
        try:
            piece = await self.files.piece(holding["name"], after + 1)
        except ArchiveUnreadable as error:
            raise Unreadable(str(error)) from error
        return [self.files.stored(one) for one in piece if after < one.event.position <= until][:limit]

    async def rows(self, *, after: int, until: int, limit: int, max_bytes: int) -> Sequence[StoredEvent]:
        """The rows after a position; see `archives.ArchivableLog`."""
        return await StoredRows.stored(self, after=after, until=until, limit=limit, max_bytes=max_bytes)

    async def archives(self) -> Sequence[Archive]:
        """What is archived, in the order of positions."""
        async with self._asking() as connection:
            rows = await connection.fetch(_ARCHIVES)
        return [Archive(*row) for row in rows]

    async def archivable(self, first: int, last: int) -> AsyncGenerator[Sequence[Archived], None]:
        """The rows of a range, as a file keeps them; see `archives.ArchivableLog`."""
        bounds = PageBounds()
        position = first - 1
        while position < last:
            async with self._asking() as connection:
                rows = await connection.fetch(_ROWS, position, last, bounds.events, bounds.bytes)
            if not rows or rows[0]["position"] != position + 1:
                raise ArchivingUnderWay(self._shard)
            position = rows[-1]["position"]
            yield [Archived(self._stored(row), row["origin"], len(row["metadata"])) for row in rows]

    @asynccontextmanager
    async def archiving(self) -> AsyncGenerator["_Session", None]:
        """The right to archive; see `archives.ArchivableLog`. It belongs to a connection, as does what is done by it:
        who has lost the one cannot do the other.
        """
        async with self._asking() as connection:
            if not await connection.fetchval(_LOCK):
                raise ArchivingUnderWay(self._shard)
            try:
                yield _Session(connection)
            finally:
                if not connection.is_closed():
                    await connection.fetchval(_UNLOCK)


class _Session:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def archives(self) -> Sequence[Archive]:
        return [Archive(*row) for row in await self._connection.fetch(_ARCHIVES)]

    async def recorded_at(self, position: int) -> datetime | None:
        return await self._connection.fetchval("SELECT recorded_at FROM public.events WHERE position = $1", position)

    async def record(self, first: int, last: int, name: str, written: Written, last_hash: bytes) -> Archive:
        async with self._connection.transaction():
            await self._connection.execute(f"SET LOCAL statement_timeout = '{_RECORD_SECONDS}s'")
            made_at = await self._connection.fetchval(
                _RECORD, first, last, name, written.size, written.sha256, last_hash, timeout=_RECORD_SECONDS
            )
        return Archive(first, last, name, written.size, written.sha256, made_at)
