"""The Alembic tree goes up, comes down, and says what the models say, on each shard."""

from collections.abc import Iterator
from typing import Any

import pytest
from alembic.config import Config
from chassis.database.migrations import configuration
from pytest_alembic.tests import (
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

__all__ = [
    "test_model_definitions_match_ddl",
    "test_single_head_revision",
    "test_up_down_consistency",
    "test_upgrade",
]


@pytest.fixture
def alembic_config() -> Config:
    return configuration("auth.migrations", "auth")


@pytest.fixture(params=[0, 1], ids=["shard 0", "shard 1"])
def alembic_engine(postgres: Any, request: pytest.FixtureRequest) -> Iterator[AsyncEngine]:
    owner = postgres.create_database("auth")
    engine = create_async_engine(owner.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    yield engine
    postgres.drop_database(owner)
