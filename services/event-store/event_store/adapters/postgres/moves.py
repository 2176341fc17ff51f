"""The list of moves, in shard 0, and the right to work on one: a lease by the clock of that database."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from event_store.adapters.postgres.shards import MovingDatabase
from event_store.application.moves import Listed, Move, Phase, Standing, Switched
from event_store.domain.errors import MoveUnderWay, UnknownMove

_COLUMNS: Final = (
    "number, move_id::text AS move_id, first_bucket, last_bucket, from_shard, to_shard, phase, epoch, copied_events,"
    " total_events, pause, began_at, ended_at, error, slice_buckets, (SELECT json_agg(json_build_array(s.first_bucket,"
    " s.last_bucket, extract(epoch FROM s.pause), s.epoch, extract(epoch FROM s.switched_at)) ORDER BY s.first_bucket)"
    " FROM public.move_slices AS s WHERE s.move_id = moves.move_id) AS slices"
)
_UNDER_WAY: Final = "phase IN ('copying', 'fenced')"
_BEGIN: Final = f"""
    INSERT INTO public.moves (move_id, first_bucket, last_bucket, from_shard, to_shard, epoch, slice_buckets)
    SELECT
        gen_random_uuid(), $1::integer, $2::integer, $3, $4,
        greatest($5, coalesce(max(epoch), 0)) + ($2::integer - $1::integer + $6::integer) / $6::integer, $6::integer
    FROM public.moves
    RETURNING {_COLUMNS}
"""  # noqa: S608 - only our own constants
_CLAIM: Final = f"""
    UPDATE public.moves SET holder = $1::uuid, leased_until = clock_timestamp() + $2
    WHERE {_UNDER_WAY} AND (holder = $1::uuid OR leased_until < clock_timestamp())
        AND greatest(from_shard, to_shard) < $3
    RETURNING {_COLUMNS}
"""  # noqa: S608 - only our own constants
_RENEW: Final = f"""
    UPDATE public.moves
    SET leased_until = clock_timestamp() + $3, phase = $4, copied_events = $5, total_events = $6, error = $7
    WHERE move_id = $1::uuid AND holder = $2::uuid AND {_UNDER_WAY}
    RETURNING cancelled
"""  # noqa: S608 - only our own constants
_SWITCHED: Final = """
    INSERT INTO public.move_slices AS known (move_id, first_bucket, last_bucket, pause, epoch)
    VALUES ($1::uuid, $2, $3, $4, $5)
    ON CONFLICT (move_id, first_bucket) DO UPDATE SET pause = coalesce(known.pause, excluded.pause)
"""
_CANCEL: Final = f"UPDATE public.moves SET cancelled = true WHERE move_id = $1::uuid AND {_UNDER_WAY}"  # noqa: S608
_END: Final = f"""
    UPDATE public.moves
    SET phase = $2, copied_events = greatest(copied_events, $3), total_events = greatest(total_events, $4), error = $5,
        pause = (SELECT max(s.pause) FROM public.move_slices AS s WHERE s.move_id = $1::uuid),
        ended_at = clock_timestamp()
    WHERE move_id = $1::uuid AND {_UNDER_WAY}
"""  # noqa: S608 - only our own constants


class PostgresMoves(MovingDatabase):
    """The moves; see `moves.Moves`."""

    async def begin(
        self, first: int, last: int, *, from_shard: int, to_shard: int, epoch: int, slice_buckets: int
    ) -> Listed:
        """List a new move.

        Raises:
            MoveUnderWay: Another one is not over.
        """
        try:
            async with self._telling() as connection:
                row = await connection.fetchrow(_BEGIN, first, last, from_shard, to_shard, epoch, slice_buckets)
        except asyncpg.UniqueViolationError as error:
            raise MoveUnderWay from error
        return _listed(row)

    async def under_way(self) -> Listed | None:
        """The move that is not over."""
        async with self._telling() as connection:
            row = await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM public.moves WHERE {_UNDER_WAY}"  # noqa: S608 - only our own constants
            )
        return None if row is None else _listed(row)

    async def get(self, move_id: str) -> Listed:
        """A move that is listed.

        Raises:
            UnknownMove: There is none with this id.
        """
        async with self._telling() as connection:
            row = await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM public.moves WHERE move_id = $1::uuid",  # noqa: S608 - only our own constants
                move_id,
            )
        if row is None:
            raise UnknownMove(move_id)
        return _listed(row)

    async def listed(self, *, before: int | None, limit: int) -> Sequence[Listed]:
        """Moves, latest first."""
        async with self._telling() as connection:
            rows = await connection.fetch(
                f"SELECT {_COLUMNS} FROM public.moves WHERE $1::bigint IS NULL OR number < $1"  # noqa: S608 - constants
                " ORDER BY number DESC LIMIT $2",
                before,
                limit,
            )
        return [_listed(row) for row in rows]

    async def claim(self, holder: str, *, seconds: float, shards: int) -> Move | None:
        """The right to work on the move that is not over."""
        async with self._telling() as connection:
            row = await connection.fetchrow(_CLAIM, holder, timedelta(seconds=seconds), shards)
        return None if row is None else _listed(row).move

    async def renew(
        self, move: Move, holder: str, *, seconds: float, phase: Phase, copied: int, total: int, error: str
    ) -> Standing:
        """Go on working on it, and tell how far it is."""
        async with self._telling() as connection:
            cancelled = await connection.fetchval(
                _RENEW, move.move_id, holder, timedelta(seconds=seconds), phase.value, copied, total, error
            )
        if cancelled is None:
            return Standing.REPLACED
        return Standing.CANCELLED if cancelled else Standing.WORKING

    async def switched(self, move: Move, piece: Move, pause: float | None) -> None:
        """The new shard holds a slice of it."""
        seconds = None if pause is None else timedelta(seconds=pause)
        async with self._telling() as connection:
            await connection.execute(_SWITCHED, move.move_id, piece.first, piece.last, seconds, piece.epoch)

    async def cancel(self, move: Move) -> None:
        """It is to be ended where it is."""
        async with self._telling() as connection:
            await connection.execute(_CANCEL, move.move_id)

    async def end(self, move: Move, phase: Phase, *, copied: int, total: int, error: str) -> None:
        """It is over."""
        async with self._telling() as connection:
            await connection.execute(_END, move.move_id, phase.value, copied, total, error)


def _listed(row: Any) -> Listed:
    return Listed(
        number=row["number"],
        move=Move(
            row["move_id"],
            row["first_bucket"],
            row["last_bucket"],
            row["from_shard"],
            row["to_shard"],
            row["epoch"],
            row["slice_buckets"],
        ),
        phase=Phase(row["phase"]),
        copied_events=row["copied_events"],
        total_events=row["total_events"],
        pause=row["pause"],
        began_at=row["began_at"],
        ended_at=row["ended_at"],
        error=row["error"],
        slices=[
            Switched(
                first,
                last,
                None if pause is None else timedelta(seconds=pause),
                epoch,
                datetime.fromtimestamp(switched_at, UTC),
            )
            for first, last, pause, epoch, switched_at in json.loads(row["slices"] or "[]")
        ],
    )
