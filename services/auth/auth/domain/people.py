"""People, what they may do, and what a new one must be like."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any, cast
from uuid import UUID

from auth.domain.concealed import Password
from auth.domain.errors import InvalidFields
from auth.domain.passwords import new_password

LONGEST_NAME = 100
_LONGEST_EMAIL = 254
_LONGEST_LOCAL_PART = 64

# Dot-atoms and host names of RFC 5321 in ASCII: no quoted local parts, comments or address literals, which nobody has
# and parsers disagree about. A domain of a single label is allowed, for `admin@localhost`.
_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_EMAIL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*", re.ASCII)


class Role(StrEnum):
    """What a person is. The values are the storage format and stand in tokens."""

    VIEWER = "viewer"
    EDITOR = "editor"
    ADMIN = "admin"


_VIEWER = frozenset({"catalog:read", "jobs:read"})
_EDITOR = _VIEWER | {"catalog:write", "jobs:write"}
_ADMIN = _EDITOR | {"users:read", "users:write", "audit:read", "projections:read", "projections:write"}
SCOPES: Mapping[Role, frozenset[str]] = MappingProxyType(
    {Role.VIEWER: _VIEWER, Role.EDITOR: _EDITOR, Role.ADMIN: _ADMIN}
)


@dataclass(frozen=True, slots=True)
class User:
    """A person. The password hash is not here: whoever checks passwords gets it apart."""

    id: UUID
    email: str
    first_name: str
    last_name: str
    roles: frozenset[Role]
    created_at: datetime
    generation: int = 1
    """Counted up by each change of what the person may do."""
    disabled: bool = False
    """Whether the person may do nothing until they are enabled again."""

    @property
    def rights(self) -> object:
        """What decides on what the person may do."""
        return self.roles, self.disabled

    @property
    def scopes(self) -> frozenset[str]:
        """What the person's roles allow, together."""
        return frozenset[str]().union(*(SCOPES[role] for role in self.roles))


@dataclass(frozen=True, slots=True)
class Registration:
    """A person to be, each field checked and normalised."""

    email: str
    password: Password
    first_name: str
    last_name: str
    roles: frozenset[Role]


@dataclass(frozen=True, slots=True)
class Change:
    """What of a person is to be otherwise; None: it stays."""

    first_name: str | None = None
    last_name: str | None = None
    roles: frozenset[Role] | None = None
    disabled: bool | None = None

    @property
    def of_rights(self) -> bool:
        """Whether it is about what the person may do."""
        return self.roles is not None or self.disabled is not None


def changed(user: User, change: Change) -> User:
    """The person after a change.

    Raises:
        InvalidFields: naming every field that is wrong.
    """
    fields: dict[str, Any] = {}
    violations: list[tuple[str, str]] = []
    for field in ("first_name", "last_name"):
        text = getattr(change, field)
        if text is not None:
            try:
                fields[field] = normalised_name(text)
            except ValueError as error:
                violations.append((field, str(error)))
    if violations:
        raise InvalidFields(violations)
    if change.roles is not None:
        fields["roles"] = change.roles
    if change.disabled is not None:
        fields["disabled"] = change.disabled
    return replace(user, **fields)


def normalised_email(text: str) -> str:
    """The address in the form that it is stored and compared in: lower case.

    Raises:
        ValueError: it is no e-mail address.
    """
    email = text.lower()
    if len(email) > _LONGEST_EMAIL or not text.isascii() or not _EMAIL.fullmatch(email):
        raise ValueError("must be an e-mail address such as ada@example.org")
    if len(email.partition("@")[0]) > _LONGEST_LOCAL_PART:
        raise ValueError(f"must have at most {_LONGEST_LOCAL_PART} characters before the @")
    return email


def registration(*, email: str, password: str, first_name: str, last_name: str, roles: Iterable[Role]) -> Registration:
    """Check what a new person was described with.

    Raises:
        InvalidFields: naming every field that is wrong.
    """
    given = (
        ("email", normalised_email, email),
        ("password", partial(new_password, own=(email, first_name, last_name)), password),
        ("first_name", normalised_name, first_name),
        ("last_name", normalised_name, last_name),
        ("roles", _some, frozenset(roles)),
    )
    fields: dict[str, Any] = {}
    violations: list[tuple[str, str]] = []
    for field, check, value in given:
        try:
            fields[field] = cast("Callable[[object], object]", check)(value)
        except ValueError as error:
            violations.append((field, str(error)))
    if violations:
        raise InvalidFields(violations)
    return Registration(**fields)


def normalised_name(text: str) -> str:
    """The name without surrounding space, its accents composed.

    Raises:
        ValueError: it is empty, too long, or holds control characters.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name or len(name) > LONGEST_NAME:
        raise ValueError(f"must have 1 to {LONGEST_NAME} characters")
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in name):
        raise ValueError("must not have control characters")
    return name


def _some(roles: frozenset[Role]) -> frozenset[Role]:
    if not roles:
        raise ValueError("must name at least one role")
    return roles
