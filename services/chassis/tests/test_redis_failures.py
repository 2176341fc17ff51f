"""A Redis that hangs up, as one that is full or a proxy with nobody behind it, that is late, or takes nothing more."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from chassis.redis import connect
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError


@pytest.mark.parametrize("scheme", ["redis", "unix"])
async def test_a_server_that_hangs_up_is_told_and_not_asked_for_ever(scheme: str, tmp_path: Path) -> None:
    """Over Unix domain sockets the library connected again within each handshake, deeper and deeper."""
    asked = 0

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    if scheme == "unix":
        path = tmp_path / "redis.sock"
        server, url = await asyncio.start_unix_server(hang_up, path), f"unix://{path}"
    else:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        client = connect(url)
        async with asyncio.timeout(30):
            with pytest.raises(RedisConnectionError):
                await client.get("x")
        await client.aclose()
    assert 0 < asked < 20


async def test_a_server_that_takes_nothing_more_is_told_and_the_connection_given_up(valkey: Any) -> None:
    """What was half sent can have no answer, so the next call goes over another connection."""
    client = connect(valkey.url, timeout=0.3)
    await client.set("small", b"x")
    stopped = valkey.daemon.process()
    stopped.suspend()
    try:
        async with asyncio.timeout(30):
            with pytest.raises(RedisTimeoutError):
                await client.set("large", b"x" * 30_000_000)
    finally:
        stopped.resume()
    assert await client.get("small") == b"x"
    await client.delete("large", "small")
    await client.aclose()


async def test_a_command_whose_answer_is_late_is_not_sent_again(valkey: Any) -> None:
    """Redis does it all the same. The library sent it again, and it was done twice."""
    client = connect(valkey.url, timeout=0.3)
    await client.set("counted", 0)
    stopped = valkey.daemon.process()
    for number in range(3):
        assert await client.get("counted") == b"%d" % number
        stopped.suspend()
        try:
            with pytest.raises(RedisTimeoutError):
                await client.incr("counted")
        finally:
            stopped.resume()
        # It comes to what was sent on the connection that was given up.
        await asyncio.sleep(0.3)
    assert await client.get("counted") == b"3"
    await client.delete("counted")
    await client.aclose()


async def test_connections_that_a_restart_has_ended_are_made_anew(valkey: Any) -> None:
    """Also several at once, and without anybody being told."""
    client = connect(valkey.url)
    await asyncio.gather(*(client.set(f"key {number}", number) for number in range(8)))
    valkey.kill()
    valkey.start()
    await asyncio.sleep(0.1)
    await asyncio.gather(*(client.set(f"key {number}", number) for number in range(8)))
    await client.flushdb()
    await client.aclose()
