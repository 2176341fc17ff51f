"""Reading one shard, by pages that are bounded in rows and bytes, along an index."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from sys import intern
from typing import Any, Final

from almagest.eventstore.v1.event_pb2 import RecordedEvent
from chassis.database.pool import Database

from event_store.adapters.encoding import encoded
from event_store.adapters.postgres.connection import ShardDatabase
from event_store.adapters.postgres.reading_sql import (
    BACKWARDS,
    EXTENT,
    FORWARDS,
    HEAD,
    NEWEST,
    PUT_SNAPSHOTS,
    STREAMS,
    STREAMS_AND_SNAPSHOTS,
    page_query,
)
from event_store.application.pages import (
    Filter,
    Newest,
    NewSnapshot,
    Original,
    Page,
    PageBounds,
    Snapshot,
    Stored,
    StreamContent,
    StreamExtent,
    StreamPage,
    StreamRange,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class EventsArchived(Exception):
    """What was to be read is not in the database any more."""


class ReadingLog(ShardDatabase):
    """Reads one shard; see `pages.ReadableLog`."""

    def __init__(self, database: Database, shard: int, *, append_seconds: float = 10.0) -> None:
        super().__init__(database, shard, append_seconds=append_seconds)
        self._recorded: tuple[datetime, tuple[int, int]] = (_EPOCH, (0, 0))

    async def head(self) -> int:
        """The last committed position."""
        async with self._asking() as connection:
            return await connection.fetchval(HEAD)

    async def newest(self, *, after: int, bounds: PageBounds) -> Newest:
        """The events after a position, whatever they are, and the head; see `pages.ReadableLog`."""
        async with self._asking() as connection:
            rows = await connection.fetch(NEWEST, after, bounds.events, bounds.bytes)
        return Newest(rows[0]["head"], [self._stored(row) for row in rows if row["position"] is not None])

    async def page(self, *, after: int, until: int, kept: Filter, bounds: PageBounds, limit: int) -> Page:
        """The events after a position that the filter keeps; see `pages.ReadableLog`."""
        end = min(until, after + bounds.window)
        rows_limit = min(limit, bounds.events)
        columns: list[str] = []
        filters: list[Sequence[str] | Sequence[int]] = []
        for column, values in (("category", kept.categories), ("type", kept.types), ("bucket", kept.buckets)):
            if values:
                columns.append(column)
                filters.append(values)
        async with self._asking() as connection:
            rows = await connection.fetch(page_query(*columns), after, end, rows_limit, bounds.bytes, *filters)
        if rows[0]["archived"] > after:
            raise EventsArchived
        if rows[0]["position"] is None:
            return Page((), end)
        cut = len(rows) == rows_limit or rows[-1]["total"] >= bounds.bytes
        return Page([self._stored(row) for row in rows], rows[-1]["position"] if cut else end)

    async def stream_extent(self, stream: str) -> StreamExtent | None:
        """What there is of a stream to read; see `pages.ReadableLog`."""
        async with self._asking() as connection:
            row = await connection.fetchrow(EXTENT, stream)
        if row is None:
            return None
        return StreamExtent(row["first_revision"], row["last_revision"], row["too_old"], row["ended"])

    async def stream_page(
        self, stream: str, *, first: int, last: int, backwards: bool, bounds: PageBounds
    ) -> StreamPage:
        """The events of a stream between two revisions; see `pages.ReadableLog`."""
        async with self._asking() as connection:
            rows = await connection.fetch(
                BACKWARDS if backwards else FORWARDS, first, last, bounds.events, bounds.bytes, stream
            )
        cut = len(rows) == bounds.events or (bool(rows) and rows[-1]["total"] >= bounds.bytes)
        return StreamPage([self._recorded_event(row) for row in rows], cut)

    async def streams(
        self, ranges: Sequence[StreamRange], *, max_events: int, max_bytes: int
    ) -> Sequence[StreamContent] | None:
        """Several streams at one moment; see `pages.ReadableLog`."""
        kinds = [r.snapshot_kind for r in ranges]
        asked = [[r.stream for r in ranges], [r.from_revision for r in ranges], max_events + len(ranges) + 1, max_bytes]
        async with self._asking() as connection:
            if any(kinds):
                rows = await connection.fetch(STREAMS_AND_SNAPSHOTS, *asked, kinds)
            else:
                rows = await connection.fetch(STREAMS, *asked)
        contents = [StreamContent((), None)] * len(ranges)
        events: list[list[RecordedEvent]] = [[] for _ in ranges]
        count = 0
        for row in rows:
            slot: int = row["slot"] - 1
            if contents[slot].last_revision is None:
                contents[slot] = _content(row, kinds[slot])
            if row["position"] is None:
                continue
            count += 1
            if count > max_events or row["total"] > max_bytes:
                return None
            events[slot].append(self._recorded_event(row))
        return [content._replace(events=found) for content, found in zip(contents, events, strict=True)]

    async def put_snapshots(self, snapshots: Sequence[NewSnapshot]) -> Collection[int]:
        """Keep snapshots; see `pages.ReadableLog`."""
        async with self._asking() as connection:
            rows = await connection.fetch(PUT_SNAPSHOTS, *map(list, zip(*snapshots, strict=True)))
        return [row["slot"] - 1 for row in rows]

    def _stored(self, row: Any) -> Stored:
        shard = row["original_shard"]
        return Stored(
            row["position"],
            intern(row["category"]),
            intern(row["type"]),
            row["bucket"],
            None if shard is None else Original(shard, row["original_position"]),
            encoded(self._without_metadata(row), row["metadata"]),
        )

    def _recorded_event(self, row: Any) -> RecordedEvent:
        event = self._without_metadata(row)
        event.metadata.ParseFromString(row["metadata"])
        return event

    def _without_metadata(self, row: Any) -> RecordedEvent:
        event = RecordedEvent(
            shard=self._shard,
            position=row["position"],
            stream=row["stream"],
            revision=row["revision"],
            bucket=row["bucket"],
            event_id=row["event_id"],
            type=row["type"],
            payload=row["payload"],
            hash=row["hash"],
        )
        if row["original_shard"] is not None:
            event.original.shard, event.original.position = row["original_shard"], row["original_position"]
        recorded_at: datetime = row["recorded_at"]
        known, parts = self._recorded
        if recorded_at != known:
            # A whole batch has one time, so the last answer is nearly always the next as well.
            since = recorded_at - _EPOCH
            parts = (since.days * 86_400 + since.seconds, since.microseconds * 1_000)
            self._recorded = (recorded_at, parts)
        event.recorded_at.seconds, event.recorded_at.nanos = parts
        return event


def _content(row: Any, kind: str) -> StreamContent:
    snapshot = None
    if row["snapshot_revision"] is not None:
        snapshot = Snapshot(kind, row["snapshot_revision"], row["snapshot_payload"], row["snapshot_recorded_at"])
    return StreamContent((), row["last_revision"], row["first_revision"], snapshot, row["ended"], row["too_old"])
