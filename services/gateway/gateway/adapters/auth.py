from almagest.auth.v1 import audit_pb2, audit_pb2_grpc, auth_pb2, auth_pb2_grpc, people_pb2, people_pb2_grpc
from chassis.deadlines import timeout_for
from chassis.rpc.channel import Channel
from chassis.tokens import METADATA_KEY

from gateway.application.ports import BATCH_SECONDS, Auth, Person

_SERVICE = "/almagest.auth.v1.AuthService/"
RETRYABLE = frozenset({_SERVICE + "GetUser", _SERVICE + "ExchangeToken"})


class GrpcAuth(Auth):
    """Auth over gRPC."""

    def __init__(self, channel: Channel) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)
        self._people = people_pb2_grpc.PeopleServiceStub(channel)
        self._audit = audit_pb2_grpc.AuditServiceStub(channel)

    async def log_in(self, request: auth_pb2.LogInRequest) -> auth_pb2.LogInResponse:  # noqa: D102 - the port says
        return await self._stub.LogIn(request)

    async def refresh(self, request: auth_pb2.RefreshSessionRequest) -> auth_pb2.Tokens:  # noqa: D102
        return (await self._stub.RefreshSession(request)).tokens

    async def log_out(self, request: auth_pb2.LogOutRequest) -> None:  # noqa: D102
        await self._stub.LogOut(request)

    async def exchange(self, access_token: str, bound_to: str = "") -> auth_pb2.ExchangeTokenResponse:  # noqa: D102
        return await self._stub.ExchangeToken(
            auth_pb2.ExchangeTokenRequest(access_token=access_token, bound_to=bound_to)
        )

    async def create_user(self, request: auth_pb2.CreateUserRequest, person: Person) -> auth_pb2.User:  # noqa: D102
        return (await self._stub.CreateUser(request, metadata=on_behalf_of(person))).user

    async def get_user(self, request: auth_pb2.GetUserRequest, person: Person) -> auth_pb2.User:  # noqa: D102
        return (await self._stub.GetUser(request, metadata=on_behalf_of(person))).user

    async def create_users(  # noqa: D102
        self, request: people_pb2.BatchCreateUsersRequest, person: Person
    ) -> people_pb2.BatchCreateUsersResponse:
        return await self._people.BatchCreateUsers(
            request, metadata=on_behalf_of(person), timeout=timeout_for(BATCH_SECONDS)
        )

    async def list_users(  # noqa: D102
        self, request: people_pb2.ListUsersRequest, person: Person
    ) -> people_pb2.ListUsersResponse:
        return await self._people.ListUsers(request, metadata=on_behalf_of(person))

    async def update_user(self, request: people_pb2.UpdateUserRequest, person: Person) -> auth_pb2.User:  # noqa: D102
        return (await self._people.UpdateUser(request, metadata=on_behalf_of(person))).user

    async def change_password(self, request: people_pb2.ChangePasswordRequest, person: Person) -> None:  # noqa: D102
        await self._people.ChangePassword(request, metadata=on_behalf_of(person))

    async def list_sessions(self, user_id: str, person: Person) -> people_pb2.ListSessionsResponse:  # noqa: D102
        request = people_pb2.ListSessionsRequest(user_id=user_id)
        return await self._people.ListSessions(request, metadata=on_behalf_of(person))

    async def end_session(self, session_id: str, person: Person) -> None:  # noqa: D102
        request = people_pb2.EndSessionRequest(session_id=session_id)
        await self._people.EndSession(request, metadata=on_behalf_of(person))

    async def audit(  # noqa: D102
        self, request: audit_pb2.ListAuditEventsRequest, person: Person
    ) -> audit_pb2.ListAuditEventsResponse:
        return await self._audit.ListAuditEvents(request, metadata=on_behalf_of(person))


def on_behalf_of(person: Person) -> tuple[tuple[str, str], ...]:
    """The metadata that name a person to a service."""
    return ((METADATA_KEY, person.token),)
