"""What a signature costs a read of one product at the gateway: signed by HMAC-SHA256 and by Ed25519, beside an access
token, in turns.

Each signed read has a nonce of its own, claimed in Redis. All requests of a run are signed before it begins, so that
signing them costs the run nothing.
"""

import asyncio
import os
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import uvloop
from almagest_cli.signing import Key, signature_headers
from harness.door import Door
from harness.running import RunningSystem, running_system
from read import _cpu_of_port

REQUESTS = 6000
CONNECTIONS = 32
ROUNDS = 3
_SETTLE_SECONDS = 12.0


def main() -> None:
    """Measure, in turns, and print the medians and their ratios."""
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="almagest-signature-")))
        os.environ |= dict.fromkeys(
            ("ALMAGEST_PERSON_REQUESTS_PER_MINUTE", "ALMAGEST_ADDRESS_REQUESTS_PER_MINUTE"), "1000000000"
        )
        system = stack.enter_context(running_system(state / "system"))
        door = stack.enter_context(Door.to(system))
        made = door.call("POST", "/v1/products", json={"sku": "signed", "kind": "general", "name": "Signed"})
        target = f"/v1/products/{made.json()['product_id']}"
        door.get(target, headers={"Almagest-Consistency": made.headers["almagest-consistency"]})
        token = f"Authorization: Bearer {door.http.headers['authorization'].partition(' ')[2]}"
        runs: dict[str, Callable[[], list[bytes]]] = {
            "access token": lambda: [_request(system, target, [token])] * REQUESTS
        }
        for kind in ("hmac-sha256", "ed25519"):
            key = Key.of(door.call("POST", "/v1/keys", json={"name": kind, "kind": kind}).json())
            runs[f"signed, {kind}"] = lambda key=key: _signed(system, target, key)
        # Until Redis has known everything for long enough.
        time.sleep(_SETTLE_SECONDS)
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for requests in runs.values():
            _run(system, requests()[:500])
        for _ in range(ROUNDS):
            for name, requests in runs.items():
                ready = requests()
                before = _cpu_of_port(system.local.ports.gateway)
                seconds = _run(system, ready)
                used = _cpu_of_port(system.local.ports.gateway) - before
                seen[name].append((REQUESTS / seconds, used / REQUESTS * 1e6))
        _print(seen)


def _print(seen: dict[str, list[tuple[float, float]]]) -> None:
    print(f"{CONNECTIONS} connections, TLS, medians of {ROUNDS} runs of {REQUESTS} reads in turns")
    print(f"{'':24}{'reads/s':>10}{'gateway CPU us/read':>22}")
    rates = {name: statistics.median(rate for rate, _ in runs) for name, runs in seen.items()}
    for name, runs in seen.items():
        print(f"{name:24}{rates[name]:10.0f}{statistics.median(cpu for _, cpu in runs):22.0f}")
    plain, *signed = rates
    for name in signed:
        print(f"{name}: {rates[name] / rates[plain]:.2f} of the rate with a token (the aim: 0.8)")


def _request(system: RunningSystem, target: str, headers: list[str]) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"GET {target} HTTP/1.1\r\nHost: localhost:{system.local.ports.gateway}\r\n{lines}\r\n".encode()


def _signed(system: RunningSystem, target: str, key: Key) -> list[bytes]:
    url = f"https://localhost:{system.local.ports.gateway}{target}"
    return [
        _request(system, target, [f"{name}: {value}" for name, value in signature_headers(key, "GET", url, {}).items()])
        for _ in range(REQUESTS)
    ]


def _run(system: RunningSystem, requests: list[bytes]) -> float:
    return uvloop.run(_send(system, requests))


async def _send(system: RunningSystem, requests: list[bytes]) -> float:
    tls = ssl.create_default_context(cafile=str(system.ca))
    tls.set_alpn_protocols(["http/1.1"])
    port = system.local.ports.gateway
    left = iter(requests)
    links = [
        await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
        for _ in range(CONNECTIONS)
    ]
    began = time.perf_counter()
    await asyncio.gather(*(_client(reader, writer, left) for reader, writer in links))
    seconds = time.perf_counter() - began
    for _, writer in links:
        writer.close()
    return seconds


async def _client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: Iterator[bytes]) -> None:
    for request in left:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"a read was refused: {body.decode()}")


if __name__ == "__main__":
    main()
