"""Tasks that call Redis end when they are cancelled, whenever that is."""

import asyncio
import random
from typing import Any

import pytest
import uvloop
from chassis.redis import connect
from redis.asyncio import Redis

TASKS = 60


async def call_for_ever(client: Redis) -> None:
    while True:
        await client.get("nobody sets this")


async def cancelled_at_any_moment(url: str) -> int:
    """How many of the tasks still run after their cancellation."""
    moment = random.Random(7)  # noqa: S311 - a moment, no secret
    client = connect(url)
    still_running = 0
    for _ in range(TASKS):
        task = asyncio.create_task(call_for_ever(client))
        await asyncio.sleep(moment.uniform(0.001, 0.004))
        for _ in range(moment.randrange(6)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=2)
        still_running += not task.done()
        while not task.done():
            task.cancel()
            await asyncio.sleep(moment.uniform(0.001, 0.002))
    assert await client.get("nobody sets this") is None, (
        "the connections that are left give the answers to what they are asked"
    )
    await client.aclose()
    return still_running


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_task_that_only_calls_redis_ends_when_it_is_cancelled(valkey: Any, run: Any) -> None:
    """The library lost two of three cancellations before Python 3.12, and a worker went on taking jobs as it ended."""
    assert run(cancelled_at_any_moment(valkey.url)) == 0
