"""Every key of Redis, with its name and all that it holds."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from redis.asyncio import Redis

from chassis.searching.needles import Found, Needles

_KEYS = 500


def _reading(redis: Any) -> Mapping[bytes, Callable[[bytes], Awaitable[object]]]:
    """How each kind of key is read whole."""
    return {
        b"string": redis.get,
        b"hash": redis.hgetall,
        b"list": partial(_whole, redis.lrange),
        b"set": redis.smembers,
        b"zset": partial(_whole, redis.zrange),
        b"stream": redis.xrange,
    }


async def _whole(read: Callable[[bytes, int, int], Awaitable[object]], key: bytes) -> object:
    return await read(key, 0, -1)


async def search_redis(client: Redis, needles: Needles) -> AsyncGenerator[Found]:
    """Search all that a client may read, and tell how far it is, in keys."""
    redis: Any = client
    found = Found("redis", total=await redis.dbsize())
    yield found
    cursor, reading = 0, _reading(redis)
    while True:
        cursor, keys = await redis.scan(cursor, count=_KEYS)
        for key in keys:
            read = reading.get(await redis.type(key))
            content: list[object] = [key] if read is None else [key, await read(key)]
            needles.count(b"\x00".join(_flat(content)), found)
        found.searched += len(keys)
        if not cursor:
            break
        yield found
    found.total = found.searched
    yield found


def _flat(value: object) -> Iterable[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        yield from _flat(list(cast("dict[object, object]", value).items()))
    elif isinstance(value, list | tuple | set):
        for each in cast("Iterable[object]", value):
            yield from _flat(each)
