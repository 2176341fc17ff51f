"""The newest events of a shard, read once for all who follow it.

Without this every subscriber would ask Postgres for each new batch by itself, and a hundred of them would decode and
encode each event a hundred times. The tail asks once, keeps the events as bytes in a window that is bounded in bytes,
and wakes the subscribers, who take from the window what their filters keep. Who falls behind the window reads pages
from the database, as one who starts in the past does, and comes back to the window when it has caught up: so what a
slow one has not taken is kept by the database, not by this process.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from chassis.errors import DeadlineExceeded

from event_store.application.append_loop import NotWritten
from event_store.application.heads import Heads
from event_store.application.pages import Page, PageBounds, ReadableLog, Stored

PAUSE_SECONDS: Final = 0.2
"""How long to leave a shard alone that could not be asked."""

CANNOT_BE_ASKED: Final = (NotWritten, DeadlineExceeded)
"""What says that the shard does not answer now, and may later."""

_LOOKED_THROUGH: Final = 2_000
_OVERHEAD: Final = 200
"""About what an event takes in memory besides its bytes."""


class Bell:
    """Wakes one subscriber."""

    def __init__(self) -> None:
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self, _: object = None) -> None:
        """Wake it now, or make its next wait short."""
        self._rung = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def clear(self) -> None:
        """Forget what rang so far."""
        self._rung = False

    async def wait(self, seconds: float) -> None:
        """Until it rings, or for so many seconds."""
        if self._rung or seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop.create_future()
        expiry = loop.call_later(seconds, _expire, waiting)
        try:
            await waiting
        finally:
            expiry.cancel()
            self._waiting = None


def _expire(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class Observer(Protocol):
    """What sees how the tails do."""

    def window(self, shard: int, held: int) -> None:
        """The window of a shard holds so many bytes."""
        ...

    def caught_up(self, shard: int) -> None:
        """A page was read from the database for one subscriber alone."""
        ...

    def cannot_be_asked(self, shard: int) -> None:
        """The shard did not answer."""
        ...


class Tail:
    """The tail of one shard: the events after `floor`, up to `end`, without a gap.

    Args:
        shard: Its number.
        log: Its log.
        heads: Where new heads come from, and are told to.
        observer: Sees how it does.
        every: Seconds after which the database is asked although nobody said that there is anything new.
        max_bytes: The most that the window holds.
        bounds: How large one page is.
        catching_up: How many of those who are behind may read from the database at once.
    """

    def __init__(
        self,
        shard: int,
        log: ReadableLog,
        heads: Heads,
        observer: Observer,
        *,
        every: float,
        max_bytes: int,
        bounds: PageBounds,
        catching_up: int,
    ) -> None:
        self.log = log
        self.bounds = bounds
        self._shard = shard
        self._heads = heads
        self._observer = observer
        self._every = every
        self._max_bytes = max_bytes
        self._turns = asyncio.Semaphore(catching_up)
        self._bells: set[Bell] = set()
        self._events: list[Stored] = []
        self._bytes = 0
        self._end = 0

    @property
    def floor(self) -> int:
        """The position before the first event of the window."""
        return self._end - len(self._events)

    @property
    def end(self) -> int:
        """The position of the last event of the window, or the floor when it is empty."""
        return self._end

    def join(self, bell: Bell) -> None:
        """Ring a bell for every news from now on. The window begins with the first who joins."""
        if not self._bells:
            self._begin(self._heads.of(self._shard))
        self._bells.add(bell)

    def leave(self, bell: Bell) -> None:
        """Ring it no more."""
        self._bells.discard(bell)
        if not self._bells:
            self._begin(self._end)

    def after(self, position: int, sieve: Callable[[Stored], bool] | None) -> Page | None:
        """A page of the window; None when the position is not in it, or is its end."""
        floor, end = self.floor, self._end
        if not floor <= position < end:
            return None
        kept: list[Stored] = []
        size = 0
        first = position - floor
        for index in range(first, min(len(self._events), first + _LOOKED_THROUGH)):
            event = self._events[index]
            position = event.position
            if sieve is None or sieve(event):
                kept.append(event)
                size += len(event.encoded)
                if size >= self.bounds.bytes or len(kept) >= self.bounds.events:
                    break
        return Page(kept, position)

    async def caught_up(self, reading: Callable[[], Awaitable[Page]]) -> Page:
        """Read from the database for one who is behind, when it is its turn: many who are behind must not take all
        connections from the appends.
        """
        async with self._turns:
            self._observer.caught_up(self._shard)
            return await reading()

    async def run(self) -> None:
        """Follow the shard, for ever. One that cannot be asked is asked again."""
        shard, heads = self._shard, self._heads
        while True:
            told = await heads.news(shard, timeout=self._every)
            head = heads.of(shard)
            if told and heads.rumour_of(shard) <= head and (not self._bells or self._end == head):
                # The window has it already, or nobody wants to read it: who joins later begins at the head.
                continue
            try:
                while await self._ask():
                    pass
            except CANNOT_BE_ASKED:
                self._observer.cannot_be_asked(shard)
                await asyncio.sleep(min(PAUSE_SECONDS, self._every))

    async def _ask(self) -> bool:
        """Ask for what is new. True when there is more."""
        shard, heads = self._shard, self._heads
        before, after = heads.of(shard), self._end
        wanted = bool(self._bells)
        if wanted:
            head, events = await self.log.newest(after=after, bounds=self.bounds)
        else:
            head, events = await self.log.head(), ()
        heads.settled(shard)
        if head < before:
            heads.fell_back(shard, head)
        else:
            heads.reached(shard, head)
        if not wanted or after != self._end or not self._bells:
            # Nobody was there, or the window has been begun anew meanwhile.
            return bool(self._bells) and self._end < head
        if head < after or (head > after and (not events or events[0].position != after + 1)):
            # The log was restored, or what comes next has been archived already: who wants it reads it from there.
            self._begin(head)
        elif events:
            self._extend(events)
        self._wake()
        return self._end < head

    def _extend(self, events: Sequence[Stored]) -> None:
        held = self._events
        held.extend(events)
        self._end = events[-1].position
        self._bytes += sum(len(event.encoded) + _OVERHEAD for event in events)
        dropped = 0
        while self._bytes > self._max_bytes:
            self._bytes -= len(held[dropped].encoded) + _OVERHEAD
            dropped += 1
        del held[:dropped]
        self._observer.window(self._shard, self._bytes)

    def _begin(self, position: int) -> None:
        self._events = []
        self._bytes = 0
        self._end = position
        self._observer.window(self._shard, 0)

    def _wake(self) -> None:
        for bell in self._bells:
            bell.ring()
