"""Ids that know their shard.

A person's bucket is that of the normalised e-mail address. The ids of the person and of their sessions are UUIDv7 whose
lowest ten bits, random by RFC 9562, are this bucket: so an id, an e-mail address and a token all lead to the one
database that knows them, without a lookup table that a second write on another shard would have to keep true. See
docs/adr/0012.
"""

from uuid import UUID

_BUCKET_BITS = 10
_BUCKET_MASK = (1 << _BUCKET_BITS) - 1


def stamped(fresh: UUID, bucket: int) -> UUID:
    """The fresh UUIDv7 with the bucket in its lowest ten bits."""
    if not 0 <= bucket <= _BUCKET_MASK:
        raise ValueError(f"a bucket is between 0 and {_BUCKET_MASK}, not {bucket}")
    return UUID(int=fresh.int & ~_BUCKET_MASK | bucket)


def bucket_in(stamped_id: UUID) -> int:
    """The bucket that a stamped id carries."""
    return stamped_id.int & _BUCKET_MASK
