"""Imports through the real worker, auth, catalog-command and event store, over mutual TLS."""

from almagest.jobs.v1 import jobs_pb2


async def test_an_import_creates_publishes_and_reports(workers, editor, backend, rows) -> None:
    """Each row becomes a product with description, price and publication, and is counted once."""
    names = rows.skus(600)
    content = rows.ndjson([rows.row(sku) for sku in names])
    async with workers.here() as port, workers.client(port, editor) as client:
        submitted = await client.submit(content)
        assert submitted.state in (jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_RUNNING)
        assert submitted.submitted_by == editor.user_id
        job = await client.ended(submitted.job_id)
        assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED, job
        assert (job.progress.rows_created, job.progress.rows_done) == (600, 600)
        assert job.progress.bytes_done == job.progress.bytes_total == len(content)
        assert 1 <= len(job.consistency_tokens) <= 2
        again = await client.ended((await client.submit(content)).job_id)
    assert (again.progress.rows_unchanged, again.progress.rows_done) == (600, 600)
    events = await backend.events_of(names)
    assert set(map(tuple, events.values())) == {("ProductCreated", "PriceSet", "ProductPublished")}
