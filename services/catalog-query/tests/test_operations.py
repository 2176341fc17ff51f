"""What operators do with projections, over the real event store: parked events, rebuilds."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import past_pb2, query_pb2
from catalog_query.domain import folding
from catalog_query.domain import product as products
from chassis.errors import RemoteProblem

from .operated import BURNT, Operated, parked, reason, rebuilt


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
        await eventually(lambda name=projection: parks(operated, name, 1))

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


async def parks(operated: Operated, projection: str, count: int) -> bool:
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

    generation = await rebuilt(operated, eventually)
    found = await operated.ask("ListDifferences", projection="products", generation=generation)
    assert (found.comparison.missing, found.comparison.extra, found.comparison.different) == (0, 0, 0)
    assert not (await operated.ask("ListParkedEvents", projection="products")).parked


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
        generation = await rebuilt(operated, eventually)
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
    generation = await rebuilt(operated, eventually)
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
