"""People and their sessions."""

from typing import Annotated

from pydantic import Field

from gateway import types
from gateway.requests.shapes import Body, Query


class LogIn(Body):
    """Credentials."""

    email: types.Email
    password: types.Password


class RefreshToken(Body):
    """The refresh token of a session."""

    refresh_token: types.Token


class NewUser(Body):
    """A person to be."""

    email: types.Email
    password: types.NewPassword
    first_name: types.PersonName
    last_name: types.PersonName
    roles: Annotated[list[types.Role], Field(min_length=1, max_length=3, examples=[["editor"]])]


class UserInBulk(Body):
    """A person to be, checked where a fault is that person's own: it refuses nobody else."""

    email: Annotated[str, Field(max_length=1000, examples=["ada@example.com"])]
    password: Annotated[str, Field(max_length=1000, examples=["correct horse battery staple"])]
    first_name: Annotated[str, Field(max_length=1000, examples=["Ada"])]
    last_name: Annotated[str, Field(max_length=1000, examples=["Lovelace"])]
    roles: Annotated[list[Annotated[str, Field(max_length=50)]], Field(max_length=10, examples=[["editor"]])]


class NewUsers(Body):
    """Many people to be."""

    users: Annotated[list[UserInBulk], Field(min_length=1, max_length=1000)]


class ChangeUser(Body):
    """What of a person is to be otherwise; what is left out stays."""

    first_name: types.PersonName | None = None
    last_name: types.PersonName | None = None
    roles: Annotated[
        list[types.Role] | None, Field(min_length=1, max_length=3, description="For admins.", examples=[["viewer"]])
    ] = None
    disabled: Annotated[bool | None, Field(description="Whether the person may do nothing at all. For admins.")] = None


class ChangePassword(Body):
    """Another password."""

    present: Annotated[
        types.Password | None, Field(description="The present one; an admin who changes another's leaves it out.")
    ] = None
    password: types.NewPassword


class FindUser(Query):
    """Whom to find."""

    email: Annotated[types.Email | None, Field(description="Whose; left out: everybody, page by page.")] = None
    page_size: Annotated[int, Field(ge=1, le=500, description="How many at most.")] = 50
    cursor: Annotated[types.Uuid | None, Field(description="`next_cursor` of the page before.")] = None


class ListSessions(Query):
    """Whose sessions."""

    user_id: Annotated[types.Uuid | None, Field(description="Left out: yours. Others': for admins.")] = None


class ListAudit(Query):
    """What part of the audit."""

    subject: Annotated[types.Uuid | None, Field(description="Whom it is about.")] = None
    type: Annotated[
        list[Annotated[str, Field(pattern="^[A-Za-z]{1,50}$")]],
        Field(max_length=30, description="Of which types, such as `LoggedIn`.", examples=[["LogInFailed"]]),
    ] = []
    since: Annotated[types.Time | None, Field(description="Not before this time.")] = None
    until: Annotated[types.Time | None, Field(description="Before this time.")] = None
    page_size: Annotated[int, Field(ge=1, le=500, description="How many at most.")] = 50
    cursor: Annotated[types.Uuid | None, Field(description="`next_cursor` of the page before.")] = None
