"""The log of one shard in Postgres, by asyncpg directly: these are the hot paths."""

from event_store.adapters.postgres.appending import AppendingLog
from event_store.adapters.postgres.archived import ArchivedLog
from event_store.adapters.postgres.metadata import MetadataLog


class PostgresLog(AppendingLog, MetadataLog, ArchivedLog):
    """One shard, to write and to read."""
