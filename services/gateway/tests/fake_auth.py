"""Auth in memory."""

import asyncio
import time
import uuid

import grpc
from almagest.auth.v1 import auth_pb2
from gateway.application.ports import Auth, Person

from .fake_answers import jwt, problem

PASSWORD = "correct horse battery staple"


class FakeAuth(Auth):
    """Knows its users, and the access tokens that it gave."""

    def __init__(self) -> None:
        self.users: dict[str, auth_pb2.User] = {}
        self.sessions: dict[str, str] = {}
        self.access: dict[str, str] = {}
        self.created: dict[str, auth_pb2.User] = {}
        self.exchanges = 0
        self.lifetime = 60.0
        self.generation = 1
        self.exchange_gate: asyncio.Event | None = None
        self.add("ada@example.com", "Ada", "Lovelace", auth_pb2.ROLE_ADMIN)

    def add(self, email: str, first: str, last: str, *roles: auth_pb2.Role) -> auth_pb2.User:
        user = auth_pb2.User(user_id=str(uuid.uuid4()), email=email, first_name=first, last_name=last, roles=roles)
        user.created_at.FromJsonString("2026-11-22T16:30:00.123456Z")
        self.users[user.user_id] = user
        return user

    def _tokens(self, user_id: str) -> auth_pb2.Tokens:
        tokens = auth_pb2.Tokens(access_token=jwt(user_id), refresh_token=uuid.uuid4().hex)
        tokens.access_token_expires_at.FromSeconds(int(time.time()) + 600)
        tokens.session_expires_at.FromSeconds(int(time.time()) + 86_400)
        self.access[tokens.access_token] = user_id
        self.sessions[tokens.refresh_token] = user_id
        return tokens

    async def log_in(self, request: auth_pb2.LogInRequest) -> auth_pb2.LogInResponse:
        for user in self.users.values():
            if user.email == request.email and request.password == PASSWORD:
                return auth_pb2.LogInResponse(tokens=self._tokens(user.user_id), user=user)
        raise problem(grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")

    async def refresh(self, request: auth_pb2.RefreshSessionRequest) -> auth_pb2.Tokens:
        user_id = self.sessions.pop(request.refresh_token, None)
        if user_id is None:
            raise problem(grpc.StatusCode.UNAUTHENTICATED, "INVALID_REFRESH_TOKEN")
        return self._tokens(user_id)

    async def log_out(self, request: auth_pb2.LogOutRequest) -> None:
        self.sessions.pop(request.refresh_token, None)

    async def exchange(self, access_token: str) -> auth_pb2.ExchangeTokenResponse:
        self.exchanges += 1
        if self.exchange_gate is not None:
            await self.exchange_gate.wait()
        subject = self.access.get(access_token)
        if subject is None:
            raise problem(grpc.StatusCode.UNAUTHENTICATED, "INVALID_TOKEN")
        token = jwt(subject, sid=access_token[-8:], gen=self.generation)
        answer = auth_pb2.ExchangeTokenResponse(transaction_token=token)
        answer.expires_at.FromNanoseconds(int((time.time() + self.lifetime) * 1e9))
        return answer

    async def create_user(self, request: auth_pb2.CreateUserRequest, person: Person) -> auth_pb2.User:
        del person
        if request.command_id in self.created:
            return self.created[request.command_id]
        if any(user.email == request.email for user in self.users.values()):
            raise problem(grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")
        user = self.add(request.email, request.first_name, request.last_name, *request.roles)
        self.created[request.command_id] = user
        return user

    async def get_user(self, request: auth_pb2.GetUserRequest, person: Person) -> auth_pb2.User:
        del person
        for user in self.users.values():
            if request.user_id == user.user_id or request.email == user.email:
                return user
        raise problem(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
