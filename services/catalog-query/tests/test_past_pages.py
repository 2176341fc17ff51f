"""Pages of the past by cursor, over the real event store: every page is of the moment of the first one."""

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import orjson
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import past_pb2, past_pb2_grpc, query_pb2
from almagest.eventstore.v1 import event_pb2
from chassis.errors import RemoteProblem


class Pages:
    """Lists and searches at a moment."""

    def __init__(self, stub: past_pb2_grpc.CatalogPastServiceStub, tokens: Any) -> None:
        self._stub: Any = stub
        self._metadata = (("txn-token", tokens(roles=("editor",))),)

    async def __call__(self, method: str, moment: past_pb2.Moment, **page: Any) -> Any:
        kind = query_pb2.ListProductsRequest if method == "List" else query_pb2.SearchProductsRequest
        request = getattr(past_pb2, f"{method}ProductsAsOfRequest")(page=kind(**page), moment=moment)
        call = getattr(self._stub, f"{method}ProductsAsOf")
        return await call(request, metadata=self._metadata, timeout=15)


@pytest.fixture
async def pages(system):
    async with system.replica.channel("gateway") as channel:
        yield Pages(past_pb2_grpc.CatalogPastServiceStub(channel), system.tokens)


def moment(time: datetime, known_at: datetime | None = None) -> past_pb2.Moment:
    asked = past_pb2.Moment()
    asked.time.FromDatetime(time)
    if known_at is not None:
        asked.known_at.FromDatetime(known_at)
    return asked


async def outcome(call: Awaitable[Any]) -> tuple[grpc.StatusCode, Any]:
    """The status of a call, and what it answered."""
    try:
        return grpc.StatusCode.OK, await call
    except RemoteProblem as error:
        return error.code, None


def names(answer: Any) -> list[str]:
    return [orjson.loads(document)["name"] for document in answer.page.documents]


@pytest.mark.parametrize("method", ["List", "Search"])
@pytest.mark.parametrize("ahead", [0, 1])
async def test_the_cursor_carries_what_was_known_on_the_first_page(system, pages, build, method, ahead):
    """What is recorded between two pages moves nothing, at a time that has come and at one that has not."""
    word = build.fresh()
    skus = [build.fresh() for _ in range(5)]
    for number, sku in enumerate(skus):
        general = build.general(f"{word} {number}", category=word)
        token = await system.append(sku, build.created(sku, general), build.price("1.00"))
        await system.get(sku, token)
    asked = {"page_size": 2, "filter": query_pb2.ProductFilter(category=word), "sort": query_pb2.PRODUCT_SORT_NAME}
    if method == "Search":
        asked["text"] = word.lower()
    then = moment(datetime.now(UTC) + timedelta(days=ahead))
    seen: list[str] = []
    told: set[tuple[Any, ...]] = set()
    cursor = ""
    for round_ in range(3):
        answer = await pages(method, then, page_token=cursor, **asked)
        seen += names(answer)
        told.add((answer.moment.as_of.ToDatetime(UTC), answer.moment.known_at.ToDatetime(UTC)))
        cursor = answer.page.next_page_token
        # Each of them would come again on a later page, or never.
        for sku in skus:
            described = events.ProductDescribed(description=build.general(f"{word} {9 - round_}", category=word))
            await system.get(sku, await system.append(sku, described))
    assert seen == [f"{word} {number}" for number in range(5)]
    assert cursor == ""
    assert len(told) == 1
    with pytest.raises(RemoteProblem) as refused:
        first = await pages(method, then, **asked)
        await pages(method, moment(datetime.now(UTC)), page_token=first.page.next_page_token, **asked)
    assert refused.value.problem.reason == "BAD_PAGE_TOKEN"


FIRST = datetime(1, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize("known_at", [None, FIRST, NOW, LAST])
@pytest.mark.parametrize("as_of", [FIRST, datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC), NOW, LAST])
async def test_no_time_of_the_calendar_is_too_far(system, pages, as_of, known_at):
    """It is answered, or refused with what is wrong: never an error of ours."""
    for method, more in (("List", {}), ("Search", {"text": "wagon"})):
        code, answer = await outcome(pages(method, moment(as_of, known_at), page_size=3, **more))
        assert code in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED}
        assert answer is None or answer.moment.as_of.ToDatetime(UTC) == as_of


@pytest.mark.parametrize(
    ("shard", "position"), [(0, 1), (0, 2**63 - 1), (0, 2**63), (0, 2**64 - 1), (1, 10**12), (7, 1), (2**32 - 1, 1)]
)
async def test_no_position_is_an_error_of_ours(system, pages, build, shard, position):
    """Whether there is such a shard, and whether it goes that far."""
    sku = build.fresh()
    await system.get(sku, await system.append(sku, build.created(sku)))
    asked = past_pb2.Moment(position=event_pb2.ShardPosition(shard=shard, position=position))
    for method, more in (("List", {}), ("Search", {"text": "wagon"})):
        code, _ = await outcome(pages(method, asked, page_size=3, **more))
        assert code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
