"""One server takes the place of another at an address, and no connection is made to the one that is about to go."""

import asyncio
import contextlib
import socket
import sys

import pytest
from almagest_cli.local.ports import free_port
from gateway.listening import Entrance


def accepted(listening: socket.socket) -> int:
    """How many connections wait at a socket."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            count += 1
    return count


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels spread connections as they like")
async def test_the_newest_socket_gets_all_connections() -> None:
    """Each time one follows another, also when the one before it was closed late."""
    address = ("127.0.0.1", free_port())
    entrance = Entrance(*address, backlog=64)
    old = socket.socket(fileno=entrance.open())
    old.setblocking(False)
    for _ in range(3):
        new = socket.socket(fileno=entrance.open())
        new.setblocking(False)
        callers = [socket.create_connection(address) for _ in range(20)]
        assert (accepted(old), accepted(new)) == (0, 20)
        closed = asyncio.create_task(entrance.closed())
        await asyncio.sleep(0)
        assert not closed.done()
        old.close()
        await closed
        callers += [socket.create_connection(address) for _ in range(3)]
        assert accepted(new) == 3
        for caller in callers:
            caller.close()
        old = new
    old.close()
