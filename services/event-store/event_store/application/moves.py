"""Moving buckets to another shard while the log is used.

A move is one straight program: copy, fence, copy the rest, take, tell. Each step is one transaction in one database,
and may be done again by whoever comes next, so a process that dies anywhere is followed by another one that begins anew
and passes over what is done:

1. **copy**: the events of the buckets go to the new shard, in their order, as ordinary events with positions of that
   shard. Nobody reads them there as streams yet, for it does not hold the buckets.
2. **fence**: the old shard takes no more appends for the buckets. Which events are theirs is final from here on.
3. the rest is copied.
4. **take**: the new shard holds the buckets. This one transaction decides.
5. the old shard and the others learn of it.

Between 2 and 4 nobody holds the buckets, and appends wait: that is the pause. A move that cannot go on is given up: the
new shard is told first that it will never take the buckets, and only then does the old one hold them again.

One move is made at a time, by the process that holds its lease. A process that only believes that it does, because it
was stopped meanwhile, can do no harm: every step asks the database that it changes whether the move is still on.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

import structlog
from almagest.eventstore.v1.event_pb2 import RecordedEvent

from event_store.application.append_loop import NotWritten
from event_store.application.pages import PageBounds
from event_store.application.shard_map import Routing
from event_store.domain.errors import MoveUnderWay, UnknownShard

_FOLLOW_SECONDS: Final = 0.1
_SNAPSHOTS: Final = 100
"""How many snapshots are copied at a time."""
_logger = structlog.stdlib.get_logger(__name__)


class Phase(Enum):
    """How far a move is."""

    COPYING = "copying"
    FENCED = "fenced"
    DONE = "done"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        """Whether nothing comes after it."""
        return self in {Phase.DONE, Phase.FAILED}


class Move(NamedTuple):
    """The move of a range of buckets, both ends included. `epoch` is the version of the map that it leads to."""

    move_id: str
    first: int
    last: int
    from_shard: int
    to_shard: int
    epoch: int


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

    async def begin(self, first: int, last: int, *, from_shard: int, to_shard: int, epoch: int) -> Listed:
        """List a new move, which leads to a version of the map after `epoch`.

        Raises:
            MoveUnderWay: Another one is not over.
        """
        ...

    async def under_way(self) -> Listed | None:
        """The move that is not over."""
        ...

    async def get(self, move_id: str) -> Listed:
        """A move that is listed."""
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
    ) -> bool:
        """Go on working on it, and tell how far it is; False when somebody else does."""
        ...

    async def end(self, move: Move, phase: Phase, *, copied: int, total: int, pause: float | None, error: str) -> None:
        """It is over."""
        ...


@dataclass(frozen=True, slots=True)
class MovePace:
    """How a move goes: time in seconds."""

    lease: float = 3.0
    """How long a process that says nothing keeps others from going on with its move."""
    every: float = 1.0
    """How often to look for a move to work on."""
    retry: float = 0.25
    """How long to wait for a shard that could not be asked."""
    patience: float = 60.0
    """How long the new shard may be away before a move that is not fenced is given up."""
    near: int = 100
    """How many positions may be left to look through when the old shard is fenced, if they can be got to so few."""
    far: int = 10_000
    """How many at most, when each round leaves as many as the one before: the copying is no faster than the appends."""
    bounds: PageBounds = field(default_factory=lambda: PageBounds(events=500, bytes=512 * 1024))
    """The most that is copied in one transaction, which keeps appends to the new shard waiting."""


class Ended(Exception):
    """The move has ended in one of its shards, by the hand of another process."""


class LeaseLost(Exception):
    """Another process works on the move."""


@dataclass(slots=True)
class _Work:
    """A move that is being worked on here."""

    move: Move
    phase: Phase = Phase.COPYING
    copied: int = 0
    total: int = 0
    error: str = ""


class Mover:
    """Works on moves in one process."""

    def __init__(
        self,
        shards: Sequence[MovingShard],
        moves: Moves,
        routing: Routing,
        *,
        pace: MovePace | None = None,
        reached: Callable[[Move, str], None] | None = None,
        committed: Callable[[int, int], None] | None = None,
    ) -> None:
        """Move between shards. `reached` is told each step that is done; `committed` each new head of a shard."""
        self._shards = shards
        self._moves = moves
        self._routing = routing
        self._pace = pace or MovePace()
        self._reached = reached
        self._committed = committed
        self._holder = str(uuid.uuid4())
        self._wake = asyncio.Event()

    async def move(self, first: int, last: int, to_shard: int) -> AsyncGenerator[Listed, None]:
        """Move a range of buckets, and tell how far it is, until it is over: the parts of the range that other shards
        hold, one after the other. A move that is under way to there is followed. Nothing is told when all is there.

        Raises:
            UnknownShard: There is no such shard.
            MoveUnderWay: Another move is not over.
        """
        if not 0 <= to_shard < len(self._shards):
            raise UnknownShard(to_shard, len(self._shards))
        while True:
            listed = await self._moves.under_way()
            if listed is None:
                await self._routing.look()
                segments = self._routing.map.segments(first, last)
                elsewhere = [segment for segment in segments if segment[2] != to_shard]
                if not elsewhere:
                    return
                start, end, from_shard = elsewhere[0]
                listed = await self._moves.begin(
                    start, end, from_shard=from_shard, to_shard=to_shard, epoch=self._routing.epoch
                )
                self._wake.set()
            elif not (listed.move.to_shard == to_shard and first <= listed.move.first and listed.move.last <= last):
                raise MoveUnderWay
            async for listed in self._follow(listed):  # noqa: B020 - how far it is, is what is listed
                yield listed
            if listed.phase is Phase.FAILED:
                return

    async def _follow(self, listed: Listed) -> AsyncGenerator[Listed, None]:
        told = None
        while True:
            if listed != told:
                yield listed
                told = listed
            if listed.phase.over:
                return
            await asyncio.sleep(_FOLLOW_SECONDS)
            listed = await self._moves.get(listed.move.move_id)

    async def listed(self, *, before: int | None, limit: int) -> Sequence[Listed]:
        """Moves, latest first."""
        return await self._moves.listed(before=before, limit=limit)

    async def run(self) -> None:
        """Work on whatever move there is that nobody works on, for ever."""
        while True:
            with contextlib.suppress(NotWritten):
                move = await self._moves.claim(self._holder, seconds=self._pace.lease, shards=len(self._shards))
                if move is not None:
                    await self._work(_Work(move))
                    continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.every):
                    await self._wake.wait()
            self._wake.clear()

    async def _work(self, work: _Work) -> None:
        """Go through with a move, however often its shards go away, until it is over or another process has it."""
        renewing = asyncio.create_task(self._renew(work))
        working = asyncio.create_task(self._through(work))
        try:
            await asyncio.wait({renewing, working}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (renewing, working):
                task.cancel()
            results = await asyncio.gather(renewing, working, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError | LeaseLost):
                raise result

    async def _renew(self, work: _Work) -> None:
        while True:
            await asyncio.sleep(self._pace.lease / 4)
            with contextlib.suppress(NotWritten):
                renewed = await self._moves.renew(
                    work.move,
                    self._holder,
                    seconds=self._pace.lease,
                    phase=work.phase,
                    copied=work.copied,
                    total=max(work.total, work.copied),
                    error=work.error,
                )
                if not renewed:
                    raise LeaseLost

    async def _through(self, work: _Work) -> None:
        loop = asyncio.get_running_loop()
        away_since: float | None = None
        failure = ""
        while True:
            try:
                if failure:
                    await self._give_up(work, failure)
                else:
                    await self._steps(work)
            except Ended:
                # By somebody else, who may have died before saying so in the list.
                failure = failure or "It was given up."
            except MoveRefused as error:
                failure = str(error)
            except NotWritten:
                now = loop.time()
                away_since = now if away_since is None else away_since
                work.error = "A shard cannot be used at the moment."
                if now - away_since > self._pace.patience and not failure and await self._abandoned(work):
                    return
                await asyncio.sleep(self._pace.retry)
            except Exception as error:
                # It must not take down a log that works, and would do so again in whatever process comes next.
                _logger.exception("a move failed", move_id=work.move.move_id)
                failure = f"An unexpected error, which the log of the process tells of: {type(error).__name__}."
                await asyncio.sleep(self._pace.retry)
            else:
                return

    async def _steps(self, work: _Work) -> None:
        """All steps, from the first one, however many of them were done before."""
        move = work.move
        source, target = self._shards[move.from_shard], self._shards[move.to_shard]
        arrival = await target.arrival(move)
        pause: float | None = None
        if arrival.closed:
            raise Ended
        if not arrival.taken:
            work.total = await source.events_of(move)
            await self._copy_snapshots(move)
            copied_to = arrival.copied_to
            left = await source.head() - copied_to
            while True:
                copied_to = await self._copy(work, copied_to, copied_to + left, gently=left > self._pace.far)
                before, left = left, await source.head() - copied_to
                if left <= self._pace.near or before <= left <= self._pace.far:
                    break
            self._tell(move, "copied")
            began = asyncio.get_running_loop().time()
            fence = await source.fence(move)
            if fence is None:
                raise Ended
            work.phase = Phase.FENCED
            self._tell(move, "fenced")
            await self._copy(work, copied_to, fence.position, gently=False)
            self._tell(move, "copied the rest")
            if not await target.take(move, fence):
                raise Ended
            pause = fence.seconds + asyncio.get_running_loop().time() - began
            self._tell(move, "taken")
        work.phase = Phase.FENCED
        # What follows only tells: the buckets are where they are. This replica first, for its appends wait.
        await self._routing.look()
        await source.end_departure(move, taken=True)
        await asyncio.gather(*(shard.learn(move.epoch) for shard in self._shards), return_exceptions=True)
        self._tell(move, "told")
        await self._moves.end(
            move, Phase.DONE, copied=work.copied, total=max(work.total, work.copied), pause=pause, error=""
        )
        self._tell(move, "done")

    async def _copy(self, work: _Work, after: int, until: int, *, gently: bool) -> int:
        """Copy up to a position. Gently: leaving the new shard as much time for others as it takes."""
        move, loop = work.move, asyncio.get_running_loop()
        source, target = self._shards[move.from_shard], self._shards[move.to_shard]
        while after < until:
            piece = await source.copied(move, after=after, until=until, bounds=self._pace.bounds)
            began = loop.time()
            head = await target.copy(move, piece)
            if head is None:
                raise Ended
            if self._committed is not None:
                self._committed(move.to_shard, head)
            work.copied += len(piece.events)
            work.error = ""
            after = piece.until
            self._tell(move, "copied a piece")
            if gently:
                await asyncio.sleep(loop.time() - began)
        return after

    async def _copy_snapshots(self, move: Move) -> None:
        """Copy the snapshots as they are now. They are only there to save work: one that is written later is made anew
        when it is missed.
        """
        after = ("", "")
        while True:
            snapshots = await self._shards[move.from_shard].snapshots(move, after=after, limit=_SNAPSHOTS)
            if not snapshots:
                return
            await self._shards[move.to_shard].keep(snapshots)
            after = (snapshots[-1]["stream"], snapshots[-1]["kind"])

    async def _give_up(self, work: _Work, failure: str) -> None:
        """End a move that cannot go on: the new shard will never take the buckets, so the old one may hold them."""
        move = work.move
        if await self._shards[move.to_shard].close_arrival(move):
            # It was taken after all: then it goes on.
            await self._steps(work)
            return
        self._tell(move, "closed")
        await self._shards[move.from_shard].end_departure(move, taken=False)
        self._tell(move, "returned")
        await self._failed(work, failure)

    async def _abandoned(self, work: _Work) -> bool:
        """End a move whose new shard cannot be asked, if it was not fenced: it never will be then, so never taken.
        False when that cannot be.
        """
        with contextlib.suppress(NotWritten):
            if await self._shards[work.move.from_shard].end_departure(work.move, taken=False, only_open=True):
                await self._failed(work, f"Shard {work.move.to_shard} could not be used for too long.")
                return True
        return False

    async def _failed(self, work: _Work, failure: str) -> None:
        await self._moves.end(
            work.move, Phase.FAILED, copied=work.copied, total=max(work.total, work.copied), pause=None, error=failure
        )
        self._tell(work.move, "failed")

    def _tell(self, move: Move, step: str) -> None:
        if self._reached is not None:
            self._reached(move, step)
