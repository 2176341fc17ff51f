"""What is said of streams: set by an event, in the same transaction; and streams that have ended."""

import uuid
from datetime import timedelta

import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.errors import RemoteProblem
from google.protobuf.duration_pb2 import Duration


def metadata(*, max_count=None, max_age=None, tombstoned=False):
    """Metadata of a stream."""
    message = event_store_pb2.StreamMetadata(tombstoned=tombstoned)
    if max_count is not None:
        message.max_count = max_count
    if max_age is not None:
        message.max_age.FromTimedelta(max_age)
    return message


async def put(client, stream, wanted, **fields):
    """Set the metadata of a stream."""
    request = event_store_pb2.SetStreamMetadataRequest(
        **{"append_id": str(uuid.uuid4()), "stream": stream, "metadata": wanted} | fields
    )
    return await client.stub.SetStreamMetadata(request, timeout=10)


async def get(client, stream, **fields):
    """The metadata of a stream."""
    return await client.stub.GetStreamMetadata(
        event_store_pb2.GetStreamMetadataRequest(stream=stream, **fields), timeout=10
    )


async def test_what_is_set_is_answered_and_is_an_event(store):
    """It is in the log with who set it, in the bucket of its stream; before anything is set there is revision -1."""
    client, stream = store.command, store.command.stream()
    empty = await get(client, stream)
    assert (empty.revision, empty.metadata) == (-1, event_store_pb2.StreamMetadata())
    wanted = metadata(max_count=3, max_age=timedelta(days=1, microseconds=5))
    context = event_pb2.EventMetadata(actor="somebody", reason="because")
    first = await put(client, stream, wanted, context=context)
    assert (first.revision, first.position.position) == (0, 1)
    found = await get(client, stream)
    assert (found.revision, found.metadata) == (0, wanted)
    key = stream.partition("-")[2]
    [event] = await client.read(f"metadata-{stream}", partition_key=key)
    assert event.type == "almagest.eventstore.v1.StreamMetadataSet"
    assert event_store_pb2.StreamMetadataSet.FromString(event.payload).metadata == wanted
    assert event.bucket == first.position.bucket
    assert event.metadata == event_pb2.EventMetadata(
        workload="spiffe://almagest.internal/catalog-command", reason="because"
    )
    [written] = await client.appended(client.item(stream))
    assert written.position.bucket == event.bucket
    second = await put(client, stream, metadata(max_count=9), expected_revision=0)
    assert second.revision == 1
    found = await get(client, stream)
    assert (found.revision, found.metadata) == (1, metadata(max_count=9))


async def test_a_partition_key_is_that_of_the_stream(store):
    """Metadata live with their stream, wherever its key puts it."""
    client, stream, key = store.command, store.command.stream("review"), str(uuid.uuid4())
    await put(client, stream, metadata(tombstoned=True), partition_key=key)
    assert (await get(client, stream, partition_key=key)).metadata.tombstoned
    [result] = await client.append(client.item(stream, partition_key=key))
    assert result.problem.reason == "STREAM_TOMBSTONED"


async def test_the_same_id_gets_the_original_answer(store):
    """Also when the metadata have been changed since; they stay as they were changed. Another content is refused."""
    client, stream, append_id = store.command, store.command.stream(), str(uuid.uuid4())
    original = await put(client, stream, metadata(max_count=1), append_id=append_id)
    await put(client, stream, metadata(max_count=2))
    assert await put(client, stream, metadata(max_count=1), append_id=append_id) == original
    assert (await get(client, stream)).metadata.max_count == 2
    with pytest.raises(RemoteProblem) as caught:
        await put(client, stream, metadata(max_count=7), append_id=append_id)
    assert caught.value.reason == "APPEND_ID_REUSED"


@pytest.mark.parametrize("expected", [-1, 3])
async def test_another_revision_than_expected_is_refused(store, expected):
    """And nothing changes."""
    client, stream = store.command, store.command.stream()
    await put(client, stream, metadata(max_count=1), expected_revision=-1)
    with pytest.raises(RemoteProblem) as caught:
        await put(client, stream, metadata(max_count=2), expected_revision=expected)
    assert (caught.value.reason, caught.value.problem.metadata["actual_revision"]) == ("REVISION_CONFLICT", "0")
    assert (await get(client, stream)).metadata.max_count == 1


async def test_a_stream_that_has_ended_takes_nothing_more(store):
    """Neither events, alone or beside others, nor metadata; it cannot be taken back. Its earlier appends are still
    answered, and other streams go on.
    """
    client, key = store.command, str(uuid.uuid4())
    stream, other = f"a-{key}", f"b-{key}"
    before = client.item(stream)
    await client.appended(before)
    await put(client, stream, metadata(tombstoned=True))
    further = event_store_pb2.StreamAppend(stream=stream, events=[client.event()])
    further.any.SetInParent()
    refused, beside, replayed, fine = await client.append(
        client.item(stream), client.item(other, also=[further]), before, client.item(other)
    )
    for result in (refused, beside):
        assert result.problem.reason == "STREAM_TOMBSTONED"
        assert result.problem.metadata["stream"] == stream
    assert replayed.appended.replayed
    assert (fine.appended.first_revision, fine.appended.last_revision) == (0, 0)
    with pytest.raises(RemoteProblem) as caught:
        await put(client, stream, metadata())
    assert caught.value.reason == "STREAM_TOMBSTONED"
    assert (await get(client, stream)).metadata.tombstoned


async def test_a_stream_can_end_before_it_begins(store):
    """A tombstone keeps a stream from ever existing."""
    client, stream = store.command, store.command.stream()
    await put(client, stream, metadata(tombstoned=True))
    [result] = await client.append(client.item(stream, expected="no_stream"))
    assert result.problem.reason == "STREAM_TOMBSTONED"


async def test_only_the_store_writes_metadata_streams(store):
    """A direct append to one is refused, and they have no metadata themselves."""
    client, stream = store.command, store.command.stream()
    [result] = await client.append(client.item(f"metadata-{stream}"))
    assert result.problem.reason == "INVALID_REQUEST"
    with pytest.raises(RemoteProblem) as caught:
        await put(client, f"metadata-{stream}", metadata())
    assert caught.value.reason == "INVALID_REQUEST"
    assert await client.read_all() == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"append_id": "x"}, "append_id"),
        ({"stream": "x"}, "stream"),
        ({"expected_revision": -2}, "expected_revision"),
        ({"metadata": event_store_pb2.StreamMetadata(max_count=0)}, "metadata.max_count"),
        ({"metadata": event_store_pb2.StreamMetadata(max_count=2**63)}, "metadata.max_count"),
        ({"metadata": event_store_pb2.StreamMetadata(max_age=Duration())}, "metadata.max_age"),
        ({"metadata": event_store_pb2.StreamMetadata(max_age=Duration(seconds=-1))}, "metadata.max_age"),
        ({"metadata": event_store_pb2.StreamMetadata(max_age=Duration(seconds=10**10))}, "metadata.max_age"),
    ],
)
async def test_what_is_not_well_formed_is_refused_by_its_field(store, fields, named):
    """With nothing written."""
    client = store.command
    stream = fields.pop("stream", client.stream())
    wanted = fields.pop("metadata", metadata())
    with pytest.raises(RemoteProblem) as caught:
        await put(client, stream, wanted, **fields)
    assert named in [violation.field for violation in caught.value.problem.violations]
    assert await client.read_all() == []


async def test_a_stream_that_ended_before_it_began_has_ended_for_readers_too(store):
    """It is not taken for one that is not there, which could still be begun; by whichever read."""
    client, stream, other = store.command, store.command.stream(), store.command.stream()
    await put(client, stream, metadata(tombstoned=True))
    await put(client, other, metadata(max_count=3))
    for fields in ({}, {"direction": event_store_pb2.DIRECTION_BACKWARDS}, {"from_revision": 3, "limit": 1}):
        with pytest.raises(RemoteProblem) as caught:
            await client.read(stream, **fields)
        assert (caught.value.reason, caught.value.problem.metadata["stream"]) == ("STREAM_TOMBSTONED", stream)
    for kind in ("", "k.1"):
        slices = [event_store_pb2.StreamSlice(stream=name, snapshot_kind=kind) for name in (stream, other)]
        answer = await client.stub.BatchReadStreams(event_store_pb2.BatchReadStreamsRequest(streams=slices), timeout=5)
        assert answer.streams[0].problem.reason == "STREAM_TOMBSTONED"
        assert not answer.streams[1].HasField("problem")
        assert not answer.streams[1].HasField("last_revision")
    assert await client.read(other) == []


async def test_a_person_in_the_call_is_proven_and_named(store, transaction_tokens):
    """With a transaction token the event names the person; with a bad one nothing is set."""
    client, stream = store.command, store.command.stream()
    request = event_store_pb2.SetStreamMetadataRequest(
        append_id=str(uuid.uuid4()), stream=stream, metadata=metadata(max_count=1)
    )
    with pytest.raises(RemoteProblem):
        await client.stub.SetStreamMetadata(request, metadata=(("txn-token", "forged"),), timeout=10)
    assert (await get(client, stream)).revision == -1
    token = transaction_tokens(subject="a-person")
    await client.stub.SetStreamMetadata(request, metadata=(("txn-token", token),), timeout=10)
    [event] = await client.read(f"metadata-{stream}", partition_key=stream.partition("-")[2])
    assert event.metadata.actor == "a-person"
