"""What a change carries for those who want to know more: a token for fresh reads, and the trace that it was made in."""

import base64

from almagest.eventstore.v1 import event_pb2

_PARTS = 4
"""Of a traceparent: version, trace, span, flags."""


def consistency_token(event: event_pb2.RecordedEvent, *, epoch: int) -> str:
    """A token for reads that must see an event."""
    token = event_pb2.ConsistencyToken(epoch=epoch, bucket=event.bucket, shard=event.shard, position=event.position)
    return base64.urlsafe_b64encode(token.SerializeToString()).rstrip(b"=").decode()


def trace_id(traceparent: str) -> str:
    """The trace id of a traceparent; empty when there is none."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= _PARTS else ""
