"""The event store as a process, and what is asked of it, for the benchmarks of the log."""

import asyncio
import os
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from almagest.auth.v1 import auth_pb2, auth_pb2_grpc
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.errors import ErrorTable, RemoteProblem
from chassis.ids import uuid7
from chassis.policy import Person, Rule, methods_of
from chassis.process import Assembly, Chassis, running
from chassis.rpc.server import descriptors_of
from chassis.settings import ServiceSettings
from google.protobuf.empty_pb2 import Empty

PAYLOAD = os.urandom(300)
_EMPTY = Empty()
_AUTH = "almagest.auth.v1.AuthService"


class Measured(NamedTuple):
    """What was seen of one topic in one round; `late` is the 99th percentile."""

    per_second: float
    median_ms: float = 0.0
    late_ms: float = 0.0
    cpu_seconds: float = 0.0


class Keys(auth_pb2_grpc.AuthServiceServicer):
    """The one method of auth that verifying people needs."""

    def __init__(self, jwks: bytes) -> None:
        self._jwks = jwks

    async def GetJwks(self, request: auth_pb2.GetJwksRequest, context: Any) -> auth_pb2.GetJwksResponse:  # noqa: N802
        """The keys."""
        del request, context
        return auth_pb2.GetJwksResponse(jwks=self._jwks)

    async def WatchRevocations(  # noqa: N802
        self, request: auth_pb2.WatchRevocationsRequest, context: Any
    ) -> AsyncIterator[auth_pb2.WatchRevocationsResponse]:
        """That nothing is revoked, each second."""
        del request, context
        while True:
            yield auth_pb2.WatchRevocationsResponse()
            await asyncio.sleep(1)


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


async def rate(in_flight: int, one: Callable[[], Awaitable[None]], seconds: float) -> Measured:
    """How many times a second `one` is done by so many at once, and how long it takes."""
    durations: list[float] = []
    cpu = time.process_time()
    end = time.perf_counter() + seconds

    async def work() -> None:
        while (began := time.perf_counter()) < end:
            await one()
            durations.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    elapsed = time.perf_counter() - began
    return Measured(
        len(durations) / elapsed,
        1000 * statistics.median(durations),
        1000 * statistics.quantiles(durations, n=100)[-1],
        time.process_time() - cpu,
    )


def check(result: event_store_pb2.AppendResult) -> None:
    """See that an append was written: a refusal is quicker, and would be measured as success."""
    if result.WhichOneof("outcome") != "appended":
        raise RemoteProblem(result.problem)


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
