"""Keys that personal data is encrypted to on its way to the gateway: a pair per suite, with the life of any key."""

from dataclasses import dataclass
from datetime import datetime

from auth.domain.keys import KeyState


@dataclass(frozen=True, slots=True)
class PayloadKey:
    """A key pair, its private half sealed. `kid` is the thumbprint of the public half (RFC 7638); `suite` is its
    algorithm, as its published form names it.
    """

    kid: str
    suite: str
    sealed_private_key: bytes
    state: KeyState
    created_at: datetime
    retired_at: datetime | None = None
