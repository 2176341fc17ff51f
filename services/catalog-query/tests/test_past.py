"""One product's past from the log, pages that wait for what they need, and histories between two times."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2
from catalog_query.application.freshness import Freshness, Wanted
from catalog_query.application.history import HistoryReader
from catalog_query.application.holds import Holds
from catalog_query.application.past import Calendar, Moment, PastReader, Position, Resolved
from catalog_query.application.past_pages import PastPages
from catalog_query.application.shards import LogMap, Shards
from catalog_query.domain import product, timeline
from catalog_query.domain.errors import (
    FieldNotFound,
    FutureNotAllowed,
    MomentNotReached,
    NotYetVisible,
    ProductNotFound,
    ProductNotThere,
    RevisionNotFound,
)
from catalog_query.domain.query import Filter, Found, Query, Sort

EVERYTHING = Query(Filter(), Sort.NAME, descending=False, size=10)


class Log:
    """The log fake, with the times in it."""

    def __init__(self, fake: Any) -> None:
        self._fake = fake
        self.backwards = fake.backwards

    async def shard_map(self) -> LogMap:
        return await self._fake.shard_map()

    async def recorded_at(self, *, shard: int, position: int) -> datetime:
        return timeline.recorded(self._fake.shards[shard][position - 1])


@pytest.fixture
def past(log) -> PastReader:
    source = Log(log)
    return PastReader(source, Calendar(source, clock=lambda: datetime.now(UTC)))


@pytest.fixture
def kettle(log, build) -> list[event_pb2.RecordedEvent]:
    """A product with six events, among those of others."""
    for step in range(6):
        message = build.created("kettle") if step == 0 else build.price(f"{step}.00")
        log.append(build.id_of("kettle"), message)
        for other in range(4):
            log.append(build.id_of(f"other{other}"), build.price() if step else build.created(f"other{other}"))
    return log.history(build.id_of("kettle"))


async def test_a_position_is_the_fold_of_what_the_log_held_then(past, log, build, kettle):
    """At every position of the product's shard, also between its own events."""
    product_id = build.id_of("kettle")
    shard = kettle[0].shard
    for position in range(1, len(log.shards[shard]) + 1):
        prefix = [event for event in kettle if event.position <= position]
        document = None
        for event in prefix:
            document = product.evolve(document, event)
        asked = Moment(position=Position(shard, position))
        if document is None:
            with pytest.raises(ProductNotThere, match="came into being"):
                await past.state(product_id, asked, preview=False)
            continue
        state = await past.state(product_id, asked, preview=False)
        assert state.document == document
        assert state.moment.settled
        assert state.seen == kettle[-1]


async def test_a_position_of_a_shard_that_a_product_has_left_is_as_good(past, log, build, kettle):
    """Its events were copied to another shard; both shards' positions name its states."""
    product_id = build.id_of("kettle")
    old = kettle[0].shard
    new = 1 - old
    for event in kettle:
        copy = event_pb2.RecordedEvent()
        copy.CopyFrom(event)
        copy.shard, copy.position = new, len(log.shards[new]) + 1
        copy.original.shard, copy.original.position = old, event.position
        log.shards[new].append(copy)
        log.shards[old][event.position - 1].stream = "elsewhere"
    moved = log.history(product_id)
    before = await past.state(product_id, Moment(position=Position(old, kettle[2].position)), preview=False)
    after = await past.state(product_id, Moment(position=Position(new, moved[2].position)), preview=False)
    assert before.document == after.document
    assert before.document["revision"] == 2


@pytest.mark.parametrize("asked", [Position(0, 10_000), Position(7, 1)])
async def test_a_position_that_is_not_written_is_refused(past, build, kettle, asked):
    """And it says how far the log is."""
    with pytest.raises(MomentNotReached):
        await past.state(build.id_of("kettle"), Moment(position=asked), preview=True)


async def test_a_position_of_another_shard_names_the_right_one(past, build, kettle):
    """A position says nothing about a product that is in no bucket of its shard."""
    other = 1 - kettle[0].shard
    with pytest.raises(MomentNotReached, match=f"is in shard {kettle[0].shard}"):
        await past.state(build.id_of("kettle"), Moment(position=Position(other, 1)), preview=False)


async def test_the_future_is_for_those_who_may_see_it_and_knowledge_is_of_the_past(past, build, kettle):
    """A preview needs the permission; what will be known is known to nobody."""
    ahead = datetime.now(UTC) + timedelta(days=1)
    product_id = build.id_of("kettle")
    with pytest.raises(FutureNotAllowed):
        await past.state(product_id, Moment(time=ahead), preview=False)
    with pytest.raises(FutureNotAllowed):
        await past.difference(product_id, before=0, after=Moment(time=ahead), preview=False)
    assert (await past.state(product_id, Moment(time=ahead), preview=True)).document["revision"] == 5
    with pytest.raises(MomentNotReached, match="nobody knows"):
        await past.state(product_id, Moment(time=ahead, known_at=ahead), preview=True)


async def test_errors_name_what_there_is(past, build, kettle):
    """The last revision, the fields, or that there is no such product."""
    product_id = build.id_of("kettle")
    with pytest.raises(RevisionNotFound, match="the last one is 5"):
        await past.difference(product_id, before=0, after=6, preview=False)
    with pytest.raises(FieldNotFound, match=r"price\.amount"):
        await past.explanation(product_id, "prize", Moment(), preview=False)
    with pytest.raises(ProductNotFound):
        await past.state(build.id_of("nothing"), Moment(), preview=False)


async def test_an_explanation_names_the_last_event_that_changed_the_value(past, log, build, kettle):
    """Not one that only said it again, and for a group of fields the last of any; null when there never was one."""
    product_id = build.id_of("kettle")
    log.append(product_id, events.ProductDescribed(description=build.car()), build.price("5.00", "EUR"))
    assert (await past.explanation(product_id, "price.amount", Moment(), preview=False)).set_by.event == kettle[5]
    assert (await past.explanation(product_id, "price.currency", Moment(), preview=False)).set_by.event == kettle[1]
    told = await past.explanation(product_id, "price", Moment(), preview=False)
    assert (told.value, told.before) == ({"amount": "5.00", "currency": "EUR"}, {"amount": "4.00", "currency": "EUR"})
    assert (await past.explanation(product_id, "attributes.doors", Moment(), preview=False)).set_by.event == kettle[0]
    never = await past.explanation(product_id, "attributes.vin", Moment(), preview=False)
    assert (never.value, never.set_by) == (None, None)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
async def test_a_history_between_two_times_is_that_part_of_it(log, build, kettle, size):
    """In pages of any size, each change with the fields that it has in the whole history."""
    reader = HistoryReader(log, page_bytes=1 << 20)
    product_id = build.id_of("kettle")
    whole, _ = await reader.page(product_id, from_revision=None, size=100)
    for first in range(6):
        for last in range(first, 6):
            bounds = {"recorded_from": timeline.recorded(kettle[first]), "recorded_to": timeline.recorded(kettle[last])}
            found: list[Any] = []
            revision: int | None = None
            while True:
                page, revision = await reader.page(product_id, from_revision=revision, size=size, **bounds)
                assert page
                found.extend(page)
                if revision is None:
                    break
            assert found == [one for one in whole if first <= one.event.revision <= last]
    ahead = datetime.now(UTC) + timedelta(days=1)
    assert await reader.page(product_id, from_revision=None, size=size, recorded_from=ahead) == ([], None)


class Nothing:
    """A shard without products, which says at which moment it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[datetime, datetime]] = []

    async def page(self, query: Query, *, as_of: datetime, known_at: datetime) -> Sequence[Found]:
        del query
        self.asked.append((as_of, known_at))
        return ()


async def test_a_page_waits_for_what_was_recorded_until_then_and_for_nothing_else(log, kettle):
    """What is not in the table yet matters only when it was recorded by the moment of knowledge."""
    source = Log(log)
    freshness, shards, versions = Freshness(), Shards(1), Nothing()
    shards.suppose(2)
    pages = PastPages(
        log=source,
        shards=shards,
        freshness=freshness,
        holds=Holds(shards, freshness),
        versions=[versions],
        page_bytes=1000,
    )
    shard, behind = kettle[2].shard, kettle[2].position
    freshness.advance(event_shard=1 - shard, read_shard=0, position=len(log.shards[1 - shard]))
    freshness.advance(event_shard=shard, read_shard=0, position=behind)
    missing = timeline.recorded(log.shards[shard][behind])

    before = Resolved(missing, missing - timedelta(microseconds=1), settled=True)
    assert await pages.page(EVERYTHING, before, wanted=(), timeout=0.01) == ([], None)
    assert versions.asked == [(before.as_of, before.known_at)]

    with pytest.raises(NotYetVisible) as refused:
        await pages.page(EVERYTHING, Resolved(missing, missing, settled=True), wanted=(), timeout=0.01)
    assert (refused.value.shard, refused.value.position) == (shard, behind)
    assert len(versions.asked) == 1

    freshness.advance(event_shard=shard, read_shard=0, position=len(log.shards[shard]))
    token = Wanted(event_shard=shard, read_shard=0, position=behind)
    assert await pages.page(EVERYTHING, Resolved(missing, missing, settled=True), wanted=[token], timeout=0.01)
    assert len(versions.asked) == 2
