"""A log per test: fresh databases, the real service over mTLS, and clients with certificates of their own."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from chassis.database.migrations import upgrade
from chassis.identity.files import FileIdentitySource
from chassis.process import Chassis, running
from chassis.rpc.channel import Channel
from event_store.bootstrap import bootstrap
from event_store.settings import Settings
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty

EMPTY = Empty()
TYPE = "almagest.catalog.events.v1.PriceSet"


@dataclass
class Databases:
    """The shards of one log."""

    owner: Sequence[str]
    service: Sequence[str]
    admin: Sequence[str]


@dataclass
class Client:
    """A stub of the event store, as one workload with one person."""

    stub: Any
    token: str
    channel: Channel

    @staticmethod
    def stream(category: str = "product") -> str:
        return f"{category}-{uuid.uuid4()}"

    @staticmethod
    def event(payload: bytes = b"payload", *, name: str = TYPE, **metadata: Any) -> event_pb2.NewEvent:
        return event_pb2.NewEvent(
            event_id=str(uuid.uuid4()), type=name, payload=payload, metadata=event_pb2.EventMetadata(**metadata)
        )

    def item(
        self,
        stream: str,
        events: int | Iterable[bytes | event_pb2.NewEvent] = 1,
        *,
        expected: int | str = "any",
        append_id: str | None = None,
        fingerprint: bytes = b"fingerprint",
        token: str | None = None,
        timeout: float | None = None,
        **fields: Any,
    ) -> event_store_pb2.Append:
        payloads = [str(number).encode() for number in range(events)] if isinstance(events, int) else events
        message = event_store_pb2.Append(
            append_id=append_id or str(uuid.uuid4()),
            stream=stream,
            events=[self.event(payload) if isinstance(payload, bytes) else payload for payload in payloads],
            fingerprint=fingerprint,
            transaction_token=self.token if token is None else token,
            **fields,
        )
        if isinstance(expected, int):
            message.exact_revision = expected
        elif expected:
            getattr(message, expected).CopyFrom(EMPTY)
        if timeout is not None:
            duration = Duration()
            duration.FromNanoseconds(int(timeout * 1e9))
            message.timeout.CopyFrom(duration)
        return message

    async def append(
        self, *items: event_store_pb2.Append, timeout: float = 20
    ) -> Sequence[event_store_pb2.AppendResult]:
        answer = await self.stub.Append(event_store_pb2.AppendRequest(appends=items), timeout=timeout)
        assert len(answer.results) == len(items)
        return answer.results

    async def appended(self, *items: event_store_pb2.Append) -> Sequence[event_store_pb2.Appended]:
        results = await self.append(*items)
        for result in results:
            assert result.WhichOneof("outcome") == "appended", result.problem
        return [result.appended for result in results]

    async def read(self, stream: str, **fields: Any) -> list[event_pb2.RecordedEvent]:
        request = event_store_pb2.ReadStreamRequest(stream=stream, **fields)
        return [event async for piece in self.stub.ReadStream(request, timeout=20) for event in piece.events]

    async def read_all(self, **fields: Any) -> list[event_pb2.RecordedEvent]:
        request = event_store_pb2.ReadAllRequest(**fields)
        return [event async for piece in self.stub.ReadAll(request, timeout=60) for event in piece.events]


@dataclass
class Replica:
    """A running event store."""

    port: int
    http_port: int
    settings: Settings
    connect: Callable[..., AbstractAsyncContextManager[Client]]
    clients: dict[str, Client] = field(default_factory=dict)

    @property
    def command(self) -> Client:
        """The client that may append."""
        return self.clients["catalog-command"]

    @property
    def query(self) -> Client:
        """The client that may subscribe."""
        return self.clients["catalog-query"]


@pytest.fixture(scope="session")
async def shards(postgres) -> Databases:
    """Two migrated databases, made once: making one takes a second, emptying it a millisecond."""
    owner = [await asyncio.to_thread(postgres.create_database, "event_store") for _ in range(2)]
    await upgrade("event_store.migrations", owner, "event_store")
    names = [dsn.partition("?")[0].rpartition("/")[2] for dsn in owner]
    return Databases(
        owner,
        [postgres.service_dsn(name, "event_store") for name in names],
        [postgres.superuser_dsn(name) for name in names],
    )


@pytest.fixture
async def databases(shards: Databases) -> Databases:
    """Two empty shards."""
    for dsn in shards.owner:
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "TRUNCATE events, streams, appends, stream_metadata, snapshots, archives, archived_streams, shard_identity,"
            " cluster, moves, move_slices, departures, arrivals;"
            " UPDATE head SET position = 0, recorded_at = '-infinity', hash = decode(repeat('00', 32), 'hex'), epoch = 1,"
            " held = ~(0::bit(1024))"
        )
        await connection.close()
    return shards


@pytest.fixture
def replica(identity: Callable[[str], Path], transaction_tokens) -> Callable[..., AbstractAsyncContextManager[Replica]]:
    """What starts a replica over databases, for as long as a block lasts."""

    @asynccontextmanager
    async def start(shards: Databases, **settings: Any) -> AsyncIterator[Replica]:
        chosen = Settings(
            identity_directory=identity("event-store"),
            database_urls=tuple(shards.service),
            drain_seconds=0.2,
            **settings,
        )

        async def jwks() -> bytes:
            return transaction_tokens.jwks

        @asynccontextmanager
        async def assembled(read: Settings, chassis: Chassis[Settings]) -> AsyncIterator[Any]:
            chassis.verify_with(jwks)
            async with bootstrap(read, chassis) as assembly:
                yield assembly

        @asynccontextmanager
        async def connect(service: str, *, token: str | None = None) -> AsyncIterator[Client]:
            source = FileIdentitySource(identity(service), "almagest.internal", service=service)
            channel = Channel(
                f"127.0.0.1:{bound.grpc_port}", service="event-store", identity=source, default_timeout=10
            )
            try:
                yield Client(
                    event_store_pb2_grpc.EventStoreServiceStub(channel),
                    transaction_tokens() if token is None else token,
                    channel,
                )
            finally:
                await channel.close()

        async with running("event-store", chosen, assembled) as bound:
            result = Replica(bound.grpc_port, bound.http_port, chosen, connect)
            async with connect("catalog-command") as command, connect("catalog-query") as query:
                result.clients = {"catalog-command": command, "catalog-query": query}
                yield result

    return start


@pytest.fixture
async def store(databases, replica) -> AsyncIterator[Replica]:
    """One replica over two fresh shards."""
    async with replica(databases) as running_replica:
        yield running_replica
