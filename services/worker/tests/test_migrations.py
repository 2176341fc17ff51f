"""The Alembic tree goes up and comes down, and grants the service what it needs and no more."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from alembic.config import Config
from chassis.database.migrations import configuration
from pytest_alembic.tests import test_single_head_revision, test_up_down_consistency, test_upgrade
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

__all__ = ["test_single_head_revision", "test_up_down_consistency", "test_upgrade"]


@pytest.fixture
def alembic_config() -> Config:
    return configuration("worker.migrations", "worker")


@pytest.fixture
def alembic_engine(postgres: Any) -> Iterator[AsyncEngine]:
    owner = postgres.create_database("worker")
    yield create_async_engine(owner.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    postgres.drop_database(owner)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM jobs",
        "DELETE FROM refused_rows",
        "UPDATE refused_rows SET sku = ''",
        "UPDATE job_file_chunks SET data = ''",
        "TRUNCATE jobs",
        "DROP TABLE jobs",
        "CREATE TABLE other ()",
        "UPDATE alembic_version SET version_num = ''",
    ],
)
async def test_the_service_may_not_rewrite_what_it_has_reported(jobs_database: Any, statement: str) -> None:
    """Least privilege: jobs and reports are never deleted by the service, uploaded bytes never changed."""
    connection = await asyncpg.connect(jobs_database.service)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)
    await connection.close()
