"""What can be asked of the read model: a filter, an order, a place to go on from."""

import enum
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias
from uuid import UUID

VEHICLES = frozenset({"car", "truck"})
KINDS = frozenset({"general"}) | VEHICLES
STATUSES = frozenset({"draft", "published", "discontinued"})


class Sort(enum.Enum):
    """The order of a page. Ties are broken by the product id, in the same direction."""

    NAME = "name"
    PRICE = "price"
    MODEL_YEAR = "model_year"
    UPDATED = "updated"
    RELEVANCE = "relevance"


SortValue: TypeAlias = str | int | Decimal | datetime
"""What a product is sorted by: the caseless name, the price, the model year, the time of the last change, or the
relevance in millionths.
"""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Where a product stands in an order: two products never stand at the same place."""

    value: SortValue
    product_id: UUID


@dataclass(frozen=True, slots=True)
class Filter:
    """Keeps the products for which every condition that is not None holds. Makes, models are compared without case."""

    kinds: frozenset[str] | None = None
    make: str | None = None
    model: str | None = None
    model_year_from: int | None = None
    model_year_to: int | None = None
    category: str | None = None
    currency: str | None = None
    price_from: Decimal | None = None
    price_to: Decimal | None = None
    statuses: frozenset[str] | None = None
    sku: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A page of products: the `size` first ones after `after`. `words` is a Postgres `tsquery`."""

    filter: Filter
    sort: Sort
    descending: bool
    size: int
    after: Key | None = None
    words: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One product of a page."""

    key: Key
    document: bytes
