"""Change feeds of clients, each over as many calls to catalog-query as it takes.

A feed may last for days, a call only as long as the transaction token that proves the person: so the call is made anew,
from the last cursor, whenever the token nears its end or is revoked, and whenever the service behind it goes away. The
client sees a pause at most. Auth is asked each time; who has lost their session or their rights loses the feed within a
second.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Final, Self

import grpc
import structlog
from almagest.catalog.v1 import changes_pb2
from chassis.errors import RemoteProblem, ResourceExhausted, Unauthenticated
from chassis.revocations import Revocations

from gateway.application.people import MARGIN_SECONDS
from gateway.application.ports import Changes, Person

_SHORTEST_TURN: Final = 0.5
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_PASSING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    }
)
"""What may be otherwise in a moment."""
_RENEWABLE: Final = frozenset({"TOKEN_EXPIRED", "TOKEN_REVOKED"})

_logger = structlog.stdlib.get_logger(__name__)


class Feeds:
    """All feeds of this process: who has how many, and the end of all."""

    def __init__(self, *, per_person: int) -> None:
        self._per_person = per_person
        self._open: Counter[str] = Counter()
        self._running: set[Feed] = set()
        self._draining = False

    @contextmanager
    def place(self, subject: str) -> Generator[None]:
        """A place for a feed of a person.

        Raises:
            ResourceExhausted: they have as many as one may have.
        """
        if self._open[subject] >= self._per_person:
            raise ResourceExhausted(
                f"You have {self._per_person} change feeds open already; close one.",
                reason="TOO_MANY_FEEDS",
                retry_after=5,
            )
        self._open[subject] += 1
        try:
            yield
        finally:
            self._open[subject] -= 1
            if not self._open[subject]:
                del self._open[subject]

    def drain(self) -> None:
        """End all feeds, so that their clients go elsewhere, and begin no new ones."""
        self._draining = True
        for feed in list(self._running):
            feed.end()

    def recheck(self, revocations: Revocations) -> None:
        """Something was revoked: let those whom it concerns ask auth anew."""
        for feed in list(self._running):
            feed.recheck(revocations)

    def entered(self, feed: "Feed") -> None:
        """A feed runs."""
        self._running.add(feed)
        if self._draining:
            feed.end()

    def left(self, feed: "Feed") -> None:
        """A feed has ended."""
        self._running.discard(feed)


@dataclass(frozen=True, slots=True)
class Access:
    """What a feed was asked with: whose it is, with a token that is good for a while yet, and until when."""

    person: Callable[[], Awaitable[Person]]
    ends: float
    ended: str
    """The reason why it cannot go on then."""


class Feed:
    """What one client is told. Use as a context manager, and iterate once.

    One piece is fetched ahead. What the client has not taken is not counted as told: it is fetched again if need be.
    """

    def __init__(
        self,
        feeds: Feeds,
        *,
        changes: Changes,
        access: Access,
        request: changes_pb2.SubscribeChangesRequest,
    ) -> None:
        self._feeds = feeds
        self._changes = changes
        self._access = access
        self._request = request
        self._coming: asyncio.Queue[changes_pb2.SubscribeChangesResponse | Exception | None] = asyncio.Queue(1)
        self._pump: asyncio.Task[None] | None = None
        self._ending = False
        self._begun = False
        self._person: Person | None = None
        self._turn: asyncio.Timeout | None = None

    async def __aenter__(self) -> Self:
        self._pump = asyncio.create_task(self._run())
        self._feeds.entered(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._feeds.left(self)
        if self._pump is not None:
            self._ending = False
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    def end(self) -> None:
        """Let the feed end after what has been fetched."""
        if self._pump is not None and not self._pump.done():
            self._ending = True
            self._pump.cancel()

    def recheck(self, revocations: Revocations) -> None:
        """Begin another turn if the token of this one was revoked."""
        if self._person is not None and self._turn is not None and revocations.covers(self._person):
            self._person = None
            self._turn.reschedule(asyncio.get_running_loop().time())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> changes_pb2.SubscribeChangesResponse:
        """The next piece.

        Raises:
            RemoteProblem, Unauthenticated: the feed cannot go on.
        """
        piece = await self._coming.get()
        self._coming.task_done()
        if piece is None:
            raise StopAsyncIteration
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def _run(self) -> None:
        end: Exception | None = None
        try:
            await self._follow()
        except asyncio.CancelledError:
            if not self._ending:
                raise
        except Exception as error:  # noqa: BLE001 - it is raised again where the pieces are taken
            end = error
        await self._coming.put(end)

    async def _follow(self) -> None:
        """Fetch pieces until there are no more, or the feed cannot go on."""
        pause = _FIRST_PAUSE
        while True:
            turn = asyncio.timeout(None)
            try:
                person = await self._access.person()
                turn = asyncio.timeout(self._seconds(person))
                async with turn:
                    self._person, self._turn = person, turn
                    async with aclosing(self._changes.subscribe(self._request, person)) as pieces:
                        async for piece in pieces:
                            await self._coming.put(piece)
                            self._request.cursor = piece.cursor
                            self._begun = True
                            pause = _FIRST_PAUSE
                    if self._request.only_recorded:
                        return
            except TimeoutError:
                if turn.expired():
                    # Whoever takes nothing needs no token.
                    await self._coming.join()
                    continue
                if not self._begun:
                    raise
            except RemoteProblem as problem:
                # A token that ended early, by a clock that is ahead of ours, is renewed like any other; so is one that
                # the service heard to be revoked before we did.
                if not self._begun or not (problem.code in _PASSING or problem.problem.reason in _RENEWABLE):
                    raise
                _logger.info("a change feed is taken up again", problem_reason=problem.problem.reason)
            finally:
                self._turn = None
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _seconds(self, person: Person) -> float:
        """For how many seconds a call may go on for a person: until their token nears its end, or their access ends.

        Raises:
            Unauthenticated: what they have shown has ended.
        """
        now = time.time()
        access = self._access.ends - now
        if access <= 0:
            raise Unauthenticated("What this was asked with has expired.", reason=self._access.ended)
        left = person.expires_at - now
        # Later than `People` ceases to use the token, so that the next turn has a fresh one.
        return min(max(left - min(MARGIN_SECONDS / 2, left / 6), _SHORTEST_TURN), access)
