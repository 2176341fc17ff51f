"""Where a stream lives: its bucket, and the shard that holds the bucket.

Every service that routes by shard computes the same answer from this one module. The hash is part of the storage
format: changing it would leave every event in the wrong place.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

BUCKETS = 1024


def bucket_of(partition_key: str) -> int:
    """The bucket of a partition key, from 0 to `BUCKETS` - 1."""
    return int.from_bytes(blake2b(partition_key.encode(), digest_size=8).digest(), "big") % BUCKETS


def stream_bucket(stream: str, partition_key: str = "") -> int:
    """The bucket of a stream `<category>-<id>`: that of its partition key, which is its id unless one is given.

    Raises:
        ValueError: The stream has no category or no id.
    """
    category, separator, identifier = stream.partition("-")
    if not (category and separator and identifier):
        raise ValueError("a stream is named <category>-<id>")
    return bucket_of(partition_key or identifier)


class ShardMap:
    """Which shard holds which bucket, in one version. A later version has a greater epoch; a map never changes."""

    def __init__(self, epoch: int, owners: Sequence[int], *, shards: int | None = None) -> None:
        """A map.

        Args:
            epoch: Its version, from 1.
            owners: The shard of each bucket, by bucket.
            shards: How many shards there are, some of which may hold no bucket; unset: those up to the greatest owner.

        Raises:
            ValueError: There are not `BUCKETS` owners, or one of them is no shard.
        """
        if epoch < 1:
            raise ValueError(f"an epoch is at least 1, not {epoch}")
        if len(owners) != BUCKETS:
            raise ValueError(f"a map names the shard of each of {BUCKETS} buckets, not of {len(owners)}")
        count = max(owners) + 1 if shards is None else shards
        if not 1 <= count <= BUCKETS:
            raise ValueError(f"the number of shards must be between 1 and {BUCKETS}, not {count}")
        if not all(0 <= owner < count for owner in owners):
            raise ValueError(f"a shard is between 0 and {count - 1}")
        self.epoch = epoch
        self.shards = count
        self._owners = tuple(owners)
        self._ranges: dict[int, list[tuple[int, int]]] = {shard: [] for shard in range(count)}
        for first, last, owner in self.segments(0, BUCKETS - 1):
            self._ranges[owner].append((first, last))

    @classmethod
    def of_ranges(cls, epoch: int, ranges: Mapping[int, Iterable[tuple[int, int]]]) -> "ShardMap":
        """The map in which each shard holds its ranges of buckets, both ends included.

        Raises:
            ValueError: A bucket is in no range or in two, or the shards are not numbered from 0.
        """
        owners = [-1] * BUCKETS
        for shard, held in ranges.items():
            for first, last in held:
                if not 0 <= first <= last < BUCKETS:
                    raise ValueError(f"a range of buckets is within 0 to {BUCKETS - 1}, not {first} to {last}")
                for bucket in range(first, last + 1):
                    if owners[bucket] >= 0:
                        raise ValueError(f"bucket {bucket} is held by shards {owners[bucket]} and {shard}")
                    owners[bucket] = shard
        if -1 in owners:
            raise ValueError(f"bucket {owners.index(-1)} is held by no shard")
        if set(ranges) != set(range(len(ranges))):
            raise ValueError("the shards are not numbered from 0")
        return cls(epoch, owners, shards=len(ranges))

    def shard_of(self, bucket: int) -> int:
        """The shard that holds a bucket.

        Raises:
            ValueError: There is no such bucket.
        """
        if not 0 <= bucket < BUCKETS:
            raise ValueError(f"a bucket is between 0 and {BUCKETS - 1}, not {bucket}")
        return self._owners[bucket]

    def ranges(self, shard: int) -> list[tuple[int, int]]:
        """The bucket ranges of a shard in order, both ends included; none when it holds none.

        Raises:
            ValueError: There is no such shard.
        """
        if not 0 <= shard < self.shards:
            raise ValueError(f"a shard is between 0 and {self.shards - 1}, not {shard}")
        return list(self._ranges[shard])

    def segments(self, first: int, last: int) -> list[tuple[int, int, int]]:
        """The buckets from `first` to `last` as the longest ranges that one shard holds each: (first, last, shard)."""
        found: list[tuple[int, int, int]] = []
        for bucket in range(first, last + 1):
            owner = self.shard_of(bucket)
            if found and found[-1][2] == owner:
                found[-1] = (found[-1][0], bucket, owner)
            else:
                found.append((bucket, bucket, owner))
        return found

    def moved(self, first: int, last: int, shard: int) -> "ShardMap":
        """The next version of the map, in which a range of buckets is held by another shard."""
        owners = [shard if first <= bucket <= last else owner for bucket, owner in enumerate(self._owners)]
        return ShardMap(self.epoch + 1, owners, shards=max(self.shards, shard + 1))

    def __eq__(self, other: object) -> bool:
        """Whether two maps say the same, in the same version."""
        if not isinstance(other, ShardMap):
            return NotImplemented
        return (self.epoch, self.shards, self._owners) == (other.epoch, other.shards, other._owners)

    def __hash__(self) -> int:
        """As equality asks."""
        return hash((self.epoch, self.shards, self._owners))


class BucketMap(ShardMap):
    """The first map: contiguous, equal ranges of buckets, one per shard. The first `BUCKETS % shards` shards hold one
    bucket more. Databases that are never cut anew keep it for ever.
    """

    epoch: int = 1

    def __init__(self, shards: int) -> None:
        """The map of so many shards.

        Raises:
            ValueError: There cannot be so many.
        """
        if not 1 <= shards <= BUCKETS:
            raise ValueError(f"the number of shards must be between 1 and {BUCKETS}, not {shards}")
        base, extra = divmod(BUCKETS, shards)
        sizes = [base + (1 if shard < extra else 0) for shard in range(shards)]
        super().__init__(1, [shard for shard, size in enumerate(sizes) for _ in range(size)], shards=shards)
