"""What several servicers translate."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from almagest.auth.v1 import auth_pb2 as wire
from google.protobuf.timestamp_pb2 import Timestamp

from auth.domain.errors import InvalidFields
from auth.domain.people import Role, User

_ROLES = {wire.ROLE_VIEWER: Role.VIEWER, wire.ROLE_EDITOR: Role.EDITOR, wire.ROLE_ADMIN: Role.ADMIN}
_WIRE_ROLES = {role: number for number, role in _ROLES.items()}


def uuid_of(field: str, text: str) -> UUID:
    """The UUID of a field.

    Raises:
        InvalidFields: It is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise InvalidFields([(field, "must be a UUID")]) from None


def roles_of(numbers: Iterable[wire.Role.ValueType]) -> list[Role]:
    """Roles.

    Raises:
        InvalidFields: One of them is none.
    """
    try:
        return [_ROLES[number] for number in numbers]
    except KeyError:
        raise InvalidFields([("roles", "must be viewer, editor or admin")]) from None


def user_message(user: User) -> wire.User:
    """A person."""
    return wire.User(
        user_id=str(user.id),
        email=user.email,
        first_name=user.first_name,
        last_name=user.last_name,
        roles=sorted(_WIRE_ROLES[role] for role in user.roles),
        created_at=timestamp(user.created_at),
        disabled=user.disabled,
    )


def timestamp(moment: datetime) -> Timestamp:
    """A time."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
