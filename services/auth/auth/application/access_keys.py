"""Access keys: made, replaced and revoked by those who may; and what they sign, exchanged for transaction tokens."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

from chassis import signatures

from auth.application.people import People
from auth.application.sessions import Signer
from auth.application.sessions import Terms as TokenTerms
from auth.application.transactions import TransactionToken
from auth.domain import access_keys as keys
from auth.domain import claims as tokens
from auth.domain.access_keys import AccessKey, Asking, Kind, Terms, Wanted
from auth.domain.errors import (
    AccessKeyNotValid,
    AccessKeySignatureWrong,
    CommandReused,
    InvalidFields,
    UnknownAccessKey,
    UnknownPerson,
)
from auth.domain.identifiers import bucket_in, stamped
from auth.domain.people import User

CLOCK_SKEW_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A key and its person as they stand."""

    key: AccessKey
    owner: User


@dataclass(frozen=True, slots=True)
class Verifiable:
    """A key with what its signatures are verified with: the public key, or the secret."""

    kept: Kept
    material: bytes

    def __repr__(self) -> str:
        return f"Verifiable({self.kept.key.id})"


@dataclass(frozen=True, slots=True)
class Made:
    """A key, and what it signs with: empty when the client has it, or was told before."""

    key: AccessKey
    secret: bytes
    replayed: bool = False

    def __repr__(self) -> str:
        return f"Made({self.key.id})"


class AccessKeys(Protocol):
    """Where access keys are kept."""

    async def made_by(self, command_id: UUID, *, owner: UUID) -> tuple[AccessKey, bytes] | None:
        """The key of a person that this command made, and the fingerprint of the command."""
        ...

    async def add(
        self,
        key: AccessKey,
        secret: bytes,
        *,
        command_id: UUID,
        fingerprint: bytes,
        most: int,
        replaces: UUID | None = None,
        old_until: datetime | None = None,
    ) -> None:
        """Keep a new key, and its secret sealed; let the one that it replaces end, in the same transaction.

        Raises:
            TooManyAccessKeys: the person would have more than `most` that are good; one that is replaced counts not.
            CommandReused: the command has made a key meanwhile.
        """
        ...

    async def by_id(self, key_id: UUID) -> Kept | None:
        """The key."""
        ...

    async def of_person(self, user_id: UUID) -> Sequence[AccessKey]:
        """The keys of a person, the newest first."""
        ...

    async def verifiable(self, key_id: UUID) -> Verifiable | None:
        """The key, with what its signatures are verified with."""
        ...

    async def revoke(self, key_id: UUID, *, now: datetime) -> None:
        """End it at once, and with it the tokens that were given for it."""
        ...

    async def used(self, key: AccessKey, *, now: datetime) -> None:
        """Remember roughly when it was used."""
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What these use cases need."""

    keys: AccessKeys
    people: People
    terms: Terms
    clock: Callable[[], datetime]
    fresh_id: Callable[[], UUID]
    fresh_secret: Callable[[], bytes]
    fresh_pair: Callable[[], tuple[bytes, bytes]]
    """A public key, and its private one."""


async def create(
    *,
    user_id: UUID | None,
    name: str,
    kind: Kind,
    scopes: Collection[str],
    public_key: bytes,
    expires_at: datetime | None,
    command_id: UUID,
    asking: Asking,
    ports: Ports,
) -> Made:
    """Make a key.

    Raises:
        UnknownAccessKey, UnknownPerson, NotByKey, ScopesNotHeld, InvalidFields, TooManyAccessKeys, CommandReused
    """
    owner_id = asking.user_id if user_id is None else user_id
    asking.check_creates(owner_id)
    print_ = keys.fingerprint("create", owner_id, name, kind, *sorted(scopes), public_key, expires_at)
    if (known := await _made_before(command_id, print_, owner=owner_id, ports=ports)) is not None:
        return known
    owner = await ports.people.by_id(owner_id)
    if owner is None:
        raise UnknownPerson
    wanted = keys.wanted(
        name=name,
        kind=kind,
        scopes=scopes,
        public_key=public_key,
        expires_at=expires_at,
        owner=owner,
        asking=asking,
        terms=ports.terms,
        now=ports.clock(),
    )
    return await _add(wanted, owner, command_id=command_id, fingerprint=print_, ports=ports)


async def rotate(
    key_id: UUID,
    *,
    old_until: datetime | None,
    expires_at: datetime | None,
    public_key: bytes,
    command_id: UUID,
    asking: Asking,
    ports: Ports,
) -> Made:
    """Make a key like another one, which stays good until a chosen end.

    Raises:
        UnknownAccessKey, NotByKey, ScopesNotHeld, AccessKeyEnded, InvalidFields, TooManyAccessKeys, CommandReused
    """
    kept = await _seen(key_id, asking, ports)
    asking.check_changes(kept.key, kept.owner)
    print_ = keys.fingerprint("rotate", key_id, old_until, expires_at, public_key)
    if (known := await _made_before(command_id, print_, owner=kept.owner.id, ports=ports)) is not None:
        return known
    now = ports.clock()
    wanted = keys.successor(
        kept.key,
        public_key=public_key,
        expires_at=expires_at,
        owner=kept.owner,
        asking=asking,
        terms=ports.terms,
        now=now,
    )
    if old_until is not None and not now <= old_until <= kept.key.expires_at:
        raise InvalidFields([("old_until", "must be from now on, and not after the key's own end")])
    return await _add(
        wanted,
        kept.owner,
        command_id=command_id,
        fingerprint=print_,
        ports=ports,
        replaces=key_id,
        old_until=old_until or now,
    )


async def revoke(key_id: UUID, *, asking: Asking, ports: Ports) -> AccessKey:
    """End a key at once.

    Raises:
        UnknownAccessKey, NotByKey, ScopesNotHeld
    """
    kept = await _seen(key_id, asking, ports)
    asking.check_changes(kept.key, kept.owner)
    if kept.key.revoked_at is None:
        await ports.keys.revoke(key_id, now=ports.clock())
        kept = await _seen(key_id, asking, ports)
    return kept.key


async def get(key_id: UUID, *, asking: Asking, ports: Ports) -> AccessKey:
    """One key.

    Raises:
        UnknownAccessKey: or it is another's.
    """
    return (await _seen(key_id, asking, ports)).key


async def of_person(user_id: UUID | None, *, asking: Asking, ports: Ports) -> Sequence[AccessKey]:
    """A person's keys, the newest first.

    Raises:
        UnknownPerson: or it is another's business.
    """
    owner = asking.user_id if user_id is None else user_id
    if not asking.sees(owner) or await ports.people.by_id(owner) is None:
        raise UnknownPerson
    return await ports.keys.of_person(owner)


async def verification(key_id: UUID, *, ports: Ports) -> Verifiable:
    """What signatures of a key are verified with.

    Raises:
        AccessKeyNotValid
    """
    found = await ports.keys.verifiable(key_id)
    if found is None or found.kept.owner.disabled or not found.kept.key.alive(ports.clock()):
        raise AccessKeyNotValid
    return found


async def exchange(
    base: bytes, signature: bytes, *, requesting_workload: str, signer: Signer, terms: TokenTerms, ports: Ports
) -> TransactionToken:
    """Answer a transaction token for a request that a key has signed.

    The gateway has verified it. It is verified here as well, so that whoever has taken the gateway over gets tokens
    for no key that has not just signed something.

    Raises:
        AccessKeyNotValid, AccessKeySignatureWrong
    """
    now = ports.clock()
    try:
        signed = signatures.signed_by_base(base)
        signed.check_time(now.timestamp() - CLOCK_SKEW_SECONDS, skew=2 * CLOCK_SKEW_SECONDS)
        key_id = UUID(signed.key_id)
    except ValueError:
        raise AccessKeySignatureWrong from None
    found = await verification(key_id, ports=ports)
    key, owner = found.kept.key, found.kept.owner
    if signed.algorithm not in (None, key.kind) or not signatures.VerificationKey(key.kind, found.material).verify(
        base, signature
    ):
        raise AccessKeySignatureWrong
    claims = tokens.transaction_claims(
        owner,
        scopes=key.granted(owner),
        issuer=terms.issuer,
        trust_domain=terms.trust_domain,
        transaction_id=terms.fresh_id(),
        requesting_workload=requesting_workload,
        issued_at=now,
        lifetime=min(terms.transaction_lifetime, max(key.expires_at - now, timedelta(seconds=1))),
        access_key_id=key.id,
    )
    await ports.keys.used(key, now=now)
    expires_at = datetime.fromtimestamp(float(str(claims["exp"])), UTC)
    return TransactionToken(token=signer.sign(claims, kind=tokens.TRANSACTION), expires_at=expires_at)


async def _seen(key_id: UUID, asking: Asking, ports: Ports) -> Kept:
    kept = await ports.keys.by_id(key_id)
    if kept is None or not asking.sees(kept.owner.id):
        raise UnknownAccessKey
    return kept


async def _made_before(command_id: UUID, fingerprint: bytes, *, owner: UUID, ports: Ports) -> Made | None:
    found = await ports.keys.made_by(command_id, owner=owner)
    if found is None:
        return None
    if found[1] != fingerprint:
        raise CommandReused
    return Made(found[0], b"", replayed=True)


async def _add(
    wanted: Wanted,
    owner: User,
    *,
    command_id: UUID,
    fingerprint: bytes,
    ports: Ports,
    replaces: UUID | None = None,
    old_until: datetime | None = None,
) -> Made:
    public, secret = wanted.public_key, b""
    if wanted.kind is Kind.HMAC_SHA256:
        secret = ports.fresh_secret()
    elif public is None:
        # Told once and kept nowhere: only the public key is.
        public, secret = ports.fresh_pair()
    key = AccessKey(
        id=stamped(ports.fresh_id(), bucket_in(owner.id)),
        user_id=owner.id,
        name=wanted.name,
        kind=wanted.kind,
        scopes=wanted.scopes,
        public_key=public,
        created_at=ports.clock(),
        expires_at=wanted.expires_at,
    )
    try:
        await ports.keys.add(
            key,
            secret if wanted.kind is Kind.HMAC_SHA256 else b"",
            command_id=command_id,
            fingerprint=fingerprint,
            most=ports.terms.most,
            replaces=replaces,
            old_until=old_until,
        )
    except CommandReused:
        known = await _made_before(command_id, fingerprint, owner=owner.id, ports=ports)
        if known is None:
            raise
        return known
    return Made(key, secret)
