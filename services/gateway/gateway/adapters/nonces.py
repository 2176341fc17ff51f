"""Nonces in Redis: those that come while a call is in flight travel in the next one.

Redis may lose what it knows, by a restart or a FLUSHALL. So it also keeps since when it has known everything: the first
claim after a loss writes that down anew. Evicting keys would be a loss that nobody sees: its policy must be
`noeviction`, which is the default.
"""

import time
from collections.abc import Sequence
from typing import Any, Final

from chassis.coalescing import Coalescer
from chassis.errors import ChassisError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.application.nonces import Nonces, NoncesAway

_PREFIX: Final = "almagest:gateway:once:"
_SINCE: Final = "almagest:gateway:once-since"
_SECONDS: Final = 1.0
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


class RedisNonces(Nonces):
    """Nonces in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._claim: Any = redis.register_script(_CLAIM)
        self._calls: Coalescer[tuple[str, int], tuple[bool, float]] = Coalescer(self._send, name="nonces")

    async def close(self) -> None:
        """Refuse what still comes."""
        await self._calls.close()

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
        answers: list[Any] = await self._claim(
            keys=[_SINCE, *(nonce for nonce, _ in nonces)],
            args=[repr(time.time()), *(milliseconds for _, milliseconds in nonces)],
        )
        since = float(answers[0])
        return [(answer == 1, since) for answer in answers[1:]]


class NoNonces(Nonces):
    """Without a Redis nobody can say."""

    async def close(self) -> None:
        """Nothing to do."""

    async def claim(self, purpose: str, nonce: str, *, seconds: float, since: float | None = None) -> bool:  # noqa: D102, ARG002
        raise NoncesAway("no Redis is configured")
