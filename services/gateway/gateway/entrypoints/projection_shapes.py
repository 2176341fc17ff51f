"""Projections as operators see them: what the gateway answers, and what it takes."""

from datetime import datetime
from typing import Annotated, Any, Literal

from almagest.catalog.v1 import projections_pb2
from pydantic import Field

from gateway import types
from gateway.representations.shapes import Shape, at
from gateway.requests.shapes import Body


class GenerationProgress(Shape):
    """How far a generation has applied a shard of the log."""

    event_shard: int
    checkpoint: int
    head: int
    lag_events: Annotated[int, Field(description="How many positions it is behind.")]
    lag_seconds: Annotated[float, Field(description="The age of the oldest event that is not applied.")]
    running: Annotated[bool, Field(description="Whether the replica that answers projects it.")]
    error: Annotated[str | None, Field(description="What keeps it from going on.")]


class Comparison(Shape):
    """How a generation differs from the one that is read."""

    against: Annotated[int, Field(examples=[1])]
    compared: Annotated[int, Field(description="The rows that were compared.", examples=[9581])]
    missing: Annotated[int, Field(description="The rows that the generation does not have.")]
    extra: Annotated[int, Field(description="The rows that only the generation has.")]
    different: Annotated[int, Field(description="The rows that differ.")]
    fields: Annotated[
        dict[str, int], Field(description="How many rows differ in each field.", examples=[{"document.name": 12}])
    ]
    began_at: datetime
    ended_at: datetime


class Generation(Shape):
    """What one shard of the read model knows of a generation."""

    read_shard: int
    generation: Annotated[int, Field(examples=[2])]
    state: Literal["serving", "filling", "ready"]
    created_at: datetime
    created_by: str | None
    ready_at: datetime | None
    progress: list[GenerationProgress]
    held_streams: Annotated[int, Field(description="Products that stand still behind an event that is parked.")]
    drifted_products: Annotated[int, Field(description="Products that drifted and were not repaired.")]
    comparison: Comparison | None


class Projection(Shape):
    """A projection with its generations in every shard."""

    name: Annotated[str, Field(examples=["products"])]
    generations: list[Generation]


class ParkedEvent(Shape):
    """An event that could not be applied, with what is held behind it."""

    parked_id: Annotated[str, Field(examples=["0199f5a0-7c1e-7d31-9a5b-0d2c3e4f5a6b"])]
    generation: int
    read_shard: int
    product_id: str
    revision: int
    type: Annotated[str, Field(examples=["PriceSet"])]
    event_id: str
    event_shard: int
    position: int
    error: Annotated[str, Field(examples=["unreadable almagest.catalog.events.v1.PriceSet"])]
    since: datetime
    attempts: int
    tried_at: datetime
    held_events: Annotated[int, Field(description="How many events are held behind it.")]


class ParkedPage(Shape):
    """A page of what is parked."""

    items: list[ParkedEvent]
    next_cursor: str | None


class Retried(Shape):
    """What came of trying again."""

    applied: Annotated[int, Field(description="How many products go on.")]
    still_parked: int
    parked: Annotated[list[ParkedEvent], Field(description="What still cannot be applied, at most 200 of them.")]


class Skipped(Shape):
    """What came of leaving an event out."""

    parked: Annotated[ParkedEvent | None, Field(description="The next event that cannot be applied, if there is one.")]


class Rebuild(Shape):
    """The generation that is being filled."""

    generation: Annotated[int, Field(examples=[2])]
    created: Annotated[bool, Field(description="Whether this request began it.")]


class Difference(Shape):
    """One field of one row that differs."""

    key: Annotated[str, Field(description="For products the product id.")]
    revision: int
    kind: Literal["field", "missing", "extra", "revision"]
    field: Annotated[str | None, Field(description="Its path; none for a whole row.", examples=["document.name"])]
    before: Annotated[str | None, Field(description="As JSON.", examples=['"Volvo V60"'])]
    after: Annotated[str | None, Field(description="As JSON.", examples=['"VOLVO V60"'])]


class DifferencePage(Shape):
    """A page of a bounded sample of what differs, and the counts of all."""

    items: list[Difference]
    next_cursor: str | None
    comparison: Annotated[Comparison | None, Field(description="None while it has not been compared in every shard.")]


class Switched(Shape):
    """Which generation was read before."""

    generation: Annotated[int, Field(examples=[2])]
    previous: Annotated[int, Field(examples=[1])]


class Drift(Shape):
    """A product whose row is not the fold of its events."""

    product_id: str
    generation: int
    read_shard: int
    kind: Literal["missing", "extra", "behind", "ahead", "different"]
    revision: int
    fields: Annotated[list[str], Field(description="The columns that differ.", examples=[["document"]])]
    found_at: datetime
    seen_at: datetime


class DriftPage(Shape):
    """A page of what has drifted."""

    items: list[Drift]
    next_cursor: str | None


class Repaired(Shape):
    """What the rows of a product are now."""

    revision: Annotated[int | None, Field(description="None when there is no such product.")]
    changed: Annotated[int, Field(description="How many generations had another row before.")]


class Skip(Body):
    """Why an event is left out, for those who come after."""

    reason: Annotated[str, Field(min_length=1, max_length=500, examples=["written by mistake"])]


class Switch(Body):
    """What may differ."""

    accepted_fields: Annotated[
        list[str], Field(default_factory=list[str], max_length=200, examples=[["document.name"]])
    ]
    force: bool = False


class Repair(Body):
    """Which product."""

    product_id: types.Uuid
    forget_skipped: Annotated[
        bool, Field(description="Apply the events, too, that an operator had left out of the projection.")
    ] = False


def projection(message: projections_pb2.Projection) -> dict[str, Any]:
    """A projection as JSON."""
    return {"name": message.name, "generations": [_generation(one) for one in message.generations]}


def _generation(one: projections_pb2.ProjectionGeneration) -> dict[str, Any]:
    return {
        "read_shard": one.read_shard,
        "generation": one.generation,
        "state": one.state,
        "created_at": at(one.created_at),
        "created_by": one.created_by or None,
        "ready_at": at(one.ready_at) if one.HasField("ready_at") else None,
        "progress": [
            {
                "event_shard": progress.event_shard,
                "checkpoint": progress.checkpoint,
                "head": progress.head,
                "lag_events": max(progress.head - progress.checkpoint, 0),
                "lag_seconds": progress.lag_seconds,
                "running": progress.running,
                "error": progress.error or None,
            }
            for progress in one.progress
        ],
        "held_streams": one.held_streams,
        "drifted_products": one.drifted_products,
        "comparison": comparison(one.comparison) if one.HasField("comparison") else None,
    }


def comparison(one: projections_pb2.Comparison) -> dict[str, Any]:
    """A comparison as JSON."""
    return {
        "against": one.against,
        "compared": one.compared,
        "missing": one.missing,
        "extra": one.extra,
        "different": one.different,
        "fields": dict(sorted(one.fields.items())),
        "began_at": at(one.began_at),
        "ended_at": at(one.ended_at),
    }


def parked(one: projections_pb2.ParkedEvent) -> dict[str, Any]:
    """A parked event as JSON."""
    return {
        "parked_id": one.parked_id,
        "generation": one.generation,
        "read_shard": one.read_shard,
        "product_id": one.product_id,
        "revision": one.revision,
        "type": one.type,
        "event_id": one.event_id,
        "event_shard": one.event_shard,
        "position": one.position,
        "error": one.error,
        "since": at(one.since),
        "attempts": one.attempts,
        "tried_at": at(one.tried_at),
        "held_events": one.held_events,
    }


def difference(one: projections_pb2.Difference) -> dict[str, Any]:
    """A difference as JSON."""
    return {
        "key": one.key,
        "revision": one.revision,
        "kind": one.kind,
        "field": one.field or None,
        "before": one.before or None,
        "after": one.after or None,
    }


def drift(one: projections_pb2.Drift) -> dict[str, Any]:
    """A drifted product as JSON."""
    return {
        "product_id": one.product_id,
        "generation": one.generation,
        "read_shard": one.read_shard,
        "kind": one.kind,
        "revision": one.revision,
        "fields": list(one.fields),
        "found_at": at(one.found_at),
        "seen_at": at(one.seen_at),
    }
