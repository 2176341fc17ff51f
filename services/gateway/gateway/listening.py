"""Sockets at one address, of which the newest gets all new connections.

Whoever replaces a server by another in the same process needs both to listen for a moment. With one socket for both,
the old server would go on accepting until it is told to stop, and drop those whose handshake is not yet done. With one
each (`SO_REUSEPORT`), the kernel spreads connections over both, and resets those that wait at the one that is closed.
So it is told to give all to the newest: the older one has time to finish what it has accepted, and is closed when
nothing waits.
"""

import asyncio
import ctypes
import os
import socket
import struct

import structlog

_SO_ATTACH_REUSEPORT_CBPF = 51
_RETURN = 0x06
_BPF = "HBBI"  # struct sock_filter of linux/filter.h
_CLOSED_SECONDS = 5.0
_LOOK_SECONDS = 0.01

_logger = structlog.stdlib.get_logger(__name__)


class Entrance:
    """An address at which one socket follows another. There are never more than two at a time."""

    def __init__(self, host: str, port: int, *, backlog: int) -> None:
        self._address = (host, port)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._backlog = backlog
        self._opened: list[tuple[int, int]] = []

    def open(self) -> int:
        """The descriptor of a socket that listens, and from now on gets all connections. Whoever takes it closes it.

        Raises:
            OSError: the address cannot be had.
        """
        listening = socket.create_server(
            self._address, family=self._family, backlog=self._backlog, reuse_port=hasattr(socket, "SO_REUSEPORT")
        )
        listening.setblocking(False)
        if any(map(_is_open, self._opened)):
            # The sockets of an address are numbered as they were opened: the older one has number 0. When it is closed,
            # there is none with number 1, and the kernel takes the one that is left.
            self._prefer(listening, 1)
        descriptor = listening.detach()
        self._opened = [*filter(_is_open, self._opened), (descriptor, os.fstat(descriptor).st_ino)]
        return descriptor

    async def closed(self) -> None:
        """Wait, not for long, until only the newest is open."""
        older = self._opened[:-1]
        for _ in range(int(_CLOSED_SECONDS / _LOOK_SECONDS)):
            if not any(map(_is_open, older)):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _prefer(self, listening: socket.socket, number: int) -> None:
        program = ctypes.create_string_buffer(struct.pack(_BPF, _RETURN, 0, 0, number))
        try:
            listening.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", 1, ctypes.addressof(program))
            )
        except OSError as error:
            # Not Linux. A connection that is just being made may be reset; clients make another.
            _logger.debug("the kernel spreads connections over old and new sockets", problem=str(error))


def _is_open(opened: tuple[int, int]) -> bool:
    """Whether a descriptor still is the socket that it was."""
    descriptor, number = opened
    try:
        return os.fstat(descriptor).st_ino == number
    except OSError:
        return False
