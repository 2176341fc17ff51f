"""The metadata of streams on the wire. Setting them is an append of one event to a stream of the store's own."""

from datetime import timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID, uuid5

from almagest.eventstore.v1 import event_store_pb2
from chassis.tokens import Claims

from event_store.application.shard_map import Places
from event_store.domain.append import ANY, MAXIMUM_REVISION, NO_STREAM, Append, NewEvent, Setting
from event_store.domain.stream import METADATA_CATEGORY, StreamMetadata, canonical_uuid, metadata_stream
from event_store.entrypoints.wire import APPEND_OVERHEAD, EVENT_OVERHEAD, Faults, Limits, place

_TYPE: Final = event_store_pb2.StreamMetadataSet.DESCRIPTOR.full_name
_MAXIMUM_AGE_SECONDS: Final = 100 * 366 * 86_400
_EVENT_IDS: Final = UUID("5a5a2f58-6f0c-5b9e-8f3c-0d1f6b0a7c55")


def setting(
    message: event_store_pb2.SetStreamMetadataRequest,
    limits: Limits,
    buckets: Places,
    person: Claims | None,
    workload: str,
) -> tuple[int, Append]:
    """The shard and the append that setting a stream's metadata comes down to. Who does it is what the claims and the
    caller's certificate say.

    Raises:
        InvalidRequest: It is not well formed.
    """
    faults = Faults()
    append_id = canonical_uuid(message.append_id)
    if append_id is None:
        faults.add("append_id", "is not a UUID")
    at = place(message.stream, message.partition_key, buckets, faults)
    if at.category == METADATA_CATEGORY:
        faults.add("stream", "holds metadata, and has none of its own")
    expected = message.expected_revision if message.HasField("expected_revision") else ANY
    if message.HasField("expected_revision") and expected < NO_STREAM:
        faults.add("expected_revision", "is under -1")
    max_count, max_age = _bounds(message.metadata, faults)
    context = message.context
    context.actor = "" if person is None else person.subject
    context.transaction_id = "" if person is None else person.transaction_id
    context.workload = workload
    written = context.SerializeToString()
    if len(written) > limits.max_metadata_bytes:
        faults.exceeds("context", "max_metadata_bytes", actual=len(written), maximum=limits.max_metadata_bytes)
    faults.end()
    payload = event_store_pb2.StreamMetadataSet(stream=at.stream, metadata=message.metadata).SerializeToString(
        deterministic=True
    )
    return at.shard, Append(
        append_id or "",
        metadata_stream(at.stream),
        METADATA_CATEGORY,
        at.bucket,
        expected,
        sha256(f"{expected} ".encode() + payload).digest(),
        [NewEvent(str(uuid5(_EVENT_IDS, append_id or "")), _TYPE, payload, written)],
        APPEND_OVERHEAD + EVENT_OVERHEAD + len(payload) + len(written),
        context.traceparent,
        setting=Setting(at.stream, at.category, at.bucket, max_count, max_age, message.metadata.tombstoned),
    )


def _bounds(wanted: event_store_pb2.StreamMetadata, faults: Faults) -> tuple[int | None, timedelta | None]:
    max_count = wanted.max_count if wanted.HasField("max_count") else None
    if max_count is not None and not 1 <= max_count <= MAXIMUM_REVISION:
        faults.add("metadata.max_count", f"is not between 1 and {MAXIMUM_REVISION}")
    if not wanted.HasField("max_age"):
        return max_count, None
    microseconds = wanted.max_age.seconds * 1_000_000 + wanted.max_age.nanos // 1000
    if 0 < microseconds <= _MAXIMUM_AGE_SECONDS * 1_000_000:
        return max_count, timedelta(microseconds=microseconds)
    faults.add("metadata.max_age", f"is not between a microsecond and {_MAXIMUM_AGE_SECONDS} seconds")
    return max_count, None


def answered(known: StreamMetadata | None) -> event_store_pb2.GetStreamMetadataResponse:
    """What is known of a stream's metadata."""
    if known is None:
        return event_store_pb2.GetStreamMetadataResponse(revision=-1)
    response = event_store_pb2.GetStreamMetadataResponse(revision=known.revision)
    response.metadata.tombstoned = known.tombstoned
    if known.max_count is not None:
        response.metadata.max_count = known.max_count
    if known.max_age is not None:
        response.metadata.max_age.FromTimedelta(known.max_age)
    return response
