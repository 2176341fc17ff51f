"""The change feed as its subscribers see it: over mTLS, with a real event store behind it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import orjson
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import changes_pb2, changes_pb2_grpc
from almagest.eventstore.v1 import event_pb2
from catalog_query.application import cursors
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.rpc.channel import Channel
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty

START = Empty()


class Subscriber:
    """Subscribes on behalf of somebody."""

    def __init__(self, port: int, identity: Callable[[str], Any], tokens: Any) -> None:
        source = FileIdentitySource(identity("gateway"), "almagest.internal", service="gateway")
        self.channel = Channel(f"127.0.0.1:{port}", service="catalog-query", identity=source, default_timeout=10)
        self._stub = changes_pb2_grpc.CatalogChangesServiceStub(self.channel)
        # Anew for each call: they last a minute, and a module may take longer.
        self._tokens = tokens

    def subscribe(self, *, token: str | None = None, **request: Any) -> Any:
        asked = changes_pb2.SubscribeChangesRequest(heartbeat=Duration(nanos=200_000_000), **request)
        return self._stub.SubscribeChanges(asked, metadata=(("txn-token", token or self._tokens(roles=("viewer",))),))

    async def recorded(self, **request: Any) -> list[changes_pb2.CatalogChange]:
        """All that there is."""
        return [change async for message in self.subscribe(only_recorded=True, **request) for change in message.changes]

    async def until(self, product_id: str, revision: int, **request: Any) -> list[changes_pb2.CatalogChange]:
        """All changes up to one that is still to come, perhaps."""
        told: list[changes_pb2.CatalogChange] = []
        async with asyncio.timeout(20):
            async for message in self.subscribe(**request):
                for change in message.changes:
                    told.append(change)
                    if (change.product_id, change.revision) == (product_id, revision):
                        return told
        raise AssertionError("the feed ended")


@pytest.fixture(scope="module")
async def subscriber(system, identity, transaction_tokens) -> AsyncIterator[Subscriber]:
    one = Subscriber(system.replica.port, identity, transaction_tokens)
    yield one
    await one.channel.close()


@asynccontextmanager
async def a_system(databases, starter, identity, transaction_tokens, **settings: Any) -> AsyncIterator[Any]:
    """A log of its own, a writer to it, and a subscriber to a catalog-query with the settings."""
    logs = await databases(2, role="event_store", package="event_store.migrations")
    read = await databases(2)
    for_log = settings.pop("event_store", {})
    async with (
        starter.event_store(logs.service, **for_log) as event_store,
        starter.catalog_query(read, event_store.port, **settings) as replica,
        starter.writer(event_store) as write,
    ):
        one = Subscriber(replica.port, identity, transaction_tokens)
        yield write, one, logs, event_store
        await one.channel.close()


def moments(changes: list[changes_pb2.CatalogChange]) -> list[tuple[str, int]]:
    return [(change.product_id, change.revision) for change in changes]


def of(changes: list[changes_pb2.CatalogChange], *skus: str) -> list[changes_pb2.CatalogChange]:
    return [change for change in changes if change.sku in skus]


async def test_each_change_says_what_who_when_and_where_to_read_the_result(subscriber, system, build):
    """Every fact of the event is there, what it changed by field before and after, and a token for a fresh read."""
    sku = build.fresh()
    await system.append(sku, build.created(sku, build.car(category="vehicles/wagon")), build.price("100.00"))
    written = await system.append(
        sku, build.price("90.00"), traceparent=build.sampled, reason="Black Friday", job_id="j", import_line=7
    )
    created, first, second = of(await subscriber.recorded(start=START), sku)
    assert [created.type, first.type, second.type] == ["ProductCreated", "PriceSet", "PriceSet"]
    assert (second.product_id, second.revision) == (build.id_of(sku), 2)
    assert (second.kind, second.category) == ("car", "vehicles/wagon")
    assert second.actor == "b7b0a5ac-3a0c-4d5e-9a53-0f6b6c1de111", "the subject of the token that it was written with"
    assert (second.reason, second.job_id, second.import_line) == ("Black Friday", "j", 7)
    assert second.trace_id == build.sampled.split("-")[1]
    assert second.recorded_at.seconds > 0
    assert [(one.field, one.before, one.after) for one in second.fields] == [("price.amount", '"100.00"', '"90.00"')]
    assert ("name", "null", '"Volvo V60"') in [(one.field, one.before, one.after) for one in created.fields]
    assert event_pb2.ConsistencyToken.FromString(build.decoded(second.consistency_token)) == written
    assert not second.unreadable


async def test_the_feed_begins_now_unless_it_is_told_otherwise(subscriber, system, build):
    """What was before is not told; what comes next is."""
    old, new = build.fresh(), build.fresh()
    await system.append(old, build.created(old))
    stream = subscriber.subscribe()
    assert not (await stream.read()).changes
    await system.append(new, build.created(new))
    while not (message := await stream.read()).changes:
        pass
    assert [change.sku for change in message.changes] == [new]
    stream.cancel()


async def test_from_every_cursor_on_the_rest_comes_exactly_once(subscriber, system, build):
    """Whichever change was the last one seen: nothing is missed and nothing is told twice."""
    skus = [build.fresh() for _ in range(6)]
    for sku in skus:
        await system.append(sku, build.created(sku), *[build.price(f"{n}.00") for n in range(1, 4)])
    everything = await subscriber.recorded(start=START)
    assert len(set(moments(everything))) == len(everything)
    for index in range(len(everything) - 25, len(everything)):
        rest = await subscriber.recorded(cursor=everything[index].cursor)
        assert sorted(moments(everything[: index + 1]) + moments(rest)) == sorted(moments(everything))
    for sku in skus:
        assert [change.revision for change in of(everything, sku)] == [0, 1, 2, 3]


async def test_filters_know_the_product_as_of_each_revision(databases, starter, identity, transaction_tokens, build):
    """Kind, category with what is below it, and type; also for old events, of which only the first says the kind."""
    async with a_system(databases, starter, identity, transaction_tokens) as (write, one, _, _):
        await write("car", build.created("car", build.car(category="vehicles/suv")), build.price("1.00"))
        await write("truck", build.created("truck", build.truck(category="vehicles/pickup")), build.price("2.00"))
        await write("wiper", build.created("wiper", build.general(category="parts/wipers")), build.price("3.00"))
        moved = build.car(category="used/suv")
        await write("car", events.ProductDescribed(description=moved), build.price("4.00"))

        async def told(**request: Any) -> list[tuple[str, int]]:
            return sorted((change.sku, change.revision) for change in await one.recorded(start=START, **request))

        assert await told(kinds=["truck", "general"]) == [("truck", 0), ("truck", 1), ("wiper", 0), ("wiper", 1)]
        assert await told(types=["PriceSet"]) == [("car", 1), ("car", 3), ("truck", 1), ("wiper", 1)]
        # The product that leaves the category is told once more, and then no longer.
        assert await told(categories=["vehicles/suv"]) == [("car", 0), ("car", 1), ("car", 2)]
        assert await told(categories=["vehicles"]) == [("car", 0), ("car", 1), ("car", 2), ("truck", 0), ("truck", 1)]
        assert await told(categories=["veh"]) == []
        assert await told(categories=["used"]) == [("car", 2), ("car", 3)]
        assert await told(kinds=["car"], types=["PriceSet"], categories=["vehicles"]) == [("car", 1)]
        # The same at the end of the log as in what was recorded before.
        for request, sku, revision in (({"kinds": ["truck"]}, "truck", 2), ({"types": ["PriceSet"]}, "car", 4)):
            waiting = asyncio.create_task(one.until(build.id_of(sku), revision, start=START, **request))
            await write("wiper", build.published())
            await write(sku, build.price("5.00"))
            assert "ProductPublished" not in {change.type for change in await waiting}


async def test_what_is_only_planned_is_told_to_those_who_may_plan(subscriber, system, build, transaction_tokens):
    """A price that is to come is no business of a viewer's; a correction of the past is everybody's."""
    sku = build.fresh()
    money = events.Money(amount="9.00", currency="EUR")
    plans = [events.PriceScheduled(schedule_id="s", price=money), events.ScheduleCancelled(schedule_id="s")]
    await system.append(sku, build.created(sku), build.price(), *plans, events.PriceCorrected(price=money))
    seen = [change.type for change in of(await subscriber.recorded(start=START), sku)]
    assert seen == ["ProductCreated", "PriceSet", "PriceCorrected"]
    editor = transaction_tokens(roles=("editor",))
    stream = subscriber.subscribe(start=START, only_recorded=True, token=editor)
    seen = [change.type async for message in stream for change in of(list(message.changes), sku)]
    assert seen == ["ProductCreated", "PriceSet", "PriceScheduled", "ScheduleCancelled", "PriceCorrected"]
    assert not [
        change async for message in subscriber.subscribe(start=START, only_recorded=True, types=["PriceScheduled"])
        for change in message.changes
    ]  # fmt: skip


async def test_without_the_scope_nothing_is_told(subscriber, transaction_tokens):
    """Refused by name, like every read."""
    with pytest.raises(RemoteProblem) as refused:
        await subscriber.subscribe(token=transaction_tokens(scopes=["jobs:read"])).read()
    assert refused.value.problem.reason == "SCOPE_MISSING"


@pytest.mark.parametrize("cursor", ["nonsense", "", "ä", "WzEsW11d", "a" * 3000])
async def test_what_is_no_cursor_is_refused(subscriber, cursor):
    """With the field that is wrong."""
    with pytest.raises(RemoteProblem) as refused:
        await subscriber.subscribe(cursor=cursor).read()
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.problem.reason == "BAD_CURSOR"
    assert [one.field for one in refused.value.problem.violations] == ["cursor"]


async def test_a_cursor_of_another_log_is_refused(
    subscriber, system, databases, starter, identity, transaction_tokens, build
):
    """Whether its positions are beyond the end of ours or not: it would lead somewhere else."""
    sku = build.fresh()
    for n in range(8):
        await system.append(f"{sku}{n}", build.created(f"{sku}{n}"))
    ours = (await subscriber.recorded(start=START))[-1].cursor
    async with a_system(databases, starter, identity, transaction_tokens) as (write, other, _, _):
        with pytest.raises(RemoteProblem) as ahead:
            await other.subscribe(cursor=ours).read()
        for n in range(200):
            await write(f"{sku}{n}", build.created(f"{sku}{n}"))
        with pytest.raises(RemoteProblem) as within:
            await other.subscribe(cursor=ours).read()
    for refused in (ahead, within):
        assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.value.problem.reason == "CURSOR_OF_ANOTHER_LOG"


@pytest.mark.parametrize("place", [[0, -5, "x"], [0, 0, "x"], [-1, 1, "x"], [99, 1, "x"], [0, 1 << 60, "x"]])
async def test_a_cursor_that_somebody_made_up_is_refused(subscriber, place):
    """A place where nobody can be is no place of this log; it is not asked for."""
    with pytest.raises(RemoteProblem) as refused:
        await subscriber.subscribe(cursor=cursors.encode([1, [place]], question=b"changes")).read()
    assert refused.value.problem.reason in ("CURSOR_OF_ANOTHER_LOG", "BAD_CURSOR")


async def test_wrong_filters_are_named_all_at_once(subscriber):
    """Every field that is wrong, in one answer."""
    with pytest.raises(RemoteProblem) as refused:
        await subscriber.subscribe(kinds=["boat"], types=["PriceGuessed"], categories=[""]).read()
    assert {one.field for one in refused.value.problem.violations} == {"kinds", "types", "categories"}


async def test_the_stream_ends_with_the_token_and_goes_on_with_the_next(subscriber, system, build, transaction_tokens):
    """Nobody is told anything on the strength of a token that has expired."""
    sku = build.fresh()
    await system.append(sku, build.created(sku))
    stream = subscriber.subscribe(token=transaction_tokens(roles=("viewer",), lifetime=2))
    cursor = ""
    with pytest.raises(RemoteProblem) as ended:
        async with asyncio.timeout(10):
            while True:
                cursor = (await stream.read()).cursor
    assert ended.value.problem.reason == "TOKEN_EXPIRED"
    await system.append(sku, build.price())
    assert moments(await subscriber.recorded(cursor=cursor)) == [(build.id_of(sku), 1)]


async def test_silence_is_broken_by_the_cursor(subscriber):
    """A heartbeat tells where the reader is, so that one who hears of nothing need not look through it all again."""
    stream = subscriber.subscribe(types=["ProductDiscontinued"])
    cursors = [(await stream.read()).cursor for _ in range(3)]
    assert all(cursors)
    stream.cancel()


async def test_a_reader_slower_than_what_is_kept_misses_nothing(
    databases, starter, identity, transaction_tokens, build
):
    """The tail keeps two changes here: a reader who has stood still reads the log, and then follows again."""
    settings = {"changes_retained": 2, "changes_cached_products": 200}
    async with a_system(databases, starter, identity, transaction_tokens, **settings) as (write, one, _, _):
        slow = one.subscribe(start=START)
        await slow.read()
        quick = one.subscribe(start=START)
        await quick.read()
        for n in range(150):
            await write(f"sku-{n}", build.created(f"sku-{n}", build.general(text="x" * 9_000)), build.price())
        for stream in (quick, slow):
            told: list[changes_pb2.CatalogChange] = []
            async with asyncio.timeout(30):
                while len(told) < 300:
                    told.extend((await stream.read()).changes)
            assert len(set(moments(told))) == 300
            assert all(
                moments(of(told, f"sku-{n}")) == [(build.id_of(f"sku-{n}"), r) for r in (0, 1)] for n in range(150)
            )
        await write("last", build.created("last"))
        for stream in (quick, slow):
            while not (message := await stream.read()).changes:
                pass
            assert [change.sku for change in message.changes] == ["last"]
            stream.cancel()


async def test_a_past_larger_than_one_answer_is_read_all_the_same(
    databases, starter, identity, transaction_tokens, build
):
    """A product with a long history, met in the middle of it, is told with what it was before."""
    limits = {"event_store": {"max_batch_events": 20}}
    async with a_system(databases, starter, identity, transaction_tokens, **limits) as (write, one, _, _):
        await write("long", build.created("long"), *[build.price(f"{n}.00") for n in range(1, 60)])
        await write("short", build.created("short"))
        cursor = (await one.recorded(start=START))[-1].cursor
        await write("long", build.price("60.00"))
        await write("short", build.price("1.00"))
        told = {change.sku: change for change in await one.recorded(cursor=cursor)}
        assert [(field.before, field.after) for field in told["long"].fields] == [('"59.00"', '"60.00"')]
        assert (told["long"].kind, told["short"].kind) == ("car", "car")


async def test_an_event_that_cannot_be_read_is_told_as_such(databases, starter, identity, transaction_tokens, build):
    """It is neither skipped, which would be a gap, nor does it hold up the others."""
    async with a_system(databases, starter, identity, transaction_tokens) as (write, one, _, _):
        # No event: a message of the same package, of which the fold knows nothing.
        await write("odd", build.created("odd"), events.Money(amount="1", currency="EUR"), build.price("2.00"))
        told = await one.recorded(start=START, kinds=["truck"])
        assert [(change.type, change.unreadable) for change in told] == [("Money", True)]
        told = await one.recorded(start=START)
        assert [(change.type, change.unreadable) for change in told] == [
            ("ProductCreated", False), ("Money", True), ("PriceSet", False),
        ]  # fmt: skip
        assert ("price.amount", "null", '"2.00"') in [(one.field, one.before, one.after) for one in told[2].fields]


async def test_the_event_store_may_go_and_come_back(databases, starter, identity, transaction_tokens, build):
    """The subscriber hears heartbeats meanwhile, and then everything, once."""
    logs = await databases(2, role="event_store", package="event_store.migrations")
    read = await databases(2)
    async with starter.event_store(logs.service) as first, starter.writer(first) as write:
        port = first.port
        await write("before", build.created("before"))
        query = starter.catalog_query(read, port)
        replica = await query.__aenter__()
        one = Subscriber(replica.port, identity, transaction_tokens)
        stream = one.subscribe(start=START)
        told: list[changes_pb2.CatalogChange] = []
        while not told:
            told.extend((await stream.read()).changes)
    for _ in range(3):
        # Heartbeats, while there is no log.
        told.extend((await stream.read()).changes)
    async with starter.event_store(logs.service, listen=f"127.0.0.1:{port}") as second, starter.writer(second) as write:
        await write("after", build.created("after"), build.price())
        async with asyncio.timeout(20):
            while len(told) < 3:
                told.extend((await stream.read()).changes)
        stream.cancel()
        await one.channel.close()
        await query.__aexit__(None, None, None)
    assert [(change.sku, change.revision) for change in told] == [("before", 0), ("after", 0), ("after", 1)]


async def test_cursors_tell_nothing_but_places(subscriber, system, build):
    """They are text without padding, as fits a header, and hold positions and marks only."""
    sku = build.fresh()
    await system.append(sku, build.created(sku))
    cursor = (await subscriber.recorded(start=START))[-1].cursor
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    epoch, places = orjson.loads(raw[8:])
    assert epoch == 1
    assert all(len(place) == 3 for place in places)
