"""A database that cannot be reached is one error, `Unavailable`, whichever of the many forms it takes in the driver."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from chassis.database.pool import Connection, Database
from chassis.errors import Unavailable

_OUT_OF_REACH = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


@asynccontextmanager
async def connected(database: Database) -> AsyncGenerator[Connection]:
    """A connection for statements that each commit by themselves.

    Raises:
        Unavailable: The database cannot be reached; whether a statement that was sent took effect is not known.
    """
    try:
        async with database.connection() as connection:
            yield connection
    except _OUT_OF_REACH as error:
        raise Unavailable("The database cannot be reached; try again later.", reason="DATABASE_DOWN") from error


@asynccontextmanager
async def transacting(database: Database) -> AsyncGenerator[Connection]:
    """A connection inside a transaction.

    Raises:
        Unavailable: The database cannot be reached; whether the transaction was committed is not known.
    """
    try:
        async with database.transaction() as connection:
            yield connection
    except _OUT_OF_REACH as error:
        raise Unavailable("The database cannot be reached; try again later.", reason="DATABASE_DOWN") from error
