"""Sessions: started by password, carried on by refresh tokens, ended by logging out or by a token that comes twice."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from auth.application.people import Clock, Passwords, People
from auth.domain import claims as tokens
from auth.domain.errors import InvalidCredentials, InvalidRefreshToken, RefreshTokenReused, SessionEnded
from auth.domain.identifiers import bucket_in, stamped
from auth.domain.people import User, acceptable_password, normalised_email
from auth.domain.sessions import Session, Verdict, hashed, judge, refresh_token, session_of


class Family(Protocol):
    """A session with its person, locked until the end of the transaction."""

    @property
    def session(self) -> Session:
        """The session as it stands."""
        ...

    @property
    def user(self) -> User:
        """Its person as they stand."""
        ...

    async def used_before(self, token_hash: bytes) -> bool:
        """Whether the token was good once."""
        ...

    async def replace(self, token_hash: bytes) -> None:
        """Make another token the good one, and remember the present one as used."""
        ...

    async def revoke(self, now: datetime) -> None:
        """End the session."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """A session and its person as they stand."""

    session: Session
    user: User


class Sessions(Protocol):
    """Where sessions are kept."""

    async def start(self, session: Session) -> None:
        """Keep a new session, and forget the person's past ones."""
        ...

    def locked(self, session_id: UUID) -> AbstractAsyncContextManager[Family | None]:
        """The session, for changes by one at a time, committed at the end."""
        ...

    async def standing(self, session_id: UUID) -> Standing | None:
        """The session, which may be a second old."""
        ...


class Signer(Protocol):
    """Signs with the active key, verifies with the published ones."""

    def jwks(self) -> bytes:
        """The public keys as a JWK set."""
        ...

    def sign(self, claims: tokens.Claims, *, kind: str) -> str:
        """A JWT of this kind (`typ`)."""
        ...

    def verify(self, token: str, *, kind: str) -> tokens.Claims:
        """The claims of a JWT whose signature, algorithm and kind are right. Nothing else is checked.

        Raises:
            InvalidAccessToken
        """
        ...


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a session gives."""

    access_token: str
    access_token_expires_at: datetime
    refresh_token: str
    session_expires_at: datetime

    def __repr__(self) -> str:
        return "Tokens(concealed)"


@dataclass(frozen=True, slots=True)
class Terms:
    """How tokens are made: by whom, for how long, and from which ids and secrets."""

    issuer: str
    trust_domain: str
    access_lifetime: timedelta
    session_lifetime: timedelta
    transaction_lifetime: timedelta
    clock: Clock
    fresh_id: Callable[[], UUID]
    fresh_secret: Callable[[], str]


async def log_in(
    *, email: str, password: str, people: People, passwords: Passwords, sessions: Sessions, signer: Signer, terms: Terms
) -> tuple[Tokens, User]:
    """Start a session.

    An unknown address costs the same time as a wrong password, and both get the same answer.

    Raises:
        InvalidCredentials, TooManyLogins
    """
    try:
        offered = acceptable_password(password)
    except ValueError:
        raise InvalidCredentials from None  # no password is like this, whoever's it were
    try:
        found = await people.credentials(normalised_email(email))
    except ValueError:
        found = None
    right = await passwords.verify(offered, found.password_hash if found is not None else None)
    if found is None or not right:
        raise InvalidCredentials
    if passwords.outdated(found.password_hash):
        await people.replace_hash(found.user.id, old=found.password_hash, new=await passwords.hash(offered))
    now = terms.clock()
    session_id = stamped(terms.fresh_id(), bucket_in(found.user.id))
    token = refresh_token(session_id, terms.fresh_secret())
    session = Session(
        id=session_id,
        user_id=found.user.id,
        token_hash=hashed(token),
        started_at=now,
        expires_at=now + terms.session_lifetime,
    )
    await sessions.start(session)
    return _tokens(session, found.user, token=token, now=now, signer=signer, terms=terms), found.user


async def refresh_session(token: str, *, sessions: Sessions, signer: Signer, terms: Terms) -> Tokens:
    """Exchange a refresh token, once, for new tokens.

    Raises:
        InvalidRefreshToken, RefreshTokenReused, SessionEnded
    """
    session_id, presented = session_of(token), hashed(token)
    replacement = refresh_token(session_id, terms.fresh_secret())
    async with sessions.locked(session_id) as family:
        if family is None:
            raise InvalidRefreshToken
        now = terms.clock()
        session, user = family.session, family.user
        verdict = judge(session, presented=presented, used_before=await family.used_before(presented), now=now)
        if verdict is Verdict.CONTINUES:
            await family.replace(hashed(replacement))
        elif verdict is Verdict.REUSED:
            await family.revoke(now)
    # Only now: an error raised inside would have undone the revocation.
    if verdict is Verdict.REUSED:
        raise RefreshTokenReused
    if verdict is Verdict.OVER:
        raise SessionEnded
    if verdict is Verdict.FOREIGN:
        raise InvalidRefreshToken
    return _tokens(session, user, token=replacement, now=now, signer=signer, terms=terms)


async def log_out(token: str, *, sessions: Sessions, terms: Terms) -> None:
    """End the session of a refresh token, the last or an earlier one. A token that is none of ours is no error."""
    try:
        session_id, presented = session_of(token), hashed(token)
    except InvalidRefreshToken:
        return
    async with sessions.locked(session_id) as family:
        if family is None:
            return
        now = terms.clock()
        verdict = judge(family.session, presented=presented, used_before=await family.used_before(presented), now=now)
        if verdict in {Verdict.CONTINUES, Verdict.REUSED}:
            await family.revoke(now)


def _tokens(session: Session, user: User, *, token: str, now: datetime, signer: Signer, terms: Terms) -> Tokens:
    expires_at = min(now + terms.access_lifetime, session.expires_at)
    claims = tokens.access_claims(
        user,
        session_id=session.id,
        issuer=terms.issuer,
        token_id=terms.fresh_id(),
        issued_at=now,
        expires_at=expires_at,
    )
    return Tokens(
        access_token=signer.sign(claims, kind=tokens.ACCESS),
        access_token_expires_at=expires_at.replace(microsecond=0),
        refresh_token=token,
        session_expires_at=session.expires_at,
    )
