"""Keys of whichever kind: made on the first start, rotated on request, the same for every replica."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from auth.application.people import Clock
from auth.domain.keys import Key, KeyState, LivingKey, Rotation, SigningKey, decide_first_keys, decide_rotation

Made_co = TypeVar("Made_co", bound=LivingKey, covariant=True)


class KeyLedger(Protocol[Key]):
    """The keys of a kind while nobody else changes them."""

    async def keys(self) -> Sequence[Key]:
        """All of them, in order of creation."""
        ...

    async def add(self, key: Key) -> None:
        """Keep a new key."""
        ...

    async def move(self, kid: str, state: KeyState, *, now: datetime) -> None:
        """Put a key into its next state."""
        ...


class Keys(Protocol[Key]):
    """Where the keys of a kind are kept."""

    def exclusively(self) -> AbstractAsyncContextManager[KeyLedger[Key]]:
        """One replica at a time; committed at the end."""
        ...

    async def all(self) -> Sequence[Key]:
        """All keys, in order of creation."""
        ...


SigningKeys = Keys[SigningKey]


class Forge(Protocol[Made_co]):
    """Makes keys of a kind."""

    def make(self, state: KeyState, *, now: datetime) -> Made_co:
        """A new key pair, sealed."""
        ...


async def ensure_keys(*, keys: Keys[Key], forge: Forge[Key], clock: Clock) -> Sequence[Key]:
    """The keys, made if there are none yet. Replicas that start at once agree on the same ones."""
    async with keys.exclusively() as ledger:
        await _apply(decide_first_keys(await ledger.keys()), ledger=ledger, forge=forge, now=clock())
        return await ledger.keys()


async def rotate_keys(*, keys: Keys[Key], forge: Forge[Key], clock: Clock, published_for: timedelta) -> Sequence[Key]:
    """Let the waiting key be the one that is used from now on.

    Raises:
        NextKeyTooYoung: it was published for less than `published_for`.
    """
    async with keys.exclusively() as ledger:
        now = clock()
        rotation = decide_rotation(await ledger.keys(), now=now, published_for=published_for)
        await _apply(rotation, ledger=ledger, forge=forge, now=now)
        return await ledger.keys()


async def _apply(rotation: Rotation, *, ledger: KeyLedger[Key], forge: Forge[Key], now: datetime) -> None:
    # Retired first: the database knows that only one key is active, and only one is next, at any moment.
    for kid in rotation.retire:
        await ledger.move(kid, KeyState.RETIRED, now=now)
    for kid in rotation.activate:
        await ledger.move(kid, KeyState.ACTIVE, now=now)
    for state in rotation.make:
        await ledger.add(forge.make(state, now=now))
