"""Clients that come slowly, not at all or too often cost the door a bounded time, under each of the three servers."""

import asyncio
import contextlib
import ssl
import time

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
from gateway.app import create_app

from .test_edge import SERVERS, running

FIRST, IDLE = 1.0, 2.0
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(params=SERVERS)
async def edge(request, settings, fakes, authority):
    patience = {"connection_first_seconds": FIRST, "connection_idle_seconds": IDLE, "connections_per_address": 40}
    told = settings.model_copy(update=patience)
    async with running(request.param, told, fakes, authority) as (edge, _, _):
        yield edge


async def _dripping(writer):
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x-a: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.1)


async def _closed_after(port, tls, sent=b"", *, drip=False):
    """The seconds until the server ends a connection on which this is sent."""
    reader, writer = await asyncio.open_connection("localhost", port, ssl=tls)
    began = time.monotonic()
    writer.write(sent)
    dripping = asyncio.create_task(_dripping(writer)) if drip else None
    try:
        async with asyncio.timeout(15):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while await reader.read(65536):
                    pass
        return time.monotonic() - began
    finally:
        if dripping is not None:
            dripping.cancel()
        writer.transport.abort()


async def test_who_says_nothing_or_drips_is_let_go(edge, request):
    """Before TLS, after it, in the middle of headers, and between two requests; also where HTTP/2 was agreed upon."""
    h2_only = ssl.create_default_context(cafile=str(request.getfixturevalue("authority").directory / "ca.crt"))
    h2_only.set_alpn_protocols(["h2", "http/1.1"])
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    preface = connection.data_to_send()
    whole = HEAD + b"\r\n"
    cases = {
        "no TLS": _closed_after(edge.port, None),
        "nothing": _closed_after(edge.port, edge.tls),
        "a byte": _closed_after(edge.port, edge.tls, b"G"),
        "dripping headers": _closed_after(edge.port, edge.tls, HEAD, drip=True),
        "a silent HTTP/2": _closed_after(edge.port, h2_only, b"" if "uvicorn" in request.node.name else preface),
        "nothing more": _closed_after(edge.port, edge.tls, whole),
        "a second one that drips": _closed_after(edge.port, edge.tls, whole + HEAD, drip=True),
    }
    took = dict(zip(cases, await asyncio.gather(*cases.values()), strict=True))
    assert all(seconds < IDLE + 4 for seconds in took.values()), took
    async with edge.client(http2=False) as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_a_request_that_runs_is_not_idle(edge, fakes, car):
    """However long it takes."""
    fakes.catalog.gate = asyncio.Event()
    async with edge.client(http2=False) as client:
        asking = asyncio.create_task(client.post("/v1/products", json=car))
        await fakes.catalog.began.wait()
        await asyncio.sleep(IDLE + 1.5)
        fakes.catalog.gate.set()
        assert (await asking).status_code == 201


async def test_one_address_has_its_share_of_connections(edge):
    """Those beyond it are ended, whatever they wait for; then there is room again."""
    opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", edge.port) for _ in range(80)))
    try:
        async with asyncio.timeout(FIRST + 4):
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(*(reader.read() for reader, _ in opened), return_exceptions=True)
    finally:
        for _, writer in opened:
            writer.transport.abort()
    async with edge.client(http2=False) as client:
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("name", ["granian", "hypercorn"])
async def test_streams_that_are_reset_at_once_end_the_connection(name, settings, fakes, authority):
    """CVE-2023-44487: of ten thousand requests that are given up as they are made few become work, and the connection
    is ended; others are served as ever.
    """
    application, begun = fakes.app, 0

    async def counting(scope, receive, send):
        nonlocal begun
        begun += scope["type"] == "http"
        await application(scope, receive, send)

    fakes.app = counting
    headers = [(":method", "GET"), (":path", "/healthz"), (":scheme", "https"), (":authority", "localhost")]
    async with running(name, settings, fakes, authority) as (edge, _, _):
        tls = ssl.create_default_context(cafile=str(authority.directory / "ca.crt"))
        tls.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("localhost", edge.port, ssl=tls)
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        connection.initiate_connection()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            for _ in range(100):
                for _ in range(100):
                    stream = connection.get_next_available_stream_id()
                    connection.send_headers(stream, headers)
                    connection.reset_stream(stream)
                writer.write(connection.data_to_send())
                await writer.drain()
        ended = False
        try:
            async with asyncio.timeout(10):
                while not ended:
                    received = await reader.read(65536)
                    events = connection.receive_data(received) if received else []
                    ended = not received or any(isinstance(event, h2.events.ConnectionTerminated) for event in events)
        except (ConnectionError, ssl.SSLError):
            ended = True
        finally:
            writer.transport.abort()
        assert ended
        assert begun < 2000
        async with edge.client() as client:
            assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("edge", ["granian", "hypercorn"], indirect=True)
async def test_only_so_many_streams_run_at_once(edge, request):
    """What the server announces is what it keeps to: 200."""
    tls = ssl.create_default_context(cafile=str(request.getfixturevalue("authority").directory / "ca.crt"))
    tls.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("localhost", edge.port, ssl=tls)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    try:
        async with asyncio.timeout(30):
            while True:
                events = connection.receive_data(await reader.read(65536))
                if any(isinstance(event, h2.events.RemoteSettingsChanged) for event in events):
                    break
        assert connection.remote_settings.max_concurrent_streams == 200
    finally:
        writer.transport.abort()


async def test_nobody_chooses_the_address_that_they_are_counted_by(request, settings, fakes, authority):
    """X-Forwarded-For is believed of proxies that were named, and of nobody else, whichever server it is."""
    told = settings.model_copy(update={"address_requests_per_minute": 5})
    fakes.app = create_app(told, fakes.ports, fakes.readiness, fakes.quotas, fakes.feeds)
    for name in SERVERS:
        fakes.quotas._accounts.clear()
        async with running(name, told, fakes, authority) as (edge, _, _):
            async with httpx.AsyncClient(base_url=edge.url, verify=edge.tls) as client:
                statuses = [
                    (await client.get("/v1/products", headers={"X-Forwarded-For": f"203.0.113.{number}"})).status_code
                    for number in range(8)
                ]
        assert statuses[-1] == 429, name
