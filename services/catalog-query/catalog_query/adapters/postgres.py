"""One shard of the read model, by asyncpg: checkpoints, leases and what is parked.

Rows and checkpoint commit together, with a compare-and-set on the checkpoint and on a fencing token, so that each event
takes effect exactly once whatever is killed. A token is higher than all before it: an owner that slept while another
one took over holds a lower one, and writes nothing more. The lease only saves a second projector its work; being right
does not depend on it, nor on any clock.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from chassis.database.pool import Connection, Database
from chassis.errors import Unavailable
from chassis.ids import uuid7

from catalog_query.domain.errors import (
    CheckpointMoved,
    ExceptionsMoved,
    PoisonousEvent,
    ReadModelDiverged,
    UnwritableRows,
)
from catalog_query.domain.projection import Exceptions, Generation, Hold, Lease, Pointer, Progress, Target

Write = Callable[[Connection], Awaitable[None]]
"""Writes rows inside the transaction of their checkpoint."""

_ADVANCE: Final = (
    "UPDATE checkpoints SET position = $6, updated_at = now()"
    " WHERE projection = $1 AND generation = $2 AND event_shard = $3 AND token = $4 AND position = $5"
)

# Whoever asks gets it, unless another owner has shown life within the lease. A generation that is gone has none.
_CLAIM: Final = (
    "INSERT INTO checkpoints AS held (projection, generation, event_shard, owner, token)"
    " SELECT projection, generation, $3, $4, 1 FROM generations WHERE projection = $1 AND generation = $2"
    " ON CONFLICT (projection, generation, event_shard)"
    " DO UPDATE SET owner = excluded.owner, token = held.token + 1, updated_at = now()"
    " WHERE held.owner IN (excluded.owner, '') OR held.updated_at < now() - make_interval(secs => $5)"
    " RETURNING position, token"
)

# One statement, hence one moment: whoever sees a position sees what was parked on the way to it.
_PROGRESS: Final = (
    "SELECT ARRAY(SELECT (event_shard, position) FROM checkpoints WHERE projection = $1 AND generation = $2),"
    " ARRAY(SELECT (stream, parked_id, event_shard, position, revision, last_revision)"
    " FROM parked_events WHERE projection = $1 AND generation = $2)"
)

_PARK: Final = (
    "INSERT INTO parked_events"
    " (projection, generation, stream, parked_id, event_shard, position, revision, event_id, event_type, error,"
    " last_revision)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $7) ON CONFLICT (projection, generation, stream) DO NOTHING"
)

_HOLD: Final = (
    "UPDATE parked_events AS parked SET held_events = held_events + more.events, last_revision = more.last"
    " FROM unnest($3::text[], $4::bigint[], $5::bigint[]) AS more (stream, events, last)"
    " WHERE projection = $1 AND generation = $2 AND parked.stream = more.stream AND last_revision < more.last"
)


class ReadModelShard:
    """The tables of one shard."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """A connection; one that is lost while it is used says so as one that cannot be had does."""
        try:
            async with self.database.connection() as connection:
                yield connection
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError) as error:
            raise Unavailable("The database cannot be reached; try again later.", reason="DATABASE_DOWN") from error

    async def progress(self, target: Target) -> Progress:
        """How far a generation is, and what it holds, at one moment."""
        async with self.connection() as connection:
            row = await connection.fetchrow(_PROGRESS, target.projection, target.generation)
        assert row is not None  # noqa: S101 - the statement always gives one
        return Progress(positions=dict(row[0]), held={stream: Hold(*rest) for stream, *rest in row[1]})

    async def exceptions(self, target: Target) -> Exceptions:
        """What a generation holds, and what its projection leaves out."""
        held = (await self.progress(target)).held
        return Exceptions(held, await self.skipped(target.projection))

    async def skipped(self, projection: str, stream: str | None = None) -> Mapping[str, frozenset[int]]:
        """The revisions that a projection leaves out, by stream."""
        async with self.connection() as connection:
            rows = await connection.fetch(
                "SELECT stream, array_agg(revision) FROM skipped_events"
                " WHERE projection = $1 AND ($2::text IS NULL OR stream = $2) GROUP BY stream",
                projection,
                stream,
            )
        return {row[0]: frozenset(row[1]) for row in rows}

    async def pointers(self) -> Sequence[Pointer]:
        """Every projection, which generation of it is read, and which there are."""
        async with self.connection() as connection:
            rows = await connection.fetch(
                "SELECT name, serving, epoch, latest, switched_at, switched_by,"
                " ARRAY(SELECT (generation, state = 'ready', created_at, created_by, ready_at)"
                " FROM generations WHERE projection = name ORDER BY generation) FROM projections ORDER BY name"
            )
        return [
            Pointer(*row[:6], generations=tuple(Generation(Target(row[0], number), *rest) for number, *rest in row[6]))
            for row in (tuple(row) for row in rows)
        ]

    async def claim(self, target: Target, *, event_shard: int, owner: str, lease: float) -> Lease | None:
        """Become the one who applies a shard of the log to a generation, or None while another owner lives, or when
        there is no such generation.

        Args:
            target: the generation.
            event_shard: the shard of the log.
            owner: who asks.
            lease: for how many seconds a silent owner is taken to be alive.
        """
        async with self.connection() as connection:
            row = await connection.fetchrow(_CLAIM, target.projection, target.generation, event_shard, owner, lease)
        return None if row is None else Lease(*row)

    async def release(self, target: Target, *, event_shard: int, token: int) -> None:
        """Let somebody else apply it, at once."""
        async with self.connection() as connection:
            await connection.execute(
                "UPDATE checkpoints SET owner = ''"
                " WHERE projection = $1 AND generation = $2 AND event_shard = $3 AND token = $4",
                target.projection,
                target.generation,
                event_shard,
                token,
            )

    async def renew(self, target: Target, *, event_shard: int, token: int) -> None:
        """Show that the holder of a token lives, if it still holds the checkpoint."""
        async with self.connection() as connection:
            await connection.execute(
                "UPDATE checkpoints SET updated_at = now()"
                " WHERE projection = $1 AND generation = $2 AND event_shard = $3 AND token = $4",
                target.projection,
                target.generation,
                event_shard,
                token,
            )

    async def write(
        self,
        target: Target,
        *,
        event_shard: int,
        token: int,
        before: int,
        after: int,
        rows: Write | None = None,
        parked: Sequence[PoisonousEvent] = (),
        held: Mapping[str, tuple[int, int]] | None = None,
    ) -> Mapping[str, Hold]:
        """Write rows, park and hold, and move the checkpoint from `before` to `after`: all or nothing.

        Args:
            target: the generation.
            event_shard: the shard of the log.
            token: the fencing token of the lease.
            before: where the checkpoint must be.
            after: where it is then.
            rows: writes the rows.
            parked: what cannot be applied, one event of a stream.
            held: by stream that is parked already, or is now, how many more events are held behind, and the revision
                of the last one.

        Returns:
            What was parked, by stream.

        Raises:
            CheckpointMoved: the checkpoint was not at `before`, or somebody took over.
            ReadModelDiverged: a row was not at the revision that it was folded upon.
            ExceptionsMoved: a stream was parked or let go by somebody else.
            UnwritableRows: Postgres does not take what a row holds.
        """
        where = (target.projection, target.generation)
        holds: dict[str, Hold] = {}
        try:
            async with self.database.transaction() as connection:
                if await connection.execute(_ADVANCE, *where, event_shard, token, before, after) != "UPDATE 1":
                    raise CheckpointMoved(event_shard=event_shard, position=before)
                if rows is not None:
                    await rows(connection)
                for poison in parked:
                    event = poison.event
                    hold = Hold(uuid7(), event_shard, event.position, event.revision, event.revision)
                    row = (*where, event.stream, hold.parked_id, event_shard, event.position, event.revision)
                    answer = await connection.execute(_PARK, *row, event.event_id, event.type, poison.what)
                    if answer != "INSERT 0 1":
                        raise ExceptionsMoved
                    holds[event.stream] = hold
                if held:
                    more = zip(*((stream, *counted) for stream, counted in held.items()), strict=True)
                    if await connection.execute(_HOLD, *where, *map(list, more)) != f"UPDATE {len(held)}":
                        raise ExceptionsMoved
        except (asyncpg.DataError, asyncpg.CheckViolationError, asyncpg.NotNullViolationError) as error:
            raise UnwritableRows(event_shard=event_shard, after=before, last=after) from error
        except (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError) as error:
            # Another pair of shards writes the same product, as happens when its bucket has just moved.
            raise ReadModelDiverged from error
        return holds


def rows_of(answer: str) -> int:
    """How many rows a statement wrote, by its command tag."""
    return int(answer.rpartition(" ")[2])
