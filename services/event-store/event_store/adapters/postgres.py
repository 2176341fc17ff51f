"""The log of one shard in Postgres, by asyncpg directly: these are the hot paths.

Writing is one call of `append_batch` (migrations/sql): one round trip, and the transaction begins and ends with the
statement, so there is none that this process could leave open. Reading goes by pages, bounded in rows and bytes,
along an index.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
from almagest.eventstore.v1.event_pb2 import RecordedEvent
from chassis.database.pool import Database
from chassis.errors import Unavailable

from event_store.application.append_loop import NotWritten, Outcome, Refused, SessionLost
from event_store.application.reads import Filter, Page, PageBounds, StreamContent, StreamPage, StreamRange
from event_store.domain.append import Append, Appended, Committed
from event_store.domain.errors import AppendIdReused, LogError, RevisionConflict

_WRITTEN: Final = 0
_REPLAYED: Final = 1
_CONFLICT: Final = 2

_APPEND: Final = (
    "SELECT outcomes, first_revisions, last_revisions, positions, new_head"
    " FROM public.append_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
)
# A session of ours only, and never this one. Should the number meanwhile belong to another session of ours, that one
# is settled in the same way.
_END_SESSION: Final = (
    "SELECT coalesce(bool_and(pg_terminate_backend(pid, 2000)), true) FROM pg_stat_activity"
    " WHERE pid = $1 AND pid <> pg_backend_pid() AND usename = current_user AND datname = current_database()"
)
_COMMITTED: Final = (
    "SELECT append_id::text AS append_id, stream, fingerprint, first_revision, last_revision, position"
    " FROM public.appends WHERE append_id = ANY($1::uuid[])"
)
_HEAD: Final = "SELECT position FROM public.head"
_STREAM: Final = "SELECT revision FROM public.streams WHERE stream = $1"
_SIZE: Final = "octet_length(payload) + octet_length(metadata) + 250"
_COLUMNS: Final = (
    "position, stream, revision, bucket, event_id::text AS event_id, type, payload, metadata, recorded_at,"
    f" {_SIZE} AS size"
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

# What the server says when it cannot write now, by class: the transaction is over, and nothing of it was kept.
_PASSING: Final = frozenset({"08", "25", "40", "53", "55", "57", "58"})
# What it says while it ends our session.
_ENDED: Final = frozenset({"57P01", "57P02", "57P03", "57P05"})
_WRONG_DATA: Final = frozenset({"22", "23", "54"})


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
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class PostgresLog:
    """One shard. `append_seconds` is how long a transaction may take before its connection is given up."""

    def __init__(self, database: Database, shard: int, *, append_seconds: float = 10.0) -> None:
        self._database = database
        self._shard = shard
        self._append_seconds = append_seconds
        self._recorded: tuple[datetime, tuple[int, int]] = (_EPOCH, (0, 0))

    async def append(self, appends: Sequence[Append]) -> Outcome:
        """Write a batch in one transaction; see `append_loop.Log`."""
        arguments = _columns(appends)
        session = 0
        try:
            async with self._connection() as connection:
                session = connection.get_server_pid()
                async with asyncio.timeout(self._append_seconds):
                    row = await connection.fetchrow(_APPEND, *arguments)
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
            # TimeoutError is an OSError: the statement was given up, and its connection with it.
            if not session:
                raise NotWritten from error
            raise SessionLost(session) from error
        except asyncpg.PostgresError as error:
            raise _failure(error, session) from error
        assert row is not None  # noqa: S101 - a function with OUT parameters answers one row
        answers = [
            self._answer(append, *outcome)
            for append, *outcome in zip(
                appends, row["outcomes"], row["first_revisions"], row["last_revisions"], row["positions"], strict=True
            )
        ]
        return Outcome(answers, row["new_head"])

    @staticmethod
    def _answer(append: Append, outcome: int, first: int, last: int, position: int) -> Appended | LogError:
        if outcome == _WRITTEN:
            return Appended(first, last, position)
        if outcome == _REPLAYED:
            return Appended(first, last, position, replayed=True)
        if outcome == _CONFLICT:
            return RevisionConflict(append.stream, last)
        return AppendIdReused(append.append_id)

    async def settle(self, session: int, append_ids: Sequence[str]) -> Mapping[str, Committed]:
        """End a lost session, then find what is committed; see `append_loop.Log`."""
        async with self._asking() as connection:
            if not await connection.fetchval(_END_SESSION, session):
                raise NotWritten
            rows = await connection.fetch(_COMMITTED, append_ids)
        return {row["append_id"]: _as_committed(row) for row in rows}

    async def committed(self, append_id: str, stream: str) -> Committed | None:
        """What was answered to an append; None when none with this id was ever committed to this stream."""
        async with self._asking() as connection:
            row = await connection.fetchrow(_COMMITTED, [append_id])
        return _as_committed(row) if row is not None and row["stream"] == stream else None

    async def head(self) -> int:
        """The last committed position."""
        async with self._asking() as connection:
            return await connection.fetchval(_HEAD)

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
        return Page([self._recorded_event(row) for row in rows], rows[-1]["position"] if cut else end)

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

    def _recorded_event(self, row: Any) -> RecordedEvent:
        event = RecordedEvent(
            shard=self._shard,
            position=row["position"],
            stream=row["stream"],
            revision=row["revision"],
            bucket=row["bucket"],
            event_id=row["event_id"],
            type=row["type"],
            payload=row["payload"],
        )
        event.metadata.ParseFromString(row["metadata"])
        recorded_at: datetime = row["recorded_at"]
        known, parts = self._recorded
        if recorded_at != known:
            # A whole batch has one time, so the last answer is nearly always the next as well.
            since = recorded_at - _EPOCH
            parts = (since.days * 86_400 + since.seconds, since.microseconds * 1_000)
            self._recorded = (recorded_at, parts)
        event.recorded_at.seconds, event.recorded_at.nanos = parts
        return event

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Any, None]:
        try:
            async with self._database.connection() as connection:
                yield connection
        except Unavailable as error:
            raise NotWritten from error

    @asynccontextmanager
    async def _asking(self) -> AsyncGenerator[Any, None]:
        """A connection to read by. Whatever keeps the shard from answering is `NotWritten`: reading writes nothing."""
        try:
            async with self._connection() as connection:
                yield connection
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
            raise NotWritten from error
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "")[:2] in _PASSING:
                raise NotWritten from error
            raise


def _columns(appends: Sequence[Append]) -> tuple[list[Any], ...]:
    """The appends as the arguments of `append_batch`. Ids and streams that come more than once get one slot."""
    id_slots: dict[str, int] = {}
    stream_slots: dict[str, int] = {}
    buckets: list[int] = []
    categories: list[str] = []
    id_of: list[int] = []
    stream_of: list[int] = []
    indexes: list[int] = []
    types: list[str] = []
    event_ids: list[str] = []
    payloads: list[bytes] = []
    metadatas: list[bytes] = []
    for index, append in enumerate(appends, 1):
        id_of.append(id_slots.setdefault(append.append_id, len(id_slots) + 1))
        slot = stream_slots.get(append.stream)
        if slot is None:
            slot = stream_slots[append.stream] = len(stream_slots) + 1
            buckets.append(append.bucket)
            categories.append(append.category)
        stream_of.append(slot)
        for event_id, name, payload, metadata in append.events:
            indexes.append(index)
            event_ids.append(event_id)
            types.append(name)
            payloads.append(payload)
            metadatas.append(metadata)
    return (
        list(id_slots),
        list(stream_slots),
        buckets,
        categories,
        id_of,
        stream_of,
        [append.expected for append in appends],
        [append.fingerprint for append in appends],
        [len(append.events) for append in appends],
        indexes,
        types,
        event_ids,
        payloads,
        metadatas,
    )


def _failure(error: asyncpg.PostgresError, session: int) -> Exception:
    state = error.sqlstate or ""
    if state in _ENDED:
        return SessionLost(session) if session else NotWritten()
    if state[:2] in _PASSING:
        return NotWritten()
    if state[:2] in _WRONG_DATA:
        return Refused()
    return error


def _as_committed(row: Any) -> Committed:
    appended = Appended(row["first_revision"], row["last_revision"], row["position"])
    return Committed(row["append_id"], row["stream"], row["fingerprint"], appended)
