"""Tries of passwords, counted for all replicas together."""

import time
from collections.abc import Sequence
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from auth.application.attempts import KNOWN_SECONDS, Ledger, Payer

_PREFIX: Final = "almagest:auth:attempts:"
_AWAY_SECONDS: Final = 1.0
# Redis' own clock, in microseconds. Kept is when all will have been paid back, for as long as it has not.
_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local known = redis.call('EXISTS', KEYS[1])
local settled, wait = {}, 0
for i = 2, #KEYS do
  if not (known == 1 and KEYS[i] == ARGV[1]) then
    local interval, burst = tonumber(ARGV[2 * i - 2]), tonumber(ARGV[2 * i - 1])
    settled[i] = math.max(now, tonumber(redis.call('GET', KEYS[i]) or 0)) + interval
    wait = math.max(wait, settled[i] - now - burst * interval)
  end
end
if wait > 0 then return wait end
for i, at in pairs(settled) do
  redis.call('SET', KEYS[i], string.format('%.0f', at), 'PX', math.ceil((at - now) / 1000) + 1)
end
return 0
"""
_GIVE_BACK: Final = """
redis.call('SET', KEYS[1], '1', 'EX', ARGV[2])
for i = 2, #KEYS do
  if KEYS[i] == ARGV[1] then
    redis.call('DEL', KEYS[i])
  else
    local at = redis.call('GET', KEYS[i])
    if at then redis.call('SET', KEYS[i], string.format('%.0f', tonumber(at) - tonumber(ARGV[i + 1])), 'KEEPTTL') end
  end
end
return 0
"""

_logger = structlog.stdlib.get_logger(__name__)


class RedisLedger:
    """In Redis; in this process while it is away."""

    def __init__(self, redis: Redis, fallback: Ledger) -> None:
        self._take: Any = redis.register_script(_TAKE)
        self._give_back: Any = redis.register_script(_GIVE_BACK)
        self._fallback = fallback
        self._away_until = 0.0

    async def take(self, payers: Sequence[Payer], *, known: str, excused: str) -> float:
        """See `Ledger`."""
        if time.monotonic() >= self._away_until:
            limits = [number for one in payers for number in (round(one.limit.interval * 1e6), one.limit.burst)]
            try:
                wait: int = await self._take(
                    keys=[_PREFIX + key for key in (known, *(one.key for one in payers))],
                    args=[_PREFIX + excused, *limits],
                )
            except (RedisError, OSError, TimeoutError) as error:
                self._gone(error)
            else:
                return wait / 1e6
        return await self._fallback.take(payers, known=known, excused=excused)

    async def give_back(self, payers: Sequence[Payer], *, cleared: str, known: str) -> None:
        """See `Ledger`."""
        if time.monotonic() >= self._away_until:
            try:
                await self._give_back(
                    keys=[_PREFIX + key for key in (known, *(one.key for one in payers))],
                    args=[_PREFIX + cleared, KNOWN_SECONDS, *(round(one.limit.interval * 1e6) for one in payers)],
                )
            except (RedisError, OSError, TimeoutError) as error:
                self._gone(error)
        await self._fallback.give_back(payers, cleared=cleared, known=known)

    def _gone(self, error: Exception) -> None:
        self._away_until = time.monotonic() + _AWAY_SECONDS
        _logger.warning("Redis is away: tries of passwords are counted here alone", problem=type(error).__name__)
