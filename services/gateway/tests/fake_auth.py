"""Auth in memory."""

import asyncio
import time
import uuid

import grpc
from almagest.auth.v1 import audit_pb2, auth_pb2, people_pb2
from chassis.errors import RemoteProblem
from gateway.application.ports import Auth, Person

from .fake_answers import jwt, problem

PASSWORD = "correct horse battery staple"
_VIEWS = ("catalog:read", "jobs:read")
_EDITS = (*_VIEWS, "catalog:write", "jobs:write")
SCOPES = {
    auth_pb2.ROLE_VIEWER: _VIEWS,
    auth_pb2.ROLE_EDITOR: _EDITS,
    auth_pb2.ROLE_ADMIN: (*_EDITS, "users:read", "users:write", "audit:read"),
}


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
        self.bound: dict[str, str] = {}
        self.updates: list[people_pb2.UpdateUserRequest] = []
        self.audits: list[audit_pb2.ListAuditEventsRequest] = []
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
                tokens = self._tokens(user.user_id)
                self.bound[tokens.access_token] = request.bound_to
                return auth_pb2.LogInResponse(tokens=tokens, user=user)
        raise problem(grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")

    async def refresh(self, request: auth_pb2.RefreshSessionRequest) -> auth_pb2.Tokens:
        user_id = self.sessions.pop(request.refresh_token, None)
        if user_id is None:
            raise problem(grpc.StatusCode.UNAUTHENTICATED, "INVALID_REFRESH_TOKEN")
        return self._tokens(user_id)

    async def log_out(self, request: auth_pb2.LogOutRequest) -> None:
        self.sessions.pop(request.refresh_token, None)

    async def exchange(self, access_token: str, bound_to: str = "") -> auth_pb2.ExchangeTokenResponse:
        self.exchanges += 1
        if self.bound.get(access_token, "") != bound_to:
            raise problem(grpc.StatusCode.UNAUTHENTICATED, "DPOP_PROOF_NEEDED")
        if self.exchange_gate is not None:
            await self.exchange_gate.wait()
        subject = self.access.get(access_token)
        if subject is None:
            raise problem(grpc.StatusCode.UNAUTHENTICATED, "INVALID_TOKEN")
        scopes = {scope for role in self.users[subject].roles for scope in SCOPES[role]}
        token = jwt(subject, sid=access_token[-8:], gen=self.generation, scope=" ".join(sorted(scopes)))
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

    async def create_users(
        self, request: people_pb2.BatchCreateUsersRequest, person: Person
    ) -> people_pb2.BatchCreateUsersResponse:
        answer = people_pb2.BatchCreateUsersResponse()
        for user in request.users:
            try:
                answer.results.add().user.CopyFrom(await self.create_user(user, person))
            except RemoteProblem as refused:
                answer.results[-1].problem.CopyFrom(refused.problem)
        return answer

    async def list_users(self, request: people_pb2.ListUsersRequest, person: Person) -> people_pb2.ListUsersResponse:
        del person
        ids = [user_id for user_id in sorted(self.users) if user_id > request.page_token]
        page = ids[: request.page_size]
        return people_pb2.ListUsersResponse(
            users=[self.users[user_id] for user_id in page], next_page_token=page[-1] if len(ids) > len(page) else ""
        )

    async def update_user(self, request: people_pb2.UpdateUserRequest, person: Person) -> auth_pb2.User:
        del person
        self.updates.append(request)
        user = self.users.get(request.user_id)
        if user is None:
            raise problem(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
        if request.HasField("disabled"):
            user.disabled = request.disabled
        if request.roles:
            user.roles[:] = request.roles
        return user

    async def change_password(self, request: people_pb2.ChangePasswordRequest, person: Person) -> None:
        del person
        if request.present != PASSWORD:
            raise problem(grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")

    async def list_sessions(self, user_id: str, person: Person) -> people_pb2.ListSessionsResponse:
        session = people_pb2.Session(session_id=user_id or person.subject, current=not user_id)
        return people_pb2.ListSessionsResponse(sessions=[session])

    async def end_session(self, session_id: str, person: Person) -> None:
        del person
        if session_id not in self.users:
            raise problem(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")

    async def audit(
        self, request: audit_pb2.ListAuditEventsRequest, person: Person
    ) -> audit_pb2.ListAuditEventsResponse:
        self.audits.append(request)
        event = audit_pb2.AuditEvent(
            event_id=str(uuid.uuid4()),
            type="LoggedIn",
            subject_id=person.subject,
            origin={"address": "192.0.2.1"},
            details=b'{"session_id":"s"}',
        )
        return audit_pb2.ListAuditEventsResponse(events=[event], next_page_token=str(uuid.uuid4()))
