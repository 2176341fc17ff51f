"""JobsService: wire in, use case, wire out."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

from almagest.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from chassis.errors import InvalidRequest
from chassis.telemetry.tracing import inject
from chassis.tokens import current_person

from worker.adapters.postgres import PostgresJobs
from worker.application import watch
from worker.application.submit import Imports
from worker.entrypoints.translation import (
    job_id_of,
    job_message,
    new_import,
    page_size_of,
    page_token,
    position_of,
    refused_message,
    states_of,
)

_JOBS_USUAL, _JOBS_MAXIMUM = 50, 200
_ROWS_USUAL, _ROWS_MAXIMUM = 100, 1000
_UUID_BYTES = 16
_LINE_BYTES = 8


class JobsServicer(jobs_pb2_grpc.JobsServiceServicer):
    """Serves jobs to their submitters, and to admins."""

    def __init__(
        self, *, jobs: PostgresJobs, imports: Imports, changes: watch.Changes, spacing: float, poll: float
    ) -> None:
        self._jobs = jobs
        self._imports = imports
        self._changes = changes
        self._spacing = spacing
        self._poll = poll

    async def SubmitImport(self, request_iterator: Any, context: Any) -> jobs_pb2.SubmitImportResponse:  # noqa: N802
        """Take a file and make its job."""
        requests: AsyncIterator[jobs_pb2.SubmitImportRequest] = aiter(request_iterator)
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidRequest([("header", "must be the first message")])
        new = new_import(first.header, submitted_by=current_person().subject, traceparent=inject())
        submit = self._imports.submit_from if new.source_url else self._imports.submit
        job = await submit(new, _pieces(requests, context))
        return jobs_pb2.SubmitImportResponse(job=job_message(job))

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Any) -> jobs_pb2.GetJobResponse:  # noqa: ARG002, N802
        """One job."""
        return jobs_pb2.GetJobResponse(
            job=job_message(await watch.get(self._jobs, job_id_of(request.job_id), _owner()))
        )

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Any) -> jobs_pb2.ListJobsResponse:  # noqa: ARG002, N802
        """A page of jobs, latest first."""
        size = page_size_of(request.page_size, usual=_JOBS_USUAL, maximum=_JOBS_MAXIMUM)
        position = position_of(request.page_token, _UUID_BYTES)
        jobs = await self._jobs.page(
            _owner(),
            before=None if position is None else uuid.UUID(bytes=position),
            states=states_of(request.states),
            size=size + 1,
        )
        page = jobs[:size]
        return jobs_pb2.ListJobsResponse(
            jobs=[job_message(job) for job in page],
            next_page_token=page_token(page[-1].job_id.bytes) if len(jobs) > size else "",
        )

    async def WatchJob(  # noqa: N802
        self,
        request: jobs_pb2.WatchJobRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
        """The job now and at each change."""
        async for job in watch.watch(
            self._jobs,
            self._changes,
            job_id_of(request.job_id),
            _owner(),
            spacing=self._spacing,
            poll=self._poll,
        ):
            yield jobs_pb2.WatchJobResponse(job=job_message(job))

    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Any) -> jobs_pb2.CancelJobResponse:  # noqa: ARG002, N802
        """Ask a job to stop."""
        job = await watch.cancel(self._jobs, self._changes, job_id_of(request.job_id), _owner())
        return jobs_pb2.CancelJobResponse(job=job_message(job))

    async def ListRefusedRows(  # noqa: N802
        self,
        request: jobs_pb2.ListRefusedRowsRequest,
        context: Any,  # noqa: ARG002
    ) -> jobs_pb2.ListRefusedRowsResponse:
        """A page of a report."""
        size = page_size_of(request.page_size, usual=_ROWS_USUAL, maximum=_ROWS_MAXIMUM)
        position = position_of(request.page_token, _LINE_BYTES)
        job = await watch.get(self._jobs, job_id_of(request.job_id), _owner())
        after_line = 0 if position is None else min(int.from_bytes(position, "big"), 2**63 - 1)
        rows = await self._jobs.refused_rows(job.job_id, after_line=after_line, size=size + 1)
        page = rows[:size]
        return jobs_pb2.ListRefusedRowsResponse(
            rows=[refused_message(row) for row in page],
            next_page_token=page_token(page[-1].line.to_bytes(_LINE_BYTES, "big")) if len(rows) > size else "",
        )


def _owner() -> str | None:
    """Whose jobs the present person may see: their own, or, as an admin, everybody's."""
    person = current_person()
    return None if "admin" in person.roles else person.subject


async def _pieces(requests: AsyncIterator[jobs_pb2.SubmitImportRequest], context: Any) -> AsyncIterator[bytes]:
    """The file, after its header.

    Raises:
        InvalidRequest: A message is no chunk.
    """
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidRequest([("chunk", "must be in every message but the first")])
        yield request.chunk
    # gRPC ends the stream in the same way when the client is done and when it is gone; in the second case the
    # cancellation is on its way.
    for _ in range(10):
        await asyncio.sleep(0)
    if context.cancelled():
        raise asyncio.CancelledError
