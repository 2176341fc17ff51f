"""The product as its readers see it: a JSON document folded from the product's events.

The order of the keys is part of the contract, since the bytes are stored ready to send. The same fold feeds the read
model and explains a product's history, so that what the history says cannot drift from what the document shows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypedDict, cast

import catalog_events
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.eventstore.v1 import event_pb2

from catalog_query.domain.errors import RevisionGap, UnknownEvent, UnreadableEvent

CATEGORY: Final = "product"
"""The category of the streams that products are kept in: a product's stream is `product-<product_id>`."""


class Price(TypedDict):
    """An exact amount, as text, since JSON numbers are not exact."""

    amount: str
    currency: str


class Document(TypedDict):
    """A product ready to send. Never changed in place: folds share what did not change."""

    product_id: str
    sku: str
    kind: str
    name: str
    text: str
    category: str
    status: str
    attributes: Mapping[str, object]
    price: Price | None
    revision: int
    created_at: str
    updated_at: str


_Apply = Callable[[Document, Any, event_pb2.RecordedEvent], Document]


@dataclass(frozen=True, slots=True)
class FieldChange:
    """The change of one field of the document, named by its path; None where there was or is no value."""

    field: str
    before: object
    after: object


def stream_of(product_id: str) -> str:
    """The stream that a product's events are in."""
    return f"{CATEGORY}-{product_id}"


def product_id_of(stream: str) -> str:
    """The product that a stream is about."""
    return stream.partition("-")[2]


def evolve(document: Document | None, event: event_pb2.RecordedEvent) -> Document:
    """The document after one more event.

    Raises:
        RevisionGap: when the event is not the next one of its stream: an event was lost or doubled on the way, and
            going on would hide that.
        UnknownEvent: when its type is not in the published language that this version knows.
        UnreadableEvent: when its payload does not hold what its type says.
    """
    expected = 0 if document is None else document["revision"] + 1
    if event.revision != expected:
        raise RevisionGap(event, expected=expected)
    return apply(document, event)


def apply(document: Document | None, event: event_pb2.RecordedEvent) -> Document:
    """As `evolve`, for a caller who has made sure of the order, or who only looks at some fields of the answer.

    Raises:
        UnknownEvent, UnreadableEvent: see `evolve`.
    """
    message = decoded(event)
    return _APPLY[type(message)](document or _NOTHING, message, event)


def decoded(event: event_pb2.RecordedEvent) -> catalog_events.Event:
    """What the event says, in the words of today.

    Raises:
        UnknownEvent, UnreadableEvent: see `evolve`.
    """
    try:
        return catalog_events.decode(event)
    except catalog_events.UnknownEvent:
        raise UnknownEvent(event) from None
    except catalog_events.UnreadableEvent:
        raise UnreadableEvent(event) from None


def instant(event: event_pb2.RecordedEvent) -> str:
    """When the event was recorded, in RFC 3339 with microseconds."""
    stamp = event.recorded_at
    return f"{_second(stamp.seconds)}.{stamp.nanos // 1000:06d}Z"


@lru_cache(maxsize=1_024)
def _second(seconds: int) -> str:
    # Events that follow each other are mostly of the same second, and this is a tenth of what a fold costs.
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def facets(event: event_pb2.RecordedEvent) -> frozenset[str]:
    """Which independent parts of the document an event replaces as a whole. Going back until each part was met gives
    the state without reading everything.
    """
    message = decoded(event)
    if isinstance(message, events.PriceCorrected):
        return _NO_FACET if message.HasField("effective_until") else _PRICE
    return _FACETS[type(message)]


def reason(event: event_pb2.RecordedEvent) -> str:
    """Why, in the actor's words: said with the request, or, when a product is discontinued, in the event itself."""
    if event.metadata.reason:
        return event.metadata.reason
    message = decoded(event)
    return message.reason if isinstance(message, events.ProductDiscontinued) else ""


ALL_FACETS: Final = frozenset({"description", "price", "status"})


def changes(before: Document | None, after: Document) -> Iterator[FieldChange]:
    """The fields that differ, by path, in the order of the document. What every event changes (revision, time) is
    not among them.
    """
    old: Mapping[str, object] = {} if before is None else fields(before)
    new = fields(after)
    for field in {**old, **new}:
        if old.get(field) != new.get(field):
            yield FieldChange(field=field, before=old.get(field), after=new.get(field))


_BOOKKEEPING: Final = frozenset({"revision", "created_at", "updated_at"})


def fields(document: Document) -> Mapping[str, object]:
    """The document's fields by path, in its order, without what every event changes."""
    return dict(_flatten("", cast("Mapping[str, object]", document)))


def _flatten(prefix: str, value: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, inner in value.items():
        if not prefix and key in _BOOKKEEPING:
            continue
        if isinstance(inner, Mapping):
            yield from _flatten(f"{prefix}{key}.", cast("Mapping[str, object]", inner))
        else:
            yield prefix + key, inner


def _created(_: Document, created: events.ProductCreated, event: event_pb2.RecordedEvent) -> Document:
    description = created.description
    kind, attributes = _attributes(description, event)
    at = instant(event)
    return {
        "product_id": created.product_id,
        "sku": created.sku,
        "kind": kind,
        "name": description.name,
        "text": description.text,
        "category": description.category,
        "status": "draft",
        "attributes": attributes,
        "price": None,
        "revision": event.revision,
        "created_at": at,
        "updated_at": at,
    }


def _described(document: Document, described: events.ProductDescribed, event: event_pb2.RecordedEvent) -> Document:
    description = described.description
    kind, attributes = _attributes(description, event)
    return {
        **document,
        "kind": kind,
        "name": description.name,
        "text": description.text,
        "category": description.category,
        "attributes": attributes,
        "revision": event.revision,
        "updated_at": instant(event),
    }


def _price_set(
    document: Document, priced: events.PriceSet | events.PriceCorrected, event: event_pb2.RecordedEvent
) -> Document:
    return {
        **document,
        "price": {"amount": priced.price.amount, "currency": priced.price.currency},
        "revision": event.revision,
        "updated_at": instant(event),
    }


def _price_corrected(document: Document, corrected: events.PriceCorrected, event: event_pb2.RecordedEvent) -> Document:
    """A correction that ends in the past leaves the present as it is."""
    if corrected.HasField("effective_until"):
        return _noted(document, corrected, event)
    return _price_set(document, corrected, event)


def _price_removed(document: Document, _: object, event: event_pb2.RecordedEvent) -> Document:
    return {**document, "price": None, "revision": event.revision, "updated_at": instant(event)}


def _noted(document: Document, _: object, event: event_pb2.RecordedEvent) -> Document:
    """What concerns another time than now moves the revision only: the document says what holds now, to everybody, and
    what will hold is not everybody's business.
    """
    return {**document, "revision": event.revision}


def _becomes(status: str) -> _Apply:
    def apply_status(document: Document, _: object, event: event_pb2.RecordedEvent) -> Document:
        return {**document, "status": status, "revision": event.revision, "updated_at": instant(event)}

    return apply_status


def _attributes(description: events.Description, event: event_pb2.RecordedEvent) -> tuple[str, Mapping[str, object]]:
    kind = description.WhichOneof("attributes")
    if kind == "car":
        car = description.car
        return kind, {**_vehicle(car.vehicle), "doors": car.doors or None, "seats": car.seats or None}
    if kind == "truck":
        truck = description.truck
        return kind, {
            **_vehicle(truck.vehicle),
            "payload_kg": truck.payload_kg or None,
            "gross_weight_kg": truck.gross_weight_kg or None,
        }
    if kind == "general":
        general = description.general
        return kind, {
            "brand": general.brand or None,
            "gtin": general.gtin or None,
            # A map has no order on the wire: by name, so that the same events always give the same bytes.
            "properties": dict(sorted(general.properties.items())),
        }
    raise UnreadableEvent(event)


def _vehicle(vehicle: events.VehicleAttributes) -> dict[str, object]:
    return {
        "make": vehicle.make or None,
        "model": vehicle.model or None,
        "model_year": vehicle.model_year or None,
        "vin": vehicle.vin or None,
        "body_styles": list(vehicle.body_styles),
    }


_NOTHING: Final = cast("Document", dict.fromkeys(Document.__annotations__))

_APPLY: Final[Mapping[type[catalog_events.Event], _Apply]] = {
    events.ProductCreated: _created,
    events.ProductDescribed: _described,
    events.PriceSet: _price_set,
    events.PriceRemoved: _price_removed,
    events.PriceCorrected: _price_corrected,
    events.PriceScheduled: _noted,
    events.PublicationScheduled: _noted,
    events.ScheduleCancelled: _noted,
    events.ScheduleFailed: _noted,
    events.ProductPublished: _becomes("published"),
    events.ProductUnpublished: _becomes("draft"),
    events.ProductDiscontinued: _becomes("discontinued"),
}

_PRICE: Final = frozenset({"price"})
_STATUS: Final = frozenset({"status"})
_NO_FACET: Final = frozenset[str]()
_FACETS: Final[Mapping[type[catalog_events.Event], frozenset[str]]] = {
    events.ProductCreated: ALL_FACETS,
    events.ProductDescribed: frozenset({"description"}),
    events.PriceSet: _PRICE,
    events.PriceRemoved: _PRICE,
    events.PriceScheduled: _NO_FACET,
    events.PublicationScheduled: _NO_FACET,
    events.ScheduleCancelled: _NO_FACET,
    events.ScheduleFailed: _NO_FACET,
    events.ProductPublished: _STATUS,
    events.ProductUnpublished: _STATUS,
    events.ProductDiscontinued: _STATUS,
}

TYPES: Final[frozenset[str]] = frozenset(event.DESCRIPTOR.name for event in _APPLY)
"""The short names of all types of event."""
