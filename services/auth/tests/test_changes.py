"""People as time goes by: in bulk, changed, disabled, with other passwords; their sessions seen and ended."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from almagest.auth.v1 import auth_pb2 as wire
from almagest.auth.v1 import people_pb2
from auth.adapters.argon2 import Argon2Passwords
from auth.domain.audit import Wanted
from auth.domain.concealed import Password
from auth.domain.sessions import session_of
from chassis.errors import RemoteProblem

ANOTHER = "a horse of no name"


async def reason(call: Any) -> str:
    with pytest.raises(RemoteProblem) as failure:
        await call
    return failure.value.reason


async def reason_soon(ask: Callable[[], Awaitable[Any]]) -> str:
    """Why it is refused, which may take a second: so old may be what is remembered of a session."""
    async with asyncio.timeout(30):
        while True:
            try:
                await ask()
            except RemoteProblem as problem:
                return problem.reason
            await asyncio.sleep(0.02)


async def exchange(service: Any, tokens: wire.Tokens) -> Any:
    return await service.gateway.ExchangeToken(wire.ExchangeTokenRequest(access_token=tokens.access_token))


async def metadata(service: Any, tokens: wire.Tokens) -> Any:
    return (("txn-token", (await exchange(service, tokens)).transaction_token),)


async def audited(parts: Any, user: wire.User) -> list[str]:
    page = await parts.audit.page(Wanted(subject_id=UUID(user.user_id)))
    return [opened.entry.type for opened in reversed(page)]


async def test_people_are_created_in_bulk_each_on_their_own(people, person, acting, admin, service):
    """In the order asked for: created, refused for their own fault, and on both shards."""
    wanted = [person() for _ in range(20)]
    wanted[3] = person(email="not an address")
    wanted[7] = person(email=wanted[6].email)
    wanted[11] = person(password="short")
    request = people_pb2.BatchCreateUsersRequest(users=wanted)
    answer = await people.BatchCreateUsers(request, metadata=await acting(admin.email), timeout=60)
    outcomes = [
        result.user.email if result.WhichOneof("outcome") == "user" else result.problem.reason
        for result in answer.results
    ]
    expected = [user.email for user in wanted]
    expected[3] = expected[11] = "INVALID_FIELDS"
    if outcomes[6] == "EMAIL_TAKEN":  # either of the two may have been first
        expected[6] = "EMAIL_TAKEN"
    else:
        expected[7] = "EMAIL_TAKEN"
    assert outcomes == expected
    assert {violation.field for violation in answer.results[3].problem.violations} == {"email"}
    created = [result.user for result in answer.results if result.HasField("user")]
    assert {UUID(user.user_id).int >> 9 & 1 for user in created} == {0, 1}
    again = await people.BatchCreateUsers(request, metadata=await acting(admin.email), timeout=60)
    assert [result.user.user_id for result in again.results] == [result.user.user_id for result in answer.results]
    session = await service.gateway.LogIn(wire.LogInRequest(email=wanted[0].email, password=wanted[0].password))
    assert session.tokens.access_token


async def test_a_batch_has_a_limit(people, acting, admin):
    """None, or more than a thousand, are refused before any work is done."""
    for count in (0, 1001):
        request = people_pb2.BatchCreateUsersRequest(users=[wire.CreateUserRequest()] * count)
        assert await reason(people.BatchCreateUsers(request, metadata=await acting(admin.email))) == "INVALID_FIELDS"


async def test_log_ins_go_before_batches() -> None:
    """However many hashes wait, a log-in waits for none of them; and one runs at a time, with the memory of one."""
    passwords = Argon2Passwords()
    try:
        stored = await passwords.hash(Password("p" * 12))
        bulk = [asyncio.create_task(passwords.hash_in_bulk(Password("q" * 12))) for _ in range(60)]
        await asyncio.wait(bulk, return_when=asyncio.FIRST_COMPLETED)
        began = time.monotonic()
        for _ in range(4):
            assert await passwords.verify(Password("p" * 12), stored)
        assert not all(task.done() for task in bulk), time.monotonic() - began
        assert passwords._threads._work_queue.qsize() <= 1
        for task in bulk:
            task.cancel()
        await asyncio.gather(*bulk, return_exceptions=True)
    finally:
        passwords.close()


async def test_everybody_is_listed_page_by_page_over_all_shards(people, acting, admin, newcomer):
    """Each once, in the order of their ids."""
    made = {(await newcomer()).user_id for _ in range(5)}
    found: list[str] = []
    request = people_pb2.ListUsersRequest(page_size=3)
    while True:
        page = await people.ListUsers(request, metadata=await acting(admin.email))
        found += [user.user_id for user in page.users]
        if not page.next_page_token:
            break
        assert len(page.users) == 3
        request.page_token = page.next_page_token
    assert found == sorted(set(found))
    assert made <= set(found)


async def test_a_person_changes_their_names_and_nothing_else(people, newcomer, acting, parts):
    """Not their roles, not whether they are disabled, not somebody else."""
    user, other = await newcomer(), await newcomer()
    mine = await acting(user.email)
    request = people_pb2.UpdateUserRequest(user_id=user.user_id, first_name=" Augusta ")
    changed = (await people.UpdateUser(request, metadata=mine)).user
    assert (changed.first_name, changed.last_name) == ("Augusta", "Lovelace")
    assert await audited(parts, user) == ["UserCreated", "LoggedIn", "UserChanged"]
    for fields in ({"roles": [wire.ROLE_ADMIN]}, {"disabled": False}):
        request = people_pb2.UpdateUserRequest(user_id=user.user_id, **fields)
        assert await reason(people.UpdateUser(request, metadata=mine)) == "NOT_ABOUT_YOU"
    for user_id in (other.user_id, str(uuid4())):
        request = people_pb2.UpdateUserRequest(user_id=user_id, first_name="X")
        assert await reason(people.UpdateUser(request, metadata=mine)) == "NOT_ABOUT_YOU"


async def test_other_roles_are_at_once_what_new_tokens_say(people, service, newcomer, acting, admin, log_in, parts):
    """And tokens of before are revoked."""
    user = await newcomer()
    tokens = await log_in(user)
    request = people_pb2.UpdateUserRequest(user_id=user.user_id, roles=[wire.ROLE_EDITOR])
    changed = (await people.UpdateUser(request, metadata=await acting(admin.email))).user
    assert list(changed.roles) == [wire.ROLE_EDITOR]
    async with asyncio.timeout(30):
        while True:
            token = (await exchange(service, tokens)).transaction_token
            if "catalog:write" in _claims(token):
                break
    assert (await audited(parts, user))[-1] == "RolesChanged"


def _claims(token: str) -> str:
    return base64.urlsafe_b64decode(token.split(".")[1] + "==").decode()


async def test_who_is_disabled_does_nothing_until_enabled(people, service, newcomer, acting, admin, log_in, parts):
    """No log-in, no refresh, no exchange, no job; their sessions have ended."""
    user = await newcomer()
    tokens = await log_in(user)
    root = await acting(admin.email)
    for _ in range(2):
        request = people_pb2.UpdateUserRequest(user_id=user.user_id, disabled=True)
        assert (await people.UpdateUser(request, metadata=root)).user.disabled
    assert await reason(log_in(user)) == "INVALID_CREDENTIALS"
    assert await reason(exchange(service, tokens)) == "SESSION_ENDED"
    refresh = wire.RefreshSessionRequest(refresh_token=tokens.refresh_token)
    assert await reason(service.gateway.RefreshSession(refresh)) == "SESSION_ENDED"
    delegate = wire.DelegateTokenRequest(user_id=user.user_id, job_id=str(uuid4()), scopes=["catalog:read"])
    assert await reason(service.worker.DelegateToken(delegate)) == "USER_NOT_FOUND"
    request = people_pb2.UpdateUserRequest(user_id=user.user_id, disabled=False)
    assert not (await people.UpdateUser(request, metadata=root)).user.disabled
    assert await exchange(service, await log_in(user))
    assert await audited(parts, user) == [
        "UserCreated",
        "LoggedIn",
        "UserDisabled",
        "LogInFailed",
        "UserEnabled",
        "LoggedIn",
    ]


async def test_nobody_takes_their_own_rights(people, acting, admin):
    """So that there is always an admin left."""
    mine = await acting(admin.email)
    for fields in ({"roles": [wire.ROLE_VIEWER]}, {"disabled": True}):
        request = people_pb2.UpdateUserRequest(user_id=admin.user_id, **fields)
        assert await reason(people.UpdateUser(request, metadata=mine)) == "NOT_YOURSELF"


async def test_changes_at_the_same_time_are_all_made(people, newcomer, acting, admin):
    """None is lost: each sees what the others have made."""
    user = await newcomer()
    root = await acting(admin.email)
    changes = [{"first_name": "Augusta"}, {"last_name": "King"}, {"roles": [wire.ROLE_EDITOR]}]
    await asyncio.gather(
        *(
            people.UpdateUser(people_pb2.UpdateUserRequest(user_id=user.user_id, **change), metadata=root)
            for change in changes
        )
    )
    same = people_pb2.UpdateUserRequest(user_id=user.user_id)
    now = (await people.UpdateUser(same, metadata=root)).user
    assert (now.first_name, now.last_name, list(now.roles)) == ("Augusta", "King", [wire.ROLE_EDITOR])


async def test_a_new_password_ends_the_other_sessions(people, service, newcomer, log_in, password, parts):
    """The one that asks goes on; the old password is good no more."""
    user = await newcomer()
    here, elsewhere = await log_in(user), await log_in(user)
    mine = await metadata(service, here)
    wrong = people_pb2.ChangePasswordRequest(user_id=user.user_id, present="not the present one", password=ANOTHER)
    assert await reason(people.ChangePassword(wrong, metadata=mine)) == "INVALID_CREDENTIALS"
    short = people_pb2.ChangePasswordRequest(user_id=user.user_id, present=password, password="n")
    assert await reason(people.ChangePassword(short, metadata=mine)) == "INVALID_FIELDS"
    right = people_pb2.ChangePasswordRequest(user_id=user.user_id, present=password, password=ANOTHER)
    await people.ChangePassword(right, metadata=mine)
    assert await reason(log_in(user)) == "INVALID_CREDENTIALS"
    assert (await service.gateway.LogIn(wire.LogInRequest(email=user.email, password=ANOTHER))).tokens
    refresh = wire.RefreshSessionRequest(refresh_token=elsewhere.refresh_token)
    assert await reason(service.gateway.RefreshSession(refresh)) == "SESSION_ENDED"
    assert await service.gateway.RefreshSession(wire.RefreshSessionRequest(refresh_token=here.refresh_token))
    assert "PasswordChanged" in await audited(parts, user)


async def test_an_admin_sets_another_s_password_and_all_their_sessions_end(
    people, service, newcomer, log_in, acting, admin
):
    """Without the present one, which the admin does not know. Others may not."""
    user, other = await newcomer(), await newcomer()
    tokens = await log_in(user)
    request = people_pb2.ChangePasswordRequest(user_id=user.user_id, password=ANOTHER)
    assert await reason(people.ChangePassword(request, metadata=await acting(other.email))) == "NOT_ABOUT_YOU"
    await people.ChangePassword(request, metadata=await acting(admin.email))
    refresh = wire.RefreshSessionRequest(refresh_token=tokens.refresh_token)
    assert await reason(service.gateway.RefreshSession(refresh)) == "SESSION_ENDED"


async def test_sessions_are_seen_and_ended_by_their_person_and_admins(people, service, newcomer, log_in, acting, admin):
    """And by nobody else, who is not even told that they exist."""
    user, other = await newcomer(), await newcomer()
    here, elsewhere = await log_in(user), await log_in(user)
    mine = await metadata(service, here)
    listed = (await people.ListSessions(people_pb2.ListSessionsRequest(), metadata=mine)).sessions
    ids = [str(session_of(tokens.refresh_token)) for tokens in (here, elsewhere)]
    assert {session.session_id: session.current for session in listed} == {ids[0]: True, ids[1]: False}
    foreign = await acting(other.email)
    ending = people_pb2.EndSessionRequest(session_id=ids[1])
    assert await reason(people.EndSession(ending, metadata=foreign)) == "SESSION_NOT_FOUND"
    asking = people_pb2.ListSessionsRequest(user_id=user.user_id)
    assert await reason(people.ListSessions(asking, metadata=foreign)) == "NOT_ABOUT_YOU"
    for _ in range(2):
        await people.EndSession(ending, metadata=mine)
    refresh = wire.RefreshSessionRequest(refresh_token=elsewhere.refresh_token)
    assert await reason(service.gateway.RefreshSession(refresh)) == "SESSION_ENDED"
    root = await acting(admin.email)
    assert len((await people.ListSessions(asking, metadata=root)).sessions) == 1
    await people.EndSession(people_pb2.EndSessionRequest(session_id=ids[0]), metadata=root)
    assert await reason_soon(lambda: exchange(service, here)) == "SESSION_ENDED"


async def test_tokens_that_are_bound_to_a_key_need_its_proof(service, newcomer, password):
    """Access and refresh tokens of the session, and only with that key; a proof is of no use with unbound ones."""
    user = await newcomer()
    bound = (
        await service.gateway.LogIn(wire.LogInRequest(email=user.email, password=password, bound_to="key one"))
    ).tokens
    free = (await service.gateway.LogIn(wire.LogInRequest(email=user.email, password=password))).tokens
    for tokens, keys in ((bound, ("", "key two")), (free, ("key one",))):
        for key in keys:
            access = wire.ExchangeTokenRequest(access_token=tokens.access_token, bound_to=key)
            assert await reason(service.gateway.ExchangeToken(access)) == "DPOP_PROOF_NEEDED"
            refresh = wire.RefreshSessionRequest(refresh_token=tokens.refresh_token, bound_to=key)
            assert await reason(service.gateway.RefreshSession(refresh)) == "DPOP_PROOF_NEEDED"
    access = wire.ExchangeTokenRequest(access_token=bound.access_token, bound_to="key one")
    assert (await service.gateway.ExchangeToken(access)).transaction_token
    refresh = wire.RefreshSessionRequest(refresh_token=bound.refresh_token, bound_to="key one")
    renewed = (await service.gateway.RefreshSession(refresh)).tokens
    assert '"jkt":"key one"' in _claims(renewed.access_token).replace(" ", "").replace("keyone", "key one")


async def test_the_methods_for_admins_are_for_admins(people, newcomer, acting):
    """By scope, here and not only at the door."""
    editor = await acting((await newcomer(roles=[wire.ROLE_EDITOR])).email)
    for call in (
        people.BatchCreateUsers(people_pb2.BatchCreateUsersRequest(), metadata=editor),
        people.ListUsers(people_pb2.ListUsersRequest(), metadata=editor),
    ):
        with pytest.raises(RemoteProblem) as refused:
            await call
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
