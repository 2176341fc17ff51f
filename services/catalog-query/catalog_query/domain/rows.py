"""What the read model keeps of a product."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class ProductRow(NamedTuple):
    """One row of `products`, its columns in the order in which they are written, after the revision that it is
    written over.
    """

    base_revision: int
    """The revision that the row has before, -1 when there is none: so a write notices that the row is not what was
    folded upon.
    """
    product_id: str
    kind: str
    revision: int
    sku: str
    name_key: str
    category: str
    status: str
    price_amount: str | None
    price_currency: str | None
    make_key: str | None
    model_key: str | None
    model_year: int | None
    doors: int | None
    seats: int | None
    payload_kg: int | None
    gross_weight_kg: int | None
    updated_at: datetime
    document: bytes
    search: str | None
    """The words, None when they are those that the row has: making and parsing them is most of the work."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A product's document, ready to send, and its revision."""

    document: bytes
    revision: int


def caseless(text: str) -> str:
    """What texts are compared and sorted by, so that `apple` stands beside `Apple`."""
    return text.casefold()
