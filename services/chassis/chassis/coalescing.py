"""Many callers, few calls: what waits while calls are in flight travels together in the next one.

A unary gRPC call costs about 600 microseconds of CPU at both ends together, whatever it carries, and an fsync costs
milliseconds. With one caller nothing is gained or lost: there is no timer, the first item leaves at once. Under load
the batches grow by themselves.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from prometheus_client import Histogram

from chassis.errors import DeadlineExceeded, ResourceExhausted, Unavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_batch_sizes = Histogram(
    "almagest_coalescer_batch_items",
    "Items that travelled together in one call.",
    ("coalescer",),
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)


_EXPIRY_STEP = 0.01
"""How many seconds late an item may learn that its time is over, when many have different deadlines."""


class Coalescer(Generic[Item, Answer]):
    """Puts items of many callers into few calls of `send`, which answers each item or gives the exception to raise for
    it.

    At most `in_flight` calls run at once, each with at most `max_batch` items; at most `max_waiting` items wait. A call
    is given up when the last of its callers has given up. Calls run without the context of any one caller: not its
    deadline, person or trace.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        max_batch: int = 256,
        in_flight: int = 2,
        max_waiting: int = 10_000,
        name: str = "unnamed",
    ) -> None:
        if max_batch < 1 or in_flight < 1 or max_waiting < 1:
            raise ValueError("max_batch, in_flight and max_waiting must be at least 1")
        self._send = send
        self._max_batch = max_batch
        self._in_flight = in_flight
        self._max_waiting = max_waiting
        # A dict keeps the order of arrival, and lets a caller that gave up leave the middle of the queue at once.
        self._waiting: dict[asyncio.Future[Answer], tuple[Item, float]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        # One alarm for all that wait for an answer, at the earliest deadline. Nearly every item is answered long before
        # its own, and an alarm for each would cost more than all else here.
        self._deadlines: dict[asyncio.Future[Answer], float] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")
        self._departing = False
        self._closed = False
        self._sizes = _batch_sizes.labels(name)

    @property
    def waiting(self) -> int:
        """How many items wait for their call to begin."""
        return len(self._waiting)

    async def submit(self, item: Item, *, timeout: float) -> Answer:
        """The answer to an item, within `timeout` seconds.

        Raises:
            DeadlineExceeded: There was none in time. If the item had been sent, it may still take effect.
            ResourceExhausted: Too many items wait already; nothing was sent.
            Unavailable: The coalescer is closed.
        """
        if self._closed:
            raise Unavailable("The service is shutting down.")
        if timeout <= 0:
            raise DeadlineExceeded
        if len(self._waiting) >= self._max_waiting:
            raise ResourceExhausted(retry_after=1.0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        deadline = loop.time() + timeout
        self._waiting[future] = (item, deadline)
        self._deadlines[future] = deadline
        if deadline < self._alarm_at:
            self._set_alarm(loop, deadline)
        self._depart_soon(loop)
        try:
            return await future
        finally:
            del self._deadlines[future]
            self._waiting.pop(future, None)

    def _set_alarm(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_at(when, self._expire, context=contextvars.Context())
        self._alarm_at = when

    def _expire(self) -> None:
        """Tell those whose time is over."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._alarm, self._alarm_at = None, float("inf")
        next_deadline = float("inf")
        for future, deadline in self._deadlines.items():
            if future.done():
                continue
            if deadline <= now:
                future.set_exception(DeadlineExceeded())
            elif deadline < next_deadline:
                next_deadline = deadline
        if next_deadline < float("inf"):
            self._set_alarm(loop, max(next_deadline, now + _EXPIRY_STEP))

    def _depart_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not at once: what arrives in the same turn of the event loop travels together even when nothing is in flight.
        if not self._departing and len(self._calls) < self._in_flight:
            self._departing = True
            loop.call_soon(self._depart)

    def _depart(self) -> None:
        self._departing = False
        loop = asyncio.get_running_loop()
        while len(self._calls) < self._in_flight and self._waiting:
            futures = list(islice(self._waiting, self._max_batch))
            batch = {future: self._waiting.pop(future) for future in futures if not future.done()}
            for future in futures:
                self._waiting.pop(future, None)
            if not batch:
                continue
            call = loop.create_task(self._call(batch), context=contextvars.Context())
            self._calls.add(call)
            call.add_done_callback(self._arrived)

    def _arrived(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not self._closed:
            self._depart()

    async def _call(self, batch: dict[asyncio.Future[Answer], tuple[Item, float]]) -> None:
        self._sizes.observe(len(batch))
        try:
            async with asyncio.timeout_at(max(deadline for _, deadline in batch.values())):
                answers = await self._send([item for item, _ in batch.values()])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} items")  # noqa: TRY301 - told to every caller below
        except asyncio.CancelledError:
            self._fail(batch, Unavailable("The service is shutting down."))
            raise
        except TimeoutError:
            self._fail(batch, DeadlineExceeded())
        except Exception as error:  # noqa: BLE001 - it is not swallowed: every caller of the batch raises it
            self._fail(batch, error)
        else:
            for future, answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    @staticmethod
    def _fail(batch: dict[asyncio.Future[Answer], tuple[Item, float]], error: Exception) -> None:
        for future in batch:
            if not future.done():
                future.set_exception(error)

    async def close(self) -> None:
        """Refuse what comes and what waits, and give up what is in flight."""
        self._closed = True
        waiting = dict(self._waiting)
        self._waiting.clear()
        self._fail(waiting, Unavailable("The service is shutting down."))
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
