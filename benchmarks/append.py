"""Appends through the event store, over gRPC and mTLS, beside pgbench's single-row inserts and the `eventsourcing`
library on the same Postgres.

The event store is a process of its own, as in earnest, with its usual two shards, both in the Postgres that pgbench
uses; this process stands for catalog-command, and for auth as far as its keys. An append is one event of about 480
bytes with metadata to a new stream, acknowledged when it is on disk. pgbench inserts a row of that size into a table
with one index, with prepared statements, as many at once. All is measured in rounds, one after the other, and the
ratio given is the median over the rounds.

On a machine that others use as well, 64 sessions of pgbench get a larger share of it than our three processes do; the
CPU time that each append took in all processes together, Postgres and the client included, does not depend on that.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop
from almagest.auth.v1 import auth_pb2, auth_pb2_grpc
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.ports import free_port
from almagest_cli.local.postgres import EmbeddedPostgres
from chassis.coalescing import Coalescer
from chassis.database.migrations import upgrade
from chassis.errors import ErrorTable, RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.ids import uuid7
from chassis.policy import Person, Rule, methods_of
from chassis.process import Assembly, Chassis, running
from chassis.rpc.channel import Channel
from chassis.rpc.server import descriptors_of
from chassis.settings import ServiceSettings
from chassis.telemetry.logging import configure_logging
from google.protobuf.empty_pb2 import Empty
from harness.tokens import TransactionTokens

ROUNDS = 3
SECONDS = 2.0
SHARDS = 2
IN_FLIGHT = (1, 16, 64)
PAYLOAD = os.urandom(300)
BATCH = 100
PGBENCH = "pgbench, single-row inserts"
CALLS = "one call per append"
COALESCED = "coalesced, as catalog-command does"
BATCHED = f"coalesced, {BATCH} events per append (events/s)"
LIBRARY = "the eventsourcing library"
_EMPTY = Empty()
_AUTH = "almagest.auth.v1.AuthService"


class Keys(auth_pb2_grpc.AuthServiceServicer):
    """The one method of auth that verifying people needs."""

    def __init__(self, jwks: bytes) -> None:
        self._jwks = jwks

    async def GetJwks(self, request: auth_pb2.GetJwksRequest, context: Any) -> auth_pb2.GetJwksResponse:  # noqa: N802
        """The keys."""
        del request, context
        return auth_pb2.GetJwksResponse(jwks=self._jwks)


def append_of(token: str, events: int = 1) -> event_store_pb2.Append:
    """An append to a new stream, with metadata as catalog-command gives them."""
    command = str(uuid.uuid4())
    return event_store_pb2.Append(
        append_id=command,
        stream=f"product-{uuid.uuid4()}",
        no_stream=_EMPTY,
        fingerprint=PAYLOAD[:32],
        transaction_token=token,
        events=[
            event_pb2.NewEvent(
                event_id=str(uuid7()),
                type="almagest.catalog.events.v1.PriceSet",
                payload=PAYLOAD,
                metadata=event_pb2.EventMetadata(command_id=command),
            )
            for _ in range(events)
        ],
    )


async def rate(in_flight: int, one: Callable[[], Awaitable[None]], seconds: float = SECONDS) -> tuple[float, float]:
    """How many times a second `one` is done by so many at once, and the 99th percentile of its duration in
    milliseconds.
    """
    durations: list[float] = []
    end = time.perf_counter() + seconds

    async def work() -> None:
        while (began := time.perf_counter()) < end:
            await one()
            durations.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    elapsed = time.perf_counter() - began
    return len(durations) / elapsed, 1000 * statistics.quantiles(durations, n=100)[-1]


class Bench:
    """The servers, and what is measured against them."""

    def __init__(self, postgres: EmbeddedPostgres, stub: Any, tokens: TransactionTokens) -> None:
        self._postgres = postgres
        self._stub = stub
        self._tokens = tokens
        self._token = tokens()

    def renew(self) -> None:
        """Take a new transaction token: they live for a minute."""
        self._token = self._tokens()

    @property
    def postgres_pid(self) -> int:
        """The process that all sessions are children of."""
        pid = self._postgres.daemon.pid
        if pid is None:
            raise SystemExit("Postgres is not running")
        return pid

    def topics(
        self, in_flight: int, *, with_library: bool
    ) -> Sequence[tuple[str, Callable[[], Awaitable[tuple[float, float]]]]]:
        """What is measured with so many in flight, the reference first."""

        async def reference() -> tuple[float, float]:
            return await asyncio.to_thread(self.pgbench, in_flight), 0.0

        async def library() -> tuple[float, float]:
            return await asyncio.to_thread(self.library, in_flight), 0.0

        topics: list[tuple[str, Callable[[], Awaitable[tuple[float, float]]]]] = [
            (PGBENCH, reference),
            (CALLS, lambda: self.calls(in_flight)),
            (COALESCED, lambda: self.coalesced(in_flight)),
        ]
        return [*topics, (LIBRARY, library)] if with_library else topics

    def large(self, in_flight: int) -> Sequence[tuple[str, Callable[[], Awaitable[tuple[float, float]]]]]:
        """The same for large appends, which are measured last: they leave work behind for autovacuum."""

        async def reference() -> tuple[float, float]:
            return await asyncio.to_thread(self.pgbench, in_flight), 0.0

        return [(PGBENCH, reference), (BATCHED, lambda: self.coalesced(in_flight, BATCH))]

    def pgbench(self, in_flight: int) -> float:
        """Inserts a second."""
        script = self._postgres.directory / "insert.sql"
        script.write_text(
            "INSERT INTO inserted (stream, type, payload) VALUES "
            "(md5(random()::text), 'almagest.catalog.events.v1.PriceSet', decode(repeat('ab', 400), 'hex'));\n"
        )
        done = subprocess.run(
            [
                *(self._postgres._programs() / "pgbench", "-n", "-M", "prepared", "-f", script),  # noqa: SLF001 - nobody else runs it
                *("-c", str(in_flight), "-j", str(min(in_flight, 2)), "-T", str(int(SECONDS)), "reference"),
            ],
            env={
                "PGHOST": str(self._postgres.socket_directory),
                "PGUSER": "postgres",
                "PGPASSWORD": self._postgres.password("postgres"),
                "PATH": os.defpath,
            },
            capture_output=True,
            check=True,
            text=True,
        )
        return next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("tps"))

    async def calls(self, in_flight: int) -> tuple[float, float]:
        """Appends a second, each in a call of its own."""

        async def one() -> None:
            answer = await self._stub.Append(
                event_store_pb2.AppendRequest(appends=[append_of(self._token)]), timeout=30
            )
            check(answer.results[0])

        return await rate(in_flight, one)

    async def coalesced(self, in_flight: int, events: int = 1) -> tuple[float, float]:
        """Appends a second when those that wait share a call."""

        async def send(items: Sequence[event_store_pb2.Append]) -> Sequence[event_store_pb2.AppendResult]:
            answer = await self._stub.Append(event_store_pb2.AppendRequest(appends=items), timeout=30)
            return answer.results

        coalescer = Coalescer[event_store_pb2.Append, event_store_pb2.AppendResult](
            send, max_batch=256 if events == 1 else 16, name="benchmark"
        )

        async def one() -> None:
            check(await coalescer.submit(append_of(self._token, events), timeout=30))

        measured = await rate(in_flight, one)
        await coalescer.close()
        return measured[0] * events, measured[1]

    def library(self, in_flight: int) -> float:
        """Events a second that the eventsourcing library writes, in a process of its own with so many threads."""
        done = subprocess.run(
            [
                sys.executable,
                __file__,
                "library",
                str(in_flight),
                self._postgres.socket_directory,
                self._postgres.password("postgres"),
            ],
            capture_output=True,
            check=False,
            text=True,
        )
        if done.returncode:
            raise SystemExit(
                f"the eventsourcing library could not be measured (make .venv/bench installs it):\n{done.stderr}"
            )
        return float(done.stdout)


def check(result: event_store_pb2.AppendResult) -> None:
    """See that an append was written: a refusal is quicker, and would be measured as success."""
    if result.WhichOneof("outcome") != "appended":
        raise RemoteProblem(result.problem)


def library(in_flight: int, host: str, password: str) -> None:
    """What runs in the process of the eventsourcing library: its recorder, one event per call."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - of this process only

    from eventsourcing.persistence import StoredEvent  # noqa: PLC0415 - of the bench group, which not everybody installs
    from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore  # noqa: PLC0415

    datastore = PostgresDatastore(
        dbname="reference",
        host=host,
        port=5432,
        user="postgres",
        password=password,
        pool_size=in_flight,
        max_waiting=in_flight,
        lock_timeout=30,
        schema="public",
    )
    recorder = PostgresApplicationRecorder(datastore, events_table_name="stored_events")
    recorder.create_table()
    end = time.perf_counter() + SECONDS

    def work() -> int:
        count = 0
        while time.perf_counter() < end:
            recorder.insert_events(
                [StoredEvent(uuid.uuid4(), 1, "almagest.catalog.events.v1.PriceSet", PAYLOAD + PAYLOAD[:100])]
            )
            count += 1
        return count

    began = time.perf_counter()
    with ThreadPoolExecutor(in_flight) as pool:
        counts = list(pool.map(lambda _: work(), range(in_flight)))
    print(sum(counts) / (time.perf_counter() - began))
    datastore.close()


@asynccontextmanager
async def auth(identity: Path, jwks: bytes) -> AsyncIterator[int]:
    """Auth's keys, served to the event store only."""
    settings = ServiceSettings(identity_directory=identity, drain_seconds=0)
    servicers = [(_AUTH, auth_pb2_grpc.add_AuthServiceServicer_to_server, Keys(jwks))]
    rows = {
        method: Rule(frozenset({"event-store"}), Person.NONE) for method in methods_of(descriptors_of(servicers)[0])
    }

    @asynccontextmanager
    async def bootstrap(_settings: ServiceSettings, _chassis: Chassis[ServiceSettings]) -> AsyncIterator[Assembly]:
        yield Assembly(servicers=servicers, policy=rows, errors=ErrorTable({}))

    async with running("auth", settings, bootstrap) as bound:
        yield bound.grpc_port


@asynccontextmanager
async def event_store(environment: dict[str, str]) -> AsyncIterator[int]:
    """The event store's process, by its id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "event_store", env={**os.environ, **environment}
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


async def measure(state: Path) -> None:
    """Start what is needed, measure, print."""
    postgres = EmbeddedPostgres(state / "postgres")
    authority = LocalAuthority(state / "authority")
    tokens = TransactionTokens()
    async with AsyncExitStack() as stack:
        stack.callback(postgres.remove)
        postgres.start()
        shards = [f"events_{shard}" for shard in range(SHARDS)]
        postgres.ensure({**dict.fromkeys(shards, ("event_store",)), "reference": ()})
        postgres.execute(
            "CREATE TABLE inserted (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stream text NOT NULL,"
            " type text NOT NULL, payload bytea NOT NULL, recorded_at timestamptz NOT NULL DEFAULT now());",
            database="reference",
        )
        await upgrade("event_store.migrations", [postgres.dsn(shard) for shard in shards], "event_store")
        auth_port = await stack.enter_async_context(auth(authority.ensure("auth"), tokens.jwks))
        port = free_port()
        server = await stack.enter_async_context(
            event_store(
                {
                    "ALMAGEST_IDENTITY_DIRECTORY": str(authority.ensure("event-store")),
                    "ALMAGEST_LISTEN": f"127.0.0.1:{port}",
                    "ALMAGEST_AUTH_TARGET": f"127.0.0.1:{auth_port}",
                    "ALMAGEST_DATABASE_URLS": json.dumps([postgres.dsn(shard, "event_store") for shard in shards]),
                    "ALMAGEST_LOG_LEVEL": "WARNING",
                }
            )
        )
        source = FileIdentitySource(authority.ensure("catalog-command"), "almagest.internal", service="catalog-command")
        channel = Channel(f"127.0.0.1:{port}", service="event-store", identity=source)
        stack.push_async_callback(channel.close)
        stub = event_store_pb2_grpc.EventStoreServiceStub(channel)
        bench = Bench(postgres, stub, tokens)
        await ready(bench)
        await report(bench, server)


async def ready(bench: Bench) -> None:
    """Wait until an append succeeds."""
    end = time.monotonic() + 20
    while True:
        try:
            await bench.calls(1)
        except RemoteProblem as problem:
            if problem.code is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def cpu_seconds(postgres: int, server: int) -> float:
    """The CPU time so far of Postgres with its sessions, of the event store, of this process and of its ended
    children.
    """
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid, parent, user, system, ended_user, ended_system = (
            int(entry.name),
            *(int(fields[n]) for n in (1, 11, 12, 13, 14)),
        )
        if pid == postgres:
            total += (user + system + ended_user + ended_system) / os.sysconf("SC_CLK_TCK")
        elif postgres == parent or pid == server:
            total += (user + system) / os.sysconf("SC_CLK_TCK")
    return total


async def report(bench: Bench, server: int) -> None:
    """Measure in rounds, then print the medians."""
    seen: dict[tuple[int, str], list[tuple[float, float, float, float]]] = {}
    rounds = [(n, bench.topics(n, with_library=number == 0)) for number in range(ROUNDS) for n in IN_FLIGHT]
    rounds += [(n, bench.large(n)) for _ in range(ROUNDS) for n in IN_FLIGHT]
    for in_flight, topics in rounds:
        reference = 0.0
        for name, measure_one in topics:
            bench.renew()
            before = cpu_seconds(bench.postgres_pid, server)
            per_second, late = await measure_one()
            cpu = (cpu_seconds(bench.postgres_pid, server) - before) / (per_second * SECONDS)
            reference = reference or per_second
            seen.setdefault((in_flight, name), []).append((per_second, per_second / reference, cpu * 1e6, late))
    print(f"{'appends':<46} {'in flight':>9} {'per second':>11} {'x pgbench':>10} {'CPU us each':>12} {'p99 ms':>7}")
    for (in_flight, name), values in seen.items():
        per_second, ratio, cpu, late = (statistics.median(column) for column in zip(*values, strict=True))
        tail = f"{late:>7.1f}" if late else f"{'-':>7}"
        print(f"{name:<46} {in_flight:>9} {per_second:>11,.0f} {ratio:>10.2f} {cpu:>12.0f} {tail}")


def main() -> None:
    """Measure appends."""
    configure_logging("benchmark", "ERROR")
    with tempfile.TemporaryDirectory(prefix="almagest-bench-") as state:
        uvloop.run(measure(Path(state)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["library"]:
        library(int(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        main()
