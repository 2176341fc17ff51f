"""What may come only once: the nonces of signed requests, the ids of proofs and of encrypted payloads."""

from typing import Protocol


class NoncesAway(Exception):
    """It cannot be known whether this came before, so it must be taken as if it had."""


class Nonces(Protocol):
    """A memory, common to all gateways, of what has come."""

    async def claim(self, purpose: str, nonce: str, *, seconds: float, since: float | None = None) -> bool:
        """Whether this is the first time that a nonce comes for a purpose. It is remembered for so many seconds, which
        must be longer than what carries it is good for.

        With `since`, in seconds since the epoch, the memory must reach back to then: one that was lost meanwhile
        does not say of what it has forgotten that it is new.

        Raises:
            NoncesAway: nobody can say.
        """
        ...
