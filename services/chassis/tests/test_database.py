"""The pool and the engine against real Postgres: waiting and failing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from almagest_cli.local.postgres import EmbeddedPostgres
from chassis.database.engine import create_engine
from chassis.database.pool import Database
from chassis.deadlines import set_deadline
from chassis.errors import DeadlineExceeded, Unavailable
from sqlalchemy import text


@pytest.fixture
async def dsn(postgres: Any) -> AsyncIterator[str]:
    created = postgres.create_database()
    yield created
    postgres.drop_database(created)


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    opened = await Database.open(
        dsn, name="test", size=1, acquire_timeout=0.2, statement_timeout=0.3, application_name="pooled"
    )
    yield opened
    await opened.close()


async def test_a_transaction_that_fails_leaves_nothing_and_keeps_its_connection(database: Database) -> None:
    """An error of the application rolls back; the same connection serves the next."""
    async with database.connection() as connection:
        await connection.execute("create table t (n int)")
        process = connection.get_server_pid()
    with pytest.raises(LookupError):
        async with database.transaction() as connection:
            await connection.execute("insert into t values (1)")
            raise LookupError
    with pytest.raises(asyncpg.UndefinedTableError):
        async with database.transaction() as connection:
            await connection.execute("insert into nothing values (1)")
    async with database.transaction() as connection:
        assert await connection.fetchval("select count(*) from t") == 0
        assert connection.get_server_pid() == process


async def test_giving_a_connection_back_costs_no_query(database: Database, postgres: Any, dsn: str) -> None:
    """The reset query of asyncpg would be a round trip per use."""
    async with database.connection() as connection:
        await connection.execute("select 'the last query'")
    watcher = await asyncpg.connect(dsn)
    last = await watcher.fetchval("select query from pg_stat_activity where application_name = 'pooled'")
    await watcher.close()
    assert last == "select 'the last query'"


async def test_waiting_for_a_connection_ends(database: Database, dsn: str) -> None:
    """With all connections lent, both pools say Unavailable in time, and the deadline of the call counts too."""
    async with database.connection():
        with pytest.raises(Unavailable) as busy:
            async with database.connection():
                pass
        assert busy.value.reason == "DATABASE_BUSY"

        async def late() -> None:
            set_deadline(0.01)
            async with database.connection():
                pass

        with pytest.raises(DeadlineExceeded):
            await asyncio.create_task(late())
    await database.ping()
    engine = create_engine(dsn, name="test", size=1, acquire_timeout=0.1)
    async with engine.connect():
        with pytest.raises(Unavailable):
            async with engine.connect():
                pass
    await engine.dispose()


async def test_a_kept_connection_is_used_again_and_never_keeps_others_waiting(dsn: str) -> None:
    """Block after block has the same one; half of the pool stays free, and closing waits for none that is kept."""
    database = await Database.open(dsn, name="keeping", size=2, acquire_timeout=0.2)
    async with database.kept() as first:
        process = first.get_server_pid()
    for _ in range(3):
        async with database.kept() as again, database.connection() as other:
            assert again.get_server_pid() == process != other.get_server_pid()
    # Two at once: one of them goes back.
    async with database.kept(), database.kept():
        pass
    async with database.connection() as connection:
        await connection.execute("select 1")
    await database.expire()
    async with database.kept() as renewed:
        assert renewed.get_server_pid() != process
        async with asyncio.timeout(30):
            closing = asyncio.create_task(database.close())
            await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await closing
    with pytest.raises(Unavailable):
        async with database.kept():
            pass


async def test_a_kept_connection_that_is_lost_or_left_in_a_statement_is_not_used_again(dsn: str, postgres: Any) -> None:
    """Neither is one whose block was cancelled, nor one that its server has ended meanwhile."""
    database = await Database.open(dsn, name="keeping", size=2, application_name="keeping")
    seen: list[int] = []
    begun, ended = asyncio.Event(), asyncio.Event()

    async def long() -> None:
        async with database.kept() as connection:
            seen.append(connection.get_server_pid())
            begun.set()
            await connection.execute("select pg_sleep(30)")

    async with database.kept() as connection:
        seen.append(connection.get_server_pid())
    task = asyncio.create_task(long())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen[0] == seen[1]
    async with database.kept() as connection:
        seen.append(connection.get_server_pid())
        connection.add_termination_listener(lambda _: ended.set())
    assert seen[2] != seen[1]
    watcher = await asyncpg.connect(postgres.superuser_dsn())
    await watcher.execute("select pg_terminate_backend($1)", seen[2])
    await watcher.close()
    async with asyncio.timeout(30):
        await ended.wait()
    async with database.kept() as connection:
        assert connection.get_server_pid() != seen[2]
        assert await connection.fetchval("select 1") == 1
    with pytest.raises(asyncpg.PostgresError):
        async with database.kept() as connection:
            await connection.execute("select 1/0")
    async with database.kept() as connection:
        assert await connection.fetchval("select 1") == 1
    await database.close()


async def test_a_statement_that_takes_too_long_is_ended(database: Database) -> None:
    """The server gives up first, so that nothing runs on for a caller who has gone."""
    with pytest.raises(DeadlineExceeded):
        async with database.connection() as connection:
            await connection.execute("select pg_sleep(5)")
    await database.ping()


async def test_a_lost_connection_is_unavailable_and_the_next_one_works(
    database: Database, postgres: Any, dsn: str
) -> None:
    """When the server ends a session, its user is told to come again, and can."""
    engine = create_engine(dsn, name="test", size=1, application_name="pooled")
    watcher = await asyncpg.connect(postgres.superuser_dsn())
    end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pooled'"
    with pytest.raises(Unavailable) as lost:
        async with database.connection() as connection:
            await watcher.execute(end)
            await connection.execute("select 1")
    assert lost.value.reason == "DATABASE_DOWN"
    await database.ping()
    with pytest.raises(Unavailable):
        async with engine.connect() as alchemy:
            await alchemy.execute(text("select 1"))
            await watcher.execute(end)
            await alchemy.execute(text("select 1"))
    async with engine.connect() as alchemy:
        assert (await alchemy.execute(text("select 1"))).scalar() == 1
    await engine.dispose()
    await watcher.close()


async def test_a_database_that_is_down_is_unavailable_and_comes_back(tmp_path_factory: Any) -> None:
    """After a crash of Postgres and its restart the same pool works on, with nothing acknowledged lost."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("crashing"))
    try:
        await asyncio.to_thread(server.start)
        server.ensure({"crashing": ()})
        database = await Database.open(server.dsn("crashing"), name="crashing", size=2)
        async with database.transaction() as connection:
            await connection.execute("create table t (n int)")
            await connection.execute("insert into t values (1)")
        await asyncio.to_thread(server.kill)
        with pytest.raises(Unavailable):
            await database.ping()
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(20):
            while True:
                try:
                    async with database.connection() as connection:
                        assert await connection.fetchval("select count(*) from t") == 1
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        await database.close()
    finally:
        await asyncio.to_thread(server.remove)
