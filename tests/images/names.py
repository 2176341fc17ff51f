"""What a cluster does with Services: names that lead to the pods that are ready, and addresses that lead to one of them."""

import secrets
import selectors
import socket
import socketserver
import threading
from collections.abc import Callable, Sequence
from typing import Final

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Addresses = Callable[[str], Sequence[str] | None]
"""The addresses that a name has now; None when there is no such name."""
TTL_SECONDS: Final = 5
_CHUNK: Final = 65536


class Names(socketserver.ThreadingUDPServer):
    """Answers for a cluster's domain as CoreDNS does: a Service without pods that are ready has no name.

    Args:
        address: where it is asked, at port 53.
        addresses: what names have.
    """

    daemon_threads = True

    def __init__(self, address: str, addresses: Addresses) -> None:
        self._addresses = addresses
        super().__init__((address, 53), _Question)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, packet: bytes) -> bytes:
        """The answer to a question."""
        query = dns.message.from_wire(packet)
        response = dns.message.make_response(query, recursion_available=True)
        response.flags |= dns.flags.AA
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True).lower()
        found = self._addresses(name)
        if not found:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.A:
            response.answer.append(dns.rrset.from_text(question.name, TTL_SECONDS, "IN", "A", *found))
        return response.to_wire()


class _Question(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        packet, reply = self.request
        server = self.server
        assert isinstance(server, Names)
        reply.sendto(server.answer(packet), self.client_address)


class Balancer(socketserver.ThreadingTCPServer):
    """The address of a Service: connections go to one of the pods that are ready.

    Args:
        address: where it listens; port 0 for any.
        targets: the pods and their port, now.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], targets: Callable[[], Sequence[tuple[str, int]]]) -> None:
        self.targets = targets
        super().__init__(address, _Connection)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.socket.getsockname()[1])


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Balancer)
        if targets := server.targets():
            with socket.create_connection(secrets.choice(targets), 5) as there:
                there.settimeout(None)
                _carry(self.request, there)


def _carry(here: socket.socket, there: socket.socket) -> None:
    """Carry bytes both ways until one side has ended."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(here, selectors.EVENT_READ, there)
        waiting.register(there, selectors.EVENT_READ, here)
        try:
            while True:
                for key, _ in waiting.select():
                    source = here if key.data is there else there
                    if not (data := source.recv(_CHUNK)):
                        return
                    key.data.sendall(data)
        except OSError:
            return
