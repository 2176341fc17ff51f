"""The product: what has happened to it, what that makes of it, and what may happen next.

The events are the messages of `almagest.catalog.events.v1`. Their names and field numbers ARE the storage format: an
event that was written once is folded by every later version of this module, so version with care.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from almagest.catalog.events.v1.product_events_pb2 import Money as MoneyMessage
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
from catalog_events import Event

from catalog_command.domain import errors
from catalog_command.domain.commands import (
    ActivateSchedule,
    CancelSchedule,
    CorrectPrice,
    CreateProduct,
    DescribeProduct,
    DiscontinueProduct,
    ProductCommand,
    PublishProduct,
    PutProduct,
    RestoreProduct,
    ScheduleChange,
    SetPrice,
    UnpublishProduct,
)
from catalog_command.domain.description import Description, Kind, digest, kind_of
from catalog_command.domain.money import Money
from catalog_command.domain.schedule import (
    FARTHEST,
    MAXIMUM_OPEN,
    REMEMBERED_ENDINGS,
    Ending,
    Failure,
    Schedule,
)


class Status(enum.Enum):
    """Where a product is in its life."""

    ABSENT = "absent"
    DRAFT = "draft"
    PUBLISHED = "published"
    DISCONTINUED = "discontinued"


@dataclass(frozen=True, slots=True)
class Product:
    """What decisions need to know, and nothing more: the description itself is not among it.

    Attributes:
        created_at: when it came into being; None while that is not known, as it is of an event of our own that was not
            read back.
        price_since: from when the price holds; None as above.
        status_since: from when it is published, or is not; None as above.
        schedules: what is planned, in the order in which it was.
        endings: how the last schedules ended, oldest first.
        corrected: the last correction of the price, while nothing else has been said about it since.
    """

    status: Status = Status.ABSENT
    sku: str = ""
    kind: Kind = Kind.GENERAL
    description_digest: bytes = b""
    price: Money | None = None
    discontinued_because: str = ""
    created_at: datetime | None = None
    price_since: datetime | None = None
    status_since: datetime | None = None
    schedules: tuple[Schedule, ...] = ()
    endings: tuple[tuple[str, Ending], ...] = ()
    corrected: tuple[datetime, datetime | None, Money] | None = None

    def schedule(self, schedule_id: str) -> Schedule | None:
        """What is planned under an id."""
        return next((schedule for schedule in self.schedules if schedule.schedule_id == schedule_id), None)

    def ending(self, schedule_id: str) -> Ending | None:
        """How a schedule ended, if it was one of the last."""
        return next((ending for ended, ending in self.endings if ended == schedule_id), None)


initial = Product()


def evolve(product: Product, event: Event) -> Product:  # noqa: C901, PLR0911 - one case per event
    """The product after an event. It never refuses: what has happened has happened."""
    match event:
        case ProductCreated():
            described = event.description
            at = _effective_at(event)
            return Product(Status.DRAFT, event.sku, kind_of(described), digest(described), created_at=at)
        case ProductDescribed():
            return replace(product, description_digest=digest(event.description))
        case PriceSet():
            ended = _ended(product, event.schedule_id, Ending.ACTIVATED)
            return replace(ended, price=_money(event.price), price_since=_effective_at(event), corrected=None)
        case PriceRemoved():
            return replace(product, price=None, price_since=_effective_at(event), corrected=None)
        case PriceCorrected():
            return _corrected(product, event)
        case PriceScheduled():
            return _planned(product, event, _money(event.price))
        case PublicationScheduled():
            return _planned(product, event, event.published)
        case ScheduleCancelled():
            return _ended(product, event.schedule_id, Ending.CANCELLED)
        case ScheduleFailed():
            return _ended(product, event.schedule_id, Ending.FAILED)
        case ProductPublished() | ProductUnpublished():
            ended = _ended(product, event.schedule_id, Ending.ACTIVATED)
            status = Status.PUBLISHED if isinstance(event, ProductPublished) else Status.DRAFT
            return replace(ended, status=status, status_since=_effective_at(event))
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
    """The end, for one reason: the same again changes nothing, another one comes too late. No plan outlives it."""
    if product.status is Status.DISCONTINUED and product.discontinued_because == command.reason:
        return []
    _require_changeable(product)
    cancelled = [ScheduleCancelled(schedule_id=schedule.schedule_id) for schedule in product.schedules]
    return [*cancelled, ProductDiscontinued(reason=command.reason)]


def decide_schedule(product: Product, command: ScheduleChange) -> Sequence[Event]:
    """Plans are for the future, few, and never two for the same thing at the same instant."""
    _require_changeable(product)
    asked = command.schedule
    if (known := product.schedule(asked.schedule_id)) is not None:
        if known == asked:
            return []
        raise errors.ScheduleIdReused
    if (ending := product.ending(asked.schedule_id)) is not None:
        raise errors.ScheduleEnded(ending.value)
    if not command.asked_at < asked.effective_at <= command.asked_at + FARTHEST:
        name = "schedule_price" if isinstance(asked.change, Money) else "schedule_publication"
        what = f"must be in the future, at most {FARTHEST.days} days ahead"
        raise errors.TimeOutOfRange(f"{name}.effective_at", what)
    for other in product.schedules:
        if other.effective_at == asked.effective_at and other.is_of_kind(asked):
            raise errors.ScheduleTimeTaken(other.schedule_id)
    if len(product.schedules) >= MAXIMUM_OPEN:
        raise errors.TooManySchedules(MAXIMUM_OPEN)
    if isinstance(asked.change, Money):
        planned = PriceScheduled(schedule_id=asked.schedule_id, price=asked.change.message())
    else:
        planned = PublicationScheduled(schedule_id=asked.schedule_id, published=asked.change)
    planned.effective_at.FromDatetime(asked.effective_at)
    return [planned]


def decide_cancel(product: Product, command: CancelSchedule) -> Sequence[Event]:
    """What has come cannot be taken back; what was taken back already stays so."""
    if product.status is Status.ABSENT:
        raise errors.ProductNotFound
    if product.schedule(command.schedule_id) is not None:
        return [ScheduleCancelled(schedule_id=command.schedule_id)]
    ending = product.ending(command.schedule_id)
    if ending is None:
        raise errors.ScheduleNotFound
    if ending is not Ending.CANCELLED:
        raise errors.ScheduleEnded(ending.value)
    return []


def decide_activate(product: Product, command: ActivateSchedule) -> Sequence[Event]:
    """What is due takes effect as of when it was due, unless what took effect later is there already: who comes late
    does not overrule who came on time. What has ended, in whichever way, stays so.
    """
    if product.status is Status.ABSENT:
        raise errors.ProductNotFound
    schedule = product.schedule(command.schedule_id)
    if schedule is None:
        if product.ending(command.schedule_id) is None:
            raise errors.ScheduleNotFound
        return []
    if command.asked_at < schedule.effective_at:
        raise errors.ScheduleNotDue(schedule.effective_at)
    since = product.price_since if isinstance(schedule.change, Money) else product.status_since
    if since is not None and since > schedule.effective_at:
        return [_failed(schedule, Failure.SUPERSEDED)]
    if schedule.change is True and product.price is None:
        _require_no_price_to_come(product, before=schedule.effective_at)
        return [_failed(schedule, Failure.PRICE_MISSING)]
    return [_come(schedule)]


def decide_correct_price(product: Product, command: CorrectPrice) -> Sequence[Event]:
    """A correction is about the past of the product; where it does not end, it is about the present as well."""
    _require_changeable(product)
    start, end = command.effective_from, command.effective_until
    if product.corrected == (start, end, command.price):
        return []
    if start > command.asked_at:
        raise errors.TimeOutOfRange(
            "correct_price.effective_from", "must not be in the future; schedule the price instead"
        )
    if product.created_at is not None and start < product.created_at:
        raise errors.TimeOutOfRange(
            "correct_price.effective_from",
            f"must not be before the product was created, at {product.created_at.isoformat()}",
        )
    if end is not None and not start < end <= command.asked_at:
        raise errors.TimeOutOfRange(
            "correct_price.effective_until",
            "must be after effective_from and not in the future; leave it out when the price still holds",
        )
    corrected = PriceCorrected(price=command.price.message())
    corrected.effective_from.FromDatetime(start)
    if end is not None:
        corrected.effective_until.FromDatetime(end)
    return [corrected]


def decide_restore(product: Product, command: RestoreProduct) -> Sequence[Event]:
    """What differs from then is made as it was, by events like any others. It is hidden before it loses its price, and
    has one before it is shown. What is planned stays planned.
    """
    _require_changeable(product)
    then, revision = command.earlier, command.revision
    if then is None:
        raise errors.RevisionNotFound(revision)
    happened: list[Event] = []
    if digest(then.description) != product.description_digest:
        happened.append(ProductDescribed(description=then.description, restored_from=revision))
    if product.status is Status.PUBLISHED and not then.published:
        happened.append(ProductUnpublished(restored_from=revision))
    if then.price is None and product.price is not None:
        happened.append(PriceRemoved(restored_from=revision))
    if then.price is not None and then.price != product.price:
        happened.append(PriceSet(price=then.price.message(), restored_from=revision))
    if then.published and product.status is not Status.PUBLISHED:
        happened.append(ProductPublished(restored_from=revision))
    return happened


def decide(  # noqa: C901, PLR0911 - one return per command
    product: Product, command: ProductCommand
) -> Sequence[Event]:
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
        case ScheduleChange():
            return decide_schedule(product, command)
        case CancelSchedule():
            return decide_cancel(product, command)
        case ActivateSchedule():
            return decide_activate(product, command)
        case CorrectPrice():
            return decide_correct_price(product, command)
        case RestoreProduct():
            return decide_restore(product, command)


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


def _effective_at(
    event: ProductCreated | PriceSet | PriceRemoved | ProductPublished | ProductUnpublished,
) -> datetime | None:
    """An event of our own that was not read back does not tell when the log wrote it."""
    return event.effective_at.ToDatetime(UTC) if event.HasField("effective_at") else None


def _money(message: MoneyMessage) -> Money:
    return Money(message.amount, message.currency)


def _planned(product: Product, event: PriceScheduled | PublicationScheduled, change: Money | bool) -> Product:  # noqa: FBT001
    schedule = Schedule(event.schedule_id, change, event.effective_at.ToDatetime(UTC))
    return replace(product, schedules=(*product.schedules, schedule))


def _ended(product: Product, schedule_id: str, ending: Ending) -> Product:
    if not schedule_id:
        return product
    return replace(
        product,
        schedules=tuple(schedule for schedule in product.schedules if schedule.schedule_id != schedule_id),
        endings=(*product.endings, (schedule_id, ending))[-REMEMBERED_ENDINGS:],
    )


def _corrected(product: Product, event: PriceCorrected) -> Product:
    start = event.effective_from.ToDatetime(UTC)
    end = event.effective_until.ToDatetime(UTC) if event.HasField("effective_until") else None
    price = _money(event.price)
    corrected = replace(product, corrected=(start, end, price))
    return replace(corrected, price=price, price_since=start) if end is None else corrected


def _require_no_price_to_come(product: Product, *, before: datetime) -> None:
    for schedule in product.schedules:
        if isinstance(schedule.change, Money) and schedule.effective_at <= before:
            raise errors.EarlierScheduleOpen(schedule.schedule_id)


def _come(schedule: Schedule) -> Event:
    if isinstance(schedule.change, Money):
        event = PriceSet(price=schedule.change.message(), schedule_id=schedule.schedule_id)
    else:
        event = (ProductPublished if schedule.change else ProductUnpublished)(schedule_id=schedule.schedule_id)
    event.effective_at.FromDatetime(schedule.effective_at)
    return event


def _failed(schedule: Schedule, failure: Failure) -> ScheduleFailed:
    return ScheduleFailed(schedule_id=schedule.schedule_id, reason=failure.value)
