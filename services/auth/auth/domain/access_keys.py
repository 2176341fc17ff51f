"""Access keys: what a person's programs sign requests with, instead of carrying a session about.

A key may do less than its person, and never more: its scopes are those it was given and that its person still holds.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from auth.domain.errors import AccessKeyEnded, InvalidFields, NotByKey, ScopesNotHeld, UnknownAccessKey
from auth.domain.people import User, normalised_name

KEY_BYTES = 32
_SHORTEST = timedelta(minutes=1)


class Kind(StrEnum):
    """The algorithm. The values are the storage format, and the names that RFC 9421 registers."""

    HMAC_SHA256 = "hmac-sha256"
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key, without what it signs with."""

    id: UUID
    user_id: UUID
    name: str
    kind: Kind
    scopes: frozenset[str]
    public_key: bytes | None
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def alive(self, now: datetime) -> bool:
        """Whether the key is neither revoked nor over."""
        return self.revoked_at is None and now < self.expires_at

    def granted(self, owner: User) -> frozenset[str]:
        """What it may do now."""
        return self.scopes & owner.scopes


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks for something to be done with keys: a person, in a session or by a key."""

    user_id: UUID
    scopes: frozenset[str]
    key_id: UUID | None

    def sees(self, owner: UUID) -> bool:
        """Whether keys of this person may be looked at."""
        return owner == self.user_id or "users:read" in self.scopes

    def check_creates(self, owner: UUID) -> None:
        """See that keys may be made for a person.

        Raises:
            UnknownAccessKey, NotByKey
        """
        if "users:write" in self.scopes:
            return
        if owner != self.user_id:
            raise UnknownAccessKey
        if self.key_id is not None:
            raise NotByKey

    def check_changes(self, key: AccessKey, owner: User) -> None:
        """See that a key may be replaced or revoked: whoever may do less than it must not get hold of it.

        Raises:
            UnknownAccessKey, NotByKey, ScopesNotHeld
        """
        if "users:write" not in self.scopes:
            if owner.id != self.user_id:
                raise UnknownAccessKey
            if self.key_id not in (None, key.id):
                raise NotByKey
        missing = key.granted(owner) - self.scopes
        if missing:
            raise ScopesNotHeld(missing)


@dataclass(frozen=True, slots=True)
class Terms:
    """How many keys a person may have, and for how long."""

    most: int
    usual: timedelta
    longest: timedelta


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key to be."""

    name: str
    kind: Kind
    scopes: frozenset[str]
    public_key: bytes | None
    expires_at: datetime


def wanted(
    *,
    name: str,
    kind: Kind,
    scopes: Collection[str],
    public_key: bytes,
    expires_at: datetime | None,
    owner: User,
    asking: Asking,
    terms: Terms,
    now: datetime,
) -> Wanted:
    """Check what a new key was described with.

    Raises:
        InvalidFields: naming every field that is wrong.
        ScopesNotHeld: its owner, or whoever asks, may not do all that it is to do.
    """
    violations: list[tuple[str, str]] = []
    try:
        name = normalised_name(name)
    except ValueError as error:
        violations.append(("name", str(error)))
    if public_key and kind is not Kind.ED25519:
        violations.append(("public_key", "only an ed25519 key has one"))
    elif public_key and len(public_key) != KEY_BYTES:
        violations.append(("public_key", f"must have {KEY_BYTES} bytes"))
    end = now + terms.usual if expires_at is None else expires_at
    if not now + _SHORTEST <= end <= now + terms.longest:
        violations.append(("expires_at", f"must be between a minute and {terms.longest.days} days from now"))
    if violations:
        raise InvalidFields(violations)
    held = owner.scopes & asking.scopes
    asked = frozenset(scopes) or held
    if asked - held:
        raise ScopesNotHeld(asked - held)
    return Wanted(name=name, kind=kind, scopes=asked, public_key=public_key or None, expires_at=end)


def successor(
    key: AccessKey,
    *,
    public_key: bytes,
    expires_at: datetime | None,
    owner: User,
    asking: Asking,
    terms: Terms,
    now: datetime,
) -> Wanted:
    """The key that is to follow one. A key that replaces itself gets no longer a life than it was given.

    Raises:
        AccessKeyEnded, InvalidFields, ScopesNotHeld
    """
    if not key.alive(now):
        raise AccessKeyEnded
    if asking.key_id is not None and "users:write" not in asking.scopes:
        life = key.expires_at - key.created_at
        terms = replace(terms, usual=min(terms.usual, life), longest=min(terms.longest, life))
    return wanted(
        name=key.name,
        kind=key.kind,
        scopes=key.granted(owner) or key.scopes,
        public_key=public_key,
        expires_at=expires_at,
        owner=owner,
        asking=asking,
        terms=terms,
        now=now,
    )


def fingerprint(*fields: object) -> bytes:
    """What a command is recognised by when it comes again. Nothing secret is in it."""
    digest = hashlib.sha256()
    for field in fields:
        content = field if isinstance(field, bytes) else str(field).encode()
        digest.update(len(content).to_bytes(4, "big") + content)
    return digest.digest()
