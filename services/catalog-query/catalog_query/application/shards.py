"""Which shard of the log feeds which shard of the read model, and where a product is.

The read model is cut by buckets once and for all. Buckets of the log move, and what was written before a move stays
readable where it was: so every shard of the log feeds every shard of the read model, with the buckets of that one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chassis.buckets import BucketMap, ShardMap, bucket_of


@dataclass(frozen=True, slots=True)
class LogMap:
    """The log as it says it is: which shard holds which buckets, and its heads."""

    shards: ShardMap
    heads: Mapping[int, int] = field(default_factory=dict[int, int])
    """The last committed position of each shard."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A shard of the log and a shard of the read model, with the bucket ranges (both ends included) of the latter."""

    event_shard: int
    read_shard: int
    buckets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bucket is in the log and in the read model."""

    bucket: int
    event_shard: int
    read_shard: int


class Shards:
    """The shards of the read model, and, once it is known, those of the log."""

    def __init__(self, read_shards: int) -> None:
        self._read = BucketMap(read_shards)
        self._log: ShardMap | None = None

    @property
    def read_shards(self) -> int:
        """How many shards the read model has."""
        return self._read.shards

    @property
    def event_shards(self) -> int:
        """How many shards the log has; 0 while that is not known."""
        return 0 if self._log is None else self._log.shards

    @property
    def epoch(self) -> int:
        """The version of the log's map, as far as it is known."""
        return BucketMap.epoch if self._log is None else self._log.epoch

    def suppose(self, event_shards: int) -> None:
        """Take it that the log has so many shards, cut as a new log is, until the log itself is heard."""
        self._log = BucketMap(event_shards)

    def learn(self, log: ShardMap) -> None:
        """Take it that the log is cut so. An older version than the last one changes nothing."""
        if log.epoch >= self.epoch:
            self._log = log

    def read_shard_of(self, product_id: str) -> int:
        """The shard of the read model that a product is in."""
        return self._read.shard_of(bucket_of(product_id))

    def read_shard_of_bucket(self, bucket: int) -> int:
        """The shard of the read model that holds a bucket.

        Raises:
            ValueError: there is no such bucket.
        """
        return self._read.shard_of(bucket)

    def place(self, bucket: int) -> Place | None:
        """Where a bucket is; None while the log's shards are not known.

        Raises:
            ValueError: there is no such bucket.
        """
        read_shard = self._read.shard_of(bucket)
        return None if self._log is None else Place(bucket, self._log.shard_of(bucket), read_shard)

    def place_of(self, product_id: str) -> Place | None:
        """Where a product is; None while the log's shards are not known."""
        return self.place(bucket_of(product_id))

    def pairs(self) -> Sequence[Pair]:
        """Every shard of the log with every shard of the read model."""
        return [
            Pair(event_shard, read_shard, tuple(self._read.ranges(read_shard)))
            for event_shard in range(self.event_shards)
            for read_shard in range(self.read_shards)
        ]
