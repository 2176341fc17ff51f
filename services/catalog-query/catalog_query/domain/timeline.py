"""A product in two times: what was effective at some time, by what was known at some time.

Events are given in the order of the log, as many of them as count as known. Each says something from some time on: an
ordinary one from when it was recorded, one that carries out a schedule from when that was due, a correction during its
period. At a given time those that say something about it are folded in the order of the log, so what was said last
holds, just as in the fold of the read model. What is scheduled and has not come yet is laid over the result, in the
order in which it is due: it holds unless something that took effect later has come before it.

So the state at the present time is the document of the read model, except in the moments between a schedule's time and
the event that carries it out: here it holds already.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from catalog_query.domain import product
from catalog_query.domain.product import Document, Price

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CARRIES_OUT: Final = (events.PriceSet, events.ProductPublished, events.ProductUnpublished)
_SCHEDULED: Final = (events.PriceScheduled, events.PublicationScheduled)
_ENDED: Final = (*_CARRIES_OUT, events.ScheduleCancelled, events.ScheduleFailed)
_ONLY_NOW: Final = frozenset(
    message.DESCRIPTOR.full_name
    for message in (
        events.ProductCreated,
        events.ProductDescribed,
        events.PriceRemoved,
        events.ProductDiscontinued,
    )
)
_UNLESS_SCHEDULED: Final[Mapping[str, type[events.PriceSet | events.ProductPublished | events.ProductUnpublished]]] = {
    message.DESCRIPTOR.full_name: message for message in _CARRIES_OUT
}

Scheduled = events.PriceScheduled | events.PublicationScheduled


@dataclass(frozen=True, slots=True)
class Step:
    """An event that took part in a state, and the state after it."""

    event: event_pb2.RecordedEvent
    document: Document


@dataclass(frozen=True, slots=True)
class Segment:
    """A time during which a product does not change. `valid_to` is exclusive, None: for ever."""

    valid_from: datetime
    valid_to: datetime | None
    document: Document


@dataclass(frozen=True, slots=True)
class Told:
    """What an event tells about another time than that of its recording."""

    effective_at: datetime | None = None
    effective_until: datetime | None = None
    schedule_id: str = ""
    facts: Sequence[tuple[str, object]] = ()


def moment(stamp: Timestamp) -> datetime:
    """A timestamp, to the microsecond."""
    return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)


def recorded(event: event_pb2.RecordedEvent) -> datetime:
    """When the event was recorded."""
    return moment(event.recorded_at)


def at(history: Sequence[event_pb2.RecordedEvent], time: datetime) -> Document | None:
    """What is effective at a time by these events, None when the product is not there then.

    Raises:
        UnknownEvent, UnreadableEvent: the history holds what this version cannot read.
    """
    document: Document | None = None
    for step in steps(history, time):
        document = step.document
    return document


def steps(history: Sequence[event_pb2.RecordedEvent], time: datetime) -> Iterator[Step]:
    """The events that took part in the state at a time, in the order in which they did, each with the state after it.

    Raises:
        UnknownEvent, UnreadableEvent: the history holds what this version cannot read.
    """
    document: Document | None = None
    for event in history:
        corrected = _corrected(event, time)
        if corrected is None and not _has_begun(event, time):
            continue
        if document is None and event.revision:
            # Nothing can be said of a time before the product.
            return
        document = product.apply(document, event)
        if corrected is not None:
            document = _with_price(document, corrected)
        yield Step(event, document)
    if document is None:
        return
    for event, scheduled in sorted(open_schedules(history), key=lambda one: moment(one[1].effective_at)):
        if moment(scheduled.effective_at) > time or _is_overtaken(history, scheduled, time):
            continue
        planned = _planned(document, scheduled)
        if planned is not document:
            document = planned
            yield Step(event, document)


def segments(history: Sequence[event_pb2.RecordedEvent], *, since: datetime) -> Sequence[Segment]:
    """The product's states from a time on for ever, by these events, each as long as it lasts."""
    begins = sorted({since, *(time for event in history for time in _borders(event) if time > since)})
    found: list[Segment] = []
    for begin, end in zip(begins, [*begins[1:], None], strict=True):
        document = at(history, begin)
        if document is None:
            continue
        if found and found[-1].document == document:
            found[-1] = Segment(found[-1].valid_from, end, document)
        else:
            found.append(Segment(begin, end, document))
    return found


def affected_from(history: Sequence[event_pb2.RecordedEvent], event: event_pb2.RecordedEvent) -> datetime:
    """The earliest time at which the event changes what was believed before it, by the history that it ends."""
    at_once = recorded(event)
    if event.type in _ONLY_NOW:
        return at_once
    message = product.decoded(event)
    if isinstance(message, events.PriceCorrected):
        return min(at_once, moment(message.effective_from))
    begins = at_once
    if isinstance(message, (*_CARRIES_OUT, *_SCHEDULED)):
        begins = min(begins, moment(message.effective_at))
    if isinstance(message, _ENDED) and message.schedule_id:
        # What was laid over the time since it was due goes.
        for other in history:
            planned = _schedule(other)
            if planned is not None and planned.schedule_id == message.schedule_id:
                begins = min(begins, moment(planned.effective_at))
    return begins


def is_plain(event: event_pb2.RecordedEvent) -> bool:
    """Whether the event says something about the time of its recording and after, and nothing else."""
    if event.type in _ONLY_NOW:
        return True
    if message := _UNLESS_SCHEDULED.get(event.type):
        # Most events are of these: no more is read of them than the id.
        return not message.FromString(event.payload).schedule_id
    return False


def open_schedules(
    history: Sequence[event_pb2.RecordedEvent],
) -> Sequence[tuple[event_pb2.RecordedEvent, Scheduled]]:
    """What is scheduled by these events, and neither came, nor was cancelled, nor failed."""
    found: dict[str, tuple[event_pb2.RecordedEvent, Scheduled]] = {}
    for event in history:
        planned = _schedule(event)
        if planned is not None:
            found[planned.schedule_id] = (event, planned)
        elif found and event.type not in _ONLY_NOW:
            message = product.decoded(event)
            if isinstance(message, _ENDED):
                found.pop(message.schedule_id, None)
    return list(found.values())


def told(event: event_pb2.RecordedEvent) -> Told:
    """What the event tells about another time than that of its recording, for people."""
    message = product.decoded(event)
    if isinstance(message, events.PriceScheduled):
        return Told(moment(message.effective_at), None, message.schedule_id, _price_facts(message.price))
    if isinstance(message, events.PublicationScheduled):
        return Told(moment(message.effective_at), None, message.schedule_id, [("status", _status(message))])
    if isinstance(message, events.PriceCorrected):
        until = moment(message.effective_until) if message.HasField("effective_until") else None
        return Told(moment(message.effective_from), until, "", _price_facts(message.price))
    if isinstance(message, _CARRIES_OUT) and message.schedule_id:
        return Told(moment(message.effective_at), None, message.schedule_id)
    if isinstance(message, events.ScheduleCancelled | events.ScheduleFailed):
        return Told(schedule_id=message.schedule_id)
    return Told()


def scheduling(history: Sequence[event_pb2.RecordedEvent], schedule_id: str) -> event_pb2.RecordedEvent | None:
    """The event that made a schedule."""
    for event in history:
        planned = _schedule(event)
        if planned is not None and planned.schedule_id == schedule_id:
            return event
    return None


def _schedule(event: event_pb2.RecordedEvent) -> Scheduled | None:
    if not event.type.endswith("Scheduled"):
        return None
    message = product.decoded(event)
    return message if isinstance(message, _SCHEDULED) else None


def _has_begun(event: event_pb2.RecordedEvent, time: datetime) -> bool:
    if recorded(event) <= time:
        return True
    if event.type not in _UNLESS_SCHEDULED:
        return False
    message = product.decoded(event)
    return isinstance(message, _CARRIES_OUT) and bool(message.schedule_id) and moment(message.effective_at) <= time


def _corrected(event: event_pb2.RecordedEvent, time: datetime) -> events.Money | None:
    """The price that the event says was the right one at a time."""
    if not event.type.endswith(".PriceCorrected"):
        return None
    message = cast("events.PriceCorrected", product.decoded(event))
    begins = moment(message.effective_from) <= time
    ends = message.HasField("effective_until") and moment(message.effective_until) <= time
    return message.price if begins and not ends else None


def _is_overtaken(history: Sequence[event_pb2.RecordedEvent], scheduled: Scheduled, time: datetime) -> bool:
    """Whether, by a time, something about the same part of the document took effect after the schedule was due."""
    due = moment(scheduled.effective_at)
    part = "price" if isinstance(scheduled, events.PriceScheduled) else "status"
    for event in reversed(history):
        if recorded(event) <= due:
            return False
        if part not in product.facets(event):
            continue
        begins = told(event).effective_at or recorded(event)
        if due < begins <= time:
            return True
    return False


def _planned(document: Document, scheduled: Scheduled) -> Document:
    if document["status"] == "discontinued":
        return document
    if isinstance(scheduled, events.PriceScheduled):
        return _with_price(document, scheduled.price)
    if scheduled.published and document["price"] is None:
        # It will fail, since what is published has a price.
        return document
    return {**document, "status": _status(scheduled)}


def _with_price(document: Document, price: events.Money) -> Document:
    return {**document, "price": Price(amount=price.amount, currency=price.currency)}


def _status(scheduled: events.PublicationScheduled) -> str:
    return "published" if scheduled.published else "draft"


def _price_facts(price: events.Money) -> Sequence[tuple[str, object]]:
    return [("price.amount", price.amount), ("price.currency", price.currency)]


def _borders(event: event_pb2.RecordedEvent) -> Iterator[datetime]:
    """The times at which what is effective may change because of the event."""
    yield recorded(event)
    if is_plain(event):
        return
    known = told(event)
    if known.effective_at is not None:
        yield known.effective_at
    if known.effective_until is not None:
        yield known.effective_until
