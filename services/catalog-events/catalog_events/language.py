"""The events of today, and how those of yesterday are read."""

from typing import Final, cast

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
from almagest.eventstore.v1 import event_pb2

from catalog_events.decoder import Decoder, Upcaster

PACKAGE: Final = "almagest.catalog.events.v1."
"""What the type of every event of the catalog begins with."""

Event = (
    ProductCreated
    | ProductDescribed
    | PriceSet
    | PriceRemoved
    | PriceCorrected
    | PriceScheduled
    | PublicationScheduled
    | ScheduleCancelled
    | ScheduleFailed
    | ProductPublished
    | ProductUnpublished
    | ProductDiscontinued
)
"""What can have happened to a product."""

_Timed = ProductCreated | PriceSet | PriceRemoved | ProductPublished | ProductUnpublished


def _effective_when_recorded(message: _Timed, event: event_pb2.RecordedEvent) -> _Timed:
    """Before facts could be scheduled, an event did not say from when it holds, since that was always when it was
    recorded. What is asked for at once still is written so.
    """
    if not message.HasField("effective_at"):
        message.effective_at.CopyFrom(event.recorded_at)
    return message


_DECODER: Final = Decoder(
    types=Event.__args__,
    upcasters=[Upcaster(message, message, _effective_when_recorded) for message in _Timed.__args__],
)


def decode(event: event_pb2.RecordedEvent) -> Event:
    """The event as this version would have written it, with `effective_at` filled in where the event has one.

    Raises:
        UnknownEvent: its type is not in the language that this version knows.
        UnreadableEvent: its payload does not hold what its type says.
    """
    return cast("Event", _DECODER.decode(event))


def type_name(event: Event) -> str:
    """What an event is stored as."""
    return event.DESCRIPTOR.full_name
