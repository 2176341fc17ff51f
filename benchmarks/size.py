"""What an append and a read cost in a store of a million events, beside a store of ten thousand in the same run.

Two event stores, each a process of its own with two shards in the same Postgres, one small, one large; the large one
is filled through the gRPC client, a hundred events an append. Each is then asked the same in turns, and the ratio given
is the median over the rounds: appends of one event with 64 in flight; a lone append; a stream of a hundred events; a
page of the log at its end, as a subscriber reads that has just fallen behind. An append's cost is the CPU time of all
processes together, which other users of the machine disturb less than rates.
"""

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from almagest.eventstore.v1 import event_store_pb2, event_store_pb2_grpc
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.ports import free_port
from almagest_cli.local.postgres import EmbeddedPostgres
from chassis.coalescing import Coalescer
from chassis.database.migrations import upgrade
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.rpc.channel import Channel
from chassis.telemetry.logging import configure_logging
from harness.tokens import TransactionTokens
from store import append_of, auth, check, cpu_seconds, event_store, rate

SMALL, LARGE = 10_000, 1_000_000
EVENTS = 100
ROUNDS = 7
SECONDS = 1.5
SHARDS = 2


@dataclass
class Store:
    """One event store and its client."""

    name: str
    stub: Any
    pid: int
    tokens: TransactionTokens
    streams: list[str]
    target: str = ""

    async def fill(self, events: int) -> None:
        """Append until it holds so many events."""
        left = events // EVENTS
        began, done = time.perf_counter(), 0

        async def work() -> None:
            nonlocal left, done
            token, renewed = self.tokens(), time.monotonic()
            while left > 0:
                left -= 1
                if time.monotonic() > renewed + 20:
                    token, renewed = self.tokens(), time.monotonic()
                append = append_of(token, EVENTS)
                answer = await self.stub.Append(event_store_pb2.AppendRequest(appends=[append]), timeout=60)
                check(answer.results[0])
                self.streams.append(append.stream)
                done += 1
                if done % 1000 == 0:
                    print(f"  {done * EVENTS:,} events, {done * EVENTS / (time.perf_counter() - began):,.0f} a second")

        await asyncio.gather(*(work() for _ in range(16)))

    async def appends(self) -> float:
        """CPU seconds per append, 64 in flight; as a rate of its inverse it would be the machine's, not the store's."""
        token = self.tokens()

        async def send(items: Sequence[event_store_pb2.Append]) -> Sequence[event_store_pb2.AppendResult]:
            return (await self.stub.Append(event_store_pb2.AppendRequest(appends=items), timeout=30)).results

        coalescer = Coalescer[event_store_pb2.Append, event_store_pb2.AppendResult](send, name=f"{self.name} benchmark")

        async def one() -> None:
            check(await coalescer.submit(append_of(token), timeout=30))

        measured = await rate(64, one, SECONDS)
        await coalescer.close()
        return measured.per_second * SECONDS

    async def lone_append(self) -> float:
        """Seconds at the median."""
        token = self.tokens()

        async def one() -> None:
            answer = await self.stub.Append(event_store_pb2.AppendRequest(appends=[append_of(token)]), timeout=30)
            check(answer.results[0])

        return await median_seconds(one, 300)

    async def read_stream(self) -> float:
        """Seconds at the median, for a hundred events of a stream anywhere in the log."""

        async def one() -> None:
            request = event_store_pb2.ReadStreamRequest(stream=random.choice(self.streams))  # noqa: S311 - no secret
            got = 0
            async for piece in self.stub.ReadStream(request, timeout=30):
                got += len(piece.events)
            if got != EVENTS:
                raise SystemExit(f"read {got} events instead of {EVENTS}")

        return await median_seconds(one, 300)

    async def read_tail(self) -> float:
        """Seconds at the median, for the last page of each shard."""
        shards = (await self.stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=10)).shards

        async def one() -> None:
            request = event_store_pb2.ReadAllRequest()
            for shard in shards:
                request.after.add(shard=shard.shard, position=max(0, shard.head - 200))
            async for _ in self.stub.ReadAll(request, timeout=30):
                pass

        return await median_seconds(one, 100)


async def median_seconds(one: Callable[[], Awaitable[None]], times: int) -> float:
    """How long it takes, one after another."""
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        await one()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


async def started(
    stack: AsyncExitStack,
    name: str,
    *,
    postgres: EmbeddedPostgres,
    authority: LocalAuthority,
    tokens: TransactionTokens,
    auth_port: int,
) -> Store:
    """An event store of its own, ready."""
    shards = [f"{name}_{shard}" for shard in range(SHARDS)]
    postgres.ensure(dict.fromkeys(shards, ("event_store",)))
    await upgrade("event_store.migrations", [postgres.dsn(shard) for shard in shards], "event_store")
    port = free_port()
    environment = {
        "ALMAGEST_IDENTITY_DIRECTORY": str(authority.ensure("event-store")),
        "ALMAGEST_LISTEN": f"127.0.0.1:{port}",
        "ALMAGEST_AUTH_TARGET": f"127.0.0.1:{auth_port}",
        "ALMAGEST_DATABASE_URLS": json.dumps([postgres.dsn(shard, "event_store") for shard in shards]),
        "ALMAGEST_LOG_LEVEL": "WARNING",
    }
    pid = await stack.enter_async_context(event_store(environment))
    source = FileIdentitySource(authority.ensure("catalog-command"), "almagest.internal", service="catalog-command")
    channel = Channel(f"127.0.0.1:{port}", service="event-store", identity=source)
    stack.push_async_callback(channel.close)
    store = Store(name, event_store_pb2_grpc.EventStoreServiceStub(channel), pid, tokens, [], f"127.0.0.1:{port}")
    until = time.monotonic() + 30
    while True:
        try:
            await store.stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=5)
        except RemoteProblem:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)
        else:
            return store


async def measure(state: Path) -> None:
    """Start what is needed, fill, measure, print."""
    postgres = EmbeddedPostgres(state / "postgres")
    authority = LocalAuthority(state / "authority")
    tokens = TransactionTokens()
    async with AsyncExitStack() as stack:
        stack.callback(postgres.remove)
        postgres.start()
        auth_port = await stack.enter_async_context(auth(authority.ensure("auth"), tokens.jwks))
        stores = [
            await started(stack, name, postgres=postgres, authority=authority, tokens=tokens, auth_port=auth_port)
            for name in ("small", "large")
        ]
        for store, events in zip(stores, (SMALL, LARGE), strict=True):
            await store.fill(events)
        for shard in range(SHARDS):
            for name in ("small", "large"):
                postgres.execute("VACUUM ANALYZE", database=f"{name}_{shard}")
        await report(postgres.daemon.pid or 0, stores)


async def report(postgres: int, stores: Sequence[Store]) -> None:
    """Ask in turns, then print the medians."""
    seen: dict[str, list[list[float]]] = {}
    for number in range(ROUNDS):
        for store in stores if number % 2 else reversed(stores):
            before = cpu_seconds(postgres, store.pid)
            appends = await store.appends()
            cost = (cpu_seconds(postgres, store.pid) - before) / appends
            of_store = {
                "append, 64 in flight: CPU us, all processes": cost * 1e6,
                "lone append: median ms": await store.lone_append() * 1e3,
                f"stream of {EVENTS} events: median ms": await store.read_stream() * 1e3,
                "last 200 positions of each shard: median ms": await store.read_tail() * 1e3,
            }
            for name, value in of_store.items():
                seen.setdefault(name, [[] for _ in stores])[stores.index(store)].append(value)
    print(f"{'':<46} {SMALL:>10,} {LARGE:>10,} {'ratio':>7}")
    for name, (small, large) in seen.items():
        ratio = statistics.median(many / few for few, many in zip(small, large, strict=True))
        print(f"{name:<46} {statistics.median(small):>10,.2f} {statistics.median(large):>10,.2f} {ratio:>7.2f}")


def main() -> None:
    """Measure a small store and a large one."""
    configure_logging("benchmark", "ERROR")
    with tempfile.TemporaryDirectory(prefix="almagest-bench-") as state:
        uvloop.run(measure(Path(state)))


if __name__ == "__main__":
    main()
