"""What is read of a log: events in pages that are bounded in number and in bytes, and the port that gives them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from almagest.eventstore.v1.event_pb2 import RecordedEvent

from event_store.domain.append import Committed


@dataclass(frozen=True, slots=True)
class Filter:
    """Keeps the events for which every set condition holds; an empty one holds for all."""

    categories: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    buckets: tuple[int, ...] = ()

    def sieve(self) -> "Callable[[Stored], bool] | None":
        """The filter as a function; None when it keeps everything."""
        if not (self.categories or self.types or self.buckets):
            return None
        categories, types, buckets = frozenset(self.categories), frozenset(self.types), frozenset(self.buckets)

        def keeps(event: Stored) -> bool:
            return (
                (not categories or event.category in categories)
                and (not types or event.type in types)
                and (not buckets or event.bucket in buckets)
            )

        return keeps


class Original(NamedTuple):
    """Where an event was first written, when it is a copy."""

    shard: int
    position: int


class Stored(NamedTuple):
    """An event on its way from the log to its readers: what they choose by, and its form on the wire, which is made
    once for all of them.
    """

    position: int
    category: str
    type: str
    bucket: int
    original: Original | None
    encoded: bytes
    """A `RecordedEvent` as an entry of the first field of the answer: such entries, one after the other, are an answer.
    """


class Page(NamedTuple):
    """Events in order, and how far the shard has been read by it: events that the filter left out are read as well."""

    events: Sequence[Stored]
    checkpoint: int


class Newest(NamedTuple):
    """The events after a position, and the head, at one moment."""

    head: int
    events: Sequence[Stored]


class StreamPage(NamedTuple):
    """Events of a stream in the order asked for, and whether there may be more."""

    events: Sequence[RecordedEvent]
    more: bool


class StreamRange(NamedTuple):
    """A stream from a revision on, or from after a snapshot of a kind (empty: none) when there is one that is later."""

    stream: str
    from_revision: int
    snapshot_kind: str = ""


class Snapshot(NamedTuple):
    """The state that a stream was folded into, up to a revision."""

    kind: str
    revision: int
    payload: bytes
    recorded_at: datetime


class NewSnapshot(NamedTuple):
    """A snapshot to be kept."""

    stream: str
    kind: str
    revision: int
    payload: bytes


class StreamExtent(NamedTuple):
    """What there is of a stream to read, by its metadata: the first revision that is answered, the last one, and until
    when an event may have been recorded to be too old (None: no matter when). Of one that ended before it began, only
    that counts.
    """

    first_revision: int
    last_revision: int
    too_old: datetime | None
    ended: bool


class StreamContent(NamedTuple):
    """A stream as it was read: its last revision is None when it does not exist. `first_revision` is the first one that
    is to be answered.
    """

    events: Sequence[RecordedEvent]
    last_revision: int | None
    first_revision: int = 0
    snapshot: Snapshot | None = None
    ended: bool = False
    too_old: datetime | None = None


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

    async def newest(self, *, after: int, bounds: PageBounds) -> Newest:
        """The events after a position, whatever they are, and the head."""
        ...

    async def page(self, *, after: int, until: int, kept: Filter, bounds: PageBounds, limit: int) -> Page:
        """The events after a position, up to and with another."""
        ...

    async def stream_extent(self, stream: str) -> StreamExtent | None:
        """What there is of a stream to read; None when it does not exist."""
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

    async def put_snapshots(self, snapshots: Sequence[NewSnapshot]) -> Collection[int]:
        """Keep snapshots that are later than those kept of their streams and kinds. Answers which, counted from 0, are
        of a revision that their stream does not have.
        """
        ...

    async def committed(self, append_id: str, stream: str) -> Committed | None:
        """What was answered to an append."""
        ...
