"""How new the read model is, and waiting until it is new enough.

The projectors of this process tell how far they are as they commit; where another replica projects, the checkpoint row
is looked at instead. Either way a position only ever grows, so that what is known here may be old but is never wrong:
the read model is at least that new.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from catalog_query.domain.errors import NotYetVisible


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a consistency token stands for: a position of a shard of the log, visible in a shard of the read model."""

    event_shard: int
    read_shard: int
    position: int


class Freshness:
    """The positions of all pairs of shards, and who waits for them."""

    def __init__(self) -> None:
        self._positions: dict[tuple[int, int], int] = {}
        self._waiting: dict[tuple[int, int], dict[asyncio.Future[None], int]] = {}

    def advance(self, *, event_shard: int, read_shard: int, position: int) -> None:
        """Take it that everything up to `position` is visible, and wake who waited for that."""
        pair = (event_shard, read_shard)
        if position <= self._positions.get(pair, -1):
            return
        self._positions[pair] = position
        for future, wanted in self._waiting.get(pair, {}).items():
            if wanted <= position and not future.done():
                future.set_result(None)

    def position(self, *, event_shard: int, read_shard: int) -> int:
        """The position up to which everything is visible."""
        return self._positions.get((event_shard, read_shard), 0)

    def positions(self) -> Mapping[int, int]:
        """Per shard of the log, the position up to which everything is visible in every shard of the read model that
        it feeds.
        """
        lowest: dict[int, int] = {}
        for (event_shard, _), position in sorted(self._positions.items()):
            lowest[event_shard] = min(position, lowest.get(event_shard, position))
        return lowest

    def waiting(self, *, event_shard: int, read_shard: int) -> bool:
        """Whether anybody waits for a pair."""
        return bool(self._waiting.get((event_shard, read_shard)))

    async def wait(self, wanted: Wanted, *, timeout: float) -> None:
        """Wait until the position is visible.

        Raises:
            NotYetVisible: it was not within `timeout` seconds.
        """
        pair = (wanted.event_shard, wanted.read_shard)
        if self._positions.get(pair, 0) >= wanted.position:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(pair, {})
        waiting[future] = wanted.position
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise NotYetVisible(
                shard=wanted.event_shard, wanted=wanted.position, position=self._positions.get(pair, 0)
            ) from None
        finally:
            del waiting[future]

    async def wait_for_all(self, wanted: Iterable[Wanted], *, timeout: float) -> None:
        """Wait until all positions are visible, together not longer than `timeout` seconds.

        Raises:
            NotYetVisible: one was not.
        """
        until = asyncio.get_running_loop().time() + timeout
        for one in wanted:
            await self.wait(one, timeout=max(until - asyncio.get_running_loop().time(), 0))
