"""People and their sessions."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

import orjson
from almagest.auth.v1 import audit_pb2, auth_pb2, people_pb2
from pydantic import Field, PrivateAttr, computed_field, field_serializer

from gateway import types
from gateway.representations.shapes import Shape, at


class User(Shape):
    """A person. Whoever may not see everything sees initials and no address."""

    user_id: types.Uuid
    email: types.Email | None
    first_name: str
    last_name: str
    roles: tuple[types.Role, ...]
    created_at: datetime
    disabled: Annotated[bool, Field(description="Whether the person may do nothing until enabled again.")] = False

    # Who forgets to say that somebody may see everything has shown less, and not more.
    _whole: bool = PrivateAttr(default=False)

    @computed_field(description="First and last name, as one reads them.", examples=["Ada Lovelace"])
    @property
    def full_name(self) -> str:
        """First and last name, as one reads them."""
        return f"{self._name(self.first_name)} {self._name(self.last_name)}".strip()

    @field_serializer("first_name", "last_name")
    def _name(self, name: str) -> str:
        return name if self._whole else f"{name[:1]}." if name else ""

    @field_serializer("email")
    def _email(self, email: str | None) -> str | None:
        return email if self._whole else None

    def __repr_args__(self) -> "Iterable[tuple[str | None, Any]]":
        return [("user_id", self.user_id)]

    @classmethod
    def of(cls, user: auth_pb2.User, *, whole: bool = False) -> "User":
        """What auth says of a person, whole or as others may see it."""
        made = cls.model_construct(
            user_id=user.user_id,
            email=user.email,
            first_name=user.first_name,
            last_name=user.last_name,
            roles=tuple(_ROLE_NAMES[role] for role in user.roles if role in _ROLE_NAMES),
            created_at=at(user.created_at),
            disabled=user.disabled,
        )
        made._whole = whole  # noqa: SLF001 - of this class
        return made


ROLES = {
    "viewer": auth_pb2.ROLE_VIEWER,
    "editor": auth_pb2.ROLE_EDITOR,
    "admin": auth_pb2.ROLE_ADMIN,
}


_ROLE_NAMES = {number: name for name, number in ROLES.items()}


class Tokens(Shape):
    """The tokens of a session."""

    access_token: Annotated[str, Field(description="For the Authorization header.")]
    token_type: Annotated[str, Field(examples=["Bearer"])] = "Bearer"  # noqa: S105 - a name
    expires_at: Annotated[datetime, Field(description="When the access token ends.")]
    refresh_token: Annotated[str, Field(description="For `/v1/sessions:refresh`, good once.")]
    session_expires_at: Annotated[datetime, Field(description="When the session ends at the latest.")]

    @classmethod
    def of(cls, tokens: auth_pb2.Tokens, *, bound: bool = False, **more: Any) -> "Tokens":
        """What auth gives, bound to a key or not."""
        return cls.model_construct(
            access_token=tokens.access_token,
            token_type="DPoP" if bound else "Bearer",
            expires_at=at(tokens.access_token_expires_at),
            refresh_token=tokens.refresh_token,
            session_expires_at=at(tokens.session_expires_at),
            **more,
        )


class Session(Tokens):
    """A new session."""

    user: User


class UserPage(Shape):
    """A page of people."""

    items: list[User]
    next_cursor: Annotated[str | None, Field(description="For the next page; null on the last.")]


class UserMade(Shape):
    """What became of one person of a batch: one of the two."""

    user: User | None = None
    problem: Annotated[
        dict[str, Any] | None,
        Field(description="`reason`, `detail`, and `errors` with a field and a message each."),
    ] = None


class UsersMade(Shape):
    """What became of each person of a batch, in its order."""

    results: list[UserMade]
    created: Annotated[int, Field(description="How many there are now.")]


class OpenSession(Shape):
    """A session that has not ended."""

    session_id: types.Uuid
    started_at: datetime
    expires_at: datetime
    refreshed_at: datetime
    bound: Annotated[bool, Field(description="Whether its tokens are bound to a key of the client.")]
    current: Annotated[bool, Field(description="Whether it is the one that asks.")]

    @classmethod
    def of(cls, session: people_pb2.Session) -> "OpenSession":
        """What auth says of a session."""
        return cls.model_construct(
            session_id=session.session_id,
            started_at=at(session.started_at),
            expires_at=at(session.expires_at),
            refreshed_at=at(session.refreshed_at),
            bound=session.bound,
            current=session.current,
        )


class OpenSessions(Shape):
    """The sessions of a person."""

    items: list[OpenSession]


class AuditEvent(Shape):
    """Something that was done with a person, their sessions or keys."""

    event_id: types.Uuid
    type: Annotated[str, Field(examples=["LoggedIn"])]
    subject_id: Annotated[str, Field(description="Whom it is about; all zeros: nobody who is known.")]
    at: datetime
    actor_id: Annotated[str | None, Field(description="Who did it; null: nobody who is known.")]
    access_key_id: Annotated[str | None, Field(description="The access key that the request was signed with.")]
    workload: Annotated[str | None, Field(description="The service that asked for it; null: an operator's command.")]
    origin: Annotated[
        dict[str, str], Field(description="Where it came from; empty once whom it is about was forgotten.")
    ]
    details: dict[str, Any]

    @classmethod
    def of(cls, event: audit_pb2.AuditEvent) -> "AuditEvent":
        """What auth says of an event."""
        return cls.model_construct(
            event_id=event.event_id,
            type=event.type,
            subject_id=event.subject_id,
            at=at(event.at),
            actor_id=event.actor_id or None,
            access_key_id=event.access_key_id or None,
            workload=event.workload or None,
            origin=dict(event.origin),
            details=orjson.loads(event.details or b"{}"),
        )


class AuditPage(Shape):
    """A page of the audit, latest first."""

    items: list[AuditEvent]
    next_cursor: Annotated[str | None, Field(description="For the next page; null on the last.")]
