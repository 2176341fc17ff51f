"""The tables of one shard beside its events, for those who compare them with the events."""

import json
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from event_store.adapters.postgres.archived import ArchivedLog
from event_store.application.archives import Archive, Written
from event_store.application.derived import (
    LONGEST,
    AppendRow,
    Copy,
    Fault,
    SettingEnds,
    SettingRow,
    StreamEnds,
    StreamRow,
    Unreadable,
)
from event_store.domain.chain import StoredEvent
from event_store.domain.errors import ArchiveUnreadable

_STREAMS: Final = "SELECT stream, origin, revision, bucket FROM public.streams WHERE stream = ANY($1::text[])"
# What is archived has no rows in events: its place is known by the files, which `misplaced` and `archive_faults` check.
_STREAM_ENDS: Final = """
    SELECT
        s.stream, s.origin, s.revision, s.bucket,
        coalesce(f.stream = s.stream AND f.revision = 0, a.first_revision = 0, false) AS begins,
        coalesce(l.stream = s.stream, a.last_revision = s.revision, false) AND n.position IS NULL AS ends
    FROM (
        SELECT stream, origin, revision, bucket FROM public.streams WHERE stream > $1 ORDER BY stream LIMIT $2
    ) AS s
    LEFT JOIN public.events AS f ON f.position = s.origin
    LEFT JOIN public.events AS l ON l.origin = s.origin AND l.revision = s.revision
    LEFT JOIN public.events AS n ON n.origin = s.origin AND n.revision = s.revision + 1
    LEFT JOIN LATERAL (
        SELECT
            min(p.first_revision) AS first_revision, max(p.first_revision + cardinality(p.places) - 1) AS last_revision
        FROM public.archived_streams AS p WHERE p.origin = s.origin
    ) AS a ON true
    ORDER BY s.stream
"""
_DOUBLED: Final = """
    SELECT max(stream) AS stream, origin, max(revision) AS revision, max(bucket) AS bucket
    FROM public.streams GROUP BY origin HAVING count(*) > 1 ORDER BY origin LIMIT 1
"""
_APPEND: Final = "append_id::text AS append_id, fingerprint, stream, first_revision, last_revision, position, also"
_APPENDS_AT: Final = f"SELECT {_APPEND} FROM public.appends WHERE position > $1 AND position <= $2 ORDER BY position"  # noqa: S608
_APPENDS_BY_ID: Final = f"SELECT {_APPEND} FROM public.appends WHERE append_id = ANY($1::uuid[])"  # noqa: S608
_APPENDS_OF: Final = """
    SELECT a.append_id::text AS append_id
    FROM unnest($1::text[], $2::bigint[]) AS w (stream, revision)
    JOIN public.appends AS a ON a.stream = w.stream AND a.last_revision = w.revision
    WHERE a.position > $3 AND a.position <= $4
"""
_ASTRAY: Final = f"""
    SELECT {_APPEND} FROM public.appends
    WHERE position < 1 OR position > (SELECT h.position FROM public.head AS h) LIMIT 1
"""  # noqa: S608
_SETTING: Final = "m.stream, m.bucket, m.revision, m.max_count, m.max_age, m.tombstoned"
_SETTINGS: Final = f"SELECT {_SETTING} FROM public.stream_metadata AS m WHERE m.stream = ANY($1::text[])"  # noqa: S608
_SETTING_ENDS: Final = f"""
    SELECT
        {_SETTING}, s.bucket AS stream_bucket, s.revision AS last_revision,
        -- A bucket that cannot be is held, so that what is said of it must hold.
        coalesce(substring(h.held::text FROM coalesce(s.bucket, m.bucket) + 1 FOR 1) <> '0', true) AS held
    FROM (SELECT * FROM public.stream_metadata WHERE stream > $1 ORDER BY stream LIMIT $2) AS m
    LEFT JOIN public.streams AS s ON s.stream = 'metadata-' || m.stream
    CROSS JOIN public.head AS h
    ORDER BY m.stream
"""  # noqa: S608
_HELD: Final = """
    SELECT w.bucket FROM unnest($1::integer[]) AS w (bucket) CROSS JOIN public.head AS h
    WHERE get_bit(h.held, w.bucket) = 1
"""
_MISPLACED: Final = """
    SELECT w.position
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS w (position, origin, revision)
    LEFT JOIN LATERAL (
        SELECT p.archive + p.places[w.revision - p.first_revision + 1] AS position
        FROM public.archived_streams AS p WHERE p.origin = w.origin AND p.first_revision <= w.revision
        ORDER BY p.first_revision DESC LIMIT 1
    ) AS p ON true
    WHERE w.position <= (SELECT max(a.last) FROM public.archives AS a) AND p.position IS DISTINCT FROM w.position
    ORDER BY w.position LIMIT 1
"""
_PLACES: Final = """
    SELECT origin, first_revision, archive, cardinality(places) AS places FROM public.archived_streams
    WHERE (origin, first_revision) > ($1, $2) ORDER BY origin, first_revision LIMIT $3
"""
_PLACES_PAGE: Final = 5000
_WINDOW: Final = 200_000
"""How many positions are looked through at once for appends that were copied."""
_CORRUPT: Final = "XX"


class DerivedLog(ArchivedLog):
    """One shard with its tables; see `derived.Tables`."""

    @asynccontextmanager
    async def _comparing(self) -> AsyncGenerator[Any, None]:
        try:
            async with self._asking() as connection:
                yield connection
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "")[:2] == _CORRUPT:
                raise Unreadable(error.message) from error
            raise

    async def streams_of(self, names: Collection[str]) -> Mapping[str, StreamRow]:
        """The rows of streams, by name."""
        async with self._comparing() as connection:
            rows = await connection.fetch(_STREAMS, list(names))
        return {row["stream"]: StreamRow(*row) for row in rows}

    async def stream_ends(self, *, after: str, limit: int) -> Sequence[StreamEnds]:
        """The next streams by name, and whether they begin and end where they say."""
        async with self._comparing() as connection:
            rows = await connection.fetch(_STREAM_ENDS, after, limit)
        return [StreamEnds(StreamRow(*row[:4]), row["begins"], row["ends"]) for row in rows]

    async def doubled(self) -> StreamRow | None:
        """A stream that begins at an event at which another one begins."""
        async with self._comparing() as connection:
            row = await connection.fetchrow(_DOUBLED)
        return None if row is None else StreamRow(*row)

    async def appends_at(self, *, after: int, until: int) -> Sequence[AppendRow]:
        """The appends after a position up to another, in order."""
        async with self._comparing() as connection:
            return [_append(row) for row in await connection.fetch(_APPENDS_AT, after, until)]

    async def appends_by_id(self, append_ids: Collection[str]) -> Mapping[str, AppendRow]:
        """The appends with these ids."""
        if not append_ids:
            return {}
        async with self._comparing() as connection:
            rows = await connection.fetch(_APPENDS_BY_ID, list(append_ids))
        return {row["append_id"]: _append(row) for row in rows}

    async def appends_of(self, copies: Sequence[Copy]) -> Sequence[str]:
        """The ids of the appends, made here, whose main streams end at these events of here."""
        streams, revisions, positions = (list(column) for column in zip(*copies, strict=True))
        # The last event of an append, which has its position, may be of a further stream.
        start, end = min(positions) - 1, max(positions) + LONGEST
        found: list[str] = []
        while start < end:
            until = min(end, start + _WINDOW)
            async with self._comparing() as connection:
                rows = await connection.fetch(_APPENDS_OF, streams, revisions, start, until)
            found.extend(row["append_id"] for row in rows)
            start = until
        return found

    async def append_astray(self) -> AppendRow | None:
        """An append that says to be where the log is not."""
        async with self._comparing() as connection:
            row = await connection.fetchrow(_ASTRAY)
        return None if row is None else _append(row)

    async def settings_of(self, streams: Collection[str]) -> Mapping[str, SettingRow]:
        """What is said of streams, by name."""
        async with self._comparing() as connection:
            rows = await connection.fetch(_SETTINGS, list(streams))
        return {row["stream"]: SettingRow(*row) for row in rows}

    async def setting_ends(self, *, after: str, limit: int) -> Sequence[SettingEnds]:
        """What is said of the next streams by name, and what their streams of metadata say of it."""
        async with self._comparing() as connection:
            rows = await connection.fetch(_SETTING_ENDS, after, limit)
        return [SettingEnds(SettingRow(*row[:6]), *row[6:]) for row in rows]

    async def held_of(self, buckets: Collection[int]) -> Collection[int]:
        """Which of these buckets the shard holds."""
        async with self._comparing() as connection:
            return {row["bucket"] for row in await connection.fetch(_HELD, list(buckets))}

    async def misplaced(self, events: Sequence[StoredEvent]) -> int | None:
        """The position of an archived event whose place in its file is not what is said of it."""
        columns = [[event.position for event in events], [e.origin for e in events], [e.revision for e in events]]
        async with self._comparing() as connection:
            return await connection.fetchval(_MISPLACED, *columns)

    async def archive_faults(self) -> AsyncGenerator[tuple[int, Fault | None], None]:
        """How many rows about archives were compared with the files so far, and what is wrong with one, if any."""
        known = await self.archives()
        rows = 0
        for one in known:
            rows += 1
            detail = await self._archive_fault(one)
            yield rows, None if detail is None else Fault(one.first, detail, "archives", str(one.first))
        places: Counter[int] = Counter()
        after = (0, -1)
        while True:
            async with self._comparing() as connection:
                page = await connection.fetch(_PLACES, *after, _PLACES_PAGE)
            if not page:
                break
            for row in page:
                places[row["archive"]] += row["places"]
            after = (page[-1]["origin"], page[-1]["first_revision"])
            rows += len(page)
            yield rows, None
        for one in known:
            count = one.last - one.first + 1
            if places[one.first] != count:
                detail = f"{places[one.first]} events are said to be in {one.name}, and there are {count}"
                yield rows, Fault(one.first, detail, "archived_streams")

    async def _archive_fault(self, one: Archive) -> str | None:
        try:
            if one.name != self.files.name_of(one.first, one.last):
                return f"the file of positions {one.first} to {one.last} has another name than {one.name}"
            await self.files.check(one.name, Written(one.size, one.sha256))
        except ArchiveUnreadable as error:
            return str(error)
        return None


def _append(row: Any) -> AppendRow:
    further: list[list[Any]] = [] if row["also"] is None else json.loads(row["also"])
    main = (row["stream"], row["first_revision"], row["last_revision"])
    parts = (main, *((stream, first, last) for stream, first, last in further))
    return AppendRow(row["append_id"], row["fingerprint"], parts, row["position"])
