"""What is planned, corrected and restored: given what happened, when it is asked, then this happens or is refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from almagest.catalog.events.v1.product_events_pb2 import Money as MoneyMessage
from almagest.catalog.events.v1.product_events_pb2 import (
    PriceCorrected,
    PriceRemoved,
    PriceScheduled,
    PriceSet,
    ProductCreated,
    ProductDescribed,
    ProductDiscontinued,
    ProductPublished,
    ProductUnpublished,
    PublicationScheduled,
    ScheduleCancelled,
    ScheduleFailed,
)
from catalog_command.domain import errors
from catalog_command.domain.commands import (
    ActivateSchedule,
    CancelSchedule,
    CorrectPrice,
    CreateProduct,
    DescribeProduct,
    DiscontinueProduct,
    PublishProduct,
    RestoreProduct,
    ScheduleChange,
    SetPrice,
    UnpublishProduct,
)
from catalog_command.domain.description import description
from catalog_command.domain.money import Money
from catalog_command.domain.product import Status, decide, evolve, fold, initial
from catalog_command.domain.restoration import earlier
from catalog_command.domain.schedule import FARTHEST, MAXIMUM_OPEN, REMEMBERED_ENDINGS, Schedule
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SKU, ID = "VOLVO-V60", "c0ffee00-0000-5000-8000-000000000000"
S1, S2 = "0198c5a2-7c1e-7000-8000-000000000001", "0198c5a2-7c1e-7000-8000-000000000002"


def stamp(at: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp


def euros(amount: str) -> MoneyMessage:
    return MoneyMessage(amount=amount, currency="EUR")


def price_at(at: datetime, amount: str = "10.00", schedule_id: str = S1) -> ScheduleChange:
    return ScheduleChange(Schedule(schedule_id, Money(amount, "EUR"), at), NOW)


def publication_at(at: datetime, *, published: bool = True, schedule_id: str = S1) -> ScheduleChange:
    return ScheduleChange(Schedule(schedule_id, published, at), NOW)


def planned_price(at: datetime, amount: str = "10.00", schedule_id: str = S1) -> PriceScheduled:
    return PriceScheduled(schedule_id=schedule_id, price=euros(amount), effective_at=stamp(at))


def planned_publication(at: datetime, *, published: bool = True, schedule_id: str = S1) -> PublicationScheduled:
    return PublicationScheduled(schedule_id=schedule_id, published=published, effective_at=stamp(at))


@pytest.fixture
def car(example):
    return description(example.car(), year=2026)


@pytest.fixture
def created(car):
    return ProductCreated(product_id=ID, sku=SKU, description=car.message, effective_at=stamp(NOW - 10 * HOUR))


@pytest.fixture
def given_(created):
    """The product after some more events."""
    return lambda *happened: fold(initial, [created, *happened])


class TestSchedule:
    def test_a_price_is_planned_once(self, given_):
        """Given a product, when a price is planned, then it is; the same plan again changes nothing."""
        event = planned_price(NOW + HOUR)
        assert decide(given_(), price_at(NOW + HOUR)) == [event]
        assert decide(given_(event), price_at(NOW + HOUR)) == []

    def test_a_publication_is_planned_before_there_is_a_price(self, given_):
        """The price may be planned as well; whether there is one counts when the time has come."""
        assert decide(given_(), publication_at(NOW + HOUR)) == [planned_publication(NOW + HOUR)]

    def test_plans_are_for_the_future_and_not_for_the_next_generation(self, given_):
        """The first instant that is refused is now, the last that is taken five years ahead."""
        for at in (NOW - HOUR, NOW, NOW + FARTHEST + timedelta(microseconds=1)):
            with pytest.raises(errors.TimeOutOfRange, match="in the future"):
                decide(given_(), price_at(at))
        assert decide(given_(), price_at(NOW + timedelta(microseconds=1)))
        assert decide(given_(), price_at(NOW + FARTHEST))

    def test_the_same_plan_after_its_time_is_still_the_same_plan(self, given_):
        """A repeat is judged by what it repeats, not by when it comes."""
        late = ScheduleChange(price_at(NOW + HOUR).schedule, NOW + 2 * HOUR)
        assert decide(given_(planned_price(NOW + HOUR)), late) == []

    def test_an_id_stands_for_one_plan(self, given_):
        """Another price, time or kind under the same id is refused; so is the plan itself, once it has ended."""
        state = given_(planned_price(NOW + HOUR))
        for other in (price_at(NOW + HOUR, "11.00"), price_at(NOW + 2 * HOUR), publication_at(NOW + HOUR)):
            with pytest.raises(errors.ScheduleIdReused):
                decide(state, other)
        with pytest.raises(errors.ScheduleEnded, match="cancelled"):
            decide(evolve(state, ScheduleCancelled(schedule_id=S1)), price_at(NOW + HOUR))

    def test_two_plans_for_the_same_thing_are_never_due_together(self, given_):
        """Nobody could say which of two prices holds; a price and a publication can come together."""
        state = given_(planned_price(NOW + HOUR))
        with pytest.raises(errors.ScheduleTimeTaken, match=S1):
            decide(state, price_at(NOW + HOUR, "11.00", S2))
        assert decide(state, publication_at(NOW + HOUR, schedule_id=S2))

    def test_open_schedules_are_bounded(self, given_):
        """A product takes a hundred plans; one that ends makes room."""
        plans = [planned_price(NOW + HOUR * (n + 1), schedule_id=f"s{n}") for n in range(MAXIMUM_OPEN)]
        with pytest.raises(errors.TooManySchedules):
            decide(given_(*plans), price_at(NOW + HOUR / 2))
        assert decide(given_(*plans, ScheduleCancelled(schedule_id="s7")), price_at(NOW + HOUR / 2))

    def test_what_is_remembered_of_ended_schedules_is_bounded(self, given_):
        """A product that was planned a thousand times is not larger for it."""
        happened: list[Any] = []
        for n in range(REMEMBERED_ENDINGS + 50):
            happened += [planned_price(NOW + HOUR, schedule_id=f"s{n}"), ScheduleCancelled(schedule_id=f"s{n}")]
        assert len(given_(*happened).endings) == REMEMBERED_ENDINGS


class TestCancel:
    def test_what_is_planned_can_be_taken_back_once(self, given_):
        """Given a plan, when cancelled, then it is; when cancelled again, then nothing."""
        state = given_(planned_price(NOW + HOUR))
        cancelled = ScheduleCancelled(schedule_id=S1)
        assert decide(state, CancelSchedule(S1)) == [cancelled]
        assert decide(evolve(state, cancelled), CancelSchedule(S1)) == []
        assert not evolve(state, cancelled).schedules

    def test_what_has_come_cannot_be_taken_back(self, given_):
        """Nor can what was never planned."""
        state = given_(planned_price(NOW + HOUR), PriceSet(price=euros("10.00"), schedule_id=S1))
        with pytest.raises(errors.ScheduleEnded, match="activated"):
            decide(state, CancelSchedule(S1))
        with pytest.raises(errors.ScheduleNotFound):
            decide(given_(), CancelSchedule(S1))

    def test_the_end_of_a_product_ends_its_plans(self, given_):
        """Given plans, when discontinued, then they are cancelled in the same breath."""
        state = given_(planned_price(NOW + HOUR), planned_publication(NOW + HOUR, schedule_id=S2))
        happened = decide(state, DiscontinueProduct("x"))
        assert happened == [
            ScheduleCancelled(schedule_id=S1),
            ScheduleCancelled(schedule_id=S2),
            ProductDiscontinued(reason="x"),
        ]
        ended = fold(state, happened)
        assert not ended.schedules
        assert decide(ended, CancelSchedule(S1)) == []


class TestActivate:
    def test_a_price_that_is_due_is_set_as_of_when_it_was_due(self, given_):
        """Once, however late and however often it is asked for."""
        state = given_(planned_price(NOW + HOUR))
        happened = decide(state, ActivateSchedule(S1, NOW + 3 * HOUR))
        assert happened == [PriceSet(price=euros("10.00"), schedule_id=S1, effective_at=stamp(NOW + HOUR))]
        after = fold(state, happened)
        assert (after.price, after.price_since, after.schedules) == (Money("10.00", "EUR"), NOW + HOUR, ())
        assert decide(after, ActivateSchedule(S1, NOW + 4 * HOUR)) == []

    def test_nothing_comes_before_its_time(self, given_):
        """The last instant that is too early, and the first that is not."""
        state = given_(planned_price(NOW + HOUR))
        with pytest.raises(errors.ScheduleNotDue):
            decide(state, ActivateSchedule(S1, NOW + HOUR - timedelta(microseconds=1)))
        assert decide(state, ActivateSchedule(S1, NOW + HOUR))

    def test_a_publication_and_its_end_come(self, given_):
        """Given a price, when due, then it is published, or hidden."""
        state = given_(PriceSet(price=euros("1.00")), planned_publication(NOW + HOUR))
        due = ActivateSchedule(S1, NOW + HOUR)
        assert decide(state, due) == [ProductPublished(schedule_id=S1, effective_at=stamp(NOW + HOUR))]
        state = given_(PriceSet(price=euros("1.00")), planned_publication(NOW + HOUR, published=False))
        assert decide(state, due) == [ProductUnpublished(schedule_id=S1, effective_at=stamp(NOW + HOUR))]

    def test_a_publication_without_a_price_fails(self, given_):
        """It ends, and says why; it does not come when a price is set later."""
        state = given_(planned_publication(NOW + HOUR))
        happened = decide(state, ActivateSchedule(S1, NOW + HOUR))
        assert happened == [ScheduleFailed(schedule_id=S1, reason="PRICE_MISSING")]
        after = fold(state, [*happened, PriceSet(price=euros("1.00"))])
        assert decide(after, ActivateSchedule(S1, NOW + 2 * HOUR)) == []
        assert after.status is Status.DRAFT

    def test_a_publication_waits_for_the_price_that_is_due_with_it(self, given_):
        """Given both for the same instant, the price comes first; a later price is not waited for."""
        state = given_(planned_publication(NOW + HOUR), planned_price(NOW + HOUR, schedule_id=S2))
        with pytest.raises(errors.EarlierScheduleOpen, match=S2):
            decide(state, ActivateSchedule(S1, NOW + HOUR))
        state = fold(state, decide(state, ActivateSchedule(S2, NOW + HOUR)))
        assert fold(state, decide(state, ActivateSchedule(S1, NOW + HOUR))).status is Status.PUBLISHED
        state = given_(planned_publication(NOW + HOUR), planned_price(NOW + 2 * HOUR, schedule_id=S2))
        assert decide(state, ActivateSchedule(S1, NOW + HOUR))[0] == ScheduleFailed(
            schedule_id=S1, reason="PRICE_MISSING"
        )

    def test_who_comes_late_does_not_overrule_who_came_on_time(self, given_):
        """A worker that was away finds that a price, or a publication, took effect after the plan was due."""
        superseded = [ScheduleFailed(schedule_id=S1, reason="SUPERSEDED")]
        later = stamp(NOW + 2 * HOUR)
        state = given_(planned_price(NOW + HOUR), PriceSet(price=euros("7.00"), effective_at=later))
        assert decide(state, ActivateSchedule(S1, NOW + 3 * HOUR)) == superseded
        state = given_(
            PriceSet(price=euros("7.00")), planned_publication(NOW + HOUR), ProductUnpublished(effective_at=later)
        )
        assert decide(state, ActivateSchedule(S1, NOW + 3 * HOUR)) == superseded

    def test_plans_of_one_product_end_alike_in_whichever_order_they_come(self, given_):
        """The later plan decides the price, also when the earlier one is carried out after it."""
        plans = [planned_price(NOW + HOUR, "1.00", S1), planned_price(NOW + 2 * HOUR, "2.00", S2)]
        for order in ((S1, S2), (S2, S1)):
            state = given_(*plans)
            for schedule_id in order:
                state = fold(state, decide(state, ActivateSchedule(schedule_id, NOW + 3 * HOUR)))
            assert state.price == Money("2.00", "EUR")

    def test_what_is_unknown_is_refused(self, given_):
        """A plan that was never made, of a product that is, or that is not."""
        with pytest.raises(errors.ScheduleNotFound):
            decide(given_(), ActivateSchedule(S1, NOW))
        with pytest.raises(errors.ProductNotFound):
            decide(initial, ActivateSchedule(S1, NOW))


class TestCorrect:
    def test_a_time_in_the_past_gets_its_price_and_the_present_stays(self, given_):
        """Given a price, when another is said of yesterday until today, then that is noted, once."""
        state = given_(PriceSet(price=euros("5.00")))
        command = CorrectPrice(Money("4.00", "EUR"), NOW - 2 * HOUR, NOW - HOUR, NOW)
        happened = decide(state, command)
        assert happened == [
            PriceCorrected(price=euros("4.00"), effective_from=stamp(NOW - 2 * HOUR), effective_until=stamp(NOW - HOUR))
        ]
        assert fold(state, happened).price == Money("5.00", "EUR")
        assert decide(fold(state, happened), command) == []

    def test_what_has_no_end_holds_now(self, given_):
        """Given a price, when another is said of yesterday until now, then it is the price."""
        state = given_(PriceSet(price=euros("5.00")))
        command = CorrectPrice(Money("4.00", "EUR"), NOW - HOUR, None, NOW)
        happened = decide(state, command)
        assert happened == [PriceCorrected(price=euros("4.00"), effective_from=stamp(NOW - HOUR))]
        after = fold(state, happened)
        assert after.price == Money("4.00", "EUR")
        assert decide(after, command) == []
        assert decide(evolve(after, PriceSet(price=euros("5.00"))), command) == happened

    def test_corrections_are_about_the_life_of_the_product_up_to_now(self, given_):
        """Not before it was created, not in the future, and not backwards."""
        price = Money("4.00", "EUR")
        for start, end, field in (
            (NOW - 11 * HOUR, None, "effective_from"),
            (NOW + HOUR, None, "effective_from"),
            (NOW - HOUR, NOW + HOUR, "effective_until"),
            (NOW - HOUR, NOW - HOUR, "effective_until"),
            (NOW - HOUR, NOW - 2 * HOUR, "effective_until"),
        ):
            with pytest.raises(errors.TimeOutOfRange) as refusal:
                decide(given_(), CorrectPrice(price, start, end, NOW))
            assert refusal.value.field == f"correct_price.{field}"
        assert decide(given_(), CorrectPrice(price, NOW - 10 * HOUR, NOW, NOW))


class TestRestore:
    @pytest.fixture
    def history(self, created, example):
        """Created; priced; published; described; priced anew; hidden."""
        other = description(example.car(name="Other"), year=2026)
        return [
            created,
            PriceSet(price=euros("1.00")),
            ProductPublished(),
            ProductDescribed(description=other.message),
            PriceSet(price=euros("2.00")),
            ProductUnpublished(),
        ]

    def test_what_differs_is_made_as_it_was(self, history, car):
        """Given changes of everything, when restored to when it was public, then each is undone, and says so."""
        state = fold(initial, history)
        command = RestoreProduct(2, earlier(history, 2))
        happened = decide(state, command)
        assert happened == [
            ProductDescribed(description=car.message, restored_from=2),
            PriceSet(price=euros("1.00"), restored_from=2),
            ProductPublished(restored_from=2),
        ]
        assert decide(fold(state, happened), command) == []

    def test_the_present_is_restored_by_doing_nothing(self, history):
        """The last revision differs from itself in nothing."""
        assert decide(fold(initial, history), RestoreProduct(5, earlier(history, 5))) == []

    def test_before_the_first_price_there_was_none(self, history):
        """It is hidden before its price is taken away."""
        state = fold(initial, [*history, ProductPublished()])
        happened = decide(state, RestoreProduct(0, earlier(history, 0)))
        assert [type(event) for event in happened] == [ProductDescribed, ProductUnpublished, PriceRemoved]
        assert fold(state, happened).price is None

    def test_a_correction_counts_where_it_reached_the_present(self, history):
        """What was said of a time that was over did not change what it was then."""
        ended = PriceCorrected(price=euros("8.00"), effective_from=stamp(NOW), effective_until=stamp(NOW))
        reaching = PriceCorrected(price=euros("9.00"), effective_from=stamp(NOW))
        assert earlier([*history, ended], 6).price == Money("2.00", "EUR")
        assert earlier([*history, reaching], 6).price == Money("9.00", "EUR")
        assert earlier([*history, PriceRemoved()], 6).price is None

    def test_plans_stay(self, history):
        """They were made for a time, not for a state."""
        state = fold(initial, [*history, planned_price(NOW + HOUR)])
        assert fold(state, decide(state, RestoreProduct(1, earlier(history, 1)))).schedules == state.schedules

    def test_a_discontinued_product_stays_so(self, history):
        """The end is the end, also for the past."""
        state = fold(initial, [*history, ProductDiscontinued(reason="x")])
        with pytest.raises(errors.ProductDiscontinued):
            decide(state, RestoreProduct(1, earlier(history, 1)))

    def test_a_revision_that_is_not_there_cannot_be_restored(self, history):
        """Nor one whose beginning is not kept."""
        with pytest.raises(errors.RevisionNotFound):
            earlier(history, 6)
        with pytest.raises(errors.RevisionNotFound):
            earlier(history[1:], 2)


class TestLaws:
    """What holds in every state that can be reached, in whatever order things are asked."""

    @staticmethod
    def commands(car) -> st.SearchStrategy[Any]:
        ids = st.sampled_from([S1, S2, "s3", "s4"])
        prices = st.builds(Money, st.sampled_from(["1.00", "2.00"]), st.just("EUR"))
        hours = st.integers(-3, 6).map(lambda hours: NOW + hours * HOUR)
        changes = st.builds(Schedule, ids, prices | st.booleans(), hours)
        return st.one_of(
            st.builds(CreateProduct, st.just(ID), st.just(SKU), st.just(car)),
            st.builds(DescribeProduct, st.just(car)),
            st.builds(SetPrice, prices),
            st.just(PublishProduct()),
            st.just(UnpublishProduct()),
            st.builds(ScheduleChange, changes, st.just(NOW)),
            st.builds(CancelSchedule, ids),
            st.builds(ActivateSchedule, ids, hours),
            st.builds(CorrectPrice, prices, hours, st.none() | hours, st.just(NOW)),
            st.builds(RestoreProduct, st.integers(0, 8)),
            st.builds(DiscontinueProduct, st.just("x")),
        )

    @given(data=st.data())
    def test_commands_are_idempotent_and_the_invariants_hold(self, example, data):
        """Decide, evolve, decide again gives nothing; a plan is open or ended, never both, and ends once."""
        car = description(example.car(), year=2026)
        state, history, ended = initial, list[Any](), set[str]()
        for drawn in data.draw(st.lists(self.commands(car), max_size=16)):
            command = drawn
            try:
                if isinstance(command, RestoreProduct) and history:
                    command = RestoreProduct(command.revision, earlier(history, command.revision))
                happened = decide(state, command)
            except errors.DomainError:
                continue
            for event in happened:
                if schedule_id := getattr(event, "schedule_id", ""):
                    assert schedule_id not in ended
                    if not isinstance(event, PriceScheduled | PublicationScheduled):
                        ended.add(schedule_id)
            state = fold(state, [type(event).FromString(event.SerializeToString()) for event in happened])
            history += happened
            assert fold(initial, history) == state
            assert decide(state, command) == []
            is_open = {schedule.schedule_id for schedule in state.schedules}
            assert not is_open & ended
            assert {schedule_id for schedule_id, _ in state.endings} == ended
            if state.status is Status.PUBLISHED:
                assert state.price is not None
            if state.status is Status.DISCONTINUED:
                assert not is_open
