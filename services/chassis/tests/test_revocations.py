"""Tokens that were good are refused once auth has said so, and what they had begun ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from almagest.auth.v1 import auth_pb2
from almagest.eventstore.v1 import event_store_pb2
from chassis.caller import set_caller
from chassis.errors import RemoteProblem, Unauthenticated, Unavailable
from chassis.identity.spiffe import SpiffeId
from chassis.policy import Person, Rule
from chassis.revocations import HEARTBEAT_SECONDS, REMEMBERED_SECONDS, Revocation, Revocations, Revoked, told, watch
from chassis.tokens import TokenVerifier
from harness.tokens import TransactionTokens

SESSION = Revocation(Revoked.SESSION, "s1")


def token(**claims: Any) -> Any:
    return SimpleNamespace(**{"subject": "anna", "session_id": "", "access_key_id": "", "generation": 1, **claims})


def test_what_names_a_session_or_key_covers_its_tokens_and_no_others() -> None:
    """They never come back, so their names are enough."""
    revocations = Revocations()
    revocations.add(SESSION)
    revocations.add(Revocation(Revoked.ACCESS_KEY, "k1"))
    assert revocations.covers(token(session_id="s1"))
    assert revocations.covers(token(access_key_id="k1"))
    assert not revocations.covers(token(session_id="k1", access_key_id="s1"))
    assert not revocations.covers(token(subject="s1"))


def test_a_person_s_tokens_of_after_the_change_are_good() -> None:
    """The generation tells, however close together both were issued."""
    revocations = Revocations()
    revocations.add(Revocation(Revoked.PERSON, "anna", 3))
    assert [revocations.covers(token(generation=generation)) for generation in (0, 2, 3, 4)] == [
        True,
        True,
        False,
        False,
    ]
    revocations.add(Revocation(Revoked.PERSON, "anna", 2))
    assert revocations.covers(token(generation=2))
    revocations.add(Revocation(Revoked.PERSON, "anna", 4))
    assert revocations.covers(token(generation=3))
    assert not revocations.covers(token(subject="bob", generation=0))


def test_a_revocation_is_told_once_and_forgotten_when_no_token_can_be_alive() -> None:
    """Auth tells all that are in force to whoever comes again."""
    clock = 0.0
    revocations, heard = Revocations(clock=lambda: clock), list[Revocation]()
    stop = revocations.listen(heard.append)
    for _ in range(3):
        revocations.add(SESSION)
    clock = REMEMBERED_SECONDS - 1
    revocations.add(Revocation(Revoked.SESSION, "s2"))
    assert revocations.in_force() == [SESSION, Revocation(Revoked.SESSION, "s2")]
    clock = REMEMBERED_SECONDS + 1
    assert revocations.in_force() == [Revocation(Revoked.SESSION, "s2")]
    stop()
    revocations.add(Revocation(Revoked.SESSION, "s3"))
    assert [revocation.id for revocation in heard] == ["s1", "s2"]


async def test_a_listener_is_told_what_is_in_force_then_news_then_something_each_second() -> None:
    """So that silence means that the other side is gone."""
    revocations = Revocations()
    revocations.add(SESSION)
    async with aclosing(cast("Any", told(revocations))) as batches:
        assert await anext(batches) == [SESSION]
        news = asyncio.create_task(anext(batches))
        await asyncio.sleep(0)
        revocations.add(Revocation(Revoked.SESSION, "s2"))
        assert await news == [Revocation(Revoked.SESSION, "s2")]
        async with asyncio.timeout(20 * HEARTBEAT_SECONDS):
            assert await anext(batches) == []
    assert revocations._listeners == []


async def test_who_listens_comes_again_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal, an end, a silence, and what it does not know."""
    monkeypatch.setattr("chassis.revocations.SILENCE_SECONDS", 0.05)
    calls = 0
    left = 0

    async def subscribe() -> AsyncIterator[auth_pb2.WatchRevocationsResponse]:
        nonlocal calls, left
        calls += 1
        try:
            match calls:
                case 1:
                    raise Unavailable
                case 2:
                    yield auth_pb2.WatchRevocationsResponse(revocations=[auth_pb2.Revocation()])
                case 3:
                    yield auth_pb2.WatchRevocationsResponse()
                    await asyncio.Event().wait()
                case _:
                    person = auth_pb2.RevokedPerson(user_id="anna", generation=2)
                    yield auth_pb2.WatchRevocationsResponse(
                        revocations=[auth_pb2.Revocation(person=person), auth_pb2.Revocation(access_key_id="k")]
                    )
                    await asyncio.Event().wait()
        finally:
            left += 1

    revocations, heard = Revocations(), asyncio.Queue[Revocation]()
    revocations.listen(heard.put_nowait)
    watching = asyncio.create_task(watch(revocations, subscribe))
    async with asyncio.timeout(10):
        assert await heard.get() == Revocation(Revoked.PERSON, "anna", 2)
        assert await heard.get() == Revocation(Revoked.ACCESS_KEY, "k")
    assert left == calls - 1
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert left == calls


async def test_a_token_that_was_verified_before_is_refused_too(transaction_tokens: TransactionTokens) -> None:
    """What is remembered for speed is not believed for longer."""

    async def jwks() -> bytes:
        return transaction_tokens.jwks

    set_caller(SpiffeId.of("gateway", "almagest.internal"))
    verifier = TokenVerifier(trust_domain="almagest.internal", fetch_jwks=jwks)
    before = transaction_tokens(subject="anna", claims={"sid": "s1", "gen": 1})
    key = transaction_tokens(subject="anna", claims={"key": "k1", "gen": 1})
    assert (await verifier.verify(before)).session_id == "s1"
    assert (await verifier.verify(key)).access_key_id == "k1"
    verifier.revocations.add(SESSION)
    later = transaction_tokens(subject="anna", claims={"sid": "s1", "gen": 1, "txn": "later"})
    for revoked in (before, later):
        with pytest.raises(Unauthenticated) as refused:
            await verifier.verify(revoked)
        assert refused.value.reason == "TOKEN_REVOKED"
    assert await verifier.verify(key)


async def test_a_stream_ends_with_its_person_s_session(
    serve: Callable[..., Any], issue: Callable[..., Any], policy: Callable[..., Any], transaction_tokens: Any
) -> None:
    """It was let in once; it is not let on. Those of others go on."""
    rows = policy(ReadAll=Rule(callers=frozenset({"gateway"}), person=Person.REQUIRED))
    async with serve(rows=rows) as service:
        stub = service.stub(issue("gateway"))
        received = {name: asyncio.Event() for name in ("s1", "s2")}

        async def follow(session: str) -> RemoteProblem:
            metadata = (("txn-token", transaction_tokens(claims={"sid": session})),)
            with pytest.raises(RemoteProblem) as problem:
                async for _ in stub.ReadAll(event_store_pb2.ReadAllRequest(), metadata=metadata):
                    received[session].set()
            return problem.value

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            ending, going_on = (group.create_task(follow(session)) for session in received)
            for event in received.values():
                await event.wait()
            service.chassis.revocations.add(SESSION)
            problem = await ending
            assert (problem.code, problem.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED")
            received["s2"].clear()
            await received["s2"].wait()
            assert not going_on.done()
            service.chassis.revocations.add(Revocation(Revoked.SESSION, "s2"))
            assert (await going_on).reason == "TOKEN_REVOKED"
