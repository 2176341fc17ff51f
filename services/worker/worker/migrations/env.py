"""Alembic's environment: the chassis runs it."""

from chassis.database.migrations import run_environment

run_environment()
