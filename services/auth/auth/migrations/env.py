"""Alembic's way into the users databases."""

from chassis.database.migrations import run_environment

from auth.adapters.sealed_tables import DataKeyRow

# All tables of auth share their metadata.
run_environment(DataKeyRow.metadata)
