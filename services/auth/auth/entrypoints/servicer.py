"""AuthService on the wire."""
# ruff: noqa: N802, ARG002 - gRPC names the methods, and gives each a context

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from uuid import UUID

from almagest.auth.v1 import auth_pb2 as wire
from almagest.auth.v1 import auth_pb2_grpc
from chassis.caller import current_caller, current_origin
from chassis.tokens import current_person
from grpc.aio import ServicerContext

from auth.application import people, sessions, transactions
from auth.application.attempts import Attempts
from auth.application.audit import Audit
from auth.application.people import CommonPasswords, Fingerprints, Passwords, People
from auth.application.sessions import Sessions, Signer, Terms, Tokens
from auth.domain.people import registration
from auth.entrypoints.revocations import RevocationNews
from auth.entrypoints.wire import roles_of, timestamp, user_message, uuid_of


@dataclass(frozen=True, slots=True)
class Ports:
    """What the use cases need, as the composition root chose it."""

    people: People
    common: CommonPasswords
    passwords: Passwords
    sessions: Sessions
    audit: Audit
    attempts: Attempts
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
                roles=roles_of(request.roles),
            ),
            command_id=uuid_of("command_id", request.command_id),
            people=self._ports.people,
            common=self._ports.common,
            hashing=self._ports.passwords.hash,
            fingerprints=self._ports.fingerprints,
            clock=self._ports.terms.clock,
        )
        return wire.CreateUserResponse(user=user_message(user))

    async def GetUser(
        self, request: wire.GetUserRequest, context: ServicerContext[wire.GetUserRequest, wire.GetUserResponse]
    ) -> wire.GetUserResponse:
        """Answer a person."""
        asking = current_person()
        by = request.WhichOneof("by")
        user = await people.get_person(
            user_id=uuid_of("user_id", request.user_id) if by == "user_id" else None,
            email=request.email if by == "email" else None,
            asking=UUID(asking.subject),
            sees_everyone="users:read" in asking.scopes,
            people=self._ports.people,
        )
        return wire.GetUserResponse(user=user_message(user))

    async def LogIn(
        self, request: wire.LogInRequest, context: ServicerContext[wire.LogInRequest, wire.LogInResponse]
    ) -> wire.LogInResponse:
        """Start a session."""
        origin = current_origin()
        tokens, user = await sessions.log_in(
            email=request.email,
            password=request.password,
            bound_to=request.bound_to or None,
            address="" if origin is None else origin.address,
            people=self._ports.people,
            passwords=self._ports.passwords,
            sessions=self._ports.sessions,
            audit=self._ports.audit,
            attempts=self._ports.attempts,
            signer=self._ports.signer,
            terms=self._ports.terms,
        )
        return wire.LogInResponse(tokens=_tokens(tokens), user=user_message(user))

    async def RefreshSession(
        self,
        request: wire.RefreshSessionRequest,
        context: ServicerContext[wire.RefreshSessionRequest, wire.RefreshSessionResponse],
    ) -> wire.RefreshSessionResponse:
        """Exchange a refresh token for new tokens."""
        tokens = await sessions.refresh_session(
            request.refresh_token,
            bound_to=request.bound_to or None,
            sessions=self._ports.sessions,
            audit=self._ports.audit,
            signer=self._ports.signer,
            terms=self._ports.terms,
        )
        return wire.RefreshSessionResponse(tokens=_tokens(tokens))

    async def LogOut(
        self, request: wire.LogOutRequest, context: ServicerContext[wire.LogOutRequest, wire.LogOutResponse]
    ) -> wire.LogOutResponse:
        """End a session."""
        await sessions.log_out(
            request.refresh_token, sessions=self._ports.sessions, audit=self._ports.audit, terms=self._ports.terms
        )
        return wire.LogOutResponse()

    async def ExchangeToken(
        self,
        request: wire.ExchangeTokenRequest,
        context: ServicerContext[wire.ExchangeTokenRequest, wire.ExchangeTokenResponse],
    ) -> wire.ExchangeTokenResponse:
        """Answer a transaction token for an access token."""
        token = await transactions.exchange(
            request.access_token,
            bound_to=request.bound_to or None,
            scopes=request.scopes,
            requesting_workload=str(current_caller()),
            sessions=self._ports.sessions,
            signer=self._ports.signer,
            terms=self._ports.terms,
        )
        return wire.ExchangeTokenResponse(transaction_token=token.token, expires_at=timestamp(token.expires_at))

    async def DelegateToken(
        self,
        request: wire.DelegateTokenRequest,
        context: ServicerContext[wire.DelegateTokenRequest, wire.DelegateTokenResponse],
    ) -> wire.DelegateTokenResponse:
        """Answer a transaction token for the submitter of a job."""
        token = await transactions.delegate(
            user_id=uuid_of("user_id", request.user_id),
            job_id=uuid_of("job_id", request.job_id),
            scopes=request.scopes,
            requesting_workload=str(current_caller()),
            people=self._ports.people,
            signer=self._ports.signer,
            terms=self._ports.terms,
        )
        return wire.DelegateTokenResponse(transaction_token=token.token, expires_at=timestamp(token.expires_at))

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


def _tokens(tokens: Tokens) -> wire.Tokens:
    return wire.Tokens(
        access_token=tokens.access_token,
        access_token_expires_at=timestamp(tokens.access_token_expires_at),
        refresh_token=tokens.refresh_token,
        session_expires_at=timestamp(tokens.session_expires_at),
    )
