"""PeopleService on the wire."""
# ruff: noqa: N802, ARG002 - gRPC names the methods, and gives each a context

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from almagest.auth.v1 import auth_pb2, people_pb2, people_pb2_grpc
from chassis.caller import current_origin
from chassis.errors import ErrorTable
from chassis.tokens import current_person
from grpc.aio import ServicerContext

from auth.application import changes
from auth.application.changes import Asking, Ports
from auth.domain.errors import InvalidFields
from auth.domain.people import Change, Registration, registration
from auth.domain.sessions import Session
from auth.entrypoints.wire import roles_of, timestamp, user_message, uuid_of

MOST_AT_ONCE = 1000
_USUAL_PAGE = 50
_LARGEST_PAGE = 500

if TYPE_CHECKING:
    Context: TypeAlias = ServicerContext[Any, Any]
else:  # generic for the type checker only
    Context = Any


class PeopleServicer(people_pb2_grpc.PeopleServiceServicer):
    """Translates requests into use cases, and what these answer into responses."""

    def __init__(self, ports: Ports, errors: ErrorTable) -> None:
        self._ports = ports
        self._errors = errors

    async def BatchCreateUsers(
        self, request: people_pb2.BatchCreateUsersRequest, context: Context
    ) -> people_pb2.BatchCreateUsersResponse:
        """Create people, each on their own."""
        if not 1 <= len(request.users) <= MOST_AT_ONCE:
            raise InvalidFields([("users", f"must be 1 to {MOST_AT_ONCE}")])
        wanted = [
            (_described(user), uuid_of(f"users[{index}].command_id", user.command_id))
            for index, user in enumerate(request.users)
        ]
        response = people_pb2.BatchCreateUsersResponse()
        for made in await changes.create_people(wanted, ports=self._ports):
            if isinstance(made, Exception):
                response.results.add().problem.CopyFrom(self._errors.problem(made))
            else:
                response.results.add().user.CopyFrom(user_message(made))
        return response

    async def ListUsers(self, request: people_pb2.ListUsersRequest, context: Context) -> people_pb2.ListUsersResponse:
        """Answer a page of people."""
        found, following = await changes.list_people(
            after=uuid_of("page_token", request.page_token) if request.page_token else None,
            limit=page_size(request.page_size),
            ports=self._ports,
        )
        return people_pb2.ListUsersResponse(
            users=map(user_message, found), next_page_token="" if following is None else str(following)
        )

    async def UpdateUser(
        self, request: people_pb2.UpdateUserRequest, context: Context
    ) -> people_pb2.UpdateUserResponse:
        """Change a person."""
        user = await changes.update_person(
            uuid_of("user_id", request.user_id),
            Change(
                first_name=request.first_name if request.HasField("first_name") else None,
                last_name=request.last_name if request.HasField("last_name") else None,
                roles=frozenset(roles_of(request.roles)) or None,
                disabled=request.disabled if request.HasField("disabled") else None,
            ),
            asking=_asking(),
            ports=self._ports,
        )
        return people_pb2.UpdateUserResponse(user=user_message(user))

    async def ChangePassword(
        self, request: people_pb2.ChangePasswordRequest, context: Context
    ) -> people_pb2.ChangePasswordResponse:
        """Set another password."""
        origin = current_origin()
        await changes.change_password(
            uuid_of("user_id", request.user_id),
            present=request.present,
            password=request.password,
            address="" if origin is None else origin.address,
            asking=_asking(),
            ports=self._ports,
        )
        return people_pb2.ChangePasswordResponse()

    async def ListSessions(
        self, request: people_pb2.ListSessionsRequest, context: Context
    ) -> people_pb2.ListSessionsResponse:
        """Answer the sessions of a person."""
        asking = _asking()
        found = await changes.list_sessions(
            uuid_of("user_id", request.user_id) if request.user_id else None, asking=asking, ports=self._ports
        )
        return people_pb2.ListSessionsResponse(
            sessions=[_session(session, current=session.id == asking.session_id) for session in found]
        )

    async def EndSession(
        self, request: people_pb2.EndSessionRequest, context: Context
    ) -> people_pb2.EndSessionResponse:
        """End a session."""
        await changes.end_session(uuid_of("session_id", request.session_id), asking=_asking(), ports=self._ports)
        return people_pb2.EndSessionResponse()


def page_size(asked: int) -> int:
    """How many a page holds.

    Raises:
        InvalidFields: It is too many, or less than none.
    """
    if not 0 <= asked <= _LARGEST_PAGE:
        raise InvalidFields([("page_size", f"must be 1 to {_LARGEST_PAGE}")])
    return asked or _USUAL_PAGE


def _asking() -> Asking:
    person = current_person()
    return Asking(
        user_id=UUID(person.subject),
        session_id=UUID(person.session_id) if person.session_id else None,
        reads_everyone="users:read" in person.scopes,
        writes_everyone="users:write" in person.scopes,
    )


def _described(user: auth_pb2.CreateUserRequest) -> Callable[[], Registration]:
    """Checked where a fault is that person's own."""
    return lambda: registration(
        email=user.email,
        password=user.password,
        first_name=user.first_name,
        last_name=user.last_name,
        roles=roles_of(user.roles),
    )


def _session(session: Session, *, current: bool) -> people_pb2.Session:
    return people_pb2.Session(
        session_id=str(session.id),
        started_at=timestamp(session.started_at),
        expires_at=timestamp(session.expires_at),
        refreshed_at=timestamp(session.refreshed_at or session.started_at),
        bound=session.bound_to is not None,
        current=current,
    )
