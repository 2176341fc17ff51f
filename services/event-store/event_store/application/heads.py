"""How far each shard is known to be committed, and who wants to know of more."""

import asyncio
from collections.abc import Callable


class Heads:
    """The last position known to be committed, per shard.

    Only what the database has said counts: a reader takes everything up to the head as read, so a head that is too
    high would make it skip events. What other replicas say over Redis is therefore a rumour, which makes the tail ask
    the database at once instead of at its next poll.
    """

    def __init__(self, shards: int, *, watcher: Callable[[int, int], None] | None = None) -> None:
        self._heads = [0] * shards
        self._rumours = [0] * shards
        self._watcher = watcher
        self._news = [asyncio.Event() for _ in range(shards)]

    @property
    def shards(self) -> int:
        """The number of shards."""
        return len(self._heads)

    def of(self, shard: int) -> int:
        """The last position known to be committed."""
        return self._heads[shard]

    def rumour_of(self, shard: int) -> int:
        """The last position that somebody says is committed; nothing new when it is not after the head."""
        return self._rumours[shard]

    def reached(self, shard: int, position: int) -> None:
        """Take note that a position is committed, and wake who waits for it."""
        if position > self._heads[shard]:
            self._set(shard, position)

    def rumoured(self, shard: int, position: int) -> None:
        """Take note that somebody says that a position is committed."""
        if position > max(self._heads[shard], self._rumours[shard]):
            self._rumours[shard] = position
            self._news[shard].set()

    def settled(self, shard: int) -> None:
        """Forget the rumours: the database has been asked since."""
        self._rumours[shard] = 0

    def fell_back(self, shard: int, position: int) -> None:
        """Take note that the log ends earlier than it did: it was restored. Who reads on beyond its end is woken to
        find out.
        """
        self._set(shard, position)

    def _set(self, shard: int, position: int) -> None:
        self._heads[shard] = position
        if self._watcher is not None:
            self._watcher(shard, position)
        self._news[shard].set()

    async def news(self, shard: int, *, timeout: float) -> bool:
        """Wait for a new head or a rumour of one, or for `timeout` seconds. False when there was none. For one waiter
        per shard.
        """
        news = self._news[shard]
        if not news.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await news.wait()
            except TimeoutError:
                return False
        news.clear()
        return True
