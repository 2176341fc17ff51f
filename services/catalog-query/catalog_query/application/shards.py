"""Which shard of the log feeds which shard of the read model, and where a product is.

Both are cut by the same buckets, so with as many shards on both sides they pair one to one; otherwise every pair that
has buckets in common has its own projector and checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chassis.buckets import BucketMap, bucket_of

EPOCH: Final = BucketMap.epoch


@dataclass(frozen=True, slots=True)
class Pair:
    """A shard of the log and a shard of the read model, and the bucket ranges (both ends included) that they have in
    common.
    """

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
        self._events: BucketMap | None = None

    @property
    def read_shards(self) -> int:
        """How many shards the read model has."""
        return self._read.shards

    @property
    def event_shards(self) -> int:
        """How many shards the log has; 0 while that is not known."""
        return 0 if self._events is None else self._events.shards

    def learn(self, event_shards: int) -> None:
        """Take it that the log has so many shards."""
        self._events = BucketMap(event_shards)

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
        return None if self._events is None else Place(bucket, self._events.shard_of(bucket), read_shard)

    def place_of(self, product_id: str) -> Place | None:
        """Where a product is; None while the log's shards are not known."""
        return self.place(bucket_of(product_id))

    def pairs(self) -> Sequence[Pair]:
        """Every pair with buckets in common."""
        return [
            Pair(event_shard, read_shard, common)
            for event_shard in range(self.event_shards)
            for read_shard in range(self.read_shards)
            if (common := self._common(event_shard, read_shard))
        ]

    def agree(self, ranges: Mapping[int, Sequence[tuple[int, int]]]) -> bool:
        """Whether the log's own account of its shards is the one that these maps compute."""
        theirs = BucketMap(len(ranges))
        return all(shard in ranges and list(ranges[shard]) == theirs.ranges(shard) for shard in range(len(ranges)))

    def _common(self, event_shard: int, read_shard: int) -> tuple[tuple[int, int], ...]:
        if self._events is None:
            return ()
        return tuple(
            (max(first, other_first), min(last, other_last))
            for first, last in self._events.ranges(event_shard)
            for other_first, other_last in self._read.ranges(read_shard)
            if max(first, other_first) <= min(last, other_last)
        )
