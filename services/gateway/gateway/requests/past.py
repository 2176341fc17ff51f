"""What products were."""

from typing import Annotated

from pydantic import Field

from gateway import types
from gateway.requests.shapes import Moment, Page, Query


class History(Page):
    """Which changes."""

    recorded_from: Annotated[
        types.KnownAt | None, Field(alias="from", description="Only what was recorded then or later (RFC 3339).")
    ] = None
    recorded_to: Annotated[
        types.KnownAt | None, Field(alias="to", description="Only what was recorded then or before (RFC 3339).")
    ] = None


class DiffVersions(Query):
    """Which two versions."""

    before: Annotated[types.Version, Field(alias="from")]
    after: Annotated[types.Version | None, Field(alias="to", description="The present one if not said.")] = None


class Explain(Moment):
    """Which field, and when."""

    field: Annotated[
        str,
        Field(
            min_length=1,
            max_length=500,
            description="The path of a field, or of the fields below it.",
            examples=["price.amount"],
        ),
    ]
