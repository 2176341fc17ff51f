"""The append loop of a shard: what waits while one transaction is on its way travels together in the next.

A transaction has to wait for the disk, and for the shard's counter, which only one can hold. With one transaction per
append a shard does no more than a few hundred a second for each; with a loop, one wait serves all that came
meanwhile. There is no timer: a single append leaves at once.

Nothing that a caller does, going away included, touches a transaction: it belongs to the loop. When the database goes
away in mid-commit, the loop has the old session ended and asks which append ids were committed, instead of sending
the batch again in the hope that it was not.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from event_store.application.heads import Heads
from event_store.domain.append import Append, Appended, Committed
from event_store.domain.errors import AppendIdReused, LogError, OutcomeUnknown, QueueFull, ShardUnavailable, TooLate

Answer = Appended | Exception


class NotWritten(Exception):
    """The database could not be reached, or refused the whole batch for a reason of its own. Nothing was written."""


class Refused(Exception):
    """The database refused the whole batch because something in it is wrong in a way that was not foreseen. Nothing
    was written.
    """


class SessionLost(Exception):
    """The connection was lost while the batch was under way. `session` names the server's side of it."""

    def __init__(self, session: int) -> None:
        super().__init__("the connection was lost in mid-append")
        self.session = session


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: an answer per append, the head that it left, and the version of the shard map that the
    shard knows.
    """

    answers: Sequence[Appended | LogError]
    head: int
    epoch: int


class Log(Protocol):
    """The log of one shard, as this loop needs it."""

    async def append(self, appends: Sequence[Append]) -> Outcome:
        """Write a batch in one transaction.

        Raises:
            NotWritten, Refused: Nothing was written.
            SessionLost: It is not known whether it was written.
        """
        ...

    async def settle(self, session: int, append_ids: Sequence[str]) -> Mapping[str, Committed]:
        """End a lost session for good, then find which append ids are committed. What is not found will never be.

        Raises:
            NotWritten: The database cannot be asked.
        """
        ...


@dataclass(slots=True, eq=False)
class Ticket:
    """One append that waits, or is under way."""

    append: Append
    deadline: float
    call: "Call"
    queued_ns: int
    begun: bool = False
    result: Answer | None = None

    def answer(self, answer: Answer) -> None:
        """Answer it, unless it was answered already."""
        if self.result is None:
            self.result = answer
            self.call.missing -= 1
            if not self.call.missing and not self.call.done.done():
                self.call.done.set_result(None)


@dataclass(slots=True, eq=False)
class Call:
    """What one caller handed in together."""

    missing: int
    done: asyncio.Future[None]


class Observer(Protocol):
    """Who wants to know what the loop does."""

    def queued(self, shard: int, appends: int) -> None:
        """So many appends wait."""
        ...

    def batch(
        self, shard: int, tickets: Sequence[Ticket], answers: Sequence[Answer], began_ns: int, ended_ns: int
    ) -> None:
        """A transaction ended, one way or another."""
        ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a batch and of the queue, and how long a lost transaction is inquired after, in seconds."""

    batch_appends: int = 256
    batch_bytes: int = 4 * 1024 * 1024
    in_flight: int = 1
    queue_appends: int = 8192
    queue_bytes: int = 64 * 1024 * 1024
    settle_seconds: float = 5.0


class AppendLoop:
    """All appends to one shard by this process."""

    def __init__(
        self,
        shard: int,
        log: Log,
        *,
        heads: Heads,
        observer: Observer,
        bounds: Bounds,
        committed: Callable[[int, int], None] | None = None,
    ) -> None:
        self._shard = shard
        self._log = log
        self._heads = heads
        self._observer = observer
        self._bounds = bounds
        self._committed = committed
        self._queue: deque[Ticket] = deque()
        self._queued_bytes = 0
        self._arrived = asyncio.Event()
        self._closed = False

    async def submit(self, appends: Sequence[Append], deadlines: Sequence[float]) -> Sequence[Answer]:
        """Have the appends written, each by its deadline (of the event loop's clock), and answer each.

        An append that was not begun by its deadline is not begun later. When the caller goes away, what was begun is
        finished and the rest is forgotten.
        """
        size = sum(append.size for append in appends)
        if self._closed:
            return [ShardUnavailable(self._shard) for _ in appends]
        full = (
            len(self._queue) + len(appends) > self._bounds.queue_appends
            or self._queued_bytes + size > self._bounds.queue_bytes
        )
        if full and self._queue:
            return [QueueFull(self._shard) for _ in appends]
        loop = asyncio.get_running_loop()
        call = Call(len(appends), loop.create_future())
        now = time.time_ns()
        tickets = [Ticket(append, deadline, call, now) for append, deadline in zip(appends, deadlines, strict=True)]
        self._queue.extend(tickets)
        self._queued_bytes += size
        self._observer.queued(self._shard, len(self._queue))
        self._arrived.set()
        expiry = loop.call_at(max(deadlines), _expire, tickets)
        try:
            await call.done
        finally:
            expiry.cancel()
            if call.missing:
                _expire(tickets)
        return [ticket.result for ticket in tickets if ticket.result is not None]

    async def run(self) -> None:
        """Write what comes, for ever. When it is cancelled, what waits is answered that nothing was written."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for _ in range(self._bounds.in_flight):
                    self._group.create_task(self._work())
        finally:
            self._closed = True
            for ticket in self._queue:
                ticket.answer(ShardUnavailable(self._shard))
            self._queue.clear()

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._take()
            if batch:
                await self._write(batch)

    def _take(self) -> list[Ticket]:
        """The next batch. What was given up, or is late, leaves the queue here."""
        now = asyncio.get_running_loop().time()
        queue, bounds = self._queue, self._bounds
        batch: list[Ticket] = []
        room = bounds.batch_bytes
        while queue and len(batch) < bounds.batch_appends:
            ticket = queue[0]
            if ticket.result is None and ticket.deadline > now:
                size = ticket.append.size
                if batch and size > room:
                    break
                room -= size
                ticket.begun = True
                batch.append(ticket)
            queue.popleft()
            self._queued_bytes -= ticket.append.size
            if ticket.deadline <= now:
                ticket.answer(TooLate(begun=False))
        self._observer.queued(self._shard, len(queue))
        return batch

    async def _write(self, batch: Sequence[Ticket]) -> None:
        began = time.time_ns()
        answers: Sequence[Answer]
        try:
            outcome = await self._log.append([ticket.append for ticket in batch])
        except NotWritten:
            answers = [ShardUnavailable(self._shard) for _ in batch]
        except Refused as error:
            if len(batch) > 1:
                # One append that the database will not have must not take its neighbours along.
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            answers = [error]
        except SessionLost as lost:
            # In a task of its own: finding out may take a while, and must not hold up what can be written again
            # meanwhile.
            self._group.create_task(self._settle(batch, lost.session, began))
            return
        except asyncio.CancelledError:
            self._answer(batch, [OutcomeUnknown(self._shard, ticket.append.append_id) for ticket in batch], began)
            raise
        except Exception as error:  # noqa: BLE001 - it is not swallowed: it answers every caller, and their error table logs it
            answers = [error for _ in batch]
        else:
            answers = outcome.answers
            self._heads.reached(self._shard, outcome.head)
            if self._committed is not None:
                self._committed(self._shard, outcome.head)
        self._answer(batch, answers, began)

    def _answer(self, batch: Sequence[Ticket], answers: Sequence[Answer], began_ns: int) -> None:
        ended_ns = time.time_ns()
        for ticket, answer in zip(batch, answers, strict=True):
            ticket.answer(answer)
        self._observer.batch(self._shard, batch, answers, began_ns, ended_ns)

    async def _settle(self, batch: Sequence[Ticket], session: int, began_ns: int) -> None:
        """Find out what became of a batch whose connection was lost."""
        pause = 0.05
        append_ids = [ticket.append.append_id for ticket in batch]
        answers: Sequence[Answer] = [OutcomeUnknown(self._shard, append_id) for append_id in append_ids]
        try:
            async with asyncio.timeout(self._bounds.settle_seconds):
                while True:
                    try:
                        committed = await self._log.settle(session, append_ids)
                        break
                    except NotWritten:
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, 1.0)
            answers = [self._settled(ticket.append, committed.get(ticket.append.append_id)) for ticket in batch]
        except TimeoutError:
            pass
        finally:
            self._answer(batch, answers, began_ns)

    def _settled(self, append: Append, found: Committed | None) -> Answer:
        if found is None:
            return ShardUnavailable(self._shard)
        if found.stream != append.stream or found.fingerprint != append.fingerprint:
            return AppendIdReused(append.append_id)
        # By this batch or before it: nobody knows, and two who both say that it is new would both be believed.
        return found.appended._replace(replayed=True)


def _expire(tickets: Sequence[Ticket]) -> None:
    """Answer what has no answer yet: the time of all of them is over."""
    for ticket in tickets:
        if ticket.result is None:
            ticket.answer(TooLate(begun=ticket.begun))
