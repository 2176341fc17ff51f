"""One key, and the one format of what is sealed with it.

A sealed value is `version (1 byte) | key id (8 bytes) | nonce (12 bytes) | AES-256-GCM ciphertext and tag`. The header
and the context, the place where the value belongs, are authenticated with it: a sealed value that is copied to another
row, column or table does not open there. Nonces are random, so a key is good for 2^32 values (NIST SP 800-38D, 8.3),
which is far beyond what one key seals between two rotations.
"""

import os
from hmac import compare_digest

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
ID_BYTES = 8
VERSION = b"\x01"
HEADER_BYTES = len(VERSION) + ID_BYTES
_NONCE_BYTES = 12
_LENGTH_BYTES = 4


class SealingError(Exception):
    """A value cannot be sealed or opened. The message never holds the value or a key."""


class UnknownKey(SealingError):
    """The value was sealed with a key that is not known here (any more)."""

    def __init__(self, key_id: bytes) -> None:
        super().__init__(f"sealed with the key {key_id.hex()}, which is not known here")
        self.key_id = key_id


class SealBroken(SealingError):
    """The value was changed, or stands in another place than it was sealed for."""

    def __init__(self) -> None:
        super().__init__("the sealed value was changed, or stands in another place than it was sealed for")


class SealingKey:
    """A key of 256 bits and its id. Shows the id only."""

    __slots__ = ("__key", "_aead", "id")

    def __init__(self, key: bytes, *, key_id: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SealingError(f"a key must be {KEY_BYTES} bytes, not {len(key)}")
        if len(key_id) != ID_BYTES:
            raise SealingError(f"a key id must be {ID_BYTES} bytes, not {len(key_id)}")
        self.__key = key
        self._aead = AESGCM(key)
        self.id = key_id

    @classmethod
    def fresh(cls) -> "SealingKey":
        """A new random key under a new random id."""
        return cls(AESGCM.generate_key(KEY_BYTES * 8), key_id=os.urandom(ID_BYTES))

    def reveal(self) -> bytes:
        """The key itself, to be wrapped."""
        return self.__key

    def seal(self, plaintext: bytes, *, context: bytes) -> bytes:
        """Encrypt a value. It opens only in the same context."""
        nonce = os.urandom(_NONCE_BYTES)
        header = VERSION + self.id
        return header + nonce + self._aead.encrypt(nonce, plaintext, header + context)

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """Decrypt a value.

        Raises:
            UnknownKey: it was sealed with another key.
            SealBroken: it was changed, or sealed in another context.
        """
        if not compare_digest(key_id_of(sealed), self.id):
            raise UnknownKey(key_id_of(sealed))
        header, rest = sealed[:HEADER_BYTES], sealed[HEADER_BYTES:]
        try:
            return self._aead.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + context)
        except (InvalidTag, ValueError):
            raise SealBroken from None

    def __repr__(self) -> str:
        return f"SealingKey(id={self.id.hex()})"

    def __reduce_ex__(self, protocol: object, /) -> "str | tuple[object, ...]":
        raise TypeError("a key is never serialised")


def key_id_of(sealed: bytes) -> bytes:
    """The id of the key that a value was sealed with.

    Raises:
        SealBroken: it is no sealed value.
    """
    if not sealed.startswith(VERSION) or len(sealed) < HEADER_BYTES + _NONCE_BYTES:
        raise SealBroken
    return sealed[len(VERSION) : HEADER_BYTES]


def context_of(*parts: str) -> bytes:
    """A place in one sequence of bytes, unlike that of any other place: each part with its length before it."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in encoded)


def derived(key: bytes, purpose: bytes, length: int = KEY_BYTES) -> bytes:
    """A key for one purpose from a key for several (HKDF-SHA256): no use of one says anything about another."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(key)
