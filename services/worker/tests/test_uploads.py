"""Uploads: durable once answered, and gone without a trace when they break."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from almagest.jobs.v1 import jobs_pb2
from chassis.errors import RemoteProblem
from worker.adapters.files import CHUNK_BYTES
from worker.entrypoints.servicer import _pieces

DEAF = {"sweep_seconds": 60.0, "redis_url": "redis://127.0.0.1:1/0"}
"""A worker that takes uploads and never hears of a job."""


async def nothing_left(database: Any) -> bool:
    counts = await database.fetch(
        "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM job_files) + (SELECT count(*) FROM job_file_chunks) AS n"
    )
    return counts[0]["n"] == 0


@pytest.fixture
async def client(workers: Any, editor: Any) -> AsyncIterator[Any]:
    limits = {"import_file_bytes": 2_000_000, "upload_idle_seconds": 1.0, "housekeeping_seconds": 3600.0}
    async with workers.here(**DEAF, **limits) as port:
        async with workers.client(port, editor) as client:
            yield client


async def test_a_file_is_stored_as_it_came(client: Any, workers: Any) -> None:
    """In chunks of one size, whatever the sizes of the pieces, with the job beside it."""
    content = bytes(range(256)) * 4000
    job = await client.submit(content, pieces=99_991)
    chunks = await workers.database.fetch("SELECT number, data FROM job_file_chunks ORDER BY number")
    assert b"".join(chunk["data"] for chunk in chunks) == content
    assert [len(chunk["data"]) for chunk in chunks[:-1]] == [CHUNK_BYTES] * 3
    assert (job.state, job.progress.bytes_total) == (jobs_pb2.JOB_STATE_QUEUED, len(content))
    assert len(job.trace_id) == 32


async def test_the_same_command_gets_the_original_job(client: Any, workers: Any) -> None:
    """A repeated upload, also one that comes at the same time, is one job and one file."""
    command_id, content = str(uuid.uuid4()), b'{"sku": "a"}\n' * 50_000
    jobs = await asyncio.gather(*(client.submit(content, command_id=command_id) for _ in range(4)))
    jobs.append(await client.submit(content, command_id=command_id))
    assert len({job.job_id for job in jobs}) == 1
    counts = await workers.database.fetch("SELECT (SELECT count(*) FROM jobs) j, (SELECT count(*) FROM job_files) f")
    assert (counts[0]["j"], counts[0]["f"]) == (1, 1)


@pytest.mark.parametrize("difference", [{"content": b"b"}, {"dry_run": True}, {"name": "other"}, {"on_error": 2}])
async def test_a_command_id_with_another_request_is_refused(
    client: Any, workers: Any, difference: dict[str, Any]
) -> None:
    """Another file, or the same with other options."""
    command_id = str(uuid.uuid4())
    first = await client.submit(b"a", command_id=command_id)
    with pytest.raises(RemoteProblem) as refused:
        await client.submit(**({"content": b"a", "command_id": command_id} | difference))
    assert refused.value.reason == "COMMAND_ID_REUSED"
    assert refused.value.problem.metadata["job_id"] == first.job_id
    assert len(await workers.database.fetch("SELECT FROM job_files")) == 1


async def test_two_people_may_use_the_same_command_id(client: Any, workers: Any, other_editor: Any) -> None:
    """Command ids are each person's own."""
    command_id = str(uuid.uuid4())
    mine = await client.submit(b"a", command_id=command_id)
    async with workers.here(**DEAF) as port, workers.client(port, other_editor) as other:
        assert (await other.submit(b"b", command_id=command_id)).job_id != mine.job_id


@pytest.mark.parametrize(
    ("content", "size", "reason", "code"),
    [
        (b"x" * 1000, 1001, "UPLOAD_SIZE_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT),
        (b"x" * 1000, 999, "UPLOAD_SIZE_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT),
        (b"", 10, "UPLOAD_SIZE_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT),
        (b"", 0, "FILE_EMPTY", grpc.StatusCode.INVALID_ARGUMENT),
        (b"", None, "FILE_EMPTY", grpc.StatusCode.INVALID_ARGUMENT),
        (b"x", 2_000_001, "FILE_TOO_LARGE", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (b"x" * 2_000_001, None, "FILE_TOO_LARGE", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (b"x" * 1_000_000, 1_000_001, "UPLOAD_SIZE_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_file_that_is_not_as_announced_leaves_nothing(
    client: Any, workers: Any, content: bytes, size: int | None, reason: str, code: grpc.StatusCode
) -> None:
    """Cut off, too long, empty or too large: a clear refusal, and no chunk stays."""
    with pytest.raises(RemoteProblem) as refused:
        await client.submit(content, size=size)
    assert (refused.value.reason, refused.value.code) == (reason, code)
    assert await nothing_left(workers.database)


@pytest.mark.parametrize("size", [None, 10_000_000])
async def test_an_upload_whose_client_goes_away_leaves_nothing(
    client: Any, workers: Any, until: Any, header: Any, size: int | None
) -> None:
    """Also when the size was not announced, so that only the cancellation tells a broken upload from a whole one."""
    for cut in range(12):
        stored = asyncio.Event()

        async def requests(cut: int = cut, stored: asyncio.Event = stored) -> AsyncIterator[Any]:
            yield header(None if size is None else 1_900_000)
            for _ in range(cut % 4):
                yield jobs_pb2.SubmitImportRequest(chunk=b"x" * 300_000)
            stored.set()
            await asyncio.Event().wait()

        call = asyncio.create_task(client.stub.SubmitImport(requests(), metadata=await client.metadata(), timeout=30))
        await stored.wait()
        if cut % 4:
            await until(lambda: workers.database.fetch("SELECT FROM job_file_chunks"))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: nothing_left(workers.database))


async def test_the_end_of_a_cancelled_stream_is_not_the_end_of_the_file() -> None:
    """Over gRPC the iterator ends in both cases; only the context tells."""

    class Context:
        def __init__(self, *, cancelled: bool) -> None:
            self.cancelled = lambda: cancelled

    async def requests() -> AsyncIterator[Any]:
        yield jobs_pb2.SubmitImportRequest(chunk=b"x")

    assert [piece async for piece in _pieces(requests(), Context(cancelled=False))] == [b"x"]
    with pytest.raises(asyncio.CancelledError):
        assert [piece async for piece in _pieces(requests(), Context(cancelled=True))]


async def test_a_message_of_an_upload_that_is_none_is_refused(client: Any, workers: Any, header: Any) -> None:
    """As bytes that are no request at all are, and what had come before leaves nothing."""
    raw = client.channel.stream_unary("/almagest.jobs.v1.JobsService/SubmitImport")

    async def requests() -> AsyncIterator[bytes]:
        yield header(None).SerializeToString()
        yield jobs_pb2.SubmitImportRequest(chunk=b"x" * 300_000).SerializeToString()
        yield b"\xff\xff\xff\xff"

    with pytest.raises(RemoteProblem) as refused:
        await raw(requests(), metadata=await client.metadata(), timeout=30)
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED")
    assert await nothing_left(workers.database)


async def test_an_upload_that_stands_still_is_ended_and_leaves_nothing(client: Any, workers: Any, header: Any) -> None:
    """After `upload_idle_seconds` without a byte."""

    async def requests() -> AsyncIterator[Any]:
        yield header(None)
        yield jobs_pb2.SubmitImportRequest(chunk=b"x" * 300_000)
        await asyncio.Event().wait()

    with pytest.raises(RemoteProblem) as refused:
        await client.stub.SubmitImport(requests(), metadata=await client.metadata(), timeout=30)
    assert refused.value.reason == "UPLOAD_STALLED"
    assert await nothing_left(workers.database)


async def test_an_upload_whose_deadline_passes_leaves_nothing(
    client: Any, workers: Any, until: Any, header: Any
) -> None:
    """The clean-up has time of its own."""

    async def requests() -> AsyncIterator[Any]:
        yield header(None)
        while True:
            yield jobs_pb2.SubmitImportRequest(chunk=b"x" * 1000)
            await asyncio.sleep(0.05)

    with pytest.raises(RemoteProblem) as refused:
        await client.stub.SubmitImport(requests(), metadata=await client.metadata(), timeout=0.7)
    assert refused.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: nothing_left(workers.database))


async def test_an_upload_whose_worker_died_is_swept(workers: Any, editor: Any, until: Any, header: Any) -> None:
    """Nobody is left to clean up, so another worker does, once it has stood still for long enough."""
    dying = await workers.elsewhere(upload_idle_seconds=30.0)
    async with workers.client(dying.grpc, editor) as client:

        async def requests() -> AsyncIterator[Any]:
            yield header(None)
            yield jobs_pb2.SubmitImportRequest(chunk=b"x" * 300_000)
            await asyncio.Event().wait()

        call = asyncio.create_task(client.stub.SubmitImport(requests(), metadata=await client.metadata(), timeout=30))
        await until(lambda: workers.database.fetch("SELECT FROM job_file_chunks"))
        dying.end()
        with pytest.raises(RemoteProblem):
            await call
    async with workers.here(upload_idle_seconds=0.01):
        await until(lambda: nothing_left(workers.database))


async def test_the_file_of_an_ended_job_is_deleted_after_its_retention(workers: Any, editor: Any, until: Any) -> None:
    """Not before, and the job and its report stay."""

    async def files() -> list[Any]:
        return await workers.database.fetch("SELECT job_id FROM job_files")

    async with workers.here() as port, workers.client(port, editor) as client:
        job = await client.ended((await client.submit(b"no json\n", on_error=jobs_pb2.ON_ERROR_SKIP)).job_id)
        # A broken upload beside it shows that the sweep has been there.
        await workers.database.fetch(
            "INSERT INTO job_files (job_id, touched_at) VALUES (gen_random_uuid(), now() - interval '1 day')"
        )

        async def swept() -> bool:
            return [str(row["job_id"]) for row in await files()] == [job.job_id]

        await until(swept)
    async with workers.here(file_retention_seconds=0.0) as port, workers.client(port, editor) as client:

        async def deleted() -> bool:
            return not await files()

        await until(deleted)
        assert not await workers.database.fetch("SELECT FROM job_file_chunks")
        assert (await client.get(job.job_id)).state == jobs_pb2.JOB_STATE_SUCCEEDED
        assert len((await client.refused(job.job_id)).rows) == 1


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "header"),
        ([jobs_pb2.SubmitImportRequest()], "header"),
        ([jobs_pb2.SubmitImportRequest(chunk=b"x")], "header"),
        ([jobs_pb2.SubmitImportRequest(header=jobs_pb2.ImportHeader())], "header.command_id"),
    ],
)
async def test_an_upload_begins_with_a_right_header(client: Any, workers: Any, requests: list[Any], field: str) -> None:
    """Nothing is stored before that."""
    with pytest.raises(RemoteProblem) as refused:
        await client.stub.SubmitImport(iter(requests), metadata=await client.metadata(), timeout=10)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.problem.violations[0].field == field
    assert await nothing_left(workers.database)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"command_id": "nope"}, "header.command_id"),
        ({"command_id": "{0198c5a2-7c1e-7000-8000-0123456789ab}"}, "header.command_id"),
        ({"name": "x" * 201}, "header.name"),
        ({"name": "a\x00b"}, "header.name"),
        ({"format": 0}, "header.options.format"),
        ({"format": 99}, "header.options.format"),
        ({"on_error": 99}, "header.options.on_error"),
        ({"reason": "x" * 501}, "header.options.reason"),
        ({"reason": "a\x00"}, "header.options.reason"),
    ],
)
async def test_a_wrong_header_is_named_by_field(
    client: Any, workers: Any, header: Any, change: Any, field: str
) -> None:
    """Whatever is wrong with the announcement."""
    request = header(1)
    for name, value in change.items():
        setattr(request.header if name in ("command_id", "name") else request.header.options, name, value)
    requests = iter([request, jobs_pb2.SubmitImportRequest(chunk=b"x")])
    with pytest.raises(RemoteProblem) as refused:
        await client.stub.SubmitImport(requests, metadata=await client.metadata(), timeout=10)
    assert [violation.field for violation in refused.value.problem.violations] == [field]
    assert await nothing_left(workers.database)


async def test_a_second_header_is_refused_and_leaves_nothing(client: Any, workers: Any, header: Any) -> None:
    """Only the first message is one."""
    with pytest.raises(RemoteProblem) as refused:
        await client.stub.SubmitImport(
            iter([header(None), jobs_pb2.SubmitImportRequest(chunk=b"x"), header(None)]),
            metadata=await client.metadata(),
            timeout=10,
        )
    assert refused.value.problem.violations[0].field == "chunk"
    assert await nothing_left(workers.database)


async def test_a_client_that_goes_on_sending_is_told_why_its_call_has_ended(client: Any, header: Any) -> None:
    """A refusal, or the end of its time, that comes while a piece is sent. gRPC for Python told some of an internal
    error (grpc/grpc#36066).
    """

    async def requests(*headers: Any) -> AsyncIterator[Any]:
        for each in headers:
            yield each
        while True:
            yield jobs_pb2.SubmitImportRequest(chunk=b"x" * 100)
            await asyncio.sleep(0.0005)

    async def reason(timeout: float, *headers: Any) -> str:
        with pytest.raises(RemoteProblem) as refused:
            await client.stub.SubmitImport(requests(*headers), metadata=await client.metadata(), timeout=timeout)
        return refused.value.reason

    for number in range(12):
        late = await asyncio.gather(*(reason(0.05 + (number + more / 4) / 400, header(None)) for more in range(4)))
        assert set(late) == {"DEADLINE_EXCEEDED"}
        refused = await asyncio.gather(*(reason(30, header(None), header(None)) for _ in range(4)))
        assert set(refused) == {"INVALID_REQUEST"}
