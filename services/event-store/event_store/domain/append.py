"""What an append asks for and what it is answered."""

from collections.abc import Sequence
from dataclasses import dataclass
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


class Append(NamedTuple):
    """Events for the end of one stream, all or none. A tuple, since making a frozen dataclass takes four times as
    long.
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


class Appended(NamedTuple):
    """Where an append's events are; `position` is that of the last one."""

    first_revision: int
    last_revision: int
    position: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """An append as the log remembers it."""

    append_id: str
    stream: str
    fingerprint: bytes
    appended: Appended
