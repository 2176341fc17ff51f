"""Imports of files that the worker fetches: from a real server with TLS, through the real services."""

import asyncio
import gzip
import shutil
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from almagest.jobs.v1 import jobs_pb2
from chassis.errors import RemoteProblem

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]
CSV = b"sku,kind,name,make,model,model_year\n"


class Site:
    """A server that answers paths, and counts how often it was asked."""

    def __init__(self, web: Path, ca: Path) -> None:
        self.web, self.ca = web, ca
        self.paths: dict[str, Handler] = {}
        self.asked: list[str] = []
        self.port = 0

    def url(self, path: str, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"

    def serve(self, path: str, body: bytes, *headers: str, status: str = "200 OK") -> str:
        async def handler(writer: asyncio.StreamWriter) -> None:
            lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers, "", ""]
            writer.write("\r\n".join(lines).encode() + body)
            await writer.drain()

        self.paths[path] = handler
        return self.url(path)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            self.asked.append(path)
            await self.paths[path](writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def told(self, **more: Any) -> dict[str, Any]:
        """The settings of a worker that may fetch from here."""
        return {
            "import_hosts": ("localhost",),
            "import_ports": (self.port,),
            "import_networks": ("127.0.0.1/32",),
            "import_ca_file": self.ca,
            "import_fetch_idle_seconds": 2.0,
        } | more


@pytest.fixture
async def site(authority: Any, tmp_path: Path) -> AsyncIterator[Site]:
    web = Path(shutil.copytree(authority.issue_web(["localhost"]), tmp_path / "web"))
    made = Site(web, authority.directory / "ca.crt")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(web / "tls.crt", web / "tls.key")
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def submit(client: Any, url: str, header: Any, **more: Any) -> jobs_pb2.Job:
    request = header(None, **more)
    request.header.source_url = url
    return (await client.stub.SubmitImport(iter([request]), metadata=await client.metadata(), timeout=30)).job


def row(sku: str) -> bytes:
    return f"{sku},car,Volvo V60,Volvo,V60,2026\n".encode()


async def test_a_file_is_fetched_imported_and_not_asked_for_again(
    workers: Any, editor: Any, site: Site, rows: Any, header: Any
) -> None:
    """Plain, packed for the way, or packed as a file; its progress is told, its query is not; a repeat is the same job."""
    names = rows.skus(6000)
    content = CSV + b"".join(row(sku) for sku in names)
    plain = site.serve("/cars.csv?signature=secret", content, "content-type: text/csv")
    packed = site.serve("/packed", gzip.compress(content), "content-encoding: gzip")
    file = site.serve("/cars.csv.gz", gzip.compress(content), "content-type: application/gzip")
    csv = jobs_pb2.IMPORT_FORMAT_CSV
    async with workers.here(**site.told()) as port, workers.client(port, editor) as client:
        command = str(uuid.uuid4())
        submitted = await submit(client, plain, header, format=csv, command_id=command)
        assert submitted.source_url == site.url("/cars.csv")
        job = await client.ended(submitted.job_id)
        assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED, job
        assert (job.progress.rows_created, job.progress.rows_refused) == (6000, 0)
        assert job.progress.bytes_done == job.progress.bytes_total == job.progress.bytes_fetched == len(content)
        again = await submit(client, plain, header, format=csv, command_id=command)
        assert again.job_id == submitted.job_id
        with pytest.raises(RemoteProblem, match="used for another import"):
            await submit(client, packed, header, format=csv, command_id=command)
        for url in (packed, file):
            other = await client.ended((await submit(client, url, header, format=csv)).job_id)
            assert (other.progress.rows_unchanged, other.progress.bytes_total) == (6000, len(content)), other
    assert site.asked == ["/cars.csv?signature=secret", "/packed", "/cars.csv.gz"]


async def test_nothing_is_fetched_where_nothing_is_allowed(workers: Any, editor: Any, site: Site, header: Any) -> None:
    """Without the setting there is no such thing; with it, only what it allows; told at once, with what can be done."""
    url = site.serve("/cars.csv", CSV)
    async with workers.here() as port, workers.client(port, editor) as client:
        with pytest.raises(RemoteProblem, match="ALMAGEST_IMPORT_HOSTS") as refusal:
            await submit(client, url, header)
        assert refusal.value.reason == "SOURCE_REFUSED"
        assert refusal.value.code == grpc.StatusCode.INVALID_ARGUMENT
    async with workers.here(**site.told()) as port, workers.client(port, editor) as client:
        for wrong, why in (
            ("https://elsewhere.example/cars.csv", "none of them"),
            (site.url("/cars.csv", "127.0.0.1"), "none of them"),
            (f"http://localhost:{site.port}/cars.csv", "Only https"),
            ("https://localhost/cars.csv", "Port 443"),
        ):
            with pytest.raises(RemoteProblem, match=why):
                await submit(client, wrong, header)
        request = header(10)
        request.header.source_url = url
        with pytest.raises(RemoteProblem, match="is not for a file that is fetched"):
            await client.stub.SubmitImport(iter([request]), metadata=await client.metadata(), timeout=30)
        request = header(None)
        request.header.source_url = url
        chunk = jobs_pb2.SubmitImportRequest(chunk=b"x")
        with pytest.raises(RemoteProblem) as mixed:
            await client.stub.SubmitImport(iter([request, chunk]), metadata=await client.metadata(), timeout=30)
        assert mixed.value.reason == "UPLOAD_SIZE_MISMATCH"
        assert not (await client.jobs()).jobs
    assert not site.asked


async def test_an_address_that_is_not_allowed_ends_the_job_with_a_reason(
    workers: Any, editor: Any, site: Site, header: Any
) -> None:
    """The name is allowed, what it stands for is not: found out when it is fetched, and nothing is connected to."""
    url = site.serve("/cars.csv", CSV)
    async with workers.here(**site.told(import_networks=())) as port, workers.client(port, editor) as client:
        job = await client.ended((await submit(client, url, header)).job_id)
    assert job.state == jobs_pb2.JOB_STATE_FAILED
    assert (job.error.reason, "not public" in job.error.message) == ("SOURCE_REFUSED", True)
    assert not site.asked


async def test_what_cannot_be_had_ends_the_job_with_a_reason(
    workers: Any, editor: Any, site: Site, header: Any
) -> None:
    """At once where another try is no use; what is empty, too large or no gzip is said to be."""
    wanted = {
        site.serve("/none", b"", status="404 Not Found"): "status 404",
        site.serve("/empty", b""): "empty",
        site.serve("/large", b"x" * 300_000): "larger than",
        site.serve("/bomb", gzip.compress(bytes(50_000_000))): "larger than",
        site.serve("/broken", gzip.compress(b"x" * 1000)[:-4]): "cut off",
        site.serve("/circle", b"", f"location: {site.url('/circle')}", status="302 Found"): "redirects more than",
    }
    async with workers.here(**site.told(import_file_bytes=200_000)) as port, workers.client(port, editor) as client:
        for url, why in wanted.items():
            job = await client.ended((await submit(client, url, header)).job_id)
            assert job.state == jobs_pb2.JOB_STATE_FAILED
            assert why in job.error.message, job.error
            assert job.progress.rows_done == 0


async def test_a_fetch_that_breaks_off_is_begun_anew(
    workers: Any, editor: Any, site: Site, rows: Any, header: Any, jobs_database: Any
) -> None:
    """Cut off in the middle and then refused, the file is there whole, once, when it comes at last."""
    names = rows.skus(20_000)
    content = CSV + b"".join(row(sku) for sku in names)
    url = site.serve("/cars.csv", content)
    whole, tries = site.paths["/cars.csv"], 0

    async def flaky(writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content) + content[:600_000])
            await writer.drain()
        elif tries == 2:
            writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
        else:
            await whole(writer)

    site.paths["/cars.csv"] = flaky
    csv = jobs_pb2.IMPORT_FORMAT_CSV
    async with workers.here(**site.told()) as port, workers.client(port, editor) as client:
        job = await client.ended((await submit(client, url, header, format=csv, dry_run=True)).job_id)
    assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED, job
    assert (tries, job.progress.rows_created, job.progress.bytes_total) == (3, 20_000, len(content))
    [stored] = await jobs_database.fetch("SELECT sum(length(data)) AS size FROM job_file_chunks")
    assert stored["size"] == len(content)


async def test_a_job_is_cancelled_while_its_file_comes(
    workers: Any, editor: Any, site: Site, header: Any, until: Any
) -> None:
    """Its progress is seen meanwhile, and nothing of the file is imported."""
    done = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + CSV)
        while not done.is_set():
            writer.write(row("x") * 10_000)
            await writer.drain()
            await asyncio.wait({asyncio.ensure_future(done.wait())}, timeout=0.05)

    site.paths["/slow.csv"] = slow
    csv = jobs_pb2.IMPORT_FORMAT_CSV
    try:
        async with workers.here(**site.told()) as port, workers.client(port, editor) as client:
            job_id = (await submit(client, site.url("/slow.csv"), header, format=csv)).job_id

            async def seen() -> bool:
                return (await client.get(job_id)).progress.bytes_fetched > 500_000

            await until(seen)
            await client.cancel(job_id)
            job = await client.ended(job_id)
    finally:
        done.set()
    assert (job.state, job.progress.rows_done) == (jobs_pb2.JOB_STATE_CANCELLED, 0)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_worker_that_was_overtaken_stores_nothing(jobs_database: Any, times: int) -> None:
    """Its chunks come too late for the file of the one that fetches now; the same chunk twice is there once."""
    from chassis.database.pool import Database  # noqa: PLC0415 - only here
    from worker.adapters.files import PostgresFiles  # noqa: PLC0415
    from worker.domain.errors import LeaseLost  # noqa: PLC0415

    job_id = uuid.uuid4()
    await jobs_database.fetch(
        "INSERT INTO jobs (job_id, type, name, state, submitted_by, command_id, fingerprint, traceparent, format,"
        " on_error, dry_run, reason, bytes_total, source_url, fetched, attempts, lease_expires)"
        " VALUES ($1, 'import', '', 'running', 'x', $1, '', '', 'csv', 'stop', false, '', 0, 'https://x', false, 1,"
        " now())",
        job_id,
    )
    database = await Database.open(jobs_database.service, name="jobs", size=2)
    try:
        files = PostgresFiles(database)
        await files.restart(job_id, 1)
        await files.keep(job_id, 1, 0, b"old", fetched=3)
        await jobs_database.fetch("UPDATE jobs SET attempts = 2")
        await files.restart(job_id, 2)
        for _ in range(times):
            assert await files.keep(job_id, 2, 0, b"new", fetched=3) is False
        for late in (
            files.keep(job_id, 1, 1, b"late", fetched=6),
            files.restart(job_id, 1),
            files.complete(job_id, 1, size=3),
        ):
            with pytest.raises(LeaseLost):
                await late
        for _ in range(times):
            await files.complete(job_id, 2, size=3)
    finally:
        await database.close()
    assert [bytes(row["data"]) for row in await jobs_database.fetch("SELECT data FROM job_file_chunks")] == [b"new"]
    [job] = await jobs_database.fetch("SELECT fetched, bytes_total FROM jobs")
    assert (job["fetched"], job["bytes_total"]) == (True, 3)
