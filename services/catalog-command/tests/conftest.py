"""What the tests of this service share: examples of products, and the log in memory."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import catalog_events
import event_store.bootstrap
import event_store.settings
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import command_pb2
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from almagest_cli.local.ports import free_port
from catalog_command.adapters.event_store import EventStoreProductLog
from catalog_command.application.product_log import (
    NO_REVISION,
    AppendIdReused,
    AppendUncertain,
    History,
    ProductAppend,
    StreamConflict,
    Written,
)
from catalog_command.domain.product import Product
from catalog_command.domain.sku import product_id
from chassis.database.migrations import upgrade
from chassis.errors import DeadlineExceeded, Unavailable
from chassis.identity.files import FileIdentitySource
from chassis.process import Assembly, running
from chassis.rpc.channel import Channel
from google.protobuf.timestamp_pb2 import Timestamp

TRUST_DOMAIN = "almagest.internal"


class MemoryProductLog:
    """The log in memory, by the same contract as the real one (`test_product_log.py`), and able to fail on demand.

    Attributes:
        down: nothing can be reached.
        loses_answers: so many of the next appends are written, and their answers lost.
        loses_appends: so many of the next appends are lost before they are written.
        calls: the names of the methods called.
        clock: what events are recorded by.
    """

    def __init__(self) -> None:
        self._streams: dict[str, list[tuple[Any, ProductAppend, Timestamp]]] = {}
        self._written: dict[str, Written] = {}
        self._kept: dict[str, tuple[Product, int, str]] = {}
        self._position = 0
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.down = False
        self.loses_answers = 0
        self.loses_appends = 0
        self.calls: list[str] = []
        self.before_append: Callable[[ProductAppend], Any] = lambda _: None

    def events(self, product: str) -> list[Any]:
        """The events of a product's stream."""
        return [event for event, _, _ in self._streams.get(product, [])]

    def appends(self, product: str) -> list[ProductAppend]:
        """The appends of a product's stream, one per event."""
        return [append for _, append, _ in self._streams.get(product, [])]

    async def read(self, product_id: str, *, after: int, deadline: float) -> History:
        await self._begin("read", deadline)
        stream = self._streams.get(product_id, [])
        found = stream[after + 1 :]
        written: dict[str, Written] = {}
        for _, append, _ in found:
            written[append.append_id] = replace(self._written[append.append_id], fingerprint=None)
        token = list(written.values())[-1].consistency_token if written else ""
        return History(
            [_read_back(event, at) for event, _, at in found], list(written.values()), len(stream) - 1, token
        )

    async def append(self, append: ProductAppend, *, deadline: float) -> Written:
        await self._begin("append", deadline, uncertain=True)
        if self.loses_appends:
            self.loses_appends -= 1
            raise AppendUncertain
        self.before_append(append)
        before = self._written.get(append.append_id)
        if before is not None:
            if before.fingerprint != append.fingerprint:
                raise AppendIdReused
            return replace(before, replayed=True)
        stream = self._streams.setdefault(append.product_id, [])
        if append.expected_revision != len(stream) - 1:
            raise StreamConflict
        at = Timestamp()
        at.FromDatetime(self.clock())
        stream += [(event, append, at) for event in append.events]
        self._position += len(append.events)
        written = Written(
            append_id=append.append_id,
            first_revision=append.expected_revision + 1,
            last_revision=len(stream) - 1,
            consistency_token=f"at-{self._position}",
            fingerprint=append.fingerprint,
        )
        self._written[append.append_id] = written
        if self.loses_answers:
            self.loses_answers -= 1
            raise AppendUncertain
        return written

    async def load(self, product_id: str, *, deadline: float) -> History:
        kept = self._kept.get(product_id)
        if kept is None:
            return await self.read(product_id, after=NO_REVISION, deadline=deadline)
        product, revision, token = kept
        history = await self.read(product_id, after=revision, deadline=deadline)
        return replace(history, base=product, consistency_token=history.consistency_token or token)

    def keep(self, product_id: str, product: Product, *, revision: int, consistency_token: str) -> None:
        self.calls.append("keep")
        self._kept[product_id] = (product, revision, consistency_token)

    async def find(self, append_id: str, *, product_id: str, deadline: float) -> Written | None:
        await self._begin("find", deadline)
        return self._written.get(append_id)

    async def _begin(self, name: str, deadline: float, *, uncertain: bool = False) -> None:
        self.calls.append(name)
        await asyncio.sleep(0)
        if self.down:
            raise AppendUncertain if uncertain else Unavailable
        if deadline <= time.monotonic():
            raise AppendUncertain if uncertain else DeadlineExceeded


def _read_back(event: catalog_events.Event, at: Timestamp) -> catalog_events.Event:
    stored = event_pb2.RecordedEvent(
        type=catalog_events.type_name(event), payload=event.SerializeToString(), recorded_at=at
    )
    return catalog_events.decode(stored)


@pytest.fixture(scope="session")
def new_memory_log() -> type[MemoryProductLog]:
    return MemoryProductLog


@pytest.fixture
def memory_log() -> MemoryProductLog:
    return MemoryProductLog()


class Examples:
    """Products that exist nowhere, in the form of the wire."""

    NO_REVISION = NO_REVISION

    @staticmethod
    def sku() -> str:
        return f"TEST-{uuid.uuid4().hex[:12]}"

    @staticmethod
    def id_of(sku: str) -> str:
        return str(product_id(sku))

    @staticmethod
    def car(**changes: Any) -> events.Description:
        """A car; changes go to the description, the car or the vehicle, whichever has the field."""
        message = events.Description(
            name="Volvo V60",
            text="An estate.",
            category="vehicles/estate",
            car=events.CarAttributes(
                vehicle=events.VehicleAttributes(make="Volvo", model="V60", model_year=2020, body_styles=["Wagon"]),
                doors=5,
                seats=5,
            ),
        )
        return _changed(changes, message, message.car, message.car.vehicle)

    @staticmethod
    def truck(**changes: Any) -> events.Description:
        message = events.Description(
            name="Volvo FH",
            category="vehicles/trucks",
            truck=events.TruckAttributes(
                vehicle=events.VehicleAttributes(make="Volvo", model="FH", model_year=2021),
                payload_kg=12_000,
                gross_weight_kg=18_000,
            ),
        )
        return _changed(changes, message, message.truck, message.truck.vehicle)

    @staticmethod
    def general(**changes: Any) -> events.Description:
        message = events.Description(
            name="Crunchy armchair",
            category="furniture",
            general=events.GeneralAttributes(brand="Garish", gtin="4006381333931", properties={"legs": "4"}),
        )
        return _changed(changes, message, message.general)

    @staticmethod
    def create(sku: str, description: events.Description) -> command_pb2.ProductCommand:
        return command_pb2.ProductCommand(create=command_pb2.CreateProduct(sku=sku, description=description))

    @staticmethod
    def put(sku: str, description: events.Description) -> command_pb2.ProductCommand:
        return command_pb2.ProductCommand(put=command_pb2.PutProduct(sku=sku, description=description))

    @staticmethod
    def describe(description: events.Description) -> command_pb2.ProductCommand:
        return command_pb2.ProductCommand(describe=command_pb2.DescribeProduct(description=description))

    @staticmethod
    def price(amount: str, currency: str = "EUR") -> command_pb2.ProductCommand:
        money = events.Money(amount=amount, currency=currency)
        return command_pb2.ProductCommand(set_price=command_pb2.SetPrice(price=money))

    @staticmethod
    def publish() -> command_pb2.ProductCommand:
        return command_pb2.ProductCommand(publish=command_pb2.PublishProduct())

    @staticmethod
    def unpublish() -> command_pb2.ProductCommand:
        return command_pb2.ProductCommand(unpublish=command_pb2.UnpublishProduct())

    @staticmethod
    def discontinue(reason: str = "No longer made") -> command_pb2.ProductCommand:
        return command_pb2.ProductCommand(discontinue=command_pb2.DiscontinueProduct(reason=reason))

    @staticmethod
    def item(product: str, *commands: command_pb2.ProductCommand, **fields: Any) -> command_pb2.CommandItem:
        return command_pb2.CommandItem(
            **{"command_id": str(uuid.uuid4()), "product_id": product, "commands": commands, **fields}
        )


def _changed(changes: dict[str, Any], description: events.Description, *parts: Any) -> events.Description:
    for name, value in changes.items():
        for part in (description, *parts):
            field = part.DESCRIPTOR.fields_by_name.get(name)
            if field is None:
                continue
            if field.is_repeated:
                part.ClearField(name)
                container = getattr(part, name)
                container.update(value) if isinstance(value, dict) else container.extend(value)
            else:
                setattr(part, name, value)
            break
        else:
            raise AssertionError(f"nothing in {description} is named {name}")
    return description


@pytest.fixture(scope="session")
def example() -> Examples:
    return Examples()


@dataclass
class Store:
    """A running event store: real Postgres, real mTLS.

    Attributes:
        target: where it listens.
    """

    target: str
    identity: Callable[[str], Path]

    @asynccontextmanager
    async def log(self, **options: Any) -> AsyncIterator[EventStoreProductLog]:
        """The log as this service uses it."""
        source = FileIdentitySource(self.identity("catalog-command"), TRUST_DOMAIN, service="catalog-command")
        async with Channel(self.target, service="event-store", identity=source) as channel:
            log = EventStoreProductLog(event_store_pb2_grpc.EventStoreServiceStub(channel), **options)
            try:
                yield log
            finally:
                await log.close()

    async def recorded(self, product: str) -> list[event_pb2.RecordedEvent]:
        """The events of a product, as the log holds them."""
        source = FileIdentitySource(self.identity("catalog-query"), TRUST_DOMAIN, service="catalog-query")
        async with Channel(self.target, service="event-store", identity=source) as channel:
            request = event_store_pb2.ReadStreamRequest(stream=f"product-{product}")
            pieces = event_store_pb2_grpc.EventStoreServiceStub(channel).ReadStream(request, timeout=5)
            return [event async for piece in pieces for event in piece.events]


class StoreProcess:
    """The event store over fresh databases, to be started, stopped and started again at the same place."""

    def __init__(self, *, urls: list[str], identity: Callable[[str], Path], jwks: bytes) -> None:
        self._urls = urls
        self._identity = identity
        self._jwks = jwks
        self._stack = AsyncExitStack()
        # It must get it back when it comes again, so it is none that a client may be given meanwhile.
        self._listen = f"127.0.0.1:{free_port()}"

    async def start(self) -> Store:
        async def jwks() -> bytes:
            return self._jwks

        @asynccontextmanager
        async def assembled(settings: Any, chassis: Any) -> AsyncIterator[Assembly]:
            chassis.verify_with(jwks)
            async with event_store.bootstrap.bootstrap(settings, chassis) as assembly:
                yield assembly

        settings = event_store.settings.Settings(
            identity_directory=self._identity("event-store"),
            listen=self._listen,
            database_urls=tuple(self._urls),
            drain_seconds=0.2,
        )
        bound = await self._stack.enter_async_context(running("event-store", settings, assembled))
        assert self._listen.endswith(f":{bound.grpc_port}")
        return Store(self._listen, self._identity)

    async def stop(self) -> None:
        await self._stack.aclose()


@pytest.fixture(scope="session")
async def store_urls(postgres) -> list[str]:
    owners = [await asyncio.to_thread(postgres.create_database, "event_store") for _ in range(2)]
    await upgrade("event_store.migrations", owners, "event_store")
    return [postgres.service_dsn(owner, "event_store") for owner in owners]


@pytest.fixture
async def store_process(store_urls, identity, transaction_tokens) -> AsyncIterator[StoreProcess]:
    process = StoreProcess(urls=store_urls, identity=identity, jwks=transaction_tokens.jwks)
    yield process
    await process.stop()


@pytest.fixture
async def store(store_process) -> Store:
    return await store_process.start()
