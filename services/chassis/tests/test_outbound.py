"""What a stranger's URL can and cannot make us do, against real servers on loopback, with name servers that lie."""

import asyncio
import gzip
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from chassis.outbound import Outbound, OutboundFailed, OutboundPolicy, OutboundRefused, is_public

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
LOOPBACK = ip_network("127.0.0.2/32")
NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.255.255",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001:800::200e"]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_not_everybody_reaches_is_not_public(address: str) -> None:
    """In any of the forms that it can take."""
    assert not is_public(ip_address(address))
    assert not OutboundPolicy().allows(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    """Else nothing could be fetched at all."""
    assert OutboundPolicy().allows(address)


REFUSED = {
    "http://files.example/a": "Only https",
    "ftp://files.example/a": "Only https",
    "file:///etc/passwd": "no host",
    "gopher://files.example/": "Only https",
    "//files.example/a": "Only https",
    "files.example/a": "no host",
    "https://": "no host",
    "https://other.example/": "none of them",
    "https://files.example.evil/": "none of them",
    "https://notfiles.example/": "none of them",
    "https://cdn.example/": "none of them",
    "https://user@files.example/": "user name",
    "https://user:secret@files.example/": "user name",
    "https://files.example@evil.example/": "user name",
    "https://evil.example\\@files.example/": "printable",
    "https://files.example\r\nHost: x/": "printable",
    "https://files.example /": "printable",
    "https://f\u0456les.example/": "printable",
    "https://files.example:22/": "Port 22",
    "https://files.example:0/": "no host",
    "https://files.example:99999/": "no URL",
    "https://files.example:x/": "no URL",
    "https://[::1]/": "none of them",
    "https://127.0.0.1/": "none of them",
    "https://2130706433/": "none of them",
    "https://[files.example]/": "no URL",
    "https://files..example/": "no host",
    "https://files.example/" + "a" * 2000: "2000 characters",
}


@pytest.mark.parametrize(("url", "why"), REFUSED.items(), ids=[repr(url)[:50] for url in REFUSED])
def test_a_url_outside_the_policy_is_refused_with_a_reason(url: str, why: str) -> None:
    """Before any name server is asked."""
    policy = OutboundPolicy(hosts=("files.example", "*.cdn.example"))
    with pytest.raises(OutboundRefused, match=why):
        policy.check(url)


def test_allowed_hosts_are_names_and_what_is_below_a_name() -> None:
    """In any case, with or without the dot at the end."""
    policy = OutboundPolicy(hosts=("files.example", "*.cdn.example"), ports=frozenset({443, 8443}))
    for url in ("https://FILES.example/a?b=c", "https://files.example./", "https://a.b.cdn.example:8443/"):
        policy.check(url)
    with pytest.raises(OutboundRefused):
        OutboundPolicy().check("https://files.example/")


def answer(body: bytes, *headers: str, status: str = "200 OK") -> Handler:
    async def handler(_: bytes, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return handler


class Site:
    """A server with TLS, and what it was asked."""

    def __init__(self) -> None:
        self.paths: dict[str, Handler] = {}
        self.asked: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head)
            await self.paths[head.split(b" ")[1].decode()](head, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def site(web: Path, *, address: str = "127.0.0.2", port: int = 0) -> AsyncIterator[Site]:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(web / "tls.crt", web / "tls.key")
    made = Site()
    server = await asyncio.start_server(made.serve, address, port, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


@pytest.fixture(scope="module")
def web(authority: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(authority.issue_web(["files.example"]), tmp_path_factory.mktemp("web") / "files"))


@pytest.fixture
async def files(web: Path) -> AsyncIterator[Site]:
    async with site(web) as made:
        yield made


def names(*answers: Sequence[str]) -> Any:
    """A name server that gives one answer after the other, the last one for ever."""

    async def resolving(host: str, port: int) -> Sequence[str]:
        del port
        resolving.asked.append(host)  # type: ignore[attr-defined]
        return answers[min(len(resolving.asked), len(answers)) - 1]  # type: ignore[attr-defined]

    resolving.asked = []  # type: ignore[attr-defined]
    return resolving


@pytest.fixture
def outbound(authority: Any, files: Site) -> Callable[..., Outbound]:
    def make(resolving: Any = None, **policy: Any) -> Outbound:
        told = OutboundPolicy(
            **{
                "hosts": ("files.example",),
                "networks": (LOOPBACK,),
                "ports": frozenset({files.port}),
                "seconds": 5.0,
                "idle_seconds": 1.0,
                "maximum_bytes": 3 << 20,
            }
            | policy
        )
        tls = ssl.create_default_context(cafile=str(authority.directory / "ca.crt"))
        return Outbound(told, tls=tls, resolving=resolving or names(["127.0.0.2"]))

    return make


async def fetch(outbound: Outbound, url: str) -> bytes:
    async with outbound.get(url) as fetched:
        return b"".join([piece async for piece in fetched.pieces])


async def test_an_allowed_file_is_fetched_and_told_nothing_of_us(outbound: Any, files: Site) -> None:
    """As a stream, with its type and size; no cookie, no credential, no proxy goes along."""
    body = b"sku,kind\n" * 100_000
    files.paths["/a?b=c"] = answer(body, "content-type: Text/CSV; charset=utf-8")
    async with outbound().get(f"https://files.example:{files.port}/a?b=c") as fetched:
        assert (fetched.content_type, fetched.size) == ("text/csv", len(body))
        assert b"".join([piece async for piece in fetched.pieces]) == body
    names_sent = {line.partition(b":")[0].lower() for line in files.asked[0].split(b"\r\n")[1:] if line}
    assert names_sent == {b"host", b"user-agent", b"accept", b"accept-encoding"}
    assert f"Host: files.example:{files.port}".lower().encode() in files.asked[0].lower()


async def test_proxies_of_the_environment_are_not_used(
    outbound: Any, files: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would resolve the name once more, somewhere else."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    files.paths["/"] = answer(b"here")
    assert await fetch(outbound(), f"https://files.example:{files.port}") == b"here"


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["127.0.0.2", "127.0.0.1"], ["8.8.8.8", "169.254.169.254"], ["::1"], ["::ffff:127.0.0.2"]],
)
async def test_a_name_with_an_address_that_is_not_public_is_not_connected_to(
    outbound: Any, files: Site, web: Path, addresses: list[str]
) -> None:
    """One bad address among good ones is enough."""
    async with site(web, address="127.0.0.1", port=files.port) as secret:
        secret.paths["/"] = files.paths["/"] = answer(b"secret")
        with pytest.raises(OutboundRefused, match="not public") as refusal:
            await fetch(outbound(names(addresses)), f"https://files.example:{files.port}/")
        assert not secret.asked
        assert not files.asked
    assert not any(address in refusal.value.message for address in addresses)


async def test_a_name_that_is_bound_anew_after_the_check_is_of_no_use(outbound: Any, files: Site, web: Path) -> None:
    """The connection goes to the address that was checked; the name is asked for once per request, and checked each
    time.
    """
    async with site(web, address="127.0.0.1", port=files.port) as secret:
        secret.paths["/"] = answer(b"secret")
        files.paths["/"] = answer(b"public")
        rebinding = names(["127.0.0.2"], ["127.0.0.1"])
        fetching = outbound(rebinding)
        assert await fetch(fetching, f"https://files.example:{files.port}/") == b"public"
        assert rebinding.asked == ["files.example"]
        with pytest.raises(OutboundRefused):
            await fetch(fetching, f"https://files.example:{files.port}/")
        files.paths["/"] = answer(b"", f"location: https://files.example:{files.port}/", status="302 Found")
        with pytest.raises(OutboundRefused):
            await fetch(outbound(names(["127.0.0.2"], ["127.0.0.1"])), f"https://files.example:{files.port}/")
        assert not secret.asked


async def test_redirects_are_new_urls_and_few(outbound: Any, files: Site) -> None:
    """Relative ones and those within the policy are followed; others, downgrades and circles are not."""
    files.paths["/end"] = answer(b"end")
    files.paths["/relative"] = answer(b"", "location: end", status="307 Temporary Redirect")
    files.paths["/twice"] = answer(b"", "location: /relative", status="301 Moved Permanently")
    assert await fetch(outbound(), f"https://files.example:{files.port}/twice") == b"end"
    for target, why in (
        (f"http://files.example:{files.port}/end", "from https"),
        ("https://other.example/", "none of them"),
        ("https://169.254.169.254/latest/meta-data", "none of them"),
        ("file:///etc/passwd", "from https"),
        (f"https://u:p@files.example:{files.port}/", "user name"),
        ("//evil.example/", "none of them"),
        ("/circle", "more than 3 times"),
    ):
        files.paths["/circle"] = answer(b"", f"location: {target}", status="302 Found")
        with pytest.raises(OutboundRefused, match=why):
            await fetch(outbound(plaintext=True), f"https://files.example:{files.port}/circle")
    files.paths["/nowhere"] = answer(b"", status="302 Found")
    with pytest.raises(OutboundRefused):
        await fetch(outbound(), f"https://files.example:{files.port}/nowhere")


async def test_the_certificate_must_be_of_the_name_whatever_the_address(
    outbound: Any, files: Site, authority: Any
) -> None:
    """Another name's, and one that nobody vouches for, are as good as none."""
    async with site(authority.issue_web(["other.example"])) as other:
        other.paths["/"] = answer(b"not ours")
        with pytest.raises(OutboundFailed, match="certificate") as failure:
            await fetch(outbound(ports=frozenset({other.port})), f"https://files.example:{other.port}/")
        assert not failure.value.passing
        assert not other.asked
    strangers = Outbound(outbound().policy, resolving=names(["127.0.0.2"]))
    with pytest.raises(OutboundFailed, match="certificate"):
        await fetch(strangers, f"https://files.example:{files.port}/")


async def test_size_is_bounded_announced_or_not_and_unpacked(outbound: Any, files: Site) -> None:
    """What is too large ends early, and a bomb goes off at its bound."""

    async def endless(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        while True:
            writer.write(bytes(100_000))
            await writer.drain()

    files.paths |= {
        "/announced": answer(bytes((3 << 20) + 1)),
        "/endless": endless,
        "/bomb": answer(gzip.compress(bytes(200 << 20)), "content-encoding: gzip"),
        "/large": answer(gzip.compress(os.urandom(20_000) * 200), "content-encoding: gzip"),
        "/packed": answer(gzip.compress(b"a,b\n" * 1000), "content-encoding: gzip"),
        "/odd": answer(b"", "content-encoding: br"),
    }
    base = f"https://files.example:{files.port}"
    for path, why in (
        ("/announced", "larger than the 3145728 bytes"),
        ("/endless", "larger than the 3145728 bytes"),
        ("/bomb", "larger than 3145728 bytes|200 times"),
        ("/large", "larger than 3145728 bytes"),
        ("/odd", "other than gzip"),
    ):
        with pytest.raises(OutboundFailed, match=why) as failure:
            await fetch(outbound(), base + path)
        assert not failure.value.passing
    assert await fetch(outbound(), f"{base}/packed") == b"a,b\n" * 1000


async def test_time_is_bounded_for_silence_and_for_drops(outbound: Any, files: Site) -> None:
    """A server that says nothing, one that says a byte at a time, and one that goes away."""
    done = asyncio.Event()

    async def silent(_: bytes, __: asyncio.StreamWriter) -> None:
        await done.wait()

    async def dripping(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        while not done.is_set():
            writer.write(b"x")
            await writer.drain()
            await asyncio.wait({asyncio.ensure_future(done.wait())}, timeout=0.05)

    async def dripping_headers(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not done.is_set():
            writer.write(b"x-a: b\r\n")
            await writer.drain()
            await asyncio.wait({asyncio.ensure_future(done.wait())}, timeout=0.05)

    async def leaving(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc")
        await writer.drain()

    async def babbling(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
        await writer.drain()

    files.paths |= {
        "/silent": silent,
        "/dripping": dripping,
        "/headers": dripping_headers,
        "/leaving": leaving,
        "/babbling": babbling,
    }
    base = f"https://files.example:{files.port}"
    try:
        for path, why in (
            ("/silent", "did not answer in time"),
            ("/headers", "did not answer in time"),
            ("/dripping", "did not come in time"),
            ("/leaving", "cut off"),
            ("/babbling", "not answer in HTTP"),
        ):
            async with asyncio.timeout(20):
                with pytest.raises(OutboundFailed, match=why) as failure:
                    await fetch(outbound(seconds=0.8, idle_seconds=0.4), base + path)
            assert failure.value.passing
    finally:
        done.set()


async def test_a_refusal_of_the_server_tells_whether_trying_again_may_help(outbound: Any, files: Site) -> None:
    """What passes is tried again by whoever fetches; what does not is told at once."""
    for status, passing in (("503 Busy", True), ("429 Slow", True), ("404 None", False), ("204 Empty", False)):
        files.paths["/"] = answer(b"", status=status)
        with pytest.raises(OutboundFailed, match=status[:3]) as failure:
            await fetch(outbound(), f"https://files.example:{files.port}/")
        assert failure.value.passing is passing
    with pytest.raises(OutboundFailed, match="could not be reached"):
        await fetch(outbound(names([])), f"https://files.example:{files.port}/")
