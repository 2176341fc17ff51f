"""The log of one shard in Postgres, by asyncpg directly: these are the hot paths."""

from event_store.adapters.postgres.appending import AppendingLog
from event_store.adapters.postgres.reading import ReadingLog


class PostgresLog(AppendingLog, ReadingLog):
    """One shard, to write and to read."""
