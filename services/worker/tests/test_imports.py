"""Imports through the real worker, auth, catalog-command and event store, over mutual TLS."""

import signal
from datetime import timedelta
from typing import Any

import pytest
from almagest.jobs.v1 import jobs_pb2
from worker.domain.identifiers import product_id

SKIP, STOP = jobs_pb2.ON_ERROR_SKIP, jobs_pb2.ON_ERROR_STOP
CREATED = ["ProductCreated", "PriceSet", "ProductPublished"]


def counts(job: jobs_pb2.Job) -> tuple[int, int, int, int]:
    progress = job.progress
    return progress.rows_created, progress.rows_changed, progress.rows_unchanged, progress.rows_refused


async def test_an_import_creates_prices_and_publishes_and_again_changes_nothing(
    workers: Any, editor: Any, backend: Any, rows: Any
) -> None:
    """Each row becomes a product and is counted once; the same file under another command leaves everything as it is."""
    names = rows.skus(600)
    content = rows.ndjson([rows.row(sku) for sku in names])
    async with workers.here() as port, workers.client(port, editor) as client:
        submitted = await client.submit(content, name="cars.ndjson")
        assert submitted.submitted_by == editor.user_id
        assert (submitted.name, submitted.type, submitted.options.reason) == ("cars.ndjson", "import", "a test")
        job = await client.ended(submitted.job_id)
        again = await client.ended((await client.submit(content)).job_id)
    assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED
    assert counts(job) == (600, 0, 0, 0)
    assert job.progress.bytes_done == job.progress.bytes_total == len(content)
    assert (job.attempts, job.progress.rows_done) == (1, 600)
    assert 1 <= len(job.consistency_tokens) <= 2
    assert again.state == jobs_pb2.JOB_STATE_SUCCEEDED
    assert counts(again) == (0, 0, 600, 0)
    events = await backend.events_of(names)
    assert all(types == CREATED for types in events.values())


@pytest.mark.parametrize("on_error", [SKIP, STOP])
async def test_a_later_import_changes_what_differs(
    workers: Any, editor: Any, backend: Any, rows: Any, on_error: Any
) -> None:
    """Only the rows that say something else change their product."""
    names = rows.skus(300)
    first = [rows.row(sku) for sku in names]
    second = [
        rows.row(sku, price={"amount": "1.00", "currency": "EUR"}) if number % 3 == 0 else rows.row(sku)
        for number, sku in enumerate(names)
    ]
    async with workers.here() as port, workers.client(port, editor) as client:
        await client.ended((await client.submit(rows.ndjson(first), on_error=on_error)).job_id)
        job = await client.ended((await client.submit(rows.ndjson(second), on_error=on_error)).job_id)
    assert counts(job) == (0, 100, 200, 0)
    events = await backend.events_of(names)
    assert events[names[0]] == [*CREATED, "PriceSet"]
    assert events[names[1]] == CREATED


async def test_skip_reports_every_refused_row_and_applies_the_others(
    workers: Any, editor: Any, backend: Any, rows: Any
) -> None:
    """Rows that the file or catalog-command refuses are in the report with line, SKU and reason, in order, in pages."""
    names = rows.skus(700)
    lines = [rows.row(sku) for sku in names]
    lines[10] = rows.row(names[10], price={"amount": "1.001", "currency": "EUR"})
    lines[300]["attributes"]["doors"] = 12
    lines[301]["colour"] = "blue"
    lines[699] = {key: value for key, value in lines[699].items() if key != "price"}
    content = rows.ndjson(lines[:500]) + b"no json\n\n" + rows.ndjson(lines[500:]).rstrip(b"\n")
    async with workers.here() as port, workers.client(port, editor) as client:
        job = await client.ended((await client.submit(content, on_error=SKIP)).job_id)
        first = await client.refused(job.job_id, page_size=3)
        second = await client.refused(job.job_id, page_size=3, page_token=first.next_page_token)
    assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED
    assert counts(job) == (696, 0, 0, 5)
    report = [*first.rows, *second.rows]
    assert [(row.line, row.sku) for row in report] == [
        (11, names[10]),
        (301, names[300]),
        (302, names[301]),
        (501, ""),
        (702, names[699]),
    ]
    assert [row.problem.violations[0].field for row in report if row.problem.violations] == [
        "price.amount",
        "attributes.doors",
        "colour",
        "publish",
    ]
    assert [row.problem.reason for row in report][3:] == ["ROW_NOT_JSON", "PRICE_MISSING"]
    assert second.next_page_token == ""
    events = await backend.events_of(names)
    refused = {names[10], names[300], names[301], names[699]}
    assert {sku for sku, types in events.items() if not types} == refused
    assert all(types == CREATED for sku, types in events.items() if sku not in refused)


@pytest.mark.parametrize("by", ["file", "catalog"])
async def test_stop_applies_nothing_behind_the_refused_row(
    workers: Any, editor: Any, backend: Any, rows: Any, by: str
) -> None:
    """The job fails with the row in its report; the rows before it are applied, those behind it are not, even of the same batch."""
    names = rows.skus(800)
    lines = [rows.row(sku) for sku in names]
    if by == "file":
        lines[402]["colour"] = "blue"
    else:
        lines[402]["attributes"]["doors"] = 12
    lines[450]["colour"] = "red"
    async with workers.here() as port, workers.client(port, editor) as client:
        job = await client.ended((await client.submit(rows.ndjson(lines), on_error=STOP)).job_id)
        report = (await client.refused(job.job_id)).rows
    assert job.state == jobs_pb2.JOB_STATE_FAILED
    assert job.error.reason == "ROW_REFUSED"
    assert job.error.metadata["line"] == "403"
    assert counts(job) == (402, 0, 0, 1)
    assert [(row.line, row.sku) for row in report] == [(403, names[402])]
    assert job.progress.bytes_done == len(rows.ndjson(lines[:403]))
    events = await backend.events_of(names)
    assert [bool(events[sku]) for sku in names] == [True] * 402 + [False] * 398


@pytest.mark.parametrize("on_error", [SKIP, STOP])
async def test_a_dry_run_counts_and_changes_nothing(
    workers: Any, editor: Any, backend: Any, rows: Any, on_error: Any
) -> None:
    """What would happen is told, refusals included, and no event is written."""
    names = rows.skus(300)
    old = names[:100]
    changed = [rows.row(sku, name="Another name") for sku in names[:40]]
    lines = [*changed, *(rows.row(sku) for sku in names[40:])]
    lines[250]["attributes"]["doors"] = 12
    async with workers.here() as port, workers.client(port, editor) as client:
        await client.ended((await client.submit(rows.ndjson([rows.row(sku) for sku in old]))).job_id)
        job = await client.ended((await client.submit(rows.ndjson(lines), on_error=on_error, dry_run=True)).job_id)
        report = (await client.refused(job.job_id)).rows
    if on_error == SKIP:
        assert job.state == jobs_pb2.JOB_STATE_SUCCEEDED
        assert counts(job) == (199, 40, 60, 1)
    else:
        assert job.state == jobs_pb2.JOB_STATE_FAILED
        assert counts(job) == (150, 40, 60, 1)
    assert [row.line for row in report] == [251]
    events = await backend.events_of(names)
    assert [bool(events[sku]) for sku in names] == [True] * 100 + [False] * 200


async def test_a_csv_file_is_imported_quotes_line_breaks_and_all(
    workers: Any, editor: Any, backend: Any, rows: Any
) -> None:
    """A byte order mark, CRLF and quoted line breaks are no obstacle; lines in the report are those of the file."""
    names = rows.skus(300)
    lines = ["sku,kind,name,text,category,make,model,model_year,price_amount,price_currency,publish"]
    lines += [f'{sku},car,"A ""car""","two\r\nlines",vehicles/suv,Volvo,V60,2020,10.00,EUR,true' for sku in names]
    lines[300] = f"{names[299]},car,N,,vehicles/suv,Volvo,V60,MMXX,10.00,EUR,true"
    content = b"\xef\xbb\xbf" + "\r\n".join(lines).encode()
    async with workers.here() as port, workers.client(port, editor) as client:
        submitted = await client.submit(content, format=jobs_pb2.IMPORT_FORMAT_CSV, on_error=SKIP, pieces=997)
        job = await client.ended(submitted.job_id)
        report = (await client.refused(job.job_id)).rows
    assert counts(job) == (299, 0, 0, 1)
    assert [(row.line, row.sku) for row in report] == [(2 + 2 * 299, names[299])]
    assert [violation.field for violation in report[0].problem.violations] == ["model_year"]
    events = await backend.events_of(names)
    assert sum(types == CREATED for types in events.values()) == 299


async def test_a_csv_file_with_wrong_columns_fails_before_its_first_row(
    workers: Any, editor: Any, backend: Any, rows: Any
) -> None:
    """The error of the job names the columns."""
    names = rows.skus(1)
    content = f"sku,kind,name,category,colour\n{names[0]},general,N,c,blue\n".encode()
    async with workers.here() as port, workers.client(port, editor) as client:
        submitted = await client.submit(content, format=jobs_pb2.IMPORT_FORMAT_CSV, on_error=SKIP)
        job = await client.ended(submitted.job_id)
    assert job.state == jobs_pb2.JOB_STATE_FAILED
    assert job.error.reason == "CSV_HEADER_INVALID"
    assert [violation.field for violation in job.error.violations] == ["colour"]
    assert counts(job) == (0, 0, 0, 0)
    assert not (await backend.events_of(names))[names[0]]


@pytest.mark.parametrize("on_error", [SKIP, STOP])
async def test_rows_with_the_same_sku_are_applied_in_order(
    workers: Any, editor: Any, backend: Any, rows: Any, on_error: Any
) -> None:
    """However many calls are under way, the last row of a SKU wins, and each row that changes something is one change."""
    names = rows.skus(60)
    lines = [
        rows.row(sku, price={"amount": f"{round_}.00", "currency": "EUR"}) for round_ in range(1, 11) for sku in names
    ]
    async with workers.here(batch_rows=20) as port, workers.client(port, editor) as client:
        job = await client.ended((await client.submit(rows.ndjson(lines), on_error=on_error)).job_id)
        # The same last rows change nothing, so they are what the catalog has.
        last = await client.ended((await client.submit(rows.ndjson(lines[-60:]))).job_id)
    assert counts(job) == (60, 540, 0, 0)
    assert counts(last) == (0, 0, 60, 0)
    events = await backend.events_of(names)
    assert all(types == [*CREATED, *["PriceSet"] * 9] for types in events.values())


async def test_a_cancelled_import_stops_between_batches(workers: Any, editor: Any, backend: Any, rows: Any) -> None:
    """What was applied stays and is counted, the rest is never sent."""
    names = rows.skus(6000)
    content = rows.ndjson([rows.row(sku) for sku in names])
    async with workers.here(batch_rows=50) as port, workers.client(port, editor) as client:
        submitted = await client.submit(content, on_error=SKIP)
        async for seen in client.watch(submitted.job_id):
            if seen.progress.rows_done and not seen.cancel_requested:
                assert (await client.cancel(submitted.job_id)).cancel_requested
            job = seen
        again = await client.cancel(submitted.job_id)
    assert job.state == jobs_pb2.JOB_STATE_CANCELLED
    assert job.cancel_requested
    assert 0 < job.progress.rows_done < 6000
    assert again.revision == job.revision
    events = await backend.events_of(names)
    assert sum(bool(types) for types in events.values()) == job.progress.rows_created


async def test_a_person_who_may_no_longer_write_fails_the_job(
    workers: Any, viewer: Any, editor: Any, backend: Any, rows: Any
) -> None:
    """The worker asks auth for the submitter's token when it runs the job; it has no power of its own."""
    names = rows.skus(10)
    content = rows.ndjson([rows.row(sku) for sku in names])
    # The job is made by an editor while no worker looks for jobs, and then belongs to someone whose role does not suffice.
    deaf = {"sweep_seconds": 60.0, "redis_url": "redis://127.0.0.1:1/0"}
    async with workers.here(**deaf) as port, workers.client(port, editor) as client:
        job_id = (await client.submit(content)).job_id
        await workers.database.fetch("UPDATE jobs SET submitted_by = $1", viewer.user_id)
    async with workers.here() as port, workers.client(port, viewer) as client:
        job = await client.ended(job_id)
    assert job.state == jobs_pb2.JOB_STATE_FAILED
    assert job.error.reason == "SCOPES_NOT_HELD"
    assert not any((await backend.events_of(names)).values())


async def test_the_reason_line_job_and_trace_are_in_every_event(
    workers: Any, editor: Any, backend: Any, rows: Any
) -> None:
    """History can tell where a change came from."""
    import asyncpg  # noqa: PLC0415
    from almagest.eventstore.v1 import event_pb2  # noqa: PLC0415

    names = rows.skus(5)
    async with workers.here() as port, workers.client(port, editor) as client:
        job = await client.ended((await client.submit(rows.ndjson([rows.row(sku) for sku in names]))).job_id)
    lines = {f"product-{product_id(sku)}": number for number, sku in enumerate(names, 1)}
    seen = 0
    for dsn in backend.event_databases:
        connection = await asyncpg.connect(dsn)
        found = await connection.fetch("SELECT stream, metadata FROM events WHERE stream = ANY ($1)", list(lines))
        await connection.close()
        for row in found:
            metadata = event_pb2.EventMetadata.FromString(row["metadata"])
            assert metadata.job_id == job.job_id
            assert metadata.reason == "a test"
            assert metadata.import_line == lines[row["stream"]]
            assert metadata.actor == editor.user_id
            assert len(metadata.traceparent.split("-")[1]) == 32
            seen += 1
    assert seen == 15


async def test_an_outage_of_catalog_command_delays_rows_and_refuses_none(
    workers: Any, editor: Any, backend: Any, rows: Any, until: Any
) -> None:
    """The job keeps its lease through an outage longer than it, and goes on when the service is back."""
    names = rows.skus(3000)
    content = rows.ndjson([rows.row(sku) for sku in names])
    command = backend.processes["catalog-command"]
    async with workers.here(batch_rows=50, lease_seconds=1.5) as port, workers.client(port, editor) as client:
        job_id = (await client.submit(content, on_error=SKIP)).job_id

        async def begun() -> bool:
            return (await client.get(job_id)).progress.rows_done > 100

        await until(begun)
        command.end(signal.SIGKILL)
        outage = (await workers.database.fetch("SELECT now()"))[0]["now"]

        async def lease_outlives_itself() -> bool:
            held = await workers.database.fetch("SELECT lease_expires FROM jobs WHERE state = 'running'")
            return held[0]["lease_expires"] > outage + timedelta(seconds=3)

        await until(lease_outlives_itself)
        command.start()
        await until(command.ready)
        job = await client.ended(job_id)
    assert counts(job) == (3000, 0, 0, 0)
    assert job.attempts == 1
    events = await backend.events_of(names)
    assert all(types == CREATED for types in events.values())
