"""What can be asked of a product. A command is made of checked values only, so a decision never meets a wrong one."""

from dataclasses import dataclass
from datetime import datetime

from catalog_command.domain.description import Description
from catalog_command.domain.money import Money
from catalog_command.domain.restoration import Earlier
from catalog_command.domain.schedule import Schedule


@dataclass(frozen=True, slots=True)
class CreateProduct:
    """Bring a product into being."""

    product_id: str
    sku: str
    description: Description


@dataclass(frozen=True, slots=True)
class DescribeProduct:
    """Replace its description."""

    description: Description


@dataclass(frozen=True, slots=True)
class PutProduct:
    """Create it, or replace its description when it exists."""

    product_id: str
    sku: str
    description: Description


@dataclass(frozen=True, slots=True)
class SetPrice:
    """Set its price."""

    price: Money


@dataclass(frozen=True, slots=True)
class PublishProduct:
    """Let the public see it."""


@dataclass(frozen=True, slots=True)
class UnpublishProduct:
    """Hide it from the public."""


@dataclass(frozen=True, slots=True)
class DiscontinueProduct:
    """End it."""

    reason: str


@dataclass(frozen=True, slots=True)
class ScheduleChange:
    """Plan a price, a publication or its end.

    Attributes:
        asked_at: the present time.
    """

    schedule: Schedule
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class CancelSchedule:
    """Take back what is planned."""

    schedule_id: str


@dataclass(frozen=True, slots=True)
class ActivateSchedule:
    """Let what is planned take effect.

    Attributes:
        asked_at: the present time.
    """

    schedule_id: str
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class CorrectPrice:
    """Say what the price really was from a time on.

    Attributes:
        effective_until: until when; None: until now and from now on.
        asked_at: the present time.
    """

    price: Money
    effective_from: datetime
    effective_until: datetime | None
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class RestoreProduct:
    """Bring back what it was.

    Attributes:
        earlier: what it was at that revision, once that was looked up.
    """

    revision: int
    earlier: Earlier | None = None


ProductCommand = (
    CreateProduct
    | DescribeProduct
    | PutProduct
    | SetPrice
    | PublishProduct
    | UnpublishProduct
    | DiscontinueProduct
    | ScheduleChange
    | CancelSchedule
    | ActivateSchedule
    | CorrectPrice
    | RestoreProduct
)
