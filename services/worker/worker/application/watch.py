"""Following and reading jobs."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Protocol

from worker.domain.errors import JobNotFound
from worker.domain.job import Job


class Jobs(Protocol):
    """Where jobs are."""

    async def find(self, job_id: uuid.UUID, owner: str | None) -> Job | None:
        """A job that the owner may see."""
        ...

    async def request_cancel(self, job_id: uuid.UUID, owner: str | None) -> Job | None:
        """Ask a job to stop; None: nothing changed."""
        ...


class Changes(Protocol):
    """Tells when jobs change; it may be late or silent, so nobody relies on it alone."""

    def listen(self, job_id: uuid.UUID) -> AbstractContextManager[asyncio.Event]:
        """An event that is set at each change of a job."""
        ...

    def announce(self, job_id: uuid.UUID) -> None:
        """Say that a job has changed."""
        ...


async def get(jobs: Jobs, job_id: uuid.UUID, owner: str | None) -> Job:
    """A job.

    Raises:
        JobNotFound: There is none that the owner may see.
    """
    job = await jobs.find(job_id, owner)
    if job is None:
        raise JobNotFound(str(job_id))
    return job


async def cancel(jobs: Jobs, changes: Changes, job_id: uuid.UUID, owner: str | None) -> Job:
    """Ask a job to stop.

    Raises:
        JobNotFound: There is none that the owner may see.
    """
    job = await jobs.request_cancel(job_id, owner)
    if job is None:
        return await get(jobs, job_id, owner)
    changes.announce(job_id)
    return job


async def watch(
    jobs: Jobs, changes: Changes, job_id: uuid.UUID, owner: str | None, *, spacing: float, poll: float
) -> AsyncIterator[Job]:
    """A job now and after each change until it has ended; changes closer together than `spacing` seconds come as one.

    Every `poll` seconds it is looked at even though nothing was announced.

    Raises:
        JobNotFound: There is none that the owner may see.
    """
    seen = -1
    with changes.listen(job_id) as changed:
        while True:
            changed.clear()
            job = await get(jobs, job_id, owner)
            if job.revision != seen:
                seen = job.revision
                yield job
            if job.state.ended:
                return
            await asyncio.sleep(spacing)
            try:
                async with asyncio.timeout(poll):
                    await changed.wait()
            except TimeoutError:
                pass
