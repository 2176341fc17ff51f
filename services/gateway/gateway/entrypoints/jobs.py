from collections.abc import AsyncIterator
from typing import Annotated

from almagest.jobs.v1 import jobs_pb2
from chassis.deadlines import set_deadline
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from gateway import types
from gateway.encoding import encode
from gateway.entrypoints.dependencies import Asker, Backends, IdempotencyKey, json_response, next_link, uuid_of
from gateway.entrypoints.documentation import ASKED, LINK, WRITE, problems, success
from gateway.entrypoints.events import EventStream
from gateway.entrypoints.signed import SignedRoute
from gateway.entrypoints.writes import a_write
from gateway.representations.jobs import STATES, Job, JobPage, RefusedPage, job, refused_row
from gateway.requests.jobs import ListJobs, ListRefused

router = APIRouter(tags=["jobs"], route_class=SignedRoute)
JobId = Annotated[types.Uuid, Path()]


@router.get(
    "/v1/jobs",
    operation_id="listJobs",
    summary="List jobs",
    responses={
        200: success("A page of one's own jobs (an admin's: all), latest first", JobPage, LINK),
        **problems(*ASKED),
    },
)
async def list_jobs(request: Request, person: Asker, wanted: Annotated[ListJobs, Query()], ports: Backends) -> Response:
    """A page of jobs."""
    answer = await ports.worker.list_jobs(
        jobs_pb2.ListJobsRequest(
            page_size=wanted.page_size, page_token=wanted.cursor or "", states=[STATES[state] for state in wanted.state]
        ),
        person,
    )
    return json_response(
        {"items": [job(message) for message in answer.jobs], "next_cursor": answer.next_page_token or None},
        headers=next_link(request, answer.next_page_token),
    )


@router.get(
    "/v1/jobs/{job_id}",
    operation_id="getJob",
    summary="One job",
    responses={200: success("The job", Job), **problems(*ASKED, 404)},
)
async def get_job(job_id: JobId, person: Asker, ports: Backends) -> Response:
    """A job and how far it is."""
    return json_response(job(await ports.worker.get_job(uuid_of("job_id", job_id), person)))


@router.get(
    "/v1/jobs/{job_id}/events",
    operation_id="watchJob",
    summary="Follow a job",
    responses={
        200: success(
            "Server-sent events: `event: job` with the job as data, now and at each change, until it has ended",
            {"type": "string"},
            media_type="text/event-stream",
        ),
        **problems(*ASKED, 404),
    },
)
async def watch_job(job_id: JobId, person: Asker, ports: Backends) -> Response:
    """Follow a job as it goes. A client that is cut off asks again, and begins with the job as it is then."""
    wanted = uuid_of("job_id", job_id)
    # As long as the job takes.
    set_deadline(None)
    changes = ports.worker.watch_job(wanted, person)
    # The first before the status line, so that a job that is not there is a problem like any other.
    first = await anext(aiter(changes), None)
    return EventStream(_events(first, changes))


async def _events(first: jobs_pb2.Job | None, changes: AsyncIterator[jobs_pb2.Job]) -> AsyncIterator[bytes]:
    if first is not None:
        yield _event(first)
        async for message in changes:
            yield _event(message)


def _event(message: jobs_pb2.Job) -> bytes:
    return b"event: job\nid: %d\ndata: %b\n\n" % (message.revision, encode(job(message)))


@router.post(
    "/v1/jobs/{job_id}:cancel",
    operation_id="cancelJob",
    summary="Stop a job",
    responses={200: success("The job", Job), **problems(*ASKED, *WRITE, 404, 422)},
)
async def cancel_job(
    request: Request, job_id: JobId, person: Asker, ports: Backends, key: IdempotencyKey = None
) -> Response:
    """Ask a job to stop. What it has applied stays. One that has ended stays as it is."""
    wanted = uuid_of("job_id", job_id)
    async with a_write(request, ports, person, key, body=b""):
        message = await ports.worker.cancel_job(wanted, person)
    return json_response(job(message))


@router.get(
    "/v1/jobs/{job_id}/refused",
    operation_id="listRefusedRows",
    summary="Which rows were refused, and why",
    responses={200: success("A page of an import's report, by line", RefusedPage, LINK), **problems(*ASKED, 404)},
)
async def list_refused_rows(
    request: Request, job_id: JobId, person: Asker, wanted: Annotated[ListRefused, Query()], ports: Backends
) -> Response:
    """The rows of an import that were refused."""
    answer = await ports.worker.refused_rows(
        jobs_pb2.ListRefusedRowsRequest(
            job_id=uuid_of("job_id", job_id), page_size=wanted.page_size, page_token=wanted.cursor or ""
        ),
        person,
    )
    return json_response(
        {"items": [refused_row(row) for row in answer.rows], "next_cursor": answer.next_page_token or None},
        headers=next_link(request, answer.next_page_token),
    )
