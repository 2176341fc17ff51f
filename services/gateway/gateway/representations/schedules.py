"""What is planned for products."""

from datetime import datetime
from typing import Annotated, Any

from almagest.catalog.v1 import schedules_pb2
from pydantic import Field

from gateway import types
from gateway.representations.products import Changed
from gateway.representations.shapes import EXAMPLE_PATH, Shape, at


class Scheduled(Changed):
    """A plan that was made."""

    schedule_id: types.Uuid


class ScheduledPrice(Shape):
    """A price that is planned."""

    amount: types.Amount
    currency: types.Currency


class Refusal(Shape):
    """Why a schedule is still open although it was tried to carry it out."""

    reason: Annotated[str, Field(examples=["USER_NOT_FOUND"])]
    message: str
    refused_at: datetime
    attempts: int
    next_attempt_at: datetime


class Schedule(Shape):
    """A plan, and what became of it."""

    schedule_id: types.Uuid
    product_id: types.Uuid
    price: Annotated[ScheduledPrice | None, Field(description="The price that the product gets, if that is the plan.")]
    published: Annotated[bool | None, Field(description="Whether it is published or hidden, if that is the plan.")]
    effective_at: datetime
    state: types.ScheduleState
    scheduled_by: types.Uuid
    scheduled_at: datetime
    reason: str | None
    ended_at: datetime | None
    failure: Annotated[
        str | None,
        Field(
            description="Why it failed: `PRICE_MISSING`, or `SUPERSEDED` by what took effect later and came before it.",
            examples=["PRICE_MISSING"],
        ),
    ]
    refusal: Refusal | None
    links: Annotated[dict[str, str], Field(examples=[{"product": EXAMPLE_PATH}])]


class SchedulePage(Shape):
    """Schedules, those due first first."""

    items: list[Schedule]
    next_cursor: str | None


SCHEDULE_STATES = {
    "open": schedules_pb2.SCHEDULE_STATE_OPEN,
    "activated": schedules_pb2.SCHEDULE_STATE_ACTIVATED,
    "cancelled": schedules_pb2.SCHEDULE_STATE_CANCELLED,
    "failed": schedules_pb2.SCHEDULE_STATE_FAILED,
}


_SCHEDULE_STATE_NAMES = {number: name for name, number in SCHEDULE_STATES.items()}


def schedule(message: schedules_pb2.Schedule) -> dict[str, Any]:
    """A schedule as catalog-query tells it."""
    is_price = message.WhichOneof("change") == "price"
    path = f"/v1/products/{message.product_id}"
    kept = message.refusal
    return {
        "schedule_id": message.schedule_id,
        "product_id": message.product_id,
        "price": {"amount": message.price.amount, "currency": message.price.currency} if is_price else None,
        "published": None if is_price else message.published,
        "effective_at": at(message.effective_at),
        "state": _SCHEDULE_STATE_NAMES.get(message.state, "open"),
        "scheduled_by": message.scheduled_by,
        "scheduled_at": at(message.scheduled_at),
        "reason": message.reason or None,
        "ended_at": at(message.ended_at) if message.HasField("ended_at") else None,
        "failure": message.failure or None,
        "refusal": {
            "reason": kept.problem.reason,
            "message": kept.problem.message,
            "refused_at": at(kept.refused_at),
            "attempts": kept.attempts,
            "next_attempt_at": at(kept.next_attempt_at),
        }
        if message.HasField("refusal")
        else None,
        "links": {"product": path, "history": f"{path}/history"},
    }
