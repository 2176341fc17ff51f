"""Cutting the log of one shard off, by its owner: the service itself has no right to."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from chassis.database.restoring import COMMENT, is_restoring

from event_store.adapters.postgres import PostgresLog
from event_store.application.cutting import Cut, Move
from event_store.application.derived import told
from event_store.domain.stream import METADATA_CATEGORY

_ARCHIVED: Final = "SELECT coalesce(max(last), 0) FROM public.archives"
# Copies keep the time of their first writing, so they say nothing of when they came here.
_POSITION_AT: Final = """
    SELECT position FROM public.events WHERE recorded_at <= $1 AND original_shard IS NULL ORDER BY position DESC LIMIT 1
"""
_END_OF_APPEND: Final = "SELECT coalesce(max(position), 0) FROM public.appends WHERE position <= $1"
_MOVES: Final = "SELECT first_bucket, last_bucket, from_shard, to_shard, ended_at FROM public.moves ORDER BY number"
_GONE: Final = """
    CREATE TEMPORARY TABLE cut_streams ON COMMIT DROP AS
    SELECT s.stream, s.origin, g.revision - 1 AS revision
    FROM (SELECT origin, min(revision) AS revision FROM public.events WHERE position > $1 GROUP BY origin) AS g
    JOIN public.streams AS s USING (origin)
"""
_CUT: Final = ("DELETE FROM public.appends WHERE position > $1", "DELETE FROM public.events WHERE position > $1")
_FOLLOW: Final = """
    DELETE FROM public.streams AS s USING cut_streams AS c WHERE s.stream = c.stream AND c.revision < 0;
    UPDATE public.streams AS s SET revision = c.revision
    FROM cut_streams AS c WHERE s.stream = c.stream AND c.revision >= 0;
    DELETE FROM public.snapshots AS p USING cut_streams AS c WHERE p.stream = c.stream AND p.revision > c.revision;
    DELETE FROM public.stream_metadata AS m
    USING cut_streams AS c WHERE c.stream = 'metadata-' || m.stream AND c.revision < 0;
"""
# What is said of a stream then is what the last of the events says that are left.
_SAID: Final = """
    SELECT coalesce(
        (SELECT e.position FROM public.events AS e WHERE e.origin = c.origin AND e.revision = c.revision),
        (
            SELECT p.archive + p.places[c.revision - p.first_revision + 1] FROM public.archived_streams AS p
            WHERE p.origin = c.origin AND p.first_revision <= c.revision ORDER BY p.first_revision DESC LIMIT 1
        )
    ) AS position
    FROM cut_streams AS c WHERE c.stream LIKE $1 AND c.revision >= 0
"""
_SAY: Final = """
    UPDATE public.stream_metadata SET bucket = $2, revision = $3, max_count = $4, max_age = $5, tombstoned = $6
    WHERE stream = $1
"""
# The time stays: it never goes back, whatever is cut.
_HEAD: Final = "UPDATE public.head SET position = $1, hash = $2"


class CuttingLog(PostgresLog):
    """One shard, as its owner; see `cutting.CuttableLog`."""

    async def restoring(self) -> bool:
        """Whether a backup is being restored into it."""
        return is_restoring(await self._value(COMMENT))

    async def archived(self) -> int:
        """The last position that is in a file."""
        return await self._value(_ARCHIVED)

    async def position_at(self, time: datetime) -> int:
        """The last event that was written here until a time."""
        return await self._value(_POSITION_AT, time) or 0

    async def end_of_append(self, position: int) -> int:
        """The last position at or before this one with which an append ends."""
        return await self._value(_END_OF_APPEND, position)

    async def moves(self) -> Sequence[Move]:
        """All moves of buckets."""
        async with self._asking() as connection:
            return [Move(*row) for row in await connection.fetch(_MOVES)]

    async def cut(self, cut: Cut) -> int:
        """Take away what comes after the cut, in one transaction."""
        async with self._database.transaction() as connection:
            before: int = await connection.fetchval("SELECT position FROM public.head FOR UPDATE")
            await connection.execute(_GONE, cut.position)
            for statement in _CUT:
                await connection.execute(statement, cut.position)
            await connection.execute(_FOLLOW)
            for row in await connection.fetch(_SAID, f"{METADATA_CATEGORY}-%"):
                at: int = row["position"]
                # Another connection reads it, as it was and stays.
                event = (await self.stored(after=at - 1, until=at, limit=1, max_bytes=1))[0]
                said: Any = told(event)
                stream, bucket, *rest = said
                await connection.execute(_SAY, stream, bucket, *rest)
            await connection.execute(_HEAD, cut.position, cut.hash)
        return before - cut.position

    async def _value(self, query: str, *arguments: Any) -> Any:
        async with self._asking() as connection:
            return await connection.fetchval(query, *arguments)
