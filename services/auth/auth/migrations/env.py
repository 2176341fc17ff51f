"""Alembic's way into the users databases."""

from chassis.database.migrations import run_environment

from auth.adapters.sealed_tables import Row

run_environment(Row.metadata)
