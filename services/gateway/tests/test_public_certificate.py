"""The public certificate is replaced while the gateway serves, under each of the three servers."""

import asyncio
import contextlib
import socket
import ssl

import httpx
import pytest
from almagest_cli.local.authority import LocalAuthority
from cryptography import x509
from gateway import server

from .test_edge import running


def answered(port: int, tls: ssl.SSLContext) -> int:
    """What a connection of its own is answered."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        tls.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        return int(secured.recv(4096).split()[1])


def shown(port: int, tls: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        tls.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


@pytest.mark.parametrize(
    ("name", "http2"),
    [("granian", True), ("granian", False), ("hypercorn", True), ("hypercorn", False), ("uvicorn", False)],
)
async def test_a_renewed_public_certificate_is_shown_to_new_connections_and_no_request_fails(
    name, http2, settings, fakes, tmp_path, monkeypatch
):
    """Three renewals under load: every request is answered, on old connections and on new, and each new certificate is shown soon after."""
    monkeypatch.setattr(server, "_OVERLAP_SECONDS", 0.5)
    authority = LocalAuthority(tmp_path / "authority")
    web = authority.issue_web(["localhost", "127.0.0.1"])
    told = settings.model_copy(update={"tls_certificate": web / "tls.crt", "tls_key": web / "tls.key"})
    async with running(name, told, fakes, authority) as (edge, _, _), edge.client(http2=http2) as client:
        # The client offers HTTP/2 by the other one.
        plain = ssl.create_default_context(cafile=str(authority.certificate_file))
        done = asyncio.Event()
        answers: list[int] = []

        async def visit() -> None:
            while not done.is_set():
                # The h2 library takes the PING behind a GOAWAY for an error, where others go on by another connection.
                with contextlib.suppress(httpx.LocalProtocolError):
                    answers.append((await client.get("/healthz")).status_code)

        async def drop_in() -> None:
            while not done.is_set():
                answers.append(await asyncio.to_thread(answered, edge.port, plain))

        async def renew() -> None:
            for _ in range(3):
                before = await asyncio.to_thread(shown, edge.port, edge.tls)
                await asyncio.to_thread(authority.renew, [], all_now=True)
                async with asyncio.timeout(15):
                    while await asyncio.to_thread(shown, edge.port, edge.tls) == before:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
            done.set()

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(visit())
                group.create_task(drop_in())
            group.create_task(renew())
        assert set(answers) == {200}
        assert len(answers) > 100


async def test_half_a_pair_is_not_taken_into_use(settings, tmp_path, fakes):
    """A key that does not belong to the certificate changes nothing: the old pair serves until both are there."""
    own = LocalAuthority(tmp_path / "authority")
    web = own.issue_web(["localhost"])
    told = settings.model_copy(update={"tls_certificate": web / "tls.crt", "tls_key": web / "tls.key"})
    async with running("granian", told, fakes, own) as (edge, _, _):
        before = await asyncio.to_thread(shown, edge.port, edge.tls)
        other = LocalAuthority(tmp_path / "other").issue_web(["localhost"])
        (other / "tls.key").replace(web / "tls.key")
        # Longer than the gateway takes to look.
        for _ in range(30):
            assert await asyncio.to_thread(shown, edge.port, edge.tls) == before
            await asyncio.sleep(0.05)
        own.renew([], all_now=True)
        async with asyncio.timeout(15):
            while await asyncio.to_thread(shown, edge.port, edge.tls) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
