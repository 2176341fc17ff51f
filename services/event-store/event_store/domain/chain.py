"""The chain of hashes that runs through the log of a shard.

The hash of an event is SHA-256 over the hash of the event before it and every stored column of the event itself, in the
binary form that Postgres gives a record of them: how many values there are, then for each the number of its type, its
length (-1 for none), and the value. `event_hash` in the database computes it when an event is written; this is a second
implementation, so that what verifies does not trust what wrote.
"""

import struct
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID

GENESIS: Final = bytes(32)
"""What stands before the first event."""

_POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_BYTEA, _BIGINT, _SMALLINT, _INTEGER, _TEXT, _TIMESTAMPTZ, _UUID = 17, 20, 21, 23, 25, 1184, 2950
_NULL: Final = -1
_COLUMNS: Final = 14

_beginning = struct.Struct(">iii32s").pack
_numbers = struct.Struct(">iiqiiqiiq").pack
_identity = struct.Struct(">ii16siiq").pack
_sized = struct.Struct(">ii").pack
_smallint = struct.Struct(">iih").pack
_integer = struct.Struct(">iii").pack
_bigint = struct.Struct(">iiq").pack


class StoredEvent(NamedTuple):
    """An event with every column that the log stores of it."""

    position: int
    origin: int
    revision: int
    stream: str
    bucket: int
    category: str
    type: str
    event_id: UUID
    recorded_at: datetime
    payload: bytes
    metadata: bytes
    hash: bytes
    original_shard: int | None
    original_position: int | None


def hash_of(previous: bytes, event: StoredEvent) -> bytes:
    """The hash that an event must have after the one before it."""
    stream, category, name = event.stream.encode(), event.category.encode(), event.type.encode()
    since = event.recorded_at - _POSTGRES_EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    shard, position = event.original_shard, event.original_position
    return sha256(
        b"".join(
            (
                _beginning(_COLUMNS, _BYTEA, 32, previous),
                _numbers(_BIGINT, 8, event.position, _BIGINT, 8, event.origin, _BIGINT, 8, event.revision),
                _sized(_TEXT, len(stream)),
                stream,
                _smallint(_SMALLINT, 2, event.bucket),
                _sized(_TEXT, len(category)),
                category,
                _sized(_TEXT, len(name)),
                name,
                _identity(_UUID, 16, event.event_id.bytes, _TIMESTAMPTZ, 8, microseconds),
                _sized(_BYTEA, len(event.payload)),
                event.payload,
                _sized(_BYTEA, len(event.metadata)),
                event.metadata,
                _sized(_INTEGER, _NULL) if shard is None else _integer(_INTEGER, 4, shard),
                _sized(_BIGINT, _NULL) if position is None else _bigint(_BIGINT, 8, position),
            )
        )
    ).digest()
