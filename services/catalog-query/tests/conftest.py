"""Histories of products, a log in memory, read models in real Postgres, and the real services over mTLS."""

import asyncio
import base64
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import query_pb2, query_pb2_grpc
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.application.shards import LogMap
from catalog_query.bootstrap import bootstrap
from catalog_query.settings import Settings
from chassis.buckets import BucketMap, bucket_of
from chassis.database.migrations import upgrade
from chassis.database.pool import Database
from chassis.identity.files import FileIdentitySource
from chassis.process import Chassis, running
from chassis.rpc.channel import Channel
from event_store.bootstrap import bootstrap as event_store_bootstrap
from event_store.settings import Settings as EventStoreSettings
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from .operated import operated

__all__ = ["operated"]

NAMESPACE = uuid.UUID("6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11")
MIGRATIONS = "catalog_query.migrations"


class Build:
    """Builds what histories are made of. Given to tests by the fixture `build`, since test modules import nothing of each other."""

    sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @staticmethod
    def fresh() -> str:
        """A SKU that no other test has."""
        return f"SKU{uuid.uuid4().hex[:12]}"

    @staticmethod
    def id_of(sku: str) -> str:
        return str(uuid.uuid5(NAMESPACE, sku))

    @staticmethod
    def car(
        name: str = "Volvo V60", *, make: str = "Volvo", model: str = "V60", year: int = 2024, **more: Any
    ) -> events.Description:
        vehicle = events.VehicleAttributes(
            make=make,
            model=model,
            model_year=year,
            vin=more.pop("vin", ""),
            body_styles=more.pop("body_styles", ["Wagon"]),
        )
        attributes = events.CarAttributes(vehicle=vehicle, doors=more.pop("doors", 5), seats=more.pop("seats", 5))
        return events.Description(name=name, category=more.pop("category", "vehicles/wagon"), car=attributes, **more)

    @staticmethod
    def truck(
        name: str = "Ford F-150", *, make: str = "Ford", model: str = "F-150", year: int = 2021, **more: Any
    ) -> events.Description:
        vehicle = events.VehicleAttributes(make=make, model=model, model_year=year, body_styles=["Pickup"])
        attributes = events.TruckAttributes(
            vehicle=vehicle, payload_kg=more.pop("payload_kg", 800), gross_weight_kg=more.pop("gross_weight_kg", 3000)
        )
        return events.Description(name=name, category=more.pop("category", "vehicles/pickup"), truck=attributes, **more)

    @staticmethod
    def general(
        name: str = "Wiper", *, category: str = "parts/wipers", brand: str = "Bosch", **more: Any
    ) -> events.Description:
        attributes = events.GeneralAttributes(
            brand=brand, gtin=more.pop("gtin", ""), properties=more.pop("properties", {})
        )
        return events.Description(name=name, category=category, general=attributes, **more)

    @staticmethod
    def created(sku: str, description: events.Description | None = None) -> events.ProductCreated:
        return events.ProductCreated(product_id=Build.id_of(sku), sku=sku, description=description or Build.car())

    @staticmethod
    def price(amount: str = "12999.00", currency: str = "EUR") -> events.PriceSet:
        return events.PriceSet(price=events.Money(amount=amount, currency=currency))

    @staticmethod
    def published() -> events.ProductPublished:
        return events.ProductPublished()

    @staticmethod
    def opaque(token: event_pb2.ConsistencyToken) -> str:
        return base64.urlsafe_b64encode(token.SerializeToString()).rstrip(b"=").decode()

    @staticmethod
    def decoded(token: str) -> bytes:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


@pytest.fixture(scope="session")
def build() -> type[Build]:
    return Build


@pytest.fixture
def log() -> "LogFake":
    """A log in memory, with two shards."""
    return LogFake()


class LogFake:
    """The log in memory: gapless positions per shard, subscriptions that go on, and faults on demand."""

    def __init__(self, shards: int = 2, *, message_events: int = 50) -> None:
        self.map = BucketMap(shards)
        self.shards: list[list[event_pb2.RecordedEvent]] = [[] for _ in range(shards)]
        self.message_events = message_events
        self.subscriptions: list[tuple[int, int]] = []
        self.faults: list[int] = []
        """Each subscription takes one, and breaks after so many events."""
        self.fault: Callable[[], Exception] = lambda: ConnectionError("the log went away")
        """How it breaks."""
        self._cuts = 0
        self._revisions: dict[str, int] = {}
        self._appended = asyncio.Event()
        self._clock = itertools.count(int(time.time()) * 1_000_000 - 3_600_000_000, 1_500)

    def cut(self) -> None:
        """Break the subscriptions that wait for more."""
        self._cuts += 1

    def append(self, product_id: str, *messages: Message, **metadata: Any) -> event_pb2.ConsistencyToken:
        """Append to a product's stream; answers where the last event stands."""
        bucket = bucket_of(product_id)
        shard = self.map.shard_of(bucket)
        for message in messages:
            revision = self._revisions[product_id] = self._revisions.get(product_id, -1) + 1
            self.put(product_id, revision, message.DESCRIPTOR.full_name, message.SerializeToString(), **metadata)
        return event_pb2.ConsistencyToken(epoch=1, bucket=bucket, shard=shard, position=len(self.shards[shard]))

    def put(
        self, product_id: str, revision: int, name: str, payload: bytes, **metadata: Any
    ) -> event_pb2.RecordedEvent:
        """Append one event as it is, right or wrong."""
        bucket = bucket_of(product_id)
        shard = self.map.shard_of(bucket)
        at = next(self._clock)
        event = event_pb2.RecordedEvent(
            shard=shard,
            position=len(self.shards[shard]) + 1,
            stream=f"product-{product_id}",
            revision=revision,
            bucket=bucket,
            event_id=str(uuid.uuid4()),
            type=name,
            payload=payload,
            metadata=event_pb2.EventMetadata(**metadata),
        )
        event.recorded_at.FromMicroseconds(at)
        self.shards[shard].append(event)
        appended, self._appended = self._appended, asyncio.Event()
        appended.set()
        return event

    def history(self, product_id: str) -> list[event_pb2.RecordedEvent]:
        return [event for shard in self.shards for event in shard if event.stream == f"product-{product_id}"]

    async def shard_map(self) -> LogMap:
        return LogMap(self.map, {shard: len(events) for shard, events in enumerate(self.shards)})

    async def subscribe(
        self, *, event_shard: int, after: int, buckets: Sequence[tuple[int, int]], heartbeat: float
    ) -> AsyncGenerator[event_store_pb2.SubscribeResponse, None]:
        self.subscriptions.append((event_shard, after))
        # A test may call one shard by many numbers, each with a checkpoint of its own.
        log = self.shards[event_shard % len(self.shards)]
        left = self.faults.pop() if self.faults else None
        cuts = self._cuts
        position = after
        while True:
            appended = self._appended
            piece = log[position : position + self.message_events]
            if left is not None and left <= len(piece):
                raise self.fault()
            position += len(piece)
            kept = [event for event in piece if any(first <= event.bucket <= last for first, last in buckets)]
            if left is not None:
                left -= len(piece)
            yield event_store_pb2.SubscribeResponse(
                events=kept,
                checkpoint=event_pb2.ShardPosition(shard=event_shard, position=position),
                head=event_pb2.ShardPosition(shard=event_shard, position=len(log)),
            )
            if position == len(log):
                try:
                    async with asyncio.timeout(min(heartbeat, 0.05)):
                        await appended.wait()
                except TimeoutError:
                    pass
            if self._cuts != cuts:
                raise self.fault()

    async def backwards(
        self, stream: str, *, from_revision: int | None
    ) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        found = [event for shard in self.shards for event in shard if event.stream == stream]
        kept = [event for event in reversed(found) if from_revision is None or event.revision <= from_revision]
        for start in range(0, len(kept), 3):
            yield kept[start : start + 3]

    async def forwards(self, stream: str) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        yield [event for shard in self.shards for event in shard if event.stream == stream]


@pytest.fixture(scope="session")
def log_fake() -> type[LogFake]:
    return LogFake


@dataclass
class ReadDatabases:
    """The shards of a read model."""

    owner: Sequence[str]
    service: Sequence[str]


async def _eventually(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], *, seconds: float = 20) -> None:
    """Poll until it holds."""
    async with asyncio.timeout(seconds):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def eventually() -> Any:
    return _eventually


@pytest.fixture(scope="session")
async def databases(postgres) -> Callable[..., Awaitable[ReadDatabases]]:
    """Makes the databases of a read model, migrated: copies of one that was."""
    migrated: dict[str, str] = {}

    async def make(shards: int = 2, *, role: str = "catalog_query", package: str = MIGRATIONS) -> ReadDatabases:
        if package not in migrated:
            migrated[package] = await asyncio.to_thread(postgres.create_database, role)
            await upgrade(package, [migrated[package]], role)
        owner = [await asyncio.to_thread(postgres.copy_database, migrated[package], role) for _ in range(shards)]
        return ReadDatabases(owner, [postgres.dsn(dsn.partition("?")[0].rpartition("/")[2], role) for dsn in owner])

    return make


@pytest.fixture
async def read_model(databases) -> AsyncIterator[Sequence[ReadModelShard]]:
    """Two shards of a read model, by asyncpg, as the service's role."""
    async with AsyncExitStack() as stack:
        shards: list[ReadModelShard] = []
        for number, dsn in enumerate((await databases(2)).service):
            database = await Database.open(dsn, name=f"test_{number}", size=6)
            stack.push_async_callback(database.close)
            shards.append(ReadModelShard(database))
        yield shards


@dataclass
class Replica:
    """A running catalog-query, or event-store."""

    port: int
    http_port: int
    connect: Callable[[str], AbstractAsyncContextManager[Any]]
    """The stub of its service, as a workload."""
    channel: Callable[[str], AbstractAsyncContextManager[Channel]]
    """For stubs of its other services."""


class Starter:
    """Starts the services of a test over mTLS."""

    def __init__(self, identity: Callable[[str], Path], tokens: Any) -> None:
        self._identity = identity
        self._tokens = tokens

    @asynccontextmanager
    async def event_store(self, service_dsns: Sequence[str], **settings: Any) -> AsyncIterator[Replica]:
        chosen = EventStoreSettings(
            identity_directory=self._identity("event-store"),
            database_urls=tuple(service_dsns),
            drain_seconds=0.2,
            **settings,
        )
        async with self._running(
            "event-store", chosen, event_store_bootstrap, event_store_pb2_grpc.EventStoreServiceStub
        ) as replica:
            yield replica

    @asynccontextmanager
    async def catalog_query(
        self, read: ReadDatabases, event_store_port: int, **settings: Any
    ) -> AsyncIterator[Replica]:
        chosen = Settings(
            identity_directory=self._identity("catalog-query"),
            database_urls=tuple(read.service),
            event_store_target=f"127.0.0.1:{event_store_port}",
            drain_seconds=0.2,
            **settings,
        )
        async with self._running("catalog-query", chosen, bootstrap, query_pb2_grpc.CatalogQueryServiceStub) as replica:
            yield replica

    @asynccontextmanager
    async def writer(self, event_store: Replica) -> AsyncIterator[Callable[..., Awaitable[event_pb2.ConsistencyToken]]]:
        """Appends to products of a log."""
        async with event_store.connect("catalog-command") as store:

            async def write(
                sku: str, *messages: Message, traceparent: str = "", **metadata: Any
            ) -> event_pb2.ConsistencyToken:
                return await _append(store, self._tokens, sku, messages, traceparent, metadata)

            yield write

    @asynccontextmanager
    async def _running(self, name: str, chosen: Any, start: Any, stub: Any) -> AsyncIterator[Replica]:
        async def jwks() -> bytes:
            return self._tokens.jwks

        @asynccontextmanager
        async def assembled(read: Any, chassis: Chassis[Any]) -> AsyncIterator[Any]:
            chassis.verify_with(jwks)
            async with start(read, chassis) as assembly:
                yield assembly

        @asynccontextmanager
        async def opened(service: str) -> AsyncIterator[Channel]:
            source = FileIdentitySource(self._identity(service), "almagest.internal", service=service)
            channel = Channel(f"127.0.0.1:{bound.grpc_port}", service=name, identity=source, default_timeout=10)
            try:
                yield channel
            finally:
                await channel.close()

        @asynccontextmanager
        async def connect(service: str) -> AsyncIterator[Any]:
            async with opened(service) as channel:
                yield stub(channel)

        async with running(name, chosen, assembled) as bound:
            yield Replica(bound.grpc_port, bound.http_port, connect, opened)


@pytest.fixture(scope="session")
def starter(identity, transaction_tokens) -> Starter:
    return Starter(identity, transaction_tokens)


@dataclass
class System:
    """catalog-query over a real event store, and stubs of both as those who may call them."""

    query: Any
    store: Any
    tokens: Any
    replica: Replica
    event_store: Replica
    read: ReadDatabases
    token: str

    async def get(self, sku: str, token: event_pb2.ConsistencyToken | None = None) -> query_pb2.ProductDocument:
        request = query_pb2.GetProductRequest(
            product_id=Build.id_of(sku), consistency_token="" if token is None else Build.opaque(token)
        )
        return (await self.query.GetProduct(request, metadata=self.person)).product

    @property
    def person(self) -> Sequence[tuple[str, str]]:
        """Metadata of a call on behalf of a viewer."""
        return (("txn-token", self.token),)

    async def append(
        self, sku: str, *messages: Message, traceparent: str = "", **metadata: Any
    ) -> event_pb2.ConsistencyToken:
        return await _append(self.store, self.tokens, sku, messages, traceparent, metadata)


async def _append(
    store: Any, tokens: Any, sku: str, messages: Sequence[Message], traceparent: str, metadata: Mapping[str, Any]
) -> event_pb2.ConsistencyToken:
    """Append to a product's stream as catalog-command would, on behalf of an editor."""
    append = event_store_pb2.Append(
        append_id=str(uuid.uuid4()),
        stream=f"product-{Build.id_of(sku)}",
        fingerprint=b"test",
        transaction_token=tokens(roles=("editor",), subject="b7b0a5ac-3a0c-4d5e-9a53-0f6b6c1de111"),
        traceparent=traceparent,
        any=Empty(),
        events=[
            event_pb2.NewEvent(
                event_id=str(uuid.uuid4()),
                type=message.DESCRIPTOR.full_name,
                payload=message.SerializeToString(),
                metadata=event_pb2.EventMetadata(traceparent=traceparent, **metadata),
            )
            for message in messages
        ],
    )
    answer = await store.Append(event_store_pb2.AppendRequest(appends=[append]), timeout=20)
    assert answer.results[0].WhichOneof("outcome") == "appended", answer.results[0].problem
    return answer.results[0].appended.position


@pytest.fixture(scope="module")
async def system(databases, starter, transaction_tokens) -> AsyncIterator[System]:
    """catalog-query with two shards over a real event store with two shards. Tests share it, with products of their own."""
    logs = await databases(2, role="event_store", package="event_store.migrations")
    read = await databases(2)
    async with (
        starter.event_store(logs.service) as event_store,
        starter.catalog_query(read, event_store.port) as replica,
        event_store.connect("catalog-command") as store,
        replica.connect("gateway") as query,
    ):
        token = transaction_tokens(roles=("viewer",))
        yield System(query, store, transaction_tokens, replica, event_store, read, token)
