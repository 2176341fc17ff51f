"""What operators do with projections, over the real event store: parked events, rebuilds, drift."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import orjson
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import past_pb2, past_pb2_grpc, projections_pb2_grpc, query_pb2, query_pb2_grpc
from almagest.catalog.v1 import projections_pb2 as wire
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from catalog_query.adapters.event_store import EventStore
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.application.freshness import Freshness
from catalog_query.application.shards import Shards
from catalog_query.domain import folding
from catalog_query.domain import product as products
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
        self, projections: Any, query: Any, past: Any, store: Any, log: EventStore, tokens: Any, read: Any, build: Any
    ) -> None:
        self.past = past
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
    async def checking(self) -> AsyncIterator[Callable[[str], Any]]:
        """Compares products with the log, as the background task does."""
        async with AsyncExitStack() as stack:
            read_models: list[ReadModelShard] = []
            for number, dsn in enumerate(self.read.service):
                database = await Database.open(dsn, name=f"check_{number}", size=2)
                stack.push_async_callback(database.close)
                read_models.append(ReadModelShard(database))
            shards = Shards(len(read_models))
            drift = DriftCheck(
                log=self.log, read_models=read_models, shards=shards, freshness=Freshness(), products_a_second=0
            )
            yield lambda sku: drift.check(shards.read_shard_of(self.build.id_of(sku)), uuid.UUID(self.build.id_of(sku)))

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


async def test_what_is_held_is_told_and_never_answered_as_if_it_were_new(operated, build, eventually):
    """A plain read gets what was before and says so; a read that waits for what is held gets a problem; others go on."""
    held, other = build.fresh(), build.fresh()
    before = await operated.write(held, build.created(held), build.price("1.00"))
    token = await operated.append(build.id_of(held), (BURNT, b""))
    later = await operated.write(held, build.price("3.00"))
    assert (await operated.get(other, await operated.write(other, build.created(other)))).revision == 0

    event = await parked(operated, eventually)
    assert (event.product_id, event.revision, event.type, event.attempts) == (build.id_of(held), 2, "PriceBurnt", 1)
    assert "unknown event type" in event.error

    document = await operated.get(held)
    assert (document.revision, document.held_revision) == (1, 2)
    assert orjson.loads(document.document)["price"]["amount"] == "1.00"
    assert (await operated.get(held, before)).revision == 1
    for wanted in (token, later):
        with pytest.raises(RemoteProblem) as refused:
            await operated.get(held, wanted)
        assert reason(refused) == "PRODUCT_HELD"
        assert refused.value.problem.metadata["held_revision"] == "2"
    assert not (await operated.get(other)).HasField("held_revision")

    async def counted() -> bool:
        return (await parked(operated, eventually)).held_events == 1

    await eventually(counted)
    assert sum(one.held_streams for one in (await operated.generations()).values()) == 1


async def test_pages_name_those_of_their_products_that_stand_still(operated, build, eventually):
    """Lists and searches, of now and of a moment; what is held no more is named no more."""
    held, other = build.fresh(), build.fresh()
    for sku in (held, other):
        await operated.get(sku, await operated.write(sku, build.created(sku, build.general(f"Lamp {sku}"))))
    await operated.append(build.id_of(held), (BURNT, b""))
    for projection in ("products", "versions"):
        await eventually(lambda name=projection: _parks(operated, name, 1))

    metadata = (("txn-token", operated.tokens(roles=("viewer",))),)
    listed = query_pb2.ListProductsRequest(page_size=10)
    searched = query_pb2.SearchProductsRequest(text="lamp", page_size=10)
    now = past_pb2.Moment()
    now.time.GetCurrentTime()

    async def pages() -> list[Any]:
        return [
            await operated.query.ListProducts(listed, metadata=metadata, timeout=15),
            await operated.query.SearchProducts(searched, metadata=metadata, timeout=15),
            (
                await operated.past.ListProductsAsOf(
                    past_pb2.ListProductsAsOfRequest(page=listed, moment=now), metadata=metadata, timeout=15
                )
            ).page,
            (
                await operated.past.SearchProductsAsOf(
                    past_pb2.SearchProductsAsOfRequest(page=searched, moment=now), metadata=metadata, timeout=15
                )
            ).page,
        ]

    for page in await pages():
        assert len(page.documents) == 2
        assert [(one.product_id, one.held_revision) for one in page.held] == [(build.id_of(held), 1)]
    for projection in ("products", "versions"):
        [event] = (await operated.ask("ListParkedEvents", projection=projection)).parked
        await operated.ask("SkipParkedEvent", projection=projection, parked_id=event.parked_id, reason="a mistake")
    for page in await pages():
        assert len(page.documents) == 2
        assert not page.held


async def _parks(operated: Operated, projection: str, count: int) -> bool:
    return len((await operated.ask("ListParkedEvents", projection=projection)).parked) == count


async def test_a_product_whose_first_event_is_held_is_not_said_not_to_exist(operated, build, eventually):
    """It is in the log."""
    sku = build.fresh()
    await operated.append(build.id_of(sku), (BURNT, b""))
    await parked(operated, eventually)
    with pytest.raises(RemoteProblem) as refused:
        await operated.get(sku)
    assert reason(refused) == "PRODUCT_HELD"


async def test_a_retry_applies_all_that_was_held_once_the_code_can(operated, build, eventually, monkeypatch):
    """And nothing before: the event stays parked with one attempt more."""
    sku = build.fresh()
    await operated.write(sku, build.created(sku))
    await operated.append(build.id_of(sku), (BURNT, b""))
    await operated.write(sku, build.price("3.00"), events.ProductPublished())
    event = await parked(operated, eventually)

    again = await operated.ask("RetryParkedEvents", projection="products", parked_id=event.parked_id)
    assert (again.applied, again.still_parked, again.parked[0].attempts) == (0, 1, 2)
    assert again.parked[0].held_events == 2
    assert (await operated.get(sku)).revision == 0

    _understand(monkeypatch)
    done = await operated.ask("RetryParkedEvents", projection="products")
    assert (done.applied, done.still_parked) == (1, 0)
    document = await operated.get(sku, await operated.write(sku, build.price("4.00")))
    assert (document.revision, document.HasField("held_revision")) == (4, False)
    shown = orjson.loads(document.document)
    assert (shown["price"]["amount"], shown["status"]) == ("4.00", "published")
    with pytest.raises(RemoteProblem) as refused:
        await operated.ask("RetryParkedEvents", projection="products", parked_id=event.parked_id)
    assert reason(refused) == "PARKED_EVENT_NOT_FOUND"


def _understand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of the code that knows what a burnt price is."""
    evolve = folding.evolve

    def newer(document: Any, event: Any) -> Any:
        if event.type == BURNT:
            return {**document, "price": None, "revision": event.revision, "updated_at": products.instant(event)}
        return evolve(document, event)

    monkeypatch.setattr(folding, "evolve", newer)


async def test_a_skip_is_recorded_and_the_stream_goes_on_behind_it(operated, build, eventually):
    """The document is as if the event had said nothing, at its revision; who skipped it and why is kept, also for a rebuild."""
    sku = build.fresh()
    await operated.write(sku, build.created(sku), build.price("1.00"))
    await operated.append(build.id_of(sku), (BURNT, b""))
    await operated.write(sku, events.ProductPublished())
    event = await parked(operated, eventually)
    with pytest.raises(RemoteProblem) as refused:
        await operated.ask("SkipParkedEvent", projection="products", parked_id=event.parked_id, reason=" ")
    assert reason(refused) == "INVALID_REQUEST"

    answer = await operated.ask(
        "SkipParkedEvent", projection="products", parked_id=event.parked_id, reason="written by mistake"
    )
    assert not answer.HasField("parked")
    document = await operated.get(sku)
    assert (document.revision, document.HasField("held_revision")) == (3, False)
    shown = orjson.loads(document.document)
    assert (shown["price"]["amount"], shown["status"]) == ("1.00", "published")
    async with operated.database(sku) as connection:
        row = await connection.fetchrow("SELECT * FROM skipped_events")
    assert (row["revision"], row["event_id"], row["reason"]) == (2, event.event_id, "written by mistake")
    assert row["actor"]

    generation = await _rebuilt(operated, eventually)
    found = await operated.ask("ListDifferences", projection="products", generation=generation)
    assert (found.comparison.missing, found.comparison.extra, found.comparison.different) == (0, 0, 0)
    assert not (await operated.ask("ListParkedEvents", projection="products")).parked


async def _rebuilt(operated: Operated, eventually: Any) -> int:
    """Begin a rebuild and wait until it is ready and compared in both shards."""
    begun = await operated.ask("Rebuild", projection="products")

    async def compared() -> bool:
        generations = await operated.generations()
        return all(generations[shard, begun.generation].HasField("comparison") for shard in (0, 1))

    await eventually(compared, seconds=40)
    return begun.generation


async def test_a_rebuild_is_previewed_switched_and_rolled_back_while_reads_and_writes_go_on(
    operated, build, eventually
):
    """No read fails, and none is older than the token that it carries, at any step."""
    skus = [build.fresh() for _ in range(30)]
    for sku in skus:
        await operated.write(sku, build.created(sku, build.car(f"Name {sku}")), build.price("1.00"))
    stop = asyncio.Event()
    reads = 0

    async def use(number: int) -> None:
        nonlocal reads
        count = 0
        while not stop.is_set():
            sku = skus[(number * 7 + count) % len(skus)]
            count += 1
            token = await operated.write(sku, build.price(f"{number}.{count:02}"))
            document = await operated.get(sku, token)
            # Nobody else writes this one meanwhile: what we wrote is what we read.
            assert orjson.loads(document.document)["price"]["amount"] == f"{number}.{count:02}"
            reads += 1

    users = [asyncio.create_task(use(number)) for number in range(1)]
    try:
        generation = await _rebuilt(operated, eventually)
        page = await operated.ask("ListDifferences", projection="products", generation=generation)
        assert (page.comparison.missing, page.comparison.extra, page.comparison.different) == (0, 0, 0)
        assert page.comparison.compared == len(skus)
        for target in (generation, 1, generation, 1, generation):
            seen = reads
            await operated.ask("SwitchGeneration", projection="products", generation=target)
            states = await operated.generations()
            assert [states[shard, target].state for shard in (0, 1)] == ["serving", "serving"]

            async def went_on(seen: int = seen) -> bool:
                return reads > seen + 5 or users[0].done()

            await eventually(went_on)
        with pytest.raises(RemoteProblem) as refused:
            await operated.ask("DropGeneration", projection="products", generation=generation)
        assert reason(refused) == "GENERATION_SERVES"
        await operated.ask("DropGeneration", projection="products", generation=1)
        assert {number for _, number in await operated.generations()} == {generation}
        seen = reads
        await eventually(lambda: reads > seen + 5 or users[0].done())
    finally:
        stop.set()
        await asyncio.gather(*users)
    async with operated.database(skus[0]) as connection:
        assert await connection.fetchval("SELECT to_regclass('products_1.products')") is None
        wanted = "SELECT array_agg(indexname ORDER BY indexname) FROM pg_indexes WHERE schemaname = $1 AND tablename = 'products'"
        assert await connection.fetchval(wanted, f"products_{generation}") == await connection.fetchval(
            wanted, "public"
        )


async def test_a_changed_projection_shows_its_differences_and_is_not_switched_to_unseen(
    operated, build, eventually, monkeypatch
):
    """By field, with what it was and would be; accepted by name, or forced."""
    skus = [build.fresh() for _ in range(3)]
    for sku in skus:
        token = await operated.write(sku, build.created(sku, build.car("quiet")))
        await operated.get(sku, token)
    evolve = folding.evolve

    def shouting(document: Any, event: Any) -> Any:
        made = evolve(document, event)
        return {**made, "name": made["name"].upper()}

    monkeypatch.setattr(folding, "evolve", shouting)
    generation = await _rebuilt(operated, eventually)
    first = await operated.ask("ListDifferences", projection="products", generation=generation, page_size=2)
    assert (first.comparison.different, first.comparison.fields) == (3, {"document.name": 3})
    assert len(first.differences) == 2
    assert first.next_page_token
    rest = await operated.ask(
        "ListDifferences", projection="products", generation=generation, page_token=first.next_page_token
    )
    found = [*first.differences, *rest.differences]
    assert sorted(one.key for one in found) == sorted(build.id_of(sku) for sku in skus)
    assert {(one.kind, one.field, one.before, one.after, one.revision) for one in found} == {
        ("field", "document.name", '"quiet"', '"QUIET"', 0)
    }
    switch: Callable[..., Any] = lambda **more: operated.ask(  # noqa: E731 - said four times
        "SwitchGeneration", projection="products", generation=generation, **more
    )
    for fields in ({}, {"accepted_fields": ["document.text"]}):
        with pytest.raises(RemoteProblem) as refused:
            await switch(**fields)
        assert reason(refused) == "GENERATIONS_DIFFER"
    assert json.loads((await operated.get(skus[0])).document)["name"] == "quiet"
    assert (await switch(accepted_fields=["document.name"])).previous == 1
    await eventually(lambda: _named(operated, skus[0], "QUIET"))
    assert (await switch(force=True)).previous == generation


async def _named(operated: Operated, sku: str, name: str) -> bool:
    return json.loads((await operated.get(sku)).document)["name"] == name


async def test_drift_is_found_and_one_product_repaired(operated, build, eventually):
    """A changed document, a changed column, a missing and an extra row: each is found, and is right after the repair."""
    kinds = {"document": build.fresh(), "column": build.fresh(), "missing": build.fresh(), "extra": build.fresh()}
    for kind, sku in kinds.items():
        if kind != "extra":
            await operated.get(sku, await operated.write(sku, build.created(sku), build.price("1.00")))
    right = {kind: (await operated.get(sku)).document for kind, sku in kinds.items() if kind != "extra"}
    corrupt = {
        "document": "UPDATE products_1.products SET document = document || ' ' WHERE product_id = $1",
        "column": "UPDATE products_1.products SET price_amount = 7 WHERE product_id = $1",
        "missing": "DELETE FROM products_1.products WHERE product_id = $1",
        "extra": "INSERT INTO products_1.products (product_id, kind, revision, sku, name_key, category, status,"
        " updated_at, document, search) VALUES ($1, 'general', 4, 's', 'n', 'c', 'draft', now(), '{}', '')",
    }
    for kind, sku in kinds.items():
        async with operated.database(sku) as connection:
            await connection.execute(corrupt[kind], uuid.UUID(build.id_of(sku)))
    async with operated.checking() as check:
        for kind, sku in kinds.items():
            finding = await check(sku)
            assert finding is not None, kind
            assert finding.kind == {"document": "different", "column": "different"}.get(kind, kind)
    drift = {one.product_id: one for one in (await operated.ask("ListDrift", projection="products")).drift}
    assert set(drift) == {build.id_of(sku) for sku in kinds.values()}
    assert list(drift[build.id_of(kinds["document"])].fields) == ["document"]
    assert list(drift[build.id_of(kinds["column"])].fields) == ["price_amount"]
    for kind, sku in kinds.items():
        repaired = await operated.ask("RepairProduct", product_id=build.id_of(sku))
        assert repaired.changed == 1
        assert repaired.HasField("revision") is (kind != "extra")
    assert not (await operated.ask("ListDrift", projection="products")).drift
    for kind, document in right.items():
        assert (await operated.get(kinds[kind])).document == document
        # The projector goes on upon what is there now, not upon what it remembers.
        token = await operated.write(kinds[kind], build.price("2.00"))
        assert json.loads((await operated.get(kinds[kind], token)).document)["revision"] == 2
    with pytest.raises(RemoteProblem) as refused:
        await operated.get(kinds["extra"])
    assert reason(refused) == "PRODUCT_NOT_FOUND"
    assert (await operated.ask("RepairProduct", product_id=build.id_of(kinds["column"]))).changed == 0


async def test_only_admins_may_look_after_projections(operated):
    """Whoever may only read or edit the catalog may not even look."""
    for method in ("ListProjections", "RetryParkedEvents", "Rebuild", "SwitchGeneration", "RepairProduct"):
        with pytest.raises(RemoteProblem) as refused:
            await operated.ask(method, role="editor")
        assert reason(refused) == "SCOPE_MISSING", method
    for method, wanted in (
        ("ListParkedEvents", "PROJECTION_NOT_FOUND"),
        ("Rebuild", "PROJECTION_NOT_FOUND"),
    ):
        with pytest.raises(RemoteProblem) as refused:
            await operated.ask(method, projection="sales")
        assert reason(refused) == wanted
    with pytest.raises(RemoteProblem) as refused:
        await operated.ask("DropGeneration", projection="products", generation=9)
    assert reason(refused) == "GENERATION_NOT_FOUND"
