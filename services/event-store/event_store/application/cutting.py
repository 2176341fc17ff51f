"""Cutting a log off after a position: only of a copy that is being restored from a backup, to come back to an earlier
state. The log that is served never loses an event.

Shards are cut each at a position of its own, or all at a time. What two shards have of each other are moves of
buckets, so no shard is cut back to before a move that it had a part in: what is then where would have to be undone on
both sides. A backup from before the move has that state.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from event_store.application.verify import StoredLog
from event_store.domain.chain import GENESIS

_BEGINNING = datetime.min.replace(tzinfo=UTC)


class CannotCut(Exception):
    """A log cannot be cut there; it says why, to an operator. Nothing was changed."""


class Cut(NamedTuple):
    """Up to where a shard is kept, and the hash of the last event there."""

    shard: int
    position: int
    hash: bytes


class Move(NamedTuple):
    """A move of buckets, and when it ended; None: it has not."""

    first_bucket: int
    last_bucket: int
    from_shard: int
    to_shard: int
    ended_at: datetime | None


class CuttableLog(StoredLog, Protocol):
    """One shard, as its owner."""

    async def restoring(self) -> bool:
        """Whether a backup is being restored into it."""
        ...

    async def archived(self) -> int:
        """The last position that is in a file; 0 for none."""
        ...

    async def position_at(self, time: datetime) -> int:
        """The last event that was written here until a time, among those that are not in files; 0 for none."""
        ...

    async def end_of_append(self, position: int) -> int:
        """The last position at or before this one with which an append ends; 0 for none."""
        ...

    async def moves(self) -> Sequence[Move]:
        """All moves of buckets; of shard 0."""
        ...

    async def cut(self, cut: Cut) -> int:
        """Take away what comes after the cut, and what the tables beside the events say of it. Answers how many events
        that were.
        """
        ...


async def plan(
    logs: Sequence[CuttableLog], *, positions: Mapping[int, int], time: datetime | None = None
) -> Sequence[Cut]:
    """Where the shards are to be cut: at the positions, and those without one at the time, if there is one. One that
    ends there anyway is left out.

    Raises:
        CannotCut: One of them cannot be cut there.
    """
    unknown = [shard for shard in positions if shard >= len(logs)]
    if unknown:
        raise CannotCut(f"there is no shard {unknown[0]}; there are {len(logs)}, numbered from 0")
    cuts: list[Cut] = []
    moments: dict[int, datetime] = {}
    for shard, log in enumerate(logs):
        head = (await log.counter()).position
        position = positions.get(shard)
        if position is None:
            position = head if time is None else max(await log.position_at(time), await log.archived())
        if position > head:
            raise CannotCut(f"shard {shard} ends at position {head}, which is before {position}")
        if position == head:
            continue
        cut, moment = await _checked(log, shard, position)
        if time is not None and shard not in positions and moment > time:
            raise CannotCut(
                f"shard {shard} has events in files up to position {position}, of {moment}, after that time"
            )
        cuts.append(cut)
        moments[shard] = moment
    for move in await logs[0].moves():
        for shard in (move.from_shard, move.to_shard):
            if shard in moments and (move.ended_at is None or move.ended_at > moments[shard]):
                raise CannotCut(
                    f"buckets {move.first_bucket}-{move.last_bucket} were moved from shard {move.from_shard} to"
                    f" {move.to_shard} after the event that shard {shard} is to end with; restore a backup from before"
                )
    return cuts


async def _checked(log: CuttableLog, shard: int, position: int) -> tuple[Cut, datetime]:
    if not await log.restoring():
        raise CannotCut(f"no backup is being restored into shard {shard}, and a log that is served is never cut")
    archived = await log.archived()
    if position < archived:
        raise CannotCut(f"position {position} of shard {shard} is in a file, which holds those up to {archived}")
    end = await log.end_of_append(position)
    if end != position:
        raise CannotCut(
            f"position {position} of shard {shard} is in the middle of an append; the last whole one ends at {end}"
        )
    if not position:
        return Cut(shard, 0, GENESIS), _BEGINNING
    event = (await log.stored(after=position - 1, until=position, limit=1, max_bytes=1))[0]
    return Cut(shard, position, event.hash), event.recorded_at
