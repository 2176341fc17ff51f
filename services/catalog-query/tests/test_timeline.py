"""The fold in two times, against an oracle that paints every moment anew, and against the fold of the read model."""

# ruff: noqa: S311 - chance makes lives
import random
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import catalog_events
import orjson
import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.adapters.versions import VersionPages
from catalog_query.domain import product, timeline
from catalog_query.domain.projection import Target
from catalog_query.domain.query import Filter, Query, Sort
from catalog_query.domain.timeline import Segment
from catalog_query.projections.checks import VersionCheck
from catalog_query.projections.versions import Versions
from chassis.buckets import BucketMap, bucket_of
from chassis.database.engine import create_engine
from chassis.database.pool import Database
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st


def described(name: str) -> events.Description:
    vehicle = events.VehicleAttributes(make="Volvo", model="V60", model_year=2024)
    return events.Description(name=name, category="vehicles", car=events.CarAttributes(vehicle=vehicle))


class Story:
    """One product's life on a clock of whole seconds: events with the times that a test gives them.

    It knows what is scheduled and open, so that random lives keep to the rules of the write side, and it can paint what
    holds at each second in the dullest way: the oracle of the fold in two times.
    """

    BEGIN = 1_800_000_000

    def __init__(
        self, seed: int | None = None, *, product_id: str = "", position: Callable[[], int] | None = None
    ) -> None:
        self.chance = random.Random(seed)
        self.product_id = product_id or str(uuid.UUID(int=self.chance.getrandbits(128)))
        self.history: list[event_pb2.RecordedEvent] = []
        self.tick = 0
        self._position = position or (lambda: len(self.history) + 1)
        self._open: dict[str, tuple[int, Message]] = {}
        self._says: list[tuple[str, int, int, int | None, Any]] = []

    def time(self, tick: float) -> datetime:
        return datetime.fromtimestamp(self.BEGIN + tick, UTC)

    @property
    def now(self) -> datetime:
        return self.time(self.tick)

    def wait(self, ticks: int) -> "Story":
        self.tick += ticks
        return self

    def put(self, message: Message) -> event_pb2.RecordedEvent:
        """Record an event now."""
        bucket = bucket_of(self.product_id)
        event = event_pb2.RecordedEvent(
            shard=BucketMap(2).shard_of(bucket),
            position=self._position(),
            stream=f"product-{self.product_id}",
            revision=len(self.history),
            bucket=bucket,
            event_id=str(uuid.UUID(int=self.chance.getrandbits(128))),
            type=message.DESCRIPTOR.full_name,
            payload=message.SerializeToString(),
        )
        event.recorded_at.FromSeconds(self.BEGIN + self.tick)
        self.history.append(event)
        return event

    def _say(self, part: str, value: Any, since: int | None = None, until: int | None = None) -> None:
        self._says.append((part, len(self.history) - 1, self.tick if since is None else since, until, value))

    def create(self, name: str = "Volvo V60", sku: str = "") -> "Story":
        self.put(
            events.ProductCreated(
                product_id=self.product_id, sku=sku or f"S{self.product_id[:8]}", description=described(name)
            )
        )
        self._say("name", name)
        self._say("status", "draft")
        return self

    def describe(self, name: str) -> "Story":
        self.put(events.ProductDescribed(description=described(name)))
        self._say("name", name)
        return self

    def price(self, amount: str) -> "Story":
        self.put(events.PriceSet(price=events.Money(amount=amount, currency="EUR")))
        self._say("price", {"amount": amount, "currency": "EUR"})
        return self

    def remove_price(self) -> "Story":
        self.put(events.PriceRemoved())
        self._say("price", None)
        return self

    def publish(self, *, published: bool = True) -> "Story":
        self.put(events.ProductPublished() if published else events.ProductUnpublished())
        self._say("status", "published" if published else "draft")
        return self

    def discontinue(self) -> "Story":
        self.put(events.ProductDiscontinued(reason="old"))
        self._say("status", "discontinued")
        return self

    def correct(self, amount: str, *, since: int, until: int | None = None) -> "Story":
        message = events.PriceCorrected(price=events.Money(amount=amount, currency="EUR"))
        message.effective_from.FromSeconds(self.BEGIN + since)
        if until is not None:
            message.effective_until.FromSeconds(self.BEGIN + until)
        self.put(message)
        self._say("price", {"amount": amount, "currency": "EUR"}, since, until)
        return self

    def schedule_price(self, amount: str, *, due: int) -> str:
        message = events.PriceScheduled(schedule_id=self._id(), price=events.Money(amount=amount, currency="EUR"))
        return self._schedule(message, due)

    def schedule_publication(self, *, published: bool, due: int) -> str:
        return self._schedule(events.PublicationScheduled(schedule_id=self._id(), published=published), due)

    def _id(self) -> str:
        return str(uuid.UUID(int=self.chance.getrandbits(128)))

    def _schedule(self, message: Any, due: int) -> str:
        message.effective_at.FromSeconds(self.BEGIN + due)
        self.put(message)
        self._open[message.schedule_id] = (due, message)
        return message.schedule_id

    def cancel(self, schedule_id: str, *, failed: bool = False) -> "Story":
        self._open.pop(schedule_id)
        self.put((events.ScheduleFailed if failed else events.ScheduleCancelled)(schedule_id=schedule_id))
        return self

    def activate(self, schedule_id: str) -> "Story":
        due, planned = self._open.pop(schedule_id)
        message: Any
        if isinstance(planned, events.PriceScheduled):
            message = events.PriceSet(schedule_id=schedule_id, price=planned.price)
            said = ("price", {"amount": planned.price.amount, "currency": planned.price.currency})
        else:
            assert isinstance(planned, events.PublicationScheduled)
            kind = events.ProductPublished if planned.published else events.ProductUnpublished
            message = kind(schedule_id=schedule_id)
            said = ("status", "published" if planned.published else "draft")
        message.effective_at.FromSeconds(self.BEGIN + due)
        self.put(message)
        self._say(*said, since=due)
        return self

    def live(self, events_more: int) -> "Story":
        """A random life, by the rules of the write side."""
        chance = self.chance
        self.create(f"Name {chance.randrange(3)}")
        for _ in range(events_more):
            self.wait(chance.choice((0, 0, 1, 2, 5)))
            due = [one for one, (tick, _) in self._open.items() if tick <= self.tick]
            match chance.randrange(12):
                case 0 | 1 | 2:
                    self.price(f"{chance.randrange(5)}.00")
                case 3:
                    self.describe(f"Name {chance.randrange(3)}")
                case 4:
                    self.publish(published=chance.random() < 0.6)
                case 5:
                    self.remove_price()
                case 6 | 7:
                    self.schedule_price(f"{chance.randrange(5, 9)}.00", due=self.tick + chance.randrange(1, 8))
                case 8:
                    self.schedule_publication(published=chance.random() < 0.6, due=self.tick + chance.randrange(1, 8))
                case 9 if self._open:
                    self.cancel(chance.choice(list(self._open)), failed=chance.random() < 0.3)
                case 10 if self.tick:
                    since = chance.randrange(self.tick)
                    until = chance.choice((None, chance.randrange(since + 1, self.tick + 1)))
                    self.correct(f"{chance.randrange(9, 12)}.00", since=since, until=until)
                case _ if due:
                    self.activate(chance.choice(due))
                case _:
                    self.price(f"{chance.randrange(5)}.00")
        if chance.random() < 0.2:
            self.discontinue()
        return self

    def painted(self, history: Sequence[event_pb2.RecordedEvent]) -> dict[int, Any]:
        """Per second, what holds: name, status and price, None before the product."""
        told: list[Any] = [catalog_events.decode(event) for event in history]
        plans = [one for one in told if isinstance(one, events.PriceScheduled | events.PublicationScheduled)]
        ended = {getattr(one, "schedule_id", "") for one in told if one not in plans}
        left = sorted(
            (one for one in plans if one.schedule_id not in ended), key=lambda plan: plan.effective_at.seconds
        )
        return {-1: None} | {tick: self._painted(len(history), left, tick) for tick in range(self.tick + 12)}

    def _painted(self, known: int, plans: Sequence[Any], tick: int) -> Any:
        holds: dict[str, Any] = {"price": None}
        latest: dict[str, int] = {"price": -1, "status": -1}
        for part, revision, since, until, value in self._says:
            if revision < known and since <= tick and (until is None or tick < until):
                holds[part] = value
                if until is None:
                    latest[part] = max(latest.get(part, -1), since)
        for plan in plans:
            due = plan.effective_at.seconds - self.BEGIN
            part = "price" if isinstance(plan, events.PriceScheduled) else "status"
            if due > tick or latest[part] > due or holds["status"] == "discontinued":
                continue
            if isinstance(plan, events.PriceScheduled):
                holds["price"] = {"amount": plan.price.amount, "currency": plan.price.currency}
            elif not plan.published:
                holds["status"] = "draft"
            elif holds["price"] is not None:
                holds["status"] = "published"
        return (holds["name"], holds["status"], holds["price"])


def folded(history):
    document = None
    for event in history:
        document = product.evolve(document, event)
    return document


def shown(document):
    return None if document is None else (document["name"], document["status"], document["price"])


def test_a_price_is_what_it_was_on_black_friday():
    """An ordinary change holds from when it was recorded until the next one."""
    s = Story()
    s.create().wait(10)
    s.price("100.00").wait(10)
    s.price("80.00").wait(10)
    assert timeline.at(s.history, s.time(5))["price"] is None
    assert timeline.at(s.history, s.time(10))["price"]["amount"] == "100.00"
    assert timeline.at(s.history, s.time(19))["price"]["amount"] == "100.00"
    assert timeline.at(s.history, s.time(20))["price"]["amount"] == "80.00"
    assert timeline.at(s.history, s.time(999))["price"]["amount"] == "80.00"
    assert timeline.at(s.history, s.time(-1)) is None


def test_a_correction_changes_its_period_for_those_who_know_of_it():
    """What was known before it was recorded stays answerable."""
    s = Story()
    s.create().price("100.00").wait(10)
    s.price("80.00").wait(10)
    s.correct("95.00", since=5, until=12)
    for time, amount in ((4, "100.00"), (5, "95.00"), (11, "95.00"), (12, "80.00"), (20, "80.00")):
        assert timeline.at(s.history, s.time(time))["price"]["amount"] == amount, time
    before = s.history[:-1]
    assert timeline.at(before, s.time(5))["price"]["amount"] == "100.00"
    assert folded(s.history)["price"]["amount"] == "80.00"


def test_a_correction_without_an_end_reaches_the_present():
    """It overrules whatever else was recorded for the time since."""
    s = Story()
    s.create().price("100.00").wait(10)
    s.price("80.00").wait(10)
    s.correct("95.00", since=5)
    assert timeline.at(s.history, s.time(11))["price"]["amount"] == "95.00"
    assert timeline.at(s.history, s.time(99)) == folded(s.history)


def test_what_is_scheduled_holds_from_when_it_is_due():
    """Ahead of time, and until the event comes that carries it out; a cancelled one holds for those who did not know."""
    s = Story()
    s.create().price("100.00").wait(1)
    sale = s.schedule_price("70.00", due=10)
    assert timeline.at(s.history, s.time(9))["price"]["amount"] == "100.00"
    assert timeline.at(s.history, s.time(10))["price"]["amount"] == "70.00"
    s.wait(11)
    assert folded(s.history)["price"]["amount"] == "100.00"
    s.activate(sale)
    assert timeline.at(s.history, s.time(10))["price"]["amount"] == "70.00"
    assert timeline.at(s.history, s.time(10))["revision"] == 3
    gone = s.schedule_publication(published=True, due=20)
    assert timeline.at(s.history, s.time(20))["status"] == "published"
    s.cancel(gone)
    assert timeline.at(s.history, s.time(20))["status"] == "draft"
    assert timeline.at(s.history[:-1], s.time(20))["status"] == "published"


def test_what_is_scheduled_does_not_hold_where_it_must_fail():
    """Overtaken by what took effect later; a publication without a price; after the end of the product."""
    s = Story()
    s.create().schedule_publication(published=True, due=5)
    s.schedule_price("70.00", due=10)
    assert timeline.at(s.history, s.time(6))["status"] == "draft"
    assert timeline.at(s.history, s.time(10))["status"] == "draft"
    s.wait(12)
    s.price("90.00")
    assert timeline.at(s.history, s.time(11))["price"]["amount"] == "70.00"
    assert timeline.at(s.history, s.time(12))["price"]["amount"] == "90.00"
    s.wait(1)
    s.discontinue()
    s.schedule_price("60.00", due=30)
    assert timeline.at(s.history, s.time(30)) == folded(s.history)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_the_state_at_any_time_is_what_painting_every_moment_gives(seed):
    """For random lives with schedules and corrections, whatever is known and whichever time is asked for."""
    s = Story(seed)
    s.live(14)
    for known in range(1, len(s.history) + 1):
        history = s.history[:known]
        painted = s.painted(history)
        for tick, expected in painted.items():
            assert shown(timeline.at(history, s.time(tick))) == expected, (tick, known)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_now_is_the_document_of_the_read_model(seed):
    """Unless something is due and has not been carried out yet."""
    s = Story(seed)
    s.live(16)
    due = [one for _, one in timeline.open_schedules(s.history) if timeline.moment(one.effective_at) <= s.now]
    if due:
        return
    assert timeline.at(s.history, s.now) == folded(s.history)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_an_event_changes_nothing_before_the_time_that_it_is_said_to_affect(seed):
    """And the segments are the states at each moment."""
    s = Story(seed)
    s.live(12)
    begin, end = s.history[0], s.time(60)
    for known in range(2, len(s.history) + 1):
        before, after = s.history[: known - 1], s.history[:known]
        since = timeline.affected_from(after, after[-1])
        parts = timeline.segments(after, since=since)
        time = timeline.recorded(begin)
        while time < end:
            if time < since:
                assert timeline.at(after, time) == timeline.at(before, time)
            else:
                assert part_at(parts, time).document == timeline.at(after, time)
            time += timedelta(seconds=0.5)


def part_at(parts: list[Segment], time) -> Segment:
    [part] = [one for one in parts if one.valid_from <= time and (one.valid_to is None or time < one.valid_to)]
    return part


@pytest.mark.parametrize("scheduled", [True, False])
def test_what_an_event_tells_of_another_time_is_told(scheduled):
    """For the history, in the words of the document."""
    s = Story()
    s.create().price("100.00")
    if scheduled:
        s.schedule_price("70.00", due=10)
        told = timeline.told(s.history[-1])
        assert (told.effective_at, told.effective_until) == (s.time(10), None)
        assert told.schedule_id
        assert list(told.facts) == [("price.amount", "70.00"), ("price.currency", "EUR")]
    else:
        assert timeline.told(s.history[-1]) == timeline.Told()
        assert timeline.is_plain(s.history[-1])
        assert isinstance(product.decoded(s.history[-1]), events.PriceSet)


class Told:
    """The streams of a few products, as the projection reads them."""

    def __init__(self, lives: Sequence[Story]) -> None:
        self._histories = {f"product-{life.product_id}": life.history for life in lives}

    async def backwards(
        self, stream: str, *, from_revision: int | None
    ) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        yield [
            event
            for event in reversed(self._histories[stream])
            if from_revision is None or event.revision <= from_revision
        ]

    async def forwards(self, stream: str) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        yield self._histories[stream]


async def projected(shard: ReadModelShard, lives: Sequence[Story], chance: random.Random) -> None:
    """Put the lives into the table of versions, in batches that end anywhere, by two processes in turn."""
    target = Target("versions")
    log = sorted((event for life in lives for event in life.history), key=lambda event: event.recorded_at.seconds)
    position = 0
    while position < len(log):
        applier = Versions(Told(lives), cached=chance.choice((0, 3, 100))).applier(shard, target, filling=False)
        lease = await shard.claim(target, event_shard=0, owner="test", lease=60)
        assert lease is not None
        for _ in range(chance.randrange(1, 4)):
            batch = log[position : position + chance.randrange(1, 60)]
            if not batch:
                break
            # A copy that comes again, as after a move, changes nothing.
            again = [log[chance.randrange(position)]] if position else []
            prepared = await applier.prepare([*again, *batch], {}, careful=bool(again))
            assert not prepared.poisons
            after = position + len(batch)
            await shard.write(
                target, event_shard=0, token=lease.token, before=position, after=after, rows=prepared.write
            )
            prepared.committed()
            position = after


async def nothing_to_wait_for() -> None:
    pass


@pytest.mark.parametrize("seed", range(4))
async def test_the_table_and_the_log_answer_the_same_for_every_two_times(databases, seed):
    """Random lives with schedules and corrections, any batches: each product once at most, and as the fold has it."""
    chance = random.Random(seed)
    lives = [Story(chance.getrandbits(32)).live(chance.randrange(1, 16)) for _ in range(20)]
    [dsn] = (await databases(1)).service
    engine = create_engine(dsn, name="test_versions", size=2, isolation_level="AUTOCOMMIT")
    database = await Database.open(dsn, name="test_versions", size=2)
    try:
        await projected(ReadModelShard(database), lives, chance)
        pages = VersionPages(engine, lambda: 1, nothing_to_wait_for)
        everything = Query(Filter(), Sort.NAME, descending=False, size=100)
        last = max(life.tick for life in lives)
        compared = 0
        for known in range(-1, last + 1, 2):
            for tick in range(-1, last + 10, 3):
                found = await pages.page(everything, as_of=lives[0].time(tick), known_at=lives[0].time(known))
                shown = {str(one.key.product_id): orjson.loads(one.document) for one in found}
                assert len(shown) == len(found)
                for life in lives:
                    history = [event for event in life.history if timeline.recorded(event) <= life.time(known)]
                    assert shown.get(life.product_id) == timeline.at(history, life.time(tick)), (tick, known)
                    compared += 1
        assert compared > 1_000
        shard, target = ReadModelShard(database), Target("versions")
        for life in lives:
            # However the events came in batches: the drift check expects what is there.
            assert await VersionCheck(Told([life])).look(shard, target, uuid.UUID(life.product_id)) is None
    finally:
        await engine.dispose()
        await database.close()


async def test_the_past_gives_way_to_the_present_but_not_for_ever(databases):
    """While there is something more urgent, a batch is put off, and done in the end."""
    [dsn] = (await databases(1)).service
    database = await Database.open(dsn, name="test_versions", size=1)
    life = Story(1).create()
    asked: list[bool] = []

    def gives_way() -> bool:
        asked.append(len(asked) < 3)
        return asked[-1]

    try:
        projection = Versions(Told([life]), cached=1, gives_way=gives_way)
        applier = projection.applier(ReadModelShard(database), Target("versions"), filling=False)
        assert (await applier.prepare(life.history, {}, careful=False)).write is not None
        assert asked == [True, True, True, False]
        asked.clear()
        always = Versions(Told([life]), cached=1, gives_way=lambda: not asked.append(True))
        applier = always.applier(ReadModelShard(database), Target("versions"), filling=False)
        assert (await applier.prepare(life.history, {}, careful=False)).write is not None
        assert len(asked) > 1
    finally:
        await database.close()


async def test_a_page_follows_to_the_generation_that_took_the_place_of_its_own(databases):
    """What was dropped before this process heard of it is an error to nobody."""
    read = await databases(1)
    generations = [7]

    async def adopted() -> None:
        generations.append(1)

    engine = create_engine(read.service[0], name="test_versions", size=1, isolation_level="AUTOCOMMIT")
    try:
        pages = VersionPages(engine, lambda: generations[-1], adopted)
        now = datetime.now(UTC)
        everything = Query(Filter(), Sort.NAME, descending=False, size=5)
        assert await pages.page(everything, as_of=now, known_at=now) == []
        assert generations == [7, 1]
    finally:
        await engine.dispose()
