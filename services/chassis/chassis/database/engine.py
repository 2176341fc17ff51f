"""A SQLAlchemy engine on the same guarded asyncpg connections, for models and composed queries.

SQLAlchemy wraps a driver that it believes to be told of every BEGIN and COMMIT. When a task is cancelled inside a BEGIN
it is not, and hands the connection to the next user with a transaction open on it (sqlalchemy #13381). The connections
here close themselves in that case, commits come to their end, and what is given back is looked at once more.
"""

from typing import Any

import asyncpg
import structlog
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from chassis.database import metrics
from chassis.database.certificates import ClientCertificate
from chassis.database.connection import LOST, GuardedConnection, connect, is_clean
from chassis.errors import Unavailable

_logger = structlog.stdlib.get_logger(__name__)


class _Pool(AsyncAdaptedQueuePool):
    """A pool that says `Unavailable` when no connection is free in time, as the other one does."""

    def _do_get(self) -> Any:
        try:
            return super()._do_get()
        except PoolTimeoutError as error:
            raise Unavailable("The database is busy; try again later.", reason="DATABASE_BUSY") from error


def create_engine(
    dsn: str,
    *,
    name: str,
    size: int = 8,
    statement_timeout: float = 10.0,
    acquire_timeout: float = 2.0,
    application_name: str = "almagest",
    **options: Any,
) -> AsyncEngine:
    """An engine for one database. It connects on first use.

    Args:
        dsn: Where, in asyncpg's form (not SQLAlchemy's), as for `Database`.
        name: What the metrics call it.
        size: The most connections.
        statement_timeout: Seconds after which a statement is ended by the server.
        acquire_timeout: Seconds to wait for a free connection.
        application_name: What Postgres calls the connections.
        **options: Any others of SQLAlchemy's `create_async_engine`.
    """
    certificate = ClientCertificate(dsn)

    async def creator(*_arguments: Any, **_options: Any) -> GuardedConnection:
        # Before the files are read: a connection that is taken for older than it is, is only made anew too early.
        signature = certificate.signature()
        try:
            made = await connect(dsn, application_name=application_name, statement_seconds=statement_timeout)
        except (OSError, *LOST, asyncpg.TooManyConnectionsError) as error:
            _logger.warning("a database cannot be reached", database=name, problem=str(error))
            raise Unavailable("The database cannot be reached; try again later.", reason="DATABASE_DOWN") from error
        made.made_with = signature
        return made

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=creator,
        poolclass=_Pool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=acquire_timeout,
        pool_use_lifo=True,
        pool_recycle=1800,
        **options,
    )
    _guard(engine, name, size, certificate)
    return engine


def _guard(engine: AsyncEngine, name: str, size: int, certificate: ClientCertificate) -> None:
    metrics.pool_size.labels(name).set(size)
    in_use = metrics.pool_in_use.labels(name)
    discarded = metrics.discarded.labels(name)
    pool = engine.sync_engine.pool

    def connected(_dbapi_connection: Any, record: Any) -> None:
        record.info["fresh"] = True

    def checked_out(dbapi_connection: Any, record: Any, _proxy: Any) -> None:
        if not is_clean(dbapi_connection.driver_connection):
            # The pool then takes another one.
            raise DisconnectionError("the connection was not left clean")
        # One that was just made is good, also when the certificate was replaced under its making.
        fresh = record.info.pop("fresh", False)
        if certificate and not fresh and dbapi_connection.driver_connection.made_with != certificate.signature():
            raise DisconnectionError("the client certificate has been replaced")
        in_use.inc()

    def checked_in(dbapi_connection: Any, record: Any) -> None:
        in_use.dec()
        if dbapi_connection is not None and not is_clean(dbapi_connection.driver_connection):
            discarded.inc()
            dbapi_connection.driver_connection.terminate()
            record.invalidate()

    def failed(context: Any) -> None:
        original = context.original_exception
        if isinstance(original, LOST) or (
            context.is_disconnect and isinstance(context.sqlalchemy_exception, DBAPIError)
        ):
            context.is_disconnect = True
            _logger.warning("a connection to a database was lost", database=name, problem=str(original))
            raise Unavailable("The database cannot be reached; try again later.", reason="DATABASE_DOWN") from original

    event.listen(pool, "connect", connected)
    event.listen(pool, "checkout", checked_out)
    event.listen(pool, "checkin", checked_in)
    event.listen(engine.sync_engine, "handle_error", failed)


def sessions(engine: AsyncEngine, **options: Any) -> async_sessionmaker[AsyncSession]:
    """A maker of sessions whose objects stay readable after a commit."""
    return async_sessionmaker(engine, expire_on_commit=False, **options)
