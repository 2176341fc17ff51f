"""Forgetting a person: what was destroyed, what was searched for, and what the certificate says."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

CERTIFICATE = "erasure+jwt"
"""The kind (`typ`) of an erasure's certificate."""
NOT_COVERED = (
    "backups of databases: they hold the person until they expire, sealed under a key that is gone from the database",
    "backups of the key-encryption key together with those of the databases: whoever has both can read the person",
    "copies that others made of answers, events and logs",
)


@dataclass(frozen=True, slots=True)
class Store:
    """One place that is searched, and how far."""

    service: str
    store: str
    total: int
    searched: int
    findings: int
    mentions: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What is searched for. Shown by nobody."""

    email: str
    first_name: str
    last_name: str

    def __repr__(self) -> str:
        return "Terms(concealed)"

    @property
    def findings(self) -> tuple[str, ...]:
        """Texts that are the person's alone."""
        return (self.email, f"{self.first_name} {self.last_name}", f"{self.last_name}, {self.first_name}")

    @property
    def mentions(self) -> tuple[str, ...]:
        """Words that may be anyone's and anything's."""
        return (self.first_name, self.last_name)


@dataclass(frozen=True, slots=True)
class Erasure:
    """The forgetting of one person."""

    user_id: UUID
    forgotten_at: datetime
    requested_by: UUID
    stores: tuple[Store, ...] = ()
    certified_at: datetime | None = None

    @property
    def findings(self) -> int:
        """How many things still hold the address or the full name."""
        return sum(store.findings for store in self.stores)


def certificate_claims(erasure: Erasure, *, issuer: str, unreached: Sequence[str]) -> dict[str, object]:
    """What the certificate says. Personal data is what it is about, and not in it."""
    return {
        "iss": issuer,
        "sub": str(erasure.user_id),
        "iat": int(erasure.certified_at.timestamp()) if erasure.certified_at else 0,
        "forgotten_at": erasure.forgotten_at.isoformat(),
        "requested_by": str(erasure.requested_by),
        "subject_key": "destroyed",
        "searched": [
            {
                "service": store.service,
                "store": store.store,
                "searched": store.searched,
                "findings": store.findings,
                "mentions_of_a_name_alone": store.mentions,
            }
            for store in erasure.stores
        ],
        "findings": "none" if not erasure.findings else erasure.findings,
        "not_covered": [*NOT_COVERED, *unreached],
    }
