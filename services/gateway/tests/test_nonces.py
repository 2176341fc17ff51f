"""The memory of what may come only once, in a real Redis."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest
from almagest_cli.local.valkey import EmbeddedValkey
from chassis.redis import connect
from gateway.adapters.nonces import NoNonces, RedisNonces
from gateway.application.nonces import NoncesAway
from redis.asyncio import Redis


@pytest.fixture
async def redis(valkey) -> AsyncIterator[Redis]:
    client = connect(valkey.url.replace("db=0", "db=7"), timeout=0.25)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def replicas(redis) -> AsyncIterator[list[RedisNonces]]:
    """Two gateways' memories."""
    both = [RedisNonces(redis), RedisNonces(redis)]
    yield both
    for one in both:
        await one.close()


async def test_a_loss_is_noticed_before_anybody_comes(replicas, redis):
    """So that who comes a while later is not the one to wait for it."""
    watching = asyncio.create_task(replicas[0].watch())
    try:
        for _ in range(2):
            async with asyncio.timeout(30):
                while not await redis.exists("almagest:gateway:once-since"):  # noqa: ASYNC110 - Redis tells nobody
                    await asyncio.sleep(0.02)
            await redis.flushdb()
    finally:
        watching.cancel()


async def taken(nonces: RedisNonces, nonce: str, *, since: float) -> bool:
    """Whether what carries the nonce would be taken."""
    try:
        return await nonces.claim("test", nonce, seconds=60, since=since)
    except NoncesAway:
        return False


async def test_of_many_at_once_one_is_first(replicas):
    """In one call and in several, at one gateway and at two."""
    nonce = uuid.uuid4().hex
    claims = [replicas[number % 2].claim("test", nonce, seconds=5) for number in range(64)]
    assert sorted(await asyncio.gather(*claims)) == [False] * 63 + [True]
    assert await replicas[0].claim("other", nonce, seconds=5)


async def test_it_is_remembered_for_its_time(replicas, redis):
    """And for no longer, so that the memory does not grow for ever."""
    await replicas[0].claim("test", "soon", seconds=0.05)
    await replicas[0].claim("test", "later", seconds=100)
    async with asyncio.timeout(30):
        while await redis.exists("almagest:gateway:once:test:soon"):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)
    assert 99_000 < await redis.pttl("almagest:gateway:once:test:later") <= 100_001


async def test_a_memory_that_was_lost_does_not_say_of_what_it_has_forgotten_that_it_is_new(replicas, redis):
    """What was made after the loss is taken; what was made before, or by a clock that is not sure, is not."""
    made = time.time()
    await replicas[0].claim("test", "first", seconds=5)
    assert await replicas[0].claim("test", "one", seconds=5, since=time.time() + 0.001)
    await redis.flushdb()
    for nonce in ("one", "never seen"):
        with pytest.raises(NoncesAway):
            await replicas[1].claim("test", nonce, seconds=5, since=made)
    assert await replicas[1].claim("test", "two", seconds=5, since=time.time() + 0.001)
    assert not await replicas[1].claim("test", "two", seconds=5, since=time.time() + 0.001)


async def test_a_memory_that_crashed_is_not_trusted_with_the_time_before(tmp_path):
    """Its file is a second late, so that it forgets the last claims without knowing."""
    server = EmbeddedValkey(tmp_path / "valkey")
    server.start()
    redis = connect(server.url, timeout=0.25)
    nonces = RedisNonces(redis)
    try:
        await nonces.claim("test", "begin", seconds=60)
        made = time.time() + 0.001
        assert await nonces.claim("test", "early", seconds=60, since=made)
        await asyncio.sleep(1.1)  # until the file has that
        assert await nonces.claim("test", "late", seconds=60, since=made)
        process = server.daemon.process()
        assert process is not None
        process.kill()
        process.wait(30)
        server.start()
        await asyncio.sleep(0.1)  # until we have noticed, too
        assert await redis.exists("almagest:gateway:once-since")
        for nonce in ("late", "never seen"):
            assert not await taken(nonces, nonce, since=made)
        assert await nonces.claim("test", "new", seconds=60, since=time.time() + 0.001)
    finally:
        await nonces.close()
        await redis.aclose()
        server.remove()


async def test_a_redis_that_is_away_says_nothing(tmp_path):
    """Within a second, and so does one that is not there at all."""
    gone = connect(f"unix://{tmp_path}/none.sock", timeout=0.1)
    nonces = RedisNonces(gone)
    with pytest.raises(NoncesAway):
        await nonces.claim("test", "x", seconds=5)
    with pytest.raises(NoncesAway):
        await NoNonces().claim("test", "x", seconds=5)
    await nonces.close()
    await gone.aclose()
