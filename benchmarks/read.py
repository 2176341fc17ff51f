"""Reading one product of 2 KB at 32 connections: through the gateway, beside a plain application, and beside the
gateway with no backend.

The gateway's read makes two hops more than the plain application's: mutual TLS to catalog-query and there to Postgres,
with the person proven on each. It is faster because reads that wait travel together, the document is stored ready to
send, and nothing decodes it on the way.
"""

import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import no_backend
import plain_application
import psutil
from almagest_cli.local.ports import free_ports
from almagest_cli.local.postgres import OWNER, EmbeddedPostgres
from harness.door import Door
from harness.running import RunningSystem, running_system
from load import Load, measure

PRODUCTS = 200
CONNECTIONS = 32
ROUNDS = 3
SECONDS = 4.0
HERE = Path(__file__).parent


def main() -> None:
    """Measure, in turns, and print the medians and their ratios."""
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="almagest-read-")))
        # The load comes from one person at one address; counting it stays on.
        os.environ |= dict.fromkeys(
            ("ALMAGEST_PERSON_REQUESTS_PER_MINUTE", "ALMAGEST_ADDRESS_REQUESTS_PER_MINUTE"), "1000000000"
        )
        system = stack.enter_context(running_system(state / "system"))
        documents, authorization = _products(system)
        paths = [f"/v1/products/{document['product_id']}" for document in documents]
        plain = stack.enter_context(_plain(state, system, documents))
        alone = stack.enter_context(_no_backend(system, documents[0]))
        anyone = f"Authorization: Bearer {no_backend.token()}"
        runs: dict[str, tuple[Callable[[], Load], Callable[[], float]]] = {
            "gateway, two hops": (
                lambda: _load(system, system.local.ports.gateway, paths, authorization),
                lambda: _cpu_of_port(system.local.ports.gateway),
            ),
            "plain FastAPI + SQLAlchemy ORM": (
                lambda: _load(system, plain, paths, anyone),
                lambda: _cpu_of_port(plain),
            ),
            "gateway, no backend": (lambda: _load(system, alone, paths, anyone), lambda: _cpu_of_port(alone)),
        }
        seen: dict[str, list[tuple[Load, float]]] = {name: [] for name in runs}
        for run, _ in runs.values():
            run()
        for _ in range(ROUNDS):
            for name, (run, cpu) in runs.items():
                before = cpu()
                load = run()
                seen[name].append((load, cpu() - before))
        _print(seen)


def _print(seen: dict[str, list[tuple[Load, float]]]) -> None:
    rates = {name: statistics.median(load.rate for load, _ in loads) for name, loads in seen.items()}
    print(f"{CONNECTIONS} connections, TLS, documents of 2 KB, medians of {ROUNDS} runs of {SECONDS:g} s in turns")
    print(f"{'':32}{'reads/s':>10}{'median ms':>11}{'p99 ms':>9}{'CPU us/read':>13}{'failed':>8}")
    for name, loads in seen.items():
        median = statistics.median(load.median for load, _ in loads) * 1e3
        p99 = statistics.median(load.p99 for load, _ in loads) * 1e3
        cpu = statistics.median(used / load.requests for load, used in loads) * 1e6
        failed = sum(load.failed for load, _ in loads)
        print(f"{name:32}{rates[name]:10.0f}{median:11.2f}{p99:9.1f}{cpu:13.0f}{failed:8}")
    gateway, plain, alone = rates.values()
    print(f"the gateway reads {gateway / plain:.1f} times as fast as the plain application (the aim: 5)")
    print(f"and {gateway / alone:.2f} times as fast as with no backend")


def _load(system: RunningSystem, port: int, paths: list[str], authorization: str) -> Load:
    return measure(
        port=port, ca=system.ca, paths=paths, headers=[authorization], connections=CONNECTIONS, seconds=SECONDS
    )


def _products(system: RunningSystem) -> tuple[list[dict[str, Any]], str]:
    rows = [
        {
            "sku": f"read-{number}",
            "kind": "car",
            "name": f"Car {number}",
            "text": "An estate with all-wheel drive, a long warranty and a towing hook. " * 23,
            "category": "vehicles/estate",
            "attributes": {"make": "Volvo", "model": "V60", "model_year": 2026, "body_styles": ["Estate"], "doors": 5},
            "price": {"amount": "52900.00", "currency": "EUR"},
            "publish": True,
        }
        for number in range(PRODUCTS)
    ]
    with Door.to(system) as door:
        job = door.await_end(door.submit_import(rows)["job_id"])
        if job["progress"]["rows_created"] != PRODUCTS:
            raise RuntimeError(f"the import did not create the products: {job}")
        fresh = {"Almagest-Consistency": ", ".join(job["consistency_tokens"])}
        return list(door.items("/v1/products", headers=fresh)), f"Authorization: {door.http.headers['authorization']}"


@contextmanager
def _plain(state: Path, system: RunningSystem, documents: list[dict[str, Any]]) -> Iterator[int]:
    """The plain application with the same rows, in a Postgres of the same kind."""
    server = EmbeddedPostgres(state / "plain-postgres")
    server.start()
    try:
        server.ensure({"plain": ()})
        url = server.dsn("plain", OWNER).replace("postgresql://", "postgresql+asyncpg://", 1)
        plain_application.fill_now(url, documents)
        port = free_ports().gateway
        web = system.local.places.authority / "web"
        command = [sys.executable, str(HERE / "plain_application.py"), "--url", url, "--port", str(port)]
        command += ["--certificate", str(web / "tls.crt"), "--key", str(web / "tls.key")]
        with _process(command, system, port, {}):
            yield port
    finally:
        server.remove()


@contextmanager
def _no_backend(system: RunningSystem, document: dict[str, Any]) -> Iterator[int]:
    port = free_ports().gateway
    places = system.local.places
    web = places.authority / "web"
    told = {
        "ALMAGEST_LISTEN": f"127.0.0.1:{port}",
        "ALMAGEST_IDENTITY_DIRECTORY": str(places.authority / "identities" / "gateway"),
        "ALMAGEST_TLS_CERTIFICATE": str(web / "tls.crt"),
        "ALMAGEST_TLS_KEY": str(web / "tls.key"),
    }
    content = httpx.Response(200, json=document).content
    with _process([sys.executable, str(HERE / "no_backend.py")], system, port, told, content):
        yield port


@contextmanager
def _process(
    command: list[str], system: RunningSystem, port: int, told: dict[str, str], content: bytes = b""
) -> Iterator[None]:
    process = subprocess.Popen(command, env=os.environ | told, stdin=subprocess.PIPE)
    try:
        if process.stdin is not None:
            process.stdin.write(content)
            process.stdin.close()
        _await_port(system, port, process)
        yield
    finally:
        process.terminate()
        process.wait(15)


def _await_port(system: RunningSystem, port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    with httpx.Client(verify=ssl.create_default_context(cafile=str(system.ca))) as client:
        while True:
            try:
                client.get(f"https://localhost:{port}/nothing")
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


def _cpu_of_port(port: int) -> float:
    """The CPU seconds that the process behind a port has used."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            times = psutil.Process(connection.pid).cpu_times()
            return times.user + times.system
    raise RuntimeError(f"nobody listens at {port}")


if __name__ == "__main__":
    main()
