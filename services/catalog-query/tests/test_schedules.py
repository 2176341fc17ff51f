"""What is planned, as a list: over a real event store and real Postgres, for people and for the worker."""

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import orjson
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import query_pb2, schedules_pb2, schedules_pb2_grpc
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from almagest.rpc.v1 import problem_pb2
from catalog_query.domain import product
from catalog_query.domain.schedules import Ended, Planned, plan
from chassis.errors import RemoteProblem
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp


def ahead(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return stamp


def price(at: Timestamp, amount: str = "1.00") -> events.PriceScheduled:
    money = events.Money(amount=amount, currency="EUR")
    return events.PriceScheduled(schedule_id=str(uuid.uuid4()), price=money, effective_at=at)


def publication(at: Timestamp, *, published: bool = True) -> events.PublicationScheduled:
    return events.PublicationScheduled(schedule_id=str(uuid.uuid4()), published=published, effective_at=at)


class Lists:
    """The list of schedules, as the gateway and as the worker see it."""

    def __init__(self, system: Any, people: Any, worker: Any, build: Any) -> None:
        self._system = system
        self._people = people
        self._worker = worker
        self._build = build

    async def page(
        self, sku: str = "", *, role: str = "editor", token: event_pb2.ConsistencyToken | None = None, **request: Any
    ) -> schedules_pb2.ListSchedulesResponse:
        return await self._people.ListSchedules(
            schedules_pb2.ListSchedulesRequest(
                product_id=self._build.id_of(sku) if sku else "",
                consistency_tokens=[] if token is None else [self._build.opaque(token)],
                **request,
            ),
            metadata=(("txn-token", self._system.tokens(roles=(role,))),),
        )

    async def due(self) -> schedules_pb2.ListDueSchedulesResponse:
        return await self._worker.ListDueSchedules(schedules_pb2.ListDueSchedulesRequest(limit=256))

    async def refuse(self, schedule_id: str, sku: str, reason: str) -> None:
        problem = problem_pb2.Problem(code=5, reason=reason, message="There is nobody.")
        one = schedules_pb2.RefusedSchedule(schedule_id=schedule_id, product_id=self._build.id_of(sku), problem=problem)
        await self._worker.ReportRefusals(schedules_pb2.ReportRefusalsRequest(refusals=[one]))


@pytest.fixture
async def lists(system, build):
    async with system.replica.channel("gateway") as gateway, system.replica.channel("worker") as worker:
        people = schedules_pb2_grpc.CatalogScheduleServiceStub(gateway)
        yield Lists(system, people, schedules_pb2_grpc.CatalogScheduleServiceStub(worker), build)


async def test_what_is_planned_is_listed_by_time_and_how_it_ended(system, lists, build):
    """A write's token makes it visible; open ones only, unless asked otherwise; the document tells nothing of it."""
    sku = build.fresh()
    later, sooner, other = price(ahead(7200)), publication(ahead(3600)), price(ahead(1800), "2.00")
    token = await system.append(sku, build.created(sku), build.price(), later, sooner, other, reason="a sale")
    page = await lists.page(sku, token=token)
    assert [one.schedule_id for one in page.schedules] == [other.schedule_id, sooner.schedule_id, later.schedule_id]
    first = page.schedules[0]
    assert (first.price.amount, first.state, first.reason) == ("2.00", schedules_pb2.SCHEDULE_STATE_OPEN, "a sale")
    assert first.scheduled_by == "b7b0a5ac-3a0c-4d5e-9a53-0f6b6c1de111"
    assert first.effective_at == other.effective_at
    assert page.schedules[1].published is True
    document = orjson.loads((await system.get(sku, token)).document)
    assert document["price"]["amount"] == "12999.00"
    assert "2.00" not in str(document)

    token = await system.append(
        sku,
        events.PriceSet(price=later.price, schedule_id=later.schedule_id, effective_at=later.effective_at),
        events.ScheduleCancelled(schedule_id=other.schedule_id),
        events.ScheduleFailed(schedule_id=sooner.schedule_id, reason="PRICE_MISSING"),
    )
    assert not (await lists.page(sku, token=token)).schedules
    ended = await lists.page(sku, states=[2, 3, 4])
    assert [(one.schedule_id, one.state, one.failure) for one in ended.schedules] == [
        (other.schedule_id, schedules_pb2.SCHEDULE_STATE_CANCELLED, ""),
        (sooner.schedule_id, schedules_pb2.SCHEDULE_STATE_FAILED, "PRICE_MISSING"),
        (later.schedule_id, schedules_pb2.SCHEDULE_STATE_ACTIVATED, ""),
    ]
    assert all(one.HasField("ended_at") for one in ended.schedules)


async def test_pages_of_all_products_follow_each_other_by_time(system, lists, build):
    """Over both shards, each schedule once, and only those before the time asked for."""
    base = 50_000_000
    planned: list[str] = []
    for number in range(7):
        sku = build.fresh()
        one = price(ahead(base + number))
        planned.append(one.schedule_id)
        token = await system.append(sku, build.created(sku), one)
        await lists.page(sku, token=token)
    beyond = ahead(base + 1000)
    seen: list[str] = []
    cursor = ""
    while True:
        page = await lists.page(page_size=3, page_token=cursor, due_before=beyond)
        seen += [one.schedule_id for one in page.schedules]
        cursor = page.next_page_token
        if not cursor:
            break
    assert [one for one in seen if one in planned] == planned
    assert len(set(seen)) == len(seen)
    with pytest.raises(RemoteProblem, match="first page"):
        await lists.page(page_size=3, page_token=(await lists.page(page_size=1)).next_page_token, states=[2])


async def test_who_may_not_plan_does_not_see_plans(lists):
    """A viewer is refused; and people do not carry out, nor does the worker list for people."""
    with pytest.raises(RemoteProblem) as refused:
        await lists.page(role="viewer")
    assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(RemoteProblem):
        await lists._people.ListDueSchedules(schedules_pb2.ListDueSchedulesRequest(limit=1))
    with pytest.raises(RemoteProblem):
        await lists._worker.ListSchedules(schedules_pb2.ListSchedulesRequest())


async def test_the_worker_hears_what_is_due_and_when_to_ask_again(system, lists, build):
    """What is due comes until it has ended; what was refused is kept back for a while, and says why."""
    sku = build.fresh()
    due, coming = price(ahead(-5)), price(ahead(40))
    token = await system.append(sku, build.created(sku), due, coming)
    await lists.page(sku, token=token)
    answer = await lists.due()
    assert due.schedule_id in {one.schedule_id for one in answer.schedules}
    assert coming.schedule_id not in {one.schedule_id for one in answer.schedules}
    assert answer.next_at.seconds <= coming.effective_at.seconds

    await lists.refuse(due.schedule_id, sku, "USER_NOT_FOUND")
    await lists.refuse(due.schedule_id, sku, "USER_NOT_FOUND")
    answer = await lists.due()
    assert due.schedule_id not in {one.schedule_id for one in answer.schedules}
    assert answer.refused >= 1
    assert answer.next_at.seconds - time.time() <= 6
    kept = (await lists.page(sku)).schedules[0].refusal
    # Two workers that met the same at the same time made one try.
    assert (kept.problem.reason, kept.problem.message, kept.attempts) == ("USER_NOT_FOUND", "There is nobody.", 1)

    token = await system.append(sku, events.ScheduleCancelled(schedule_id=due.schedule_id))
    (ended,) = (await lists.page(sku, token=token, states=[schedules_pb2.SCHEDULE_STATE_CANCELLED])).schedules
    assert not ended.HasField("refusal")


async def test_old_stored_bytes_are_read_as_what_is_written_today(system, build):
    """A price that the version before schedules wrote goes from the store through the read model to the history."""
    sku = build.fresh()
    append = event_store_pb2.Append(
        append_id=str(uuid.uuid4()),
        stream=f"product-{build.id_of(sku)}",
        transaction_token=system.tokens(roles=("editor",)),
        any=Empty(),
    )
    for name, stored in (
        ("ProductCreated", build.created(sku).SerializeToString().hex()),
        ("PriceSet", "0a0f0a0831323939392e30301203455552"),
        ("ProductPublished", ""),
    ):
        append.events.add(
            event_id=str(uuid.uuid4()), type=f"almagest.catalog.events.v1.{name}", payload=bytes.fromhex(stored)
        )
    answer = await system.store.Append(event_store_pb2.AppendRequest(appends=[append]))
    document = orjson.loads((await system.get(sku, answer.results[0].appended.position)).document)
    assert (document["price"], document["status"]) == ({"amount": "12999.00", "currency": "EUR"}, "published")
    history = await system.query.GetProductHistory(
        query_pb2.GetProductHistoryRequest(product_id=build.id_of(sku)), metadata=system.person
    )
    assert [change.type for change in history.changes] == ["ProductPublished", "PriceSet", "ProductCreated"]
    read = await system.store.BatchReadStreams(
        event_store_pb2.BatchReadStreamsRequest(streams=[event_store_pb2.StreamSlice(stream=append.stream)])
    )
    stored = read.streams[0].events[1]
    assert stored.payload.hex() == "0a0f0a0831323939392e30301203455552"
    assert product.decoded(stored).effective_at == stored.recorded_at


def test_only_plans_and_their_ends_make_rows(build):
    """An ordinary price says nothing about schedules; what carries one out ends it."""

    def said(message: Any) -> Planned | Ended | None:
        return plan(
            event_pb2.RecordedEvent(
                stream="product-1",
                type=message.DESCRIPTOR.full_name,
                payload=message.SerializeToString(),
                recorded_at=Timestamp(seconds=1_790_000_000),
            )
        )

    assert said(build.price()) is None
    assert said(build.published()) is None
    assert said(build.created("x")) is None
    assert isinstance(said(price(ahead(1))), Planned)
    assert isinstance(said(publication(ahead(1), published=False)), Planned)
    for name in ("PriceSet", "ProductPublished", "ProductUnpublished"):
        ended = said(getattr(events, name)(schedule_id="s"))
        assert isinstance(ended, Ended)
        assert (ended.schedule_id, ended.state) == ("s", "activated")
