"""The log of one shard in Postgres, by asyncpg directly: these are the hot paths."""

from event_store.adapters.postgres.appending import AppendingLog
from event_store.adapters.postgres.derived import DerivedLog
from event_store.adapters.postgres.metadata import MetadataLog


class PostgresLog(AppendingLog, MetadataLog, DerivedLog):
    """One shard, to write, to read and to check."""
