"""Finds jobs and runs them.

A ring from Redis starts a job within a millisecond. A sweep of Postgres, every second, finds those that nobody rang
for: after a FLUSHALL,
without any Redis, or when the worker that had them died. Both only ever ask Postgres for the job, which gives it to
one worker.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

import structlog
from chassis.errors import ChassisError, RemoteProblem
from chassis.telemetry.tracing import link_to, tracer
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from redis.exceptions import RedisError

from worker.adapters.heartbeat import Heartbeat
from worker.adapters.postgres import PostgresJobs
from worker.adapters.redis import Signals
from worker.application.attempts import Attempt, Interrupted, Interruption, backoff
from worker.application.problems import from_message
from worker.domain.errors import LeaseLost
from worker.domain.job import Ending, Job, JobState, Problem
from worker.entrypoints import metrics

_INTERNAL = 13
_DOWN = (RedisError, OSError, TimeoutError)
_UNHEARD_SECONDS = 30.0
_UPLOAD_IDLE_FACTOR = 20
_LONGEST_DELAY = 60.0

_logger = structlog.stdlib.get_logger(__name__)

Work = Callable[[Attempt], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Pace:
    """How much at once, and how often what is done. Times in seconds."""

    jobs_at_once: int
    lease: float
    sweep: float
    housekeeping: float
    drain: float
    maximum_stalls: int
    upload_idle: float
    retention: float


class Runner:
    """Runs jobs in this process, until it is cancelled: then it lets each finish its batch, and gives the jobs back."""

    def __init__(
        self, *, worker: str, jobs: PostgresJobs, signals: Signals, heartbeat: Heartbeat, work: Work, pace: Pace
    ) -> None:
        self._worker = worker
        self._jobs = jobs
        self._signals = signals
        self._heartbeat = heartbeat
        self._work = work
        self._pace = pace
        self._running: dict[asyncio.Task[None], Attempt] = {}
        self._taking: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._draining = False

    async def run(self) -> None:
        """Find and run jobs, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                group.create_task(self._sweep())
                group.create_task(self._keep_house())
        finally:
            await self._drain()

    @property
    def _free(self) -> int:
        return 0 if self._draining else self._pace.jobs_at_once - len(self._running)

    async def _listen(self) -> None:
        failures = 0
        while True:
            await self._room.wait()
            try:
                rings = await self._signals.hear(self._free)
                for ring in rings:
                    if ring.job_id is not None:
                        with contextlib.suppress(ChassisError):  # the sweep finds it
                            await self._take(self._claim(ring.job_id))
                if rings:
                    await self._signals.answered(rings)
                failures = 0
            except _DOWN as error:
                failures += 1
                if failures == 1:
                    _logger.warning("the doorbell is not heard", problem=str(error))
                await asyncio.sleep(backoff(failures))

    async def _claim(self, job_id: uuid.UUID) -> Sequence[Job]:
        job = await self._jobs.claim(job_id, worker=self._worker, lease_seconds=self._pace.lease)
        return [] if job is None else [job]

    async def _take(self, claim: Coroutine[None, None, Sequence[Job]]) -> None:
        """Start what is claimed. Also when we are cancelled meanwhile: a claim that is given up after it was sent may
        still be done by the database, even after this process has given its jobs back, and then nobody has the job
        until the lease runs out.
        """

        async def take() -> None:
            began = time.monotonic()
            for job in await claim:
                self._start(job, began)

        taking = asyncio.create_task(take())
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        await asyncio.shield(taking)

    async def _sweep(self) -> None:
        while True:
            began = time.monotonic()
            try:
                if self._free > 0:
                    due = self._jobs.claim_due(self._free, worker=self._worker, lease_seconds=self._pace.lease)
                    await self._take(due)
                queued, running, age = await self._jobs.queue()
                metrics.queued.set(queued)
                metrics.running_everywhere.set(running)
                metrics.queue_age.set(age)
            except ChassisError as error:
                _logger.warning("the sweep failed", problem=error.reason)
            await asyncio.sleep(max(0.0, began + self._pace.sweep - time.monotonic()))

    async def _keep_house(self) -> None:
        """Delete what is no longer needed, and take over rings that died with their worker."""
        while True:
            try:
                await self._jobs.forget_files(
                    uploads_idle=self._pace.upload_idle * _UPLOAD_IDLE_FACTOR, retention=self._pace.retention
                )
                rings = await self._signals.unheard(idle_seconds=_UNHEARD_SECONDS)
                if rings:
                    await self._signals.answered(rings)  # their jobs are the sweep's
            except ChassisError as error:
                _logger.warning("house was not kept", problem=error.reason)
            except _DOWN as error:
                _logger.warning("house was not kept", problem=str(error))
            await asyncio.sleep(self._pace.housekeeping)

    def _start(self, job: Job, claimed_at: float) -> None:
        attempt = Attempt(job, valid_until=claimed_at + self._pace.lease)
        if self._draining:
            attempt.interrupt(Interruption.DRAIN)
        self._heartbeat.hold(attempt)
        self._signals.announce(job.job_id)
        task = asyncio.create_task(self._attempt(attempt), name=f"job {job.job_id}")
        self._running[task] = attempt
        metrics.running_here.set(len(self._running))
        if self._free <= 0:
            self._room.clear()
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        attempt = self._running.pop(task)
        self._heartbeat.drop(attempt)
        metrics.running_here.set(len(self._running))
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("an attempt could not be concluded", job_id=str(attempt.job.job_id), exc_info=error)

    async def _attempt(self, attempt: Attempt) -> None:
        job = attempt.job
        link = link_to(job.traceparent)
        log = _logger.bind(job_id=str(job.job_id), attempt=job.attempts)
        with tracer().start_as_current_span(
            f"run {job.type}",
            context=Context(),
            kind=SpanKind.CONSUMER,
            links=[] if link is None else [link],
            attributes={"job.id": str(job.job_id), "job.type": job.type, "job.attempt": job.attempts},
        ) as span:
            log.info("an attempt begins", line=job.progress.lines_done)
            try:
                outcome = await self._conclude(attempt)
            except LeaseLost:
                outcome = "lost"
                metrics.leases_lost.inc()
            metrics.attempts.labels(outcome).inc()
            span.set_attribute("job.outcome", outcome)
            if outcome not in ("ended", "cancelled", "drained"):
                span.set_status(Status(StatusCode.ERROR, outcome))
            log.info("an attempt is over", outcome=outcome)
        self._signals.announce(job.job_id)

    async def _conclude(self, attempt: Attempt) -> str:
        """Run the attempt, and leave the job ended, or given back."""
        job_id, number = attempt.key
        try:
            await self._work(attempt)
        except Interrupted as interrupted:
            if interrupted.interruption is Interruption.CANCEL:
                await self._jobs.end(job_id, number, Ending(JobState.CANCELLED))
                return "cancelled"
            await self._give_back(attempt, delay=0.0, excused=True)
            return "drained"
        except LeaseLost:
            raise
        except asyncio.CancelledError:
            # Its time to finish a batch is over. What was under way is sent again by whoever goes on.
            await self._give_back(attempt, delay=0.0, excused=True)
            raise
        except Exception as error:
            _logger.exception("an attempt failed", job_id=str(job_id), attempt=number)
            if attempt.job.stalls > self._pace.maximum_stalls:
                await self._jobs.end(job_id, number, Ending(JobState.FAILED, _given_up(error, attempt.job.stalls)))
                return "given up"
            delay = min(_LONGEST_DELAY, 2.0**attempt.job.stalls) / 2 + backoff(attempt.job.stalls)
            await self._give_back(attempt, delay=delay, excused=False)
            return "failed"
        return "ended"

    async def _give_back(self, attempt: Attempt, *, delay: float, excused: bool) -> None:
        job_id, number = attempt.key
        if await self._jobs.release(job_id, number, delay=delay, excused=excused) and delay == 0:
            self._signals.ring(job_id)

    async def _drain(self) -> None:
        self._draining = True
        for attempt in self._running.values():
            attempt.interrupt(Interruption.DRAIN)
        await asyncio.gather(*self._taking, return_exceptions=True)
        tasks = list(self._running)
        if tasks:
            await asyncio.wait(tasks, timeout=self._pace.drain)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._signals.leave()
        except _DOWN as error:
            _logger.warning("this consumer stays listed", problem=str(error))


def _given_up(error: Exception, stalls: int) -> Problem:
    if isinstance(error, RemoteProblem):
        return from_message(error.problem)
    return Problem(
        code=_INTERNAL,
        reason="JOB_KEEPS_FAILING",
        message=f"The job was begun {stalls} times in a row and never got further. The log of the worker tells why.",
        metadata={"exception": type(error).__name__},
    )
