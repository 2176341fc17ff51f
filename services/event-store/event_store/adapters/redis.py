"""The doorbell between replicas: who has committed tells the others how far, so that their subscribers need not wait
for the next poll; and who has moved buckets tells that there is a new shard map.

Only rumours go through Redis: when it is away the polls do alone, and what it tells makes us ask the database,
nothing else.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from event_store.application.heads import Heads

CHANNEL: Final = "almagest:event-store:heads"
MAP_CHANNEL: Final = "almagest:event-store:map"

_PAUSE_SECONDS = (0.2, 5.0)
_BLOCK_SECONDS = 1.0
_logger = structlog.stdlib.get_logger(__name__)


class Doorbell:
    """Rings for the heads of this process, and hears those of the others."""

    def __init__(
        self, publisher: Redis, listener: Redis, heads: Heads, *, mapped: Callable[[int], None] | None = None
    ) -> None:
        """Ring and hear. `mapped` is told each version of the shard map that is heard of."""
        self._publisher = publisher
        self._listener = listener
        self._heads = heads
        self._mapped = mapped
        self._fresh: dict[int, int] = {}
        self._epoch = 0
        self._rung = asyncio.Event()

    def committed(self, shard: int, position: int) -> None:
        """This process has committed so far. Only the latest of each shard is told."""
        self._fresh[shard] = position
        self._rung.set()

    def remapped(self, epoch: int) -> None:
        """This process knows a new version of the shard map."""
        self._epoch = epoch
        self._rung.set()

    async def ring(self) -> None:
        """Tell the others, for ever."""
        shortest, longest = _PAUSE_SECONDS
        pause = shortest
        while True:
            await self._rung.wait()
            self._rung.clear()
            fresh, self._fresh = self._fresh, {}
            epoch, self._epoch = self._epoch, 0
            try:
                if epoch:
                    await self._publisher.publish(MAP_CHANNEL, str(epoch))
                for shard, position in fresh.items():
                    await self._publisher.publish(CHANNEL, f"{shard} {position}")
                pause = shortest
            except (RedisError, OSError) as error:
                _logger.warning("the doorbell cannot be rung", problem=type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)

    async def hear(self) -> None:
        """Hear the others, for ever."""
        shortest, longest = _PAUSE_SECONDS
        pause = shortest
        while True:
            try:
                async with self._listener.pubsub(ignore_subscribe_messages=True) as subscription:
                    await subscription.subscribe(CHANNEL, MAP_CHANNEL)
                    pause = shortest
                    while True:
                        self._heard(await subscription.get_message(timeout=_BLOCK_SECONDS))
            except (RedisError, OSError) as error:
                _logger.warning("the doorbell cannot be heard", problem=type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)

    def _heard(self, message: Any) -> None:
        if message is None:
            return
        if message["channel"] == MAP_CHANNEL.encode():
            if self._mapped is not None and message["data"].isdigit():
                self._mapped(int(message["data"]))
            return
        shard, _, position = message["data"].partition(b" ")
        if shard.isdigit() and position.isdigit() and int(shard) < self._heads.shards:
            self._heads.rumoured(int(shard), int(position))
