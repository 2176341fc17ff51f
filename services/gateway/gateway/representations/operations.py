"""The process itself, and how far the read models are."""

from typing import Annotated

from pydantic import Field

from gateway.representations.shapes import Shape


class Projector(Shape):
    """How far one projector is."""

    event_shard: int
    read_shard: int
    checkpoint: int
    head: int
    lag_events: Annotated[int, Field(description="How many positions it is behind.")]
    lag_seconds: Annotated[float, Field(description="The age of the oldest event that is not applied.")]
    running: bool


class Projections(Shape):
    """How far the read models are behind the log."""

    items: list[Projector]


class Health(Shape):
    """That the process lives."""

    status: Annotated[str, Field(examples=["ok"])]


class Ready(Shape):
    """Whether it can do its work, and what each probe said."""

    ready: bool
    probes: dict[str, str]
