"""Products as they are, and what became of writes."""

from datetime import datetime
from typing import Annotated, Any

from almagest.catalog.v1 import command_pb2
from pydantic import Field

from gateway import types
from gateway.representations.shapes import EXAMPLE_PATH, ItemProblem, Shape


class Price(Shape):
    """An exact amount of money."""

    amount: types.Amount
    currency: types.Currency


class ProductDocument(Shape):
    """A product, as the read model has it. This shape is for the documentation: the bytes are passed through."""

    product_id: types.Uuid
    sku: types.Sku
    kind: types.Kind
    name: str
    text: str | None
    category: str | None
    status: types.Status
    attributes: Annotated[dict[str, Any], Field(description="By kind, as in the creation; what is not known is null.")]
    price: Price | None
    revision: types.Revision
    created_at: datetime
    updated_at: datetime


class HeldProduct(Shape):
    """A product that stands still before an event that could not be applied to the read model."""

    product_id: types.Uuid
    held_revision: Annotated[
        int, Field(description="The event's revision: what was written since is not shown.", examples=[4])
    ]


class ProductPage(Shape):
    """A page of products."""

    items: list[ProductDocument]
    held: Annotated[
        list[HeldProduct],
        Field(
            description=(
                "Those of the items that are not up to date: an event of theirs could not be applied, and they are"
                " shown, kept and sorted as they were before it. Usually none."
            ),
            examples=[[]],
        ),
    ]
    next_cursor: Annotated[str | None, Field(description="For the next page; null when this is the last.")]


class Changed(Shape):
    """What became of a write."""

    product_id: types.Uuid
    sku: types.Sku | None
    revision: types.Revision
    changed: Annotated[bool, Field(description="False when the product already was as asked.")]
    created: Annotated[bool, Field(description="Whether the product came into being.")]
    consistency_token: Annotated[str, Field(description="For reads that must see this.", examples=["CAEQWyDXAw"])]
    links: Annotated[
        dict[str, str],
        Field(
            description="Where to go from here.",
            examples=[
                {
                    "self": EXAMPLE_PATH,
                    "history": f"{EXAMPLE_PATH}/history",
                    "schedules": f"{EXAMPLE_PATH}/schedules",
                }
            ],
        ),
    ]


def changed(executed: command_pb2.Executed, sku: str | None) -> dict[str, Any]:
    """What catalog-command did."""
    path = f"/v1/products/{executed.product_id}"
    return {
        "product_id": executed.product_id,
        "sku": sku,
        "revision": executed.revision,
        "changed": executed.changed,
        "created": executed.created,
        "consistency_token": executed.consistency_token,
        "links": {"self": path, "history": path + "/history", "schedules": path + "/schedules"},
    }


class BatchItem(Shape):
    """One of the products asked for."""

    product_id: types.Uuid
    product: ProductDocument | None
    problem: ItemProblem | None
    held_revision: Annotated[
        int | None,
        Field(
            description=(
                "The revision of an event that could not be applied: what was written since is not in the product."
                " Null: nothing is held."
            ),
            examples=[None],
        ),
    ]


class Batch(Shape):
    """The products asked for, in the order of the request."""

    items: list[BatchItem]
