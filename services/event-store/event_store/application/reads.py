"""Reading: one stream, many short streams, all of the log, and what is still to come.

Everything is read in pages that are bounded in events and in bytes, and a page is asked for only when the one before
has been taken, so a slow reader costs a page per shard and no more.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from almagest.eventstore.v1.event_pb2 import RecordedEvent

from event_store.application.append_loop import NotWritten
from event_store.application.heads import Heads
from event_store.domain.append import Committed
from event_store.domain.errors import CheckpointAhead, ReadTooLarge, UnknownShard


@dataclass(frozen=True, slots=True)
class Filter:
    """Keeps the events for which every set condition holds; an empty one holds for all."""

    categories: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    buckets: tuple[int, ...] = ()


class Page(NamedTuple):
    """Events in order, and how far the shard has been read by it: events that the filter left out are read as well."""

    events: Sequence[RecordedEvent]
    checkpoint: int


class StreamPage(NamedTuple):
    """Events of a stream in the order asked for, and whether there may be more."""

    events: Sequence[RecordedEvent]
    more: bool


class StreamRange(NamedTuple):
    """A stream from a revision on."""

    stream: str
    from_revision: int


class StreamContent(NamedTuple):
    """A stream as it was read: its last revision is None when it does not exist."""

    events: Sequence[RecordedEvent]
    last_revision: int | None


@dataclass(frozen=True, slots=True)
class PageBounds:
    """The most that one page holds: it goes out as one message."""

    events: int = 500
    bytes: int = 256 * 1024
    window: int = 20_000
    """How many positions one query looks through at most, however few of them the filter keeps."""


class ReadableLog(Protocol):
    """The log of one shard, as reading needs it. Every method raises `NotWritten` when the shard cannot be asked."""

    async def head(self) -> int:
        """The last committed position."""
        ...

    async def page(self, *, after: int, until: int, kept: Filter, bounds: PageBounds, limit: int) -> Page:
        """The events after a position, up to and with another."""
        ...

    async def last_revision(self, stream: str) -> int | None:
        """The last revision of a stream; None when it does not exist."""
        ...

    async def stream_page(
        self, stream: str, *, first: int, last: int, backwards: bool, bounds: PageBounds
    ) -> StreamPage:
        """The events of a stream between two revisions, both included."""
        ...

    async def streams(
        self, ranges: Sequence[StreamRange], *, max_events: int, max_bytes: int
    ) -> Sequence[StreamContent] | None:
        """Several streams at one moment; None when they hold more than that."""
        ...

    async def committed(self, append_id: str, stream: str) -> Committed | None:
        """What was answered to an append."""
        ...


class Slice(NamedTuple):
    """A piece of the log of one shard. Without events it only tells how far it is read, and where its head is."""

    shard: int
    events: Sequence[RecordedEvent]
    checkpoint: int
    head: int


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads over all shards."""

    logs: Sequence[ReadableLog]
    heads: Heads
    bounds: PageBounds = field(default_factory=PageBounds)

    async def stream(
        self, shard: int, stream: str, *, from_revision: int | None, backwards: bool, limit: int
    ) -> AsyncGenerator[StreamContent, None]:
        """One stream as it was when the read began, page by page. `limit` 0: all of it."""
        log = self.logs[shard]
        end = await log.last_revision(stream)
        if end is None:
            yield StreamContent((), None)
            return
        first, last = (
            (0, min(end, end if from_revision is None else from_revision)) if backwards else (from_revision or 0, end)
        )
        if limit:
            first, last = (max(first, last - limit + 1), last) if backwards else (first, min(last, first + limit - 1))
        sent = False
        while first <= last:
            page = await log.stream_page(stream, first=first, last=last, backwards=backwards, bounds=self.bounds)
            if page.events:
                yield StreamContent(page.events, end)
                sent = True
                if backwards:
                    last = page.events[-1].revision - 1
                else:
                    first = page.events[-1].revision + 1
            if not page.more:
                break
        if not sent:
            yield StreamContent((), end)

    async def streams(
        self, wanted: Sequence[tuple[int, StreamRange]], *, max_events: int, max_bytes: int
    ) -> Sequence[StreamContent]:
        """Several short streams, of any shards, in the order given; all streams of one shard as they were at one
        moment.

        Raises:
            ReadTooLarge: They hold more than one answer may.
        """
        by_shard: dict[int, list[int]] = {}
        for index, (shard, _) in enumerate(wanted):
            by_shard.setdefault(shard, []).append(index)

        async def read(shard: int, indexes: Sequence[int]) -> Sequence[StreamContent]:
            contents = await self.logs[shard].streams(
                [wanted[index][1] for index in indexes], max_events=max_events, max_bytes=max_bytes
            )
            if contents is None:
                raise ReadTooLarge("max_batch_events or max_batch_bytes", max_events)
            return contents

        found: list[StreamContent | None] = [None] * len(wanted)
        answers = await asyncio.gather(*(read(shard, indexes) for shard, indexes in by_shard.items()))
        for indexes, contents in zip(by_shard.values(), answers, strict=True):
            for index, content in zip(indexes, contents, strict=True):
                found[index] = content
        complete = [content for content in found if content is not None]
        if sum(len(content.events) for content in complete) > max_events:
            raise ReadTooLarge("max_batch_events", max_events)
        if sum(event.ByteSize() for content in complete for event in content.events) > max_bytes:
            raise ReadTooLarge("max_batch_bytes", max_bytes)
        return complete

    def chosen(self, shards: Sequence[int], after: Mapping[int, int]) -> Sequence[int]:
        """The shards to read.

        Raises:
            UnknownShard: One of those named does not exist.
        """
        count = len(self.logs)
        for shard in (*shards, *after):
            if not 0 <= shard < count:
                raise UnknownShard(shard, count)
        return tuple(dict.fromkeys(shards)) or tuple(range(count))

    async def all(
        self, after: Mapping[int, int], *, kept: Filter, shards: Sequence[int], limit: int
    ) -> AsyncGenerator[Slice, None]:
        """Every event after a vector of positions, up to the heads of now. At least one slice per shard, so that
        checkpoints are always told.

        Raises:
            CheckpointAhead: A position is after its shard's head.
        """
        heads = {shard: await self._head(shard, after.get(shard, 0)) for shard in self.chosen(shards, after)}
        left = limit
        for shard, head in heads.items():
            position = after.get(shard, 0)
            told = False
            while position < head or not told:
                page = Page((), position)
                if position < head:
                    page = await self.logs[shard].page(
                        after=position,
                        until=head,
                        kept=kept,
                        bounds=self.bounds,
                        limit=left if limit else self.bounds.events,
                    )
                position = page.checkpoint
                if page.events or position >= head:
                    told = True
                    yield Slice(shard, page.events, position, head)
                if limit:
                    left -= len(page.events)
                    if left <= 0:
                        return

    async def subscribe(
        self, after: Mapping[int, int], *, kept: Filter, shards: Sequence[int], heartbeat: float
    ) -> AsyncGenerator[Slice, None]:
        """Every event after a vector of positions, and those to come, without end.

        Each shard is read by a task of its own that stays at most one page ahead of the subscriber.

        Raises:
            CheckpointAhead: A position is after its shard's head, now or later, when the log was restored in between.
        """
        chosen = self.chosen(shards, after)
        for shard in chosen:
            await self._head(shard, after.get(shard, 0))
        ready: asyncio.Queue[Slice | Exception] = asyncio.Queue(maxsize=len(chosen))

        async def feed(shard: int) -> None:
            try:
                async with aclosing(self._tail(shard, after.get(shard, 0), kept=kept, heartbeat=heartbeat)) as slices:
                    async for piece in slices:
                        await ready.put(piece)
            except Exception as error:  # noqa: BLE001 - it is raised below, where the subscriber gets it
                await ready.put(error)

        feeders = [asyncio.create_task(feed(shard)) for shard in chosen]
        try:
            while True:
                piece = await ready.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            for feeder in feeders:
                feeder.cancel()
            await asyncio.gather(*feeders, return_exceptions=True)

    async def _tail(self, shard: int, position: int, *, kept: Filter, heartbeat: float) -> AsyncGenerator[Slice, None]:
        log, loop = self.logs[shard], asyncio.get_running_loop()
        spoken = loop.time() - heartbeat
        while True:
            head = self.heads.of(shard)
            if position > head:
                raise CheckpointAhead(shard, position, head)
            events: Sequence[RecordedEvent] = ()
            if position < head:
                events, position = await log.page(
                    after=position, until=head, kept=kept, bounds=self.bounds, limit=self.bounds.events
                )
            if events or loop.time() >= spoken + heartbeat:
                yield Slice(shard, events, position, self.heads.of(shard))
                spoken = loop.time()
            if position == head:
                await self.heads.changed(shard, head, timeout=max(0.0, spoken + heartbeat - loop.time()))

    async def _head(self, shard: int, after: int) -> int:
        head = await self.logs[shard].head()
        self.heads.reached(shard, head)
        if after > head:
            raise CheckpointAhead(shard, after, head)
        return head


async def follow(shard: int, log: ReadableLog, heads: Heads, *, every: float, failed: Callable[[int], None]) -> None:
    """Ask the shard for its head at intervals of `every` seconds, or at once when there is a rumour of a new one, and
    make it known, for ever.

    A shard that cannot be asked is asked again, and `failed` is told.
    """
    while True:
        await heads.rumour(shard, timeout=every)
        before = heads.of(shard)
        try:
            head = await log.head()
        except NotWritten:
            failed(shard)
            continue
        if head < before:
            heads.fell_back(shard, head)
        else:
            heads.reached(shard, head)
