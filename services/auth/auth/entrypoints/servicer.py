"""AuthService on the wire."""
# ruff: noqa: N802, ARG002 - gRPC names the methods, and gives each a context

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from almagest.auth.v1 import auth_pb2 as wire
from almagest.auth.v1 import auth_pb2_grpc
from chassis.caller import current_caller
from chassis.tokens import current_person
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext

from auth.application import people, sessions, transactions
from auth.application.people import Fingerprints, Passwords, People
from auth.application.sessions import Sessions, Signer, Terms, Tokens
from auth.domain.errors import InvalidFields
from auth.domain.people import Role, User, registration
from auth.entrypoints.revocations import RevocationNews

_ROLES = {wire.ROLE_VIEWER: Role.VIEWER, wire.ROLE_EDITOR: Role.EDITOR, wire.ROLE_ADMIN: Role.ADMIN}
_WIRE_ROLES = {role: number for number, role in _ROLES.items()}


@dataclass(frozen=True, slots=True)
class Ports:
    """What the use cases need, as the composition root chose it."""

    people: People
    passwords: Passwords
    sessions: Sessions
    fingerprints: Fingerprints
    signer: Signer
    news: RevocationNews
    terms: Terms


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """Translates requests into use cases, and what these answer into responses."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def CreateUser(
        self, request: wire.CreateUserRequest, context: ServicerContext[wire.CreateUserRequest, wire.CreateUserResponse]
    ) -> wire.CreateUserResponse:
        """Create a person."""
        user = await people.create_person(
            registration(
                email=request.email,
                password=request.password,
                first_name=request.first_name,
                last_name=request.last_name,
                roles=_roles(request.roles),
            ),
            command_id=_uuid("command_id", request.command_id),
            people=self._ports.people,
            passwords=self._ports.passwords,
            fingerprints=self._ports.fingerprints,
            clock=self._ports.terms.clock,
        )
        return wire.CreateUserResponse(user=_user(user))

    async def GetUser(
        self, request: wire.GetUserRequest, context: ServicerContext[wire.GetUserRequest, wire.GetUserResponse]
    ) -> wire.GetUserResponse:
        """Answer a person."""
        asking = current_person()
        by = request.WhichOneof("by")
        user = await people.get_person(
            user_id=_uuid("user_id", request.user_id) if by == "user_id" else None,
            email=request.email if by == "email" else None,
            asking=UUID(asking.subject),
            sees_everyone="users:read" in asking.scopes,
            people=self._ports.people,
        )
        return wire.GetUserResponse(user=_user(user))

    async def LogIn(
        self, request: wire.LogInRequest, context: ServicerContext[wire.LogInRequest, wire.LogInResponse]
    ) -> wire.LogInResponse:
        """Start a session."""
        tokens, user = await sessions.log_in(
            email=request.email,
            password=request.password,
            people=self._ports.people,
            passwords=self._ports.passwords,
            sessions=self._ports.sessions,
            signer=self._ports.signer,
            terms=self._ports.terms,
        )
        return wire.LogInResponse(tokens=_tokens(tokens), user=_user(user))

    async def RefreshSession(
        self,
        request: wire.RefreshSessionRequest,
        context: ServicerContext[wire.RefreshSessionRequest, wire.RefreshSessionResponse],
    ) -> wire.RefreshSessionResponse:
        """Exchange a refresh token for new tokens."""
        tokens = await sessions.refresh_session(
            request.refresh_token, sessions=self._ports.sessions, signer=self._ports.signer, terms=self._ports.terms
        )
        return wire.RefreshSessionResponse(tokens=_tokens(tokens))

    async def LogOut(
        self, request: wire.LogOutRequest, context: ServicerContext[wire.LogOutRequest, wire.LogOutResponse]
    ) -> wire.LogOutResponse:
        """End a session."""
        await sessions.log_out(request.refresh_token, sessions=self._ports.sessions, terms=self._ports.terms)
        return wire.LogOutResponse()

    async def ExchangeToken(
        self,
        request: wire.ExchangeTokenRequest,
        context: ServicerContext[wire.ExchangeTokenRequest, wire.ExchangeTokenResponse],
    ) -> wire.ExchangeTokenResponse:
        """Answer a transaction token for an access token."""
        token = await transactions.exchange(
            request.access_token,
            scopes=request.scopes,
            requesting_workload=str(current_caller()),
            sessions=self._ports.sessions,
            signer=self._ports.signer,
            terms=self._ports.terms,
        )
        return wire.ExchangeTokenResponse(transaction_token=token.token, expires_at=_timestamp(token.expires_at))

    async def DelegateToken(
        self,
        request: wire.DelegateTokenRequest,
        context: ServicerContext[wire.DelegateTokenRequest, wire.DelegateTokenResponse],
    ) -> wire.DelegateTokenResponse:
        """Answer a transaction token for the submitter of a job."""
        token = await transactions.delegate(
            user_id=_uuid("user_id", request.user_id),
            job_id=_uuid("job_id", request.job_id),
            scopes=request.scopes,
            requesting_workload=str(current_caller()),
            people=self._ports.people,
            signer=self._ports.signer,
            terms=self._ports.terms,
        )
        return wire.DelegateTokenResponse(transaction_token=token.token, expires_at=_timestamp(token.expires_at))

    async def GetJwks(
        self, request: wire.GetJwksRequest, context: ServicerContext[wire.GetJwksRequest, wire.GetJwksResponse]
    ) -> wire.GetJwksResponse:
        """Answer the public keys."""
        return wire.GetJwksResponse(jwks=self._ports.signer.jwks())

    async def WatchRevocations(
        self,
        request: wire.WatchRevocationsRequest,
        context: ServicerContext[wire.WatchRevocationsRequest, wire.WatchRevocationsResponse],
    ) -> AsyncIterator[wire.WatchRevocationsResponse]:
        """Tell what is revoked, as it comes."""
        async with aclosing(self._ports.news.messages()) as messages:
            async for message in messages:
                yield message


def _uuid(field: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidFields([(field, "must be a UUID")]) from None


def _roles(numbers: Iterable[wire.Role.ValueType]) -> list[Role]:
    try:
        return [_ROLES[number] for number in numbers]
    except KeyError:
        raise InvalidFields([("roles", "must be viewer, editor or admin")]) from None


def _user(user: User) -> wire.User:
    return wire.User(
        user_id=str(user.id),
        email=user.email,
        first_name=user.first_name,
        last_name=user.last_name,
        roles=sorted(_WIRE_ROLES[role] for role in user.roles),
        created_at=_timestamp(user.created_at),
    )


def _tokens(tokens: Tokens) -> wire.Tokens:
    return wire.Tokens(
        access_token=tokens.access_token,
        access_token_expires_at=_timestamp(tokens.access_token_expires_at),
        refresh_token=tokens.refresh_token,
        session_expires_at=_timestamp(tokens.session_expires_at),
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
