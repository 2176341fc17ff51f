"""The life of keys, of whichever kind: published as next, then active, then retired, then forgotten.

A key is published before it signs, so that whoever caches the key set knows it by then, and stays published after it
stopped, so that what it signed can be verified until it expires. At any time one key signs and one waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, TypeVar

from auth.domain.errors import NextKeyTooYoung


class KeyState(StrEnum):
    """Where a key is in its life. The values are the storage format."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"


class LivingKey(Protocol):
    """A key of any kind, as far as its life goes. `kid` names it."""

    @property
    def kid(self) -> str:
        """Its id."""
        ...

    @property
    def state(self) -> KeyState:
        """Where it is in its life."""
        ...

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        ...

    @property
    def retired_at(self) -> datetime | None:
        """When it was retired."""
        ...


Key = TypeVar("Key", bound=LivingKey)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key pair. The private half is sealed; `kid` is the thumbprint of the public half (RFC 7638)."""

    kid: str
    public_key: bytes
    sealed_private_key: bytes
    state: KeyState
    created_at: datetime
    retired_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rotation:
    """What one rotation changes: states of keys by kid, and the states of keys to be made."""

    retire: tuple[str, ...] = ()
    activate: tuple[str, ...] = ()
    make: tuple[KeyState, ...] = ()


def decide_first_keys(keys: Sequence[LivingKey]) -> Rotation:
    """Make the key that is used and the one that waits, where they are missing."""
    present = {key.state for key in keys}
    return Rotation(make=tuple(state for state in (KeyState.ACTIVE, KeyState.NEXT) if state not in present))


def decide_rotation(keys: Sequence[LivingKey], *, now: datetime, published_for: timedelta) -> Rotation:
    """Retire the active key, activate the next, make another next.

    Raises:
        NextKeyTooYoung: the next key was published for less than `published_for`, so that someone may not know it yet.
    """
    waiting = [key for key in keys if key.state is KeyState.NEXT]
    if any(now - key.created_at < published_for for key in waiting):
        raise NextKeyTooYoung
    return Rotation(
        retire=tuple(key.kid for key in keys if key.state is KeyState.ACTIVE),
        activate=tuple(key.kid for key in waiting),
        make=(KeyState.NEXT,) if waiting else (KeyState.ACTIVE, KeyState.NEXT),
    )


def published(keys: Sequence[Key], *, now: datetime, overlap: timedelta) -> tuple[Key, ...]:
    """The keys that others shall accept: all but those that were retired longer than `overlap` ago."""
    return tuple(key for key in keys if key.retired_at is None or now - key.retired_at < overlap)
