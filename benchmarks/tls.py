"""What mutual TLS costs one gRPC hop: the same server and the same calls, over mTLS with the identities of our services
and in plaintext, in turns; and what a new connection costs.

Both ends run in processes of their own, over loopback. The handler does nothing but answer 2 KB, so what is seen is the
hop itself; a call that does something costs more, and TLS less of it. What everything together costs a read at the
gateway (proof of the person, signature) is measured by `signature` and `read`.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import psutil
import uvloop
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.ports import free_port
from chassis.identity.files import FileIdentitySource
from chassis.rpc.server import server_credentials

CONCURRENT = 32
SECONDS = 3.0
ROUNDS = 3
CONNECTIONS = 100
_DOMAIN = "almagest.internal"
_ANSWER = bytes(2048)
_METHOD = "/benchmark.Hop/Call"


def main() -> None:
    """Measure, in turns, and print the medians and their ratio."""
    with tempfile.TemporaryDirectory(prefix="almagest-tls-") as directory:
        authority = LocalAuthority(Path(directory))
        server, client = authority.ensure("event-store"), authority.ensure("gateway")
        ports = {"plaintext": free_port(), "mutual TLS": free_port()}
        command = [sys.executable, __file__, str(server), *map(str, ports.values())]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as serving:
            try:
                if serving.stdout is None or not serving.stdout.readline():
                    raise RuntimeError("the server did not start")
                uvloop.run(_measure(ports, client, psutil.Process(serving.pid)))
            finally:
                serving.terminate()


async def _measure(ports: dict[str, int], identity: Path, server: psutil.Process) -> None:
    channels = {name: _channel(name, port, identity) for name, port in ports.items()}
    rates: dict[str, list[float]] = {name: [] for name in channels}
    costs: dict[str, list[float]] = {name: [] for name in channels}
    for _ in range(ROUNDS):
        for name, channel in channels.items():
            await _calls(channel, 0.3)
            before = sum(server.cpu_times()[:2])
            began = time.monotonic()
            count = await _calls(channel, SECONDS)
            rates[name].append(count / (time.monotonic() - began))
            costs[name].append((sum(server.cpu_times()[:2]) - before) / count * 1e6)
    print(f"{CONCURRENT} calls at once, 2 KB answers, medians of {ROUNDS} runs of {SECONDS:g} s in turns")
    print(f"{'':14}{'calls/s':>10}{'server CPU us/call':>20}{'new connection, ms':>20}")
    for name, port in ports.items():
        connecting = [await _connect(name, port, identity) for _ in range(CONNECTIONS)]
        print(
            f"{name:14}{statistics.median(rates[name]):10.0f}{statistics.median(costs[name]):20.0f}"
            f"{statistics.median(connecting) * 1000:20.2f}"
        )
    plain, mutual = (statistics.median(rates[name]) for name in ("plaintext", "mutual TLS"))
    print(f"mutual TLS: {mutual / plain:.2f} of the rate in plaintext (the aim: 0.8)")
    for channel in channels.values():
        await channel.close()


def _channel(name: str, port: int, identity: Path) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", f"event-store.{_DOMAIN}")]
    if name == "plaintext":
        return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
    source = FileIdentitySource(identity, _DOMAIN, service="gateway").current()
    credentials = grpc.ssl_channel_credentials(source.trust_bundle, source.private_key, source.certificate_chain)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)


async def _calls(channel: grpc.aio.Channel, seconds: float) -> int:
    call = channel.unary_unary(_METHOD)
    until = time.monotonic() + seconds

    async def caller() -> int:
        count = 0
        while time.monotonic() < until:
            await call(b"x" * 100, timeout=10)
            count += 1
        return count

    return sum(await asyncio.gather(*(caller() for _ in range(CONCURRENT))))


async def _connect(name: str, port: int, identity: Path) -> float:
    channel = _channel(name, port, identity)
    began = time.perf_counter()
    await channel.unary_unary(_METHOD)(b"", timeout=10)
    took = time.perf_counter() - began
    await channel.close()
    return took


async def _serve(identity: Path, plain: str, mutual: str) -> None:
    async def answer(_: bytes, __: object) -> bytes:
        return _ANSWER

    handler = grpc.method_handlers_generic_handler(
        "benchmark.Hop", {"Call": grpc.unary_unary_rpc_method_handler(answer)}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{plain}")
    source = FileIdentitySource(identity, _DOMAIN, service="event-store")
    server.add_secure_port(f"127.0.0.1:{mutual}", server_credentials(source))
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
