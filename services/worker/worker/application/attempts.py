"""One attempt at a job: the lease that it holds, and what may interrupt it.

The lease is renewed from another thread, so that a long computation here cannot lose it. What this side knows of it is
deliberately too short: it counts
from before the renewal was asked for. So no call to another service is begun, or waits, beyond the moment at which
somebody else may take over.
"""

import asyncio
import enum
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from chassis.errors import ChassisError

from worker.domain.errors import LeaseLost
from worker.domain.job import Job

_Result = TypeVar("_Result")
_logger = structlog.stdlib.get_logger(__name__)


class Interruption(enum.Enum):
    """Why an attempt is to stop early."""

    CANCEL = "cancel"
    """Someone asked the job to stop."""
    DRAIN = "drain"
    """This process ends; another one goes on."""


class Interrupted(Exception):
    """The attempt stops early, between two batches."""

    def __init__(self, interruption: Interruption) -> None:
        super().__init__(interruption.value)
        self.interruption = interruption


class Attempt:
    """An attempt at a job. Used on one event loop only.

    Args:
        job: the job as it was when the lease was taken.
        valid_until: until when, on `time.monotonic`, nobody else can have the job.
    """

    def __init__(self, job: Job, *, valid_until: float) -> None:
        self.job = job
        self._valid_until = valid_until
        self._lost = False
        self._interruption: Interruption | None = Interruption.CANCEL if job.cancel_requested else None
        self._disturbed = asyncio.Event()
        if self._interruption is not None:
            self._disturbed.set()

    @property
    def key(self) -> tuple[uuid.UUID, int]:
        """The job and the number of the attempt: the fencing number."""
        return self.job.job_id, self.job.attempts

    def renewed(self, valid_until: float, *, cancel_requested: bool) -> None:
        """The lease was renewed."""
        self._valid_until = valid_until
        if cancel_requested:
            self.interrupt(Interruption.CANCEL)

    def lose(self) -> None:
        """Somebody else has the job, or it has ended."""
        self._lost = True
        self._disturbed.set()

    def interrupt(self, interruption: Interruption) -> None:
        """Ask the attempt to stop between two batches. Being cancelled is more than being drained."""
        if self._interruption is not Interruption.CANCEL:
            self._interruption = interruption
        self._disturbed.set()

    @property
    def interruption(self) -> Interruption | None:
        """Why the attempt is to stop, if it is."""
        return self._interruption

    def remaining(self) -> float:
        """The seconds for which the job is surely ours.

        Raises:
            LeaseLost: None.
        """
        left = self._valid_until - time.monotonic()
        if self._lost or left <= 0:
            raise LeaseLost(*self.key)
        return left

    async def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Interrupted: The attempt is to stop.
            LeaseLost: The job is no longer ours.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._disturbed.wait()
        except TimeoutError:
            pass
        self.remaining()
        if self._interruption is not None:
            raise Interrupted(self._interruption)


def backoff(tries: int, *, base: float = 0.1, cap: float = 5.0) -> float:
    """Seconds to wait after so many failed tries: exponential with full jitter, so that those who failed together do
    not come back together.
    """
    return random.uniform(0, min(cap, base * 2 ** min(tries, 20)))  # noqa: S311 - spreads load, guards nothing


async def persistently(attempt: Attempt, step: Callable[[], Awaitable[_Result]]) -> _Result:
    """Take a step on the database, again and again while it cannot be reached and the job is ours. Each step may be
    taken twice.
    """
    failures = 0
    while True:
        attempt.remaining()
        try:
            return await step()
        except ChassisError as error:
            failures += 1
            _logger.warning("the database does not answer", problem_reason=error.reason, job_id=str(attempt.job.job_id))
        await attempt.pause(backoff(failures))
