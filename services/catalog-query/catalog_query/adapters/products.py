"""The table of products of a generation: read by id, written over what was folded upon, or filled by COPY."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

import asyncpg
from chassis.database.pool import Connection

from catalog_query.adapters.copying import ROWS, lines
from catalog_query.adapters.postgres import ReadModelShard, rows_of
from catalog_query.domain.errors import ReadModelDiverged
from catalog_query.domain.projection import PRODUCTS, Target
from catalog_query.domain.rows import ProductRow, StoredDocument

COLUMNS: Final = (
    ("product_id", "uuid", ""),
    ("kind", "text", ""),
    ("revision", "bigint", ""),
    ("sku", "text", ""),
    ("name_key", "text", ""),
    ("category", "text", ""),
    ("status", "text", ""),
    # As text: asyncpg takes numerics as text anyway, after a Decimal was made of them.
    ("price_amount", "text", "::numeric"),
    ("price_currency", "text", ""),
    ("make_key", "text", ""),
    ("model_key", "text", ""),
    ("model_year", "smallint", ""),
    ("doors", "smallint", ""),
    ("seats", "smallint", ""),
    ("payload_kg", "bigint", ""),
    ("gross_weight_kg", "bigint", ""),
    ("updated_at", "timestamptz", ""),
    ("document", "bytea", ""),
    ("search", "text", "::tsvector"),
)
"""Of `products`, in the order of `ProductRow`: the type that its values travel as, and what makes them the column's."""

_NAMES: Final = [name for name, _, _ in COLUMNS]

_UPDATE: Final = ", ".join(
    f"{name} = coalesce(change.search::tsvector, product.search)"
    if name == "search"
    else f"{name} = change.{name}{cast}"
    for name, _, cast in COLUMNS
    if name != "product_id"
)

# A row must be at the revision that was folded upon, or not be there: what is not merged tells that something else
# wrote the table. `ON CONFLICT` cannot see what a row was folded upon, as that is no column.
_MERGE: Final = (
    " AS product USING"  # noqa: S608 - made of the constants above
    f" unnest($1::bigint[], {', '.join(f'${n}::{kind}[]' for n, (_, kind, _) in enumerate(COLUMNS, start=2))})"
    f" AS change (base_revision, {', '.join(_NAMES)})"
    " ON product.product_id = change.product_id"
    f" WHEN MATCHED AND product.revision = change.base_revision THEN UPDATE SET {_UPDATE}"
    f" WHEN NOT MATCHED AND change.base_revision = -1 THEN INSERT ({', '.join(_NAMES)})"
    f" VALUES ({', '.join(f'change.{name}{cast}' for name, _, cast in COLUMNS)})"
)

# What is repaired is written over whatever there is.
_REPLACE: Final = (
    f" ({', '.join(_NAMES)}) VALUES"
    f" ({', '.join(f'${n}::{kind}{cast}' for n, (_, kind, cast) in enumerate(COLUMNS, start=1))})"
    f" ON CONFLICT (product_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _NAMES[1:])}"
)

_PIECE: Final = 500
"""Rows that are encoded at a time."""

_READ: Final = "SELECT product_id, document, revision FROM {table} WHERE product_id = ANY($1::uuid[])"


class ProductTable:
    """The products of one generation in one shard."""

    def __init__(self, shard: ReadModelShard, target: Target) -> None:
        self._shard = shard
        table = f"{target.schema}.products"
        self.read_statement = _READ.format(table=table)
        self.merge_statement = f"MERGE INTO {table}{_MERGE}"
        self._replace = f"INSERT INTO {table}{_REPLACE}"
        self._schema = target.schema

    async def read(self, product_ids: Sequence[UUID]) -> Mapping[UUID, StoredDocument]:
        """The documents of those products that there are."""
        async with self._shard.connection() as connection:
            rows = await connection.fetch(self.read_statement, product_ids)
        return {row[0]: StoredDocument(row[1], row[2]) for row in rows}

    async def merge(self, connection: Connection, rows: Sequence[ProductRow]) -> None:
        """Write rows over what they were folded upon.

        Raises:
            ReadModelDiverged: a row was not at the revision that it was folded upon.
        """
        # In pieces: encoding what a large batch says would keep reads waiting, which share this event loop.
        for start in range(0, len(rows), _PIECE):
            piece = rows[start : start + _PIECE]
            if rows_of(await connection.execute(self.merge_statement, *zip(*piece, strict=True))) != len(piece):
                raise ReadModelDiverged

    async def replace(self, connection: Connection, row: ProductRow) -> None:
        """Write a row over whatever there is."""
        await connection.execute(self._replace, *row[1:])

    async def copy(self, connection: Connection, rows: Sequence[ProductRow]) -> None:
        """Add rows of products that the table does not have, in the fastest way that there is.

        Raises:
            asyncpg.UniqueViolationError: it has one of them.
        """
        for start in range(0, len(rows), ROWS):
            source = lines(row[1:] for row in rows[start : start + ROWS])
            await connection.copy_to_table("products", schema_name=self._schema, columns=_NAMES, source=source)


class ServedProducts:
    """The products of the generation that is read, whichever that is at the moment."""

    def __init__(
        self, shard: ReadModelShard, generation: Callable[[], int], adopted: Callable[[], Awaitable[None]]
    ) -> None:
        self._shard = shard
        self._generation = generation
        self._adopted = adopted
        self._tables: dict[int, ProductTable] = {}

    async def read(self, product_ids: Sequence[UUID]) -> Mapping[UUID, StoredDocument]:
        """The documents of those products that there are."""
        generation = self._generation()
        table = self._tables.get(generation)
        if table is None:
            table = ProductTable(self._shard, Target(PRODUCTS, generation))
            self._tables = {generation: table}
        try:
            return await table.read(product_ids)
        except asyncpg.UndefinedTableError:
            # It was dropped before this process heard that another one serves.
            await self._adopted()
            if self._generation() == generation:
                raise
        return await self.read(product_ids)
