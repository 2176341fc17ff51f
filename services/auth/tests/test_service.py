"""The service over mTLS: sessions, tokens, people, and who may ask for what."""

import base64
import json
import time
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import pytest
from almagest.auth.v1 import auth_pb2 as wire
from argon2 import PasswordHasher
from chassis.errors import RemoteProblem
from chassis.ids import uuid7

ISSUER = "spiffe://almagest.internal/auth"


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """The code, reason and message of a call that must fail."""
    with pytest.raises(RemoteProblem) as failure:
        await call
    problem = failure.value.problem
    return failure.value.code, problem.reason, problem.message


def read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token, unverified."""
    header, payload, _ = token.split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in (header, payload))  # type: ignore[return-value]


async def jwks(service) -> dict[str, Any]:
    return json.loads((await service.gateway.GetJwks(wire.GetJwksRequest())).jwks)


class TestPeople:
    async def test_an_admin_creates_a_person_and_finds_them_by_both_keys(self, service, admin, acting, person):
        """What was created is what is found, with the address in lower case."""
        request = person(email=f"Ada.{uuid7().hex}@Example.ORG", roles=[wire.ROLE_EDITOR, wire.ROLE_VIEWER])
        metadata = await acting(admin.email)
        created = (await service.gateway.CreateUser(request, metadata=metadata)).user
        assert created.email == request.email.lower()
        assert list(created.roles) == [wire.ROLE_VIEWER, wire.ROLE_EDITOR]
        assert UUID(created.user_id).version == 7
        for by in (wire.GetUserRequest(user_id=created.user_id), wire.GetUserRequest(email=request.email)):
            assert (await service.gateway.GetUser(by, metadata=metadata)).user == created

    async def test_the_same_command_gets_the_original_answer(self, service, admin, acting, person):
        """And with another request it is refused."""
        metadata = await acting(admin.email)
        request = person()
        first = await service.gateway.CreateUser(request, metadata=metadata)
        assert await service.gateway.CreateUser(request, metadata=metadata) == first
        for other in (
            person(command_id=request.command_id),
            person(command_id=request.command_id, email=request.email, password="a horse of no name"),
        ):
            code, name, _ = await refused(service.gateway.CreateUser(other, metadata=metadata))
            assert (code, name) == (grpc.StatusCode.FAILED_PRECONDITION, "COMMAND_REUSED")

    async def test_an_address_belongs_to_one_person_in_any_case(self, service, admin, acting, person):
        """Capital letters make no other address."""
        metadata = await acting(admin.email)
        request = person()
        await service.gateway.CreateUser(request, metadata=metadata)
        code, name, _ = await refused(
            service.gateway.CreateUser(person(email=request.email.upper()), metadata=metadata)
        )
        assert (code, name) == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN")

    async def test_wrong_fields_are_all_named(self, service, admin, acting, person):
        """With their names on the wire."""
        request = person(email="ada", password="short", first_name="", roles=[])
        with pytest.raises(RemoteProblem) as failure:
            await service.gateway.CreateUser(request, metadata=await acting(admin.email))
        assert failure.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in failure.value.problem.violations] == [
            "email", "password", "first_name", "roles",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("changes", "field"),
        [({"command_id": "x"}, "command_id"), ({"roles": [0]}, "roles"), ({"roles": [99]}, "roles")],
    )
    async def test_what_the_wire_allows_and_we_do_not_is_refused(self, service, admin, acting, person, changes, field):
        """An enum's unknown numbers, and texts that are no ids."""
        with pytest.raises(RemoteProblem) as failure:
            await service.gateway.CreateUser(person(**changes), metadata=await acting(admin.email))
        assert [violation.field for violation in failure.value.problem.violations] == [field]

    async def test_people_see_themselves_and_nobody_else(self, service, admin, acting, newcomer):
        """Whether someone else exists is not told either."""
        user = await newcomer()
        metadata = await acting(user.email)
        for by in (wire.GetUserRequest(user_id=user.user_id), wire.GetUserRequest(email=user.email.upper())):
            assert (await service.gateway.GetUser(by, metadata=metadata)).user == user
        for by in (
            wire.GetUserRequest(user_id=admin.user_id),
            wire.GetUserRequest(email=admin.email),
            wire.GetUserRequest(user_id=str(uuid7())),
            wire.GetUserRequest(email="nobody@example.org"),
        ):
            code, name, _ = await refused(service.gateway.GetUser(by, metadata=metadata))
            assert (code, name) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_ABOUT_YOU")

    async def test_an_admin_is_told_that_somebody_does_not_exist(self, service, admin, acting):
        """By id and by address."""
        metadata = await acting(admin.email)
        for by in (wire.GetUserRequest(user_id=str(uuid7())), wire.GetUserRequest(email="nobody@example.org")):
            code, name, _ = await refused(service.gateway.GetUser(by, metadata=metadata))
            assert (code, name) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
        for by in (wire.GetUserRequest(), wire.GetUserRequest(user_id="x"), wire.GetUserRequest(email="x")):
            code, _, _ = await refused(service.gateway.GetUser(by, metadata=metadata))
            assert code is grpc.StatusCode.INVALID_ARGUMENT

    @pytest.mark.parametrize("role", [wire.ROLE_VIEWER, wire.ROLE_EDITOR])
    async def test_only_admins_create_people(self, service, acting, newcomer, person, role):
        """Neither a viewer nor an editor; nor an admin's token that was narrowed to something else."""
        user = await newcomer(roles=[role])
        code, _, _ = await refused(service.gateway.CreateUser(person(), metadata=await acting(user.email)))
        assert code is grpc.StatusCode.PERMISSION_DENIED

    async def test_a_narrowed_token_of_an_admin_creates_nobody(self, service, admin, acting, person):
        """The scopes of the token decide, not the roles of the person."""
        metadata = await acting(admin.email, "users:read")
        code, _, _ = await refused(service.gateway.CreateUser(person(), metadata=metadata))
        assert code is grpc.StatusCode.PERMISSION_DENIED


class TestLogIn:
    async def test_a_session_comes_with_tokens_and_its_person(self, service, newcomer, password):
        """The access token says who, which session, which roles, and until when."""
        user = await newcomer(roles=[wire.ROLE_EDITOR])
        answer = await service.gateway.LogIn(wire.LogInRequest(email=user.email.upper(), password=password))
        assert answer.user == user
        header, claims = read(answer.tokens.access_token)
        keys = await jwks(service)
        assert header["alg"] == "Ed25519"
        assert header["typ"] == "at+jwt"
        assert header["kid"] in {key["kid"] for key in keys["keys"]}
        assert claims["iss"] == ISSUER
        assert claims["aud"] == "almagest"
        assert claims["sub"] == user.user_id
        assert claims["roles"] == ["editor"]
        assert claims["exp"] - claims["iat"] == 600
        assert answer.tokens.access_token_expires_at.seconds == claims["exp"]
        assert answer.tokens.session_expires_at.seconds - claims["iat"] == pytest.approx(14 * 86400, abs=2)

    async def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(self, service, newcomer, password):
        """Status, reason, message and trailing metadata say nothing about which of the two was wrong."""
        user = await newcomer()
        answers = [
            await refused(service.gateway.LogIn(wire.LogInRequest(email=email, password=offered)))
            for email, offered in [
                (user.email, "wrong " + password),
                ("nobody@example.org", password),
                ("no address", password),
                (user.email, "short"),
                (user.email, ""),
                (user.email, "x" * 100_000),
            ]
        ]
        assert len(set(answers)) == 1
        assert answers[0][:2] == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")

    async def test_an_unknown_address_takes_as_long_as_a_wrong_password(self, service, newcomer, password):
        """The least times, taken in turns, are alike; leaving the hash out would make one of them twenty times shorter."""
        user = await newcomer()
        least = dict.fromkeys((user.email, "nobody@example.org"), 60.0)
        for _ in range(12):
            for email in least:
                began = time.perf_counter()
                await refused(service.gateway.LogIn(wire.LogInRequest(email=email, password="wrong " + password)))
                least[email] = min(least[email], time.perf_counter() - began)
        known, unknown = least.values()
        assert 0.4 < known / unknown < 2.5

    async def test_an_outdated_hash_is_renewed_at_login(self, service, newcomer, password, databases):
        """A person's hash follows today's parameters without their noticing."""
        user = await newcomer()
        weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(password)
        hashes: list[str] = []
        for step in range(2):
            for dsn in databases.owner:
                connection = await asyncpg.connect(dsn)
                if step == 0:
                    await connection.execute("UPDATE users SET password_hash = $1 WHERE id = $2", weak, user.user_id)
                else:
                    rows = await connection.fetch("SELECT password_hash FROM users WHERE id = $1", user.user_id)
                    hashes += [row[0] for row in rows]
                await connection.close()
            await service.gateway.LogIn(wire.LogInRequest(email=user.email, password=password))
        assert len(hashes) == 1
        assert hashes[0].startswith("$argon2id$v=19$m=19456,t=2,p=1$")
