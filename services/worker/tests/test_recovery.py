"""Whatever is killed, stopped or flushed during an import: every row takes effect once, and the report is whole."""

import asyncio
import signal
import uuid
from typing import Any

import pytest
import redis
from almagest.jobs.v1 import jobs_pb2

SKIP, STOP = jobs_pb2.ON_ERROR_SKIP, jobs_pb2.ON_ERROR_STOP
CREATED = ["ProductCreated", "PriceSet", "ProductPublished"]
SMALL = {"batch_rows": 20, "batches_in_flight": 3}


def an_import(rows: Any, count: int) -> tuple[list[str], bytes, list[int]]:
    """SKUs, a file in which every hundredth row is refused, and the lines of those."""
    names = rows.skus(count)
    lines = [rows.row(sku) for sku in names]
    refused = list(range(50, count, 100))
    for index in refused:
        lines[index]["attributes"]["doors"] = 12
    return names, rows.ndjson(lines), [index + 1 for index in refused]


async def proven(client: Any, backend: Any, job: Any, names: list[str], refused: list[int]) -> None:
    """The job succeeded, its counts and its report are exact, and each product has its events once."""
    assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED, job
    assert job.progress.rows_created == len(names) - len(refused)
    assert job.progress.rows_refused == len(refused)
    assert job.progress.rows_done == len(names)
    report = (await client.refused(job.job_id, page_size=1000)).rows
    assert [row.line for row in report] == refused
    events = await backend.events_of(names)
    assert [events[sku] for sku in names] == [
        [] if number in set(refused) else CREATED for number in range(1, len(names) + 1)
    ]


def underway(client: Any, job_id: str, rows_done: int = 100) -> Any:
    async def check() -> bool:
        job = await client.get(job_id)
        assert job.state in (jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_RUNNING), "the import was too short"
        return job.progress.rows_done >= rows_done

    return check


async def test_a_killed_worker_is_taken_over(workers: Any, editor: Any, backend: Any, rows: Any, until: Any) -> None:
    """After `kill -9` in the middle another worker goes on where the last batch was written down."""
    names, content, refused = an_import(rows, 3000)
    dying = await workers.elsewhere(**SMALL)
    async with workers.client(dying.grpc, editor) as client:
        job_id = (await client.submit(content, on_error=SKIP)).job_id
        await until(underway(client, job_id))
        dying.end(signal.SIGKILL)
    other = await workers.elsewhere(**SMALL)
    async with workers.client(other.grpc, editor) as client:
        job = await client.ended(job_id)
        assert job.attempts == 2
        await proven(client, backend, job, names, refused)


async def test_a_killed_worker_does_not_make_stop_go_on(
    workers: Any, editor: Any, backend: Any, rows: Any, until: Any
) -> None:
    """Refusal and end are written as one, so a takeover never applies rows behind the refused one."""
    names = rows.skus(3000)
    lines = [rows.row(sku) for sku in names]
    lines[2000]["attributes"]["doors"] = 12
    dying = await workers.elsewhere(batch_rows=20)
    async with workers.client(dying.grpc, editor) as client:
        job_id = (await client.submit(rows.ndjson(lines), on_error=STOP)).job_id
        await until(underway(client, job_id))
        dying.end(signal.SIGKILL)
    other = await workers.elsewhere(batch_rows=20)
    async with workers.client(other.grpc, editor) as client:
        job = await client.ended(job_id)
    assert job.state == jobs_pb2.JOB_STATE_FAILED
    assert (job.progress.rows_created, job.progress.rows_refused) == (2000, 1)
    events = await backend.events_of(names)
    assert [bool(events[sku]) for sku in names] == [True] * 2000 + [False] * 1000


async def test_a_paused_worker_finds_its_lease_gone(
    workers: Any, editor: Any, backend: Any, rows: Any, until: Any
) -> None:
    """SIGSTOP, the lease runs out, another worker goes on; the first one wakes, and nothing that it still writes counts."""
    names, content, refused = an_import(rows, 4000)
    paused = await workers.elsewhere(**SMALL)
    async with workers.client(paused.grpc, editor) as client:
        job_id = (await client.submit(content, on_error=SKIP)).job_id
        await until(underway(client, job_id))
        paused.send(signal.SIGSTOP)
    other = await workers.elsewhere(**SMALL)
    async with workers.client(other.grpc, editor) as client:

        async def taken_over() -> bool:
            return (await client.get(job_id)).attempts == 2

        await until(taken_over)
        paused.send(signal.SIGCONT)
        job = await client.ended(job_id)
        await until(lambda: '"outcome":"lost"' in paused.log.read_text())
        assert job.attempts == 2
        await proven(client, backend, await client.get(job_id), names, refused)


async def test_flushing_redis_loses_nothing(
    workers: Any, editor: Any, backend: Any, rows: Any, until: Any, valkey: Any
) -> None:
    """Jobs that waited only in the flushed stream are found by the sweep, and rings work again afterwards."""
    names, content, refused = an_import(rows, 2000)
    waiting, other, other_refused = an_import(rows, 200)
    async with workers.here(jobs_at_once=1, **SMALL) as port, workers.client(port, editor) as client:
        first = (await client.submit(content, on_error=SKIP)).job_id
        await until(underway(client, first))
        second = (await client.submit(other, on_error=SKIP)).job_id
        flushing = redis.Redis.from_url(valkey.url)
        flushing.flushall()
        await proven(client, backend, await client.ended(first), names, refused)
        await proven(client, backend, await client.ended(second), waiting, other_refused)
        # Without any sweep in time, only a ring can start this one.
        await until(lambda: flushing.exists("almagest:jobs"))
        flushing.close()


async def test_a_ring_starts_a_job_without_waiting_for_the_sweep(
    workers: Any, editor: Any, rows: Any, until: Any, valkey: Any
) -> None:
    """The doorbell works, also after a FLUSHALL has taken its consumer group away, and keeps no entry behind."""
    content = rows.ndjson([rows.row(sku) for sku in rows.skus(1)])
    bell = redis.Redis.from_url(valkey.url)
    async with workers.here(sweep_seconds=3600.0) as port, workers.client(port, editor) as client:
        await client.ended((await client.submit(content)).job_id)
        bell.flushall()
        await until(lambda: bell.exists("almagest:jobs"))
        await client.ended((await client.submit(content)).job_id)
        await until(lambda: bell.xlen("almagest:jobs") == 0)
        assert bell.xpending("almagest:jobs", "workers")["pending"] == 0
    bell.close()


async def test_a_ring_that_died_with_its_worker_is_cleared_away(
    workers: Any, editor: Any, rows: Any, until: Any, valkey: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that took an entry and was killed leaves it pending; another one removes it."""
    monkeypatch.setattr("worker.entrypoints.runner._UNHEARD_SECONDS", 0.1)
    bell = redis.Redis.from_url(valkey.url)
    bell.flushall()
    bell.xgroup_create("almagest:jobs", "workers", id="0", mkstream=True)
    bell.xadd("almagest:jobs", {"job": uuid.uuid4().bytes})
    bell.xreadgroup("workers", "dead", {"almagest:jobs": ">"})
    async with workers.here():
        await until(lambda: bell.xlen("almagest:jobs") == 0)
        assert bell.xpending("almagest:jobs", "workers")["pending"] == 0
    bell.close()


@pytest.mark.usefixtures("fresh_redis")
async def test_without_redis_imports_go_on_and_new_ones_start(
    workers: Any, editor: Any, backend: Any, rows: Any, until: Any, valkey: Any
) -> None:
    """Redis is killed during an import: that one ends, another one can be submitted, is swept up, and can be watched."""
    names, content, refused = an_import(rows, 2000)
    later, other, other_refused = an_import(rows, 200)
    async with workers.here(**SMALL) as port, workers.client(port, editor) as client:
        first = (await client.submit(content, on_error=SKIP)).job_id
        await until(underway(client, first))
        valkey.kill()
        # Nobody waits for Redis.
        async with asyncio.timeout(10):
            second = (await client.submit(other, on_error=SKIP)).job_id
        await proven(client, backend, await client.ended(first), names, refused)
        await proven(client, backend, await client.ended(second), later, other_refused)
        valkey.start()
        third = await client.submit(rows.ndjson([rows.row(sku) for sku in rows.skus(1)]))
        assert (await client.ended(third.job_id)).state == jobs_pb2.JOB_STATE_SUCCEEDED


async def test_a_killed_postgres_delays_the_import(
    workers: Any, editor: Any, backend: Any, rows: Any, until: Any, postgres: Any
) -> None:
    """Jobs, people and events are all away for a moment; afterwards the import ends as if nothing had been."""
    names, content, refused = an_import(rows, 3000)
    async with workers.here(**SMALL) as port, workers.client(port, editor) as client:
        job_id = (await client.submit(content, on_error=SKIP)).job_id
        await until(underway(client, job_id))
        postgres.kill()
        await asyncio.to_thread(postgres.start)

        async def ended() -> Any:
            try:
                job = await client.get(job_id)
            except Exception:  # noqa: BLE001 - it may still be away
                return None
            return job if job.ended_at.seconds else None

        job = await until(ended, seconds=60)
        await proven(client, backend, job, names, refused)


async def test_sigterm_gives_the_job_back_at_once(
    workers: Any, editor: Any, backend: Any, rows: Any, until: Any
) -> None:
    """A worker that is told to end finishes its batches, requeues the job where it stands, and leaves before its lease."""
    names, content, refused = an_import(rows, 3000)
    leaving = await workers.elsewhere(lease_seconds=600.0, **SMALL)
    async with workers.client(leaving.grpc, editor) as client:
        job_id = (await client.submit(content, on_error=SKIP)).job_id
        await until(underway(client, job_id))
    assert await asyncio.to_thread(leaving.end, signal.SIGTERM) == 0
    row = (await workers.database.fetch("SELECT state, stalls, rows_created FROM jobs"))[0]
    assert (row["state"], row["stalls"]) == ("queued", 0)
    # Everything that took effect is counted: nothing was under way when it left.
    assert sum(map(bool, (await backend.events_of(names)).values())) == row["rows_created"]
    other = await workers.elsewhere(lease_seconds=600.0, **SMALL)
    async with workers.client(other.grpc, editor) as client:
        await proven(client, backend, await client.ended(job_id), names, refused)


async def test_two_workers_share_the_jobs_and_never_one_job(workers: Any, editor: Any, backend: Any, rows: Any) -> None:
    """Twelve imports over two processes: each was begun once."""
    files = [an_import(rows, 150) for _ in range(12)]
    first, second = await workers.elsewhere(jobs_at_once=2, **SMALL), await workers.elsewhere(jobs_at_once=2, **SMALL)
    async with workers.client(first.grpc, editor) as client, workers.client(second.grpc, editor) as other:
        submitted = await asyncio.gather(
            *(
                (client, other)[number % 2].submit(content, on_error=SKIP)
                for number, (_, content, _) in enumerate(files)
            )
        )
        for job, (names, _, refused) in zip(submitted, files, strict=True):
            ended = await client.ended(job.job_id)
            assert ended.attempts == 1
            await proven(client, backend, ended, names, refused)
    owners = [process.log.read_text().count("an attempt begins") for process in (first, second)]
    assert sum(owners) == 12
