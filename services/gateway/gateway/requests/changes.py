"""The feed of changes."""

from typing import Annotated

from pydantic import Field

from gateway import types
from gateway.requests.shapes import Query


class ListChanges(Query):
    """Which changes."""

    after: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2000,
            description="`now`: what is to come; `start`: everything; or the `id` or `cursor` of a change: what is "
            "after it. `Last-Event-ID` goes before it.",
            examples=["start"],
        ),
    ] = "now"
    kind: Annotated[
        list[types.KindFilter], Field(max_length=4, description="Any of these; `vehicle` is cars and trucks.")
    ] = []
    category: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]],
        Field(
            max_length=20,
            description="Any of these, each with those below it. A product that leaves one is told once more.",
            examples=[["vehicles"]],
        ),
    ] = []
    type: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=100)]],
        Field(max_length=20, description="Any of these types of change.", examples=[["PriceSet"]]),
    ] = []
    follow: Annotated[bool, Field(description="Go on with what is to come; else end at what is recorded by now.")] = (
        True
    )
