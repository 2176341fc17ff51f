"""Parked events of one shard, as operators see them and try them again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
from almagest.eventstore.v1 import event_pb2

from catalog_query.adapters.postgres import ReadModelShard, Write, rows_of
from catalog_query.domain.errors import PoisonousEvent, UnwritableRows
from catalog_query.domain.projection import Target

_COLUMNS: Final = (
    "parked_id, projection, generation, stream, event_shard, position, revision, event_id, event_type, error, since,"
    " attempts, tried_at, held_events, last_revision"
)

_SETTLED: Final = "WHERE projection = $1 AND generation = $2 AND stream = $3 AND parked_id = $4 AND last_revision <= $5"
_LET_GO: Final = f"DELETE FROM parked_events {_SETTLED}"  # noqa: S608 - made of the constants above
_PARK_NEXT: Final = (
    "UPDATE parked_events SET event_shard = $6, position = $7, revision = $8, event_id = $9,"  # noqa: S608 - as above
    " event_type = $10, error = $11, attempts = attempts + 1, tried_at = now(), held_events = $12,"
    f" last_revision = greatest($5, $8) {_SETTLED}"
)


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that could not be applied, with what is held behind it."""

    parked_id: UUID
    target: Target
    stream: str
    event_shard: int
    position: int
    revision: int
    event_id: str
    event_type: str
    error: str
    since: datetime
    attempts: int
    tried_at: datetime
    held_events: int
    last_revision: int


class ParkedEvents:
    """What is parked in one shard."""

    def __init__(self, shard: ReadModelShard) -> None:
        self._shard = shard

    async def page(self, projection: str, *, after: UUID, limit: int) -> Sequence[Parked]:
        """What is parked, by id, which grows with the time of parking."""
        async with self._shard.connection() as connection:
            rows = await connection.fetch(
                f"SELECT {_COLUMNS} FROM parked_events"  # noqa: S608 - see above
                " WHERE projection = $1 AND parked_id > $2 ORDER BY parked_id LIMIT $3",
                projection,
                after,
                limit,
            )
        return [_parked(row) for row in rows]

    async def get(self, projection: str, parked_id: UUID) -> Parked | None:
        """One parked event."""
        async with self._shard.connection() as connection:
            row = await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM parked_events WHERE projection = $1 AND parked_id = $2",  # noqa: S608 - see above
                projection,
                parked_id,
            )
        return None if row is None else _parked(row)

    async def skip(self, parked: Parked, *, actor: str, reason: str) -> None:
        """Leave an event out of its projection, in all generations, for good."""
        async with self._shard.connection() as connection:
            await connection.execute(
                "INSERT INTO skipped_events (projection, stream, revision, event_id, event_type, error, actor, reason)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
                parked.target.projection,
                parked.stream,
                parked.revision,
                parked.event_id,
                parked.event_type,
                parked.error,
                actor,
                reason,
            )

    async def forget_skipped(self, projection: str, stream: str) -> None:
        """Leave nothing of a stream out any more."""
        async with self._shard.connection() as connection:
            await connection.execute(
                "DELETE FROM skipped_events WHERE projection = $1 AND stream = $2", projection, stream
            )

    async def settle(
        self,
        parked: Parked,
        *,
        rows: Write | None,
        poison: PoisonousEvent | None,
        seen: Sequence[event_pb2.RecordedEvent],
    ) -> bool:
        """Write what a stream's events make of its rows, and let it go on, or park the next event that cannot be
        applied: both or neither. False when more of the stream was held meanwhile, or it was settled by somebody
        else: nothing was written then.

        Raises:
            ReadModelDiverged: a row was not what was folded upon.
            UnwritableRows: Postgres does not take what a row holds.
        """
        last = seen[-1].revision if seen else -1
        where = (parked.target.projection, parked.target.generation, parked.stream, parked.parked_id, last)
        try:
            async with self._shard.database.transaction() as connection:
                if poison is None:
                    answer = await connection.execute(_LET_GO, *where)
                else:
                    event = poison.event
                    held = sum(1 for one in seen if one.revision > event.revision)
                    answer = await connection.execute(
                        _PARK_NEXT,
                        *where,
                        *(event.shard, event.position, event.revision, event.event_id, event.type, poison.what, held),
                    )
                if rows_of(answer) != 1:
                    return False
                if rows is not None:
                    await rows(connection)
        except (asyncpg.DataError, asyncpg.CheckViolationError, asyncpg.NotNullViolationError) as error:
            raise UnwritableRows(
                event_shard=parked.event_shard, after=parked.position - 1, last=parked.position
            ) from error
        return True


def _parked(row: asyncpg.Record) -> Parked:
    parked_id, projection, generation, *rest = row
    return Parked(parked_id, Target(projection, generation), *rest)
