"""What the catalog refuses, by name."""

from collections.abc import Sequence
from datetime import datetime

Violation = tuple[str, str]
"""The path of a wrong field, and what is wrong with it and would be right."""


class InvalidValue(ValueError):
    """One value is not what it should be; the message says what would be right."""


class DomainError(Exception):
    """A command that the domain refuses, whatever else the system does.

    Attributes:
        command: which command of the item was refused, from 0; None when it is not one of them alone.
    """

    command: int | None = None


class InvalidCommand(DomainError):
    """The command is wrong in itself, in whatever state the product is."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        more = len(self.violations) - 1
        first = ": ".join(filter(None, self.violations[0]))
        super().__init__(first + (f" (and {more} more)" if more else ""))


class ProductNotFound(DomainError):
    """There is no such product."""

    def __init__(self) -> None:
        super().__init__("There is no product with this id.")


class ProductAlreadyExists(DomainError):
    """A creation met another product with the same SKU."""

    def __init__(self, sku: str) -> None:
        self.sku = sku
        super().__init__(f"A product with the SKU {sku} exists and is described differently.")


class ProductDiscontinued(DomainError):
    """Nothing about a discontinued product changes any more."""

    def __init__(self) -> None:
        super().__init__("The product is discontinued; nothing about it can change.")


class KindChanged(DomainError):
    """A description would turn a product into another kind."""

    def __init__(self, *, kind: str, asked: str) -> None:
        self.kind = kind
        self.asked = asked
        super().__init__(f"The product is of the kind {kind}, which never changes; asked was {asked}.")


class PriceMissing(DomainError):
    """A product without a price was to be published."""

    def __init__(self) -> None:
        super().__init__("The product has no price; set one before it is published.")


class TimeOutOfRange(DomainError):
    """A time is not where it must be, seen from now or from the product's life.

    Attributes:
        field: the path of the time, from the name of the command on.
        what: what would be right.
    """

    def __init__(self, field: str, what: str) -> None:
        self.field = field
        self.what = what
        super().__init__(f"{field.rpartition('.')[2]} {what}.")


class ScheduleNotFound(DomainError):
    """The product has, and had lately, no such schedule."""

    def __init__(self) -> None:
        super().__init__("The product has no schedule with this id.")


class ScheduleEnded(DomainError):
    """The schedule cannot be taken back or made anew: it has ended."""

    def __init__(self, ending: str) -> None:
        self.ending = ending
        super().__init__(f"The schedule has ended: it was {ending}.")


class ScheduleIdReused(DomainError):
    """The schedule id stands for another plan of the product."""

    def __init__(self) -> None:
        super().__init__("The schedule with this id is another one.")


class ScheduleTimeTaken(DomainError):
    """Two plans for the same thing at the same instant: which of them should hold?"""

    def __init__(self, schedule_id: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(f"The schedule {schedule_id} changes the same at the same time; cancel it first.")


class TooManySchedules(DomainError):
    """The product has as many open schedules as it may have."""

    def __init__(self, maximum: int) -> None:
        super().__init__(f"The product has {maximum} open schedules; cancel one before another is made.")


class ScheduleNotDue(DomainError):
    """What is planned was to take effect before its time."""

    def __init__(self, effective_at: datetime) -> None:
        self.effective_at = effective_at
        super().__init__(f"The schedule is not due before {effective_at.isoformat()}.")


class EarlierScheduleOpen(DomainError):
    """A publication is due together with the price that it needs, and the price has not come yet."""

    def __init__(self, schedule_id: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(f"The price that the schedule {schedule_id} sets must come first.")


class RevisionNotFound(DomainError):
    """The product was never at this revision, or what it was then is not kept."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__(f"The product has no revision {revision} that could be restored.")
