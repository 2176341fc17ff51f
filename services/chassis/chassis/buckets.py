"""Where a stream lives: its bucket, and the shard that holds the bucket.

Every service that routes by shard computes the same answer from this one module. The hash is part of the storage
format: changing it would leave every event in the wrong place.
"""

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


class BucketMap:
    """Contiguous, equal ranges of buckets, one per shard. The first `BUCKETS % shards` shards hold one bucket more."""

    epoch: int = 1

    def __init__(self, shards: int) -> None:
        if not 1 <= shards <= BUCKETS:
            raise ValueError(f"the number of shards must be between 1 and {BUCKETS}, not {shards}")
        self.shards = shards
        base, extra = divmod(BUCKETS, shards)
        sizes = [base + (1 if shard < extra else 0) for shard in range(shards)]
        self._first = [sum(sizes[:shard]) for shard in range(shards)]
        self._shard_of = tuple(shard for shard, size in enumerate(sizes) for _ in range(size))

    def shard_of(self, bucket: int) -> int:
        """The shard that holds a bucket.

        Raises:
            ValueError: There is no such bucket.
        """
        if not 0 <= bucket < BUCKETS:
            raise ValueError(f"a bucket is between 0 and {BUCKETS - 1}, not {bucket}")
        return self._shard_of[bucket]

    def ranges(self, shard: int) -> list[tuple[int, int]]:
        """The bucket ranges of a shard, both ends included.

        Raises:
            ValueError: There is no such shard.
        """
        if not 0 <= shard < self.shards:
            raise ValueError(f"a shard is between 0 and {self.shards - 1}, not {shard}")
        last = self._first[shard + 1] - 1 if shard + 1 < self.shards else BUCKETS - 1
        return [(self._first[shard], last)]
