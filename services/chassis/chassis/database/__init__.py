"""Postgres: a pool for the hot paths, an engine for models, and migrations. All of them survive cancellation."""
