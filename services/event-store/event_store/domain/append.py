"""What an append asks for and what it is answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple

NO_STREAM: Final = -1
STREAM_EXISTS: Final = -2
ANY: Final = -3
"""Expectations that are not an exact revision. They are part of what `append_batch` in the database takes."""

MAXIMUM_REVISION: Final = 2**63 - 1
"""The greatest revision or position that the log can hold."""


class NewEvent(NamedTuple):
    """An event to be written; `metadata` is a serialized `EventMetadata`, already completed by what the store itself
    knows of the writer.
    """

    event_id: str
    type: str
    payload: bytes
    metadata: bytes


class Part(NamedTuple):
    """What an append expects of a further stream, and the events for its end; none: the expectation is only checked."""

    stream: str
    category: str
    bucket: int
    expected: int
    events: Sequence[NewEvent]


class Setting(NamedTuple):
    """What holds for a stream from now on: how many of its latest events are answered, and how young they must be, and
    whether it has ended. None: no bound.
    """

    stream: str
    category: str
    bucket: int
    max_count: int | None
    max_age: timedelta | None
    tombstoned: bool


class Append(NamedTuple):
    """Events for the end of one stream, or of several of one shard: all or none. A tuple, since making a frozen
    dataclass takes four times as long.
    """

    append_id: str
    """A UUID in its canonical form."""
    stream: str
    category: str
    bucket: int
    expected: int
    """An exact revision, or `NO_STREAM`, `STREAM_EXISTS` or `ANY`."""
    fingerprint: bytes
    events: Sequence[NewEvent]
    size: int
    """Roughly how many bytes it has, for the bounds of batches and of the queue."""
    traceparent: str = ""
    also: Sequence[Part] = ()
    """The further streams, none of them named twice."""
    setting: Setting | None = None
    """The metadata that its event sets."""


class StreamAppended(NamedTuple):
    """Where the events of a further stream are."""

    stream: str
    first_revision: int
    last_revision: int


class Appended(NamedTuple):
    """Where an append's events are; `position` is that of the last one."""

    first_revision: int
    last_revision: int
    position: int
    replayed: bool = False
    also: Sequence[StreamAppended] = ()
    """The further streams that were written to."""


@dataclass(frozen=True, slots=True)
class Committed:
    """An append as the log remembers it."""

    append_id: str
    stream: str
    fingerprint: bytes
    appended: Appended
