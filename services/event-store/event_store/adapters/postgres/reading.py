"""Reading one shard, by pages that are bounded in rows and bytes, along an index."""

from collections.abc import Sequence
from datetime import UTC, datetime
from sys import intern
from typing import Any, Final

from almagest.eventstore.v1.event_pb2 import RecordedEvent
from almagest.eventstore.v1.event_store_pb2 import SubscribeResponse
from chassis.database.pool import Database

from event_store.adapters.postgres.connection import ShardDatabase
from event_store.application.pages import (
    Filter,
    Newest,
    Original,
    Page,
    PageBounds,
    Stored,
    StreamContent,
    StreamPage,
    StreamRange,
)

_HEAD: Final = "SELECT position FROM public.head"
_STREAM: Final = "SELECT revision FROM public.streams WHERE stream = $1"
_SIZE: Final = "octet_length(payload) + octet_length(metadata) + 250"
_COLUMNS: Final = (
    "position, stream, revision, bucket, category, event_id::text AS event_id, type, payload, metadata, recorded_at,"
    f" hash, original_shard, original_position, {_SIZE} AS size"
)
_STREAMS: Final = f"""
    WITH wanted AS (
        SELECT w.slot, w.from_revision, s.origin, s.revision AS last_revision
        FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS w (stream, from_revision, slot)
        JOIN public.streams AS s ON s.stream = w.stream
    )
    SELECT * FROM (
        SELECT
            w.slot, w.last_revision, e.*,
            sum(e.size) OVER (ORDER BY w.slot, e.revision ROWS UNBOUNDED PRECEDING) AS total
        FROM wanted AS w
        LEFT JOIN LATERAL (
            SELECT {_COLUMNS} FROM public.events
            WHERE origin = w.origin AND revision BETWEEN w.from_revision AND w.last_revision
            ORDER BY revision LIMIT $3
        ) AS e ON true
        ORDER BY w.slot, e.revision
        LIMIT $3
    ) AS page
    WHERE coalesce(total - size, 0) <= $4
"""  # noqa: S608 - only our own constants


def _bounded(where: str, order: str) -> str:
    """A query for rows in order until they are so many ($3), or so large ($4): with the one that passes the mark the
    page is full, so there is always a first.
    """
    page = (
        f"SELECT {_COLUMNS}, sum({_SIZE}) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS total"  # noqa: S608
        f" FROM public.events WHERE {where} ORDER BY {order} LIMIT $3"
    )
    return f"SELECT * FROM ({page}) AS page WHERE total - size < $4"  # noqa: S608


_STREAM_WHERE: Final = "origin = (SELECT origin FROM public.streams WHERE stream = $5) AND revision BETWEEN $1 AND $2"
_FORWARDS: Final = _bounded(_STREAM_WHERE, "revision")
_BACKWARDS: Final = _bounded(_STREAM_WHERE, "revision DESC")
_AFTER: Final = _bounded("position > $1", "position").replace("$3", "$2").replace("$4", "$3")
_NEWEST: Final = (
    f"SELECT h.position AS head, e.* FROM public.head AS h LEFT JOIN LATERAL ({_AFTER}) AS e ON true"  # noqa: S608
    " ORDER BY e.position"
)
# The tags of `ReadAllResponse.events` and `SubscribeResponse.events`, and of `RecordedEvent.metadata`.
_ENTRY: Final = bytes((SubscribeResponse.EVENTS_FIELD_NUMBER << 3 | 2,))
_METADATA: Final = bytes((RecordedEvent.METADATA_FIELD_NUMBER << 3 | 2,))
_SEVEN_BITS: Final = 0x7F
_MORE: Final = 0x80
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ReadingLog(ShardDatabase):
    """Reads one shard; see `reads.ReadableLog`."""

    def __init__(self, database: Database, shard: int, *, append_seconds: float = 10.0) -> None:
        super().__init__(database, shard, append_seconds=append_seconds)
        self._recorded: tuple[datetime, tuple[int, int]] = (_EPOCH, (0, 0))

    async def head(self) -> int:
        """The last committed position."""
        async with self._asking() as connection:
            return await connection.fetchval(_HEAD)

    async def newest(self, *, after: int, bounds: PageBounds) -> Newest:
        """The events after a position, whatever they are, and the head; see `pages.ReadableLog`."""
        async with self._asking() as connection:
            rows = await connection.fetch(_NEWEST, after, bounds.events, bounds.bytes)
        return Newest(rows[0]["head"], [self._stored(row) for row in rows if row["position"] is not None])

    async def page(self, *, after: int, until: int, kept: Filter, bounds: PageBounds, limit: int) -> Page:
        """The events after a position that the filter keeps; see `reads.ReadableLog`."""
        end = min(until, after + bounds.window)
        rows_limit = min(limit, bounds.events)
        conditions = ["position > $1 AND position <= $2"]
        filters: list[Sequence[str] | Sequence[int]] = []
        for column, values in (("category", kept.categories), ("type", kept.types), ("bucket", kept.buckets)):
            if values:
                filters.append(values)
                conditions.append(f"{column} = ANY(${len(filters) + 4})")
        query = _bounded(" AND ".join(conditions), "position")
        async with self._asking() as connection:
            rows = await connection.fetch(query, after, end, rows_limit, bounds.bytes, *filters)
        cut = len(rows) == rows_limit or (bool(rows) and rows[-1]["total"] >= bounds.bytes)
        return Page([self._stored(row) for row in rows], rows[-1]["position"] if cut else end)

    async def last_revision(self, stream: str) -> int | None:
        """The last revision of a stream; None when it does not exist."""
        async with self._asking() as connection:
            return await connection.fetchval(_STREAM, stream)

    async def stream_page(
        self, stream: str, *, first: int, last: int, backwards: bool, bounds: PageBounds
    ) -> StreamPage:
        """The events of a stream between two revisions; see `reads.ReadableLog`."""
        async with self._asking() as connection:
            rows = await connection.fetch(
                _BACKWARDS if backwards else _FORWARDS, first, last, bounds.events, bounds.bytes, stream
            )
        cut = len(rows) == bounds.events or (bool(rows) and rows[-1]["total"] >= bounds.bytes)
        return StreamPage([self._recorded_event(row) for row in rows], cut)

    async def streams(
        self, ranges: Sequence[StreamRange], *, max_events: int, max_bytes: int
    ) -> Sequence[StreamContent] | None:
        """Several streams at one moment; see `reads.ReadableLog`."""
        async with self._asking() as connection:
            rows = await connection.fetch(
                _STREAMS,
                [r.stream for r in ranges],
                [r.from_revision for r in ranges],
                max_events + len(ranges) + 1,
                max_bytes,
            )
        events: list[list[RecordedEvent]] = [[] for _ in ranges]
        ends: list[int | None] = [None] * len(ranges)
        count = 0
        for row in rows:
            slot = row["slot"] - 1
            ends[slot] = row["last_revision"]
            if row["position"] is None:
                continue
            count += 1
            if count > max_events or row["total"] > max_bytes:
                return None
            events[slot].append(self._recorded_event(row))
        return [StreamContent(found, end) for found, end in zip(events, ends, strict=True)]

    def _stored(self, row: Any) -> Stored:
        """The event with its form on the wire, to which the metadata are added as the bytes that they are stored as."""
        metadata: bytes = row["metadata"]
        event = self._without_metadata(row).SerializeToString()
        entry = b"".join((event, _METADATA, _varint(len(metadata)), metadata))
        shard = row["original_shard"]
        return Stored(
            row["position"],
            intern(row["category"]),
            intern(row["type"]),
            row["bucket"],
            None if shard is None else Original(shard, row["original_position"]),
            b"".join((_ENTRY, _varint(len(entry)), entry)),
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


def _varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    digits = bytearray()
    while number > _SEVEN_BITS:
        digits.append(number & _SEVEN_BITS | _MORE)
        number >>= 7
    digits.append(number)
    return bytes(digits)
