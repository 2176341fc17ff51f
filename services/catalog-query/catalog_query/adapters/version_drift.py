"""What the drift check reads of versions, and how those of one product are repaired."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from chassis.database.pool import Connection

from catalog_query.adapters.postgres import ReadModelShard, Write
from catalog_query.adapters.products import COLUMNS
from catalog_query.adapters.versions import VersionTable
from catalog_query.domain.projection import Target
from catalog_query.domain.rows import ProductRow
from catalog_query.domain.versions import FOREVER, Believed, told

_OF_PRODUCT: Final = (
    "SELECT "  # noqa: S608 - made of the constants above
    f"{', '.join(f'{name}::text' if cast else name for name, _, cast in COLUMNS)},"
    " valid_from, nullif(valid_to, 'infinity'), recorded_from, nullif(recorded_to, 'infinity'),"
    " nullif(superseded_at, 'infinity'), planned FROM {table} WHERE product_id = $1"
)
_SEEN: Final = "SELECT coalesce(max(made_by), -1) FROM {table} WHERE product_id = $1"
_ANY_BASE: Final = -1
_TIMES: Final = 6
"""The columns that say when a version holds, which follow those of the product."""


class VersionDrift:
    """The versions of one generation in one shard, product by product."""

    def __init__(self, shard: ReadModelShard, target: Target) -> None:
        self._shard = shard
        self._target = target
        self.versions = VersionTable(shard, target)
        table = f"{target.schema}.product_versions"
        self._of_product = _OF_PRODUCT.format(table=table)
        self._seen = _SEEN.format(table=table)

    async def told(self, product_id: UUID) -> tuple[int, Sequence[Believed]]:
        """The last revision that the versions of a product know, -1 when there are none; and what they tell."""
        async with self._shard.database.transaction(isolation="repeatable_read", readonly=True) as connection:
            return await self._told(connection, product_id)

    async def _told(self, connection: Connection, product_id: UUID) -> tuple[int, Sequence[Believed]]:
        seen = await connection.fetchval(self._seen, product_id)
        rows = [tuple(row) for row in await connection.fetch(self._of_product, product_id)]
        return seen, told([_believed(row) for row in rows])

    async def as_stored(self, rows: Sequence[Believed]) -> Sequence[Believed]:
        """Rows with their words and amounts in the form in which they are read."""
        async with self._shard.connection() as connection:
            return await _as_stored(connection, rows)

    async def repair(
        self, product_id: UUID, write: Write | None, rows: Sequence[Believed], *, made_by: int, sure: bool
    ) -> bool | None:
        """Write the versions of a product as they must be. Whether they were others; None when they are ahead of what
        must be, which nothing was written over: read the log again, and come back `sure` if it says the same.

        Every projector of the generation in this shard is fenced off in the same transaction.

        Args:
            product_id: the product.
            write: writes them where there are none.
            rows: what must be told by them.
            made_by: the last revision that they know.
            sure: whether the log has been read twice.
        """
        where = (self._target.projection, self._target.generation)
        async with self._shard.database.transaction() as connection:
            await connection.execute(
                "UPDATE checkpoints SET token = token + 1 WHERE projection = $1 AND generation = $2", *where
            )
            seen, stored = await self._told(connection, product_id)
            if seen > made_by and not sure:
                return None
            changed = seen != made_by or stored != await _as_stored(connection, rows)
            if changed:
                await connection.execute("SELECT remove_versions($1, $2)", self._target.generation, product_id)
                if write is not None:
                    await write(connection)
            await connection.execute(
                "DELETE FROM drift WHERE projection = $1 AND generation = $2 AND product_id = $3", *where, product_id
            )
            return changed


async def _as_stored(connection: Connection, rows: Sequence[Believed]) -> Sequence[Believed]:
    words = await connection.fetch(
        "SELECT words::tsvector::text FROM unnest($1::text[]) WITH ORDINALITY AS one (words, place) ORDER BY place",
        [row.product.search for row in rows],
    )
    return [
        _canonical(row._replace(product=row.product._replace(base_revision=_ANY_BASE, search=found[0])))
        for row, found in zip(rows, words, strict=True)
    ]


def _believed(row: tuple[Any, ...]) -> Believed:
    product = ProductRow(_ANY_BASE, str(row[0]), *row[1:-_TIMES])
    valid_from, valid_to, recorded_from, recorded_to, superseded_at, planned = row[-_TIMES:]
    return _canonical(
        Believed(
            product=product,
            valid_from=valid_from,
            valid_to=valid_to or FOREVER,
            recorded_from=recorded_from,
            recorded_to=recorded_to or FOREVER,
            superseded_at=superseded_at or FOREVER,
            planned=planned,
        )
    )


def _canonical(row: Believed) -> Believed:
    amount = row.product.price_amount
    if amount is None:
        return row
    return row._replace(product=row.product._replace(price_amount=format(Decimal(amount).normalize(), "f")))
