"""What is planned for products, as a list: from events to rows. Documents do not show it, since they show everybody
what holds now.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2
from catalog_events import PACKAGE

from catalog_query.domain.product import decoded, product_id_of

OPEN: Final = "open"
ACTIVATED: Final = "activated"
CANCELLED: Final = "cancelled"
FAILED: Final = "failed"
STATES: Final = (OPEN, ACTIVATED, CANCELLED, FAILED)


class Planned(NamedTuple):
    """A schedule that was made, its columns in the order in which they are written."""

    schedule_id: str
    product_id: str
    price_amount: str | None
    price_currency: str | None
    published: bool | None
    effective_at: datetime
    scheduled_by: str
    scheduled_at: datetime
    reason: str


class Ended(NamedTuple):
    """A schedule that ended, and how."""

    schedule_id: str
    state: str
    ended_at: datetime
    failure: str


class Listed(NamedTuple):
    """A schedule, and what became of it by the log."""

    planned: Planned
    state: str
    ended_at: datetime | None
    failure: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a schedule that is due was not carried out.

    Attributes:
        code: the gRPC status.
        reason: for programs.
        message: for people.
    """

    code: int
    reason: str
    message: str
    refused_at: datetime
    attempts: int
    next_attempt_at: datetime


@dataclass(frozen=True, slots=True)
class Schedule:
    """A row of the list."""

    planned: Planned
    state: str
    ended_at: datetime | None
    failure: str
    refusal: Refusal | None


_CARRY_OUT: Final[Mapping[str, type[events.PriceSet | events.ProductPublished | events.ProductUnpublished]]] = {
    message.DESCRIPTOR.full_name: message
    for message in (events.PriceSet, events.ProductPublished, events.ProductUnpublished)
}
_OTHERS: Final = frozenset(
    PACKAGE + name for name in ("PriceScheduled", "PublicationScheduled", "ScheduleCancelled", "ScheduleFailed")
)


def plan(event: event_pb2.RecordedEvent) -> Planned | Ended | None:  # noqa: PLR0911 - one return per event
    """What an event says about schedules; None for most.

    Raises:
        PoisonousEvent: it cannot be read.
    """
    if carried_out := _CARRY_OUT.get(event.type):
        # Every other event is one of these, and few of them carry a schedule out: no more is read of it than the id.
        schedule_id = carried_out.FromString(event.payload).schedule_id
        return Ended(schedule_id, ACTIVATED, event.recorded_at.ToDatetime(UTC), "") if schedule_id else None
    if event.type not in _OTHERS:
        return None
    at = event.recorded_at.ToDatetime(UTC)
    match decoded(event):
        case events.PriceScheduled() as planned:
            price = planned.price
            return _planned(event, planned, amount=price.amount, currency=price.currency, published=None)
        case events.PublicationScheduled() as planned:
            return _planned(event, planned, amount=None, currency=None, published=planned.published)
        case events.ScheduleCancelled() as ended:
            return Ended(ended.schedule_id, CANCELLED, at, "")
        case events.ScheduleFailed() as ended:
            return Ended(ended.schedule_id, FAILED, at, ended.reason)
        case _:
            return None


def listed(
    events_of_product: Iterable[event_pb2.RecordedEvent], skipped: AbstractSet[int], *, up_to: int
) -> Sequence[Listed]:
    """All that was ever planned for a product by its events up to a revision, without those that are left out, by id.

    Raises:
        PoisonousEvent: one of them cannot be read.
    """
    found: dict[str, Listed] = {}
    for event in events_of_product:
        if event.revision > up_to or event.revision in skipped:
            continue
        match plan(event):
            case Planned() as planned:
                found.setdefault(planned.schedule_id, Listed(planned, OPEN, None, ""))
            case Ended() as ended if ended.schedule_id in found:
                one = found[ended.schedule_id]
                if one.state == OPEN:
                    found[ended.schedule_id] = Listed(one.planned, ended.state, ended.ended_at, ended.failure)
            case _:
                pass
    return [found[schedule_id] for schedule_id in sorted(found)]


def _planned(
    event: event_pb2.RecordedEvent,
    planned: events.PriceScheduled | events.PublicationScheduled,
    *,
    amount: str | None,
    currency: str | None,
    published: bool | None,
) -> Planned:
    return Planned(
        schedule_id=planned.schedule_id,
        product_id=product_id_of(event.stream),
        price_amount=amount,
        price_currency=currency,
        published=published,
        effective_at=planned.effective_at.ToDatetime(UTC),
        scheduled_by=event.metadata.actor,
        scheduled_at=event.recorded_at.ToDatetime(UTC),
        reason=event.metadata.reason,
    )
