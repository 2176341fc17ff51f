"""Alembic tree of the users databases."""
