"""A load generator that costs little: HTTP/1.1 over TLS, one request in flight per connection, in a process of its own.

Each connection sends the same bytes over and over and looks at nothing of the answer but its status and length. So it
uses a tenth of the CPU of a client library, which would otherwise be measured along with the server on a small machine.
"""

import argparse
import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop


@dataclass(frozen=True)
class Load:
    """What a run saw. Times are in seconds."""

    requests: int
    failed: int
    seconds: float
    median: float
    p99: float
    cpu: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def measure(
    *,
    port: int,
    ca: Path,
    paths: Sequence[str],
    headers: Sequence[str] = (),
    connections: int = 32,
    seconds: float = 5.0,
) -> Load:
    """Load a server on this machine from another process."""
    command = [sys.executable, __file__, "--port", str(port), "--ca", str(ca), "--seconds", str(seconds)]
    command += ["--connections", str(connections)]
    # Over standard input, where no other process sees the token.
    told = json.dumps({"paths": list(paths), "headers": list(headers)})
    answer = subprocess.run(command, input=told, stdout=subprocess.PIPE, text=True, check=True)
    return Load(**json.loads(answer.stdout))


class _Connection(asyncio.Protocol):
    """One client: asks, waits for the whole answer, asks again."""

    def __init__(self, requests: list[bytes], begin: int, took: list[float], until: float) -> None:
        self._requests = requests
        self._next = begin
        self._took = took
        self._until = until
        self._buffer = bytearray()
        self._began = 0.0
        self.failed = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        if self._began >= self._until:
            self._transport.close()
            return
        self._transport.write(self._requests[self._next])
        self._next = (self._next + 1) % len(self._requests)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(buffer[:end]).lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(buffer) < end + 4 + length:
            return
        self._took.append(time.perf_counter() - self._began)
        if not head.startswith(b"http/1.1 200"):
            self.failed += 1
        buffer.clear()
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            if exc is not None:
                self.over.set_exception(exc)
            else:
                self.over.set_result(None)


async def _run(arguments: argparse.Namespace, paths: list[str], headers: list[str]) -> dict[str, float]:
    lines = "".join(f"{header}\r\n" for header in headers)
    requests = [f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode() for path in paths]
    tls = ssl.create_default_context(cafile=arguments.ca)
    tls.set_alpn_protocols(["http/1.1"])
    took: list[float] = []
    loop = asyncio.get_running_loop()
    began, cpu = time.perf_counter(), time.process_time()
    until = began + arguments.seconds
    connections: list[_Connection] = []
    for number in range(arguments.connections):
        _, connection = await loop.create_connection(
            lambda begin=number: _Connection(requests, begin % len(requests), took, until),
            "127.0.0.1",
            arguments.port,
            ssl=tls,
            server_hostname="localhost",
        )
        connections.append(connection)
    await asyncio.gather(*(connection.over for connection in connections))
    seconds = time.perf_counter() - began
    took.sort()
    return {
        "requests": len(took),
        "failed": sum(connection.failed for connection in connections),
        "seconds": seconds,
        "median": took[len(took) // 2],
        "p99": took[len(took) * 99 // 100],
        "cpu": time.process_time() - cpu,
    }


def main() -> None:
    """Load one server, as told by the arguments and standard input; print what was seen as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    told = json.load(sys.stdin)
    print(json.dumps(uvloop.run(_run(arguments, told["paths"], told["headers"]))))


if __name__ == "__main__":
    main()
