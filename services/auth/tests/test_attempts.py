"""Passwords are tried so often and no more, and nobody is locked out by others."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from almagest.auth.v1 import auth_pb2 as wire
from auth.adapters.redis import RedisLedger
from auth.application.attempts import ACCOUNT, ADDRESS, HERE, Attempts, Ledger, LocalLedger
from auth.bootstrap import bootstrap
from auth.domain.errors import TooManyAttempts
from chassis.caller import set_origin
from chassis.errors import RemoteProblem
from chassis.process import running
from chassis.redis import connect


@pytest.fixture(params=["local", "redis"])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    """One contract for both."""
    if request.param == "local":
        yield LocalLedger()
        return
    valkey = request.getfixturevalue("valkey")
    redis = connect(valkey.url)
    yield RedisLedger(redis, LocalLedger())
    await redis.aclose()


@pytest.fixture
def attempts(ledger: Ledger) -> Attempts:
    salt = uuid.uuid4().hex
    return Attempts(ledger, digest=lambda text: f"{salt}:{text}")


async def tried(attempts: Attempts, account: str, address: str, times: int) -> float:
    """Fail so many times; answers the seconds to wait at the end, 0 if none."""
    for _ in range(times):
        try:
            await attempts.begin(account, address)
        except TooManyAttempts as refused:
            return refused.retry_after
    return 0.0


async def test_a_guesser_gets_a_handful_of_tries_and_then_one_at_a_time(attempts: Attempts) -> None:
    """The wait is that until the next one."""
    assert await tried(attempts, "anna", "10.0.0.1", HERE.burst) == 0
    wait = await tried(attempts, "anna", "10.0.0.1", 1)
    assert HERE.interval - 5 < wait <= HERE.interval
    assert await tried(attempts, "anna", "10.0.0.2", 1) == 0


async def test_what_is_refused_costs_nothing(attempts: Attempts) -> None:
    """Trying on and on does not make the wait longer: nobody is locked out for ever."""
    first = await tried(attempts, "anna", "10.0.0.1", HERE.burst + 1)
    assert await tried(attempts, "anna", "10.0.0.1", 50) <= first


async def test_many_tries_at_once_are_many(attempts: Attempts) -> None:
    """They are counted before any password is looked at."""
    results = await asyncio.gather(*(attempts.begin("anna", "10.0.0.1") for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, TooManyAttempts) for result in results) == 20 - HERE.burst


async def test_one_address_does_not_try_everybody(attempts: Attempts) -> None:
    """Spraying one password over many people is slowed down as well."""
    for number in range(ADDRESS.burst):
        assert await tried(attempts, f"person {number}", "10.0.0.1", 1) == 0
    assert await tried(attempts, "another", "10.0.0.1", 1) > 0
    assert await tried(attempts, "another", "10.0.0.2", 1) == 0


async def test_many_addresses_do_not_guess_faster_and_do_not_keep_the_person_out(attempts: Attempts) -> None:
    """From where the person has logged in before, the tries of others do not count."""
    home = await attempts.begin("anna", "192.0.2.7")
    await attempts.succeeded(home)
    for number in range(ACCOUNT.burst):
        assert await tried(attempts, "anna", f"10.0.0.{number}", 1) == 0
    assert await tried(attempts, "anna", "10.0.1.1", 1) > 0
    for _ in range(10):
        await attempts.succeeded(await attempts.begin("anna", "192.0.2.7"))


async def test_who_is_right_pays_nothing(attempts: Attempts) -> None:
    """However often, and what went wrong before is forgotten."""
    assert await tried(attempts, "anna", "10.0.0.1", HERE.burst - 1) == 0
    for _ in range(3 * ADDRESS.burst):
        await attempts.succeeded(await attempts.begin("anna", "10.0.0.1"))
    assert await tried(attempts, "anna", "10.0.0.1", HERE.burst) == 0


async def test_the_memory_is_bounded() -> None:
    """The longest unused is forgotten."""
    ledger = LocalLedger(capacity=10)
    attempts = Attempts(ledger, digest=str)
    for number in range(20):
        await attempts.succeeded(await attempts.begin(f"{number}", ""))
        await attempts.begin(f"{number}", "")
    assert len(ledger._settled) == len(ledger._known) == 10


async def test_redis_that_is_away_leaves_each_replica_to_count_alone() -> None:
    """Throttled less exactly, never not at all, and nobody waits for it."""
    redis = connect("redis://127.0.0.1:1", timeout=0.05)
    attempts = Attempts(RedisLedger(redis, LocalLedger()), digest=str)
    assert await tried(attempts, "anna", "10.0.0.1", HERE.burst) == 0
    assert await tried(attempts, "anna", "10.0.0.1", 1) > 0
    await redis.aclose()


async def test_the_service_says_when_to_try_again(settings, calling: Callable[..., Any], newcomer, valkey, password):
    """Known or not, right or not: the answer is the same until then, on every replica."""
    user = await newcomer()
    told = settings.model_copy(update={"redis_url": valkey.url})
    set_origin("203.0.113.9", "a guesser")
    async with running("auth", told, bootstrap) as one, running("auth", told, bootstrap) as other:
        async with calling("gateway", one.grpc_port) as first, calling("gateway", other.grpc_port) as second:
            for email in (user.email, f"nobody-{uuid.uuid4().hex}@example.org"):
                reasons: list[tuple[Any, str]] = []
                for _ in range(HERE.burst):
                    with pytest.raises(RemoteProblem) as problem:
                        await first.LogIn(wire.LogInRequest(email=email, password="not the right password"))
                    reasons.append((problem.value.code, problem.value.reason))
                assert set(reasons) == {(grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")}
                with pytest.raises(RemoteProblem) as problem:
                    await second.LogIn(wire.LogInRequest(email=email, password=password))
                assert problem.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert problem.value.reason == "TOO_MANY_ATTEMPTS"
                assert 0 < (problem.value.retry_after or 0) <= HERE.interval
