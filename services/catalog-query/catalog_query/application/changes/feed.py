"""One reader's way through the log: behind, page by page; then at the end, with all the others."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from almagest.catalog.v1 import changes_pb2
from chassis.errors import RemoteProblem

from catalog_query.application.changes.describing import Describer, Interest, Streams
from catalog_query.application.changes.places import FirstEvents, LogState, Places, Vector
from catalog_query.application.changes.tail import FellBehind, FollowedLog, LogPiece, Piece, Retention, Tail

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_MESSAGE_BYTES: Final = 256 * 1024

_logger = structlog.stdlib.get_logger(__name__)


class ChangeLog(Streams, FirstEvents, FollowedLog, Protocol):
    """The log, as the feed needs it. Every method raises RemoteProblem when it cannot be asked."""

    async def state(self) -> LogState:
        """Its shard map and its heads."""
        ...

    def recorded(self, after: Vector, *, types: frozenset[str]) -> AsyncGenerator[LogPiece, None]:
        """What there is after a place, of all shards, at least one piece of each; CursorOfAnotherLog when the log ends
        before the place. Types are short names; none: all.
        """
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """A message to a reader: changes, each with the cursor after it, and the cursor after all that was looked at."""

    changes: Sequence[tuple[str, changes_pb2.CatalogChange]]
    cursor: str


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """How much the feeds may use."""

    cached_products: int = 10_000
    """That the tail remembers."""
    cached_products_behind: int = 500
    """That each reader who is behind remembers."""
    retention: Retention = field(default_factory=Retention)


class ChangeFeeds:
    """All feeds of this process."""

    def __init__(self, log: ChangeLog, limits: FeedLimits) -> None:
        self._log = log
        self._limits = limits
        self._tail = Tail(log, Describer(log, capacity=limits.cached_products), retention=limits.retention)
        self._places = Places(log)

    async def run(self) -> None:
        """Follow the log for the readers, for ever."""
        await self._tail.run()

    async def now(self) -> tuple[Vector, LogState]:
        """The place after all that is recorded."""
        log = await self._log.state()
        return log.heads, log

    async def start(self) -> tuple[Vector, LogState]:
        """The place before all that is recorded."""
        return {}, await self._log.state()

    async def after(self, cursor: str) -> tuple[Vector, LogState]:
        """The place that a cursor stands for.

        Raises:
            BadCursor, CursorOfAnotherLog: see `Places.vector`.
        """
        log = await self._log.state()
        return await self._places.vector(cursor, log=log), log

    async def changes(
        self, place: Vector, log: LogState, *, interest: Interest, heartbeat: float, only_recorded: bool
    ) -> AsyncGenerator[Told, None]:
        """The wanted changes after a place, without end unless only those are asked for that are recorded already. The
        first message comes at once. After `heartbeat` seconds without a change a message tells only the cursor.

        Raises:
            CursorOfAnotherLog: the log was set back to before the place.
        """
        reader = _Reader(place, log, self._places, interest, heartbeat)
        yield await reader.here()
        with self._tail.reader():
            pause = _FIRST_PAUSE
            while True:
                number = None if only_recorded else self._tail.join(reader.place)
                try:
                    if number is None:
                        async with aclosing(self._recorded(reader)) as messages:
                            async for told in messages:
                                yield told
                                pause = _FIRST_PAUSE
                        if only_recorded:
                            yield await reader.here()
                            return
                        self._tail.want(reader.place, epoch=log.epoch)
                    else:
                        async with aclosing(self._at_the_end(reader, number)) as messages:
                            async for told in messages:
                                yield told
                                pause = _FIRST_PAUSE
                except FellBehind:
                    continue
                except RemoteProblem as problem:
                    _logger.info("the log cannot be read at the moment", problem_reason=problem.problem.reason)
                    async for told in reader.idle(pause):
                        yield told
                    pause = min(pause * 2, _LONGEST_PAUSE)

    async def _recorded(self, reader: "_Reader") -> AsyncGenerator[Told, None]:
        describer = Describer(self._log, capacity=self._limits.cached_products_behind)
        async with aclosing(self._log.recorded(reader.place, types=reader.interest.types)) as pieces:
            async for found in pieces:
                described = await describer.describe(found.events, epoch=reader.log.epoch)
                async for told in reader.take(Piece(found.shard, described, found.checkpoint)):
                    yield told

    async def _at_the_end(self, reader: "_Reader", number: int) -> AsyncGenerator[Told, None]:
        while True:
            piece = await self._tail.piece(number, timeout=reader.patience())
            if piece is None:
                yield await reader.here()
                continue
            number += 1
            async for told in reader.take(piece):
                yield told


class _Reader:
    """Where one reader is, and what it wants."""

    def __init__(self, place: Vector, log: LogState, places: Places, interest: Interest, heartbeat: float) -> None:
        self.log = log
        self.interest = interest
        self._place = dict(place)
        self._places = places
        self._heartbeat = heartbeat
        self._spoken = 0.0

    @property
    def place(self) -> Vector:
        """The place up to which everything has been told."""
        return dict(self._place)

    def patience(self) -> float:
        """Seconds until something must be said."""
        return max(self._spoken + self._heartbeat - asyncio.get_running_loop().time(), 0.0)

    async def here(self) -> Told:
        """A message that tells only where the reader is."""
        await self._places.learn([shard for shard, position in self._place.items() if position])
        return self._told([])

    def _told(self, changes: Sequence[tuple[str, changes_pb2.CatalogChange]]) -> Told:
        self._spoken = asyncio.get_running_loop().time()
        return Told(changes, self._cursor())

    def _cursor(self) -> str:
        return self._places.cursor(self._place, epoch=self.log.epoch)

    async def idle(self, pause: float) -> AsyncGenerator[Told, None]:
        """Wait for a moment, but not in silence for too long."""
        await asyncio.sleep(min(pause, self.patience()) if self.patience() else pause)
        if not self.patience():
            yield self._told([])

    async def take(self, piece: Piece) -> AsyncGenerator[Told, None]:
        """Tell what is wanted of a piece, as far as it has not been told, in messages of a bounded size."""
        reached = self._place.get(piece.shard, 0)
        if piece.checkpoint <= reached:
            return
        if not self._places.knows(piece.shard):
            await self._places.learn([piece.shard])
        changes: list[tuple[str, changes_pb2.CatalogChange]] = []
        size = 0
        for change in piece.changes:
            if change.position <= reached or not change.wanted(self.interest):
                continue
            self._place[piece.shard] = change.position
            changes.append((self._cursor(), change.message))
            size += change.size
            if size >= _MESSAGE_BYTES:
                yield self._told(changes)
                changes, size = [], 0
        self._place[piece.shard] = piece.checkpoint
        if changes or not self.patience():
            yield self._told(changes)
