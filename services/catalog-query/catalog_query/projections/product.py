"""A product's document in, its row in the read model out."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, cast

import orjson

from catalog_query.domain import words
from catalog_query.domain.product import Document
from catalog_query.domain.query import VEHICLES
from catalog_query.domain.rows import ProductRow, caseless

_NOT_A_VEHICLE: Final[Mapping[str, object]] = {}


def row(document: Document, *, before: Document | None) -> ProductRow:
    """The row of a product, to be written over the row of the document before, None when there is none."""
    kind = document["kind"]
    price = document["price"]
    attributes = document["attributes"]
    is_vehicle = kind in VEHICLES
    vehicle = attributes if is_vehicle else _NOT_A_VEHICLE
    return ProductRow(
        base_revision=-1 if before is None else before["revision"],
        product_id=document["product_id"],
        kind=kind,
        revision=document["revision"],
        sku=document["sku"],
        name_key=caseless(document["name"]),
        category=document["category"],
        status=document["status"],
        price_amount=price["amount"] if price else None,
        price_currency=price["currency"] if price else None,
        make_key=caseless(cast("str", vehicle["make"] or "")) if is_vehicle else None,
        model_key=caseless(cast("str", vehicle["model"] or "")) if is_vehicle else None,
        model_year=cast("int | None", vehicle.get("model_year")),
        doors=cast("int | None", vehicle.get("doors")),
        seats=cast("int | None", vehicle.get("seats")),
        payload_kg=cast("int | None", vehicle.get("payload_kg")),
        gross_weight_kg=cast("int | None", vehicle.get("gross_weight_kg")),
        updated_at=datetime.fromisoformat(document["updated_at"]),
        document=orjson.dumps(document),
        # A fold shares what did not change; what is searched is described in one piece, with the attributes.
        search=None if before is not None and before["attributes"] is attributes else _search(document),
    )


def document_of(stored: bytes) -> Document:
    """The document of a row."""
    return cast("Document", orjson.loads(stored))


def _search(document: Document) -> str:
    attributes = document["attributes"]
    important = [attributes.get(name) for name in ("brand", "make", "model", "model_year")]
    other = [attributes.get(name) for name in ("gtin", "vin")]
    styles = cast("Sequence[str]", attributes.get("body_styles") or ())
    properties = cast("Mapping[str, str]", attributes.get("properties") or {})
    return words.vector(
        important=_joined([document["sku"], document["name"], *important]),
        other=_joined(
            [document["kind"], document["category"], *other, *styles, *properties.values(), document["text"]]
        ),
    )


def _joined(parts: Sequence[object]) -> str:
    return " ".join(str(part) for part in parts if part)
