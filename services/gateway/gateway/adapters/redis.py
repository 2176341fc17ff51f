import time
from collections.abc import Mapping
from typing import Any, Final, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.application.ports import Claim, KeyMemory, Remembered
from gateway.application.quotas import QuotasAway, SharedQuotas

_PREFIX = "almagest:gateway:key:"
_QUOTA_PREFIX: Final = "almagest:gateway:quota:"
# Redis' own clock, so that those of the replicas need not agree. Kept is when a key will have got back all that it
# used, in microseconds, for as long as it has not.
_ADD: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local debts = {}
for i, key in ipairs(KEYS) do
  local settled = math.max(now, tonumber(redis.call('GET', key) or 0)) + tonumber(ARGV[i])
  redis.call('SET', key, string.format('%.0f', settled), 'PX', math.ceil((settled - now) / 1000) + 1)
  debts[i] = settled - now
end
return debts
"""
_RUNNING = b"r"
_DONE = b"d"
_KEEP_SECONDS = 24 * 3600
_AWAY_SECONDS = 1.0
_UNKNOWN: Final = Remembered(Claim.NEW)

_logger = structlog.stdlib.get_logger(__name__)


class RedisKeyMemory(KeyMemory):
    """Keys in Redis. While it is away, it is asked once a second."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._away_until = 0.0

    async def claim(self, key: str, fingerprint: bytes, *, seconds: float) -> Remembered:  # noqa: D102 - the port says
        if self._away():
            return _UNKNOWN
        try:
            known: bytes | None = cast(
                "Any",
                await self._redis.set(_PREFIX + key, _RUNNING + fingerprint, nx=True, get=True, px=int(seconds * 1000)),
            )
        except (RedisError, OSError, TimeoutError) as error:
            self._gone(error)
            return _UNKNOWN
        if known is None:
            return _UNKNOWN
        end = 1 + len(fingerprint)
        if known[1:end] != fingerprint:
            return Remembered(Claim.OTHER)
        if known[:1] != _DONE:
            return Remembered(Claim.RUNNING)
        return Remembered(Claim.DONE, known[end:])

    async def done(self, key: str, fingerprint: bytes, answer: bytes = b"") -> None:  # noqa: D102
        if self._away():
            return
        try:
            await self._redis.set(_PREFIX + key, _DONE + fingerprint + answer, ex=_KEEP_SECONDS)
        except (RedisError, OSError, TimeoutError) as error:
            self._gone(error)

    async def forget(self, key: str) -> None:  # noqa: D102
        if self._away():
            return
        try:
            await self._redis.delete(_PREFIX + key)
        except (RedisError, OSError, TimeoutError) as error:
            self._gone(error)

    def _away(self) -> bool:
        return time.monotonic() < self._away_until

    def _gone(self, error: Exception) -> None:
        self._away_until = time.monotonic() + _AWAY_SECONDS
        _logger.warning("Redis is away: idempotency keys are only known to the log", problem=type(error).__name__)


class RedisQuotas(SharedQuotas):
    """Quotas added up in Redis, all that are told at once in one call."""

    def __init__(self, redis: Redis) -> None:
        self._add: Any = redis.register_script(_ADD)

    async def add(self, debts: Mapping[str, float]) -> Mapping[str, float]:  # noqa: D102 - the port says
        try:
            totals: list[int] = await self._add(
                keys=[_QUOTA_PREFIX + key for key in debts], args=[round(debt * 1e6) for debt in debts.values()]
            )
        except (RedisError, OSError, TimeoutError) as error:
            raise QuotasAway(type(error).__name__) from error
        return {key: total / 1e6 for key, total in zip(debts, totals, strict=True)}


class NoKeyMemory(KeyMemory):
    """Without a Redis: the log alone knows."""

    async def claim(self, key: str, fingerprint: bytes, *, seconds: float) -> Remembered:  # noqa: D102
        del key, fingerprint, seconds
        return _UNKNOWN

    async def done(self, key: str, fingerprint: bytes, answer: bytes = b"") -> None:  # noqa: D102
        pass

    async def forget(self, key: str) -> None:  # noqa: D102
        pass
