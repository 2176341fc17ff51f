"""People and their sessions."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

from almagest.auth.v1 import auth_pb2
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
    def of(cls, tokens: auth_pb2.Tokens, **more: Any) -> "Tokens":
        """What auth gives."""
        return cls.model_construct(
            access_token=tokens.access_token,
            token_type="Bearer",  # noqa: S106 - a name
            expires_at=at(tokens.access_token_expires_at),
            refresh_token=tokens.refresh_token,
            session_expires_at=at(tokens.session_expires_at),
            **more,
        )


class Session(Tokens):
    """A new session."""

    user: User
