"""People and their sessions."""

from datetime import datetime
from typing import Annotated, Any

from almagest.auth.v1 import auth_pb2
from pydantic import Field, computed_field

from gateway import types
from gateway.representations.shapes import Shape, at


class User(Shape):
    """A person."""

    user_id: types.Uuid
    email: types.Email
    first_name: str
    last_name: str
    roles: tuple[types.Role, ...]
    created_at: datetime

    @computed_field(description="First and last name, as one reads them.", examples=["Ada Lovelace"])
    @property
    def full_name(self) -> str:
        """First and last name, as one reads them."""
        return f"{self.first_name} {self.last_name}".strip()

    @classmethod
    def of(cls, user: auth_pb2.User) -> "User":
        """What auth says of a person."""
        return cls.model_construct(
            user_id=user.user_id,
            email=user.email,
            first_name=user.first_name,
            last_name=user.last_name,
            roles=tuple(_ROLE_NAMES[role] for role in user.roles if role in _ROLE_NAMES),
            created_at=at(user.created_at),
        )


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
