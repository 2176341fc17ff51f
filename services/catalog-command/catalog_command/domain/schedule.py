"""What is planned for a product: that it have a price, or be public or not, from a time on."""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from catalog_command.domain.money import Money

MAXIMUM_OPEN: Final = 100
"""How many schedules of a product may wait at once."""
FARTHEST: Final = timedelta(days=5 * 366)
"""How far ahead something may be planned."""
REMEMBERED_ENDINGS: Final = 200
"""How many of a product's ended schedules are known by name; asking for an older one is asking for one unknown."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A change that waits for its time.

    Attributes:
        change: the price, or whether it is published.
    """

    schedule_id: str
    change: Money | bool
    effective_at: datetime

    def is_of_kind(self, other: "Schedule") -> bool:
        """Whether both change the same: the price, or the publication."""
        return isinstance(self.change, Money) == isinstance(other.change, Money)


class Ending(enum.Enum):
    """How a schedule ended."""

    ACTIVATED = "activated"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Failure(enum.Enum):
    """Why a schedule that was due could not take effect, by the name that the log has for it."""

    PRICE_MISSING = "PRICE_MISSING"
    SUPERSEDED = "SUPERSEDED"
