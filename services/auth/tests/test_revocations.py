"""What ends a session is heard by every service within a second, wherever it was done."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from almagest.auth.v1 import auth_pb2 as wire
from auth.adapters.revocations import PostgresRevocations
from auth.bootstrap import assembled, bootstrap
from auth.domain.sessions import session_of
from chassis.caller import set_caller
from chassis.errors import RemoteProblem, Unauthenticated
from chassis.identity.spiffe import SpiffeId
from chassis.process import running
from chassis.revocations import Revocation, Revocations, Revoked, watch
from chassis.tokens import TokenVerifier


@pytest.fixture
def listening(calling: Callable[..., Any]) -> Callable[..., Any]:
    """A verifier as every other service has it, which hears the revocations of a replica of auth."""

    @asynccontextmanager
    async def listen(port: int) -> AsyncIterator[TokenVerifier]:
        async with calling("worker", port) as stub:

            async def fetch() -> bytes:
                return (await stub.GetJwks(wire.GetJwksRequest())).jwks

            set_caller(SpiffeId.of("gateway", "almagest.internal"))
            verifier = TokenVerifier(trust_domain="almagest.internal", fetch_jwks=fetch)
            hearing = asyncio.create_task(
                watch(verifier.revocations, lambda: stub.WatchRevocations(wire.WatchRevocationsRequest()))
            )
            try:
                yield verifier
            finally:
                hearing.cancel()
                await asyncio.gather(hearing, return_exceptions=True)

    return listen


async def until_refused(verifier: TokenVerifier, token: str) -> None:
    """Wait until a token is refused as revoked, for a few seconds at most: machines of tests are shared."""
    heard = asyncio.Event()
    stop = verifier.revocations.listen(lambda _: heard.set())
    try:
        async with asyncio.timeout(30):
            while True:
                heard.clear()
                try:
                    await verifier.verify(token)
                except Unauthenticated as refused:
                    assert refused.reason == "TOKEN_REVOKED"  # noqa: PT017 - what it is waited for
                    return
                await heard.wait()
    finally:
        stop()


async def transaction(service: Any, tokens: wire.Tokens) -> str:
    answer = await service.gateway.ExchangeToken(wire.ExchangeTokenRequest(access_token=tokens.access_token))
    return answer.transaction_token


async def test_a_token_is_refused_within_a_second_of_logging_out(service, newcomer, log_in, listening):
    """Its time is not over, and nobody asked auth about it."""
    async with listening(service.port) as verifier:
        user = await newcomer()
        tokens, others = await log_in(user), await log_in(user)
        token, other = await transaction(service, tokens), await transaction(service, others)
        assert (await verifier.verify(token)).session_id == str(session_of(tokens.refresh_token))
        await verifier.verify(other)
        await service.gateway.LogOut(wire.LogOutRequest(refresh_token=tokens.refresh_token))
        await until_refused(verifier, token)
        assert (await verifier.verify(other)).subject == user.user_id


async def test_a_token_is_refused_within_a_second_of_the_reuse_of_a_refresh_token(service, newcomer, log_in, listening):
    """The thief's work ends as well."""
    async with listening(service.port) as verifier:
        first = await log_in(await newcomer())
        token = await transaction(service, first)
        await verifier.verify(token)
        again = wire.RefreshSessionRequest(refresh_token=first.refresh_token)
        await service.gateway.RefreshSession(again)
        with pytest.raises(RemoteProblem):
            await service.gateway.RefreshSession(again)
        await until_refused(verifier, token)


async def test_what_one_replica_revokes_is_heard_from_another(service, settings, newcomer, log_in, listening):
    """They share nothing but the databases."""
    async with running("auth", settings, bootstrap) as other, listening(other.grpc_port) as verifier:
        tokens = await log_in(await newcomer())
        token = await transaction(service, tokens)
        await verifier.verify(token)
        await service.gateway.LogOut(wire.LogOutRequest(refresh_token=tokens.refresh_token))
        await until_refused(verifier, token)


async def test_who_begins_to_listen_hears_first_what_is_in_force(service, newcomer, log_in):
    """A service that was just started refuses what the others refuse."""
    tokens = await log_in(await newcomer())
    await service.gateway.LogOut(wire.LogOutRequest(refresh_token=tokens.refresh_token))
    ended = str(session_of(tokens.refresh_token))
    async with asyncio.timeout(30):
        while True:  # until the commit has been read, a moment after it was answered
            async with aclosing(aiter(service.worker.WatchRevocations(wire.WatchRevocationsRequest()))) as messages:
                first = await anext(messages)
            if ended in {revocation.session_id for revocation in first.revocations}:
                break


async def test_a_change_of_a_person_ends_the_tokens_of_before_and_not_those_of_after(
    service, parts, newcomer, log_in, listening
):
    """Both may be issued in the same second, so it is no clock that tells them apart."""
    async with listening(service.port) as verifier:
        user = await newcomer()
        tokens = await log_in(user)
        before = await transaction(service, tokens)
        await verifier.verify(before)
        async with parts.people._sessions.begin() as unit:
            await parts.revocations.add_person(unit, UUID(user.user_id))
        await until_refused(verifier, before)
        after = await transaction(service, tokens)
        assert (await verifier.verify(after)).generation == 2


async def test_an_act_that_is_rolled_back_revokes_nothing(settings, newcomer, databases):
    """The revocation is a row of the act's own transaction."""
    user = await newcomer()
    async with assembled(settings) as parts:
        heard = Revocations()
        with pytest.raises(ZeroDivisionError):
            async with parts.people._sessions.begin() as unit:
                await parts.revocations.add_person(unit, UUID(user.user_id))
                _ = 1 / 0
        await parts.revocations.read(heard)
        assert user.user_id not in {revocation.id for revocation in heard.in_force()}


async def test_a_transaction_that_commits_late_is_not_missed(settings, newcomer, log_in, databases):
    """Whoever reads between its begin and its commit, and sees others that began later, still sees it afterwards."""
    async with assembled(settings) as parts:
        slow, fast = await newcomer(), await newcomer()
        while UUID(fast.user_id).int & 512 != UUID(slow.user_id).int & 512:  # on the same shard
            fast = await newcomer()
        heard = Revocations()
        reader: PostgresRevocations = parts.revocations
        async with parts.people._sessions.begin() as unit:
            await reader.add_person(unit, UUID(slow.user_id))
            async with parts.people._sessions.begin() as other:
                await reader.add_person(other, UUID(fast.user_id))
            await reader.read(heard)
            ids = {revocation.id for revocation in heard.in_force()}
            assert fast.user_id in ids
            assert slow.user_id not in ids
        await reader.read(heard)
        assert Revocation(Revoked.PERSON, slow.user_id, 2) in heard.in_force()


async def test_a_replica_that_cannot_read_the_databases_says_nothing(service, calling, monkeypatch):
    """Its silence would be taken for peace. Another replica may know."""
    async with calling("worker", service.port) as stub:
        async with aclosing(aiter(stub.WatchRevocations(wire.WatchRevocationsRequest()))) as messages:
            await anext(messages)
            monkeypatch.setattr("auth.adapters.revocations._LATE_SECONDS", -1.0)
            with pytest.raises(RemoteProblem) as failure:
                await anext(messages)
        assert failure.value.reason == "REVOCATIONS_UNKNOWN"


async def test_past_revocations_are_cleaned_away(settings, newcomer, databases):
    """They are of no use once no token of before can be alive."""
    user = await newcomer()
    async with assembled(settings) as parts:
        async with parts.people._sessions.begin() as unit:
            await parts.revocations.add_person(unit, UUID(user.user_id))
        for dsn in databases.owner:
            connection = await asyncpg.connect(dsn)
            await connection.execute("UPDATE revocations SET revoked_at = revoked_at - interval '1 hour'")
            await connection.close()
        await parts.revocations._clean()
        for dsn in databases.owner:
            connection = await asyncpg.connect(dsn)
            assert await connection.fetchval("SELECT count(*) FROM revocations") == 0
            await connection.close()
