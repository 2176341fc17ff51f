"""Bad input at the door: each limit is named, and nothing is written."""

import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.errors import RemoteProblem
from google.protobuf.duration_pb2 import Duration


@pytest.fixture
async def small(databases, replica):
    """A store with small limits."""
    limits = {
        "max_appends": 3,
        "max_events": 4,
        "max_payload_bytes": 100,
        "max_metadata_bytes": 500,
        "max_request_bytes": 20_000,
        "max_batch_streams": 3,
        "max_batch_events": 5,
        "max_batch_bytes": 2_000,
    }
    async with replica(databases, **limits) as running:
        yield running


def too_long(client):
    return f"product-{'x' * 300}"


@pytest.mark.parametrize(
    ("make", "field", "says"),
    [
        (lambda c: c.item("product"), "stream", "<category>-<id>"),
        (lambda c: c.item("Product-1"), "stream", "<category>-<id>"),
        (lambda c: c.item("product-"), "stream", "<category>-<id>"),
        (lambda c: c.item("-1"), "stream", "<category>-<id>"),
        (lambda c: c.item("product-1\0"), "stream", "<category>-<id>"),
        (lambda c: c.item("product-1\n"), "stream", "<category>-<id>"),
        (lambda c: c.item("product-ü"), "stream", "<category>-<id>"),
        (lambda c: c.item(too_long(c)), "stream", "200"),
        (lambda c: c.item(c.stream(), partition_key="x" * 300), "partition_key", "200"),
        (lambda c: c.item(c.stream(), append_id="not-a-uuid"), "append_id", "UUID"),
        (lambda c: c.item(c.stream(), append_id=" 0" * 16), "append_id", "UUID"),
        (lambda c: c.item(c.stream(), expected=2**63), "exact_revision", "9223372036854775807"),
        (lambda c: c.item(c.stream(), expected=""), "expected", "not set"),
        (lambda c: c.item(c.stream(), 0), "events", "empty"),
        (lambda c: c.item(c.stream(), 5), "events", "max_events is 4"),
        (lambda c: c.item(c.stream(), fingerprint=b"x" * 65), "fingerprint", "64"),
        (lambda c: c.item(c.stream(), traceparent="x" * 200), "traceparent", "trace context"),
        (lambda c: c.item(c.stream(), [b"x" * 101]), "events[0].payload", "max_payload_bytes is 100"),
        (lambda c: c.item(c.stream(), [c.event(reason="x" * 600)]), "events[0].metadata", "max_metadata_bytes is 500"),
        (lambda c: c.item(c.stream(), [c.event(), c.event(name="")]), "events[1].type", "full name"),
        (lambda c: c.item(c.stream(), [c.event(name="a..b")]), "events[0].type", "full name"),
        (lambda c: c.item(c.stream(), [c.event(name="x" * 300)]), "events[0].type", "200"),
        (
            lambda c: c.item(c.stream(), [event_pb2.NewEvent(event_id="1", type="t", payload=b"")]),
            "events[0].event_id",
            "UUID",
        ),
    ],
)
async def test_a_malformed_append_is_refused_by_field_and_limit(small, make, field, says):
    """The problem names the field and what would be right; neither head moves."""
    [result] = await small.command.append(make(small.command))
    problem = result.problem
    assert problem.code == 3
    assert problem.reason == (
        "LIMIT_EXCEEDED" if any(c.isdigit() for c in says) and field != "exact_revision" else "INVALID_REQUEST"
    )
    [violation] = problem.violations
    assert violation.field == field
    assert says in violation.description
    shards = (await small.command.stub.GetShardMap(event_store_pb2.GetShardMapRequest())).shards
    assert [shard.head for shard in shards] == [0, 0]


async def test_what_is_just_within_the_limits_is_written(small):
    """The limits themselves are allowed."""
    command = small.command
    items = [command.item(command.stream(), [b"x" * 100] * 4) for _ in range(3)]
    assert [answer.last_revision for answer in await command.appended(*items)] == [3, 3, 3]
    for payload in (b"", b"\0" * 100):
        await command.appended(command.item("a_1-A.b:c~d_e-f", [payload]))


async def refused(call):
    """The problem of a call that must fail."""
    with pytest.raises(RemoteProblem) as caught:
        await call
    return caught.value.problem


async def drained(stream):
    """Read a stream of answers to its end."""
    return [message async for message in stream]


async def test_a_request_over_its_limits_is_refused_as_a_whole(small):
    """None, too many, or too large."""
    command, append = small.command, small.command.stub.Append
    none = await refused(append(event_store_pb2.AppendRequest()))
    assert [(v.field, none.reason) for v in none.violations] == [("appends", "INVALID_REQUEST")]
    many = await refused(
        append(event_store_pb2.AppendRequest(appends=[command.item(command.stream()) for _ in range(4)]))
    )
    assert (many.reason, many.violations[0].description) == ("LIMIT_EXCEEDED", "is 4, and max_appends is 3")
    large = await refused(
        append(event_store_pb2.AppendRequest(appends=[command.item(command.stream(), [b"x" * 20_001])]))
    )
    assert large.reason == "LIMIT_EXCEEDED"
    assert "max_request_bytes is 20000" in large.violations[0].description


async def test_a_request_over_the_message_size_is_refused_by_the_transport(small):
    """What is larger than a message may be never reaches the service."""
    command = small.command
    item = command.item(command.stream(), [b"x" * (9 * 1024 * 1024)])
    assert (await refused(command.stub.Append(event_store_pb2.AppendRequest(appends=[item])))).code == 8


async def test_batch_reads_are_bounded(small):
    """Streams, events and bytes of one answer have their limits, by name."""
    command, read = small.command, small.command.stub.BatchReadStreams
    assert (await refused(read(event_store_pb2.BatchReadStreamsRequest()))).violations[0].field == "streams"
    slices = [event_store_pb2.StreamSlice(stream=command.stream()) for _ in range(4)]
    many = await refused(read(event_store_pb2.BatchReadStreamsRequest(streams=slices)))
    assert "max_batch_streams is 3" in many.violations[0].description
    streams = [command.stream() for _ in range(3)]
    await command.appended(*(command.item(stream, 2) for stream in streams))
    slices = [event_store_pb2.StreamSlice(stream=stream) for stream in streams]
    events = await refused(read(event_store_pb2.BatchReadStreamsRequest(streams=slices)))
    assert (events.reason, "max_batch_events" in events.metadata["limit"]) == ("READ_TOO_LARGE", True)
    assert len((await read(event_store_pb2.BatchReadStreamsRequest(streams=slices[:2]))).streams) == 2
    large = command.stream()
    for _ in range(5):
        await command.appended(command.item(large, [command.event(b"x" * 100, reason="r" * 200)]))
    heavy = await refused(
        read(event_store_pb2.BatchReadStreamsRequest(streams=[event_store_pb2.StreamSlice(stream=large)]))
    )
    assert heavy.reason == "READ_TOO_LARGE"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (event_store_pb2.ReadAllRequest(after=[event_pb2.ShardPosition(shard=0, position=2**63)]), "after[0].position"),
        (event_store_pb2.ReadAllRequest(after=[event_pb2.ShardPosition(shard=1)] * 2), "after[1].shard"),
        (event_store_pb2.ReadAllRequest(limit=2**63), "limit"),
        (event_store_pb2.ReadAllRequest(filter=event_store_pb2.Filter(categories=["c"] * 101)), "filter.categories"),
        (event_store_pb2.ReadAllRequest(filter=event_store_pb2.Filter(types=["t"] * 101)), "filter.types"),
        (event_store_pb2.ReadAllRequest(filter=event_store_pb2.Filter(types=["a\0b"])), "filter.types[0]"),
        (event_store_pb2.ReadAllRequest(filter=event_store_pb2.Filter(categories=[""])), "filter.categories[0]"),
        (
            event_store_pb2.ReadAllRequest(filter=event_store_pb2.Filter(buckets=[event_pb2.BucketRange()] * 101)),
            "filter.buckets",
        ),
        (
            event_store_pb2.ReadAllRequest(
                filter=event_store_pb2.Filter(buckets=[event_pb2.BucketRange(first=0, last=1024)])
            ),
            "filter.buckets[0]",
        ),
        (
            event_store_pb2.ReadAllRequest(
                filter=event_store_pb2.Filter(buckets=[event_pb2.BucketRange(first=2, last=1)])
            ),
            "filter.buckets[0]",
        ),
    ],
)
async def test_a_malformed_read_is_refused_by_field(small, request_, field):
    """ReadAll and Subscribe share their checks."""
    problem = await refused(drained(small.command.stub.ReadAll(request_)))
    assert (problem.code, [v.field for v in problem.violations]) == (3, [field])


async def test_a_shard_that_does_not_exist_is_refused(small):
    """Whether it is to be read or has a position."""
    for request in (
        event_store_pb2.ReadAllRequest(shards=[2]),
        event_store_pb2.ReadAllRequest(after=[event_pb2.ShardPosition(shard=7)]),
    ):
        assert (await refused(drained(small.command.stub.ReadAll(request)))).reason == "UNKNOWN_SHARD"


async def test_malformed_reads_of_streams_are_refused(small):
    """Names, ids and revisions."""
    stub = small.command.stub
    name = await refused(drained(stub.ReadStream(event_store_pb2.ReadStreamRequest(stream="x"))))
    assert name.violations[0].field == "stream"
    revision = event_store_pb2.ReadStreamRequest(stream=small.command.stream(), from_revision=2**63)
    assert (await refused(drained(stub.ReadStream(revision)))).violations[0].field == "from_revision"
    found = await refused(
        stub.GetAppend(event_store_pb2.GetAppendRequest(append_id="x", stream=small.command.stream()))
    )
    assert found.violations[0].field == "append_id"
    batch = event_store_pb2.BatchReadStreamsRequest(streams=[event_store_pb2.StreamSlice(stream="x")])
    assert (await refused(stub.BatchReadStreams(batch))).violations[0].field == "streams[0].stream"
    beat = event_store_pb2.SubscribeRequest(heartbeat=Duration(seconds=3600))
    assert (await refused(drained(small.query.stub.Subscribe(beat)))).violations[0].field == "heartbeat"
