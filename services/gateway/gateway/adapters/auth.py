from almagest.auth.v1 import auth_pb2, auth_pb2_grpc
from chassis.rpc.channel import Channel
from chassis.tokens import METADATA_KEY

from gateway.application.ports import Auth, Person

_SERVICE = "/almagest.auth.v1.AuthService/"
RETRYABLE = frozenset({_SERVICE + "GetUser", _SERVICE + "ExchangeToken"})


class GrpcAuth(Auth):
    """Auth over gRPC."""

    def __init__(self, channel: Channel) -> None:
        self._stub = auth_pb2_grpc.AuthServiceStub(channel)

    async def log_in(self, request: auth_pb2.LogInRequest) -> auth_pb2.LogInResponse:  # noqa: D102 - the port says
        return await self._stub.LogIn(request)

    async def refresh(self, request: auth_pb2.RefreshSessionRequest) -> auth_pb2.Tokens:  # noqa: D102
        return (await self._stub.RefreshSession(request)).tokens

    async def log_out(self, request: auth_pb2.LogOutRequest) -> None:  # noqa: D102
        await self._stub.LogOut(request)

    async def exchange(self, access_token: str) -> auth_pb2.ExchangeTokenResponse:  # noqa: D102
        return await self._stub.ExchangeToken(auth_pb2.ExchangeTokenRequest(access_token=access_token))

    async def create_user(self, request: auth_pb2.CreateUserRequest, person: Person) -> auth_pb2.User:  # noqa: D102
        return (await self._stub.CreateUser(request, metadata=on_behalf_of(person))).user

    async def get_user(self, request: auth_pb2.GetUserRequest, person: Person) -> auth_pb2.User:  # noqa: D102
        return (await self._stub.GetUser(request, metadata=on_behalf_of(person))).user


def on_behalf_of(person: Person) -> tuple[tuple[str, str], ...]:
    """The metadata that name a person to a service."""
    return ((METADATA_KEY, person.token),)
