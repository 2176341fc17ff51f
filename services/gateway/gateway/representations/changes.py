"""The change feed."""

from datetime import datetime
from typing import Annotated, Any

from almagest.catalog.v1 import changes_pb2
from pydantic import Field

from gateway import types
from gateway.representations.past import FieldChange
from gateway.representations.shapes import Shape, at, fragment


class CatalogChange(Shape):
    """One event of the change feed."""

    cursor: Annotated[str, Field(description="To go on after this change; the `id` of the server-sent event.")]
    type: Annotated[str, Field(description="What happened.", examples=["PriceSet"])]
    product_id: types.Uuid
    sku: Annotated[str, Field(examples=["volvo-v60-2026"])]
    revision: types.Revision
    kind: Annotated[str, Field(examples=["car"])]
    category: Annotated[str, Field(description="After this change.", examples=["vehicles/estate"])]
    recorded_at: datetime
    actor: Annotated[str | None, Field(description="Who: a user id.")]
    reason: Annotated[str | None, Field(description="Why, in the actor's words.")]
    trace_id: str | None
    job_id: str | None
    import_line: int | None
    fields: Annotated[list[FieldChange], Field(description="What it changed.")]
    consistency_token: Annotated[
        str, Field(description="For reads that must see this, in `Almagest-Consistency`.", examples=["CAEQWyDXAw"])
    ]
    unreadable: Annotated[
        bool, Field(description="The change is of a newer version of Almagest, and `fields` do not tell what it was.")
    ]


def catalog_change(message: changes_pb2.CatalogChange) -> dict[str, Any]:
    """A change as the change feed tells it."""
    return {
        "cursor": message.cursor,
        "type": message.type,
        "product_id": message.product_id,
        "sku": message.sku,
        "revision": message.revision,
        "kind": message.kind,
        "category": message.category,
        "recorded_at": at(message.recorded_at),
        "actor": message.actor or None,
        "reason": message.reason or None,
        "trace_id": message.trace_id or None,
        "job_id": message.job_id or None,
        "import_line": message.import_line or None,
        "fields": [
            {"field": field.field, "before": fragment(field.before), "after": fragment(field.after)}
            for field in message.fields
        ],
        "consistency_token": message.consistency_token,
        "unreadable": message.unreadable,
    }
