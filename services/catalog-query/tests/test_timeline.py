"""The fold in two times, against an oracle that paints every moment anew, and against the fold of the read model."""

from datetime import timedelta

import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from catalog_query.domain import product, timeline
from catalog_query.domain.timeline import Segment
from hypothesis import given, settings
from hypothesis import strategies as st

from .stories import Story


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
