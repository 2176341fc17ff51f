"""Verifying: reading a shard from one end to the other, and computing its chain of hashes again.

Each event's hash covers the hash before it and every column of the event, so that a change of any byte, a missing
event, one too many or two in each other's place show at the first position that does not hold. The last hash stands in
the shard's counter, so that events missing at the end show as well. Who can rewrite all that follows, the counter
included, can only be told by a hash that was kept elsewhere: that is why the one at the end is answered.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from event_store.application.derived import Beside, Fault, Tables, Unreadable
from event_store.domain.chain import GENESIS, StoredEvent, hash_of
from event_store.domain.errors import CheckpointAhead, UnknownShard

PAGE: Final = 1000
PAGE_BYTES: Final = 1024 * 1024
HASH_BYTES: Final = 32


class Counter(NamedTuple):
    """What the counter of a shard says of its last event, and the first position after it that there is all the same;
    all at one moment.
    """

    position: int
    hash: bytes
    recorded_at: datetime
    beyond: int | None


class StoredLog(Protocol):
    """The log of one shard with all that is stored of it, archives included."""

    async def counter(self) -> Counter:
        """What its counter says."""
        ...

    async def stored(self, *, after: int, until: int, limit: int, max_bytes: int) -> Sequence[StoredEvent]:
        """The first events after a position, in order: at least one if there is any up to `until`, at most `limit`, and
        no more once they pass `max_bytes`.

        Raises:
            Unreadable: The piece cannot be read for what it is, which no second try changes.
        """
        ...


class Progress(NamedTuple):
    """How far it is: the last position that holds, its hash, and how many rows of other tables were compared."""

    position: int
    until: int
    hash: bytes
    fault: Fault | None = None
    rows: int = 0


async def verify(
    logs: Sequence[StoredLog], shard: int, *, after: int = 0, until: int = 0, tables: Sequence[Tables] = ()
) -> AsyncGenerator[Progress, None]:
    """Check a shard from after a position, which is taken for granted, up to and with another (0: its head). It ends
    with the first fault. A page at a time is held. `tables` are the same shards, whose tables beside the events are
    compared with them; that they tell of nothing else is seen only when the log is checked from 0 to its head.

    Raises:
        UnknownShard: There is no such shard.
        CheckpointAhead: A position is after the head.
    """
    if not 0 <= shard < len(logs):
        raise UnknownShard(shard, len(logs))
    log = logs[shard]
    counter = await log.counter()
    for position in (after, until):
        if position > counter.position:
            raise CheckpointAhead(shard, position, counter.position)
    end = until or counter.position
    beside = Beside(tables, shard, begun=after > 0) if tables else None
    progress = await _begun(log, after, end)
    yield progress
    while progress.fault is None and progress.position < end:
        progress = await _further(log, progress, beside)
        yield progress
    if progress.fault is not None or end != counter.position:
        return
    if fault := _counted(counter, progress.hash):
        yield progress._replace(fault=fault)
    elif beside is not None and not after:
        async for fault in beside.end():
            yield progress._replace(fault=fault, rows=beside.rows)
            if fault is not None:
                return


async def _begun(log: StoredLog, after: int, end: int) -> Progress:
    """Where the check begins: the hash there is taken for granted."""
    if not after:
        return Progress(0, end, GENESIS)
    page = await _page(log, after - 1, after)
    if isinstance(page, Fault):
        return Progress(after - 1, end, b"", page)
    if not page or page[0].position != after or len(page[0].hash) != HASH_BYTES:
        return Progress(after - 1, end, b"", Fault(after, "this event is missing, or has no hash"))
    return Progress(after, end, page[0].hash)


async def _further(log: StoredLog, progress: Progress, beside: Beside | None) -> Progress:
    """A page further."""
    position, end, chain, _, rows = progress
    page = await _page(log, position, end)
    if isinstance(page, Fault):
        return progress._replace(fault=page)
    position, chain, fault = _checked(page, position, chain)
    if fault is None and not page:
        fault = Fault(position + 1, f"this event is missing: the log ends here, and its counter says {end}")
    if beside is not None and fault is None:
        fault = await beside.agree(page)
        rows = beside.rows
    return Progress(position, end, chain, fault, rows)


def _counted(counter: Counter, chain: bytes) -> Fault | None:
    """What is wrong between the counter and the end of the log."""
    if counter.hash != chain:
        return Fault(counter.position, "the counter holds another hash than that of the last event", "head")
    if counter.beyond is not None:
        return Fault(counter.beyond, f"there is an event, and the counter says that the log ends at {counter.position}")
    return None


def _checked(page: Sequence[StoredEvent], position: int, chain: bytes) -> tuple[int, bytes, Fault | None]:
    """How far a page holds, the hash there, and what is wrong after it."""
    for event in page:
        if event.position != position + 1:
            return position, chain, Fault(position + 1, f"this event is missing: {event.position} comes next")
        try:
            computed = hash_of(chain, event)
        except (OverflowError, TypeError, ValueError) as error:
            return position, chain, Fault(event.position, f"a column holds what was never written: {error}")
        if computed != event.hash:
            return (
                position,
                chain,
                Fault(
                    event.position,
                    f"its hash is not that of its content after the event before it (stream {event.stream!r},"
                    f" revision {event.revision}, event {event.event_id})",
                ),
            )
        position, chain = event.position, computed
    return position, chain, None


async def _page(log: StoredLog, after: int, until: int) -> Sequence[StoredEvent] | Fault:
    """The next events, or why the very next one cannot be read."""
    limit = PAGE
    while True:
        try:
            return await log.stored(after=after, until=until, limit=limit, max_bytes=PAGE_BYTES)
        except Unreadable as error:
            if limit == 1:
                return Fault(after + 1, f"it cannot be read: {error}")
            limit = max(1, limit // 8)
