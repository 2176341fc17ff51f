"""Sessions, each a family of refresh tokens of which only the last is good.

Every refresh replaces the token. One that comes a second time means that two parties hold it, and we cannot know which
is the thief: the session ends for both (RFC 9700, 4.14.2; ASVS 10.4.5). There is no grace period for a client that
races itself.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from uuid import UUID

from auth.domain.errors import InvalidRefreshToken

SECRET_BYTES = 32
_TOKEN = re.compile(r"([0-9a-f]{32})\.[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Session:
    """A person's stay. `token_hash` is that of the one refresh token that is good now."""

    id: UUID
    user_id: UUID
    token_hash: bytes
    started_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    refreshed_at: datetime | None = None
    bound_to: str | None = None
    """The thumbprint of the key that its tokens are bound to (RFC 9449)."""

    def alive(self, now: datetime) -> bool:
        """Whether the session is neither revoked nor over."""
        return self.revoked_at is None and now < self.expires_at

    def idle(self, now: datetime, limit: timedelta) -> bool:
        """Whether nobody has refreshed it for so long that its person is taken to be gone (ASVS 7.3.1)."""
        return now >= (self.refreshed_at or self.started_at) + limit


class Verdict(Enum):
    """What a presented refresh token means for its session."""

    CONTINUES = auto()
    REUSED = auto()
    OVER = auto()
    FOREIGN = auto()
    UNPROVEN = auto()


def judge(
    session: Session,
    *,
    presented: bytes,
    used_before: bool,
    bound_to: str | None = None,
    idle_limit: timedelta,
    now: datetime,
) -> Verdict:
    """Decide on the hash of a presented refresh token.

    A hash that the session never had is `FOREIGN` and changes nothing: an access token names its session, and knowing
    the name must not be enough to end it. One that comes without proof of the session's key (`bound_to`) is `UNPROVEN`
    and changes nothing either, so that a thief without the key can neither use nor end the session.
    """
    if presented != session.token_hash and not used_before:
        return Verdict.FOREIGN
    if not session.alive(now) or session.idle(now, idle_limit):
        return Verdict.OVER
    if bound_to != session.bound_to:
        return Verdict.UNPROVEN
    return Verdict.REUSED if used_before else Verdict.CONTINUES


def refresh_token(session_id: UUID, secret: str) -> str:
    """The token that goes to the person: which session, and 32 random bytes in base64url that prove it."""
    return f"{session_id.hex}.{secret}"


def session_of(token: str) -> UUID:
    """The session that a refresh token claims to belong to.

    Raises:
        InvalidRefreshToken: it does not look like one.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InvalidRefreshToken
    return UUID(match[1])


def hashed(token: str) -> bytes:
    """What is stored of a refresh token. SHA-256 is enough for 256 random bits; what people choose needs a slow one."""
    return hashlib.sha256(token.encode()).digest()
