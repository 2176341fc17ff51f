"""Alembic's environment: the models say what the migrations must lead to."""

from chassis.database.migrations import run_environment

from catalog_query.adapters.models import Base

run_environment(Base.metadata)
