"""Redis over TLS: who is believed, and with which certificate we come."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from chassis.redis import connect
from cryptography import x509
from redis.exceptions import RedisError


class Server:
    """Answers every command with OK, over TLS, to whoever shows a certificate; keeps the serial numbers that it saw."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.serials: list[int] = []
        self.commands: list[bytes] = []
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.serials.append(int(writer.get_extra_info("peercert")["serialNumber"], 16))
        while line := await reader.readline():
            words = [
                await reader.readexactly(int((await reader.readline())[1:]) + 2) for _ in range(int(line[1:].decode()))
            ]
            self.commands.append(words[0].strip().upper())
            greeting = words[0].strip().upper() == b"HELLO"
            writer.write(b"%1\r\n+proto\r\n:3\r\n" if greeting else b"+OK\r\n")
        writer.close()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def serving(identity: Path) -> AsyncIterator[Server]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=identity / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(identity / "tls.crt", identity / "tls.key")
    server = Server(context)
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0, ssl=context) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server
        server.hang_up()


def serial(identity: Path) -> int:
    return x509.load_pem_x509_certificate((identity / "tls.crt").read_bytes()).serial_number


async def test_a_connection_that_is_made_again_shows_the_renewed_certificate(ca: Any, tmp_path: Path) -> None:
    """The files are read for each connection: after rotation and a restart of Redis nobody comes with the old one."""
    ours = ca.issue(tmp_path / "ours", "worker")
    async with serving(ca.issue(tmp_path / "server", "redis", dns=["localhost"])) as server:
        client = connect(f"rediss://worker:secret@localhost:{server.port}/0", identity_directory=ours)
        await client.set("a", b"1")
        before = serial(ours)
        assert set(server.serials) == {before}
        ca.issue(ours, "worker")
        server.hang_up()
        await client.set("a", b"1")
        assert server.serials[-1] == serial(ours) != before
        await client.aclose()


async def test_a_server_of_another_authority_or_name_is_not_believed(
    ca: Any, foreign: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the given authority counts, not what the machine trusts besides, and the URL cannot turn verification off."""
    ours = ca.issue(tmp_path / "ours", "worker")
    (tmp_path / "trusted.pem").write_bytes(foreign.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    impostor = foreign.issue(tmp_path / "impostor", "redis", dns=["localhost"], bundle=ca.pem)
    elsewhere = ca.issue(tmp_path / "elsewhere", "redis", dns=["redis.test"])
    for identity in (impostor, elsewhere):
        async with serving(identity) as server:
            url = f"rediss://localhost:{server.port}/0?ssl_cert_reqs=none&ssl_check_hostname=false"
            client = connect(url, identity_directory=ours)
            with pytest.raises(RedisError, match="certificate verify failed"):
                await client.ping()
            assert not server.serials
            await client.aclose()


async def test_the_url_may_name_another_authority(ca: Any, foreign: Any, tmp_path: Path) -> None:
    """A Redis whose certificate comes from elsewhere: `ssl_ca_certs` in the URL goes before the identity's."""
    ours = ca.issue(tmp_path / "ours", "worker")
    (tmp_path / "theirs.pem").write_bytes(foreign.pem)
    async with serving(foreign.issue(tmp_path / "server", "redis", dns=["localhost"], bundle=ca.pem)) as server:
        client = connect(
            f"rediss://localhost:{server.port}/0?ssl_ca_certs={tmp_path / 'theirs.pem'}", identity_directory=ours
        )
        await client.set("a", b"1")
        assert server.serials
        await client.aclose()


async def test_an_open_connection_is_made_anew_when_the_certificate_has_been_replaced(ca: Any, tmp_path: Path) -> None:
    """Redis would never look again: so the next command after a rotation comes by a new connection, and none fails."""
    ours = ca.issue(tmp_path / "ours", "worker")
    async with serving(ca.issue(tmp_path / "server", "redis", dns=["localhost"])) as server:
        client = connect(f"rediss://worker:secret@localhost:{server.port}/0", identity_directory=ours)
        await client.set("a", b"1")
        await client.set("a", b"1")
        assert server.serials == [serial(ours)]
        for _ in range(20):
            await asyncio.to_thread(ca.issue, ours, "worker")
            await asyncio.gather(*(client.set("a", b"1") for _ in range(3)))
            assert server.serials[-1] == serial(ours)
        await client.aclose()


async def test_a_subscription_moves_to_a_new_connection_when_the_certificate_has_been_replaced(
    ca: Any, tmp_path: Path
) -> None:
    """A subscription lives on one connection for weeks; it is moved, and subscribes again."""
    ours = ca.issue(tmp_path / "ours", "worker")
    async with serving(ca.issue(tmp_path / "server", "redis", dns=["localhost"])) as server:
        client = connect(f"rediss://worker:secret@localhost:{server.port}/0", identity_directory=ours)
        subscription = client.pubsub()
        await subscription.subscribe("changes")
        await subscription.get_message(timeout=0.1)
        assert len(server.serials) == 1
        ca.issue(ours, "worker")
        await subscription.get_message(timeout=0.1)
        assert server.serials[1:] == [serial(ours)]
        assert server.commands.count(b"SUBSCRIBE") == 2
        await subscription.aclose()
        await client.aclose()
