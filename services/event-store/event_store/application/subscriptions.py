"""All shards of the log as one stream of slices, up to the heads or without end.

Each shard has a cursor of its own, and no order across shards is promised but one: an event that was copied to another
shard, because its bucket moved there, is delivered once, from the shard where it was first written, and what was
written after it in the new shard comes after it. So a cursor that meets a copy of an event of another chosen shard
leaves it out, and goes on only when that shard's cursor has passed the original.

A subscription holds at most one page per shard that its caller has not taken yet.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from event_store.application.heads import Heads
from event_store.application.pages import Filter, Original, Page, PageBounds, ReadableLog, Stored
from event_store.application.tails import CANNOT_BE_ASKED, PAUSE_SECONDS, Bell, Tail
from event_store.domain.errors import CheckpointAhead


class Slice(NamedTuple):
    """A piece of the log of one shard. Without events it only tells how far it is read, and where its head is."""

    shard: int
    events: Sequence[Stored]
    checkpoint: int
    head: int


class Cursor:
    """How far one shard has been delivered, and the page that is next."""

    def __init__(self, shard: int, position: int, others: "Mapping[int, Cursor]") -> None:
        self.shard = shard
        self.position = position
        self.waits_for: Original | None = None
        """The original that must be delivered first."""
        self._others = others
        self._page: Page | None = None
        self._next = 0

    @property
    def empty(self) -> bool:
        """Whether it needs a page."""
        return self._page is None

    def take(self, page: Page) -> None:
        """Deliver this next. Copies that the caller gets as originals stay here."""
        self._page = page
        self._next = 0

    def release(self) -> Sequence[Stored]:
        """What can be delivered now: all of the page, or what stands before the copy of an event that is still to
        come.
        """
        page = self._page
        if page is None:
            return ()
        self.waits_for = None
        events: list[Stored] = []
        for index in range(self._next, len(page.events)):
            event = page.events[index]
            original = event.original
            if original is None:
                events.append(event)
                continue
            other = self._others.get(original.shard)
            if other is None:
                events.append(event)
            elif other.position < original.position and other is not self:
                self._next, self.waits_for = index, original
                self.position = max(self.position, event.position - 1)
                return events
        self._page = None
        self.position = page.checkpoint
        return events


async def read_all(
    logs: Sequence[ReadableLog],
    ends: Mapping[int, int],
    after: Mapping[int, int],
    *,
    kept: Filter,
    bounds: PageBounds,
    limit: int,
) -> AsyncGenerator[Slice, None]:
    """Every event of some shards after a vector of positions, up to their ends; at least one slice per shard, and one
    for each page that was read, so that checkpoints are always told.

    An end is moved on where an original stands after it, of which a copy is delivered by another shard.
    """
    ends = dict(ends)
    cursors: dict[int, Cursor] = {}
    for shard in ends:
        cursors[shard] = Cursor(shard, after.get(shard, 0), cursors)
    left = limit
    unfinished = dict(cursors)
    while unfinished:
        cursor = next(iter(unfinished.values()))
        for _ in cursors:
            original = cursor.waits_for
            if original is None or cursors[original.shard].position >= original.position:
                break
            ends[original.shard] = max(ends[original.shard], original.position)
            cursor = unfinished[original.shard] = cursors[original.shard]
        shard = cursor.shard
        if cursor.empty and cursor.position < ends[shard]:
            cursor.take(
                await logs[shard].page(
                    after=cursor.position,
                    until=ends[shard],
                    kept=kept,
                    bounds=bounds,
                    limit=left if limit else bounds.events,
                )
            )
        events = cursor.release()
        yield Slice(shard, events, cursor.position, ends[shard])
        if limit:
            left -= len(events)
            if left <= 0:
                return
        if cursor.empty and cursor.position >= ends[shard]:
            unfinished.pop(shard, None)


class _Follower(Cursor):
    """A cursor that goes on with what is still to come."""

    def __init__(
        self,
        shard: int,
        position: int,
        others: Mapping[int, Cursor],
        *,
        tail: Tail,
        heads: Heads,
        kept: Filter,
        sieve: Callable[[Stored], bool] | None,
        bell: Bell,
        heartbeat: float,
        now: float,
    ) -> None:
        super().__init__(shard, position, others)
        self.progressed = False
        """Whether the last step got any further."""
        self._tail = tail
        self._heads = heads
        self._kept = kept
        self._sieve = sieve
        self._bell = bell
        self._heartbeat = heartbeat
        # Who is at the head is told so at once; the others get their first page.
        self._spoken = now - heartbeat if position >= heads.of(shard) else now
        self._retry_at: float | None = None
        self._reading: asyncio.Task[Page] | None = None

    @property
    def due(self) -> float:
        """When to step again at the latest."""
        beat = self._spoken + self._heartbeat
        return beat if self._retry_at is None else min(beat, self._retry_at)

    def step(self, now: float) -> Slice | None:
        """Go on as far as is possible without waiting, and answer what there is to tell.

        Raises:
            CheckpointAhead: The log ends before what was delivered: it was restored.
        """
        head = self._heads.of(self.shard)
        if self.position > head:
            raise CheckpointAhead(self.shard, self.position, head)
        if self.empty:
            self._fetch(head, now)
        before = self.position
        events = self.release()
        self.progressed = self.position > before
        if events or now >= self._spoken + self._heartbeat:
            self._spoken = now
            return Slice(self.shard, events, self.position, max(self.position, self._heads.of(self.shard)))
        return None

    def _fetch(self, head: int, now: float) -> None:
        reading = self._reading
        if reading is not None:
            if not reading.done():
                return
            self._reading = None
            try:
                self.take(reading.result())
            except CANNOT_BE_ASKED:
                # The subscription outlives a restart of its database.
                self._retry_at = now + PAUSE_SECONDS
            return
        page = self._tail.after(self.position, self._sieve)
        if page is not None:
            self._retry_at = None
            self.take(page)
        elif self._retry_at is not None and now < self._retry_at:
            return
        elif self.position < min(head, self._tail.floor):
            self._retry_at = None
            read = partial(
                self._tail.log.page,
                after=self.position,
                until=head,
                kept=self._kept,
                bounds=self._tail.bounds,
                limit=self._tail.bounds.events,
            )
            self._reading = asyncio.create_task(self._tail.caught_up(read))
            self._reading.add_done_callback(self._bell.ring)

    async def close(self) -> None:
        """Give up what is being read."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


async def subscribe(
    tails: Mapping[int, Tail], heads: Heads, after: Mapping[int, int], *, kept: Filter, heartbeat: float
) -> AsyncGenerator[Slice, None]:
    """Every event of some shards after a vector of positions, and those to come, without end.

    Raises:
        CheckpointAhead: A shard ends before what was delivered of it: it was restored.
    """
    loop = asyncio.get_running_loop()
    bell, sieve, now = Bell(), kept.sieve(), loop.time()
    cursors: dict[int, _Follower] = {}
    for shard, tail in tails.items():
        cursors[shard] = _Follower(
            shard,
            after.get(shard, 0),
            cursors,
            tail=tail,
            heads=heads,
            kept=kept,
            sieve=sieve,
            bell=bell,
            heartbeat=heartbeat,
            now=now,
        )
    try:
        for tail in tails.values():
            tail.join(bell)
        while True:
            bell.clear()
            progressed = False
            for cursor in cursors.values():
                piece = cursor.step(loop.time())
                progressed = progressed or cursor.progressed
                if piece is not None:
                    yield piece
            if progressed:
                await asyncio.sleep(0)
            else:
                await bell.wait(min(cursor.due for cursor in cursors.values()) - loop.time())
    finally:
        for tail in tails.values():
            tail.leave(bell)
        for cursor in cursors.values():
            await cursor.close()
