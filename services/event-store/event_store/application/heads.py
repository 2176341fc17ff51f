"""How far each shard is known to be committed, and a way to wait for more."""

import asyncio
from collections.abc import Callable


class Heads:
    """The last position known to be committed, per shard.

    Only what the database has said counts: a reader takes everything up to the head as read, so a head that is too
    high would make it skip events. What other replicas say over Redis is therefore a rumour, which makes `follow` ask
    the database at once instead of at its next poll.
    """

    def __init__(self, shards: int, *, watcher: Callable[[int, int], None] | None = None) -> None:
        self._heads = [0] * shards
        self._waiting: list[set[asyncio.Future[None]]] = [set() for _ in range(shards)]
        self._watcher = watcher
        self._rumours = [asyncio.Event() for _ in range(shards)]

    @property
    def shards(self) -> int:
        """The number of shards."""
        return len(self._heads)

    def of(self, shard: int) -> int:
        """The last position known to be committed."""
        return self._heads[shard]

    def reached(self, shard: int, position: int) -> None:
        """Take note that a position is committed, and wake who waits for it."""
        if position > self._heads[shard]:
            self._set(shard, position)

    def rumoured(self, shard: int, position: int) -> None:
        """Take note that somebody says that a position is committed."""
        if position > self._heads[shard]:
            self._rumours[shard].set()

    async def rumour(self, shard: int, *, timeout: float) -> None:
        """Wait for a rumour of a new head, or for `timeout` seconds."""
        rumours = self._rumours[shard]
        try:
            async with asyncio.timeout(timeout):
                await rumours.wait()
        except TimeoutError:
            return
        rumours.clear()

    def fell_back(self, shard: int, position: int) -> None:
        """Take note that the log ends earlier than it did: it was restored. Who reads on beyond its end is woken to
        find out.
        """
        self._set(shard, position)

    def _set(self, shard: int, position: int) -> None:
        self._heads[shard] = position
        if self._watcher is not None:
            self._watcher(shard, position)
        waiting, self._waiting[shard] = self._waiting[shard], set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def changed(self, shard: int, position: int, *, timeout: float) -> None:
        """Wait until the head differs from `position`, or for `timeout` seconds."""
        if self._heads[shard] != position:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[shard].add(future)
        expiry = loop.call_later(timeout, _wake, future)
        try:
            await future
        finally:
            expiry.cancel()
            self._waiting[shard].discard(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
