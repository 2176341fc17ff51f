"""What the read model keeps of a product."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID


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


class VersionRow(NamedTuple):
    """One row of `product_versions`: what was believed of a product for some time, since some time. None: for ever."""

    product: ProductRow
    made_by: int
    """The revision of the event that made the row."""
    valid_from: datetime
    recorded_from: datetime
    valid_to: datetime | None = None
    superseded_at: datetime | None = None
    """From then on something else was recorded for then and after."""
    planned: bool = False
    """Whether something is scheduled that has not come yet."""
    words_of: tuple[int, datetime] | None = None
    """The row (`made_by`, `valid_from`) whose words this one has, unless it brings its own."""


@dataclass(frozen=True, slots=True)
class Splice:
    """What is believed anew from some time on."""

    product_id: UUID
    seen: int
    """The revision up to which the table must know the product, -1: not at all."""
    made_by: int
    at: datetime
    """When that was recorded."""
    since: datetime
    """From when on all is replaced."""
    rows: Sequence[VersionRow]


@dataclass(frozen=True, slots=True)
class LatestVersion:
    """The row of a product that holds for ever after, as far as is known."""

    document: bytes
    made_by: int
    valid_from: datetime
    planned: bool
    words: str | None = None
    """Its words, if they were asked for."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A product's document, ready to send, and its revision."""

    document: bytes
    revision: int


def caseless(text: str) -> str:
    """What texts are compared and sorted by, so that `apple` stands beside `Apple`."""
    return text.casefold()
