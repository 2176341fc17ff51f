"""What became of products: their history, how two versions differ, and where a value comes from."""

from datetime import datetime
from typing import Annotated, Any

from almagest.catalog.v1 import past_pb2, query_pb2
from pydantic import Field

from gateway import types
from gateway.representations.shapes import EXAMPLE_PATH, Shape, at, fragment, maybe


class FieldChange(Shape):
    """One field of the document, before and after."""

    field: Annotated[str, Field(examples=["price.amount"])]
    before: Any
    after: Any


class FieldFact(Shape):
    """One field of the document at some time."""

    field: Annotated[str, Field(examples=["price.amount"])]
    value: Any


class Change(Shape):
    """One event of a product's life."""

    revision: types.Revision
    type: Annotated[str, Field(description="What happened.", examples=["PriceSet"])]
    recorded_at: datetime
    actor: Annotated[str | None, Field(description="Who: a user id.")]
    reason: Annotated[str | None, Field(description="Why, in the actor's words.")]
    trace_id: str | None
    job_id: str | None
    import_line: int | None
    fields: list[FieldChange]
    position: Annotated[str, Field(description="Where it stands in the log, as `as_of` takes it.", examples=["0:1234"])]
    effective_at: Annotated[
        datetime | None, Field(description="From when what it says holds, if that is not when it was recorded.")
    ]
    effective_until: Annotated[datetime | None, Field(description="Until when, exclusive, if it ends.")]
    schedule_id: Annotated[types.Uuid | None, Field(description="The schedule that it is about.")]
    facts: Annotated[
        list[FieldFact], Field(description="What holds at its own time: what is scheduled, or was corrected.")
    ]
    facts_withheld: Annotated[
        bool, Field(description="Whether `facts` lacks what is scheduled, which takes the right to change the catalog.")
    ]


class HistoryPage(Shape):
    """Changes, latest first."""

    items: list[Change]
    next_cursor: str | None


def change(message: query_pb2.ProductChange) -> dict[str, Any]:
    """A change as catalog-query tells it."""
    return {
        "revision": message.revision,
        "type": message.type,
        "recorded_at": at(message.recorded_at),
        "actor": message.actor or None,
        "reason": message.reason or None,
        "trace_id": message.trace_id or None,
        "job_id": message.job_id or None,
        "import_line": message.import_line or None,
        "fields": [field_change(field) for field in message.fields],
        "position": f"{message.position.shard}:{message.position.position}",
        "effective_at": maybe(message, "effective_at"),
        "effective_until": maybe(message, "effective_until"),
        "schedule_id": message.schedule_id or None,
        "facts": [{"field": fact.field, "value": fragment(fact.value)} for fact in message.facts],
        "facts_withheld": message.facts_withheld,
    }


def field_change(message: query_pb2.FieldChange) -> dict[str, Any]:
    """One field, before and after."""
    return {"field": message.field, "before": fragment(message.before), "after": fragment(message.after)}


class Diff(Shape):
    """How two versions differ."""

    product_id: types.Uuid
    from_revision: types.Revision
    to_revision: types.Revision
    fields: list[FieldChange]


class Explanation(Shape):
    """Where the value of a field comes from."""

    product_id: types.Uuid
    field: Annotated[str, Field(examples=["price.amount"])]
    value: Any
    before: Annotated[Any, Field(description="What it replaced.")]
    revision: Annotated[types.Revision, Field(description="The product's, at that moment.")]
    as_of: datetime
    known_at: datetime
    set_by: Annotated[Change | None, Field(description="The event; null when the field never had a value.")]
    scheduled_by: Annotated[
        Change | None, Field(description="The event that had scheduled it, if it was scheduled and has come.")
    ]
    links: Annotated[dict[str, str], Field(examples=[{"history": f"{EXAMPLE_PATH}/history"}])]


def explanation(request: past_pb2.ExplainFieldRequest, answer: past_pb2.ExplainFieldResponse) -> dict[str, Any]:
    """Where a value comes from, as catalog-query tells it."""
    path = f"/v1/products/{request.product_id}"
    links = {"product": path, "history": f"{path}/history"}
    if answer.set_by.job_id:
        links["job"] = f"/v1/jobs/{answer.set_by.job_id}"
    return {
        "product_id": request.product_id,
        "field": request.field,
        "value": fragment(answer.value),
        "before": fragment(answer.before),
        "revision": answer.revision,
        "as_of": at(answer.moment.as_of),
        "known_at": at(answer.moment.known_at),
        "set_by": change(answer.set_by) if answer.HasField("set_by") else None,
        "scheduled_by": change(answer.scheduled_by) if answer.HasField("scheduled_by") else None,
        "links": links,
    }
