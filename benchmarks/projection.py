"""The projection from a log into an empty read model, beside COPY of the rows that result into a table with the same
indexes.

The log is generated: products, each created, priced and published in one append, as an import writes them; then price
changes all over, which find no product in the projector's memory. It is given to the projector as the messages of a
subscription in their wire form, so decoding, folding, making documents and writing are measured; the event store and
the network are not. One shard of the log, one of the read model, one process; both work on the same Postgres with fsync
on.
"""

import asyncio
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from almagest_cli.local.postgres import EmbeddedPostgres
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.adapters.products import ProductTable
from catalog_query.domain.projection import Hold, Progress, Target
from catalog_query.projections.ports import Pace, Work
from catalog_query.projections.product import ProductApplier
from catalog_query.projections.projector import Projector
from chassis.database.migrations import upgrade
from chassis.database.pool import Database
from chassis.telemetry.logging import configure_logging
from google.protobuf.message import Message

ROUNDS = 3
PRODUCTS = 10_000
CHANGES = 20_000
MESSAGE_EVENTS = 500
_TEXT = (
    "A dependable companion for long roads and short errands, kept in the garage, serviced on time, with a full book,"
    " one owner, winter tyres on their own rims, and a tow bar that was never used. Seats are heated; the roof is not."
)
_MAKES = ("Volvo", "Ford", "Toyota", "BMW", "Kia", "Renault", "Fiat", "Honda", "Mazda", "Skoda")
_BUCKETS = ((0, 1023),)


class GeneratedLog:
    """One shard of a log, as the messages of a subscription."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.position = 0
        self._pending: list[event_pb2.RecordedEvent] = []
        self._revisions: dict[str, int] = {}

    def append(self, product_id: str, message: Message) -> None:
        """One more event."""
        self.position += 1
        revision = self._revisions[product_id] = self._revisions.get(product_id, -1) + 1
        event = event_pb2.RecordedEvent(
            position=self.position,
            stream=f"product-{product_id}",
            revision=revision,
            event_id=str(uuid.uuid4()),
            type=message.DESCRIPTOR.full_name,
            payload=message.SerializeToString(),
            metadata=event_pb2.EventMetadata(
                actor=str(uuid.uuid4()),
                workload="spiffe://almagest.internal/catalog-command",
                transaction_id=str(uuid.uuid4()),
                traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            ),
        )
        event.recorded_at.FromMicroseconds(1_790_000_000_000_000 + self.position * 137)
        self._pending.append(event)
        if len(self._pending) == MESSAGE_EVENTS:
            self.cut()

    def cut(self) -> None:
        """Put what waits into a message."""
        if self._pending:
            message = event_store_pb2.SubscribeResponse(
                events=self._pending,
                checkpoint=event_pb2.ShardPosition(position=self.position),
                head=event_pb2.ShardPosition(position=self.position),
            )
            self.messages.append(message.SerializeToString())
            self._pending = []

    async def subscribe(
        self, *, event_shard: int, after: int, buckets: Sequence[tuple[int, int]], heartbeat: float
    ) -> AsyncGenerator[event_store_pb2.SubscribeResponse, None]:
        """All messages after a position, then nothing more."""
        del event_shard, buckets, heartbeat
        for message in self.messages:
            piece = event_store_pb2.SubscribeResponse.FromString(message)
            if piece.checkpoint.position > after:
                yield piece
        await asyncio.Event().wait()


def generated() -> tuple[GeneratedLog, int]:
    """The log, and the position at which the changes begin."""
    chance = random.Random(7)  # noqa: S311 - the same log each time
    log = GeneratedLog()
    products = [str(uuid.UUID(int=chance.getrandbits(128), version=5)) for _ in range(PRODUCTS)]
    for number, product_id in enumerate(products):
        make = chance.choice(_MAKES)
        model = f"Model {chance.randrange(300)}"
        vehicle = events.VehicleAttributes(
            make=make, model=model, model_year=chance.randrange(1990, 2027), body_styles=["SUV"]
        )
        description = events.Description(
            name=f"{make} {model} {number}",
            text=_TEXT,
            category="vehicles/suv",
            car=events.CarAttributes(vehicle=vehicle, doors=5, seats=5),
        )
        log.append(
            product_id, events.ProductCreated(product_id=product_id, sku=f"SKU-{number}", description=description)
        )
        log.append(product_id, _price(chance))
        log.append(product_id, events.ProductPublished())
    log.cut()
    begin = log.position
    for _ in range(CHANGES):
        log.append(chance.choice(products), _price(chance))
    log.cut()
    return log, begin


def _price(chance: random.Random) -> events.PriceSet:
    return events.PriceSet(price=events.Money(amount=f"{chance.randrange(500, 90_000)}.00", currency="EUR"))


class Reached:
    """Tells when positions are visible."""

    def __init__(self, *positions: int) -> None:
        self.at = {position: asyncio.Event() for position in positions}

    def waited_for(self, work: Work) -> bool:
        """Nobody waits."""
        del work
        return False

    def held(self, work: Work, streams: Mapping[str, Hold]) -> None:
        """Nothing is held: nothing of what is generated is wrong."""
        del work
        if streams:
            raise SystemExit(f"{len(streams)} streams are held")

    def progress(self, work: Work, progress: Progress) -> None:
        """Nobody else projects."""

    def visible(self, work: Work, position: int) -> None:
        """A batch was committed."""
        del work
        for wanted, event in self.at.items():
            if position >= wanted:
                event.set()


async def projected(dsn: str, log: GeneratedLog, begin: int) -> Mapping[str, float]:
    """Project the log into an empty read model; events a second of each part."""
    database = await Database.open(dsn, name="benchmark", size=4)
    reached = Reached(begin, log.position)
    read_model = ReadModelShard(database)
    target = Target("products")
    projector = Projector(
        Work(target, 0, 0, _BUCKETS),
        owner="benchmark",
        log=log,
        read_model=read_model,
        applier=ProductApplier(ProductTable(read_model, target), cached=4_000, filling=False),
        watcher=reached,
        pace=Pace(),
    )
    began = time.perf_counter()
    task = asyncio.create_task(projector.run())
    try:
        await reached.at[begin].wait()
        imported = time.perf_counter()
        await reached.at[log.position].wait()
        ended = time.perf_counter()
        rows = await _rows(database)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await database.close()
    if rows != PRODUCTS:
        raise SystemExit(f"{rows} rows instead of {PRODUCTS}")
    return {
        "created, priced, published in one append": begin / (imported - began),
        "price changes all over": (log.position - begin) / (ended - imported),
        "whole log": log.position / (ended - began),
        "rows": PRODUCTS / (imported - began),
    }


async def _rows(database: Database) -> int:
    async with database.connection() as connection:
        return await connection.fetchval("SELECT count(*) FROM products_1.products WHERE revision >= 2")


async def copied(dsn: str) -> float:
    """COPY the rows that are there into a table with the same indexes; rows a second."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        rows = BytesIO()
        await connection.copy_from_query("SELECT * FROM products_1.products", output=rows)
        await connection.execute("CREATE TABLE reference (LIKE products INCLUDING ALL)")
        rows.seek(0)
        began = time.perf_counter()
        await connection.copy_to_table("reference", source=rows)
        took = time.perf_counter() - began
    finally:
        await connection.close()
    return PRODUCTS / took


async def measure(postgres: EmbeddedPostgres) -> None:
    """All rounds, each in a database of its own, and the medians."""
    log, begin = generated()
    print(
        f"log: {log.position:,} events of {PRODUCTS:,} products, {sum(map(len, log.messages)) / 1e6:.0f} MB on the wire"
    )
    seen: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        name = f"catalog_bench_{number}"
        postgres.ensure({name: ("catalog_query",)})
        await upgrade("catalog_query.migrations", [postgres.dsn(name)], "catalog_query")
        round_ = dict(await projected(postgres.dsn(name, "catalog_query"), log, begin))
        round_["COPY"] = await copied(postgres.dsn(name))
        round_["ratio"] = round_["rows"] / round_["COPY"]
        for what, value in round_.items():
            seen.setdefault(what, []).append(value)
    median = {what: statistics.median(values) for what, values in seen.items()}
    for what in ("created, priced, published in one append", "price changes all over", "whole log"):
        print(f"{what:45} {median[what]:10,.0f} events/s")
    print(f"{'rows of that import':45} {median['rows']:10,.0f} rows/s    x{median['ratio']:.2f} of COPY")
    print(f"{'COPY of the same rows, same indexes':45} {median['COPY']:10,.0f} rows/s")


def main() -> None:
    """Run the benchmark on a Postgres of its own."""
    configure_logging("benchmark", "ERROR")
    with tempfile.TemporaryDirectory(prefix="almagest-bench-") as directory:
        postgres = EmbeddedPostgres(Path(directory) / "postgres")
        postgres.start()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(measure(postgres))
        finally:
            postgres.remove()


if __name__ == "__main__":
    main()
