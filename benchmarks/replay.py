"""The replay of a log into an empty generation of the read model, as a rebuild does it, through the real event store.

The log holds a million events in two shards: products, each created, priced and published in one append as an import
writes them, then price changes all over. The event store is a process of its own; this process stands for catalog-query
and projects all pairs of two by two shards, with one event loop as in earnest. Measured is the time until everything is
in the tables, and until these are indexed too. The reference is COPY of the same rows into a table without indexes.
"""

import asyncio
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.postgres import EmbeddedPostgres
from append import auth, check, cpu_seconds
from catalog_query.adapters.event_store import EventStore
from catalog_query.adapters.generations import GenerationsShard
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.application.freshness import Freshness
from catalog_query.application.holds import Holds
from catalog_query.application.shards import Shards
from catalog_query.domain.projection import Target
from catalog_query.projections.ports import Pace
from catalog_query.projections.product import Products
from catalog_query.projections.rebuild import Rebuilds
from catalog_query.projections.supervisor import Followed, Projections
from catalog_query.settings import Settings
from chassis.database.migrations import upgrade
from chassis.database.pool import Database
from chassis.identity.files import FileIdentitySource
from chassis.process import collect_seldom
from chassis.rpc.channel import Channel
from chassis.telemetry.logging import configure_logging
from google.protobuf.empty_pb2 import Empty
from harness.tokens import TransactionTokens
from size import Store, started

EVENTS = int(os.environ.get("REPLAY_EVENTS", "1000000"))
OF_A_PRODUCT = 3
PRODUCTS = EVENTS // 5
SHARDS = 2
_APPENDS = 100
_IN_FLIGHT = 8
_TEXT = (
    "A dependable companion for long roads and short errands, kept in the garage, serviced on time, with a full book,"
    " one owner, winter tyres on their own rims, and a tow bar that was never used. Seats are heated; the roof is not."
)
_MAKES = ("Volvo", "Ford", "Toyota", "BMW", "Kia", "Renault", "Fiat", "Honda", "Mazda", "Skoda")
_TARGET = Target("products", 2)


def _new(message: Any) -> event_pb2.NewEvent:
    metadata = event_pb2.EventMetadata(command_id=str(uuid.uuid4()))
    return event_pb2.NewEvent(
        event_id=str(uuid.uuid4()),
        type=message.DESCRIPTOR.full_name,
        payload=message.SerializeToString(),
        metadata=metadata,
    )


def _priced(chance: random.Random) -> events.PriceSet:
    return events.PriceSet(price=events.Money(amount=f"{chance.randrange(500, 90_000)}.00", currency="EUR"))


def _appends(chance: random.Random, token: str, products: Sequence[str], first: int) -> event_store_pb2.AppendRequest:
    """A call's worth of new products, or of changed prices where they have all been created."""
    request = event_store_pb2.AppendRequest()
    for number in range(first, first + _APPENDS):
        if number < PRODUCTS:
            product_id = products[number]
            make, model = chance.choice(_MAKES), f"Model {chance.randrange(300)}"
            vehicle = events.VehicleAttributes(
                make=make, model=model, model_year=chance.randrange(1990, 2027), body_styles=["SUV"]
            )
            description = events.Description(
                name=f"{make} {model} {number}",
                text=_TEXT,
                category="vehicles/suv",
                car=events.CarAttributes(vehicle=vehicle, doors=5, seats=5),
            )
            created = events.ProductCreated(product_id=product_id, sku=f"SKU-{number}", description=description)
            messages = [created, _priced(chance), events.ProductPublished()]
        else:
            product_id, messages = chance.choice(products), [_priced(chance)]
        request.appends.add(
            append_id=str(uuid.uuid4()),
            stream=f"product-{product_id}",
            fingerprint=b"replay",
            transaction_token=token,
            any=Empty(),
            events=[_new(message) for message in messages],
        )
    return request


async def fill(store: Store) -> None:
    """Write the log."""
    chance = random.Random(7)  # noqa: S311 - the same log each time
    products = [str(uuid.UUID(int=chance.getrandbits(128), version=5)) for _ in range(PRODUCTS)]
    calls = iter(range(0, PRODUCTS + EVENTS - OF_A_PRODUCT * PRODUCTS, _APPENDS))

    async def work() -> None:
        for first in calls:
            answer = await store.stub.Append(_appends(chance, store.tokens(), products, first), timeout=60)
            for result in answer.results:
                check(result)

    await asyncio.gather(*(work() for _ in range(_IN_FLIGHT)))


async def replay(stack: AsyncExitStack, postgres: EmbeddedPostgres, log: EventStore, head: int, server: int) -> None:
    """Fill a generation of two shards, and tell how long it took."""
    names = [f"catalog_{shard}" for shard in range(SHARDS)]
    postgres.ensure(dict.fromkeys(names, ("catalog_query",)))
    await upgrade("catalog_query.migrations", [postgres.dsn(name) for name in names], "catalog_query")
    read_models: list[ReadModelShard] = []
    for name in names:
        # Only the generation that is filled: nothing else is to be kept up to date beside it.
        postgres.execute(
            "SELECT create_generation('products', 2, 'benchmark');"
            " UPDATE projections SET serving = 2 WHERE name = 'products'; SELECT drop_generation('products', 1);",
            database=name,
        )
        database = await Database.open(postgres.dsn(name, "catalog_query"), name=name, size=8)
        stack.push_async_callback(database.close)
        read_models.append(ReadModelShard(database))
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    shards, freshness = Shards(SHARDS), Freshness()
    pace = Pace(batch_events=defaults["projection_batch_events"])
    projections = Projections(
        owner="benchmark",
        log=log,
        read_models=read_models,
        shards=shards,
        followed=[
            Followed(
                Products(
                    cached_documents=defaults["projection_cached_documents"],
                    cached_while_filling=defaults["rebuild_cached_documents"],
                ),
                freshness,
                Holds(shards, freshness),
            )
        ],
        pace=pace,
        filling=Pace(batch_events=defaults["rebuild_batch_events"], patient=True),
        look_every=0.2,
        chores=Rebuilds([GenerationsShard(shard) for shard in read_models]),
    )
    await projections.recall()
    collect_seldom()
    spent, own = cpu_seconds(postgres.daemon.pid or 0, server), time.process_time()
    began = time.perf_counter()
    task = asyncio.create_task(projections.run())
    filled = await _until(task, read_models, head, began)
    spent, own = cpu_seconds(postgres.daemon.pid or 0, server) - spent, time.process_time() - own
    indexed = await _until_ready(task, read_models, began)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    rows = sum([await GenerationsShard(shard).count(_TARGET) for shard in read_models])
    if rows != PRODUCTS:
        raise SystemExit(f"{rows} rows instead of {PRODUCTS}")
    copied = await _copied(postgres, names)
    print(f"{'events, of products':36} {head:>10,} {rows:>10,}")
    print(f"{'replay: events/s, seconds':36} {head / filled:>10,.0f} {filled:>10.1f}")
    print(f"{'CPU us an event: all, this process':36} {spent / head * 1e6:>10.1f} {own / head * 1e6:>10.1f}")
    print(f"{'the same with indexes':36} {head / indexed:>10,.0f} {indexed:>10.1f}")
    print(f"{'rows/s beside COPY without indexes':36} {rows / filled:>10,.0f} x{rows / filled / copied:>9.2f}")


async def _until(task: asyncio.Task[None], read_models: Sequence[ReadModelShard], head: int, began: float) -> float:
    told = 0
    while True:
        if task.done():
            task.result()
        positions = [(await shard.progress(_TARGET)).positions for shard in read_models]
        done = sum(min(of.get(event_shard, 0) for of in positions) for event_shard in range(SHARDS))
        seconds = time.perf_counter() - began
        if done >= head:
            return seconds
        if done // 200_000 > told:
            told = done // 200_000
            print(f"  {done:,} events, {done / seconds:,.0f} a second", flush=True)
        await asyncio.sleep(0.1)


async def _until_ready(task: asyncio.Task[None], read_models: Sequence[ReadModelShard], began: float) -> float:
    while True:
        if task.done():
            task.result()
        found = [
            one.ready
            for shard in read_models
            for pointer in await shard.pointers()
            for one in pointer.generations
            if one.target == _TARGET
        ]
        if all(found):
            return time.perf_counter() - began
        await asyncio.sleep(0.1)


async def _copied(postgres: EmbeddedPostgres, names: Sequence[str]) -> float:
    """Rows a second that COPY writes into tables without indexes, both shards at once."""

    async def one(name: str) -> tuple[bytes, Any]:
        connection: Any = await asyncpg.connect(postgres.dsn(name))
        rows = BytesIO()
        await connection.copy_from_query(f"SELECT * FROM {_TARGET.schema}.products", output=rows)
        await connection.execute("CREATE TABLE public.reference (LIKE public.products)")
        return rows.getvalue(), connection

    made = [await one(name) for name in names]
    began = time.perf_counter()
    await asyncio.gather(*(connection.copy_to_table("reference", source=BytesIO(rows)) for rows, connection in made))
    took = time.perf_counter() - began
    for _, connection in made:
        await connection.close()
    return PRODUCTS / took


async def measure(state: Path) -> None:
    """Start what is needed, write the log, replay it."""
    postgres = EmbeddedPostgres(state / "postgres")
    authority = LocalAuthority(state / "authority")
    tokens = TransactionTokens()
    async with AsyncExitStack() as stack:
        stack.callback(postgres.remove)
        postgres.start()
        auth_port = await stack.enter_async_context(auth(authority.ensure("auth"), tokens.jwks))
        store = await started(
            stack, "events", postgres=postgres, authority=authority, tokens=tokens, auth_port=auth_port
        )
        began = time.perf_counter()
        await fill(store)
        print(
            f"log: {EVENTS:,} events of {PRODUCTS:,} products, written in {time.perf_counter() - began:.0f} s",
            flush=True,
        )
        for shard in range(SHARDS):
            postgres.execute("VACUUM ANALYZE", database=f"events_{shard}")
        source = FileIdentitySource(authority.ensure("catalog-query"), "almagest.internal", service="catalog-query")
        channel = Channel(store.target, service="event-store", identity=source)
        stack.push_async_callback(channel.close)
        log = EventStore(channel)
        head = sum((await log.shard_map()).heads.values())
        await replay(stack, postgres, log, head, store.pid)


def main() -> None:
    """Run the benchmark on servers of its own."""
    configure_logging("benchmark", "ERROR")
    with tempfile.TemporaryDirectory(prefix="almagest-bench-") as state:
        uvloop.run(measure(Path(state)))


if __name__ == "__main__":
    sys.exit(main())
