"""Claims, leases and fencing in Postgres, without anything else."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from chassis.database.pool import Database
from chassis.redis import connect
from worker.adapters.files import PostgresFiles
from worker.adapters.heartbeat import Heartbeat
from worker.adapters.postgres import PostgresJobs
from worker.adapters.redis import STREAM, Signals
from worker.application.attempts import Attempt, Interrupted, Interruption
from worker.domain.errors import LeaseLost, UploadForgotten
from worker.domain.job import (
    Ending,
    Format,
    ImportOptions,
    Job,
    JobState,
    NewJob,
    Problem,
    Progress,
    RefusedRow,
)
from worker.entrypoints.runner import Pace, Runner

REFUSED = RefusedRow(3, "A", Problem(3, "ROW_INVALID", "name: is required", (("name", "is required"),), {"a": "b"}))


@pytest.fixture
async def database(jobs_database: Any) -> AsyncIterator[Database]:
    opened = await Database.open(jobs_database.service, name="test-jobs", size=4)
    yield opened
    await opened.close()


@pytest.fixture
def jobs(database: Database) -> PostgresJobs:
    return PostgresJobs(database)


@pytest.fixture
async def signals(valkey: Any) -> AsyncIterator[Signals]:
    """A doorbell that is heard."""
    client, blocking = connect(valkey.url), connect(valkey.url, blocking_seconds=1.0)
    await client.delete(STREAM)
    made = Signals(client, blocking, worker="w", blocking_seconds=1.0)
    sending = asyncio.create_task(made.send())
    yield made
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await client.aclose()
    await blocking.aclose()


def new_job(**more: Any) -> NewJob:
    given = {
        "job_id": uuid.uuid4(),
        "name": "file",
        "options": ImportOptions(Format.NDJSON),
        "submitted_by": "somebody",
        "command_id": uuid.uuid4(),
        "fingerprint": b"f",
        "traceparent": "",
        "bytes_total": 100,
    }
    return NewJob(**(given | more))


async def submitted(database: Database, **more: Any) -> Job:
    new = new_job(**more)
    await PostgresFiles(database).begin(new.job_id)
    job = await PostgresJobs(database).submit(new)
    assert job is not None
    return job


async def claimed(jobs: PostgresJobs, job: Job, *, lease: float = 60.0) -> Job:
    taken = await jobs.claim(job.job_id, worker="w", lease_seconds=lease)
    assert taken is not None
    return taken


async def test_of_many_who_claim_a_job_one_gets_it(database: Database, jobs: PostgresJobs) -> None:
    """By ring or by sweep, at the same moment."""
    job = await submitted(database)
    claims = [jobs.claim(job.job_id, worker=str(number), lease_seconds=60) for number in range(10)]
    sweeps = [jobs.claim_due(5, worker=str(number), lease_seconds=60) for number in range(10)]
    answers = await asyncio.gather(*claims, *sweeps)
    taken = [found for answer in answers for found in ([answer] if isinstance(answer, Job) else answer or [])]
    assert [found.attempts for found in taken] == [1]


async def test_what_an_old_attempt_writes_is_refused_as_a_whole(database: Database, jobs: PostgresJobs) -> None:
    """Progress, report, end and release of attempt 1 change nothing once attempt 2 has begun."""
    job = await submitted(database)
    await claimed(jobs, job, lease=0.0)
    second = await claimed(jobs, job)
    assert second.attempts == 2
    progress = Progress(bytes_total=100, bytes_done=50, rows_refused=1)
    for ending in (None, Ending(JobState.SUCCEEDED)):
        with pytest.raises(LeaseLost):
            await jobs.advance(job.job_id, 1, progress, refused=[REFUSED], tokens=["t"], ending=ending)
    with pytest.raises(LeaseLost):
        await jobs.end(job.job_id, 1, Ending(JobState.CANCELLED))
    assert not await jobs.release(job.job_id, 1, delay=0, excused=True)
    assert await jobs.renew([(job.job_id, 1)], lease_seconds=60) == {}
    assert await jobs.find(job.job_id, None) == second
    assert await jobs.refused_rows(job.job_id, after_line=0, size=10) == []


async def test_progress_that_is_written_twice_counts_once(database: Database, jobs: PostgresJobs) -> None:
    """The answer to a write may be lost with the connection, so it is written again."""
    job = await claimed(jobs, await submitted(database))
    progress = Progress(bytes_total=100, bytes_done=100, lines_done=3, rows_created=2, rows_refused=1)
    ending = Ending(JobState.FAILED, REFUSED.problem)
    for _ in range(2):
        await jobs.advance(job.job_id, 1, progress, refused=[REFUSED], tokens=["t"], ending=None)
    for _ in range(2):
        await jobs.advance(job.job_id, 1, progress, refused=[REFUSED], tokens=["t"], ending=ending)
    found = await jobs.find(job.job_id, "somebody")
    assert found is not None
    assert (found.progress, found.state, found.error) == (progress, JobState.FAILED, REFUSED.problem)
    assert found.consistency_tokens == ("t",)
    assert await jobs.refused_rows(job.job_id, after_line=0, size=10) == [REFUSED]


async def test_a_job_is_claimed_when_due_and_not_before(database: Database, jobs: PostgresJobs) -> None:
    """A job that was given back with a delay waits; one that ended is never claimed again."""
    job = await claimed(jobs, await submitted(database))
    assert await jobs.claim(job.job_id, worker="w", lease_seconds=60) is None
    assert await jobs.release(job.job_id, 1, delay=60, excused=False)
    assert await jobs.claim_due(5, worker="w", lease_seconds=60) == []
    other = await claimed(jobs, await submitted(database))
    await jobs.end(other.job_id, 1, Ending(JobState.SUCCEEDED))
    assert await jobs.claim(other.job_id, worker="w", lease_seconds=60) is None
    assert await jobs.queue() == (1, 0, 0.0)


async def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked(
    database: Database, jobs: PostgresJobs
) -> None:
    """Only the worker that runs a job knows where it can stop."""
    waiting = await jobs.request_cancel((await submitted(database)).job_id, "somebody")
    running = await claimed(jobs, await submitted(database))
    asked = await jobs.request_cancel(running.job_id, "somebody")
    assert waiting is not None
    assert asked is not None
    assert (waiting.state, waiting.ended_at is not None) == (JobState.CANCELLED, True)
    assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
    assert await jobs.request_cancel(running.job_id, "somebody") is None
    assert await jobs.request_cancel(running.job_id, "somebody else") is None
    assert await jobs.renew([running_key := (running.job_id, 1)], lease_seconds=9) == {running_key: True}


async def test_a_job_is_not_made_of_a_file_that_was_given_up(database: Database, jobs: PostgresJobs) -> None:
    """The sweep may delete an upload in the moment before its job; then there is no job without a file."""
    files, new = PostgresFiles(database), new_job()
    await files.begin(new.job_id)
    await jobs.forget_files(uploads_idle=-1, retention=0)
    with pytest.raises(UploadForgotten):
        await files.store(new.job_id, 0, b"x")
    with pytest.raises(UploadForgotten):
        await jobs.submit(new)
    assert await jobs.find(new.job_id, None) is None


async def test_leases_are_renewed_while_the_loop_is_blocked(
    database: Database, jobs: PostgresJobs, jobs_database: Any, until: Any
) -> None:
    """A computation that blocks the event loop for longer than a lease does not lose it."""
    job = await claimed(jobs, await submitted(database), lease=1.0)
    attempt = Attempt(job, valid_until=time.monotonic() + 1.0)
    heartbeat = Heartbeat(jobs_database.service, lease_seconds=1.0)
    with heartbeat:
        heartbeat.hold(attempt)
        time.sleep(2.5)  # noqa: ASYNC251 - this is what the loop must be able to suffer
        assert await jobs.claim(job.job_id, worker="thief", lease_seconds=60) is None
        await until(lambda: attempt.remaining() > 0.5)
        heartbeat.drop(attempt)

        async def stolen() -> Any:
            return await jobs.claim(job.job_id, worker="thief", lease_seconds=60)

        assert (await until(stolen)).attempts == 2
    await heartbeat.ended()


async def test_a_job_that_is_claimed_as_the_worker_ends_is_given_back(
    database: Database, jobs: PostgresJobs, jobs_database: Any, until: Any, signals: Signals
) -> None:
    """The claim was sent, and waits for a lock. The database does it then, whether or not somebody still wants it."""
    job = await submitted(database)
    heartbeat = Heartbeat(jobs_database.service, lease_seconds=60.0)
    pace = Pace(
        jobs_at_once=2,
        lease=60.0,
        sweep=3600.0,
        housekeeping=3600.0,
        drain=10.0,
        maximum_stalls=1,
        upload_idle=60.0,
        retention=60.0,
    )
    runner = Runner(
        worker="w",
        jobs=jobs,
        signals=signals,
        heartbeat=heartbeat,
        work=lambda attempt: attempt.pause(3600),
        pace=pace,
    )

    async def waiting() -> Any:
        async with database.connection() as connection:
            return await connection.fetch(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )

    with heartbeat:
        async with database.transaction() as connection:
            await connection.execute("SELECT FROM jobs FOR UPDATE")
            running = asyncio.create_task(runner.run())
            signals.ring(job.job_id)
            await until(waiting)
            running.cancel()
            await asyncio.wait([running], timeout=0.3)
        await asyncio.gather(running, return_exceptions=True)
    await heartbeat.ended()

    async def over() -> bool:
        return not await waiting()

    await until(over)
    found = await jobs.find(job.job_id, None)
    assert found is not None
    assert (found.state, found.attempts, found.stalls) == (JobState.QUEUED, 1, 0)


async def test_an_attempt_hears_of_loss_and_cancellation(
    database: Database, jobs: PostgresJobs, jobs_database: Any
) -> None:
    """Within a beat, also while it waits."""
    lost, asked = await claimed(jobs, await submitted(database)), await claimed(jobs, await submitted(database))
    attempts = [Attempt(job, valid_until=time.monotonic() + 60) for job in (lost, asked)]
    heartbeat = Heartbeat(jobs_database.service, lease_seconds=1.0)
    with heartbeat:
        for attempt in attempts:
            heartbeat.hold(attempt)
        await jobs.end(lost.job_id, 1, Ending(JobState.FAILED))
        await jobs.request_cancel(asked.job_id, None)
        with pytest.raises(LeaseLost):
            await attempts[0].pause(30)
        with pytest.raises(Interrupted) as interrupted:
            await attempts[1].pause(30)
    assert interrupted.value.interruption is Interruption.CANCEL
    await heartbeat.ended()


async def test_an_attempt_ends_by_itself_when_nobody_renews_it(database: Database, jobs: PostgresJobs) -> None:
    """Without the database no lease is renewed, and its time is counted from before it was asked for."""
    job = await claimed(jobs, await submitted(database), lease=0.2)
    attempt = Attempt(job, valid_until=time.monotonic() + 0.2)
    await attempt.pause(0.01)
    with pytest.raises(LeaseLost):
        await attempt.pause(0.3)
