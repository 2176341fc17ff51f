"""Cancelled anywhere, against real Postgres: nothing acknowledged is lost, and nothing is left open in the pool.

A task is cancelled at each point where it waits, one after the other, and then at random times. It writes two rows in one transaction and
is said to be acknowledged when the block has ended without an exception.
"""

import asyncio
import random
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import asyncpg
import pytest
from chassis.database.engine import create_engine, sessions
from chassis.database.pool import Database
from sqlalchemy import text

APPLICATION = "cancelled"
Write = Callable[[int], Awaitable[None]]


@types.coroutine
def _cancelled_at(work: Awaitable[None], point: int) -> Generator[Any, Any, int]:
    """Run work, and cancel its task the moment it waits for the `point`-th time. Answers how often it waited."""
    steps = 0
    inner = work.__await__()
    send: Callable[[], Any] = lambda: next(inner)  # noqa: E731
    while True:
        try:
            waited_for = send()
        except StopIteration:
            return steps
        if steps == point:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        steps += 1
        try:
            value = yield waited_for
        except BaseException as error:  # noqa: BLE001 - it is thrown on into the work
            send = lambda error=error: inner.throw(error)  # noqa: E731
        else:
            send = lambda value=value: inner.send(value)  # noqa: E731


@pytest.fixture
async def dsn(postgres: Any) -> AsyncIterator[str]:
    created = postgres.create_database()
    connection = await asyncpg.connect(created)
    await connection.execute("create table written (id bigint not null, part int not null, primary key (id, part))")
    await connection.close()
    yield created
    postgres.drop_database(created)


@pytest.fixture(params=["asyncpg transaction", "asyncpg autocommit", "SQLAlchemy connection", "SQLAlchemy session"])
async def write(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Write]:
    """Writes two rows, all or none, acknowledged when it returns."""
    if request.param.startswith("asyncpg"):
        database = await Database.open(dsn, name="test", size=3, application_name=APPLICATION)

        async def in_transaction(identifier: int) -> None:
            async with database.transaction() as connection:
                await connection.execute("insert into written values ($1, 1)", identifier)
                await connection.execute("insert into written values ($1, 2)", identifier)

        async def in_one_statement(identifier: int) -> None:
            async with database.connection() as connection:
                await connection.execute("insert into written values ($1, 1), ($1, 2)", identifier)

        yield in_transaction if request.param.endswith("transaction") else in_one_statement
        await database.close()
        return
    engine = create_engine(dsn, name="test", size=3, application_name=APPLICATION)
    insert = text("insert into written values (:id, :part)")
    make = sessions(engine)

    async def on_connection(identifier: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(insert, {"id": identifier, "part": 1})
            await connection.execute(insert, {"id": identifier, "part": 2})

    async def in_session(identifier: int) -> None:
        async with make() as session:
            await session.execute(insert, {"id": identifier, "part": 1})
            await session.execute(insert, {"id": identifier, "part": 2})
            await session.commit()

    yield on_connection if request.param.endswith("connection") else in_session
    await engine.dispose()


async def _open_transactions(dsn: str) -> int:
    """How many connections of the pool are inside a transaction, once they have come to rest."""
    watcher = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(10):
            while await watcher.fetchval(  # noqa: ASYNC110 - another process has no event of ours
                "select count(*) from pg_stat_activity where application_name = $1 and state = 'active'", APPLICATION
            ):
                await asyncio.sleep(0.01)
        return await watcher.fetchval(
            "select count(*) from pg_stat_activity where application_name = $1 and state like 'idle in transaction%'",
            APPLICATION,
        )
    finally:
        await watcher.close()


async def _parts(dsn: str) -> dict[int, int]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("select id, count(*) as parts from written group by id")
    await connection.close()
    return {row["id"]: row["parts"] for row in rows}


async def _check(dsn: str, acknowledged: set[int], write: Write) -> None:
    assert await _open_transactions(dsn) == 0
    parts = await _parts(dsn)
    assert acknowledged <= set(parts), "an acknowledged commit is lost"
    assert set(parts.values()) <= {2}, "half a transaction is visible"
    # Whoever comes next finds clean connections: what they commit stays.
    followers = range(1_000_000, 1_000_010)
    await asyncio.gather(*(write(identifier) for identifier in followers))
    assert set(followers) <= set(await _parts(dsn))


async def test_cancelled_at_every_wait(dsn: str, write: Write) -> None:
    """The task is cancelled at its first wait, at its second, and so on until there is none left."""
    acknowledged: set[int] = set()

    async def once(identifier: int, point: int) -> int:
        steps = await _cancelled_at(write(identifier), point)
        acknowledged.add(identifier)
        return steps

    await write(0)
    acknowledged.add(0)
    point = 0
    while True:
        (outcome,) = await asyncio.gather(asyncio.create_task(once(point + 1, point)), return_exceptions=True)
        if isinstance(outcome, int) and outcome <= point:
            break
        assert isinstance(outcome, int | asyncio.CancelledError), outcome
        point += 1
        assert await _open_transactions(dsn) == 0
    assert point >= 1
    await _check(dsn, acknowledged, write)


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_at_random_times_under_load(dsn: str, write: Write, seed: int) -> None:
    """Many tasks over few connections, most of them cancelled within their few milliseconds."""
    chance = random.Random(seed)  # noqa: S311
    acknowledged: set[int] = set()
    loop = asyncio.get_running_loop()

    async def once(identifier: int) -> None:
        await write(identifier)
        acknowledged.add(identifier)

    for wave in range(30):
        tasks = [asyncio.create_task(once(wave * 100 + number)) for number in range(1, 9)]
        for task in tasks:
            if chance.random() < 0.8:
                loop.call_later(chance.random() * 0.008, task.cancel)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes
    assert acknowledged
    await _check(dsn, acknowledged, write)


async def _slow_commits(dsn: str) -> None:
    """From here on a COMMIT that has written something takes a third of a second."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        """
        create function slowly() returns trigger language plpgsql as $$
        begin perform pg_sleep(0.3); return null; end $$;
        create constraint trigger slow after insert on written
            deferrable initially deferred for each row when (new.part = 1) execute function slowly();
        """
    )
    await connection.close()


async def test_a_commit_that_has_begun_comes_to_its_end(dsn: str, write: Write, request: pytest.FixtureRequest) -> None:
    """Cancelled while Postgres is committing, the task ends as cancelled, and only after the commit is done."""
    # About a lone statement the server decides, and it is told to stop: it is all there or not at all.
    lone = "autocommit" in request.node.name
    expected = ({}, {1: 2}) if lone else ({1: 2},)
    await _slow_commits(dsn)
    watcher = await asyncpg.connect(dsn)
    task = asyncio.create_task(write(1))
    async with asyncio.timeout(10):
        while not await watcher.fetchval(  # noqa: ASYNC110 - another process has no event of ours
            "select true from pg_stat_activity where application_name = $1 and wait_event = 'PgSleep'", APPLICATION
        ):
            await asyncio.sleep(0)
    await watcher.close()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if not lone:
        assert await _parts(dsn) == {1: 2}
    assert await _open_transactions(dsn) == 0
    assert await _parts(dsn) in expected


async def test_a_connection_cancelled_in_a_statement_is_closed_and_its_statement_ended(dsn: str) -> None:
    """Nobody gets the connection after that, and the server does not work on for nobody."""
    database = await Database.open(dsn, name="test", size=1, application_name=APPLICATION)
    async with database.connection() as connection:
        first = connection.get_server_pid()

    async def sleep() -> None:
        async with database.connection() as connection:
            await connection.execute("select pg_sleep(9)")

    task = asyncio.create_task(sleep())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.connection() as connection:
        assert connection.get_server_pid() != first
    async with asyncio.timeout(30):
        assert await _open_transactions(dsn) == 0
    await database.close()


async def test_a_transaction_that_nobody_knows_of_does_not_reach_the_next_user(dsn: str) -> None:
    """A BEGIN behind the back of pool and engine, as a cancelled one would be: what the next user commits is committed."""
    database = await Database.open(dsn, name="test", size=1, application_name=APPLICATION)
    async with database.connection() as connection:
        first = connection.get_server_pid()
        await connection.execute("begin")
    async with database.connection() as connection:
        assert connection.get_server_pid() != first
    await database.close()
    engine = create_engine(dsn, name="test", size=1, application_name=APPLICATION)
    async with engine.connect() as alchemy:
        driver: Any = (await alchemy.get_raw_connection()).driver_connection
        await driver.execute("begin")
    async with engine.begin() as alchemy:
        await alchemy.execute(text("insert into written values (7, 1), (7, 2)"))
    assert await _parts(dsn) == {7: 2}
    assert await _open_transactions(dsn) == 0
    await engine.dispose()
