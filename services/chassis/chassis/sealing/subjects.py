"""One data key per person, so that a person can be forgotten where nothing may be deleted: in the log.

What is said about a person in events is sealed under that person's key. Forgetting destroys the key; the events stay,
with their hashes, and say nothing any more about whom they are of. A key is created when it is first needed, once, and
a destroyed one leaves a mark, so that none is ever created again for a forgotten person.

Keys are remembered for a few seconds. `invalidate` ends that at once: whoever has a cache calls it for each person of
whom a revocation tells, so that another replica opens nothing a moment after a person was forgotten, and nothing after
those few seconds if it does not hear.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from chassis.sealing.aead import SealingError, SealingKey, context_of, key_id_of
from chassis.sealing.wrapping import KeyWrapping

_LARGEST_CACHE = 10_000


class SubjectForgotten(SealingError):
    """The person's key was destroyed."""

    def __init__(self) -> None:
        super().__init__("the person was forgotten, and the key to what was said of them destroyed")


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A person's key as it is stored. Without `wrapped` it was destroyed."""

    key_id: bytes
    wrapped: bytes | None


class SubjectKeys(Protocol):
    """Where the keys of persons are kept."""

    async def find(self, subject_id: UUID) -> WrappedKey | None:
        """The key of a person, destroyed or not; None when there never was one."""
        ...

    async def add(self, subject_id: UUID, key: WrappedKey) -> WrappedKey:
        """Keep a key unless there is one already, or was one. Answers the one that is kept."""
        ...

    async def destroy(self, subject_id: UUID) -> bool:
        """Destroy a person's key, leaving a mark also if there was none. Answers whether there was one."""
        ...


class SubjectSealer:
    """Seals what is said about persons under their keys."""

    def __init__(
        self,
        keys: SubjectKeys,
        wrapping: KeyWrapping,
        *,
        remembered_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._wrapping = wrapping
        self._remembered_seconds = remembered_seconds
        self._clock = clock
        self._remembered: dict[UUID, tuple[float, SealingKey]] = {}
        self._invalidated = 0

    async def seal(self, subject_id: UUID, field: str, plaintext: bytes, aad: bytes = b"") -> bytes:
        """Encrypt a field under the key of the person whom it is about.

        Args:
            subject_id: The person; their key is created if they have none.
            field: The name of the field, such as `almagest.auth.events.v1.LoggedIn.address`.
            plaintext: The value.
            aad: Where the value stands, such as the id of its event: it opens nowhere else.

        Raises:
            SubjectForgotten: nothing is said about the person any more.
        """
        key = await self._key(subject_id, create=True)
        return key.seal(plaintext, context=_context(subject_id, field, aad))

    async def open(self, subject_id: UUID, field: str, sealed: bytes, aad: bytes = b"") -> bytes:
        """Decrypt a field.

        Raises:
            SubjectForgotten: the key was destroyed.
            UnknownKey, SealBroken: it is not this person's, or was changed, or stands elsewhere.
        """
        key_id_of(sealed)
        key = await self._key(subject_id, create=False)
        return key.open(sealed, context=_context(subject_id, field, aad))

    async def forget(self, subject_id: UUID) -> bool:
        """Destroy the key of a person for ever. Answers whether there was one."""
        destroyed = await self._keys.destroy(subject_id)
        self.invalidate(subject_id)
        return destroyed

    def invalidate(self, subject_id: UUID) -> None:
        """Do not use the remembered key of a person: they were forgotten elsewhere."""
        self._remembered.pop(subject_id, None)
        # Also what is just being read: it may be from before.
        self._invalidated += 1

    async def _key(self, subject_id: UUID, *, create: bool) -> SealingKey:
        remembered = self._remembered.get(subject_id)
        if remembered is not None and self._clock() - remembered[0] < self._remembered_seconds:
            return remembered[1]
        self._remembered.pop(subject_id, None)
        asked_at, invalidated = self._clock(), self._invalidated
        stored = await self._keys.find(subject_id)
        if stored is None:
            if not create:
                raise SubjectForgotten
            fresh = SealingKey.fresh()
            wrapped = await self._wrapping.wrap(fresh.reveal(), context=wrapping_context(subject_id))
            stored = await self._keys.add(subject_id, WrappedKey(fresh.id, wrapped))
        if stored.wrapped is None:
            raise SubjectForgotten
        revealed = await self._wrapping.unwrap(stored.wrapped, context=wrapping_context(subject_id))
        key = SealingKey(revealed, key_id=stored.key_id)
        if invalidated == self._invalidated:
            while len(self._remembered) >= _LARGEST_CACHE:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[subject_id] = (asked_at, key)
        return key


def wrapping_context(subject_id: UUID) -> str:
    """What a person's key is bound to when it is wrapped."""
    return f"subject key {subject_id}"


def _context(subject_id: UUID, field: str, aad: bytes) -> bytes:
    return context_of("subject", str(subject_id), field) + aad
