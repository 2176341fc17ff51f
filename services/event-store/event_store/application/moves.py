"""Moves of buckets to another shard: what they are, and what they need of shards and of their list. How one is made is
told in mover.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid5

from almagest.eventstore.v1.event_pb2 import RecordedEvent
from chassis.buckets import BUCKETS

from event_store.application.pages import PageBounds


class Phase(Enum):
    """How far a move is."""

    COPYING = "copying"
    FENCED = "fenced"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing comes after it."""
        return self in {Phase.DONE, Phase.FAILED, Phase.CANCELLED}


class Move(NamedTuple):
    """The move of a range of buckets, both ends included. `epoch` is the version of the map that it leads to, and
    `slice_buckets` how many buckets are switched together.
    """

    move_id: str
    first: int
    last: int
    from_shard: int
    to_shard: int
    epoch: int
    slice_buckets: int = BUCKETS

    @property
    def slices(self) -> "Sequence[Move]":
        """The moves that it is made of, one after the other, each with a version of the map of its own. One that is
        made at once is its own slice.
        """
        starts = range(self.first, self.last + 1, self.slice_buckets)
        if len(starts) == 1:
            return [self]
        return [
            self._replace(
                move_id=str(uuid5(UUID(self.move_id), str(start))),
                first=start,
                last=min(self.last, start + self.slice_buckets - 1),
                epoch=self.epoch - len(starts) + number,
            )
            for number, start in enumerate(starts, 1)
        ]


class Switched(NamedTuple):
    """A slice that the new shard holds, since when, and how long nobody did (None: nobody lived to tell)."""

    first: int
    last: int
    pause: timedelta | None
    epoch: int
    switched_at: datetime


@dataclass(frozen=True, slots=True)
class Listed:
    """A move as it is listed, and how far it is."""

    number: int
    move: Move
    phase: Phase
    copied_events: int
    total_events: int
    pause: timedelta | None
    began_at: datetime
    ended_at: datetime | None
    error: str
    slices: Sequence[Switched] = ()


class Arrival(NamedTuple):
    """How far a move is in the shard that the buckets come to."""

    copied_to: int
    taken: bool
    closed: bool


class Fence(NamedTuple):
    """The last position and the time of the old shard when it was fenced, `seconds` ago."""

    position: int
    recorded_at: datetime
    seconds: float


class Copied(NamedTuple):
    """What buckets wrote in a shard after one position up to another, and what goes with it."""

    shard: int
    after: int
    until: int
    events: Sequence[RecordedEvent]
    appends: Sequence[Mapping[str, Any]]
    settings: Sequence[Mapping[str, Any]]


class Standing(Enum):
    """How a process stands to a move that it works on."""

    WORKING = "working"
    CANCELLED = "cancelled"
    REPLACED = "replaced"


class MoveRefused(Exception):
    """A database says that a step of a move cannot be done, now or later."""


class MovingShard(Protocol):
    """One shard, as a move needs it. Every method raises `NotWritten` when it is to be done again, and `MoveRefused`
    when that would not help.
    """

    async def head(self) -> int:
        """The last committed position."""
        ...

    async def events_of(self, move: Move) -> int:
        """How many events there are of its buckets."""
        ...

    async def copied(self, move: Move, *, after: int, until: int, bounds: PageBounds) -> Copied:
        """The next piece of what it copies from here."""
        ...

    async def snapshots(self, move: Move, *, after: tuple[str, str], limit: int) -> Sequence[Mapping[str, Any]]:
        """The next snapshots of its streams, by stream and kind."""
        ...

    async def keep(self, snapshots: Sequence[Mapping[str, Any]]) -> None:
        """Keep snapshots, where there are no later ones."""
        ...

    async def arrival(self, move: Move) -> Arrival:
        """How far a move to here is, which begins with this."""
        ...

    async def slice_arrival(self, piece: Move, move: Move) -> Arrival:
        """How far a slice of a move to here is: at least as far as the move."""
        ...

    async def copy(self, move: Move, copied: Copied) -> int | None:
        """Write a piece; answers the head that this left, None when the move has ended here."""
        ...

    async def fence(self, move: Move) -> Fence | None:
        """Take no more appends for its buckets; None when the move has ended here."""
        ...

    async def take(self, move: Move, fence: Fence) -> bool:
        """Hold its buckets; False when it was given up."""
        ...

    async def close_arrival(self, move: Move) -> bool:
        """See to it that its buckets are never taken here; answers whether they were."""
        ...

    async def end_departure(self, move: Move, *, taken: bool, only_open: bool = False) -> bool:
        """End it in the shard that its buckets come from, which holds them again if they were not taken. False when it
        was fenced and should be ended only if it was not.
        """
        ...

    async def learn(self, epoch: int) -> None:
        """Take note of a version of the map."""
        ...


class Moves(Protocol):
    """The list of moves. Every method raises `NotWritten` when it cannot be asked."""

    async def begin(
        self, first: int, last: int, *, from_shard: int, to_shard: int, epoch: int, slice_buckets: int
    ) -> Listed:
        """List a new move, whose slices lead to versions of the map after `epoch`.

        Raises:
            MoveUnderWay: Another one is not over.
        """
        ...

    async def under_way(self) -> Listed | None:
        """The move that is not over."""
        ...

    async def get(self, move_id: str) -> Listed:
        """A move that is listed.

        Raises:
            UnknownMove: There is none with this id.
        """
        ...

    async def listed(self, *, before: int | None, limit: int) -> Sequence[Listed]:
        """Moves, latest first, from before a number on."""
        ...

    async def claim(self, holder: str, *, seconds: float, shards: int) -> Move | None:
        """The right to work for some seconds on the move that is not over, if it is between shards below a number and
        nobody else has it.
        """
        ...

    async def renew(
        self, move: Move, holder: str, *, seconds: float, phase: Phase, copied: int, total: int, error: str
    ) -> Standing:
        """Go on working on it, and tell how far it is."""
        ...

    async def switched(self, move: Move, piece: Move, pause: float | None) -> None:
        """The new shard holds a slice of it."""
        ...

    async def cancel(self, move: Move) -> None:
        """It is to be ended where it is."""
        ...

    async def end(self, move: Move, phase: Phase, *, copied: int, total: int, error: str) -> None:
        """It is over."""
        ...
