"""Refresh tokens are good once; a session ends for good."""

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import pytest
from almagest.auth.events.v1 import audit_pb2
from almagest.auth.v1 import auth_pb2 as wire
from auth.adapters.postgres import PostgresSessions
from auth.domain.sessions import session_of
from chassis.errors import RemoteProblem
from chassis.ids import uuid7


async def refresh(service: Any, tokens: wire.Tokens) -> wire.Tokens:
    answer = await service.gateway.RefreshSession(wire.RefreshSessionRequest(refresh_token=tokens.refresh_token))
    return answer.tokens


async def reason(call: Any) -> str:
    """Why a call is refused as unauthenticated."""
    with pytest.raises(RemoteProblem) as failure:
        await call
    assert failure.value.code is grpc.StatusCode.UNAUTHENTICATED
    return failure.value.problem.reason


@pytest.fixture(autouse=True)
def no_memory(monkeypatch: pytest.MonkeyPatch):
    """The second for which a session is remembered has a test of its own."""
    monkeypatch.setattr("auth.adapters.postgres._RECENT_SECONDS", 0.0)


async def exchange(service: Any, tokens: wire.Tokens) -> Any:
    return await service.gateway.ExchangeToken(wire.ExchangeTokenRequest(access_token=tokens.access_token))


async def test_each_refresh_gives_other_tokens_of_the_same_session(service, newcomer, log_in):
    """The session's end does not move, and both access tokens are good."""
    first = await log_in(await newcomer())
    second = await refresh(service, first)
    third = await refresh(service, second)
    assert len({tokens.refresh_token for tokens in (first, second, third)}) == 3
    assert len({session_of(tokens.refresh_token) for tokens in (first, second, third)}) == 1
    assert first.session_expires_at == third.session_expires_at
    for tokens in (first, third):
        assert (await exchange(service, tokens)).transaction_token


@pytest.mark.parametrize("age", [1, 3])
async def test_a_refresh_token_that_comes_twice_ends_the_session(service, newcomer, log_in, age: int):
    """The newest refresh token and every access token of the family end with it, however old the reused one is."""
    first = newest = await log_in(await newcomer())
    for _ in range(age):
        newest = await refresh(service, newest)
    assert await reason(refresh(service, first)) == "REFRESH_TOKEN_REUSED"
    assert await reason(refresh(service, newest)) == "SESSION_ENDED"
    assert await reason(exchange(service, newest)) == "SESSION_ENDED"


async def test_of_two_refreshes_at_once_one_wins_and_the_session_ends(service, newcomer, log_in):
    """We cannot know which of the two is the thief, and the lock lets them decide one after the other."""
    for _ in range(5):
        tokens = await log_in(await newcomer())
        results = await asyncio.gather(refresh(service, tokens), refresh(service, tokens), return_exceptions=True)
        winners = [result for result in results if isinstance(result, wire.Tokens)]
        losers = [result.problem.reason for result in results if isinstance(result, RemoteProblem)]
        assert len(winners) == 1
        assert losers == ["REFRESH_TOKEN_REUSED"]
        assert await reason(refresh(service, winners[0])) == "SESSION_ENDED"


async def test_another_session_of_the_same_person_goes_on(service, newcomer, log_in):
    """Reuse ends one family, not all."""
    user = await newcomer()
    stolen, other = await log_in(user), await log_in(user)
    await refresh(service, stolen)
    await reason(refresh(service, stolen))
    assert (await refresh(service, other)).access_token


async def test_knowing_a_session_s_name_is_not_enough_to_end_it(service, newcomer, log_in):
    """The session's id stands in every access token; a guessed secret behind it is refused and changes nothing."""
    tokens = await log_in(await newcomer())
    guess = wire.Tokens(refresh_token=f"{session_of(tokens.refresh_token).hex}.{'x' * 43}")
    assert await reason(refresh(service, guess)) == "INVALID_REFRESH_TOKEN"
    await service.gateway.LogOut(wire.LogOutRequest(refresh_token=guess.refresh_token))
    assert (await refresh(service, tokens)).access_token


@pytest.mark.parametrize("token", ["", "x", "a" * 100_000, f"{UUID(int=7).hex}.{'x' * 43}", "\x00" * 76])
async def test_what_is_no_refresh_token_is_refused(service, token: str):
    """Garbage and unknown sessions get the same answer; logging out with them is no error."""
    assert await reason(refresh(service, wire.Tokens(refresh_token=token))) == "INVALID_REFRESH_TOKEN"
    await service.gateway.LogOut(wire.LogOutRequest(refresh_token=token))


async def test_logging_out_ends_the_session(service, newcomer, log_in):
    """Neither its refresh token nor its access token is good any more; doing it again is no error."""
    tokens = await log_in(await newcomer())
    for _ in range(2):
        await service.gateway.LogOut(wire.LogOutRequest(refresh_token=tokens.refresh_token))
    assert await reason(refresh(service, tokens)) == "SESSION_ENDED"
    assert await reason(exchange(service, tokens)) == "SESSION_ENDED"


async def test_logging_out_with_an_earlier_token_ends_the_session_too(service, newcomer, log_in):
    """Who held it once may end it."""
    first = await log_in(await newcomer())
    second = await refresh(service, first)
    await service.gateway.LogOut(wire.LogOutRequest(refresh_token=first.refresh_token))
    assert await reason(refresh(service, second)) == "SESSION_ENDED"


async def test_a_session_ends_at_its_time_however_often_it_is_refreshed(service, newcomer, log_in, databases):
    """Its end is set when it starts."""
    tokens = await refresh(service, await log_in(await newcomer()))
    for dsn in databases.owner:
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "UPDATE sessions SET expires_at = now() WHERE id = $1", session_of(tokens.refresh_token)
        )
        await connection.close()
    assert await reason(refresh(service, tokens)) == "SESSION_ENDED"
    assert await reason(exchange(service, tokens)) == "SESSION_ENDED"


async def test_a_session_that_nobody_refreshes_ends(service, newcomer, log_in, databases, settings):
    """Short of its absolute end; one that was refreshed in time goes on."""
    user = await newcomer()
    asleep, awake = await refresh(service, await log_in(user)), await refresh(service, await log_in(user))
    for tokens, seconds in ((asleep, 0), (awake, 600)):
        for dsn in databases.owner:
            connection = await asyncpg.connect(dsn)
            await connection.execute(
                "UPDATE sessions SET refreshed_at = now() - make_interval(secs => $2) WHERE id = $1",
                session_of(tokens.refresh_token),
                settings.session_idle_seconds - seconds,
            )
            await connection.close()
    assert await reason(refresh(service, asleep)) == "SESSION_ENDED"
    assert (await refresh(service, awake)).access_token


async def test_no_refresh_token_stands_in_the_database(service, newcomer, log_in, databases):
    """Only hashes do, of the good one and of the used ones."""
    first = await log_in(await newcomer())
    second = await refresh(service, first)
    dump = b""
    for dsn in databases.owner:
        connection = await asyncpg.connect(dsn)
        for table in ("sessions", "used_refresh_tokens", "users", "commands", "signing_keys"):
            rows = await connection.fetch(f"SELECT x::text FROM {table} x")  # noqa: S608 - names of ours
            dump += "".join(row[0] for row in rows).encode()
        await connection.close()
    assert dump
    for tokens in (first, second):
        secret = tokens.refresh_token.partition(".")[2]
        assert secret.encode() not in dump
        assert secret.encode().hex().encode() not in dump


async def test_a_session_is_remembered_for_a_second_and_no_longer(parts, asked, newcomer, log_in, monkeypatch):
    """Within it the database is not asked; after it, or when this process ended the session, it is."""
    clock = 1000.0
    monkeypatch.setattr("auth.adapters.postgres._RECENT_SECONDS", 1.0)
    monkeypatch.setattr("auth.adapters.postgres.time", SimpleNamespace(monotonic=lambda: clock))
    session_id = session_of((await log_in(await newcomer())).refresh_token)
    sessions: PostgresSessions = parts.sessions
    with asked() as log:
        assert await sessions.standing(session_id) is not None
        assert len(log) == 1
        clock += 0.9
        await sessions.standing(session_id)
        assert len(log) == 1
        clock += 0.2
        await sessions.standing(session_id)
        assert len(log) == 2
        entry = await parts.audit.entry(audit_pb2.LoggedOut(), of=session_id)
        async with sessions.locked(session_id) as family:
            assert family is not None
            await family.revoke(family.session.started_at, entry)
        standing = await sessions.standing(session_id)
        assert standing is not None
        assert standing.session.revoked_at is not None


async def test_the_memory_of_sessions_is_bounded(parts, monkeypatch):
    """Names of sessions that do not exist fill no memory."""
    monkeypatch.setattr("auth.adapters.postgres._MOST_RECENT", 10)
    for _ in range(15):
        assert await parts.sessions.standing(uuid7()) is None
    assert len(parts.sessions._recent) == 10
