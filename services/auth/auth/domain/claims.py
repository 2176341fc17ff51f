"""What tokens say.

Two kinds, both signed with the same keys, told apart by `typ` and `aud` so that neither passes for the other (RFC 8725,
3.11 and 3.12): access tokens (RFC 9068) for the gateway's door, and transaction tokens
(draft-ietf-oauth-transaction-tokens) for one request's way through the services.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias, cast
from uuid import UUID

from auth.domain.errors import AccessTokenExpired, InvalidAccessToken, ScopesNotHeld
from auth.domain.people import User

ACCESS = "at+jwt"
TRANSACTION = "txntoken+jwt"
AUDIENCE = "almagest"
LONGEST_TRANSACTION = timedelta(seconds=60)

Claims: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Access:
    """What a verified access token vouches for."""

    user_id: UUID
    session_id: UUID
    bound_to: str | None = None


def access_claims(
    user: User,
    *,
    session_id: UUID,
    issuer: str,
    token_id: UUID,
    issued_at: datetime,
    expires_at: datetime,
    bound_to: str | None = None,
) -> Claims:
    """The claims of an access token, bound to a key if a thumbprint is given (RFC 9449, 6.1)."""
    bound = {} if bound_to is None else {"cnf": {"jkt": bound_to}}
    return {
        **bound,
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": str(user.id),
        "sid": str(session_id),
        "roles": sorted(user.roles),
        "jti": str(token_id),
        "iat": int(issued_at.timestamp()),
        "exp": int(expires_at.timestamp()),
    }


def read_access(claims: Mapping[str, object], *, issuer: str, now: datetime) -> Access:
    """Read the claims of an access token whose signature and `typ` have been verified.

    Raises:
        AccessTokenExpired: it was valid once.
        InvalidAccessToken: it is meant for something else, or lacks something.
    """
    expires, issued = claims.get("exp"), claims.get("iat")
    if (
        claims.get("iss") != issuer
        or claims.get("aud") != AUDIENCE
        or type(expires) is not int
        or type(issued) is not int
    ):
        raise InvalidAccessToken
    subject, session = claims.get("sub"), claims.get("sid")
    if not isinstance(subject, str) or not isinstance(session, str):
        raise InvalidAccessToken
    bound_to = None
    if "cnf" in claims:
        confirmation = claims["cnf"]
        bound_to = cast("dict[str, object]", confirmation).get("jkt") if isinstance(confirmation, dict) else None
        if not isinstance(bound_to, str):
            raise InvalidAccessToken
    try:
        access = Access(user_id=UUID(subject), session_id=UUID(session), bound_to=bound_to)
    except ValueError:
        raise InvalidAccessToken from None
    if expires <= now.timestamp():
        raise AccessTokenExpired
    return access


def narrowed(held: frozenset[str], wanted: Collection[str]) -> frozenset[str]:
    """The scopes that a token gets: those wanted, or all that are held if none is named.

    Raises:
        ScopesNotHeld: one of them is not the person's.
    """
    if not wanted:
        return held
    missing = frozenset(wanted) - held
    if missing:
        raise ScopesNotHeld(missing)
    return frozenset(wanted)


def transaction_claims(
    user: User,
    *,
    scopes: frozenset[str],
    issuer: str,
    trust_domain: str,
    transaction_id: UUID,
    requesting_workload: str,
    issued_at: datetime,
    lifetime: timedelta,
    session_id: UUID | None = None,
    access_key_id: UUID | None = None,
    job_id: UUID | None = None,
) -> Claims:
    """The claims of a transaction token, which lives for a minute at most."""
    claims: Claims = {
        "iss": issuer,
        "aud": trust_domain,
        "sub": str(user.id),
        "scope": " ".join(sorted(scopes)),
        "roles": sorted(user.roles),
        "gen": user.generation,
        "txn": str(transaction_id),
        "req_wl": requesting_workload,
        "iat": int(issued_at.timestamp()),
        "exp": int(issued_at.timestamp()) + int(min(lifetime, LONGEST_TRANSACTION).total_seconds()),
    }
    if session_id is not None:
        claims["sid"] = str(session_id)
    if access_key_id is not None:
        claims["key"] = str(access_key_id)
    if job_id is not None:
        claims["job_id"] = str(job_id)
    return claims
