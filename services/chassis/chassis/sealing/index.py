"""Blind indexes: looking up a sealed value without opening any.

The index of a value is its HMAC-SHA256 under a key that is used for nothing else. It is not cut short: a short index
says less to a thief, who then sees collisions, but cannot be unique, and here the database must keep two people from
having one address. What is left to a thief of the database is to see that two rows are equal, of which there are none.
"""

import hmac
from collections.abc import Iterable

from chassis.sealing.aead import KEY_BYTES, SealingError


class IndexKey:
    """A key for blind indexes, and its id. Shows the id only."""

    __slots__ = ("__key", "id")

    def __init__(self, key: bytes, *, key_id: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SealingError(f"an index key must be {KEY_BYTES} bytes, not {len(key)}")
        self.__key = key
        self.id = key_id

    def of(self, value: str) -> bytes:
        """The index of a normalised value: 32 bytes."""
        return hmac.digest(self.__key, value.encode(), "sha256")

    def __repr__(self) -> str:
        return f"IndexKey(id={self.id.hex()})"

    def __reduce_ex__(self, protocol: object, /) -> "str | tuple[object, ...]":
        raise TypeError("a key is never serialised")


def indexes(keys: Iterable[IndexKey], value: str) -> dict[bytes, bytes]:
    """The indexes of a value under each of several keys, by key id: while keys are rotated there are two."""
    return {key.id: key.of(value) for key in keys}
