"""What an event changed, whatever is remembered and however the log arrives."""

from collections.abc import AsyncGenerator, Mapping, Sequence

from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2
from catalog_query.application.changes.describing import Described, Describer
from hypothesis import given, settings
from hypothesis import strategies as st


class Past:
    """Streams in memory; one answer holds so many events at most."""

    def __init__(self, log: Sequence[event_pb2.RecordedEvent], *, most: int) -> None:
        self._log = log
        self._most = most

    def _of(self, stream: str, revision: int) -> list[event_pb2.RecordedEvent]:
        return [event for event in self._log if event.stream == stream and event.revision >= revision]

    async def slices(self, wanted: Mapping[str, int]) -> Mapping[str, Sequence[event_pb2.RecordedEvent]] | None:
        found = {stream: self._of(stream, revision) for stream, revision in wanted.items()}
        return found if sum(map(len, found.values())) <= self._most else None

    async def stream(
        self, stream: str, *, from_revision: int, events: int
    ) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        found = self._of(stream, from_revision)[:events]
        for start in range(0, len(found), 3):
            yield found[start : start + 3]


def told(change: Described) -> tuple[object, ...]:
    message = change.message
    fields = tuple((field.field, field.before, field.after) for field in message.fields)
    return message.sku, message.revision, message.type, message.kind, message.category, message.unreadable, fields


async def described(
    log, *, capacity: int, most: int, pieces: Sequence[int], begin: int = 0
) -> list[tuple[object, ...]]:
    describer = Describer(Past(log, most=most), capacity=capacity)
    found: list[Described] = []
    rest = list(log[begin:])
    for size in [*pieces, len(rest)]:
        found += await describer.describe(rest[:size], epoch=1)
        del rest[:size]
    return [told(change) for change in found]


_PRODUCTS = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@settings(deadline=None)
@given(
    order=_PRODUCTS,
    begin=st.integers(0, 40),
    capacity=st.integers(1, 8),
    most=st.integers(1, 20),
    pieces=st.lists(st.integers(0, 9), max_size=8),
)
async def test_a_change_is_the_same_whatever_is_remembered(log_fake, build, order, begin, capacity, most, pieces):
    """From any point on, in pieces of any size, with any memory and answers of any size."""
    log = log_fake(1)
    for number, product in enumerate(order):
        product_id = build.id_of(str(product))
        if not log.history(product_id):
            log.append(product_id, build.created(str(product), build.car(category=f"c{number}")))
        elif number % 5 == 4:
            log.append(product_id, events.ProductDescribed(description=build.car(category=f"c{number}")))
        else:
            log.append(product_id, build.price(f"{number}.00"))
    [recorded] = log.shards
    plain = await described(recorded, capacity=100, most=1_000, pieces=[])
    assert len(plain) == len(recorded)
    begin = min(begin, len(recorded))
    assert await described(recorded, capacity=capacity, most=most, pieces=pieces, begin=begin) == plain[begin:]


async def test_an_event_that_comes_twice_is_told_once(log, build):
    """As the copy of a bucket that has moved, at another position."""
    product_id = build.id_of("twice")
    log.append(product_id, build.created("twice"), build.price("1.00"), build.price("2.00"))
    [recorded] = [shard for shard in log.shards if shard]
    describer = Describer(Past(recorded, most=100), capacity=200)
    first = await describer.describe(recorded[:2], epoch=1)
    copies = [event_pb2.RecordedEvent() for _ in recorded]
    for copy, event in zip(copies, recorded, strict=True):
        copy.CopyFrom(event)
        copy.position += 10
    second = await describer.describe(copies, epoch=1)
    assert [change.message.revision for change in first] == [0, 1]
    assert [change.message.revision for change in second] == [2]


async def test_a_past_that_is_gone_is_told_as_not_known(log, build):
    """Rather than as a change from nothing."""
    product_id = build.id_of("gone")
    log.append(product_id, build.created("gone"), build.price("1.00"), build.price("2.00"))
    [recorded] = [shard for shard in log.shards if shard]
    [last] = await described(recorded[2:], capacity=200, most=100, pieces=[])
    assert last[1:3] == (2, "PriceSet")
    assert last[-2:] == (True, ())
