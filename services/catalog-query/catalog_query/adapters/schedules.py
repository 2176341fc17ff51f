"""The table of schedules, and beside it what keeps some of them from being carried out.

The table belongs to a generation of the products, and is written with their rows, so that a rebuild makes it anew, and
reads of both go over to another generation together. Refusals are no events, since nobody who may write to the log
stands behind them: they are what the worker met last, come again when they are lost, and belong to no generation.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
from chassis.database.pool import Connection

from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.domain.projection import PRODUCTS, Target
from catalog_query.domain.schedules import Ended, Listed, Planned, Refusal, Schedule

LONGEST_BACKOFF: Final = 600
"""Seconds between tries of what is refused again and again; the first pause is five."""

_PLAN: Final = (
    "INSERT INTO {schema}.schedules (schedule_id, product_id, price_amount, price_currency, published, effective_at,"
    " scheduled_by, scheduled_at, reason, state) SELECT *, 'open' FROM unnest($1::uuid[], $2::uuid[], $3::text[],"
    " $4::text[], $5::boolean[], $6::timestamptz[], $7::text[], $8::timestamptz[], $9::text[])"
    " ON CONFLICT (schedule_id) DO NOTHING"
)
_END: Final = (
    "UPDATE {schema}.schedules AS one SET state = said.state, ended_at = said.ended_at, failure = said.failure"
    " FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[])"
    " AS said (schedule_id, state, ended_at, failure) WHERE one.schedule_id = said.schedule_id AND one.state = 'open'"
)
_COLUMNS: Final = (
    "one.schedule_id::text, one.product_id::text, one.price_amount, one.price_currency, one.published,"
    " one.effective_at, one.scheduled_by, one.scheduled_at, one.reason, one.state, one.ended_at, one.failure,"
    " kept.code, kept.reason AS kept_reason, kept.message, kept.refused_at, kept.attempts, kept.next_attempt_at"
)
_LISTED: Final = (
    f"SELECT {_COLUMNS} FROM {{schema}}.schedules AS one LEFT JOIN schedule_refusals AS kept USING (schedule_id)"  # noqa: S608
)
_PAGE: Final = (
    f"{_LISTED} WHERE one.state = ANY($1::text[]) AND ($2::uuid IS NULL OR one.product_id = $2)"
    " AND ($3::timestamptz IS NULL OR one.effective_at < $3)"
    " AND ($4::timestamptz IS NULL OR (one.effective_at, one.schedule_id) > ($4, $5::uuid))"
    " ORDER BY one.effective_at, one.schedule_id LIMIT $6"
)
_DUE: Final = (
    f"{_LISTED} WHERE one.state = 'open' AND one.effective_at <= now()"
    " AND (kept.next_attempt_at IS NULL OR kept.next_attempt_at <= now())"
    " ORDER BY one.effective_at, one.schedule_id LIMIT $1"
)
_NEXT: Final = (
    "SELECT least((SELECT min(effective_at) FROM {schema}.schedules WHERE state = 'open' AND effective_at > now()),"
    " min(kept.next_attempt_at) FILTER (WHERE kept.next_attempt_at > now())), count(*)"
    " FROM schedule_refusals AS kept JOIN {schema}.schedules AS one USING (schedule_id) WHERE one.state = 'open'"
)
_OF_PRODUCT: Final = (
    "SELECT schedule_id::text, product_id::text, price_amount, price_currency, published, effective_at, scheduled_by,"
    " scheduled_at, reason, state, ended_at, failure FROM {schema}.schedules WHERE product_id = $1"
    " ORDER BY schedule_id::text"
)
_REFUSE: Final = (
    "INSERT INTO schedule_refusals AS kept"
    " (schedule_id, code, reason, message, refused_at, attempts, next_attempt_at)"
    " SELECT *, now(), 1, now() + interval '5 seconds' FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[])"
    " ON CONFLICT (schedule_id) DO UPDATE SET code = excluded.code, reason = excluded.reason,"
    " message = excluded.message, refused_at = now(), attempts = kept.attempts + 1,"
    " next_attempt_at = now() + make_interval(secs => least(5 * 2 ^ least(kept.attempts, 20), $5::float8))"
    # Workers do not know of each other: what two of them met at the same time counts as one try.
    " WHERE kept.next_attempt_at <= now()"
)


class ScheduleTable:
    """The schedules of one generation of the products in one shard, as they are written."""

    def __init__(self, target: Target) -> None:
        self._generation = target.generation
        self._statements = {one: one.format(schema=target.schema) for one in (_PLAN, _END, _OF_PRODUCT)}

    async def write(self, connection: Connection, planned: Sequence[Planned], ended: Sequence[Ended]) -> None:
        """Write what events said, in the transaction of their checkpoint."""
        if planned:
            columns = zip(*sorted(planned), strict=True)
            await connection.execute(self._statements[_PLAN], *(list(column) for column in columns))
        if ended:
            columns = zip(*sorted(ended), strict=True)
            await connection.execute(self._statements[_END], *(list(column) for column in columns))

    async def of_product(self, connection: Connection, product_id: UUID) -> Sequence[Listed]:
        """All that was ever planned for a product, by id."""
        rows = await connection.fetch(self._statements[_OF_PRODUCT], product_id)
        return [Listed(Planned(*row[:9]), *row[9:]) for row in (tuple(row) for row in rows)]

    async def replace(self, connection: Connection, product_id: UUID, listed: Sequence[Listed]) -> bool:
        """Write all that was ever planned for a product in place of what there is; whether that was something else."""
        if await self.of_product(connection, product_id) == listed:
            return False
        await connection.execute("SELECT remove_schedules($1, $2)", self._generation, product_id)
        ended = [Ended(one.planned.schedule_id, one.state, one.ended_at, one.failure) for one in listed if one.ended_at]
        await self.write(connection, [one.planned for one in listed], ended)
        return True


class ServedSchedules:
    """The schedules of the generation that is read, whichever that is at the moment."""

    def __init__(
        self, shard: ReadModelShard, generation: Callable[[], int], adopted: Callable[[], Awaitable[None]]
    ) -> None:
        self._shard = shard
        self._generation = generation
        self._adopted = adopted

    async def _fetch(self, statement: str, *values: object) -> Sequence[Any]:
        generation = self._generation()
        try:
            async with self._shard.connection() as connection:
                return await connection.fetch(statement.format(schema=Target(PRODUCTS, generation).schema), *values)
        except asyncpg.UndefinedTableError:
            # It was dropped before this process heard that another one serves.
            await self._adopted()
            if self._generation() == generation:
                raise
        return await self._fetch(statement, *values)

    async def page(
        self,
        *,
        states: Sequence[str],
        product_id: UUID | None,
        due_before: datetime | None,
        after: tuple[datetime, UUID] | None,
        limit: int,
    ) -> Sequence[Schedule]:
        """Schedules by time, after one of them."""
        at, last = after or (None, None)
        rows = await self._fetch(_PAGE, list(states), product_id, due_before, at, last, limit)
        return [_schedule(row) for row in rows]

    async def due(self, limit: int) -> Sequence[Schedule]:
        """Open schedules whose time has come, and that are not held back by a refusal, by time."""
        return [_schedule(row) for row in await self._fetch(_DUE, limit)]

    async def coming(self) -> tuple[datetime | None, int]:
        """When something is due next, or to be tried again; and how many are kept by a refusal."""
        [row] = await self._fetch(_NEXT)
        return row[0], row[1]

    async def refuse(self, refusals: Sequence[tuple[UUID, int, str, str]]) -> None:
        """Note why schedules were not carried out, by id, status, reason and message."""
        columns = zip(*sorted(refusals), strict=True)
        async with self._shard.connection() as connection:
            await connection.execute(_REFUSE, *(list(column) for column in columns), float(LONGEST_BACKOFF))


def _schedule(row: Any) -> Schedule:
    planned = Planned(*row[:9])
    state, ended_at, failure = row[9:12]
    refusal = None
    if state == "open" and row[12] is not None:
        refusal = Refusal(*row[12:18])
    return Schedule(planned, state, ended_at, failure, refusal)
