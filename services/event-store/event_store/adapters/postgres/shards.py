"""What one shard says of itself: which it is, and which buckets it holds. And the steps of a move, each one function of
the database (migrations/sql/0004_shards.sql), so that none is ever half done.
"""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC
from typing import Any, Final

import asyncpg
from almagest.eventstore.v1 import event_store_pb2
from chassis.database.pool import Database
from chassis.errors import DeadlineExceeded

from event_store.adapters.postgres.connection import ShardDatabase
from event_store.application.append_loop import NotWritten
from event_store.application.membership import Cluster, Identity
from event_store.application.moves import Arrival, Copied, Fence, Move, MoveRefused
from event_store.application.pages import Filter, PageBounds, ReadableLog
from event_store.application.shard_map import Held

_HELD: Final = "SELECT epoch, held FROM public.head"
_IDENTITY: Final = "SELECT cluster::text AS cluster, shard FROM public.shard_identity"
_CLUSTER: Final = "SELECT cluster::text AS cluster, initial_shards, shards FROM public.cluster"
_FOUND: Final = "SELECT cluster::text AS cluster, initial_shards, shards FROM public.found_cluster($1::uuid, $2)"
_MOVING: Final = "SELECT first_bucket, last_bucket, from_shard FROM public.moves WHERE phase IN ('copying', 'fenced')"
_APPENDS: Final = """
    SELECT
        a.append_id::text AS append_id, a.fingerprint, a.stream, a.first_revision, a.last_revision, a.also::text AS also
    FROM public.appends AS a JOIN public.streams AS s ON s.stream = a.stream
    WHERE a.position > $1 AND a.position <= $2 AND s.bucket BETWEEN $3 AND $4
"""
_SETTINGS: Final = """
    SELECT stream, bucket, revision, max_count, max_age, tombstoned FROM public.stream_metadata
    WHERE stream = ANY($1::text[])
"""
_SNAPSHOTS: Final = """
    SELECT p.stream, p.kind, p.revision, p.payload, p.recorded_at
    FROM public.snapshots AS p JOIN public.streams AS s ON s.stream = p.stream
    WHERE s.bucket BETWEEN $1 AND $2 AND (p.stream, p.kind) > ($3, $4)
    ORDER BY p.stream, p.kind LIMIT $5
"""
_KEEP: Final = """
    INSERT INTO public.snapshots AS present (stream, kind, revision, payload, recorded_at)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::timestamptz[])
    ON CONFLICT (stream, kind) DO UPDATE
    SET revision = excluded.revision, payload = excluded.payload, recorded_at = excluded.recorded_at
    WHERE present.revision < excluded.revision
"""
_EVENTS: Final = "SELECT coalesce(sum(revision + 1), 0)::bigint FROM public.streams WHERE bucket BETWEEN $1 AND $2"
_COPY: Final = (
    "SELECT copied, new_head FROM public.copy_events($1::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,"
    " $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27)"
)
_FENCE: Final = "SELECT fenced_position, recorded_at, seconds FROM public.fence_buckets($1::uuid, $2, $3)"
_METADATA: Final = "metadata-"
_RAISED: Final = "P0001"


def buckets_of(held: bytes) -> frozenset[int]:
    """The buckets whose bits are set; the first bit is the leftmost."""
    return frozenset(8 * index + bit for index, byte in enumerate(held) for bit in range(8) if byte & (128 >> bit))


class MovingDatabase(ShardDatabase):
    """The database of one shard, for statements that may each be done again: so a connection that is lost, or a
    statement that takes too long, is `NotWritten`, whatever came of it.
    """

    @asynccontextmanager
    async def _telling(self) -> AsyncGenerator[Any, None]:
        """A connection for such statements.

        Raises:
            MoveRefused: The database says that it cannot be done.
            NotWritten: It is to be done again.
        """
        with _repeatable():
            async with self._asking() as connection:
                yield connection


@contextmanager
def _repeatable() -> Generator[None, None, None]:
    try:
        yield
    except DeadlineExceeded as error:
        raise NotWritten from error
    except asyncpg.PostgresError as error:
        if error.sqlstate == _RAISED:
            raise MoveRefused(str(error)) from error
        raise


class PostgresShard(MovingDatabase):
    """One shard; see `membership.Member`, `shard_map.Shard` and `moves.MovingShard`. `log` is the same shard, to read
    events from wherever they are.
    """

    def __init__(self, database: Database, shard: int, log: ReadableLog) -> None:
        super().__init__(database, shard)
        self._log = log
        self._known = (0, b"")
        self._account = Held(0, frozenset())

    async def held(self) -> Held:
        """Which buckets it holds."""
        async with self._telling() as connection:
            row = await connection.fetchrow(_HELD)
        epoch, held = row["epoch"], row["held"].bytes
        # It is asked for with every read, and changes once in a blue moon.
        if (epoch, held) != self._known:
            self._known = (epoch, held)
            self._account = Held(epoch, buckets_of(held))
        return self._account

    async def identity(self) -> Identity | None:
        """Which shard it is."""
        async with self._telling() as connection:
            row = await connection.fetchrow(_IDENTITY)
        return None if row is None else Identity(row["cluster"], row["shard"])

    async def cluster(self) -> Cluster | None:
        """The log, of shard 0."""
        async with self._telling() as connection:
            row = await connection.fetchrow(_CLUSTER)
        return None if row is None else Cluster(row["cluster"], row["initial_shards"], row["shards"])

    async def found(self, cluster: str, shards: int) -> Cluster:
        """Begin a log."""
        async with self._telling() as connection:
            row = await connection.fetchrow(_FOUND, cluster, shards)
        return Cluster(row["cluster"], row["initial_shards"], row["shards"])

    async def claim(self, cluster: str, shard: int, buckets: tuple[int, int] | None) -> bool:
        """Become a shard."""
        first, last = (None, None) if buckets is None else buckets
        try:
            async with self._telling() as connection:
                await connection.execute("SELECT public.claim_shard($1::uuid, $2, $3, $4)", cluster, shard, first, last)
        except MoveRefused:
            return False
        return True

    async def count(self, shards: int) -> None:
        """So many shards are members."""
        async with self._telling() as connection:
            await connection.execute("SELECT public.count_shards($1)", shards)

    async def moving(self) -> Mapping[int, int]:
        """The buckets that are being moved."""
        async with self._telling() as connection:
            rows = await connection.fetch(_MOVING)
        return {
            bucket: row["from_shard"] for row in rows for bucket in range(row["first_bucket"], row["last_bucket"] + 1)
        }

    async def head(self) -> int:
        """The last committed position."""
        with _repeatable():
            return await self._log.head()

    async def events_of(self, move: Move) -> int:
        """How many events there are of the buckets of a move."""
        async with self._telling() as connection:
            return await connection.fetchval(_EVENTS, move.first, move.last)

    async def copied(self, move: Move, *, after: int, until: int, bounds: PageBounds) -> Copied:
        """The next piece of what a move copies from here."""
        buckets = tuple(range(move.first, move.last + 1))
        with _repeatable():
            page = await self._log.page(
                after=after, until=until, kept=Filter(buckets=buckets), bounds=bounds, limit=bounds.events
            )
        events = event_store_pb2.ReadAllResponse.FromString(b"".join(event.encoded for event in page.events)).events
        settings = sorted({e.stream.removeprefix(_METADATA) for e in events if e.stream.startswith(_METADATA)})
        async with self._telling() as connection:
            appends = await connection.fetch(_APPENDS, after, page.checkpoint, move.first, move.last)
            metadata: Sequence[Any] = await connection.fetch(_SETTINGS, settings) if settings else ()
        return Copied(self._shard, after, page.checkpoint, events, appends, metadata)

    async def snapshots(self, move: Move, *, after: tuple[str, str], limit: int) -> Sequence[Mapping[str, Any]]:
        """The next snapshots of the streams of a move."""
        async with self._telling() as connection:
            return await connection.fetch(_SNAPSHOTS, move.first, move.last, *after, limit)

    async def keep(self, snapshots: Sequence[Mapping[str, Any]]) -> None:
        """Keep snapshots."""
        columns = [[snapshot[column] for snapshot in snapshots] for column in _SNAPSHOT_COLUMNS]
        async with self._telling() as connection:
            await connection.execute(_KEEP, *columns)

    async def arrival(self, move: Move) -> Arrival:
        """How far a move to here is."""
        async with self._telling() as connection:
            row = await connection.fetchrow("SELECT * FROM public.begin_arrival($1::uuid)", move.move_id)
        return Arrival(row["copied_to"], row["taken"], row["closed"])

    async def slice_arrival(self, piece: Move, move: Move) -> Arrival:
        """How far a slice of a move to here is."""
        async with self._telling() as connection:
            row = await connection.fetchrow(
                "SELECT * FROM public.begin_slice($1::uuid, $2::uuid)", piece.move_id, move.move_id
            )
        return Arrival(row["copied_to"], row["taken"], row["closed"])

    async def copy(self, move: Move, copied: Copied) -> int | None:
        """Write a piece; answers the head it left, None when the move has ended here."""
        async with self._telling() as connection:
            row = await connection.fetchrow(_COPY, move.move_id, copied.after, copied.until, *_columns(copied))
        return None if row["copied"] is None else row["new_head"]

    async def fence(self, move: Move) -> Fence | None:
        """Take no more appends for the buckets of a move; None when the move has ended here."""
        async with self._telling() as connection:
            row = await connection.fetchrow(_FENCE, move.move_id, move.first, move.last)
        if row["fenced_position"] is None:
            return None
        return Fence(row["fenced_position"], row["recorded_at"], row["seconds"])

    async def take(self, move: Move, fence: Fence) -> bool:
        """Hold the buckets of a move; False when that was given up."""
        async with self._telling() as connection:
            return await connection.fetchval(
                "SELECT public.take_buckets($1::uuid, $2, $3, $4, $5, $6)",
                move.move_id,
                move.first,
                move.last,
                fence.position,
                fence.recorded_at,
                move.epoch,
            )

    async def close_arrival(self, move: Move) -> bool:
        """See to it that the buckets of a move are never taken here; answers whether they were."""
        async with self._telling() as connection:
            return await connection.fetchval("SELECT public.close_arrival($1::uuid)", move.move_id)

    async def end_departure(self, move: Move, *, taken: bool, only_open: bool = False) -> bool:
        """End a move from here; False when it was fenced and should be ended only if it was not."""
        async with self._telling() as connection:
            return await connection.fetchval(
                "SELECT public.end_departure($1::uuid, $2, $3, $4, $5)",
                move.move_id,
                move.first,
                move.last,
                taken,
                only_open,
            )

    async def learn(self, epoch: int) -> None:
        """Take note of a version of the map."""
        async with self._telling() as connection:
            await connection.execute("SELECT public.learn_epoch($1)", epoch)


def _columns(copied: Copied) -> tuple[Sequence[Any], ...]:
    """A piece as the arguments of `copy_events`."""
    slots: dict[str, int] = {}
    buckets: list[int] = []
    for event in copied.events:
        if slots.setdefault(event.stream, len(slots) + 1) > len(buckets):
            buckets.append(event.bucket)
    events, appends, settings = copied.events, copied.appends, copied.settings
    originals = [
        (event.original.shard, event.original.position)
        if event.HasField("original")
        else (copied.shard, event.position)
        for event in events
    ]
    return (
        list(slots),
        buckets,
        [stream.partition("-")[0] for stream in slots],
        [slots[event.stream] for event in events],
        [event.revision for event in events],
        [event.type for event in events],
        [event.event_id for event in events],
        [event.recorded_at.ToDatetime(tzinfo=UTC) for event in events],
        [event.payload for event in events],
        [event.metadata.SerializeToString() for event in events],
        [shard for shard, _ in originals],
        [position for _, position in originals],
        *([append[column] for append in appends] for column in _APPEND_COLUMNS),
        *([setting[column] for setting in settings] for column in _SETTING_COLUMNS),
    )


_APPEND_COLUMNS: Final = ("append_id", "fingerprint", "stream", "first_revision", "last_revision", "also")
_SNAPSHOT_COLUMNS: Final = ("stream", "kind", "revision", "payload", "recorded_at")
_SETTING_COLUMNS: Final = ("stream", "bucket", "revision", "max_count", "max_age", "tombstoned")
