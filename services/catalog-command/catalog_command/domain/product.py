"""The product: what has happened to it, what that makes of it, and what may happen next.

The events are the messages of `almagest.catalog.events.v1`. Their names and field numbers ARE the storage format: an
event that was written once is folded by every later version of this module, so version with care.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from almagest.catalog.events.v1.product_events_pb2 import (
    PriceSet,
    ProductCreated,
    ProductDescribed,
    ProductDiscontinued,
    ProductPublished,
    ProductUnpublished,
)

from catalog_command.domain import errors
from catalog_command.domain.commands import (
    CreateProduct,
    DescribeProduct,
    DiscontinueProduct,
    ProductCommand,
    PublishProduct,
    PutProduct,
    SetPrice,
    UnpublishProduct,
)
from catalog_command.domain.description import Description, Kind, digest, kind_of
from catalog_command.domain.money import Money

Event = ProductCreated | ProductDescribed | PriceSet | ProductPublished | ProductUnpublished | ProductDiscontinued


class Status(enum.Enum):
    """Where a product is in its life."""

    ABSENT = "absent"
    DRAFT = "draft"
    PUBLISHED = "published"
    DISCONTINUED = "discontinued"


@dataclass(frozen=True, slots=True)
class Product:
    """What decisions need to know, and nothing more: the description itself is not among it."""

    status: Status = Status.ABSENT
    sku: str = ""
    kind: Kind = Kind.GENERAL
    description_digest: bytes = b""
    price: Money | None = None
    discontinued_because: str = ""


initial = Product()


def evolve(product: Product, event: Event) -> Product:
    """The product after an event. It never refuses: what has happened has happened."""
    match event:
        case ProductCreated():
            described = event.description
            return Product(Status.DRAFT, event.sku, kind_of(described), digest(described))
        case ProductDescribed():
            return replace(product, description_digest=digest(event.description))
        case PriceSet():
            return replace(product, price=Money(event.price.amount, event.price.currency))
        case ProductPublished():
            return replace(product, status=Status.PUBLISHED)
        case ProductUnpublished():
            return replace(product, status=Status.DRAFT)
        case ProductDiscontinued():
            return replace(product, status=Status.DISCONTINUED, discontinued_because=event.reason)


def fold(product: Product, events: Iterable[Event]) -> Product:
    """The product after some events."""
    for event in events:
        product = evolve(product, event)
    return product


def decide_create(product: Product, command: CreateProduct) -> Sequence[Event]:
    """The same creation again changes nothing; another one finds the SKU taken."""
    if product.status is Status.ABSENT:
        return [_created(command)]
    _require_changeable(product)
    if product.description_digest == command.description.digest:
        return []
    raise errors.ProductAlreadyExists(command.sku)


def decide_describe(product: Product, command: DescribeProduct) -> Sequence[Event]:
    """The description is replaced as a whole; the kind stays."""
    _require_changeable(product)
    return _described(product, command.description)


def decide_put(product: Product, command: PutProduct) -> Sequence[Event]:
    """Create or describe, whichever it takes."""
    if product.status is Status.ABSENT:
        return [_created(command)]
    _require_changeable(product)
    return _described(product, command.description)


def decide_set_price(product: Product, command: SetPrice) -> Sequence[Event]:
    """A draft may be priced before anybody sees it."""
    _require_changeable(product)
    return [] if product.price == command.price else [PriceSet(price=command.price.message())]


def decide_publish(product: Product, _: PublishProduct) -> Sequence[Event]:
    """What the public sees has a price."""
    _require_changeable(product)
    if product.status is Status.PUBLISHED:
        return []
    if product.price is None:
        raise errors.PriceMissing
    return [ProductPublished()]


def decide_unpublish(product: Product, _: UnpublishProduct) -> Sequence[Event]:
    """A draft is hidden already."""
    _require_changeable(product)
    return [ProductUnpublished()] if product.status is Status.PUBLISHED else []


def decide_discontinue(product: Product, command: DiscontinueProduct) -> Sequence[Event]:
    """The end, for one reason: the same again changes nothing, another one comes too late."""
    if product.status is Status.DISCONTINUED and product.discontinued_because == command.reason:
        return []
    _require_changeable(product)
    return [ProductDiscontinued(reason=command.reason)]


def decide(product: Product, command: ProductCommand) -> Sequence[Event]:  # noqa: PLR0911 - one return per command
    """What happens when something is asked of a product; nothing, when it already is as asked.

    Raises:
        errors.DomainError: It is refused.
    """
    match command:
        case CreateProduct():
            return decide_create(product, command)
        case DescribeProduct():
            return decide_describe(product, command)
        case PutProduct():
            return decide_put(product, command)
        case SetPrice():
            return decide_set_price(product, command)
        case PublishProduct():
            return decide_publish(product, command)
        case UnpublishProduct():
            return decide_unpublish(product, command)
        case DiscontinueProduct():
            return decide_discontinue(product, command)


def _created(command: CreateProduct | PutProduct) -> ProductCreated:
    return ProductCreated(product_id=command.product_id, sku=command.sku, description=command.description.message)


def _described(product: Product, description: Description) -> Sequence[Event]:
    if description.kind is not product.kind:
        raise errors.KindChanged(kind=product.kind.value, asked=description.kind.value)
    if product.description_digest == description.digest:
        return []
    return [ProductDescribed(description=description.message)]


def _require_changeable(product: Product) -> None:
    if product.status is Status.ABSENT:
        raise errors.ProductNotFound
    if product.status is Status.DISCONTINUED:
        raise errors.ProductDiscontinued
