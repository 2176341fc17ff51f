"""The key above all keys: it seals ("wraps") data keys and nothing else.

A KMS keeps that key to itself and wraps and unwraps over the network, so the protocol is asynchronous and speaks of
wrapped keys only; a file is the smallest KMS, and may itself be wrapped by one (ADR 43). The files are kept apart from
the databases and their backups: whoever has only one of the two has nothing.
"""

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from chassis.sealing.aead import ID_BYTES, KEY_BYTES, SealingError, SealingKey, derived
from chassis.sealing.ring import SealingRing


class KeyWrapping(Protocol):
    """A KMS as we use one."""

    async def wrap(self, key: bytes, *, context: str) -> bytes:
        """Seal a data key under the present key-encryption key. It opens only in the same context."""
        ...

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """Open a data key, under whichever key-encryption key it was wrapped.

        Raises:
            SealingError: its key-encryption key is not known, the context is another one, or it was changed.
        """
        ...

    def is_current(self, wrapped: bytes) -> bool:
        """Whether a data key is wrapped under the present key-encryption key."""
        ...


class FileKeyWrapping:
    """Key-encryption keys from files, the present one first. What a file holds is never used as a key itself: keys are
    derived from it for each purpose.
    """

    def __init__(self, present: bytes, older: Iterable[bytes] = (), *, purpose: str) -> None:
        self._ring = SealingRing(_derived_key(present, purpose), [_derived_key(key, purpose) for key in older])

    @classmethod
    def read(cls, present: Path, older: Iterable[Path] = (), *, purpose: str) -> "FileKeyWrapping":
        """Read the keys.

        Raises:
            SealingError: naming the file and what is wrong with it.
        """
        return cls(read_key(present), [read_key(path) for path in older], purpose=purpose)

    @property
    def primary_id(self) -> str:
        """The id of the present key-encryption key, which says nothing of the key."""
        return self._ring.primary.id.hex()

    def seal(self, secret: bytes, *, context: str) -> bytes:
        """Encrypt a key or another small secret under the present key-encryption key."""
        return self._ring.seal(secret, context=context.encode())

    def unseal(self, sealed: bytes, *, context: str) -> bytes:
        """Decrypt a secret, under whichever key-encryption key it was sealed.

        Raises:
            SealingError
        """
        return self._ring.open(sealed, context=context.encode())

    async def wrap(self, key: bytes, *, context: str) -> bytes:
        """`seal`, as a KMS offers it."""
        return self.seal(key, context=context)

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """`unseal`, as a KMS offers it."""
        return self.unseal(wrapped, context=context)

    def is_current(self, wrapped: bytes) -> bool:
        """Whether a data key is wrapped under the present key-encryption key."""
        return self._ring.is_current(wrapped)

    def __repr__(self) -> str:
        return f"FileKeyWrapping({self._ring!r})"


def _derived_key(key: bytes, purpose: str) -> SealingKey:
    if len(key) != KEY_BYTES:
        raise SealingError(f"the key-encryption key must be {KEY_BYTES} bytes, not {len(key)}")
    return SealingKey(
        derived(key, f"{purpose} sealing".encode()), key_id=derived(key, f"{purpose} key id".encode(), ID_BYTES)
    )


def read_key(path: Path) -> bytes:
    """The 32 bytes that a file holds in base64.

    Raises:
        SealingError: naming the file and what is wrong with it, never its content.
    """
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except OSError as error:
        raise SealingError(f"cannot read the key-encryption key {path}: {error.strerror}") from error
    except binascii.Error:
        raise SealingError(f"the key-encryption key {path} is not base64") from None
    if len(key) != KEY_BYTES:
        raise SealingError(f"{path}: the key-encryption key must be {KEY_BYTES} bytes, not {len(key)}")
    return key
