"""What is planned for products."""

from typing import Annotated

from pydantic import Discriminator, Field, Tag

from gateway import types
from gateway.requests.products import Money
from gateway.requests.shapes import Body, Page


class SchedulePrice(Body):
    """A price from a time on."""

    price: Money
    effective_at: types.Time
    reason: types.Reason | None = None


class SchedulePublication(Body):
    """A publication, or its end, at a time."""

    published: Annotated[bool, Field(description="`true`: publish; `false`: hide from the public.")]
    effective_at: types.Time
    reason: types.Reason | None = None


SCHEDULED_PRICE = "a price"
SCHEDULED_PUBLICATION = "a publication"


def _planned(body: object) -> str:
    return SCHEDULED_PUBLICATION if isinstance(body, dict) and "published" in body else SCHEDULED_PRICE


NewSchedule = Annotated[
    Annotated[SchedulePrice, Tag(SCHEDULED_PRICE)] | Annotated[SchedulePublication, Tag(SCHEDULED_PUBLICATION)],
    Discriminator(_planned),
]
"""What can be planned."""


class ListSchedules(Page):
    """Which schedules."""

    due_before: Annotated[types.Time | None, Field(description="Only those that are effective before this time.")] = (
        None
    )
    state: Annotated[
        list[types.ScheduleState], Field(max_length=4, description="Any of these; only open ones if not said.")
    ] = []
