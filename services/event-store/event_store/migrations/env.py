"""Alembic's environment: the chassis runs it, over every shard."""

from chassis.database.migrations import run_environment

run_environment()
