"""Nonces in Redis: those that come while a call is in flight travel in the next one.

Redis may lose what it knows: all by a FLUSHALL, the last second by a crash, what was on its way by a failover. So it
also keeps since when it has known everything, which is written down anew after each loss. A lost key is noticed by the
claim itself; a process that ended, by the script being unknown to the one that came after it, as scripts are never
saved. Evicting keys would be a loss that nobody sees: the policy must be `noeviction`, which is the default.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Sequence
from typing import Any, Final

from chassis.coalescing import Coalescer
from chassis.errors import ChassisError
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from gateway.application.nonces import Nonces, NoncesAway

_PREFIX: Final = "almagest:gateway:once:"
_SINCE: Final = "almagest:gateway:once-since"
_SECONDS: Final = 1.0
_WATCH_SECONDS: Final = 0.5
_CLAIM: Final = """
local since = redis.call('GET', KEYS[1])
if not since then
  since = ARGV[1]
  redis.call('SET', KEYS[1], since)
end
local answers = {since}
for i = 2, #KEYS do
  answers[i] = redis.call('SET', KEYS[i], '', 'NX', 'PX', ARGV[i]) and 1 or 0
end
return answers
"""
_DIGEST: Final = hashlib.sha1(_CLAIM.encode(), usedforsecurity=False).hexdigest()


class RedisNonces(Nonces):
    """Nonces in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._calls: Coalescer[tuple[str, int], tuple[bool, float]] = Coalescer(self._send, name="nonces")

    async def close(self) -> None:
        """Refuse what still comes."""
        await self._calls.close()

    async def watch(self) -> None:
        """Look now and then, for ever, so that a loss is noticed when it happens, and not by the next who comes."""
        while True:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self._send(())
            await asyncio.sleep(_WATCH_SECONDS)

    async def claim(self, purpose: str, nonce: str, *, seconds: float, since: float | None = None) -> bool:  # noqa: D102 - the port says
        try:
            first, known_since = await self._calls.submit(
                (f"{_PREFIX}{purpose}:{nonce}", int(seconds * 1000) + 1), timeout=_SECONDS
            )
        except (RedisError, ChassisError, OSError, TimeoutError) as error:
            raise NoncesAway(type(error).__name__) from error
        if first and since is not None and since <= known_since:
            raise NoncesAway("what came before that was forgotten")
        return first

    async def _send(self, nonces: Sequence[tuple[str, int]]) -> Sequence[tuple[bool, float]]:
        # Two of a kind in one call are as far apart for Redis as in two.
        keys = [_SINCE, *(nonce for nonce, _ in nonces)]
        given = [repr(time.time()), *(milliseconds for _, milliseconds in nonces)]
        try:
            answers: list[Any] = await self._redis.evalsha(_DIGEST, len(keys), *keys, *given)
        except NoScriptError:
            # Another process than the one that we knew, or a new one: nothing is claimed in it before it says so.
            await self._redis.set(_SINCE, repr(time.time()))
            await self._redis.script_load(_CLAIM)
            answers = await self._redis.evalsha(_DIGEST, len(keys), *keys, *given)
        since = float(answers[0])
        return [(answer == 1, since) for answer in answers[1:]]


class NoNonces(Nonces):
    """Without a Redis nobody can say."""

    async def close(self) -> None:
        """Nothing to do."""

    async def claim(self, purpose: str, nonce: str, *, seconds: float, since: float | None = None) -> bool:  # noqa: D102, ARG002
        raise NoncesAway("no Redis is configured")
