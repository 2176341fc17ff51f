"""Reading: one stream, many short streams, all of the log, and what is still to come.

Everything is read in pages that are bounded in events and in bytes, and a page is asked for only when the one before
has been taken, so a slow reader costs a page per shard and no more.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime

from almagest.eventstore.v1.event_pb2 import RecordedEvent

from event_store.application.heads import Heads
from event_store.application.pages import Filter, PageBounds, ReadableLog, StreamContent, StreamRange
from event_store.application.subscriptions import Slice, read_all, subscribe
from event_store.application.tails import Tail
from event_store.domain.errors import CheckpointAhead, ReadTooLarge, StreamTombstoned, UnknownShard


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads over all shards."""

    logs: Sequence[ReadableLog]
    heads: Heads
    tails: Sequence[Tail]
    bounds: PageBounds = field(default_factory=PageBounds)

    async def stream(  # noqa: C901 - two directions, two bounds
        self, shard: int, stream: str, *, from_revision: int | None, backwards: bool, limit: int
    ) -> AsyncGenerator[StreamContent, None]:
        """One stream as it was when the read began, page by page, as far as its metadata leave it. `limit` 0: all.

        Raises:
            StreamTombstoned: It has ended.
        """
        log = self.logs[shard]
        extent = await log.stream_extent(stream)
        if extent is None:
            yield StreamContent((), None)
            return
        if extent.ended:
            raise StreamTombstoned(stream)
        first, end = extent.first_revision, extent.last_revision
        last = end
        if backwards:
            last = min(end, end if from_revision is None else from_revision)
        else:
            first = max(first, from_revision or 0)
        if limit:
            first, last = (max(first, last - limit + 1), last) if backwards else (first, min(last, first + limit - 1))
        sent = False
        while first <= last:
            page = await log.stream_page(stream, first=first, last=last, backwards=backwards, bounds=self.bounds)
            if not page.events:
                break
            if backwards:
                last = page.events[-1].revision - 1
            else:
                first = page.events[-1].revision + 1
            events = _young(page.events, extent.too_old)
            if events:
                yield StreamContent(events, end)
                sent = True
            if not page.more or (backwards and len(events) < len(page.events)):
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
        complete = [
            content._replace(events=_young(content.events, content.too_old)) for content in found if content is not None
        ]
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
        ends = {shard: await self._head(shard, after.get(shard, 0)) for shard in self.chosen(shards, after)}
        async for piece in read_all(self.logs, ends, after, kept=kept, bounds=self.bounds, limit=limit):
            yield piece

    async def subscribe(
        self, after: Mapping[int, int], *, kept: Filter, shards: Sequence[int], heartbeat: float
    ) -> AsyncGenerator[Slice, None]:
        """Every event after a vector of positions, and those to come, without end.

        Raises:
            CheckpointAhead: A position is after its shard's head, now or later, when the log was restored in between.
        """
        chosen = self.chosen(shards, after)
        for shard in chosen:
            await self._head(shard, after.get(shard, 0))
        tails = {shard: self.tails[shard] for shard in chosen}
        async with aclosing(subscribe(tails, self.heads, after, kept=kept, heartbeat=heartbeat)) as slices:
            async for piece in slices:
                yield piece

    async def _head(self, shard: int, after: int) -> int:
        head = await self.logs[shard].head()
        self.heads.reached(shard, head)
        if after > head:
            raise CheckpointAhead(shard, after, head)
        return head


def _young(events: Sequence[RecordedEvent], too_old: datetime | None) -> Sequence[RecordedEvent]:
    """The events that are not too old to be answered."""
    if too_old is None:
        return events
    seconds, nanos = int(too_old.timestamp()), too_old.microsecond * 1000
    return [e for e in events if (e.recorded_at.seconds, e.recorded_at.nanos) > (seconds, nanos)]
