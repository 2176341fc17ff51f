"""What a product's document must say, folded from the log by code that shares nothing with the read model's."""

from typing import Any, Final

from almagest.catalog.events.v1 import product_events_pb2 as events

FIELDS: Final = ("sku", "kind", "name", "text", "category", "status", "price", "revision")
"""The fields of a document that are compared."""

_STATUS: Final = {
    "ProductCreated": "draft",
    "ProductPublished": "published",
    "ProductUnpublished": "draft",
    "ProductDiscontinued": "discontinued",
}


def folded(state: dict[str, Any], kind: str, payload: bytes, revision: int) -> dict[str, Any]:
    """The fields after one more event, of the type whose last word is `kind`."""
    state = {**state, "revision": revision}
    if kind in _STATUS:
        state["status"] = _STATUS[kind]
    if kind == "ProductCreated":
        created = events.ProductCreated.FromString(payload)
        state |= {"sku": created.sku, "price": None} | _description(created.description)
    elif kind == "ProductDescribed":
        state |= _description(events.ProductDescribed.FromString(payload).description)
    elif kind == "PriceSet":
        price = events.PriceSet.FromString(payload).price
        state["price"] = {"amount": price.amount, "currency": price.currency}
    elif kind == "PriceRemoved":
        state["price"] = None
    return state


def price_of(kind: str, payload: bytes) -> str | None:
    """The amount that an event sets."""
    return events.PriceSet.FromString(payload).price.amount if kind == "PriceSet" else None


def _description(description: events.Description) -> dict[str, Any]:
    return {
        "kind": description.WhichOneof("attributes"),
        "name": description.name,
        "text": description.text,
        "category": description.category,
    }
