import asyncio
import gzip
import uuid

import pytest
from almagest.jobs.v1 import jobs_pb2

NDJSON = {"Content-Type": "application/x-ndjson"}


async def test_a_file_goes_on_in_pieces_and_becomes_a_job(client, fakes):
    """Whatever the sizes in which it comes, it goes on in pieces of 256 KiB, in order, with its size announced when it is known."""
    content = bytes(range(256)) * 4000

    async def uneven():
        position = 0
        for size in (1, 1000, 300_000, 700_000, 10_000_000):
            yield content[position : position + size]
            position += size

    answer = await client.post(
        "/v1/imports?name=cars.ndjson&reason=spring&on_error=skip", content=uneven(), headers=NDJSON
    )
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['job_id']}"
    assert job["state"] == "queued"
    assert job["options"] == {"format": "ndjson", "on_error": "skip", "dry_run": False, "reason": "spring"}
    parts = fakes.worker.files[job["job_id"]]
    assert b"".join(parts) == content
    assert [len(part) for part in parts[:-1]] == [256 * 1024] * (len(parts) - 1)
    assert not fakes.worker.headers[0].HasField("size_bytes")
    await client.post("/v1/imports?dry_run=true", content=b"x", headers=NDJSON)
    assert fakes.worker.headers[1].size_bytes == 1
    assert fakes.worker.headers[1].options.dry_run


@pytest.mark.parametrize(
    ("query", "media_type", "format_name"),
    [
        ("", "application/x-ndjson", "ndjson"),
        ("", "text/csv; charset=utf-8", "csv"),
        ("?format=csv", "application/octet-stream", "csv"),
        ("?format=ndjson", "text/csv", "ndjson"),
        ("?format=csv", "application/x-www-form-urlencoded", "csv"),
        ("", "application/octet-stream", None),
        ("?format=csv", "multipart/form-data; boundary=x", None),
    ],
)
async def test_the_format_is_named_or_follows_from_the_media_type(client, query, media_type, format_name):
    """Nothing is guessed from the content."""
    answer = await client.post(f"/v1/imports{query}", content=b"x", headers={"Content-Type": media_type})
    if format_name is None:
        assert answer.status_code == 415
    else:
        assert answer.json()["options"]["format"] == format_name


async def test_a_packed_file_goes_on_unpacked(client, fakes):
    """In pieces like any other, whatever its members; its size is not known before."""
    content = b"".join(b'{"sku":"a%d"}\n' % number for number in range(100_000))
    packed = gzip.compress(content[:600_000]) + gzip.compress(content[600_000:])
    for encoding in ("gzip", "x-gzip", "GZIP"):
        answer = await client.post("/v1/imports", content=packed, headers=NDJSON | {"Content-Encoding": encoding})
        assert answer.status_code == 202, answer.text
        parts = fakes.worker.files[answer.json()["job_id"]]
        assert b"".join(parts) == content
        assert [len(part) for part in parts[:-1]] == [256 * 1024] * (len(parts) - 1)
        assert not fakes.worker.headers[-1].HasField("size_bytes")


@pytest.mark.parametrize(
    ("packed", "status", "reason"),
    [
        (gzip.compress(bytes(30_000_000)), 413, "BODY_TOO_LARGE"),
        (gzip.compress(b"a,b\n" * 1000)[:-3], 400, "BODY_NOT_GZIP"),
        (b"sku,kind\n", 400, "BODY_NOT_GZIP"),
        (b"", 400, "BODY_NOT_GZIP"),
    ],
    ids=["a bomb", "cut off", "not packed", "nothing"],
)
async def test_a_packed_file_that_does_not_unpack_leaves_nothing(client, fakes, packed, status, reason):
    """A bomb, too: it is given up when it grows out of proportion."""
    answer = await client.post("/v1/imports", content=packed, headers=NDJSON | {"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert fakes.worker.aborted == 1
    assert not fakes.worker.jobs


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "compress", "gzip;q=1"])
async def test_other_encodings_are_refused_by_name(client, fakes, encoding):
    """With the one that is taken in the answer."""
    answer = await client.post("/v1/imports", content=b"x", headers=NDJSON | {"Content-Encoding": encoding})
    assert (answer.status_code, answer.json()["reason"]) == (415, "UNSUPPORTED_ENCODING")
    assert answer.headers["accept-encoding"] == "gzip"
    assert not fakes.worker.headers


async def test_json_is_never_taken_packed(client, fakes):
    """Only files are worth it."""
    for path in ("/v1/sessions", "/v1/products", "/v1/imports"):
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        answer = await client.post(path, content=gzip.compress(b"{}"), headers=headers)
        assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert not fakes.worker.headers


@pytest.mark.parametrize(
    ("url", "query", "format_name"),
    [
        ("https://files.example/cars.csv?signature=x", "", "csv"),
        ("https://files.example/cars.NDJSON", "", "ndjson"),
        ("https://files.example/cars.jsonl.gz", "", "ndjson"),
        ("https://files.example/latest", "?format=csv", "csv"),
        ("https://files.example/latest", "", None),
        ("https://files.example/latest?name=cars.csv", "", None),
    ],
)
async def test_an_import_may_say_where_its_file_is(client, fakes, url, query, format_name):
    """The worker is told, once; how it is written follows from the URL or is said."""
    headers = {"Idempotency-Key": "once"}
    answer = await client.post(f"/v1/imports{query}", json={"url": url}, headers=headers)
    if format_name is None:
        assert (answer.status_code, answer.json()["reason"]) == (422, "INVALID_BODY")
        assert not fakes.worker.headers
        return
    assert answer.status_code == 202, answer.text
    assert answer.json()["options"]["format"] == format_name
    [header] = fakes.worker.headers
    assert (header.source_url, header.HasField("size_bytes")) == (url, False)
    assert fakes.worker.files[answer.json()["job_id"]] == []
    again = await client.post(f"/v1/imports{query}", json={"url": url}, headers=headers)
    assert again.json()["job_id"] == answer.json()["job_id"]
    other = await client.post(f"/v1/imports{query}", json={"url": f"{url}2.csv"}, headers=headers)
    assert other.status_code == 422


@pytest.mark.parametrize("wrong", [{}, {"url": ""}, {"url": 5}, {"url": "https://x/a.csv", "format": "csv"}, []])
async def test_where_a_file_is_must_be_said_in_that_form(client, fakes, wrong):
    """And in no other."""
    assert (await client.post("/v1/imports", json=wrong)).status_code == 422
    assert not fakes.worker.headers


async def test_a_file_that_stops_coming_is_given_up(client, fakes):
    """408, and the call to the worker is aborted, so that nothing of it is kept."""

    async def stalled():
        yield b"x" * 300_000
        await asyncio.sleep(30)

    answer = await client.post("/v1/imports", content=stalled(), headers=NDJSON)
    assert (answer.status_code, answer.json()["reason"]) == (408, "BODY_TOO_SLOW")
    assert fakes.worker.aborted == 1
    assert not fakes.worker.jobs


async def test_a_file_over_the_workers_limit_is_told_so(client, fakes):
    """413 as the worker says."""
    fakes.worker.limit = 1000
    answer = await client.post("/v1/imports", content=b"x" * 300_000, headers=NDJSON)
    assert (answer.status_code, answer.json()["reason"]) == (413, "FILE_TOO_LARGE")
    empty = await client.post("/v1/imports", content=b"", headers=NDJSON)
    assert (empty.status_code, empty.json()["reason"]) == (422, "FILE_EMPTY")


async def test_the_same_upload_with_the_same_key_is_the_same_job(client, fakes):
    """Also when only the worker remembers."""
    headers = NDJSON | {"Idempotency-Key": "k"}
    first = await client.post("/v1/imports", content=b"x", headers=headers)
    fakes.keys.known.clear()
    again = await client.post("/v1/imports", content=b"x", headers=headers)
    assert again.json()["job_id"] == first.json()["job_id"]
    assert (await client.post("/v1/imports?on_error=skip", content=b"x", headers=headers)).status_code == 422
    assert len(fakes.worker.jobs) == 1


async def test_a_job_is_followed_to_its_end(client, fakes):
    """One event per change with the job as data, and then the stream ends."""
    job_id = (await client.post("/v1/imports", content=b"x", headers=NDJSON)).json()["job_id"]
    answer = await client.get(f"/v1/jobs/{job_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event for event in answer.text.split("\n\n") if event.startswith("event: job")]
    assert [event.split('"state":"')[1].split('"')[0] for event in events] == ["queued", "running", "succeeded"]
    assert [event.split("id: ")[1].split("\n")[0] for event in events] == ["1", "2", "3"]
    assert fakes.worker.unwatched == 1
    missing = await client.get(f"/v1/jobs/{uuid.uuid4()}/events")
    assert (missing.status_code, missing.json()["reason"]) == (404, "JOB_NOT_FOUND")


async def test_nobody_watches_for_a_client_that_went_away(fakes):
    """The stream from the worker ends with the client's."""
    job = jobs_pb2.Job(job_id=str(uuid.uuid4()))
    job.created_at.FromSeconds(1)
    fakes.worker.jobs[job.job_id] = job
    fakes.worker.watch_gate = asyncio.Event()
    gone, sent = asyncio.Event(), asyncio.Event()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if b"event: job" in message.get("body", b""):
            sent.set()

    path = f"/v1/jobs/{job.job_id}/events"
    headers = [(b"authorization", b"Bearer " + fakes.access_token().encode())]
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }
    running = asyncio.create_task(fakes.app(scope, receive, send))
    await sent.wait()
    gone.set()
    async with asyncio.timeout(30):
        await running
    assert fakes.worker.unwatched == 1


async def test_jobs_are_listed_cancelled_and_reported(client):
    """Nulls where there is nothing yet; states by name."""
    job = (await client.post("/v1/imports", content=b"x", headers=NDJSON)).json()
    assert job["started_at"] is None
    assert job["error"] is None
    assert [item["job_id"] for item in (await client.get("/v1/jobs?state=queued")).json()["items"]] == [job["job_id"]]
    assert (await client.get("/v1/jobs?state=failed&state=cancelled")).json() == {"items": [], "next_cursor": None}
    cancelled = await client.post(f"/v1/jobs/{job['job_id']}:cancel")
    assert (cancelled.status_code, cancelled.json()["cancel_requested"]) == (200, True)
    refused = (await client.get(f"/v1/jobs/{job['job_id']}/refused")).json()
    assert refused["items"] == [
        {"line": 2, "sku": None, "problem": {"reason": "INVALID_ROW", "message": "no JSON", "errors": []}}
    ]
    assert (await client.get("/v1/jobs/none")).status_code == 400
    assert (await client.get("/v1/projections")).json()["items"][0]["lag_events"] == 2
