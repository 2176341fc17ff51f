"""Every key of Redis, with its name and all that it holds."""

from collections.abc import AsyncGenerator, Iterable
from typing import Any, cast

from redis.asyncio import Redis

from chassis.searching.needles import Found, Needles

_KEYS = 500
_READ = {
    b"string": lambda redis, key: redis.get(key),
    b"hash": lambda redis, key: redis.hgetall(key),
    b"list": lambda redis, key: redis.lrange(key, 0, -1),
    b"set": lambda redis, key: redis.smembers(key),
    b"zset": lambda redis, key: redis.zrange(key, 0, -1),
    b"stream": lambda redis, key: redis.xrange(key),
}


async def search_redis(client: Redis, needles: Needles) -> AsyncGenerator[Found]:
    """Search all that a client may read, and tell how far it is, in keys."""
    redis: Any = client
    found = Found("redis", total=await redis.dbsize())
    yield found
    cursor = 0
    while True:
        cursor, keys = await redis.scan(cursor, count=_KEYS)
        for key in keys:
            read = _READ.get(await redis.type(key))
            content = [key] if read is None else [key, await read(redis, key)]
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
