"""Transaction tokens: who a request is for, vouched for from hop to hop, for a minute."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from auth.application.people import People
from auth.application.sessions import Sessions, Signer, Terms
from auth.domain import claims as tokens
from auth.domain.errors import InvalidAccessToken, InvalidFields, ProofNeeded, SessionEnded, UnknownPerson
from auth.domain.people import User


@dataclass(frozen=True, slots=True)
class TransactionToken:
    """A signed token and its end."""

    token: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"TransactionToken(expires_at={self.expires_at})"


async def exchange(
    access_token: str,
    *,
    bound_to: str | None = None,
    scopes: Collection[str],
    requesting_workload: str,
    sessions: Sessions,
    signer: Signer,
    terms: Terms,
) -> TransactionToken:
    """Answer a transaction token for an access token whose session is alive. Roles are those that the person has now.

    The thumbprint of the key that the client has proven to hold must be the one that the token is bound to (RFC 9449,
    7.1): a bound token is worth nothing without a proof, and a proof nothing with another token.

    Raises:
        ProofNeeded, InvalidAccessToken, AccessTokenExpired, SessionEnded, ScopesNotHeld
    """
    claims = signer.verify(access_token, kind=tokens.ACCESS)
    access = tokens.read_access(claims, issuer=terms.issuer, now=terms.clock())
    if access.bound_to != bound_to:
        raise ProofNeeded
    standing = await sessions.standing(access.session_id)
    if standing is None or not standing.session.alive(terms.clock()) or standing.user.disabled:
        raise SessionEnded
    if standing.user.id != access.user_id:
        raise InvalidAccessToken
    return _transaction(
        standing.user,
        scopes=tokens.narrowed(standing.user.scopes, scopes),
        requesting_workload=requesting_workload,
        session_id=standing.session.id,
        job_id=None,
        signer=signer,
        terms=terms,
    )


async def delegate(
    *,
    user_id: UUID,
    job_id: UUID,
    scopes: Collection[str],
    requesting_workload: str,
    people: People,
    signer: Signer,
    terms: Terms,
) -> TransactionToken:
    """Answer a transaction token for the submitter of a job, as long as they exist and hold the scopes.

    Raises:
        UnknownPerson, ScopesNotHeld, InvalidFields
    """
    if not scopes:
        raise InvalidFields([("scopes", "must name what the job needs")])
    user = await people.by_id(user_id)
    if user is None or user.disabled:
        raise UnknownPerson
    return _transaction(
        user,
        scopes=tokens.narrowed(user.scopes, scopes),
        requesting_workload=requesting_workload,
        session_id=None,
        job_id=job_id,
        signer=signer,
        terms=terms,
    )


def _transaction(
    user: User,
    *,
    scopes: frozenset[str],
    requesting_workload: str,
    session_id: UUID | None,
    job_id: UUID | None,
    signer: Signer,
    terms: Terms,
) -> TransactionToken:
    claims = tokens.transaction_claims(
        user,
        scopes=scopes,
        issuer=terms.issuer,
        trust_domain=terms.trust_domain,
        transaction_id=terms.fresh_id(),
        requesting_workload=requesting_workload,
        issued_at=terms.clock(),
        lifetime=terms.transaction_lifetime,
        session_id=session_id,
        job_id=job_id,
    )
    expires_at = datetime.fromtimestamp(float(str(claims["exp"])), UTC)
    return TransactionToken(token=signer.sign(claims, kind=tokens.TRANSACTION), expires_at=expires_at)
