"""The migrations lead to what the models say, both ways, and grant no more than is needed."""

import asyncio
import uuid

import asyncpg
import pytest
from catalog_query.adapters.models import Base
from chassis.database.migrations import configuration, downgrade, upgrade
from pytest_alembic.config import Config
from pytest_alembic.tests import (  # noqa: F401 - pytest collects them here
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine


@pytest.fixture
def database(postgres):
    dsn = postgres.create_database("catalog_query")
    yield dsn
    postgres.drop_database(dsn)


@pytest.fixture
def alembic_config():
    return Config(alembic_config=configuration("catalog_query.migrations", "catalog_query"))


@pytest.fixture
def alembic_engine(database):
    async def connect():
        return await asyncpg.connect(database)

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)


async def test_down_and_up_again_with_products_in_it(database):
    """A downgrade takes everything away, and the way up is free again."""
    await upgrade("catalog_query.migrations", [database], "catalog_query")
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "INSERT INTO products_1.products (product_id, kind, revision, sku, name_key, category, status, updated_at, document, search)"
            " VALUES ($1, 'general', 0, 's', 'n', 'c', 'draft', now(), '{}', '')",
            uuid.uuid4(),
        )
        await downgrade("catalog_query.migrations", [database], "catalog_query", "base")
        assert await connection.fetchval("SELECT to_regclass('products')") is None
        await upgrade("catalog_query.migrations", [database], "catalog_query")
        assert await connection.fetchval("SELECT count(*) FROM products") == 0
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM products_1.products",
        "TRUNCATE products_1.products",
        "DROP SCHEMA products_1 CASCADE",
        "SELECT * FROM products",
        "INSERT INTO projections (name, template, serving) VALUES ('users', 'users', 1)",
        "INSERT INTO generations (projection, generation, state) VALUES ('products', 2, 'ready')",
        "DROP TABLE checkpoints",
        "CREATE TABLE mine ()",
        "DELETE FROM checkpoints",
    ],
)
async def test_the_service_may_not_do_what_it_never_does(postgres, database, statement):
    """Whoever gets hold of its password cannot delete a product either."""
    await upgrade("catalog_query.migrations", [database], "catalog_query")
    connection = await asyncpg.connect(await asyncio.to_thread(postgres.service_dsn, database, "catalog_query"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


def test_the_models_know_every_table():
    """What a migration makes by hand would not be compared."""
    assert set(Base.metadata.tables) == {
        "products",
        "product_versions",
        "schedules",
        "schedule_refusals",
        "projections",
        "generations",
        "checkpoints",
        "parked_events",
        "skipped_events",
        "drift",
        "comparisons",
        "differences",
    }


async def test_what_the_first_generation_held_is_kept_both_ways(database):
    """The rows and indexes of the one table become the first generation's, and go back."""
    await upgrade("catalog_query.migrations", [database], "catalog_query", "0001")
    connection = await asyncpg.connect(database)
    wanted = uuid.uuid4()
    indexes = "SELECT array_agg(indexname ORDER BY indexname) FROM pg_indexes WHERE schemaname = $1 AND tablename = 'products'"
    try:
        await connection.execute(
            "INSERT INTO products (product_id, kind, revision, sku, name_key, category, status, updated_at, document, search)"
            " VALUES ($1, 'general', 0, 's', 'n', 'c', 'draft', now(), '{}', '')",
            wanted,
        )
        await connection.execute("INSERT INTO checkpoints (event_shard, position) VALUES (0, 7)")
        before = await connection.fetchval(indexes, "public")
        await upgrade("catalog_query.migrations", [database], "catalog_query")
        assert await connection.fetchval("SELECT product_id FROM products_1.products") == wanted
        assert await connection.fetchval("SELECT count(*) FROM products") == 0
        assert await connection.fetchval(indexes, "public") == before
        assert await connection.fetchval(indexes, "products_1") == before
        row = await connection.fetchrow("SELECT projection, generation, event_shard, position FROM checkpoints")
        assert tuple(row) == ("products", 1, 0, 7)
        await downgrade("catalog_query.migrations", [database], "catalog_query", "0001")
        assert await connection.fetchval("SELECT product_id FROM products") == wanted
        assert await connection.fetchval(indexes, "public") == before
        assert await connection.fetchval("SELECT position FROM checkpoints") == 7
    finally:
        await connection.close()


async def test_schedules_go_over_while_replicas_of_the_release_before_write_them(postgres, database):
    """What was there before, what they write between the steps and after them; and on the way back what we wrote."""
    await upgrade("catalog_query.migrations", [database], "catalog_query", "0004")
    connection = await asyncpg.connect(database)
    earlier = await asyncpg.connect(await asyncio.to_thread(postgres.service_dsn, database, "catalog_query"))
    plan = (
        "INSERT INTO {} (schedule_id, product_id, published, effective_at, scheduled_by, scheduled_at, reason, state)"
        " SELECT gen_random_uuid(), gen_random_uuid(), true, now(), '', now(), '', 'open' FROM generate_series(1, {})"
    )
    end = (
        "UPDATE {} SET state = 'cancelled', ended_at = now() WHERE schedule_id IN (SELECT schedule_id FROM {} LIMIT 3)"
    )

    async def rows(table: str) -> set[tuple]:
        return {tuple(row) for row in await connection.fetch(f"TABLE {table}")}

    try:
        await connection.execute(plan.format("schedules", 2500))
        await upgrade("catalog_query.migrations", [database], "catalog_query", "0005")
        assert await rows("products_1.schedules") == set()
        for _ in range(2):
            await earlier.execute(plan.format("schedules", 2))
            await earlier.execute(end.format("schedules", "schedules"))
            await upgrade("catalog_query.migrations", [database], "catalog_query", "0006")
            assert await rows("products_1.schedules") == await rows("schedules")
        assert len(await rows("schedules")) == 2504
        indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = $1 AND tablename = 'schedules'"
        assert await connection.fetchval(indexes, "products_1") == await connection.fetchval(indexes, "public")
        await earlier.execute(plan.format("products_1.schedules", 1))
        ours = await rows("products_1.schedules")
        await downgrade("catalog_query.migrations", [database], "catalog_query", "0004")
        assert await rows("schedules") == ours
        await earlier.execute(plan.format("schedules", 1))
    finally:
        await earlier.close()
        await connection.close()
