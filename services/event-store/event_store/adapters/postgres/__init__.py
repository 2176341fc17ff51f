"""The log of one shard in Postgres, by asyncpg directly: these are the hot paths."""

from event_store.adapters.postgres.appending import AppendingLog
from event_store.adapters.postgres.metadata import MetadataLog
from event_store.adapters.postgres.reading import ReadingLog


class PostgresLog(AppendingLog, MetadataLog, ReadingLog):
    """One shard, to write and to read."""
