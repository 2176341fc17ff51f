"""Whoever calls what they may not is counted, and told to auth."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from almagest.eventstore.v1 import event_store_pb2
from chassis.errors import RemoteProblem, Unavailable
from chassis.policy import Person, Rule
from chassis.refusals import Refusal, Refusals, tell
from harness.tokens import TransactionTokens

REQUEST = event_store_pb2.GetShardMapRequest()
METHOD = "almagest.eventstore.v1.EventStoreService/GetShardMap"


async def test_strangers_and_stolen_tokens_are_counted_by_kind(
    serve: Callable[..., Any],
    issue: Callable[..., Path],
    policy: Callable[..., Any],
    transaction_tokens: TransactionTokens,
    tmp_path: Path,
) -> None:
    """Who, what and why, with how often; what anybody may do wrong is none of it, nor is what is admitted."""
    deny_list = tmp_path / "denied"
    deny_list.write_text("spiffe://almagest.internal/worker\n")
    rows = policy(GetShardMap=Rule(frozenset({"gateway", "worker"}), Person.REQUIRED))
    async with serve(rows=rows, deny_list=deny_list) as service:

        async def call(workload: str, token: str) -> str:
            try:
                await service.stub(issue(workload)).GetShardMap(REQUEST, metadata=(("txn-token", token),))
            except RemoteProblem as refused:
                return refused.reason
            return ""

        own = transaction_tokens()
        for _ in range(3):
            assert await call("auth", own) == "CALLER_NOT_ALLOWED"
        assert await call("worker", own) == "CALLER_DENIED"
        assert await call("gateway", transaction_tokens(workload="worker")) == "TOKEN_OF_ANOTHER"
        assert await call("gateway", transaction_tokens(lifetime=-5)) == "TOKEN_EXPIRED"
        assert await call("gateway", own) == ""
        domain = "spiffe://almagest.internal"
        assert set(service.chassis.refusals.take()) == {
            Refusal(f"{domain}/auth", METHOD, "CALLER_NOT_ALLOWED", 3),
            Refusal(f"{domain}/worker", METHOD, "CALLER_DENIED", 1),
            Refusal(f"{domain}/gateway", METHOD, "TOKEN_OF_ANOTHER", 1),
        }
        assert service.chassis.refusals.take() == []


def test_of_too_many_kinds_the_reasons_remain() -> None:
    """Whoever invents callers and methods fills no memory."""
    refusals = Refusals()
    for number in range(2000):
        refusals.add("spiffe://x/y", f"method {number}", "CALLER_NOT_ALLOWED")
    taken = refusals.take()
    assert len(taken) <= 501
    assert sum(one.count for one in taken) == 2000
    assert taken[-1] == Refusal("", "", "CALLER_NOT_ALLOWED", taken[-1].count)


@pytest.mark.parametrize("error", [Unavailable(), TimeoutError(), ValueError("odd")])
async def test_what_cannot_be_told_is_told_later(error: Exception) -> None:
    """With what came meanwhile, once."""
    refusals, told = Refusals(), asyncio.Queue[Sequence[Refusal]]()
    refusals.add("a", "m", "CALLER_DENIED")
    failing = True

    async def report(taken: Sequence[Refusal]) -> None:
        nonlocal failing
        if failing:
            failing = False
            refusals.add("a", "m", "CALLER_DENIED")
            raise error
        await told.put(taken)

    telling = asyncio.create_task(tell(refusals, report, every=0.001))
    async with asyncio.timeout(30):
        assert await told.get() == [Refusal("a", "m", "CALLER_DENIED", 2)]
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    assert refusals.take() == []
