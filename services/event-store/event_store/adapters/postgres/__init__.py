"""The log of one shard in Postgres, by asyncpg directly: these are the hot paths."""

from event_store.adapters.postgres.appending import AppendingLog
from event_store.adapters.postgres.metadata import MetadataLog
from event_store.adapters.postgres.reading import ReadingLog
from event_store.adapters.postgres.stored import StoredRows


class PostgresLog(AppendingLog, MetadataLog, ReadingLog, StoredRows):
    """One shard, to write and to read."""
