"""Sessions: started by password, carried on by refresh tokens, ended by logging out or by a token that comes twice."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from almagest.auth.events.v1 import audit_pb2

from auth.application.attempts import Attempts
from auth.application.audit import Audit
from auth.application.people import Clock, Passwords, People
from auth.domain import claims as tokens
from auth.domain.audit import NOBODY, Entry
from auth.domain.errors import InvalidCredentials, InvalidRefreshToken, ProofNeeded, RefreshTokenReused, SessionEnded
from auth.domain.identifiers import bucket_in, stamped
from auth.domain.passwords import acceptable_password
from auth.domain.people import User, normalised_email
from auth.domain.sessions import Session, Verdict, hashed, judge, refresh_token, session_of

_LONGEST_TRIED = 254


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

    async def replace(self, token_hash: bytes, *, now: datetime) -> None:
        """Make another token the good one, and remember the present one as used."""
        ...

    async def revoke(self, now: datetime, entry: Entry) -> None:
        """End the session, and say so in the audit."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """A session and its person as they stand."""

    session: Session
    user: User


class Sessions(Protocol):
    """Where sessions are kept."""

    async def start(self, session: Session, entry: Entry) -> None:
        """Keep a new session, say so in the audit, and forget the person's past ones."""
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
    idle_limit: timedelta
    transaction_lifetime: timedelta
    clock: Clock
    fresh_id: Callable[[], UUID]
    fresh_secret: Callable[[], str]


async def log_in(
    *,
    email: str,
    password: str,
    bound_to: str | None = None,
    address: str = "",
    attempts: Attempts,
    people: People,
    passwords: Passwords,
    sessions: Sessions,
    audit: Audit,
    signer: Signer,
    terms: Terms,
) -> tuple[Tokens, User]:
    """Start a session, bound to the key that the client has proven to hold, if any.

    An unknown address costs the same time as a wrong password, and both get the same answer; so does a person who is
    disabled.

    Raises:
        InvalidCredentials, TooManyAttempts, TooManyLogins
    """
    try:
        offered = acceptable_password(password)
    except ValueError:
        raise InvalidCredentials from None  # no password is like this, whoever's it were
    attempt = await attempts.begin(email.lower()[:_LONGEST_TRIED], address)
    try:
        found = await people.credentials(normalised_email(email))
    except ValueError:
        found = None
    right = await passwords.verify(offered, found.password_hash if found is not None else None)
    if found is None or not right or found.user.disabled:
        why = "address" if found is None else "disabled" if right else "password"
        # An address that leads to nobody is not kept: it may be that of somebody who was forgotten, and whose key is
        # gone, which it would have to be sealed under.
        tried = {} if found is None else {"email": email[:_LONGEST_TRIED]}
        await audit.record(audit_pb2.LogInFailed(why=why), of=NOBODY if found is None else found.user.id, **tried)
        raise InvalidCredentials
    await attempts.succeeded(attempt)
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
        bound_to=bound_to,
    )
    said = audit_pb2.LoggedIn(session_id=str(session_id), bound_to=bound_to or "")
    await sessions.start(session, await audit.entry(said, of=found.user.id))
    return _tokens(session, found.user, token=token, now=now, signer=signer, terms=terms), found.user


async def refresh_session(
    token: str, *, bound_to: str | None = None, sessions: Sessions, audit: Audit, signer: Signer, terms: Terms
) -> Tokens:
    """Exchange a refresh token, once, for new tokens. That of a session which is bound to a key needs a proof of it.

    Raises:
        InvalidRefreshToken, RefreshTokenReused, SessionEnded, ProofNeeded
    """
    session_id, presented = session_of(token), hashed(token)
    replacement = refresh_token(session_id, terms.fresh_secret())
    entry: Entry | None = None
    while True:
        async with sessions.locked(session_id) as family:
            if family is None:
                raise InvalidRefreshToken
            now = terms.clock()
            session, user = family.session, family.user
            verdict = judge(
                session,
                presented=presented,
                used_before=await family.used_before(presented),
                bound_to=bound_to,
                idle_limit=terms.idle_limit,
                now=now,
            )
            if verdict is Verdict.CONTINUES and not user.disabled:
                await family.replace(hashed(replacement), now=now)
            elif verdict is Verdict.REUSED and entry is not None:
                await family.revoke(now, entry)
        if verdict is not Verdict.REUSED or entry is not None:
            break
        # Where it came from is sealed, which may need a connection of its own: so once more with that at hand.
        entry = await audit.entry(audit_pb2.RefreshTokenReused(session_id=str(session_id)), of=user.id)
    # Only now: an error raised inside would have undone the revocation.
    if verdict is Verdict.REUSED:
        raise RefreshTokenReused
    if verdict is Verdict.OVER or (verdict is Verdict.CONTINUES and user.disabled):
        raise SessionEnded
    if verdict is Verdict.UNPROVEN:
        raise ProofNeeded
    if verdict is Verdict.FOREIGN:
        raise InvalidRefreshToken
    return _tokens(session, user, token=replacement, now=now, signer=signer, terms=terms)


async def log_out(token: str, *, sessions: Sessions, audit: Audit, terms: Terms) -> None:
    """End the session of a refresh token, the last or an earlier one. A token that is none of ours is no error."""
    try:
        session_id, presented = session_of(token), hashed(token)
    except InvalidRefreshToken:
        return
    standing = await sessions.standing(session_id)
    if standing is None:
        return
    entry = await audit.entry(audit_pb2.LoggedOut(session_id=str(session_id)), of=standing.user.id)
    async with sessions.locked(session_id) as family:
        if family is None:
            return
        now = terms.clock()
        # Whoever holds the token may end the session, with its key or without.
        verdict = judge(
            family.session,
            presented=presented,
            used_before=await family.used_before(presented),
            bound_to=family.session.bound_to,
            idle_limit=terms.idle_limit,
            now=now,
        )
        if verdict in {Verdict.CONTINUES, Verdict.REUSED}:
            await family.revoke(now, entry)


def _tokens(session: Session, user: User, *, token: str, now: datetime, signer: Signer, terms: Terms) -> Tokens:
    expires_at = min(now + terms.access_lifetime, session.expires_at)
    claims = tokens.access_claims(
        user,
        session_id=session.id,
        issuer=terms.issuer,
        token_id=terms.fresh_id(),
        issued_at=now,
        expires_at=expires_at,
        bound_to=session.bound_to,
    )
    return Tokens(
        access_token=signer.sign(claims, kind=tokens.ACCESS),
        access_token_expires_at=expires_at.replace(microsecond=0),
        refresh_token=token,
        session_expires_at=session.expires_at,
    )
