"""The key that seals now, and the older ones that still open what they sealed."""

from collections.abc import Iterable

from chassis.sealing.aead import SealingKey, UnknownKey, key_id_of


class SealingRing:
    """Several keys, one of which is the primary. The ring of a process may be filled anew at any time."""

    def __init__(self, primary: SealingKey, older: Iterable[SealingKey] = ()) -> None:
        self._primary = primary
        self._keys: dict[bytes, SealingKey] = {}
        self.take(primary, older)

    @property
    def primary(self) -> SealingKey:
        """The key that seals."""
        return self._primary

    def take(self, primary: SealingKey, older: Iterable[SealingKey] = ()) -> None:
        """Use these keys from now on."""
        self._keys = {key.id: key for key in (*older, primary)}
        self._primary = primary

    def seal(self, plaintext: bytes, *, context: bytes) -> bytes:
        """Encrypt a value with the primary key."""
        return self._primary.seal(plaintext, context=context)

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """Decrypt a value with the key that sealed it.

        Raises:
            UnknownKey, SealBroken
        """
        key_id = key_id_of(sealed)
        key = self._keys.get(key_id)
        if key is None:
            raise UnknownKey(key_id)
        return key.open(sealed, context=context)

    def is_current(self, sealed: bytes) -> bool:
        """Whether a value was sealed with the primary key."""
        return key_id_of(sealed) == self._primary.id

    def __repr__(self) -> str:
        return f"SealingRing(primary={self._primary.id.hex()}, keys={len(self._keys)})"
