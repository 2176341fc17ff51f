"""What requests have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gateway import types


class Body(BaseModel):
    """A JSON object with these keys and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Query(BaseModel):
    """Query parameters, these and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Query):
    """Which page, and how much of it."""

    page_size: Annotated[int, Field(ge=1, le=200, description="How many at most.")] = 50
    cursor: types.Cursor | None = None


class Moment(Query):
    """When to look: the present if not said."""

    as_of: types.AsOf | None = None
    known_at: types.KnownAt | None = None
