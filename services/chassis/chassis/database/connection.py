"""A connection that a cancelled task cannot leave in an unknown state.

asyncio cancels a task wherever it waits, and a request that is given up waits most often for Postgres. Three things go
wrong then with a pool: a BEGIN that was sent but not answered leaves a transaction that nobody knows of, and what a
later user of the connection commits in it is not committed at all (sqlalchemy #13381); a statement that still runs
answers the next user; a COMMIT that is cut off may or may not have happened.

So on this connection BEGIN and ROLLBACK either finish or the connection is closed, and COMMIT always finishes,
cancelled or not: a caller that was told of a commit had it. Both the pool and the SQLAlchemy engine use it.
"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg.transaction import Transaction

from chassis.database.certificates import Signature, connect_by_files

COMMIT_SECONDS = 10.0
ROLLBACK_SECONDS = 5.0

LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    # What asyncpg says between the server's last word and the end of the connection.
    asyncpg.InternalClientError,
    ConnectionError,
    # The socket of a server that is not up.
    FileNotFoundError,
)
"""The errors that say that the server is not there, or not any more."""

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection


async def finished(work: Coroutine[Any, Any, Any], *, seconds: float) -> None:
    """Let work finish even when this task is cancelled meanwhile; the cancellation is raised afterwards.

    Raises:
        TimeoutError: The work took longer than `seconds`, and was cancelled.
    """

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await work

    task = asyncio.ensure_future(bounded())
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001 - raised below, from the task itself
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    task.result()


class GuardedTransaction(Transaction):
    """A transaction whose end is never in doubt on our side."""

    async def start(self) -> None:
        """Begin, or close the connection if that is interrupted."""
        try:
            await super().start()
        except asyncpg.PostgresError:
            raise
        except BaseException:
            self._connection.terminate()
            raise

    async def commit(self) -> None:
        """Commit, to its end. If it cannot be brought to an end, the connection is closed."""
        try:
            await finished(super().commit(), seconds=COMMIT_SECONDS)
        except asyncpg.PostgresError:
            raise
        except BaseException:
            if self._connection.is_closed() or self._connection.is_in_transaction():
                self._connection.terminate()
            raise

    async def rollback(self) -> None:
        """Roll back, to its end. If it cannot be brought to an end, the connection is closed, which rolls back too."""
        if self._connection.is_closed():
            return
        try:
            await finished(super().rollback(), seconds=ROLLBACK_SECONDS)
        except asyncpg.PostgresError:
            raise
        except BaseException:
            if self._connection.is_closed() or self._connection.is_in_transaction():
                self._connection.terminate()
            raise


class GuardedConnection(_Connection):
    """An asyncpg connection whose transactions are guarded."""

    made_with: Signature = None
    """The client certificate that it was made with, where the pool keeps account of that."""

    def transaction(self, *, isolation: Any = None, readonly: bool = False, deferrable: bool = False) -> Transaction:
        """A transaction, to be started."""
        self._check_open()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - as asyncpg does
        return GuardedTransaction(self, isolation, readonly, deferrable)


def is_clean(connection: _Connection) -> bool:
    """Whether the next user of a connection would find it as the first one did."""
    protocol: Any = connection._protocol  # noqa: SLF001 # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage] - asyncpg tells in no other way
    return (
        not connection.is_closed() and not connection.is_in_transaction() and not protocol._is_cancelling()  # noqa: SLF001
    )


async def connect(
    dsn: str, *, application_name: str, statement_seconds: float, connect_seconds: float = 5.0
) -> GuardedConnection:
    """A guarded connection. Statements that take longer than `statement_seconds` are ended by the server."""
    return await connect_by_files(
        dsn,
        timeout=connect_seconds,
        command_timeout=statement_seconds + 1.0,
        connection_class=GuardedConnection,
        server_settings=server_settings(application_name, statement_seconds),
    )


def server_settings(application_name: str, statement_seconds: float) -> dict[str, str]:
    """What each connection of ours asks of the server."""
    return {
        "application_name": application_name,
        "statement_timeout": str(int(statement_seconds * 1000)),
        # A task that dies between two statements of a transaction must not hold its locks for ever.
        "idle_in_transaction_session_timeout": str(int(max(statement_seconds, 10.0) * 1000)),
        # A connection that we closed in the middle of a statement takes its statement with it.
        "client_connection_check_interval": "500",
        "timezone": "UTC",
        # What we send is small and often the same: compiling it costs more than it saves.
        "jit": "off",
    }
