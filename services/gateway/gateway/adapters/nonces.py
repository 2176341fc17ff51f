from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.application.nonces import Nonces, NoncesAway

_PREFIX: Final = "almagest:gateway:once:"


class RedisNonces(Nonces):
    """Nonces in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def claim(self, purpose: str, nonce: str, *, seconds: float) -> bool:  # noqa: D102 - the port says
        try:
            first = await self._redis.set(f"{_PREFIX}{purpose}:{nonce}", b"", nx=True, px=int(seconds * 1000) + 1)
        except (RedisError, OSError, TimeoutError) as error:
            raise NoncesAway(type(error).__name__) from error
        return bool(first)


class NoNonces(Nonces):
    """Without a Redis nobody can say."""

    async def claim(self, purpose: str, nonce: str, *, seconds: float) -> bool:  # noqa: D102, ARG002
        raise NoncesAway("no Redis is configured")
