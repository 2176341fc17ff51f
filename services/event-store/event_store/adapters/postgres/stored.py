"""A shard as it is stored, column by column, for those who check it."""

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from event_store.adapters.postgres.connection import ShardDatabase
from event_store.application.derived import Unreadable
from event_store.application.verify import Counter
from event_store.domain.chain import StoredEvent

COLUMNS: Final = ", ".join(StoredEvent._fields)
"""The columns of `events` in the order of a `StoredEvent`."""

_SIZE: Final = "octet_length(payload) + octet_length(metadata) + 250"
_STORED: Final = f"""
    SELECT {COLUMNS} FROM (
        SELECT *, sum({_SIZE}) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - ({_SIZE}) AS before
        FROM public.events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3
    ) AS page WHERE before < $4 ORDER BY position
"""  # noqa: S608 - only our own constants
# One statement, hence one moment: an append moves the counter and adds its events together.
_COUNTER: Final = """
    SELECT h.position, h.hash, h.recorded_at,
        (SELECT e.position FROM public.events AS e WHERE e.position > h.position ORDER BY e.position LIMIT 1) AS beyond
    FROM public.head AS h
"""
_CORRUPT: Final = "XX"


class StoredRows(ShardDatabase):
    """What the database of one shard holds; see `verify.StoredLog`."""

    async def counter(self) -> Counter:
        """What the counter says."""
        async with self._asking() as connection:
            row: Any = await connection.fetchrow(_COUNTER)
        return Counter(*row)

    async def stored(self, *, after: int, until: int, limit: int, max_bytes: int) -> Sequence[StoredEvent]:
        """The first events after a position, with all that is stored of them."""
        try:
            async with self._asking() as connection:
                rows = await connection.fetch(_STORED, after, until, limit, max_bytes)
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "")[:2] == _CORRUPT:
                raise Unreadable(error.message) from error
            raise
        return [StoredEvent(*row) for row in rows]
