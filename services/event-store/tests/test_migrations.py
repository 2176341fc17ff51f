"""The migrations: up and down, with data in the tables."""

import asyncpg
import pytest
from chassis.database.migrations import configuration, downgrade, upgrade
from event_store.domain.chain import GENESIS, StoredEvent, hash_of
from pytest_alembic.tests import (
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine

PACKAGE = "event_store.migrations"

STORED = f"SELECT {', '.join(StoredEvent._fields)} FROM events ORDER BY position"  # noqa: S608 - our own names

__all__ = ["test_single_head_revision", "test_up_down_consistency", "test_upgrade"]


@pytest.fixture
def fresh(postgres):
    """An empty database."""
    dsn = postgres.create_database("event_store")
    yield dsn
    postgres.drop_database(dsn)


@pytest.fixture
def alembic_config():
    return configuration(PACKAGE, "event_store")


@pytest.fixture
def alembic_engine(fresh):
    async def connect(*_, **__):
        return await asyncpg.connect(fresh)

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)


FIRST_APPEND = """
    SELECT * FROM append_batch(
        ARRAY[gen_random_uuid()], ARRAY[$1], ARRAY[1::smallint], ARRAY['a'], ARRAY[1], ARRAY[1], ARRAY[-1::bigint], ARRAY[''::bytea], ARRAY[2],
        ARRAY[1, 1], ARRAY['t', 'u'], ARRAY[gen_random_uuid(), gen_random_uuid()], ARRAY['one'::bytea, 'two'::bytea], ARRAY[''::bytea, 'm'::bytea]
    )
"""
APPEND = """
    SELECT * FROM append_batch(
        ARRAY[gen_random_uuid()], ARRAY[1], ARRAY[''::bytea], ARRAY[1], ARRAY[$1], ARRAY[1::smallint], ARRAY['a'], ARRAY[1], ARRAY[-1::bigint], ARRAY[2],
        ARRAY[1, 1], ARRAY['t', 'u'], ARRAY[gen_random_uuid(), gen_random_uuid()], ARRAY['one'::bytea, 'two'::bytea], ARRAY[''::bytea, 'm'::bytea],
        '{}', '{}', '{}', '{}', '{}'
    )
"""


async def test_a_log_with_events_goes_down_and_up_again(fresh):
    """The downgrade leaves nothing of ours behind, so that the upgrade works anew."""
    await upgrade(PACKAGE, [fresh], "event_store")
    connection = await asyncpg.connect(fresh)
    try:
        await connection.fetchrow(APPEND, "a-1")
        assert await connection.fetchval("SELECT position FROM head") == 2
        await downgrade(PACKAGE, [fresh], "event_store", "base")
        left = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic%'"
            " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
        assert left == []
        await upgrade(PACKAGE, [fresh], "event_store")
        assert await connection.fetchval("SELECT position FROM head") == 0
    finally:
        await connection.close()


async def test_a_log_from_before_the_chain_is_chained_and_goes_on(fresh):
    """The migration gives every event its hash; what comes later continues from it; down and up again, the same chain
    comes out.
    """
    await upgrade(PACKAGE, [fresh], "event_store")
    await downgrade(PACKAGE, [fresh], "event_store", "0001")
    connection = await asyncpg.connect(fresh)
    try:
        await connection.fetchrow(FIRST_APPEND, "a-1")
        await upgrade(PACKAGE, [fresh], "event_store")
        await connection.reload_schema_state()
        await connection.fetchrow(APPEND, "a-2")
        rows = [StoredEvent(*row) for row in await connection.fetch(STORED)]
        assert [row.position for row in rows] == [1, 2, 3, 4]
        chain = GENESIS
        for row in rows:
            chain = hash_of(chain, row)
            assert row.hash == chain
        assert await connection.fetchval("SELECT hash FROM head") == chain
        await downgrade(PACKAGE, [fresh], "event_store", "0001")
        await connection.reload_schema_state()
        await connection.fetchrow(FIRST_APPEND, "a-3")
        await upgrade(PACKAGE, [fresh], "event_store")
        await connection.reload_schema_state()
        again = [StoredEvent(*row) for row in await connection.fetch(STORED)]
        assert again[:4] == rows
        assert await connection.fetchval("SELECT hash FROM head") == again[5].hash == hash_of(again[4].hash, again[5])
    finally:
        await connection.close()
