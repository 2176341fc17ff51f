"""How new the read model is, and waiting until it is new enough.

The projectors of this process tell how far they are as they commit; where another replica projects, the checkpoint row
is looked at instead. Either way a position only ever grows, so that what is known here may be old but is never wrong:
the read model is at least that new.

Positions are those of a generation. When reads are to go to another one, it is adopted only once it is as new as what
has been said here about the one before: until then reads stay where they are, and their positions stand still. So a
read never finds less than what it waited for, across a switch and back.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from catalog_query.domain.errors import NotYetVisible
from catalog_query.domain.projection import FIRST_GENERATION


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a consistency token stands for: a position of a shard of the log, visible in a shard of the read model."""

    event_shard: int
    read_shard: int
    position: int
    bucket: int | None = None
    """The bucket of the stream that was written, when it is about one."""


class Freshness:
    """The positions of one projection for all pairs of shards, which generation is read, and who waits."""

    def __init__(self) -> None:
        self._reached: dict[tuple[int, int, int], int] = {}
        self._positions: dict[tuple[int, int], int] = {}
        self._waiting: dict[tuple[int, int], dict[asyncio.Future[None], int]] = {}
        self._serving: dict[int, int] = {}
        self._next: dict[int, int] = {}

    def generation(self, read_shard: int) -> int:
        """The generation that is read."""
        return self._serving.get(read_shard, FIRST_GENERATION)

    def adopting(self, read_shard: int) -> bool:
        """Whether reads are about to go to another generation."""
        return read_shard in self._next

    def begin(self, read_shard: int, generation: int) -> None:
        """Read a generation from the start."""
        self._serving[read_shard] = generation

    def serve(self, read_shard: int, generation: int) -> None:
        """Read a generation from now on, or as soon as it is as new as what was said of the one before."""
        if generation != self.generation(read_shard):
            self._next[read_shard] = generation
            self._adopt(read_shard)
        elif self._next.pop(read_shard, None) is not None:
            self._show(read_shard)

    def advance(self, *, event_shard: int, read_shard: int, position: int, generation: int = FIRST_GENERATION) -> None:
        """Take it that everything up to `position` is visible in a generation, and wake who waited for that."""
        key = (event_shard, read_shard, generation)
        if position <= self._reached.get(key, -1):
            return
        self._reached[key] = position
        if read_shard in self._next:
            self._adopt(read_shard)
        elif generation == self.generation(read_shard):
            self._advance((event_shard, read_shard), position)

    def forget(self, read_shard: int, generation: int) -> None:
        """Take it that a generation is gone."""
        for key in [key for key in self._reached if key[1:] == (read_shard, generation)]:
            del self._reached[key]

    def _adopt(self, read_shard: int) -> None:
        generation = self._next[read_shard]
        if all(
            self._reached.get((event_shard, read_shard, generation), -1) >= position
            for (event_shard, other), position in self._positions.items()
            if other == read_shard
        ):
            del self._next[read_shard]
            self._serving[read_shard] = generation
            self._show(read_shard)

    def _show(self, read_shard: int) -> None:
        serving = self.generation(read_shard)
        for (event_shard, other, generation), position in list(self._reached.items()):
            if (other, generation) == (read_shard, serving):
                self._advance((event_shard, read_shard), position)

    def _advance(self, pair: tuple[int, int], position: int) -> None:
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
        """Per shard of the log, the position up to which everything is visible in every shard of the read model."""
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
