"""What runs on a server for whom, so that it can be ended when its caller is believed no more.

TLS looks at a certificate once, when a connection is made. Calls are checked one by one (`chassis.rpc.peer`), but a
stream that was admitted yesterday would go on for ever. So every call that runs is known here, and a few times a second
those are ended whose caller has been denied, and the streams whose caller's certificate has expired. A call that
answers once ends by its deadline, and may have taken effect already. Of the denied, the connections are shut down as
well: gRPC for Python has no way to do so, hence they are found among the process's own sockets, by the addresses from
which their calls came.
"""

import asyncio
import socket
import time
from typing import Any
from urllib.parse import unquote

import structlog

from chassis.errors import Unauthenticated
from chassis.identity.denials import DenyList
from chassis.rpc.peer import Peer, denied, expired
from chassis.sockets import accepted, peer_of

_SWEEP_SECONDS = 0.25
_HANG_UP_SECONDS = 0.25
_ADDRESSES = 4096

_logger = structlog.stdlib.get_logger(__name__)


class Connections:
    """The calls that run on a server, and the addresses that their callers have called from."""

    def __init__(self, denials: DenyList) -> None:
        self._denials = denials
        self._running: dict[asyncio.Task[Any], Peer] = {}
        self._streams: set[asyncio.Task[Any]] = set()
        self._ended: dict[asyncio.Task[Any], Unauthenticated] = {}
        self._addresses: dict[str, Peer] = {}
        self.port = 0

    def entered(self, task: asyncio.Task[Any] | None, peer: Peer, address: str, *, streaming: bool) -> None:
        """A call of the peer begins to run, as a task of its own."""
        self._addresses[address] = peer
        if len(self._addresses) > _ADDRESSES:
            live = {_spoken(name) for connection in accepted(self.port) if (name := peer_of(connection))}
            self._addresses = {address: peer for address, peer in self._addresses.items() if address in live}
        if task is not None:
            self._running[task] = peer
            if streaming:
                self._streams.add(task)

    def left(self, task: asyncio.Task[Any] | None) -> None:
        """It has ended."""
        if task is not None:
            self._running.pop(task, None)
            self._streams.discard(task)
            self._ended.pop(task, None)

    def why_ended(self, task: asyncio.Task[Any]) -> Unauthenticated | None:
        """Why a call was cancelled here; None when it was not."""
        return self._ended.get(task)

    async def watch(self) -> None:
        """End what must end, for ever; a change of the deny list is seen at once."""
        changed = asyncio.Event()
        unsubscribe = self._denials.subscribe(changed.set)
        try:
            while True:
                self.sweep()
                try:
                    async with asyncio.timeout(_SWEEP_SECONDS):
                        await changed.wait()
                    changed.clear()
                    self.sweep()
                    # What has just been ended is told so before its connection goes.
                    await asyncio.sleep(_HANG_UP_SECONDS)
                    self.hang_up()
                except TimeoutError:
                    continue
        finally:
            unsubscribe()

    def sweep(self) -> None:
        """End the calls whose callers are believed no more."""
        now = time.time()
        for task, peer in list(self._running.items()):
            if task in self._ended:
                continue
            reason = None
            if self._denials.denies(peer.spiffe_id, peer.serial):
                reason = denied()
            elif peer.expires_at <= now and task in self._streams:
                reason = expired()
            if reason is not None:
                self._ended[task] = reason
                task.cancel()

    def hang_up(self) -> int:
        """Shut down the connections of who is denied; answers how many."""
        shut = 0
        unwanted = {
            address for address, peer in self._addresses.items() if self._denials.denies(peer.spiffe_id, peer.serial)
        }
        if not unwanted:
            return 0
        for connection in accepted(self.port):
            address = peer_of(connection)
            if address is None or _spoken(address) not in unwanted:
                continue
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
            shut += 1
        for address in unwanted:
            self._addresses.pop(address, None)
        _logger.warning("connections of denied workloads were shut down", connections=shut)
        return shut


def _spoken(address: tuple[str, int]) -> str:
    """An address as gRPC writes it."""
    host, port = address
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def address_of(peer: str) -> str:
    """The address that gRPC tells of a caller, in the form that is compared here."""
    return unquote(peer)
