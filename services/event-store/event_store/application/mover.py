"""Moving buckets to another shard while the log is used.

A move is one straight program: copy, then slice by slice fence, copy the rest, take, tell. Each step is one transaction
in one database, and may be done again by whoever comes next, so a process that dies anywhere is followed by another one
that begins anew and passes over what is done:

1. **copy**: the events of the buckets go to the new shard, in their order, as ordinary events with positions of that
   shard. Nobody reads them there as streams yet, for it does not hold the buckets.
2. **fence**: the old shard takes no more appends for the buckets of a slice. Which events are theirs is final now.
3. the rest of the slice is copied.
4. **take**: the new shard holds the slice. This one transaction decides.
5. the old shard and the others learn of it; then comes the next slice, after what was written meanwhile was copied.

Between 2 and 4 nobody holds the buckets of the slice, and appends to them wait: that is the pause. It is no longer for
a long range than for a short one. A move that cannot go on, or that an operator cancels, is given up: of each slice
that was not taken the new shard is told first that it never will take it, and only then does the old one hold it again.

One move is made at a time, by the process that holds its lease. A process that only believes that it does, because it
was stopped meanwhile, can do no harm: every step asks the database that it changes whether the move is still on.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from event_store.application.append_loop import NotWritten
from event_store.application.moves import Listed, Move, MoveRefused, Moves, MovingShard, Phase, Standing
from event_store.application.pages import PageBounds
from event_store.application.shard_map import Routing
from event_store.domain.errors import MoveOver, MoveUnderWay, UnknownMove, UnknownShard

_FOLLOW_SECONDS: Final = 0.1
_SNAPSHOTS: Final = 100
"""How many snapshots are copied at a time."""
_CANCELLED: Final = "An operator cancelled it."
_logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MovePace:
    """How a move goes: time in seconds."""

    lease: float = 3.0
    """How long a process that says nothing keeps others from going on with its move."""
    renewal: float = 0.75
    """How often it says so, and sees whether the move is still wanted."""
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
    slice_buckets: int = 32
    """How many buckets are switched together: each switch takes some round trips, and each bucket pauses for one."""
    bounds: PageBounds = field(default_factory=lambda: PageBounds(events=500, bytes=512 * 1024))
    """The most that is copied in one transaction, which keeps appends to the new shard waiting."""


class Ended(Exception):
    """The move has ended in one of its shards, by the hand of another process."""


class LeaseLost(Exception):
    """Another process works on the move."""


class Cancelled(Exception):
    """An operator wants the move to end where it is."""


@dataclass(slots=True)
class _Work:
    """A move that is being worked on here."""

    move: Move
    phase: Phase = Phase.COPYING
    copied: int = 0
    total: int = 0
    error: str = ""
    cancelled: bool = False
    seen: tuple[Phase, int] | None = None
    """How far it was when that was last looked at."""


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
        advanced: Callable[[bool], None] | None = None,
    ) -> None:
        """Move between shards. `reached` is told each step that is done; `committed` each new head of a shard;
        `advanced` True when the move that is worked on here got further, and False when there is none any more.
        """
        self._shards = shards
        self._moves = moves
        self._routing = routing
        self._pace = pace or MovePace()
        self._reached = reached
        self._committed = committed
        self._advanced: Callable[[bool], None] = advanced or (lambda _working: None)
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
                    start,
                    end,
                    from_shard=from_shard,
                    to_shard=to_shard,
                    epoch=self._routing.epoch,
                    slice_buckets=self._pace.slice_buckets,
                )
                self._wake.set()
            elif not (listed.move.to_shard == to_shard and first <= listed.move.first and listed.move.last <= last):
                raise MoveUnderWay
            async for listed in self._follow(listed):  # noqa: B020 - how far it is, is what is listed
                yield listed
            if listed.phase is not Phase.DONE:
                return

    async def cancel(self, move_id: str) -> Listed:
        """End a move where it is (empty: the one under way), and answer how it ended once it has.

        Raises:
            UnknownMove: There is no such move, or none that is under way.
            MoveOver: It has ended.
        """
        listed = await self._moves.get(move_id) if move_id else await self._moves.under_way()
        if listed is None:
            raise UnknownMove(move_id)
        if listed.phase.over:
            raise MoveOver(listed.phase.value)
        await self._moves.cancel(listed.move)
        self._wake.set()
        return [told async for told in self._follow(listed)][-1]

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
        self._advanced(True)
        renewing = asyncio.create_task(self._renew(work))
        working = asyncio.create_task(self._through(work))
        try:
            await asyncio.wait({renewing, working}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (renewing, working):
                task.cancel()
            results = await asyncio.gather(renewing, working, return_exceptions=True)
            self._advanced(False)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError | LeaseLost):
                raise result

    async def _renew(self, work: _Work) -> None:
        while True:
            await asyncio.sleep(self._pace.renewal)
            with contextlib.suppress(NotWritten):
                await self._stand(work)

    async def _stand(self, work: _Work) -> None:
        """Go on having the right to work, and see whether the move is still wanted."""
        if work.seen != (work.phase, work.copied):
            work.seen = (work.phase, work.copied)
            self._advanced(True)
        standing = await self._moves.renew(
            work.move,
            self._holder,
            seconds=self._pace.lease,
            phase=work.phase,
            copied=work.copied,
            total=max(work.total, work.copied),
            error=work.error,
        )
        if standing is Standing.REPLACED:
            raise LeaseLost
        work.cancelled = standing is Standing.CANCELLED

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
            except Cancelled:
                failure = _CANCELLED
            except Ended:
                # By somebody else, who may have died before saying so in the list.
                failure = failure or "It was given up."
            except MoveRefused as error:
                failure = str(error)
            except NotWritten:
                now = loop.time()
                away_since = now if away_since is None else away_since
                if await self._away(work, failure, now - away_since):
                    return
            except Exception as error:
                # It must not take down a log that works, and would do so again in whatever process comes next.
                _logger.exception("a move failed", move_id=work.move.move_id)
                failure = f"An unexpected error, which the log of the process tells of: {type(error).__name__}."
                await asyncio.sleep(self._pace.retry)
            else:
                return

    async def _away(self, work: _Work, failure: str, seconds: float) -> bool:
        """A shard has been away for so long; whether the move is over for it."""
        work.error = "A shard cannot be used at the moment."
        if seconds > (0 if work.cancelled else self._pace.patience):
            failure = failure or (
                _CANCELLED if work.cancelled else f"Shard {work.move.to_shard} could not be used for too long."
            )
            if await self._abandoned(work, failure):
                return True
        await asyncio.sleep(self._pace.retry)
        return False

    async def _steps(self, work: _Work) -> None:
        """All steps, from the first one, however many of them were done before."""
        move = work.move
        source, target = self._shards[move.from_shard], self._shards[move.to_shard]
        arrival = await target.arrival(move)
        left = [piece for piece in move.slices if not (await target.arrival(piece)).taken]
        if left:
            if arrival.closed:
                raise Ended
            work.total = await source.events_of(move)
            await self._copy_snapshots(move._replace(first=left[0].first))
        copied_to = arrival.copied_to
        for piece in move.slices:
            pause: float | None = None
            if piece in left:
                copied_to = await self._catch_up(work, move._replace(first=piece.first), copied_to)
                self._tell(piece, "copied")
                await self._stand(work)
                if work.cancelled:
                    raise Cancelled
                pause = await self._switch(work, piece)
            await self._told(work, piece, pause)
        # Under the id of the move itself nothing more may come: what a late process still copies is refused.
        await target.close_arrival(move)
        await self._end(work, Phase.DONE, "")

    async def _catch_up(self, work: _Work, rest: Move, copied_to: int) -> int:
        """Copy what is there of the slices that are not switched, until little is left; answers up to where."""
        source = self._shards[rest.from_shard]
        left = await source.head() - copied_to
        while True:
            gently = left > self._pace.far
            copied_to = await self._copy(work, rest, copied_to, copied_to + left, gently=gently)
            before, left = left, await source.head() - copied_to
            if left <= self._pace.near or before <= left <= self._pace.far:
                return copied_to

    async def _switch(self, work: _Work, piece: Move) -> float:
        """Have the new shard hold a slice; answers for how long nobody did."""
        source, target = self._shards[piece.from_shard], self._shards[piece.to_shard]
        arrival = await target.slice_arrival(piece, work.move)
        if arrival.closed:
            raise Ended
        began = asyncio.get_running_loop().time()
        fence = await source.fence(piece)
        if fence is None:
            raise Ended
        work.phase = Phase.FENCED
        self._tell(piece, "fenced")
        await self._copy(work, piece, arrival.copied_to, fence.position, gently=False)
        self._tell(piece, "copied the rest")
        if not await target.take(piece, fence):
            raise Ended
        pause = fence.seconds + asyncio.get_running_loop().time() - began
        self._tell(piece, "taken")
        return pause

    async def _told(self, work: _Work, piece: Move, pause: float | None) -> None:
        """What comes after a slice was taken only tells: the buckets are where they are."""
        # This replica first, for its appends wait.
        await self._routing.look()
        await self._shards[piece.from_shard].end_departure(piece, taken=True)
        await asyncio.gather(*(shard.learn(piece.epoch) for shard in self._shards), return_exceptions=True)
        await self._moves.switched(work.move, piece, pause)
        work.phase = Phase.COPYING
        self._tell(piece, "told")

    async def _copy(self, work: _Work, move: Move, after: int, until: int, *, gently: bool) -> int:
        """Copy up to a position. Gently: leaving the new shard as much time for others as it takes."""
        loop = asyncio.get_running_loop()
        source, target = self._shards[move.from_shard], self._shards[move.to_shard]
        while after < until:
            if work.cancelled:
                raise Cancelled
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
        """End a move that cannot go on: the new shard will never take the slices that it has not, so the old one may
        hold them.
        """
        move = work.move
        source, target = self._shards[move.from_shard], self._shards[move.to_shard]
        await target.close_arrival(move)
        returned = 0
        for piece in move.slices:
            if await target.close_arrival(piece):
                await self._told(work, piece, None)
                continue
            self._tell(piece, "closed")
            await source.end_departure(piece, taken=False)
            self._tell(piece, "returned")
            returned += 1
        if returned:
            await self._failed(work, failure)
        else:
            # All of it was taken after all.
            await self._end(work, Phase.DONE, "")

    async def _abandoned(self, work: _Work, failure: str) -> bool:
        """End a move whose new shard cannot be asked, if no slice is fenced: none ever will be then, so none taken.
        False when that cannot be.
        """
        source = self._shards[work.move.from_shard]
        with contextlib.suppress(NotWritten):
            # In order: whatever is fenced comes before all that is not.
            for piece in work.move.slices:
                if not await source.end_departure(piece, taken=False, only_open=True):
                    return False
            await self._failed(work, failure)
            return True
        return False

    async def _failed(self, work: _Work, failure: str) -> None:
        await self._end(work, Phase.CANCELLED if failure == _CANCELLED else Phase.FAILED, failure)

    async def _end(self, work: _Work, phase: Phase, error: str) -> None:
        total = max(work.total, work.copied)
        await self._moves.end(work.move, phase, copied=work.copied, total=total, error=error)
        self._tell(work.move, phase.value)

    def _tell(self, move: Move, step: str) -> None:
        if self._reached is not None:
            self._reached(move, step)
