"""Appends through the event store, over gRPC and mTLS, beside pgbench's single-row inserts and the `eventsourcing`
library on the same Postgres.

The event store is a process of its own, as in earnest, with its usual two shards, both in the Postgres that pgbench
uses; this process stands for catalog-command, and for auth as far as its keys. An append is one event of about 480
bytes with metadata to a new stream, acknowledged when it is on disk. The messages are made before the clock starts, as
pgbench's statement is. pgbench inserts a row of that size into a table with one index, with prepared statements, as
many at once. Batches of 100 events stand beside the best of pgbench's inserts of 10, 100 and 1000 rows per statement; a
lone append beside a bare `INSERT` of such a row over one connection of asyncpg. All is measured in rounds, one after
the other, and the ratio given is the median over the rounds.

On a machine that others use as well, 64 sessions of pgbench get a larger share of it than our three processes do; the
CPU time that each append took in all processes together, Postgres and the client included, does not depend on that.
"""

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import grpc
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
from store import PAYLOAD, Measured, append_of, auth, check, cpu_seconds, event_store, rate

ROUNDS = 3
SECONDS = 2.0
SHARDS = 2
IN_FLIGHT = (1, 16, 64)
BATCH = 100
ROWS = (10, 100, 1000)
PGBENCH = "pgbench, single-row inserts"
PGBENCH_ROWS = f"pgbench, the best of {', '.join(map(str, ROWS))} rows per insert (rows/s)"
INSERT = "a bare INSERT by asyncpg"
CALLS = "one call per append"
COALESCED = "coalesced, as catalog-command does"
BATCHED = f"coalesced, {BATCH} events per append (events/s)"
LIBRARY = "the eventsourcing library"
_MOST_A_SECOND = {1: 3_000, 16: 12_000, 64: 25_000}
"""How many appends are made ready for each second, by how many are in flight. More are made when they run out."""


class Row(NamedTuple):
    """One line of one round."""

    per_second: float
    ratio: float
    cpu_us: float
    median_ms: float
    late_ms: float


Topic = tuple[str, Callable[[], Awaitable[Measured]]]


class Bench:
    """The servers, and what is measured against them."""

    def __init__(self, postgres: EmbeddedPostgres, stub: Any, tokens: TransactionTokens, server: int) -> None:
        self._postgres = postgres
        self._stub = stub
        self._tokens = tokens
        self._server = server

    def topics(self, in_flight: int, *, with_library: bool) -> Sequence[Topic]:
        """What is measured with so many in flight, the reference first."""

        async def reference() -> Measured:
            return await self.process(lambda: self.pgbench(in_flight))

        async def library() -> Measured:
            return await self.process(lambda: self.library(in_flight))

        topics: list[Topic] = [
            (PGBENCH, reference),
            (CALLS, lambda: self.calls(in_flight)),
            (COALESCED, lambda: self.coalesced(in_flight)),
        ]
        if in_flight == 1:
            topics.insert(1, (INSERT, self.insert))
        return [*topics, (LIBRARY, library)] if with_library else topics

    def large(self, in_flight: int) -> Sequence[Topic]:
        """The same for large appends, which are measured last: they leave work behind for autovacuum."""

        async def reference() -> Measured:
            return max([await self.process(lambda rows=rows: self.pgbench(in_flight, rows)) for rows in ROWS])

        return [(PGBENCH_ROWS, reference), (BATCHED, lambda: self.coalesced(in_flight, BATCH))]

    async def process(self, run: Callable[[], float]) -> Measured:
        """What a program of its own does."""
        before = self._cpu()
        per_second = await asyncio.to_thread(run)
        return Measured(per_second, cpu_seconds=self._cpu() - before)

    def _cpu(self) -> float:
        pid = self._postgres.daemon.pid
        if pid is None:
            raise SystemExit("Postgres is not running")
        return cpu_seconds(pid, self._server)

    async def _rate(self, in_flight: int, one: Callable[[], Awaitable[None]]) -> Measured:
        # What was made ready is no garbage, and looking through it again and again is not what is measured.
        gc.collect()
        gc.freeze()
        before = self._cpu()
        measured = await rate(in_flight, one, SECONDS)
        measured = measured._replace(cpu_seconds=self._cpu() - before)
        gc.unfreeze()
        return measured

    def pgbench(self, in_flight: int, rows: int = 1) -> float:
        """Rows a second, so many per insert."""
        row = "(md5(random()::text), 'almagest.catalog.events.v1.PriceSet', decode(repeat('ab', 400), 'hex'))"
        script = self._postgres.directory / "insert.sql"
        script.write_text(f"INSERT INTO inserted (stream, type, payload) VALUES {', '.join([row] * rows)};\n")
        done = subprocess.run(
            [
                *(self._postgres.programs() / "pgbench", "-n", "-M", "prepared", "-f", script),
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
        for line in done.stdout.splitlines():
            if line.startswith("tps"):
                return rows * float(line.split()[2])
        raise SystemExit(f"pgbench did not say how many:\n{done.stdout}{done.stderr}")

    async def insert(self) -> Measured:
        """Rows a second, one after the other, by a prepared statement on one connection."""
        connection = await asyncpg.connect(self._postgres.superuser_dsn("reference"))
        try:
            statement = await connection.prepare("INSERT INTO inserted (stream, type, payload) VALUES ($1, $2, $3)")
            payload = PAYLOAD + PAYLOAD[:100]

            async def one() -> None:
                await statement.fetch(str(uuid.uuid4()), "almagest.catalog.events.v1.PriceSet", payload)

            return await self._rate(1, one)
        finally:
            await connection.close()

    def ready(self, in_flight: int, events: int = 1) -> Callable[[], event_store_pb2.Append]:
        """Appends, made now."""
        count = int(SECONDS * _MOST_A_SECOND[in_flight])
        made = [append_of("", events) for _ in range(count if events == 1 else count // 20)]
        # They take a while to make, and a token lives for a minute.
        token = self._tokens()
        for append in made:
            append.transaction_token = token
        return lambda: made.pop() if made else append_of(token, events)

    async def calls(self, in_flight: int) -> Measured:
        """Appends a second, each in a call of its own."""
        ready = self.ready(in_flight)

        async def one() -> None:
            answer = await self._stub.Append(event_store_pb2.AppendRequest(appends=[ready()]), timeout=30)
            check(answer.results[0])

        return await self._rate(in_flight, one)

    async def coalesced(self, in_flight: int, events: int = 1) -> Measured:
        """Events a second when the appends that wait share a call."""
        ready = self.ready(in_flight, events)

        async def send(items: Sequence[event_store_pb2.Append]) -> Sequence[event_store_pb2.AppendResult]:
            answer = await self._stub.Append(event_store_pb2.AppendRequest(appends=items), timeout=30)
            return answer.results

        coalescer = Coalescer[event_store_pb2.Append, event_store_pb2.AppendResult](
            send, max_batch=256 if events == 1 else 16, name="benchmark"
        )

        async def one() -> None:
            check(await coalescer.submit(ready(), timeout=30))

        measured = await self._rate(in_flight, one)
        await coalescer.close()
        return measured._replace(per_second=measured.per_second * events)

    async def one(self) -> None:
        """One append."""
        request = event_store_pb2.AppendRequest(appends=[append_of(self._tokens())])
        check((await self._stub.Append(request, timeout=30)).results[0])

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
                    "ALMAGEST_LOG_LEVEL": "ERROR",
                }
            )
        )
        source = FileIdentitySource(authority.ensure("catalog-command"), "almagest.internal", service="catalog-command")
        channel = Channel(f"127.0.0.1:{port}", service="event-store", identity=source)
        stack.push_async_callback(channel.close)
        stub = event_store_pb2_grpc.EventStoreServiceStub(channel)
        bench = Bench(postgres, stub, tokens, server)
        await ready(bench)
        await report(bench)


async def ready(bench: Bench) -> None:
    """Wait until an append succeeds."""
    end = time.monotonic() + 20
    while True:
        try:
            await bench.one()
        except RemoteProblem as problem:
            if problem.code is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def report(bench: Bench) -> None:
    """Measure in rounds, then print the medians."""
    seen: dict[tuple[int, str], list[Row]] = {}
    rounds = [(n, bench.topics(n, with_library=number == 0)) for number in range(ROUNDS) for n in IN_FLIGHT]
    rounds += [(n, bench.large(n)) for _ in range(ROUNDS) for n in IN_FLIGHT]
    for in_flight, topics in rounds:
        reference = 0.0
        for name, measure_one in topics:
            measured = await measure_one()
            reference = reference or measured.per_second
            cpu = measured.cpu_seconds / (measured.per_second * SECONDS)
            row = Row(
                measured.per_second, measured.per_second / reference, cpu * 1e6, measured.median_ms, measured.late_ms
            )
            seen.setdefault((in_flight, name), []).append(row)
    medians = {key: Row(*map(statistics.median, zip(*rows, strict=True))) for key, rows in seen.items()}
    print(
        f"{'appends':<54} {'in flight':>9} {'per second':>11} {'x pgbench':>10} {'CPU us each':>12} {'median ms':>10}"
        f" {'p99 ms':>7}"
    )
    for (in_flight, name), row in medians.items():
        tail = f"{row.median_ms:>10.2f} {row.late_ms:>7.1f}" if row.late_ms else f"{'-':>10} {'-':>7}"
        print(f"{name:<54} {in_flight:>9} {row.per_second:>11,.0f} {row.ratio:>10.2f} {row.cpu_us:>12.0f} {tail}")
    print(f"{'what':<70} {'aim':>8} {'measured':>9}")
    for what, aim, value in aims(medians):
        print(f"{what:<70} {aim:>8} {value:>9.2f}")


def aims(medians: Mapping[tuple[int, str], Row]) -> Sequence[tuple[str, str, float]]:
    """What is aimed at, and what was measured: ratios of medians, but for the first, the median of ratios."""
    most = max(IN_FLIGHT)
    coalesced = medians[most, COALESCED]
    rows = max(medians[n, PGBENCH_ROWS].per_second for n in IN_FLIGHT)
    batched = max(medians[n, BATCHED].per_second for n in IN_FLIGHT)
    return [
        (f"appends at {most} in flight, of pgbench's single-row inserts", ">= 1.2", coalesced.ratio),
        (
            f"appends at {most} in flight, of the eventsourcing library",
            ">= 25",
            coalesced.per_second / medians[most, LIBRARY].per_second,
        ),
        (f"events in batches of {BATCH}, of pgbench's best rows per second", ">= 0.6", batched / rows),
        (
            "the median of a lone append, of that of a bare INSERT",
            "<= 4",
            medians[1, COALESCED].median_ms / medians[1, INSERT].median_ms,
        ),
    ]


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
