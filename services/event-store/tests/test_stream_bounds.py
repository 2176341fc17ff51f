"""What the metadata of a stream leave of it to its readers; the log itself stays whole."""

import uuid
from datetime import timedelta

import asyncpg
import pytest
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_store_pb2
from chassis.errors import RemoteProblem

BACKWARDS = event_store_pb2.DIRECTION_BACKWARDS


async def bound(client, stream, *, max_count=None, max_age=None, tombstoned=False):
    """Set the metadata of a stream."""
    request = event_store_pb2.SetStreamMetadataRequest(append_id=str(uuid.uuid4()), stream=stream)
    request.metadata.tombstoned = tombstoned
    if max_count is not None:
        request.metadata.max_count = max_count
    if max_age is not None:
        request.metadata.max_age.FromTimedelta(max_age)
    await client.stub.SetStreamMetadata(request, timeout=10)


async def batch(client, *streams, **fields):
    """Several streams in one call."""
    request = event_store_pb2.BatchReadStreamsRequest(
        streams=[event_store_pb2.StreamSlice(stream=stream, **fields) for stream in streams]
    )
    return (await client.stub.BatchReadStreams(request, timeout=10)).streams


def revisions(events):
    """The revisions of events."""
    return [event.revision for event in events]


async def test_only_so_many_of_the_latest_events_are_answered(store):
    """In both directions and in batches; the last revision stays what it is, and the log gives everything."""
    client, stream, other = store.command, store.command.stream(), store.command.stream()
    await client.appended(client.item(stream, 10), client.item(other, 5))
    await bound(client, stream, max_count=3)
    assert revisions(await client.read(stream)) == [7, 8, 9]
    assert revisions(await client.read(stream, from_revision=2)) == [7, 8, 9]
    assert revisions(await client.read(stream, from_revision=8)) == [8, 9]
    assert revisions(await client.read(stream, direction=BACKWARDS)) == [9, 8, 7]
    assert revisions(await client.read(stream, direction=BACKWARDS, from_revision=5)) == []
    one, two = await batch(client, stream, other)
    assert (revisions(one.events), one.last_revision) == ([7, 8, 9], 9)
    assert revisions(two.events) == list(range(5))
    assert len([e for e in await store.query.read_all() if e.stream == stream]) == 10
    await client.appended(client.item(stream))
    assert revisions(await client.read(stream)) == [8, 9, 10]


@pytest.mark.parametrize("archived", [False, True], ids=["rows", "files"])
async def test_only_events_that_are_young_enough_are_answered(databases, replica, tmp_path, archived):
    """By the time at which they were recorded, wherever they are."""
    async with replica(databases, archive_directory=tmp_path, archive_events=4) as store:
        client, stream = store.command, store.command.stream()
        for _ in range(8):
            [answer] = await client.appended(client.item(stream))
        shard = answer.position.shard
        # The first five events become a day old, before the rest.
        connection = await asyncpg.connect(databases.owner[shard])
        await connection.execute("UPDATE events SET recorded_at = recorded_at - interval '1 day' WHERE revision < 5")
        await connection.close()
        if archived:
            async with store.connect("operator") as operator:
                stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(operator.channel)
                request = administration_pb2.ArchiveEventsRequest(shard=shard, until=8)
                assert len([answer async for answer in stub.ArchiveEvents(request, timeout=30)]) == 2
        await bound(client, stream, max_age=timedelta(hours=1))
        assert revisions(await client.read(stream)) == [5, 6, 7]
        assert revisions(await client.read(stream, direction=BACKWARDS)) == [7, 6, 5]
        assert revisions(await client.read(stream, direction=BACKWARDS, from_revision=4)) == []
        [content] = await batch(client, stream)
        assert (revisions(content.events), content.last_revision) == ([5, 6, 7], 7)
        await bound(client, stream, max_age=timedelta(hours=30))
        assert revisions(await client.read(stream)) == list(range(8))
        await bound(client, stream, max_age=timedelta(microseconds=1), max_count=2)
        assert revisions(await client.read(stream)) == []


async def test_a_stream_that_has_ended_is_not_read_and_the_log_keeps_it(store):
    """Reads of it are refused with the reason; in a batch the other streams are answered."""
    client, stream, other = store.command, store.command.stream(), store.command.stream()
    await client.appended(client.item(stream, 3), client.item(other, 2))
    await bound(client, stream, tombstoned=True)
    for fields in ({}, {"direction": BACKWARDS}, {"from_revision": 1}):
        with pytest.raises(RemoteProblem) as caught:
            await client.read(stream, **fields)
        assert caught.value.reason == "STREAM_TOMBSTONED"
    one, two = await batch(client, stream, other)
    assert (one.problem.reason, len(one.events), one.HasField("last_revision")) == ("STREAM_TOMBSTONED", 0, False)
    assert (revisions(two.events), two.HasField("problem")) == ([0, 1], False)
    assert len([e for e in await store.query.read_all() if e.stream == stream]) == 3
