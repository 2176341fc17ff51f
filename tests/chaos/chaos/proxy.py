"""A TCP relay on loopback between clients and a service, which can hold up, lose and break what passes through."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import Final, Self

from almagest_cli.local.ports import free_port

_CHUNK: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST."""


@dataclass(eq=False)
class _Pair:
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    tasks: list["asyncio.Task[None]"] = field(default_factory=list["asyncio.Task[None]"])
    ended: int = 0

    def reset(self) -> None:
        """Break the connection on both sides."""
        for writer in self.writers:
            connection = writer.get_extra_info("socket")
            if connection is not None:
                # One that is closed already, which uvloop says by a ValueError, needs no reset.
                with contextlib.suppress(OSError, ValueError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """Passes connections on to a port.

    Attributes:
        port: where it listens.
        delays: seconds that what goes to the service, and what comes from it, is held up.
        open: whether what goes to the service, and what comes from it, passes at all. What does not pass waits, as in a
            network that loses packets until it no longer does.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.delays = [0.0, 0.0]
        self.open = (asyncio.Event(), asyncio.Event())
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        for direction in self.open:
            direction.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for pair in list(self._pairs):
            self._end(pair)

    def reset(self) -> int:
        """Break all connections; answers how many there were."""
        pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()
        return len(pairs)

    def heal(self) -> None:
        """Let everything pass again, at once."""
        self.delays[:] = (0.0, 0.0)
        for direction in self.open:
            direction.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair((writer, to_writer))
        self._pairs.add(pair)
        loop = asyncio.get_running_loop()
        pair.tasks = [
            loop.create_task(self._relay(0, reader, to_writer, pair)),
            loop.create_task(self._relay(1, to_reader, writer, pair)),
        ]

    async def _relay(
        self, direction: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if self.delays[direction]:
                    await asyncio.sleep(self.delays[direction])
                await self.open[direction].wait()
                writer.write(data)
                await writer.drain()
            if not writer.is_closing():
                writer.write_eof()
        except (OSError, RuntimeError):
            # uvloop says by a RuntimeError that a connection is closed.
            pair.reset()
        finally:
            pair.ended += 1
            if pair.ended == len(pair.writers) or writer.transport.is_closing():
                self._end(pair)

    def _end(self, pair: _Pair) -> None:
        """Forget a connection of which nothing is left."""
        self._pairs.discard(pair)
        for end in pair.writers:
            end.transport.abort()
        for task in pair.tasks:
            if task is not asyncio.current_task():
                task.cancel()
