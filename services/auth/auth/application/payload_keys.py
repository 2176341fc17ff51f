"""Keys of encrypted payloads: a pair per suite at any time, renewed when it has been used for long enough."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from chassis.payloads import Suite

from auth.application.keys import Forge, Keys, ensure_keys, rotate_keys
from auth.application.people import Clock
from auth.domain.errors import NextKeyTooYoung
from auth.domain.keys import KeyState
from auth.domain.payload_keys import PayloadKey

Kinds = Mapping[Suite, tuple[Keys[PayloadKey], Forge[PayloadKey]]]
"""Per suite, where its keys are kept and who makes them."""


async def ensure_payload_keys(kinds: Kinds, *, clock: Clock) -> None:
    """Make the keys that are missing. Replicas that start at once agree on the same ones."""
    for keys, forge in kinds.values():
        await ensure_keys(keys=keys, forge=forge, clock=clock)


async def rotate_payload_keys(kinds: Kinds, *, clock: Clock, published_for: timedelta) -> Sequence[PayloadKey]:
    """Publish the keys that waited instead of those that were used.

    Raises:
        NextKeyTooYoung: one has waited for less than `published_for`: a gateway may not know it.
    """
    rotated: list[PayloadKey] = []
    for keys, forge in kinds.values():
        rotated += await rotate_keys(keys=keys, forge=forge, clock=clock, published_for=published_for)
    return rotated


async def renew_payload_keys(kinds: Kinds, *, clock: Clock, lifetime: timedelta, published_for: timedelta) -> None:
    """Rotate the keys of each suite whose key was used for `lifetime`, where the next one is old enough."""
    for keys, forge in kinds.values():
        if _worn(await keys.all(), now=clock(), lifetime=lifetime):
            try:
                await rotate_keys(keys=keys, forge=forge, clock=clock, published_for=published_for)
            except NextKeyTooYoung:
                continue  # another replica was faster


def _worn(keys: Sequence[PayloadKey], *, now: datetime, lifetime: timedelta) -> bool:
    """Whether the active key was used for long enough. It came into use when the one before it was retired."""
    active = [key for key in keys if key.state is KeyState.ACTIVE]
    retired = [key.retired_at for key in keys if key.retired_at is not None]
    since = max(retired) if retired else min((key.created_at for key in active), default=now)
    return bool(active) and now - since >= lifetime
