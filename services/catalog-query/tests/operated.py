"""A running system, and an operator of it."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from almagest.catalog.v1 import past_pb2_grpc, projections_pb2_grpc, query_pb2, query_pb2_grpc, schedules_pb2_grpc
from almagest.catalog.v1 import projections_pb2 as wire
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from catalog_query.adapters.event_store import EventStore
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.application.freshness import Freshness
from catalog_query.application.shards import Shards
from catalog_query.projections.checks import Finding, ProductCheck, VersionCheck
from catalog_query.projections.drift import DriftCheck
from chassis.buckets import BucketMap, bucket_of
from chassis.database.pool import Database
from chassis.errors import RemoteProblem
from google.protobuf.empty_pb2 import Empty

BURNT = "almagest.catalog.events.v1.PriceBurnt"


QUICK: dict[str, Any] = {
    "projection_look_seconds": 0.1,
    "projection_lease_seconds": 1.0,
    "drift_products_a_second": 0,
}


class Operated:
    """A running system, and an operator of it."""

    def __init__(
        self,
        projections: Any,
        query: Any,
        past: Any,
        schedules: Any,
        store: Any,
        log: EventStore,
        tokens: Any,
        read: Any,
        build: Any,
    ) -> None:
        self.past = past
        self.schedules = schedules
        self.log = log
        self.projections = projections
        self.query = query
        self.store = store
        self.tokens = tokens
        self.read = read
        self.build = build

    async def ask(self, method: str, role: str = "admin", **fields: Any) -> Any:
        request = getattr(wire, f"{method}Request")(**fields)
        return await getattr(self.projections, method)(request, metadata=(("txn-token", self.tokens(roles=(role,))),))

    async def append(self, product_id: str, *written: tuple[str, bytes]) -> event_pb2.ConsistencyToken:
        append = event_store_pb2.Append(
            append_id=str(uuid.uuid4()),
            stream=f"product-{product_id}",
            fingerprint=b"test",
            transaction_token=self.tokens(roles=("editor",)),
            any=Empty(),
            events=[
                event_pb2.NewEvent(event_id=str(uuid.uuid4()), type=name, payload=payload) for name, payload in written
            ],
        )
        answer = await self.store.Append(event_store_pb2.AppendRequest(appends=[append]), timeout=20)
        assert answer.results[0].WhichOneof("outcome") == "appended", answer.results[0].problem
        return answer.results[0].appended.position

    async def write(self, sku: str, *messages: Any) -> event_pb2.ConsistencyToken:
        written = [(message.DESCRIPTOR.full_name, message.SerializeToString()) for message in messages]
        return await self.append(self.build.id_of(sku), *written)

    async def get(self, sku: str, token: event_pb2.ConsistencyToken | None = None) -> query_pb2.ProductDocument:
        request = query_pb2.GetProductRequest(
            product_id=self.build.id_of(sku), consistency_token="" if token is None else self.build.opaque(token)
        )
        metadata = (("txn-token", self.tokens(roles=("viewer",))),)
        return (await self.query.GetProduct(request, metadata=metadata, timeout=15)).product

    async def generations(self, name: str = "products") -> dict[tuple[int, int], Any]:
        [projection] = (await self.ask("ListProjections", projection=name)).projections
        return {(one.read_shard, one.generation): one for one in projection.generations}

    @asynccontextmanager
    async def checking(self) -> AsyncIterator[Callable[..., Any]]:
        """Compares products with the log, as the background task does."""
        async with AsyncExitStack() as stack:
            read_models: list[ReadModelShard] = []
            for number, dsn in enumerate(self.read.service):
                database = await Database.open(dsn, name=f"check_{number}", size=2)
                stack.push_async_callback(database.close)
                read_models.append(ReadModelShard(database))
            shards = Shards(len(read_models))
            checks = [ProductCheck(self.log), VersionCheck(self.log)]
            drift = DriftCheck(
                log=self.log,
                read_models=read_models,
                shards=shards,
                checks=[(check, Freshness()) for check in checks],
                products_a_second=0,
            )

            async def check(sku: str, projection: str = "products") -> Finding | None:
                product_id = self.build.id_of(sku)
                return await drift.check(projection, shards.read_shard_of(product_id), uuid.UUID(product_id))

            yield check

    @asynccontextmanager
    async def database(self, sku: str) -> AsyncIterator[asyncpg.Connection]:
        """The database of a product, as its owner."""
        shard = BucketMap(len(self.read.owner)).shard_of(bucket_of(self.build.id_of(sku)))
        connection = await asyncpg.connect(self.read.owner[shard])
        try:
            yield connection
        finally:
            await connection.close()


@pytest.fixture
async def operated(databases, starter, transaction_tokens, build) -> AsyncIterator[Operated]:
    """Two shards each, of our own: generations are everybody's."""
    logs = await databases(2, role="event_store", package="event_store.migrations")
    read = await databases(2)
    async with (
        starter.event_store(logs.service) as event_store,
        starter.catalog_query(read, event_store.port, **QUICK) as replica,
        event_store.connect("catalog-command") as store,
        event_store.channel("catalog-query") as log,
        replica.channel("gateway") as channel,
    ):
        yield Operated(
            projections_pb2_grpc.CatalogProjectionServiceStub(channel),
            query_pb2_grpc.CatalogQueryServiceStub(channel),
            past_pb2_grpc.CatalogPastServiceStub(channel),
            schedules_pb2_grpc.CatalogScheduleServiceStub(channel),
            store,
            EventStore(log),
            transaction_tokens,
            read,
            build,
        )


def reason(problem: pytest.ExceptionInfo[RemoteProblem]) -> str:
    return problem.value.problem.reason


async def parked(operated: Operated, eventually: Any, **fields: Any) -> Any:
    """The one event that is parked."""
    found: list[Any] = []

    async def one() -> bool:
        found[:] = (await operated.ask("ListParkedEvents", projection="products", **fields)).parked
        return len(found) == 1

    await eventually(one)
    return found[0]


async def rebuilt(operated: Operated, eventually: Any) -> int:
    """Begin a rebuild and wait until it is ready and compared in both shards."""
    begun = await operated.ask("Rebuild", projection="products")

    async def compared() -> bool:
        generations = await operated.generations()
        return all(generations[shard, begun.generation].HasField("comparison") for shard in (0, 1))

    await eventually(compared, seconds=40)
    return begun.generation
