"""What the event store is told by its environment."""

from pathlib import Path

from chassis.settings import DatabaseSettings
from pydantic import Field


class Settings(DatabaseSettings):
    """Shards, batches, limits. The limits are those that the errors name."""

    redis_url: str | None = None
    """Where replicas wake each other's subscribers; unset: they find out by polling."""
    poll_seconds: float = Field(default=0.2, gt=0)
    """How often the head of each shard is asked for, besides all signals."""
    tail_bytes: int = Field(default=8 * 1024 * 1024, ge=0)
    """The most bytes of each shard's newest events that are kept in memory for those who follow it. Who is further
    behind reads from the database."""

    map_seconds: float = Field(default=1.0, gt=0)
    """How often to look which shard holds which buckets, besides all signals."""
    move_wait_seconds: float = Field(default=10.0, gt=0)
    """How long a request waits for a bucket that is being moved and that no shard holds at the moment."""
    archive_directory: Path | None = None
    """Where old events are archived: a directory that all replicas share, and that is backed up with the databases.
    Unset: none are."""
    archive_events: int = Field(default=100_000, ge=1, le=10_000_000)
    """How many positions one archive holds."""

    batch_appends: int = Field(default=256, ge=1)
    """The most appends in one transaction."""
    batch_bytes: int = Field(default=4 * 1024 * 1024, ge=1)
    """The most bytes in one transaction, unless a single append is larger."""
    batches_in_flight: int = Field(default=1, ge=1, le=4)
    """Transactions at once per shard and replica. They only take turns, since each holds the counter."""
    queue_appends: int = Field(default=8192, ge=1)
    """The most appends that wait for one shard."""
    queue_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    """The most bytes that wait for one shard."""
    append_seconds: float = Field(default=10.0, gt=0)
    """How long one transaction may take before its connection is given up and its outcome resolved."""
    resolve_seconds: float = Field(default=5.0, gt=0)
    """How long to try to find out what became of a transaction whose connection was lost."""

    max_appends: int = Field(default=1000, ge=1)
    """Appends per request."""
    max_events: int = Field(default=1000, ge=1)
    """Events per append."""
    max_streams: int = Field(default=100, ge=1)
    """Streams per append."""
    max_payload_bytes: int = Field(default=256 * 1024, ge=1)
    """Bytes of one event's payload."""
    max_metadata_bytes: int = Field(default=8 * 1024, ge=1)
    """Bytes of one event's metadata."""
    max_request_bytes: int = Field(default=4 * 1024 * 1024, ge=1)
    """Bytes of one append request."""
    max_batch_streams: int = Field(default=500, ge=1)
    """Streams per batch read."""
    max_batch_events: int = Field(default=10_000, ge=1)
    """Events in the answer to one batch read."""
    max_batch_bytes: int = Field(default=3 * 1024 * 1024, ge=1)
    """Bytes in the answer to one batch read, which must stay below what gRPC clients accept by default."""
    max_snapshots: int = Field(default=500, ge=1)
    """Snapshots per request."""
    max_snapshot_bytes: int = Field(default=256 * 1024, ge=1)
    """Bytes of one snapshot."""
