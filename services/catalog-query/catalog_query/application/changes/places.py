"""Where a reader of the feed is: a position in each shard of the log, and the text that stands for it.

A cursor also carries the version of the shard map and a mark of the log itself, so that one from before a reset, or
from another installation, is refused instead of silently leading somewhere. The mark of a shard is its first event's
id, of which there can be no other. A cursor of an earlier shard map stays good: buckets move by being copied, and
positions never change their meaning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from almagest.eventstore.v1 import event_pb2

from catalog_query.application import cursors
from catalog_query.domain.errors import BadCursor, BadPageToken, CursorOfAnotherLog

_QUESTION: Final = b"changes"
_MARK_LENGTH: Final = 8

Vector = Mapping[int, int]
"""Per shard of the log, the position up to which everything has been told."""


@dataclass(frozen=True, slots=True)
class LogState:
    """The log at one moment: the version of its shard map, and the committed head of each shard."""

    epoch: int
    heads: Vector


class FirstEvents(Protocol):
    """The log, as far as its first events go."""

    async def first_event(self, shard: int) -> event_pb2.RecordedEvent | None:
        """The event at position 1 of a shard, None when it has none."""
        ...


class Places:
    """Writes and reads cursors."""

    def __init__(self, log: FirstEvents) -> None:
        self._log = log
        self._marks: dict[int, str] = {}

    async def learn(self, shards: Sequence[int]) -> None:
        """Know the marks of shards that hold events, so that cursors can name them.

        Raises:
            RemoteProblem: the log cannot be asked.
        """
        for shard in shards:
            if shard not in self._marks:
                first = await self._log.first_event(shard)
                if first is not None:
                    self._marks[shard] = first.event_id[:_MARK_LENGTH]

    def knows(self, shard: int) -> bool:
        """Whether the mark of a shard is known."""
        return shard in self._marks

    def cursor(self, vector: Vector, *, epoch: int) -> str:
        """The text for a place."""
        marked = [
            (shard, position, self._marks[shard])
            for shard, position in sorted(vector.items())
            if position and shard in self._marks
        ]
        return cursors.encode([epoch, marked], question=_QUESTION)

    async def vector(self, cursor: str, *, log: LogState) -> Vector:
        """The place that a text stands for.

        Raises:
            BadCursor: it is none of ours.
            CursorOfAnotherLog: it is one of another log, or of this one before it was set back.
            RemoteProblem: the log cannot be asked.
        """
        epoch, places = _decoded(cursor)
        if epoch > log.epoch or any(
            not 0 < position <= log.heads.get(shard, 0) for shard, (position, _) in places.items()
        ):
            raise CursorOfAnotherLog
        await self.learn(list(places))
        if any(self._marks.get(shard) != mark for shard, (_, mark) in places.items()):
            raise CursorOfAnotherLog
        return {shard: position for shard, (position, _) in places.items()}


def _decoded(cursor: str) -> tuple[int, Mapping[int, tuple[int, str]]]:
    try:
        values = cursors.decode(cursor, question=_QUESTION)
    except BadPageToken:
        raise BadCursor from None
    match values:
        case [int(epoch), marked] if isinstance(marked, list):
            places: dict[int, tuple[int, str]] = {}
            for place in cast("list[object]", marked):
                match place:
                    case [int(shard), int(position), str(mark)]:
                        places[shard] = (position, mark)
                    case _:
                        raise BadCursor
            return epoch, places
        case _:
            raise BadCursor
