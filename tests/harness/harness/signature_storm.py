"""Mutated signed requests against a running gateway: none may be accepted changed, none twice.

Every round signs one request and sends what a thief or a tamperer could make of it: with bits flipped in each part,
with headers left out, doubled, exchanged or added, with another body; then the request itself, once more, and many
times at once. A mutation goes before its original, so that it is refused for what it is and not for its nonce. Now and
then Redis is killed or emptied, and what was accepted shortly before is sent again.

What counts as accepted is anything that got past the signature, whatever the answer. In the end the catalog is read:
each product that there is must be as its original said, written by one event.

usage: python -m harness.signature_storm [--requests 100000] [--seed N]
"""
# ruff: noqa: S311, T201, ASYNC110 - chance by a seed; a table for people; counters that tell nobody when they change

import argparse
import asyncio
import hashlib
import os
import random
import secrets
import ssl
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
from almagest_cli.signing import Key, digest_header, signature_headers
from redis import Redis

from harness.door import Door
from harness.running import RunningSystem, running_system

REFUSALS = frozenset(
    {
        "SIGNATURE_INVALID",
        "SIGNATURE_EXPIRED",
        "SIGNATURE_REPLAYED",
        "DIGEST_MISMATCH",
        "ACCESS_KEY_NOT_VALID",
        "NONCES_UNAVAILABLE",
        # Of what is no request of ours any more, or is not signed.
        "ROUTE_NOT_FOUND",
        "METHOD_NOT_ALLOWED",
        "UNAUTHENTICATED",
        "INVALID_REQUEST",
        "BODY_CUT_OFF",
    }
)
RACERS = 64
_WORKERS = 12
_ANSWER_SECONDS = 10.0
_REMEMBERED = 400
_SETTLE_SECONDS = 60.0
Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request, byte for byte as it goes out."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def raw(self) -> bytes:
        """In HTTP/1.1."""
        head = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        if self.body or self.method == "POST":
            head.append(f"content-length: {len(self.body)}")
        return "\r\n".join([*head, "", ""]).encode("latin-1") + self.body

    def meaning(self) -> object:
        """The same for two requests that HTTP takes for the same."""
        headers = sorted(
            (name.lower(), value.strip(" \t").lower() if name.lower() == "host" else value.strip(" \t"))
            for name, value in self.headers
        )
        return self.method, self.target, tuple(headers), self.body


@dataclass
class Tally:
    """What was sent, by kind, and what became of it."""

    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    unavailable: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All mutated requests."""
        return sum(self.sent.values())


class Wire:
    """One connection, on which anything can be said."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        self._port, self._tls = port, tls
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, raw: bytes) -> tuple[int, str]:
        """Status and reason of the answer; 0 when there is none."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                if self._writer is None:
                    self._reader, self._writer = await asyncio.open_connection(
                        "127.0.0.1", self._port, ssl=self._tls, server_hostname="localhost"
                    )
                self._writer.write(raw)
                return await self._answer()
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ssl.SSLError):
            self.close()
            return 0, "CLOSED"

    async def _answer(self) -> tuple[int, str]:
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        content = await self._reader.readexactly(int(length)) if length.strip() else b""
        if b"connection: close" in head or not length.strip():
            self.close()
        if status < 400:
            return status, ""
        try:
            return status, str(orjson.loads(content)["reason"])
        except (ValueError, KeyError, TypeError):
            return status, "NO_PROBLEM"

    def close(self) -> None:
        """Begin anew with the next request."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def flipped(text: str, chance: random.Random) -> str:
    """The text with one bit changed, in a way that leaves the framing of HTTP alone."""
    while True:
        content = bytearray(text.encode("latin-1"))
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        if not content.translate(None, delete=bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100)) + b" \t"):
            return content.decode("latin-1")


def mutations(good: Sent, other: Sent, chance: random.Random) -> Iterator[tuple[str, Sent]]:
    """What can be made of a request without its key; `other` is signed by the same one."""

    def with_headers(headers: Headers) -> Sent:
        return Sent(good.method, good.target, tuple(headers), good.body)

    yield "flip: method", Sent(flipped(good.method, chance).replace(" ", "x"), good.target, good.headers, good.body)
    yield "exchange: method", Sent("PUT" if good.method != "PUT" else "POST", good.target, good.headers, good.body)
    target = flipped(good.target, chance)
    yield "flip: target", Sent(good.method, target.replace(" ", "_"), good.headers, good.body)
    yield (
        "add: query",
        Sent(good.method, good.target + ("&" if "?" in good.target else "?") + "x=1", good.headers, good.body),
    )
    for number, (name, value) in enumerate(good.headers):
        rest = list(good.headers)
        rest[number] = (name, flipped(value, chance))
        yield f"flip: value of {name}", with_headers(rest)
        rest[number] = (flipped(name, chance).replace(":", "x").replace(" ", "x"), value)
        yield f"flip: name of {name}", with_headers(rest)
        yield f"leave out: {name}", with_headers([pair for pair in good.headers if pair[0] != name])
        double = [*good.headers, (name, value)]
        yield f"double: {name}", with_headers(double)
        changed = [*good.headers, (name, flipped(value, chance))]
        chance.shuffle(changed)
        yield f"double, changed: {name}", with_headers(changed)
    theirs = dict(other.headers)
    for name in ("signature", "signature-input"):
        yield (
            f"exchange: {name}",
            with_headers([(one, theirs[one] if one == name else value) for one, value in good.headers]),
        )
    for name, value in (
        ("if-match", '"1"'),
        ("content-encoding", "identity"),
        ("idempotency-key", secrets.token_hex(8)),
        ("authorization", "Bearer a.b.c"),
        ("content-digest", digest_header(b"0" * 32)),
    ):
        if name not in dict(good.headers):
            yield f"add: {name}", with_headers([*good.headers, (name, value)])


def other_bodies(good: Sent, chance: random.Random) -> Iterator[tuple[str, Sent]]:
    """Other bodies under the same signature."""
    body = bytearray(good.body)
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    for kind, content in (
        ("body: a bit", bytes(body)),
        ("body: truncated", good.body[: chance.randrange(len(good.body))]),
        ("body: longer", good.body + b" "),
        ("body: none", b""),
    ):
        yield kind, Sent(good.method, good.target, good.headers, content)


class Storm:
    """One run over a system."""

    def __init__(self, system: RunningSystem, keys: list[Key], *, seed: int, requests: int, disturbances: int) -> None:
        self._system = system
        self._keys = keys
        self._seed = seed
        self._requests = requests
        self._disturbances = disturbances
        self._port = system.local.ports.gateway
        self._tls = ssl.create_default_context(cafile=str(system.ca))
        self.tally = Tally()
        self.written: dict[str, str] = {}
        self.uncertain: dict[str, str] = {}
        self._accepted: deque[tuple[float, Sent]] = deque(maxlen=_REMEMBERED)
        self._number = 0

    async def run(self) -> None:
        """Send until enough was sent, once Redis has known everything for long enough."""
        wire = Wire(self._port, self._tls)
        deadline = time.monotonic() + _SETTLE_SECONDS
        while (await wire.ask(self._read(random.Random(0)).raw()))[1] == "NONCES_UNAVAILABLE":
            if time.monotonic() > deadline:
                raise TimeoutError("Redis does not come to know everything.")
            await asyncio.sleep(0.1)
        wire.close()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._disturb())
            group.create_task(self._race())
            for number in range(_WORKERS):
                group.create_task(self._work(random.Random(f"{self._seed} {number}")))

    @property
    def _over(self) -> bool:
        return self.tally.total >= self._requests

    async def _work(self, chance: random.Random) -> None:
        wire = Wire(self._port, self._tls)
        while not self._over:
            make = self._write if chance.random() < 0.5 else self._read
            good, other = make(chance), make(chance)
            for kind, sent in mutations(good, other, chance):
                await self._refused(wire, kind, sent, good)
            if good.body and chance.random() < 0.5:
                # They are signed as far as their head goes, so the first of them uses up the nonce.
                for kind, sent in other_bodies(good, chance):
                    await self._refused(wire, kind, sent, good)
                await self._refused(wire, "replay: after another body", good, None)
                continue
            status, reason = await wire.ask(good.raw())
            if status in (200, 201):
                self._took(good)
            elif status == 0:
                self._perhaps(good)
            elif reason == "NONCES_UNAVAILABLE":
                self.tally.unavailable += 1
            else:
                self.tally.wrong.append(f"an original was refused: {status} {reason} {good}")
            headers = list(good.headers)
            chance.shuffle(headers)
            reordered = Sent(good.method, good.target, tuple(headers), good.body)
            await self._refused(wire, "replay: headers in another order", reordered, None)
            await self._refused(wire, "replay: the same", good, None)
        wire.close()

    async def _refused(self, wire: Wire, kind: str, sent: Sent, good: Sent | None) -> None:
        if good is not None and sent.meaning() == good.meaning():
            return
        status, reason = await wire.ask(sent.raw())
        self.tally.sent[kind] += 1
        self.tally.refused[reason] += 1
        # Without a reason it was the server that did not take it for HTTP, and no request has begun.
        if status in (0, 400) and reason in ("CLOSED", "NO_PROBLEM"):
            return
        if status < 400 or reason not in REFUSALS:
            self.tally.wrong.append(f"{kind}: {status} {reason} {sent}")

    async def _race(self) -> None:
        chance = random.Random(f"{self._seed} race")
        async with httpx.AsyncClient(verify=self._tls, http2=True, timeout=30) as client:
            while not self._over:
                good = self._write(chance) if chance.random() < 0.5 else self._read(chance)
                url = f"https://localhost:{self._port}{good.target}"
                headers = dict(good.headers)
                headers.pop("host")
                answers = await asyncio.gather(
                    *(
                        client.request(good.method, url, headers=headers, content=good.body or None)
                        for _ in range(RACERS)
                    ),
                    return_exceptions=True,
                )
                self.tally.sent["race: the same, 64 at once"] += len(answers) - 1
                first = [answer for answer in answers if isinstance(answer, httpx.Response) and answer.is_success]
                lost = [answer for answer in answers if isinstance(answer, BaseException)]
                for answer in answers:
                    if isinstance(answer, httpx.Response) and not answer.is_success:
                        reason = answer.json()["reason"]
                        self.tally.refused[reason] += 1
                        if reason not in REFUSALS:
                            self.tally.wrong.append(f"race: {answer.status_code} {reason}")
                if len(first) > 1:
                    self.tally.wrong.append(f"race: {len(first)} of {RACERS} were accepted: {good}")
                elif first:
                    self._took(good)
                elif lost:
                    self._perhaps(good)
                else:
                    self.tally.unavailable += 1
                await asyncio.sleep(0.2)

    async def _disturb(self) -> None:
        """Redis dies, or forgets; what was accepted before is sent again."""
        chance = random.Random(f"{self._seed} disturb")
        wire = Wire(self._port, self._tls)
        steps = self._disturbances + 1
        for step in range(1, steps):
            while self.tally.total < self._requests * step / steps:
                await asyncio.sleep(0.05)
            before = [sent for at, sent in self._accepted if time.time() - at < 50]
            if step % 2:
                await asyncio.to_thread(self._system.kill, "valkey")
                for sent in chance.sample(before, min(20, len(before))):
                    await self._refused(wire, "replay: while Redis is away", sent, None)
                await asyncio.to_thread(self._system.start, "valkey")
                kind = "replay: after Redis was killed"
            else:
                await asyncio.to_thread(_flush, self._system.redis_url)
                kind = "replay: after Redis was emptied"
            for sent in before[-200:]:
                await self._refused(wire, kind, sent, None)
        wire.close()

    def _write(self, chance: random.Random) -> Sent:
        self._number += 1
        sku = f"storm-{self._seed}-{self._number}"
        body = orjson.dumps({"sku": sku, "kind": "general", "name": f"Original {self._number}"})
        headers = {"content-type": "application/json", "idempotency-key": secrets.token_hex(8)}
        return self._signed(chance, "POST", "/v1/products", headers, body)

    def _read(self, chance: random.Random) -> Sent:
        target = chance.choice(("/v1/products/sku:storm-base", "/v1/products?kind=general&page_size=1", "/v1/users/me"))
        return self._signed(chance, "GET", target, {}, b"")

    def _signed(self, chance: random.Random, method: str, target: str, headers: dict[str, str], body: bytes) -> Sent:
        host = f"localhost:{self._port}"
        if body:
            headers["content-digest"] = digest_header(hashlib.sha256(body).digest())
        signature = signature_headers(chance.choice(self._keys), method, f"https://{host}{target}", headers)
        named = {"host": host, **headers, **{name.lower(): value for name, value in signature.items()}}
        return Sent(method, target, tuple(named.items()), body)

    def _took(self, good: Sent) -> None:
        self.tally.accepted += 1
        self._accepted.append((time.time(), good))
        if good.body:
            document = orjson.loads(good.body)
            self.written[document["sku"]] = document["name"]

    def _perhaps(self, good: Sent) -> None:
        if good.body:
            document = orjson.loads(good.body)
            self.uncertain[document["sku"]] = document["name"]

    def check_catalog(self, door: Door) -> None:
        """See that the catalog has what originals said, each once, and nothing else."""
        found: dict[str, str] = {}
        for document in door.items("/v1/products", kind="general"):
            sku, name = document["sku"], document["name"]
            if not sku.startswith("storm-") or sku == "storm-base":
                continue
            found[sku] = name
            if document["revision"] != 0:
                self.tally.wrong.append(f"{sku} was written {document['revision']} times")
            if (self.written.get(sku) or self.uncertain.get(sku)) != name:
                self.tally.wrong.append(f"{sku} is {name!r}, which no accepted original said")
        self.tally.wrong += [f"{sku} was accepted and is not there" for sku in self.written if sku not in found]


def _flush(url: str) -> None:
    with Redis.from_url(url) as redis:
        redis.flushall()


def keys_of(door: Door) -> list[Key]:
    """One key of each kind, and a product to read."""
    made = [
        door.call("POST", "/v1/keys", json={"name": f"storm {kind}", "kind": kind}).json()
        for kind in ("hmac-sha256", "ed25519")
    ]
    door.call("POST", "/v1/products", json={"sku": "storm-base", "kind": "general", "name": "Base"})
    return [Key.of(one) for one in made]


def unlimited() -> None:
    """Let the storm come from one person at one address."""
    os.environ |= dict.fromkeys(
        ("ALMAGEST_PERSON_REQUESTS_PER_MINUTE", "ALMAGEST_ADDRESS_REQUESTS_PER_MINUTE"), "1000000000"
    )


def storm(system: RunningSystem, *, seed: int, requests: int, disturbances: int = 5) -> Tally:
    """Run one, and look at what is left of it."""
    with Door.to(system) as door:
        run = Storm(system, keys_of(door), seed=seed, requests=requests, disturbances=disturbances)
        asyncio.run(run.run())
        # Every write that was acknowledged is to be seen.
        last = door.call("POST", "/v1/products", json={"sku": f"end-{seed}", "kind": "general", "name": "End"})
        door.http.headers["Almagest-Consistency"] = last.headers["almagest-consistency"]
        _settle(door, run)
        run.check_catalog(door)
    return run.tally


def _settle(door: Door, run: Storm) -> None:
    """Wait until the projections have all that was accepted."""
    for sku in list(run.written)[-20:]:
        door.await_that(f"/v1/products/sku:{sku}", lambda _: True)
    shown = len(run.written)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        seen = sum(document["sku"] in run.written for document in door.items("/v1/products", kind="general"))
        if seen >= shown:
            return
        time.sleep(0.5)


def main() -> None:
    """Run a storm over a system of its own, and print what became of it."""
    parser = argparse.ArgumentParser(prog="signature_storm", description="Mutated signed requests at a gateway.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    arguments = parser.parse_args()
    unlimited()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="almagest-storm-") as state, running_system(Path(state)) as system:
        began = time.monotonic()
        tally = storm(system, seed=arguments.seed, requests=arguments.requests)
        seconds = time.monotonic() - began
    report(tally, seconds)
    sys.exit(1 if tally.wrong else 0)


def report(tally: Tally, seconds: float) -> None:
    """Print the counts."""
    print(f"{tally.total} mutated, replayed or raced requests in {seconds:.0f} s")
    for kind, count in sorted(tally.sent.items()):
        print(f"  {count:8}  {kind}")
    print("refused with")
    for reason, count in tally.refused.most_common():
        print(f"  {count:8}  {reason}")
    print(f"originals accepted, each once: {tally.accepted}; refused because Redis was away: {tally.unavailable}")
    print(f"wrong: {len(tally.wrong)}")
    for line in tally.wrong[:20]:
        print(f"  {line[:600]}")


if __name__ == "__main__":
    main()
