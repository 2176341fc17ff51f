"""Fetching what a user names by URL, without being used to reach what only we can reach (server-side request forgery).

Four things make it safe, and each is useless without the others. Only hosts that an operator has allowed are asked.
The name is resolved here, once, every address that it has is looked at, and the connection goes to the very address
that was looked at: a name server that answers something else the next time is not asked a next time. TLS verifies the
name as ever. And a redirect is a new URL, for which all of this is done again.

What comes is bounded in size, in time, and in what it unpacks to. No proxy, cookie, credential or certificate of ours
is ever used.
"""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore
from httpcore import AnyIOBackend

from chassis.decompression import CompressionRefused, gunzip

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_MAXIMUM_URL: Final = 2000
_MAXIMUM_ADDRESSES: Final = 8
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = 200
_PORTS: Final = {"https": 443, "http": 80}

# What is not to be reached though Python calls it global (RFC 6890, the registries of IANA, and the addresses at which
# clouds tell machines their secrets), and forms that carry an IPv4 address inside.
_NEVER: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's platform
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "100.64.0.0/10",
        "::/96",  # IPv4-compatible
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 of a site
        "2001::/23",  # Teredo, ORCHID and others
        "2002::/16",  # 6to4
        "fec0::/10",  # site-local
        "5f00::/16",  # segment routing
    )
)


class OutboundRefused(Exception):
    """We do not go there. `message` can be shown to whoever named the URL."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class OutboundFailed(Exception):
    """We went, and did not get it. `message` can be shown; `passing`: another try may end better."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.message = message
        self.passing = passing


@dataclass(frozen=True, slots=True)
class OutboundPolicy:
    """Where one may go, and what one takes from there. Without any host, nowhere.

    Attributes:
        hosts: names, in small letters; `*.example.com` is every name below example.com, at any depth.
        networks: of addresses that are not public, those that are allowed all the same.
        ports: the ports that are allowed.
        plaintext: whether `http` is allowed beside `https`.
        redirects: how many are followed.
        seconds: how long all of it may take.
        idle_seconds: how long nothing may happen.
        maximum_bytes: how large an answer may be, unpacked.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = field(default_factory=lambda: frozenset({443}))
    plaintext: bool = False
    redirects: int = 3
    seconds: float = 3600.0
    idle_seconds: float = 15.0
    maximum_bytes: int = 1 << 30

    def check(self, url: str) -> SplitResult:
        """See that a URL may be asked for, as far as that can be said without asking a name server.

        Raises:
            OutboundRefused: It may not; the message says what would have to be different.
        """
        parts = _parsed(url)
        if parts.scheme != "https" and not (self.plaintext and parts.scheme == "http"):
            raise OutboundRefused("Only https URLs are fetched.")
        if parts.username is not None or parts.password is not None:
            raise OutboundRefused("A URL must not carry a user name or password.")
        host = (parts.hostname or "").rstrip(".")
        if not any(host == allowed or _is_below(host, allowed) for allowed in self.hosts):
            raise OutboundRefused(
                "Files are fetched from allowed hosts only, and this is none of them. An operator can allow it."
            )
        if _port(parts) not in self.ports:
            raise OutboundRefused(f"Port {_port(parts)} is not one of those that are allowed.")
        return parts

    def allows(self, address: str) -> bool:
        """Whether a connection to an address may be made."""
        parsed = ip_address(address.partition("%")[0])
        if "%" not in address and any(
            network.version == parsed.version and parsed in network for network in self.networks
        ):
            return True
        return is_public(parsed)


def is_public(address: Address) -> bool:
    """Whether an address is one that anybody on the Internet can reach: not loopback, private, link-local, shared,
    multicast, reserved, a cloud's own, nor an IPv4 address in the guise of one of IPv6.
    """
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(network.version == address.version and address in network for network in _NEVER)
    )


def _parsed(url: str) -> SplitResult:
    if len(url) > _MAXIMUM_URL:
        raise OutboundRefused(f"A URL may have at most {_MAXIMUM_URL} characters.")
    # Parsers disagree about all others.
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise OutboundRefused("A URL consists of printable ASCII characters; others are percent-encoded.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        literal = _is_address(host)
    except ValueError:
        raise OutboundRefused("This is no URL.") from None
    if not host or port == 0 or not (literal or _NAME.fullmatch(host.rstrip("."))):
        raise OutboundRefused("This URL names no host.")
    return parts


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_below(host: str, allowed: str) -> bool:
    return allowed.startswith("*.") and host.endswith(allowed[1:]) and not _is_address(host)


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS.get(parts.scheme, 0)


async def resolve(host: str, port: int) -> Sequence[str]:
    """All addresses of a name, as the system's resolver has them.

    Raises:
        OSError: It has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to an address that was looked at, or to none."""

    def __init__(self, policy: OutboundPolicy, resolving: Resolve) -> None:
        self._policy = policy
        self._resolve = resolving
        self._plain = AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to the first address that answers.

        Raises:
            OutboundRefused: One of the addresses is not to be reached.
            httpcore.ConnectError: The name has none, or none answers.
        """
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        # One that is not public is enough: who mixes them means no good, or has a name server that is broken.
        if not all(self._policy.allows(address) for address in addresses):
            raise OutboundRefused("The host of the URL has an address that is not public.")
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses[:_MAXIMUM_ADDRESSES]:
            try:
                return await self._plain.connect_tcp(
                    address, port, timeout=timeout, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Never.

        Raises:
            OutboundRefused: Always.
        """
        del path
        raise OutboundRefused("A URL names no socket.")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer whose body is still to come.

    Attributes:
        url: where it came from in the end.
        content_type: what it says it is, without parameters, in small letters.
        size: how many bytes are announced; None: nothing is, or they are packed.
        pieces: the body, unpacked; to be read once.
    """

    url: str
    content_type: str
    size: int | None
    pieces: AsyncIterator[bytes]


class Outbound:
    """Fetches by a policy.

    Args:
        policy: where one may go.
        tls: what is believed of servers; by default the authorities of this machine.
        resolving: asks for the addresses of a name.
    """

    def __init__(
        self, policy: OutboundPolicy, *, tls: ssl.SSLContext | None = None, resolving: Resolve = resolve
    ) -> None:
        self.policy = policy
        self._tls = tls or ssl.create_default_context()
        self._resolve = resolving

    @asynccontextmanager
    async def get(self, url: str) -> AsyncGenerator[Fetched]:
        """What a URL answers. Its body is bounded while it is read, by exceptions of the same kinds.

        Raises:
            OutboundRefused: It is not to be asked for, or redirects to what is not.
            OutboundFailed: It could not be had.
        """
        until = time.monotonic() + self.policy.seconds
        for _ in range(self.policy.redirects + 1):
            parts = self.policy.check(url)
            # A pool for one request: nothing of one fetch is there for the next.
            pool = httpcore.AsyncConnectionPool(
                ssl_context=self._tls, network_backend=_Checked(self.policy, self._resolve), max_connections=1
            )
            try:
                response = await self._asked(pool, parts, until)
                if response.status not in _REDIRECTS:
                    yield self._fetched(url, response, until)
                    return
            finally:
                await pool.aclose()
            target = urljoin(url, _header(response, b"location"))
            if parts.scheme == "https" and urlsplit(target).scheme != "https":
                raise OutboundRefused("The URL redirects from https to something else.")
            url = target
        raise OutboundRefused(f"The URL redirects more than {self.policy.redirects} times.")

    async def _asked(self, pool: httpcore.AsyncConnectionPool, parts: SplitResult, until: float) -> httpcore.Response:
        idle = self.policy.idle_seconds
        host = parts.hostname or ""
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = httpcore.Request(
            "GET",
            httpcore.URL(scheme=parts.scheme.encode(), host=host.encode(), port=parts.port, target=target.encode()),
            headers=[
                (b"host", parts.netloc.encode()),
                (b"user-agent", b"Almagest"),
                (b"accept", b"*/*"),
                (b"accept-encoding", b"gzip"),
            ],
            extensions={"timeout": {"connect": idle, "read": idle, "write": idle, "pool": idle}},
        )
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0)):
                return await pool.handle_async_request(request)
        except (TimeoutError, httpcore.TimeoutException):
            raise OutboundFailed("The host of the URL did not answer in time.", passing=True) from None
        except (httpcore.ConnectError, httpcore.NetworkError) as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(error):
                raise OutboundFailed("The certificate of the host is not valid for it.", passing=False) from None
            raise OutboundFailed("The host of the URL could not be reached.", passing=True) from None
        except (httpcore.ProtocolError, ValueError):
            raise OutboundFailed("The host of the URL did not answer in HTTP.", passing=True) from None

    def _fetched(self, url: str, response: httpcore.Response, until: float) -> Fetched:
        status = response.status
        if status != _OK:
            raise OutboundFailed(
                f"The host of the URL answered with status {status} instead of 200.",
                passing=status in {408, 425, 429} or status >= 500,  # noqa: PLR2004 - faults of the server
            )
        encoding = _header(response, b"content-encoding").strip().lower()
        if encoding not in {"", "identity", "gzip", "x-gzip"}:
            raise OutboundFailed("The file comes in a Content-Encoding other than gzip.", passing=False)
        announced = _header(response, b"content-length")
        packed = encoding in {"gzip", "x-gzip"}
        size = int(announced) if announced.isascii() and announced.isdigit() else None
        if size is not None and size > self.policy.maximum_bytes:
            raise OutboundFailed(self._too_large(), passing=False)
        return Fetched(
            url=url,
            content_type=_header(response, b"content-type").partition(";")[0].strip().lower(),
            size=None if packed else size,
            pieces=self._unpacked(response, until) if packed else self._pieces(response, until),
        )

    async def _unpacked(self, response: httpcore.Response, until: float) -> AsyncIterator[bytes]:
        try:
            async for piece in gunzip(self._pieces(response, until), limit=self.policy.maximum_bytes):
                yield piece
        except CompressionRefused as error:
            raise OutboundFailed(str(error), passing=False) from None

    async def _pieces(self, response: httpcore.Response, until: float) -> AsyncIterator[bytes]:
        received = 0
        stream = response.aiter_stream()
        while True:
            try:
                async with asyncio.timeout(max(until - time.monotonic(), 0)):
                    piece = await anext(stream, None)
            except (TimeoutError, httpcore.TimeoutException):
                raise OutboundFailed("The file did not come in time.", passing=True) from None
            except (httpcore.NetworkError, httpcore.ProtocolError):
                raise OutboundFailed("The file was cut off on its way.", passing=True) from None
            if piece is None:
                return
            received += len(piece)
            if received > self.policy.maximum_bytes:
                raise OutboundFailed(self._too_large(), passing=False)
            yield piece

    def _too_large(self) -> str:
        return f"The file is larger than the {self.policy.maximum_bytes} bytes that are taken."


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for known, value in response.headers if known.lower() == name), "")
