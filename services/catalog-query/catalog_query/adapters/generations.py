"""Generations in one shard: made, indexed, compared, switched to and dropped.

Tables are made and dropped by functions that the migrations left; the service's role has no other right to. Work that
one replica should do alone is done under an advisory lock, which goes when its transaction ends, however that happens.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

import asyncpg
import orjson
from chassis.database.pool import Connection

from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.domain.comparisons import Comparison, Difference, RowPair
from catalog_query.domain.errors import GenerationNotReady, GenerationServes, UnknownGeneration
from catalog_query.domain.projection import Target

_INDEX_SECONDS: Final = 3_600.0
_LOCK_SECONDS: Final = "5s"
_PIECE: Final = 200

_POINTER: Final = "SELECT serving FROM projections WHERE name = $1 FOR UPDATE"

# Whole rows by SQL, so that only what differs travels; a column that a migration adds is compared by itself.
_PAIRS: Final = (
    "SELECT {key}, {old_revision}, {new_revision}, to_jsonb(old), to_jsonb(new)"
    " FROM {old_table} AS old FULL JOIN {new_table} AS new USING ({columns})"
    " WHERE ROW(old.*) IS DISTINCT FROM ROW(new.*)"
)


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    key: Sequence[str]
    has_revision: bool


class GenerationsShard:
    """The generations of one shard of the read model."""

    def __init__(self, shard: ReadModelShard) -> None:
        self._shard = shard

    async def create(self, target: Target, *, by: str) -> bool:
        """Make an empty generation, unless it is there; whether it was made."""
        async with self._shard.connection() as connection:
            return await connection.fetchval(
                "SELECT create_generation($1, $2, $3)", target.projection, target.generation, by
            )

    async def finish(self, target: Target) -> bool:
        """Index a generation that was filled, and let it be read. Whether that is done: it may be under way elsewhere.

        Each index is a transaction of its own: a projector that waits for the table has its turn in between.
        """
        while True:
            async with self._shard.database.transaction() as connection:
                if not await _alone(connection, f"finish {target.schema}"):
                    return False
                await connection.execute("SET LOCAL statement_timeout = 0")
                await connection.execute("SET LOCAL maintenance_work_mem = '128MB'")
                more = await connection.fetchval(
                    "SELECT index_generation($1, $2)", target.projection, target.generation, timeout=_INDEX_SECONDS
                )
                if not more:
                    await connection.execute(
                        "UPDATE generations SET state = 'ready', ready_at = now()"
                        " WHERE projection = $1 AND generation = $2 AND state = 'filling'",
                        target.projection,
                        target.generation,
                    )
                    return True

    async def switch(self, target: Target, *, by: str, behind: int) -> int:
        """Let reads go to a generation, in one transaction; the one that was read before.

        Args:
            target: the generation.
            by: who switches.
            behind: how many positions of the log it may be behind the one that is read.

        Raises:
            UnknownGeneration: there is no such generation.
            GenerationNotReady: it is not filled and indexed, or too far behind.
        """
        name, number = target.projection, target.generation
        async with self._shard.database.transaction() as connection:
            serving = await connection.fetchval(_POINTER, name)
            if serving is None:
                raise UnknownGeneration(target)
            if serving == number:
                return serving
            await self._require_ready(connection, target, serving, behind)
            await connection.execute(
                "UPDATE projections SET serving = $2, epoch = epoch + 1, switched_at = now(), switched_by = $3"
                " WHERE name = $1",
                name,
                number,
                by,
            )
            return serving

    async def require_ready(self, target: Target, *, behind: int) -> None:
        """See that a generation could be switched to; errors as for `switch`."""
        async with self._shard.database.transaction() as connection:
            serving = await connection.fetchval(_POINTER, target.projection)
            if serving is None:
                raise UnknownGeneration(target)
            await self._require_ready(connection, target, serving, behind)

    @staticmethod
    async def _require_ready(connection: Connection, target: Target, serving: int, behind: int) -> None:
        name, number = target.projection, target.generation
        state = await connection.fetchval(
            "SELECT state FROM generations WHERE projection = $1 AND generation = $2", name, number
        )
        if state is None:
            raise UnknownGeneration(target)
        if state != "ready":
            raise GenerationNotReady(target, "it is being filled")
        lag = await connection.fetchval(
            "SELECT max(old.position - coalesce(new.position, 0)) FROM checkpoints AS old"
            " LEFT JOIN checkpoints AS new"
            " ON new.projection = old.projection AND new.generation = $3 AND new.event_shard = old.event_shard"
            " WHERE old.projection = $1 AND old.generation = $2",
            name,
            serving,
            number,
        )
        if lag is not None and lag > behind:
            raise GenerationNotReady(target, f"it is {lag} positions behind the one that is read")

    async def drop(self, target: Target) -> bool:
        """Drop a generation; whether there was one.

        Raises:
            GenerationServes: it is read.
        """
        try:
            async with self._shard.database.transaction() as connection:
                # Rather fail than hold up the reads that come after us in the queue for the table.
                await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}'")
                return await connection.fetchval("SELECT drop_generation($1, $2)", target.projection, target.generation)
        except asyncpg.ObjectInUseError as error:
            raise GenerationServes(target) from error
        except asyncpg.NoDataFoundError as error:
            raise UnknownGeneration(target) from error

    async def pairs(self, old: Target, new: Target) -> AsyncGenerator[Sequence[RowPair], None]:
        """The rows of two generations that differ, or that only one has, as they were at one moment."""
        async with self._shard.database.transaction(isolation="repeatable_read", readonly=True) as connection:
            await connection.execute("SET LOCAL statement_timeout = 0")
            table = await _table(connection, new.projection)
            piece: list[RowPair] = []
            async for row in connection.cursor(_pairs(table, old, new), prefetch=_PIECE, timeout=_INDEX_SECONDS):
                piece.append(_pair(row))
                if len(piece) == _PIECE:
                    yield piece
                    piece = []
            if piece:
                yield piece

    async def pairs_of(self, old: Target, new: Target, keys: Sequence[str]) -> Sequence[RowPair]:
        """As `pairs`, of some keys only."""
        async with self._shard.connection() as connection:
            table = await _table(connection, new.projection)
            statement = f"{_pairs(table, old, new)} AND {_key(table)} = ANY($1::text[])"
            return [_pair(row) for row in await connection.fetch(statement, keys)]

    async def count(self, target: Target) -> int:
        """How many rows a generation has."""
        async with self._shard.connection() as connection:
            table = await _table(connection, target.projection)
            statement = f"SELECT count(*) FROM {target.schema}.{table.name}"  # noqa: S608 - see `Target`
            return await connection.fetchval(statement, timeout=_INDEX_SECONDS)

    async def keep_comparison(self, target: Target, found: Comparison, differences: Sequence[Difference]) -> None:
        """Keep what a comparison found in place of what an earlier one did."""
        where = (target.projection, target.generation)
        async with self._shard.database.transaction() as connection:
            if not await connection.fetchval(
                "SELECT true FROM generations WHERE projection = $1 AND generation = $2 FOR SHARE", *where
            ):
                return
            await connection.execute("DELETE FROM comparisons WHERE projection = $1 AND generation = $2", *where)
            await connection.execute("DELETE FROM differences WHERE projection = $1 AND generation = $2", *where)
            await connection.execute(
                "INSERT INTO comparisons"
                " (projection, generation, against, compared, missing, extra, different, fields, began_at, ended_at)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9, $10)",
                *where,
                found.against,
                found.compared,
                found.missing,
                found.extra,
                found.different,
                orjson.dumps(found.fields).decode(),
                found.began_at,
                found.ended_at,
            )
            await connection.executemany(
                "INSERT INTO differences (projection, generation, key, field, kind, revision, before, after)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
                [(*where, one.key, one.field, one.kind, one.revision, one.before, one.after) for one in differences],
            )

    async def forget_comparison(self, target: Target) -> None:
        """Forget what the last comparison found."""
        where = (target.projection, target.generation)
        async with self._shard.database.transaction() as connection:
            await connection.execute("DELETE FROM comparisons WHERE projection = $1 AND generation = $2", *where)
            await connection.execute("DELETE FROM differences WHERE projection = $1 AND generation = $2", *where)

    async def comparison(self, target: Target) -> Comparison | None:
        """What the last comparison found."""
        async with self._shard.connection() as connection:
            row = await connection.fetchrow(
                "SELECT against, compared, missing, extra, different, fields::text, began_at, ended_at"
                " FROM comparisons WHERE projection = $1 AND generation = $2",
                target.projection,
                target.generation,
            )
        if row is None:
            return None
        return Comparison(
            *row[:5], fields=cast("Mapping[str, int]", orjson.loads(row[5])), began_at=row[6], ended_at=row[7]
        )

    async def differences(self, target: Target, *, after: tuple[str, str], limit: int) -> Sequence[Difference]:
        """What the last comparison kept, by key and field."""
        async with self._shard.connection() as connection:
            rows = await connection.fetch(
                "SELECT key, revision, kind, field, before, after FROM differences"
                " WHERE projection = $1 AND generation = $2 AND (key, field) > ($3, $4) ORDER BY key, field LIMIT $5",
                target.projection,
                target.generation,
                *after,
                limit,
            )
        return [Difference(*row) for row in rows]

    async def now(self) -> datetime:
        """What time it is in the database."""
        async with self._shard.connection() as connection:
            return await connection.fetchval("SELECT now()")

    async def drifted(self, target: Target) -> int:
        """How many products were found to have drifted."""
        async with self._shard.connection() as connection:
            return await connection.fetchval(
                "SELECT count(*) FROM drift WHERE projection = $1 AND generation = $2",
                target.projection,
                target.generation,
            )


async def _alone(connection: Connection, work: str) -> bool:
    return await connection.fetchval("SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))", work)


async def _table(connection: Connection, projection: str) -> _Table:
    row = await connection.fetchrow(
        "SELECT template, ARRAY(SELECT attname::text FROM pg_index, unnest(indkey)"
        " WITH ORDINALITY AS part (number, place)"
        " JOIN pg_attribute ON attnum = part.number WHERE attrelid = indrelid AND indisprimary"
        " AND indrelid = to_regclass('public.' || template) ORDER BY part.place) AS key,"
        " EXISTS(SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.' || template) AND attname = 'revision')"
        " FROM projections WHERE name = $1",
        projection,
    )
    if row is None:
        raise UnknownGeneration(Target(projection))
    return _Table(*cast("tuple[Any, Any, Any]", tuple(row)))


def _key(table: _Table) -> str:
    return " || '/' || ".join(f"{column}::text" for column in table.key)


def _pairs(table: _Table, old: Target, new: Target) -> str:
    return _PAIRS.format(
        key=_key(table),
        old_revision="old.revision" if table.has_revision else "0",
        new_revision="new.revision" if table.has_revision else "0",
        old_table=f"{old.schema}.{table.name}",
        new_table=f"{new.schema}.{table.name}",
        columns=", ".join(table.key),
    )


def _pair(row: Any) -> RowPair:
    key, old_revision, new_revision, old, new = row
    return RowPair(
        key=key,
        old_revision=old_revision,
        new_revision=new_revision,
        old=None if old is None else orjson.loads(old),
        new=None if new is None else orjson.loads(new),
    )
