"""What asking and telling the Postgres of one shard have in common: connections, and what their failures mean."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from chassis.database.pool import Database
from chassis.errors import Unavailable

from event_store.application.append_loop import NotWritten

# What the server says when it cannot write now, by class: the transaction is over, and nothing of it was kept.
PASSING: Final = frozenset({"08", "25", "40", "53", "55", "57", "58"})


class ShardDatabase:
    """The database of one shard. `append_seconds` is how long a transaction may take before its connection is given
    up.
    """

    def __init__(self, database: Database, shard: int, *, append_seconds: float = 10.0) -> None:
        self._database = database
        self._shard = shard
        self._append_seconds = append_seconds

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Any, None]:
        try:
            async with self._database.connection() as connection:
                yield connection
        except Unavailable as error:
            raise NotWritten from error

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[Any, None]:
        """A connection to append by: one batch comes after the other, so it is kept for the next."""
        try:
            async with self._database.kept() as connection:
                yield connection
        except Unavailable as error:
            raise NotWritten from error

    @asynccontextmanager
    async def _asking(self) -> AsyncGenerator[Any, None]:
        """A connection to read by. Whatever keeps the shard from answering is `NotWritten`: reading writes nothing."""
        try:
            async with self._connection() as connection:
                yield connection
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
            raise NotWritten from error
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "")[:2] in PASSING:
                raise NotWritten from error
            raise


async def plan_once(connection: Any) -> None:
    """Let a connection plan each statement once, and by index, whatever the size of the tables was then.

    Left to itself Postgres plans the larger reads anew each time, which takes longer than to carry them out: 0.79 ms
    for a short stream by a batch read, and 0.17 ms so.
    """
    await connection.execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")
