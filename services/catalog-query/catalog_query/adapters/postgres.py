"""One shard of the read model, by asyncpg: what is hot, and what must be atomic.

Rows and checkpoint commit together, with a compare-and-set on the checkpoint and its owner, so that each event takes
effect exactly once whatever is killed, and of two projectors one always loses. The owner's lease only saves the loser
its work; being right does not depend on it, nor on any clock.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

import asyncpg
from chassis.database.pool import Connection, Database
from chassis.errors import Unavailable

from catalog_query.domain.errors import CheckpointMoved, ReadModelDiverged, UnwritableRows
from catalog_query.domain.rows import ProductRow, StoredDocument

_COLUMNS: Final = (
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

_NAMES: Final = [name for name, _, _ in _COLUMNS]

_UPDATE: Final = ", ".join(
    f"{name} = coalesce(change.search::tsvector, product.search)"
    if name == "search"
    else f"{name} = change.{name}{cast}"
    for name, _, cast in _COLUMNS
    if name != "product_id"
)

# A row must be at the revision that was folded upon, or not be there: what is not merged tells that something else
# wrote the table. `ON CONFLICT` cannot see what a row was folded upon, as that is no column.
_MERGE: Final = (
    "MERGE INTO products AS product USING"  # noqa: S608 - made of the constants above
    f" unnest($1::bigint[], {', '.join(f'${n}::{kind}[]' for n, (_, kind, _) in enumerate(_COLUMNS, start=2))})"
    f" AS change (base_revision, {', '.join(_NAMES)})"
    " ON product.product_id = change.product_id"
    f" WHEN MATCHED AND product.revision = change.base_revision THEN UPDATE SET {_UPDATE}"
    f" WHEN NOT MATCHED AND change.base_revision = -1 THEN INSERT ({', '.join(_NAMES)})"
    f" VALUES ({', '.join(f'change.{name}{cast}' for name, _, cast in _COLUMNS)})"
)

_ADVANCE: Final = (
    "UPDATE checkpoints SET position = $4, updated_at = now() WHERE event_shard = $1 AND owner = $2 AND position = $3"
)

# Whoever asks gets it, unless another owner has shown life within the lease.
_CLAIM: Final = (
    "INSERT INTO checkpoints AS held (event_shard, owner) VALUES ($1, $2)"
    " ON CONFLICT (event_shard) DO UPDATE SET owner = excluded.owner, updated_at = now()"
    " WHERE held.owner IN (excluded.owner, '') OR held.updated_at < now() - make_interval(secs => $3)"
    " RETURNING position"
)


class ReadModelShard:
    """The tables of one shard."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Connection]:
        """A connection; one that is lost while it is used says so as one that cannot be had does."""
        try:
            async with self._database.connection() as connection:
                yield connection
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError) as error:
            raise Unavailable("The database cannot be reached; try again later.", reason="DATABASE_DOWN") from error

    async def read(self, product_ids: Sequence[UUID]) -> Mapping[UUID, StoredDocument]:
        """The documents of those products that there are."""
        async with self._connection() as connection:
            rows = await connection.fetch(
                "SELECT product_id, document, revision FROM products WHERE product_id = ANY($1::uuid[])", product_ids
            )
        return {row[0]: StoredDocument(row[1], row[2]) for row in rows}

    async def checkpoints(self) -> Mapping[int, int]:
        """The position up to which each shard of the log is applied."""
        async with self._connection() as connection:
            rows = await connection.fetch("SELECT event_shard, position FROM checkpoints")
        return {row[0]: row[1] for row in rows}

    async def claim(self, *, event_shard: int, owner: str, lease: float) -> int | None:
        """Become the one who applies a shard of the log. Answers the checkpoint, or None while another owner lives.

        Args:
            event_shard: the shard of the log.
            owner: who asks.
            lease: for how many seconds a silent owner is taken to be alive.
        """
        async with self._connection() as connection:
            return await connection.fetchval(_CLAIM, event_shard, owner, lease)

    async def release(self, *, event_shard: int, owner: str) -> None:
        """Let somebody else apply it, at once."""
        async with self._connection() as connection:
            await connection.execute(
                "UPDATE checkpoints SET owner = '' WHERE event_shard = $1 AND owner = $2", event_shard, owner
            )

    async def write(self, *, event_shard: int, owner: str, before: int, after: int, rows: Sequence[ProductRow]) -> None:
        """Write rows and move the checkpoint from `before` to `after`, both or neither.

        Raises:
            CheckpointMoved: the checkpoint was not at `before`, or somebody else owns it.
            ReadModelDiverged: a row was not at the revision that it was folded upon.
            UnwritableRows: Postgres does not take what a row holds.
        """
        try:
            async with self._database.transaction() as connection:
                if await connection.execute(_ADVANCE, event_shard, owner, before, after) != "UPDATE 1":
                    raise CheckpointMoved(event_shard=event_shard, position=before)
                if rows and await connection.execute(_MERGE, *zip(*rows, strict=True)) != f"MERGE {len(rows)}":
                    raise ReadModelDiverged(event_shard=event_shard, after=before, last=after)
        except (asyncpg.DataError, asyncpg.CheckViolationError, asyncpg.NotNullViolationError) as error:
            raise UnwritableRows(event_shard=event_shard, after=before, last=after) from error
