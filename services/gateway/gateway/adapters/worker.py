import asyncio
from collections.abc import AsyncIterator

from almagest.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from chassis.rpc.channel import Channel

from gateway.adapters.auth import on_behalf_of
from gateway.application.ports import Person, Worker

LIMIT_SECONDS = 30.0
_SERVICE = "/almagest.jobs.v1.JobsService/"
RETRYABLE = frozenset(_SERVICE + method for method in ("GetJob", "ListJobs", "CancelJob", "ListRefusedRows"))


class GrpcWorker(Worker):
    """The worker over gRPC."""

    def __init__(self, channel: Channel, *, upload_seconds: float) -> None:
        self._stub = jobs_pb2_grpc.JobsServiceStub(channel)
        self._upload_seconds = upload_seconds

    async def submit_import(  # noqa: D102 - the port says
        self, header: jobs_pb2.ImportHeader, chunks: AsyncIterator[bytes], person: Person
    ) -> jobs_pb2.Job:
        failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def parts() -> AsyncIterator[jobs_pb2.SubmitImportRequest]:
            yield jobs_pb2.SubmitImportRequest(header=header)
            try:
                async for chunk in chunks:
                    yield jobs_pb2.SubmitImportRequest(chunk=chunk)
            except Exception as error:  # noqa: BLE001 - raised below, once the call is cancelled
                if not failure.done():
                    failure.set_exception(error)
                # An upload that ends without an end must not look like one that is complete.
                await asyncio.Event().wait()

        call = asyncio.ensure_future(
            self._stub.SubmitImport(parts(), metadata=on_behalf_of(person), timeout=self._upload_seconds)
        )
        try:
            await asyncio.wait({call, failure}, return_when=asyncio.FIRST_COMPLETED)
            if failure.done():
                failure.result()
            return (await call).job
        finally:
            failure.cancel()
            if not call.done():
                call.cancel()
                await asyncio.wait({call})

    async def get_job(self, job_id: str, person: Person) -> jobs_pb2.Job:  # noqa: D102
        answer = await self._stub.GetJob(jobs_pb2.GetJobRequest(job_id=job_id), metadata=on_behalf_of(person))
        return answer.job

    async def list_jobs(  # noqa: D102
        self, request: jobs_pb2.ListJobsRequest, person: Person
    ) -> jobs_pb2.ListJobsResponse:
        return await self._stub.ListJobs(request, metadata=on_behalf_of(person), timeout=LIMIT_SECONDS)

    async def watch_job(self, job_id: str, person: Person) -> AsyncIterator[jobs_pb2.Job]:  # noqa: D102
        call = self._stub.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id), metadata=on_behalf_of(person))
        async for answer in call:
            yield answer.job

    async def cancel_job(self, job_id: str, person: Person) -> jobs_pb2.Job:  # noqa: D102
        answer = await self._stub.CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id), metadata=on_behalf_of(person))
        return answer.job

    async def refused_rows(  # noqa: D102
        self, request: jobs_pb2.ListRefusedRowsRequest, person: Person
    ) -> jobs_pb2.ListRefusedRowsResponse:
        return await self._stub.ListRefusedRows(request, metadata=on_behalf_of(person), timeout=LIMIT_SECONDS)
