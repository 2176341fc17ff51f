"""The end of the log, followed once for all readers who are there.

What has arrived lately is kept, described and ready to be told, within bounds of number and size. A reader who stands
at or after what is kept takes it from here; one who stands before it, because it has just come or is slow, has to read
the log itself. Nobody is waited for.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from almagest.eventstore.v1 import event_pb2
from chassis.errors import RemoteProblem

from catalog_query.application.changes.describing import Described, Describer
from catalog_query.application.changes.places import Vector
from catalog_query.domain.errors import CursorOfAnotherLog

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0

_logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Events of products of one shard, and how far the shard has been read by them."""

    shard: int
    events: Sequence[event_pb2.RecordedEvent]
    checkpoint: int


class FollowedLog(Protocol):
    """The log, as far as its end goes."""

    def follow(self, after: Vector) -> AsyncGenerator[LogPiece, None]:
        """What is after a place and will be, of all shards, until left; CursorOfAnotherLog when the log ends before
        the place.
        """
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Changes of one shard in order, and how far the shard has been read by them."""

    shard: int
    changes: Sequence[Described]
    checkpoint: int

    @property
    def size(self) -> int:
        """Bytes, about."""
        return sum(change.size for change in self.changes)


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of the end is kept, and for how many seconds it is followed when nobody is there."""

    changes: int = 4_000
    size: int = 8 * 1024 * 1024
    linger: float = 60.0


class Tail:
    """Follows the log while there are readers, and keeps the last pieces by number."""

    def __init__(self, log: FollowedLog, describer: Describer, *, retention: Retention) -> None:
        self._log = log
        self._describer = describer
        self._retention = retention
        self._pieces: OrderedDict[int, Piece] = OrderedDict()
        self._next = 0
        self._changes = self._size = 0
        self._readers = 0
        self._wanted_from: Vector | None = None
        self._wanted = asyncio.Event()
        self._deserted = asyncio.Event()
        self._before: dict[int, int] | None = None
        """The place before the first piece that is kept; None while nothing is followed."""
        self._reached: dict[int, int] = {}
        self._arrived: asyncio.Future[None] | None = None
        self.epoch = 0

    @contextmanager
    def reader(self) -> Generator[None]:
        """Be there."""
        self._readers += 1
        self._deserted.clear()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._deserted.set()

    def want(self, place: Vector, *, epoch: int) -> None:
        """Ask for the log to be followed, from a place on if it is not yet."""
        self.epoch = max(self.epoch, epoch)
        if self._before is None and self._wanted_from is None:
            self._wanted_from = place
            self._before = dict(place)
            self._wanted.set()

    def join(self, place: Vector) -> int | None:
        """The number of the first piece that a reader at a place must look at; None when it has to read the log first,
        or nothing is followed.
        """
        if self._before is None or any(place.get(shard, 0) < position for shard, position in self._before.items()):
            return None
        return next(iter(self._pieces), self._next)

    async def piece(self, number: int, *, timeout: float) -> Piece | None:
        """A piece, None when there is none yet after `timeout` seconds.

        Raises:
            FellBehind: it is not kept any more.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while True:
            found = self._pieces.get(number)
            if found is not None:
                return found
            if self._before is None or number < self._next:
                raise FellBehind
            if self._arrived is None:
                self._arrived = loop.create_future()
            left = until - loop.time()
            if left <= 0:
                return None
            await asyncio.wait({self._arrived}, timeout=left)

    async def run(self) -> None:
        """Follow the log whenever somebody wants to, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._reached = dict(self._wanted_from or {})
            following = asyncio.create_task(self._follow())
            leaving = asyncio.create_task(self._left_alone())
            try:
                await asyncio.wait({following, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    following.result()
            finally:
                following.cancel()
                leaving.cancel()
                await asyncio.gather(following, leaving, return_exceptions=True)
                self._forget()

    async def _left_alone(self) -> None:
        """Return when nobody has been there for a while."""
        while True:
            await self._deserted.wait()
            await asyncio.sleep(self._retention.linger)
            if not self._readers:
                return

    async def _follow(self) -> None:
        """Take what arrives. A log that cannot be reached is tried again; one that was set back ends this, and readers
        find out by themselves.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                async with aclosing(self._log.follow(self._reached)) as pieces:
                    async for piece in pieces:
                        await self._take(piece)
                        pause = _FIRST_PAUSE
            except CursorOfAnotherLog:
                _logger.warning("the log ends before what was read of it: it was set back")
                return
            except RemoteProblem as problem:
                _logger.info("the log cannot be followed at the moment", problem_reason=problem.problem.reason)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _take(self, piece: LogPiece) -> None:
        reached = self._reached.get(piece.shard, 0)
        events = [event for event in piece.events if event.position > reached]
        if events:
            described = await self._describer.describe(events, epoch=self.epoch)
            self._keep(Piece(piece.shard, described, piece.checkpoint))
        self._reached[piece.shard] = max(reached, piece.checkpoint)

    def _keep(self, piece: Piece) -> None:
        self._pieces[self._next] = piece
        self._next += 1
        self._changes += len(piece.changes)
        self._size += piece.size
        while self._pieces and (self._changes > self._retention.changes or self._size > self._retention.size):
            _, oldest = self._pieces.popitem(last=False)
            self._changes -= len(oldest.changes)
            self._size -= oldest.size
            assert self._before is not None  # noqa: S101 - something is followed
            self._before[oldest.shard] = oldest.checkpoint
        self._wake()

    def _forget(self) -> None:
        self._pieces.clear()
        self._changes = self._size = 0
        self._before = self._wanted_from = None
        self._wake()

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None and not arrived.done():
            arrived.set_result(None)


class FellBehind(Exception):
    """The tail does not keep any more what comes next: it has to be read from the log."""
