"""A pool of Postgres connections for the hot paths, without the reset query and safe under cancellation.

asyncpg resets a connection with a query of its own each time it is given back: one more round trip per use. Nothing
that we do outlives a transaction on a connection, so the reset is left out, and a connection whose user did not leave
cleanly is closed instead.
"""

import asyncio
import contextvars
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import structlog

from chassis.database import metrics
from chassis.database.certificates import ClientCertificate, connect_by_files
from chassis.database.connection import LOST, GuardedConnection, is_clean, server_settings
from chassis.deadlines import timeout_for
from chassis.errors import DeadlineExceeded, Unavailable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

_CONNECT_SECONDS = 5.0
_IDLE_SECONDS = 300.0
_LOOK_SECONDS = 0.5
_logger = structlog.stdlib.get_logger(__name__)


async def _no_reset(_connection: Any) -> None:
    """Instead of asyncpg's reset query; see above."""


class Database:
    """One Postgres database: a pool, and the two ways to use it."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, name: str, size: int, acquire_timeout: float) -> None:
        self._pool = pool
        self._acquire_timeout = acquire_timeout
        self._rotating: asyncio.Task[None] | None = None
        self._kept: list[_Kept] = []
        self._most_kept = size // 2
        self._generation = 0
        self.name = name
        self._in_use = metrics.pool_in_use.labels(name)
        self._wait = metrics.pool_wait.labels(name)
        self._discarded = metrics.discarded.labels(name)
        metrics.pool_size.labels(name).set(size)

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        name: str,
        size: int = 8,
        statement_timeout: float = 10.0,
        acquire_timeout: float = 2.0,
        application_name: str = "almagest",
        min_size: int = 1,
        init: Any = None,
    ) -> Self:
        """Open a pool; the first connections are made at once, so that a wrong DSN shows at start.

        Args:
            dsn: Where, in asyncpg's form.
            name: What the metrics call it.
            size: The most connections.
            statement_timeout: Seconds after which a statement is ended by the server.
            acquire_timeout: Seconds to wait for a free connection, or less when the present call has less.
            application_name: What Postgres calls the connections.
            min_size: How many connections are opened at once and kept.
            init: Called with each new connection.

        Raises:
            OSError, asyncpg.PostgresError: The database cannot be reached, or refuses us.
        """
        pool = await asyncpg.create_pool(
            dsn,
            min_size=min(min_size, size),
            max_size=size,
            max_queries=1_000_000,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
            timeout=_CONNECT_SECONDS,
            command_timeout=statement_timeout + 1.0,
            connection_class=GuardedConnection,
            server_settings=server_settings(application_name, statement_timeout),
            reset=_no_reset,
            init=init,
            connect=connect_by_files,
        )
        database = cls(pool, name=name, size=size, acquire_timeout=acquire_timeout)
        certificate = ClientCertificate(dsn)
        if certificate:
            database._rotating = asyncio.create_task(
                certificate.watch(database.expire, _LOOK_SECONDS), context=contextvars.Context()
            )
        return database

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """A connection for statements that each commit by themselves.

        When the block is cancelled, or a statement of it times out, the connection is closed instead of reused.

        Raises:
            Unavailable: No connection is free in time, or the database cannot be reached or went away (reason
                `DATABASE_DOWN`: whether a statement that was sent took effect is not known).
            DeadlineExceeded: The present call has no time left, or a statement took too long.
        """
        proxy: Any = await self._acquire()
        raw: Connection = proxy._con  # noqa: SLF001 - what the proxy stands for
        self._in_use.inc()
        clean = False
        try:
            yield proxy
            clean = True
        except LOST as error:
            _logger.warning("a connection to a database was lost", database=self.name, problem=str(error))
            raise Unavailable("The database cannot be reached; try again later.", reason="DATABASE_DOWN") from error
        except asyncpg.InterfaceError as error:
            # How asyncpg tells that the connection went away between two statements, beside misuse of its interface.
            if not raw.is_closed():
                clean = True
                raise
            raise Unavailable("The database cannot be reached; try again later.", reason="DATABASE_DOWN") from error
        except asyncpg.QueryCanceledError as error:
            clean = True
            raise DeadlineExceeded("The database took too long.", reason="DATABASE_SLOW") from error
        except Exception as error:
            clean = not isinstance(error, TimeoutError | OSError)
            raise
        finally:
            self._in_use.dec()
            if not (clean and is_clean(raw)):
                self._discarded.inc()
                raw.terminate()
            await self._pool.release(proxy)

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[Connection]:
        """As `connection`, but what this block leaves clean waits for the next block of this kind instead of going back
        to the pool: for a loop that sends one statement after the other. To take a connection from the pool and to give
        it back costs as much as a small statement.

        At most half of the pool is kept so; the rest remains for everybody else.
        """
        kept = await self._take()
        try:
            yield kept.connection
        except BaseException as error:
            if not await kept.use.__aexit__(type(error), error, error.__traceback__):
                raise
        else:
            if kept.generation == self._generation and len(self._kept) < self._most_kept and is_clean(kept.raw):
                kept.since = time.monotonic()
                self._kept.append(kept)
            else:
                await kept.use.__aexit__(None, None, None)

    async def _take(self) -> "_Kept":
        while self._kept:
            kept = self._kept.pop()
            if kept.raw.is_closed() or time.monotonic() - kept.since > _IDLE_SECONDS:
                kept.raw.terminate()
                await kept.use.__aexit__(None, None, None)
            else:
                return kept
        use = self.connection()
        proxy: Any = await use.__aenter__()
        return _Kept(proxy, proxy._con, use, self._generation)  # noqa: SLF001 - what the proxy stands for, until it is lost

    async def _give_back(self) -> None:
        """Keep none any more of the connections that were taken before now."""
        self._generation += 1
        while self._kept:
            await self._kept.pop().use.__aexit__(None, None, None)

    async def _acquire(self) -> Any:
        seconds = timeout_for(self._acquire_timeout)
        began = time.perf_counter()
        try:
            return await self._pool.acquire(timeout=seconds)
        except TimeoutError as error:
            raise Unavailable("The database is busy; try again later.", reason="DATABASE_BUSY") from error
        except (OSError, *LOST, asyncpg.TooManyConnectionsError) as error:
            _logger.warning("a database cannot be reached", database=self.name, problem=str(error))
            raise Unavailable("The database cannot be reached; try again later.", reason="DATABASE_DOWN") from error
        except asyncpg.InterfaceError as error:
            raise Unavailable("The service is shutting down.") from error
        finally:
            self._wait.observe(time.perf_counter() - began)

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncGenerator[Connection]:
        """A connection inside a transaction that commits when the block ends and rolls back when it raises.

        A commit that has begun is brought to its end also when the task is cancelled meanwhile. `options` are
        asyncpg's: `isolation`, `readonly`, `deferrable`.
        """
        async with self.connection() as connection:
            transaction = connection.transaction(**options)
            await transaction.start()
            try:
                yield connection
            except Exception:
                await transaction.rollback()
                raise
            except BaseException:
                connection.terminate()
                raise
            await transaction.commit()

    async def ping(self) -> None:
        """A readiness probe: raises when the database does not answer."""
        async with self.connection() as connection:
            await connection.fetchval("select 1")

    async def expire(self) -> None:
        """Have every connection replaced by a new one, as when the client certificate has changed: those that are in
        use when they come back, the others now. Nobody waits and no statement fails.
        """
        await self._give_back()
        await self._pool.expire_connections()
        holders: Any = self._pool._holders  # noqa: SLF001 # pyright: ignore[reportAttributeAccessIssue] - asyncpg closes idle ones by age only
        for holder in holders:
            if holder.is_idle() and holder.is_connected():
                holder.terminate()
        _logger.info("connections to a database are made anew", database=self.name)

    async def close(self, grace: float = 5.0) -> None:
        """Wait until what is lent comes back, and close; after `grace` seconds close anyway."""
        if self._rotating is not None:
            self._rotating.cancel()
            await asyncio.gather(self._rotating, return_exceptions=True)
        try:
            async with asyncio.timeout(grace):
                await self._give_back()
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


@dataclass(slots=True)
class _Kept:
    """A connection between two blocks, and the use of it that has not ended."""

    connection: Connection
    raw: Connection
    use: AbstractAsyncContextManager[Connection]
    generation: int
    since: float = 0.0
