"""Ends connections that do nothing, whichever server has them.

A connection costs a descriptor and memory before it has asked for anything. The servers differ in what they put up
with: Granian waits for the first byte behind a TLS handshake for ever, uvicorn for the end of headers that come a byte
at a time, and a client of HTTP/2 that answers pings may stay for years. So the door itself looks at its connections
once a second, and ends those without a request for too long and those of one address beyond its share.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address

import prometheus_client
import structlog
from chassis.sockets import accepted, peer_of

from gateway.middleware.context import Application, Receive, Scope, Send

Client = tuple[str, int]

_SWEEP_SECONDS = 1.0
_ended = prometheus_client.Counter(
    "almagest_http_connections_ended_total", "Connections that were ended for what they did not do.", ("why",)
)
_logger = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Connection:
    """Since when it is there, what runs on it, and when the last request ended."""

    since: float
    running: int = 0
    last: float = 0.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection may be without a first request, and between two, in seconds; how many one address may have;
    and the networks of proxies, which may have any number.
    """

    first_seconds: float
    idle_seconds: float
    per_address: int
    proxies: Sequence[IPv4Network | IPv6Network] = field(default_factory=tuple)


class Doorkeeper:
    """The application, with an eye on the connections that its requests come by."""

    def __init__(self, application: Application, *, port: int, patience: Patience) -> None:
        self._application = application
        self._port = port
        self._patience = patience
        self._known: dict[Client, _Connection] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        client = scope.get("client")
        if scope["type"] != "http" or not client:
            await self._application(scope, receive, send)
            return
        name = (str(client[0]).removeprefix("::ffff:"), int(client[1]))
        connection = self._known.get(name)
        if connection is None:
            connection = self._known[name] = _Connection(time.monotonic())
        connection.running += 1
        try:
            await self._application(scope, receive, send)
        finally:
            connection.running -= 1
            connection.last = time.monotonic()

    async def watch(self) -> None:
        """Look at the connections, for ever."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            # Thousands of them would hold up the requests of all others.
            ended = await asyncio.to_thread(self.sweep)
            for why, count in ended.items():
                _ended.labels(why).inc(count)
                _logger.info("connections were ended", why=why, connections=count)

    def sweep(self) -> dict[str, int]:
        """End what must end; how many, by why."""
        now = time.monotonic()
        ended: Counter[str] = Counter()
        present: set[Client] = set()
        hosts: Counter[str] = Counter()
        for connection in accepted(self._port):
            client = peer_of(connection)
            if client is None:
                continue
            present.add(client)
            hosts[client[0]] += 1
            why = self._reason(client, hosts[client[0]], now)
            if why:
                ended[why] += 1
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        for client in [client for client, state in list(self._known.items()) if not state.running]:
            if client not in present:
                self._known.pop(client, None)
        return ended

    def _reason(self, client: Client, count: int, now: float) -> str:
        state = self._known.setdefault(client, _Connection(now))
        if state.running:
            return ""
        if count > self._patience.per_address and not self._is_proxy(client[0]):
            return "too many"
        if not state.last:
            return "no request" if now - state.since > self._patience.first_seconds else ""
        return "idle" if now - state.last > self._patience.idle_seconds else ""

    def _is_proxy(self, host: str) -> bool:
        address = ip_address(host.partition("%")[0])
        return any(address.version == network.version and address in network for network in self._patience.proxies)
