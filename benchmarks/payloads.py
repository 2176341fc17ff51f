"""What an encrypted answer costs beside a plain one: `GET /v1/users/me`, asked in turns, at the client's end as time
and at the gateway's as CPU; and one message of 1 KB in this process, sealed and opened.

A request is made one at a time, so that the median is what one person waits. Each answer is encrypted to a key of its
own, as docs/encryption.md asks; making that key and opening the answer are the client's, and not counted.
"""

import base64
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import psutil
from chassis.payloads import PrivateKey, Suite, seal, unseal
from harness.door import Door
from harness.running import running_system

ROUNDS = 5
REQUESTS = 200
MESSAGES = 300
PATH = "/v1/users/me"


def main() -> None:
    """Measure in turns, print the medians."""
    in_process()
    os.environ |= dict.fromkeys(
        ("ALMAGEST_PERSON_REQUESTS_PER_MINUTE", "ALMAGEST_ADDRESS_REQUESTS_PER_MINUTE"), "1000000000"
    )
    with (
        tempfile.TemporaryDirectory(prefix="almagest-payloads-") as state,
        running_system(Path(state) / "system") as system,
        Door.to(system) as door,
    ):
        gateway = psutil.Process(_listening(system.local.ports.gateway))
        ways: dict[str, Callable[[], dict[str, str]]] = {
            "in the clear": dict[str, str],
            **{suite.value: (lambda suite=suite: asking(suite)) for suite in Suite},
        }
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, headers in ways.items():
                seen[name].append(asked(door, gateway, headers))
    plain = seen["in the clear"]
    print(f"{'GET ' + PATH:<28} {'median ms':>10} {'x plain':>8} {'CPU us at the gateway':>22} {'x plain':>8}")
    for name, values in seen.items():
        waited, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        ratios = [
            statistics.median(ours[n] / theirs[n] for ours, theirs in zip(values, plain, strict=True)) for n in (0, 1)
        ]
        print(f"{name:<28} {waited * 1e3:>10.2f} {ratios[0]:>8.2f} {cpu * 1e6:>22.0f} {ratios[1]:>8.2f}")


def in_process() -> None:
    """One message, sealed and opened."""
    content = os.urandom(1024)
    print(f"{'a message of 1 KB, CPU us':<28} {'sealed':>10} {'opened':>8}")
    for suite in Suite:
        key = PrivateKey.generate(suite)
        public = key.public
        began = time.process_time()
        messages = [seal(content, public, {"jti": str(number)}) for number in range(MESSAGES)]
        sealed = time.process_time()
        for message in messages:
            unseal(message, key)
        opened = time.process_time()
        print(
            f"{suite.value:<28} {(sealed - began) / MESSAGES * 1e6:>10.0f} {(opened - sealed) / MESSAGES * 1e6:>8.0f}"
        )


def asking(suite: Suite) -> dict[str, str]:
    """The headers that ask for an answer to a fresh key."""
    jwk = orjson.dumps(PrivateKey.generate(suite).public.jwk())
    return {"Almagest-Encrypt-To": base64.urlsafe_b64encode(jwk).rstrip(b"=").decode(), "Accept": suite.media_type}


def asked(door: Door, gateway: psutil.Process, headers: Callable[[], dict[str, str]]) -> tuple[float, float]:
    """The median time of a request, and the CPU of the gateway per request, in seconds."""
    prepared = [headers() for _ in range(REQUESTS)]
    before = gateway.cpu_times()
    took: list[float] = []
    for one in prepared:
        began = time.perf_counter()
        response = door.call("GET", PATH, headers=one)
        took.append(time.perf_counter() - began)
        if not response.is_success:
            raise SystemExit(response.text)
    after = gateway.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return statistics.median(took), spent / REQUESTS


def _listening(port: int) -> int:
    return next(
        one.pid
        for one in psutil.net_connections(kind="tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr[1] == port and one.pid is not None
    )
