"""The worker in memory."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import grpc
from almagest.jobs.v1 import jobs_pb2
from almagest.rpc.v1 import problem_pb2
from gateway.application.ports import Person, Worker

from .fake_answers import problem


class FakeWorker(Worker):
    """Jobs that are done when somebody has watched them for three changes."""

    def __init__(self) -> None:
        self.jobs: dict[str, jobs_pb2.Job] = {}
        self.files: dict[str, list[bytes]] = {}
        self.headers: list[jobs_pb2.ImportHeader] = []
        self.by_command: dict[str, str] = {}
        self.aborted = 0
        self.began = asyncio.Event()
        self.gave_up = asyncio.Event()
        self.limit = 50_000_000
        self.watch_gate: asyncio.Event | None = None
        self.unwatched = 0

    async def submit_import(
        self, header: jobs_pb2.ImportHeader, chunks: AsyncIterator[bytes], person: Person
    ) -> jobs_pb2.Job:
        self.headers.append(header)
        self.began.set()
        if header.command_id in self.by_command:
            return self.jobs[self.by_command[header.command_id]]
        parts: list[bytes] = []
        try:
            async for chunk in chunks:
                parts.append(chunk)
                if sum(map(len, parts)) > self.limit:
                    raise problem(grpc.StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE")  # noqa: TRY301 - counted below
        except BaseException:
            self.aborted += 1
            self.gave_up.set()
            raise
        if not parts and not header.source_url:
            raise problem(grpc.StatusCode.INVALID_ARGUMENT, "FILE_EMPTY")
        job = jobs_pb2.Job(
            job_id=str(uuid.uuid4()),
            type="import",
            name=header.name,
            state=jobs_pb2.JOB_STATE_QUEUED,
            options=header.options,
            submitted_by=person.subject,
            source_url=header.source_url,
            progress=jobs_pb2.ImportProgress(bytes_total=sum(map(len, parts))),
        )
        job.created_at.FromJsonString("2026-11-22T16:30:00Z")
        self.jobs[job.job_id] = job
        self.files[job.job_id] = parts
        self.by_command[header.command_id] = job.job_id
        return job

    async def get_job(self, job_id: str, person: Person) -> jobs_pb2.Job:
        del person
        if job_id not in self.jobs:
            raise problem(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        return self.jobs[job_id]

    async def list_jobs(self, request: jobs_pb2.ListJobsRequest, person: Person) -> jobs_pb2.ListJobsResponse:
        del person
        kept = [job for job in self.jobs.values() if not request.states or job.state in request.states]
        return jobs_pb2.ListJobsResponse(jobs=kept[: request.page_size])

    async def watch_job(self, job_id: str, person: Person) -> AsyncIterator[jobs_pb2.Job]:
        job = await self.get_job(job_id, person)
        try:
            for state in (jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.JOB_STATE_SUCCEEDED):
                job.state = state
                job.revision += 1
                yield job
                if self.watch_gate is not None:
                    await self.watch_gate.wait()
        finally:
            self.unwatched += 1

    async def cancel_job(self, job_id: str, person: Person) -> jobs_pb2.Job:
        job = await self.get_job(job_id, person)
        job.cancel_requested = True
        return job

    async def refused_rows(
        self, request: jobs_pb2.ListRefusedRowsRequest, person: Person
    ) -> jobs_pb2.ListRefusedRowsResponse:
        await self.get_job(request.job_id, person)
        row = jobs_pb2.RefusedRow(line=2, problem=problem_pb2.Problem(code=3, reason="INVALID_ROW", message="no JSON"))
        return jobs_pb2.ListRefusedRowsResponse(rows=[row])
