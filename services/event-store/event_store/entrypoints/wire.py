"""From the wire and back. What is not well formed, or over a limit, ends here with the name of the field and of the
limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.buckets import BUCKETS, bucket_of
from chassis.errors import InvalidRequest
from chassis.tokens import Claims

from event_store.application.pages import Filter
from event_store.application.shard_map import Places
from event_store.domain.append import (
    ANY,
    MAXIMUM_REVISION,
    NO_STREAM,
    STREAM_EXISTS,
    Append,
    Appended,
    NewEvent,
    Part,
)
from event_store.domain.stream import (
    MAXIMUM_STREAM_LENGTH,
    MAXIMUM_TYPE_LENGTH,
    METADATA_CATEGORY,
    STREAM_FORM,
    TYPE_FORM,
    canonical_uuid,
    category_of,
    is_type,
)

LIMIT_EXCEEDED: Final = "LIMIT_EXCEEDED"

_MAXIMUM_FINGERPRINT_BYTES = 64
_MAXIMUM_TRACEPARENT_LENGTH = 128
_MAXIMUM_FILTER_ENTRIES = 100
APPEND_OVERHEAD = 200
EVENT_OVERHEAD = 100

Violations = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one append may be."""

    max_appends: int
    max_events: int
    max_streams: int
    max_payload_bytes: int
    max_metadata_bytes: int
    max_request_bytes: int


class Place(NamedTuple):
    """Where a stream lives."""

    stream: str
    category: str
    bucket: int
    shard: int


class Faults:
    """What is wrong with a request, field by field."""

    def __init__(self) -> None:
        self._violations: Violations = []
        self._limit = False

    def add(self, field: str, description: str) -> None:
        """A field is not well formed."""
        self._violations.append((field, description))

    def exceeds(self, field: str, limit: str, *, actual: int, maximum: int) -> None:
        """A field is over a limit."""
        self._limit = True
        self._violations.append((field, f"is {actual}, and {limit} is {maximum}"))

    def end(self) -> None:
        """Raise what was found.

        Raises:
            InvalidRequest: Something was.
        """
        if self._violations:
            raise InvalidRequest(self._violations, reason=LIMIT_EXCEEDED if self._limit else None)


def check_request(request: event_store_pb2.AppendRequest, limits: Limits) -> None:
    """See that the request as a whole may be looked at.

    Raises:
        InvalidRequest: It holds no append, or too many, or too much.
    """
    faults = Faults()
    count, size = len(request.appends), request.ByteSize()
    if not count:
        faults.add("appends", "is empty; at least one append is needed")
    if count > limits.max_appends:
        faults.exceeds("appends", "max_appends", actual=count, maximum=limits.max_appends)
    if size > limits.max_request_bytes:
        faults.exceeds("", "max_request_bytes", actual=size, maximum=limits.max_request_bytes)
    faults.end()


def place(stream: str, partition_key: str, buckets: Places, faults: Faults, field: str = "stream") -> Place:
    """Where a stream lives; for a name that is not one, somewhere, with a fault noted."""
    category = None
    if len(stream) > MAXIMUM_STREAM_LENGTH:
        faults.exceeds(
            field, "the maximum length of a stream's name", actual=len(stream), maximum=MAXIMUM_STREAM_LENGTH
        )
    else:
        category = category_of(stream)
        if category is None:
            faults.add(field, STREAM_FORM)
    if len(partition_key) > MAXIMUM_STREAM_LENGTH:
        faults.exceeds(
            "partition_key",
            "the maximum length of a partition key",
            actual=len(partition_key),
            maximum=MAXIMUM_STREAM_LENGTH,
        )
    if category is None:
        return Place(stream, "", 0, 0)
    bucket = bucket_of(partition_key or stream[len(category) + 1 :])
    return Place(stream, category, bucket, buckets.shard_of(bucket))


def writable(at: Place, faults: Faults, field: str = "stream") -> None:
    """See that a stream is one that callers may write to."""
    if at.category == METADATA_CATEGORY:
        faults.add(field, f"is of the category {METADATA_CATEGORY}, which is written by SetStreamMetadata alone")


def append(
    message: event_store_pb2.Append, limits: Limits, buckets: Places, claims: Claims | None, workload: str
) -> tuple[int, Append]:
    """The shard and the append that a message asks for. Who writes is what the claims and the caller's certificate
    say, whatever the message says; without claims a service writes on its own account, and says for whom.

    Raises:
        InvalidRequest: It is not well formed or over a limit.
    """
    faults = Faults()
    append_id = canonical_uuid(message.append_id)
    if append_id is None:
        faults.add("append_id", "is not a UUID")
    at = place(message.stream, message.partition_key, buckets, faults)
    writable(at, faults)
    expected = _expected(message, faults)
    _bounded(message, limits, faults)
    size = APPEND_OVERHEAD
    events: list[NewEvent] = []
    for index, event in enumerate(message.events):
        new = _event("", index, event, message.traceparent, limits, claims, workload, faults)
        events.append(new)
        size += EVENT_OVERHEAD + len(new.payload) + len(new.metadata)
    also: Sequence[Part] = ()
    if message.also:
        also, more = _also(message, at.stream, limits, buckets, claims, workload, faults)
        size += more
    faults.end()
    return at.shard, Append(
        append_id or "",
        at.stream,
        at.category,
        at.bucket,
        expected,
        message.fingerprint,
        events,
        size,
        message.traceparent,
        also,
    )


def _bounded(message: event_store_pb2.Append, limits: Limits, faults: Faults) -> None:
    """See that an append may be looked at event by event."""
    if len(message.fingerprint) > _MAXIMUM_FINGERPRINT_BYTES:
        faults.exceeds(
            "fingerprint",
            "the maximum length of a fingerprint",
            actual=len(message.fingerprint),
            maximum=_MAXIMUM_FINGERPRINT_BYTES,
        )
    if len(message.traceparent) > _MAXIMUM_TRACEPARENT_LENGTH:
        faults.add("traceparent", "is not a W3C trace context")
    events, streams = len(message.events), 1
    if not events:
        faults.add("events", "is empty; at least one event is needed")
    if message.also:
        events += sum(len(part.events) for part in message.also)
        streams += len(message.also)
    if events > limits.max_events:
        faults.exceeds("events", "max_events", actual=events, maximum=limits.max_events)
    if streams > limits.max_streams:
        faults.exceeds("also", "max_streams", actual=streams, maximum=limits.max_streams)
    if events > limits.max_events or streams > limits.max_streams:
        faults.end()


def _also(
    message: event_store_pb2.Append,
    stream: str,
    limits: Limits,
    buckets: Places,
    claims: Claims | None,
    workload: str,
    faults: Faults,
) -> tuple[Sequence[Part], int]:
    """The further streams of an append, and how large they are.

    That they live on one shard is not asked here: the shard of the first one refuses the buckets that it does not hold,
    but answers what it wrote when they lived together.
    """
    named = {stream}
    parts: list[Part] = []
    size = 0
    for number, part in enumerate(message.also):
        field = f"also[{number}]."
        at = place(part.stream, part.partition_key, buckets, faults, f"{field}stream")
        writable(at, faults, f"{field}stream")
        if part.stream in named:
            faults.add(f"{field}stream", "is named twice")
        named.add(part.stream)
        events = [
            _event(field, index, event, message.traceparent, limits, claims, workload, faults)
            for index, event in enumerate(part.events)
        ]
        size += APPEND_OVERHEAD + sum(EVENT_OVERHEAD + len(new.payload) + len(new.metadata) for new in events)
        parts.append(Part(at.stream, at.category, at.bucket, _expected(part, faults, field), events))
    faults.end()
    return parts, size


def _expected(message: event_store_pb2.Append | event_store_pb2.StreamAppend, faults: Faults, prefix: str = "") -> int:
    which = message.WhichOneof("expected")
    if which == "exact_revision":
        if message.exact_revision > MAXIMUM_REVISION:
            faults.add(f"{prefix}exact_revision", f"is over {MAXIMUM_REVISION}")
            return ANY
        return message.exact_revision
    if which == "no_stream":
        return NO_STREAM
    if which == "stream_exists":
        return STREAM_EXISTS
    if which is None:
        # Not ANY: a writer who forgot to say what it believes must not overwrite what it has not seen.
        faults.add(f"{prefix}expected", "is not set; say exact_revision, no_stream, stream_exists or any")
    return ANY


def _event(
    prefix: str,
    index: int,
    event: event_pb2.NewEvent,
    traceparent: str,
    limits: Limits,
    claims: Claims | None,
    workload: str,
    faults: Faults,
) -> NewEvent:
    event_id = canonical_uuid(event.event_id)
    if event_id is None:
        faults.add(f"{prefix}events[{index}].event_id", "is not a UUID")
    name = event.type
    if len(name) > MAXIMUM_TYPE_LENGTH:
        faults.exceeds(
            f"{prefix}events[{index}].type",
            "the maximum length of a type's name",
            actual=len(name),
            maximum=MAXIMUM_TYPE_LENGTH,
        )
    elif not is_type(name):
        faults.add(f"{prefix}events[{index}].type", TYPE_FORM)
    payload = event.payload
    if len(payload) > limits.max_payload_bytes:
        faults.exceeds(
            f"{prefix}events[{index}].payload",
            "max_payload_bytes",
            actual=len(payload),
            maximum=limits.max_payload_bytes,
        )
    metadata = event.metadata
    if claims is not None:
        metadata.actor = claims.subject
        metadata.transaction_id = claims.transaction_id
    metadata.workload = workload
    if not metadata.traceparent:
        metadata.traceparent = traceparent
    written = metadata.SerializeToString()
    if len(written) > limits.max_metadata_bytes:
        faults.exceeds(
            f"{prefix}events[{index}].metadata",
            "max_metadata_bytes",
            actual=len(written),
            maximum=limits.max_metadata_bytes,
        )
    return NewEvent(event_id or "", name, payload, written)


def fill(message: event_store_pb2.Appended, answer: Appended, *, epoch: int, bucket: int, shard: int) -> None:
    """Fill the message for a written append, in place: made with keyword arguments it would take four times as long,
    and there is one per append.
    """
    message.first_revision = answer.first_revision
    message.last_revision = answer.last_revision
    message.replayed = answer.replayed
    locate(message.position, epoch=epoch, bucket=bucket, shard=shard, position=answer.position)
    for stream, first, last in answer.also:
        message.also.add(stream=stream, first_revision=first, last_revision=last)


def locate(message: event_pb2.ConsistencyToken, *, epoch: int, bucket: int, shard: int, position: int) -> None:
    """Fill in where a write stands."""
    message.epoch = epoch
    message.bucket = bucket
    message.shard = shard
    message.position = position


def kept(message: event_store_pb2.Filter) -> Filter:
    """The filter that a message asks for.

    Raises:
        InvalidRequest: It is too long, or names buckets that do not exist.
    """
    faults = Faults()
    for field, entries in (("categories", message.categories), ("types", message.types), ("buckets", message.buckets)):
        if len(entries) > _MAXIMUM_FILTER_ENTRIES:
            faults.exceeds(
                f"filter.{field}",
                "the maximum number of filter entries",
                actual=len(entries),
                maximum=_MAXIMUM_FILTER_ENTRIES,
            )
    for field, names in (("categories", message.categories), ("types", message.types)):
        for index, name in enumerate(names):
            if not name or len(name) > MAXIMUM_TYPE_LENGTH or "\0" in name:
                faults.add(f"filter.{field}[{index}]", "is not a name")
    buckets: set[int] = set()
    for index, bucket_range in enumerate(message.buckets):
        if bucket_range.first > bucket_range.last or bucket_range.last >= BUCKETS:
            faults.add(f"filter.buckets[{index}]", f"is not a range within 0 to {BUCKETS - 1}")
        else:
            buckets.update(range(bucket_range.first, bucket_range.last + 1))
    faults.end()
    everywhere = len(buckets) == BUCKETS
    return Filter(tuple(message.categories), tuple(message.types), () if everywhere else tuple(sorted(buckets)))


def positions(after: Sequence[event_pb2.ShardPosition]) -> Mapping[int, int]:
    """A vector of positions.

    Raises:
        InvalidRequest: A shard comes twice, or a position is out of range.
    """
    faults = Faults()
    vector: dict[int, int] = {}
    for index, entry in enumerate(after):
        if entry.shard in vector:
            faults.add(f"after[{index}].shard", "was named before")
        if entry.position > MAXIMUM_REVISION:
            faults.add(f"after[{index}].position", f"is over {MAXIMUM_REVISION}")
        vector[entry.shard] = entry.position
    faults.end()
    return vector


def checked_revision(revision: int, field: str) -> int:
    """A revision that the log can hold.

    Raises:
        InvalidRequest: It is out of range.
    """
    if revision > MAXIMUM_REVISION:
        raise InvalidRequest([(field, f"is over {MAXIMUM_REVISION}")])
    return revision
