"""What happened, on the wire."""

from datetime import datetime

import orjson
from almagest.catalog.v1 import query_pb2
from almagest.eventstore.v1 import event_pb2

from catalog_query.application.history import Change
from catalog_query.domain import timeline


def change(told: Change, *, now: datetime, preview: bool) -> query_pb2.ProductChange:
    """An event and what it changed. What it says about the future is left out for those who may not see that."""
    event = told.event
    metadata = event.metadata
    message = query_pb2.ProductChange(
        revision=event.revision,
        type=event.type.rpartition(".")[2],
        recorded_at=event.recorded_at,
        actor=metadata.actor,
        reason=told.reason,
        trace_id=_trace_id(metadata.traceparent),
        job_id=metadata.job_id,
        import_line=metadata.import_line,
        fields=[
            query_pb2.FieldChange(field=one.field, before=json(one.before), after=json(one.after))
            for one in told.fields
        ],
        position=event_pb2.ShardPosition(shard=event.shard, position=event.position),
    )
    other = timeline.told(event)
    message.schedule_id = other.schedule_id
    if other.effective_at is not None:
        message.effective_at.FromDatetime(other.effective_at)
    if other.effective_until is not None:
        message.effective_until.FromDatetime(other.effective_until)
    if other.effective_at is not None and other.effective_at > now and not preview:
        message.facts_withheld = bool(other.facts)
    else:
        message.facts.extend(query_pb2.FieldFact(field=field, value=json(value)) for field, value in other.facts)
    return message


def json(value: object) -> str:
    """A value of a document as JSON."""
    return orjson.dumps(value).decode()


def _trace_id(traceparent: str) -> str:
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 else ""  # noqa: PLR2004 - version, trace, span, flags
