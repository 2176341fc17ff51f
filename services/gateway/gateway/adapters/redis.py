import time
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.application.ports import Claim, KeyMemory

_PREFIX = "almagest:gateway:key:"
_RUNNING = b"r"
_DONE = b"d"
_KEEP_SECONDS = 24 * 3600
_AWAY_SECONDS = 1.0

_logger = structlog.stdlib.get_logger(__name__)


class RedisKeyMemory(KeyMemory):
    """Keys in Redis. While it is away, it is asked once a second."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._away_until = 0.0

    async def claim(self, key: str, fingerprint: bytes, *, seconds: float) -> Claim:  # noqa: D102 - the port says
        if self._away():
            return Claim.NEW
        try:
            known: bytes | None = cast(
                "Any",
                await self._redis.set(_PREFIX + key, _RUNNING + fingerprint, nx=True, get=True, px=int(seconds * 1000)),
            )
        except (RedisError, OSError, TimeoutError) as error:
            self._gone(error)
            return Claim.NEW
        if known is None:
            return Claim.NEW
        if known[1:] != fingerprint:
            return Claim.OTHER
        return Claim.DONE if known[:1] == _DONE else Claim.RUNNING

    async def done(self, key: str, fingerprint: bytes) -> None:  # noqa: D102
        if self._away():
            return
        try:
            await self._redis.set(_PREFIX + key, _DONE + fingerprint, ex=_KEEP_SECONDS)
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


class NoKeyMemory(KeyMemory):
    """Without a Redis: the log alone knows."""

    async def claim(self, key: str, fingerprint: bytes, *, seconds: float) -> Claim:  # noqa: D102
        del key, fingerprint, seconds
        return Claim.NEW

    async def done(self, key: str, fingerprint: bytes) -> None:  # noqa: D102
        pass

    async def forget(self, key: str) -> None:  # noqa: D102
        pass
