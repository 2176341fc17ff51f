"""The laws of the edge, on a real socket with real TLS, under each of the three servers."""

import asyncio
import ssl
from contextlib import asynccontextmanager

import httpx
import pytest
from almagest_cli.local.ports import free_port
from gateway.server import serve

SERVERS = ("granian", "hypercorn", "uvicorn")


async def until_closed(port: int) -> None:
    """Wait until nobody listens at a port any more."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            writer.transport.abort()
            await asyncio.sleep(0.02)


class Edge:
    def __init__(self, port: int, tls: ssl.SSLContext, fakes) -> None:
        self.port = port
        self.tls = tls
        self.url = f"https://localhost:{port}"
        self.headers = {"Authorization": f"Bearer {fakes.access_token()}"}

    def client(self, *, http2: bool = True) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url, verify=self.tls, http2=http2, http1=not http2, headers=self.headers, timeout=10
        )

    async def raw(self, data: bytes, *, end: bool = False) -> bytes:
        """What comes back for these bytes, until the server closes or has said all that it will for a while."""
        reader, writer = await asyncio.open_connection("localhost", self.port, ssl=self.tls)
        try:
            writer.write(data)
            await writer.drain()
            if end:
                writer.transport.abort()
                return b""
            received = b""
            try:
                async with asyncio.timeout(1.5):
                    while chunk := await reader.read(65536):
                        received += chunk
            except (TimeoutError, ConnectionError):
                pass
            return received
        finally:
            writer.transport.abort()

    @property
    def authorization(self) -> bytes:
        return f"Authorization: {self.headers['Authorization']}\r\n".encode()


@asynccontextmanager
async def running(name: str, settings, fakes, authority):
    port = free_port()
    stop = asyncio.Event()
    told = settings.model_copy(update={"http_server": name, "listen": f"127.0.0.1:{port}"})
    serving = asyncio.create_task(serve(fakes.app, told, stop))
    edge = Edge(port, ssl.create_default_context(cafile=str(authority.directory / "ca.crt")), fakes)
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.transport.abort()
                break
            except OSError:
                assert not serving.done(), serving
                await asyncio.sleep(0.02)
    try:
        yield edge, stop, serving
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await asyncio.gather(serving, return_exceptions=True)


@pytest.fixture(params=SERVERS)
async def edge(request, settings, fakes, authority):
    async with running(request.param, settings, fakes, authority) as (edge, _, _):
        yield edge


@pytest.fixture
async def granian(settings, fakes, authority):
    async with running("granian", settings, fakes, authority) as (edge, _, _):
        yield edge


@pytest.mark.parametrize("http2", [True, False], ids=["h2", "h1"])
async def test_a_product_is_written_and_read(edge, request, car, http2):
    """The same smoke over each server and protocol; uvicorn speaks HTTP/1.1 only."""
    if http2 and "uvicorn" in request.node.name:
        async with httpx.AsyncClient(base_url=edge.url, verify=edge.tls, http2=True, headers=edge.headers) as both:
            assert (await both.get("/healthz")).http_version == "HTTP/1.1"
        return
    async with edge.client(http2=http2) as client:
        written = await client.post("/v1/products", json=car)
        assert (written.status_code, written.http_version) == (201, "HTTP/2" if http2 else "HTTP/1.1")
        token = written.headers["almagest-consistency"]
        read = await client.get("/v1/products/sku:volvo-v60", headers={"Almagest-Consistency": token})
        assert read.json()["sku"] == "volvo-v60"
        unchanged = await client.get("/v1/products/sku:volvo-v60", headers={"If-None-Match": read.headers["etag"]})
        assert unchanged.status_code == 304
        missing = await client.get("/v1/nothing")
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        answers = await asyncio.gather(*(client.get("/v1/products/sku:volvo-v60") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.headers["trace-id"] for answer in answers}) == 50


@pytest.mark.parametrize("http2", [True, False], ids=["h2", "h1"])
async def test_head_is_get_without_its_body(edge, request, fakes, car, http2):
    """The same status and headers, for what is found, is known, is not there or is refused; a stream ends at once."""
    fakes.worker.watch_gate = asyncio.Event()
    async with edge.client(http2=http2 and "uvicorn" not in request.node.name) as client:
        product = (await client.post("/v1/products", json=car)).json()
        job = (await client.post("/v1/imports", content=b"x", headers={"Content-Type": "text/csv"})).json()
        known = {"If-None-Match": "*"}
        for path, headers, status in (
            (f"/v1/products/{product['product_id']}", {}, 200),
            ("/v1/products/sku:volvo-v60", known, 304),
            ("/v1/products?page_size=1", {}, 200),
            ("/v1/products/sku:nothing", {}, 404),
            ("/v1/products/sku:volvo-v60", {"Authorization": ""}, 401),
            ("/v1/imports", {}, 405),
            ("/openapi.json", {}, 200),
            ("/healthz", {}, 200),
        ):
            whole, head = await client.get(path, headers=headers), await client.head(path, headers=headers)
            assert (head.status_code, whole.status_code, head.content) == (status, status, b""), path
            assert _without_clock(head) == _without_clock(whole), path
        async with asyncio.timeout(30):
            stream = await client.head(f"/v1/jobs/{job['job_id']}/events")
        assert (stream.status_code, stream.content) == (200, b"")
        assert stream.headers["content-type"].startswith("text/event-stream")
        async with asyncio.timeout(30):
            while not fakes.worker.unwatched:
                assert (await client.get("/healthz")).json() == {"status": "ok"}


def _without_clock(answer: httpx.Response) -> dict[str, str]:
    """The headers but for those that no two answers share."""
    return {name: value for name, value in answer.headers.items() if name not in {"date", "trace-id"}}


async def test_a_large_file_is_uploaded_and_its_job_followed(edge, fakes):
    """Streaming in both directions."""
    content = b"0123456789abcdef" * 200_000

    async def chunks():
        for begin in range(0, len(content), 50_000):
            yield content[begin : begin + 50_000]

    async with edge.client(http2=False) as client:
        answer = await client.post("/v1/imports", content=chunks(), headers={"Content-Type": "application/x-ndjson"})
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["job_id"]
        assert b"".join(fakes.worker.files[job_id]) == content
        events = await client.get(f"/v1/jobs/{job_id}/events")
        assert events.text.count("event: job") == 3


async def test_a_client_that_goes_away_in_the_middle_of_a_file_leaves_nothing(edge, fakes):
    """The upload is aborted, whether its size was announced or not."""
    for framing in (
        b"Content-Length: 5000000\r\n\r\n" + b"x" * 300_000,
        b"Transfer-Encoding: chunked\r\n\r\n49400\r\n" + b"x" * 300_032,
    ):
        fakes.worker.began.clear()
        fakes.worker.gave_up.clear()
        head = b"POST /v1/imports HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n" + edge.authorization
        reader, writer = await asyncio.open_connection("localhost", edge.port, ssl=edge.tls)
        writer.write(head + framing)
        await writer.drain()
        async with asyncio.timeout(30):
            await fakes.worker.began.wait()
            writer.transport.abort()
            await fakes.worker.gave_up.wait()
        del reader
    assert not fakes.worker.jobs


BROKEN = {
    "garbage": b"\x00\x01\x02garbage\r\n\r\n",
    "two lengths": b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a length that is none": b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a chunk size that is none": b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "too many headers": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-Large: " + b"a" * 200_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
async def test_broken_requests_are_refused_and_the_server_goes_on(edge, data):
    """Whatever comes, nothing is served for it, and the next request is."""
    answer = await edge.raw(data)
    assert b" 200 " not in answer.split(b"\r\n")[0]
    assert b" 500 " not in answer.split(b"\r\n")[0]
    async with edge.client(http2=False) as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_a_body_cut_off_changes_nothing(edge, fakes):
    """A write whose client went away in the middle of its body was not asked for."""
    body = b'{"sku":"a","kind":"general","name":"A"}'
    for sent in (body, body[:20]):
        head = (
            b"POST /v1/products HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        )
        await edge.raw(head % (len(body) + 5) + edge.authorization + b"\r\n" + sent, end=True)
    async with edge.client(http2=False) as client:
        assert (await client.get("/healthz")).status_code == 200
        refused = await client.post("/v1/products", content=body[:20], headers={"Content-Type": "application/json"})
        assert refused.status_code == 400
    assert not fakes.catalog.items


async def test_plaintext_and_strangers_get_nothing(edge):
    """A port that speaks TLS speaks nothing else; and who does not trust our CA does not talk to us."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        async with asyncio.timeout(3):
            answer = await reader.read()
    except (TimeoutError, ConnectionError):
        answer = b""
    assert b"ok" not in answer
    assert b"200" not in answer
    writer.transport.abort()
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient(verify=ssl.create_default_context()) as stranger:
            await stranger.get(f"{edge.url}/healthz")


async def test_old_tls_is_refused(edge):
    """TLS 1.2 at least."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _, writer = await asyncio.open_connection("127.0.0.1", edge.port, ssl=context)
    assert writer.get_extra_info("ssl_object").version() in {"TLSv1.2", "TLSv1.3"}
    writer.transport.abort()


@pytest.mark.parametrize("name", SERVERS)
async def test_at_the_end_requests_that_run_are_finished(name, settings, fakes, authority, car):
    """Told to stop, the server answers what it has begun and takes no more."""
    async with running(name, settings, fakes, authority) as (edge, stop, serving):
        fakes.catalog.gate = asyncio.Event()
        async with edge.client(http2=False) as client:
            asking = asyncio.create_task(client.post("/v1/products", json=car))
            await fakes.catalog.began.wait()
            stop.set()
            await until_closed(edge.port)
            fakes.catalog.gate.set()
            assert (await asking).status_code == 201
        async with asyncio.timeout(10):
            await serving
        await until_closed(edge.port)


async def test_a_taken_port_is_named(settings, fakes, authority):
    """The sentence says which address."""
    async with running("granian", settings, fakes, authority) as (edge, _, _):
        told = settings.model_copy(update={"listen": f"127.0.0.1:{edge.port}"})
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{edge.port}"):
            await serve(fakes.app, told, asyncio.Event())


async def test_a_read_is_given_up_when_its_connection_closes(granian, fakes):
    """Through a real server, too."""
    fakes.catalog.gate = asyncio.Event()
    head = b"GET /v1/products/sku:x HTTP/1.1\r\nHost: localhost\r\n" + granian.authorization + b"\r\n"
    _, writer = await asyncio.open_connection("localhost", granian.port, ssl=granian.tls)
    writer.write(head)
    await fakes.catalog.began.wait()
    writer.transport.abort()
    async with asyncio.timeout(30):
        await fakes.catalog.gave_up.wait()
