"""What the drift check reads and finds in one shard, and how one product is repaired."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from chassis.database.pool import Connection

from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.adapters.products import COLUMNS, ProductTable
from catalog_query.adapters.schedules import ScheduleTable
from catalog_query.domain.projection import Target
from catalog_query.domain.rows import ProductRow
from catalog_query.domain.schedules import Listed

_CHECK: Final = ", ".join(
    f"{name} IS NOT DISTINCT FROM ${number}::{kind}{cast}" for number, (name, kind, cast) in enumerate(COLUMNS, start=1)
)


@dataclass(frozen=True, slots=True)
class Drifted:
    """A product whose row is not the fold of its events."""

    product_id: UUID
    generation: int
    kind: str
    revision: int
    fields: Sequence[str]
    found_at: datetime
    seen_at: datetime


class DriftTable:
    """What was found of one generation of the products in one shard."""

    def __init__(self, shard: ReadModelShard, target: Target) -> None:
        self._shard = shard
        self._target = target
        self.products = ProductTable(shard, target)
        self.schedules = ScheduleTable(target)

    async def sample(self, table: str, *, after: UUID, limit: int) -> Sequence[UUID]:
        """Some products of a table: those that follow an id."""
        async with self._shard.connection() as connection:
            rows = await connection.fetch(
                f"SELECT DISTINCT product_id FROM {self._target.schema}.{table}"  # noqa: S608 - see `Target`
                " WHERE product_id >= $1 ORDER BY product_id LIMIT $2",
                after,
                limit,
            )
        return [row[0] for row in rows]

    async def revision(self, product_id: UUID) -> int | None:
        """The revision of a row, None when there is none."""
        async with self._shard.connection() as connection:
            return await connection.fetchval(
                f"SELECT revision FROM {self._target.schema}.products WHERE product_id = $1",  # noqa: S608 - as above
                product_id,
            )

    async def differing(self, row: ProductRow, listed: Sequence[Listed]) -> Sequence[str] | None:
        """The columns in which a row is not what it should be, and `schedules`, when what is planned beside it is not;
        None when it is of another revision by now, or gone.
        """
        async with self._shard.database.transaction(isolation="repeatable_read", readonly=True) as connection:
            same = await connection.fetchrow(
                f"SELECT {_CHECK} FROM {self._target.schema}.products"  # noqa: S608 - as above
                " WHERE product_id = $1 AND revision = $3",
                *row[1:],
            )
            planned = await self.schedules.of_product(connection, UUID(row.product_id))
        if same is None:
            return None
        found = [name for (name, _, _), equal in zip(COLUMNS, same, strict=True) if not equal]
        return found if planned == listed else [*found, "schedules"]

    async def record(self, product_id: UUID, *, kind: str, revision: int, fields: Sequence[str]) -> None:
        """Keep that a product has drifted."""
        async with self._shard.connection() as connection:
            await connection.execute(
                "INSERT INTO drift (projection, generation, product_id, kind, revision, fields)"
                " SELECT projection, generation, $3, $4, $5, $6 FROM generations"
                " WHERE projection = $1 AND generation = $2"
                " ON CONFLICT (projection, generation, product_id) DO UPDATE SET"
                " kind = excluded.kind, revision = excluded.revision, fields = excluded.fields, seen_at = now()",
                self._target.projection,
                self._target.generation,
                product_id,
                kind,
                revision,
                list(fields),
            )

    async def clear(self, product_id: UUID) -> None:
        """Forget that a product had drifted."""
        async with self._shard.connection() as connection:
            await connection.execute(
                "DELETE FROM drift WHERE projection = $1 AND generation = $2 AND product_id = $3",
                self._target.projection,
                self._target.generation,
                product_id,
            )

    async def page(self, *, after: UUID, limit: int) -> Sequence[Drifted]:
        """What has drifted, by product id."""
        async with self._shard.connection() as connection:
            rows = await connection.fetch(
                "SELECT product_id, generation, kind, revision, fields, found_at, seen_at FROM drift"
                " WHERE projection = $1 AND generation = $2 AND product_id > $3 ORDER BY product_id LIMIT $4",
                self._target.projection,
                self._target.generation,
                after,
                limit,
            )
        return [Drifted(*row) for row in rows]

    async def repair(
        self, product_id: UUID, row: ProductRow | None, listed: Sequence[Listed], *, sure: bool
    ) -> bool | None:
        """Write the row of a product as it must be, or take it away, and what is planned. Whether it was another one;
        None when it is ahead of what must be, which nothing was written over: read the log again, and come back `sure`
        if it says the same.

        Every projector of the generation in this shard is fenced off in the same transaction: none can write what it
        folded upon the row that was.
        """
        where = (self._target.projection, self._target.generation)
        async with self._shard.database.transaction() as connection:
            await connection.execute(
                "UPDATE checkpoints SET token = token + 1 WHERE projection = $1 AND generation = $2", *where
            )
            stored = await connection.fetchval(
                f"SELECT revision FROM {self._target.schema}.products WHERE product_id = $1 FOR UPDATE",  # noqa: S608 - as above
                product_id,
            )
            if stored is not None and not sure and (row is None or stored > row.revision):
                return None
            if row is None:
                changed = await connection.fetchval(
                    "SELECT remove_product($1, $2)", self._target.generation, product_id
                )
            else:
                changed = not await self._same(connection, row)
                if changed:
                    await self.products.replace(connection, row)
            changed |= await self.schedules.replace(connection, product_id, listed)
            await connection.execute(
                "DELETE FROM drift WHERE projection = $1 AND generation = $2 AND product_id = $3", *where, product_id
            )
            return changed

    async def _same(self, connection: Connection, row: ProductRow) -> bool:
        same = await connection.fetchrow(
            f"SELECT {_CHECK} FROM {self._target.schema}.products WHERE product_id = $1",  # noqa: S608 - as above
            *row[1:],
        )
        return same is not None and all(same)
