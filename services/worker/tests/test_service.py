"""The doors of JobsService: who may enter, whose jobs they see, pages and watching."""

import asyncio
import time
import uuid
from typing import Any

import grpc
import pytest
from almagest.auth.v1 import privacy_pb2
from almagest.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from chassis.errors import RemoteProblem
from chassis.policy import complete
from chassis.searching.servicer import POLICY as SEARCHING
from worker.entrypoints.policy import POLICY

SKIP = jobs_pb2.ON_ERROR_SKIP
DEAF = {"sweep_seconds": 60.0, "redis_url": "redis://127.0.0.1:1/0"}
NOWHERE = "0198c5a2-7c1e-7000-8000-0123456789ab"

REQUESTS = {
    "SubmitImport": lambda: iter([jobs_pb2.SubmitImportRequest()]),
    "GetJob": lambda: jobs_pb2.GetJobRequest(job_id=NOWHERE),
    "ListJobs": jobs_pb2.ListJobsRequest,
    "WatchJob": lambda: jobs_pb2.WatchJobRequest(job_id=NOWHERE),
    "CancelJob": lambda: jobs_pb2.CancelJobRequest(job_id=NOWHERE),
    "ListRefusedRows": lambda: jobs_pb2.ListRefusedRowsRequest(job_id=NOWHERE),
}


async def call(stub: Any, method: str, token: str | None) -> None:
    metadata = () if token is None else (("txn-token", token),)
    answer = getattr(stub, method)(REQUESTS[method](), metadata=metadata, timeout=10)
    if method == "WatchJob":
        async for _ in answer:
            pass
    else:
        await answer


def test_the_policy_has_a_row_for_each_method() -> None:
    """No more and no less, and every row is tried below."""
    jobs = jobs_pb2.DESCRIPTOR.services_by_name["JobsService"]
    complete(POLICY, [jobs, privacy_pb2.DESCRIPTOR.services_by_name["PersonalDataService"]])
    ours = {name.rpartition("/") for name in POLICY if name not in SEARCHING}
    assert ours == {(f"/{jobs.full_name}", "/", method) for method in REQUESTS}


async def test_only_the_gateway_enters_and_only_for_a_person_with_the_scope(
    workers: Any, people: Any, editor: Any, viewer: Any, transaction_tokens: Any
) -> None:
    """Every cell of the policy: other workloads, nobody, a forged and an expired token, and too little scope are refused."""
    editors, viewers = await people.token(editor), await people.token(viewer)
    writing = {"SubmitImport", "CancelJob"}
    async with workers.here(**DEAF) as port:
        for caller in ("operator", "catalog-query", "catalog-command", "event-store", "worker", "auth"):
            async with workers.backend.channel("worker", port=port, caller=caller) as channel:
                stub = jobs_pb2_grpc.JobsServiceStub(channel)
                for method in REQUESTS:
                    with pytest.raises(RemoteProblem) as refused:
                        await call(stub, method, editors)
                    assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED, (caller, method)
                    assert refused.value.reason == "CALLER_NOT_ALLOWED"
        async with workers.backend.channel("worker", port=port) as channel:
            stub = jobs_pb2_grpc.JobsServiceStub(channel)
            for method in REQUESTS:
                for token in (None, "", "nonsense", transaction_tokens(), editors[:-4] + "AAAA"):
                    with pytest.raises(RemoteProblem) as refused:
                        await call(stub, method, token)
                    assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED, (method, token)
                with pytest.raises(RemoteProblem) as refused:
                    await call(stub, method, viewers) if method != "ListJobs" else await call(stub, "GetJob", viewers)
                expected = grpc.StatusCode.PERMISSION_DENIED if method in writing else grpc.StatusCode.NOT_FOUND
                assert refused.value.code is expected, method


async def test_people_see_their_own_jobs_and_admins_all(
    workers: Any, editor: Any, other_editor: Any, admin: Any
) -> None:
    """Somebody else's job is as if it were not there, for every method."""
    async with workers.here(**DEAF) as port, workers.client(port, editor) as mine:
        job = await mine.submit(b"x")
        async with workers.client(port, other_editor) as other, workers.client(port, admin) as everybody:
            assert (await everybody.get(job.job_id)).job_id == job.job_id
            assert [found.job_id for found in (await everybody.jobs()).jobs] == [job.job_id]
            assert not (await other.jobs()).jobs
            for attempt in (other.get, other.cancel, other.refused, other.ended):
                with pytest.raises(RemoteProblem) as refused:
                    await attempt(job.job_id)
                assert refused.value.reason == "JOB_NOT_FOUND"
            assert (await mine.get(job.job_id)).state == jobs_pb2.JOB_STATE_QUEUED
            assert (await everybody.cancel(job.job_id)).state == jobs_pb2.JOB_STATE_CANCELLED


async def test_jobs_are_listed_latest_first_in_pages_and_by_state(workers: Any, editor: Any) -> None:
    """Every job once, whatever the page size."""
    async with workers.here(**DEAF) as port, workers.client(port, editor) as client:
        made = [(await client.submit(b"x")).job_id for _ in range(7)]
        await client.cancel(made[2])
        seen: list[str] = []
        token = ""
        while True:
            page = await client.jobs(page_size=3, page_token=token)
            seen += [job.job_id for job in page.jobs]
            token = page.next_page_token
            if not token:
                break
        assert seen == made[::-1]
        cancelled = await client.jobs(states=[jobs_pb2.JOB_STATE_CANCELLED, jobs_pb2.JOB_STATE_FAILED])
        assert [job.job_id for job in cancelled.jobs] == [made[2]]
        assert len((await client.jobs(page_size=200)).jobs) == 7
        assert not (await client.jobs(page_size=7)).next_page_token


@pytest.mark.parametrize(
    ("request_of", "field"),
    [
        (lambda client: client.jobs(page_size=201), "page_size"),
        (lambda client: client.jobs(page_token="nope"), "page_token"),
        (lambda client: client.jobs(page_token="!!!"), "page_token"),
        (lambda client: client.jobs(states=[0]), "states"),
        (lambda client: client.jobs(states=[77]), "states"),
        (lambda client: client.refused(NOWHERE, page_size=1001), "page_size"),
        (lambda client: client.refused(NOWHERE, page_token="AA"), "page_token"),
        (lambda client: client.get(""), "job_id"),
        (lambda client: client.get("7"), "job_id"),
        (lambda client: client.cancel(f"urn:uuid:{NOWHERE}"), "job_id"),
        (lambda client: client.ended("x" * 10_000), "job_id"),
    ],
)
async def test_a_wrong_request_is_named_by_field(workers: Any, editor: Any, request_of: Any, field: str) -> None:
    """INVALID_ARGUMENT, and nothing looked up."""
    async with workers.here(**DEAF) as port, workers.client(port, editor) as client:
        with pytest.raises(RemoteProblem) as refused:
            await request_of(client)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in refused.value.problem.violations] == [field]


async def test_a_watcher_sees_growing_progress_and_the_end_without_being_flooded(
    workers: Any, editor: Any, rows: Any
) -> None:
    """Revisions only grow, changes that are close together come as one, and the last message is the end."""
    content = rows.ndjson([rows.row(sku) for sku in rows.skus(2000)])
    async with workers.here(batch_rows=10) as port, workers.client(port, editor) as client:
        began = time.monotonic()
        job_id = (await client.submit(content, on_error=SKIP)).job_id
        seen = [job async for job in client.watch(job_id)]
        took = time.monotonic() - began
    revisions = [job.revision for job in seen]
    assert revisions == sorted(set(revisions))
    assert seen[-1].state == jobs_pb2.JOB_STATE_SUCCEEDED
    assert revisions[-1] > 200
    assert 3 <= len(seen) <= took / 0.1 + 3
    assert [job.progress.rows_done for job in seen] == sorted(job.progress.rows_done for job in seen)


async def test_a_watcher_at_another_worker_hears_of_changes_at_once(
    workers: Any, editor: Any, until: Any, rows: Any
) -> None:
    """Through Redis, long before the poll would find out."""
    content = rows.ndjson([rows.row(sku) for sku in rows.skus(3)])
    running = await workers.elsewhere()
    async with workers.here(jobs_at_once=1, sweep_seconds=60.0, watch_poll_seconds=3600.0) as port:
        async with workers.client(port, editor) as watching, workers.client(running.grpc, editor) as client:
            for _ in range(5):
                job = await client.submit(content)
                assert (await asyncio.wait_for(watching.ended(job.job_id), 20)).state == jobs_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.usefixtures("fresh_redis")
async def test_a_watcher_without_redis_finds_out_by_looking(workers: Any, editor: Any, rows: Any, valkey: Any) -> None:
    """The poll is enough."""
    content = rows.ndjson([rows.row(sku) for sku in rows.skus(3)])
    valkey.kill()
    running = await workers.elsewhere()
    async with workers.here(**DEAF, watch_poll_seconds=0.1) as port:
        async with workers.client(port, editor) as watching, workers.client(running.grpc, editor) as client:
            job = await client.submit(content)
            assert (await watching.ended(job.job_id)).state == jobs_pb2.JOB_STATE_SUCCEEDED


async def test_a_watch_that_is_given_up_harms_nobody(workers: Any, editor: Any) -> None:
    """Neither does one of a job that does not exist."""
    async with workers.here(**DEAF) as port, workers.client(port, editor) as client:
        job_id = (await client.submit(b"x")).job_id
        watching = client.watch(job_id)
        assert (await anext(watching)).job_id == job_id
        await watching.aclose()
        with pytest.raises(RemoteProblem):
            await client.ended(str(uuid.uuid4()))
        assert (await client.cancel(job_id)).state == jobs_pb2.JOB_STATE_CANCELLED


async def test_the_run_is_a_trace_of_its_own_linked_to_the_submission(
    workers: Any, editor: Any, rows: Any, tmp_path: Any, until: Any
) -> None:
    """Following the link from the run leads to the trace that the job names."""
    import orjson  # noqa: PLC0415

    worker = await workers.elsewhere(trace_directory=tmp_path)
    async with workers.client(worker.grpc, editor) as client:
        job = await client.submit(rows.ndjson([rows.row(sku) for sku in rows.skus(3)]))
        await client.ended(job.job_id)
    worker.end(15)
    spans = [orjson.loads(line) for path in tmp_path.iterdir() for line in path.read_bytes().splitlines()]
    run = next(span for span in spans if span["name"] == "run import")
    assert run["trace_id"] != job.trace_id
    assert [link["trace_id"] for link in run["links"]] == [job.trace_id]
    assert run["attributes"]["job.outcome"] == "ended"
    calls = [span for span in spans if span["trace_id"] == run["trace_id"] and "ExecuteCommands" in span["name"]]
    assert calls
    assert all(span["parent_id"] == run["span_id"] for span in calls)
