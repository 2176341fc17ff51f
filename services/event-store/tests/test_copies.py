"""Events that were copied to another shard with their bucket: each is delivered once, and each stream in its order."""

import asyncio
import hashlib

import asyncpg
import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2

STREAM = "product-moved"


async def write(dsn, *events):
    """Write events at the end of a shard: a stream, a revision, and where it was first written (None: here)."""
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        for stream, revision, original in events:
            position = await connection.fetchval("UPDATE head SET position = position + 1 RETURNING position")
            await connection.execute(
                "INSERT INTO events (position, origin, revision, stream, bucket, category, type, event_id, recorded_at, payload,"
                " metadata, hash, original_shard, original_position)"
                " VALUES ($1, $2, $3, $4, 5, 'product', 't', gen_random_uuid(), now(), '', '', $5, $6, $7)",
                position,
                int.from_bytes(hashlib.sha256(stream.encode()).digest()[:6], "big"),
                revision,
                stream,
                bytes(32),
                *(original or (None, None)),
            )
    await connection.close()


async def collected(call, events):
    """The first events of a subscription: shard, stream, revision; and its last checkpoints."""
    seen, vector = [], {}
    async with asyncio.timeout(20):
        async for message in call:
            seen += [(e.shard, e.stream, e.revision) for e in message.events]
            vector[message.checkpoint.shard] = message.checkpoint.position
            if len(seen) >= events:
                break
    return seen, vector


def of(seen, stream):
    """The revisions of a stream, in the order of delivery."""
    return [revision for _, name, revision in seen if name == stream]


@pytest.fixture
async def moved(databases):
    """A stream of shard 1 that was moved to shard 0, and went on there; beside each something that stayed."""
    await write(databases.owner[1], *((STREAM, n, None) for n in range(3)), ("product-b", 0, None), (STREAM, 3, None))
    copies = [(STREAM, n, (1, p)) for n, p in ((0, 1), (1, 2), (2, 3), (3, 5))]
    await write(databases.owner[0], ("product-a", 0, None), *copies, (STREAM, 4, None), ("product-a", 1, None))
    return databases


async def test_who_follows_both_shards_gets_each_event_once_and_in_order(moved, replica):
    """The copies are left out, and what was written after them waits for the originals."""
    async with replica(moved) as store:
        seen, vector = await collected(store.query.stub.Subscribe(event_store_pb2.SubscribeRequest()), 8)
        assert of(seen, STREAM) == [0, 1, 2, 3, 4]
        assert [shard for shard, name, _ in seen if name == STREAM] == [1, 1, 1, 1, 0]
        assert (of(seen, "product-a"), of(seen, "product-b")) == ([0, 1], [0])
        assert len(seen) == 8
        assert vector == {0: 7, 1: 5}
        events = await store.query.read_all()
        assert [e.revision for e in events if e.stream == STREAM] == [0, 1, 2, 3, 4]
        assert not any(e.HasField("original") for e in events)


async def test_who_resumes_anywhere_misses_nothing(moved, replica):
    """After each message of ReadAll the vector of checkpoints is a place to go on from."""
    async with replica(moved) as store:
        whole = await store.query.read_all()
        vector, seen = {}, []
        while len(seen) < len(whole):
            after = [event_pb2.ShardPosition(shard=shard, position=position) for shard, position in vector.items()]
            call = store.query.stub.ReadAll(event_store_pb2.ReadAllRequest(after=after, limit=1))
            async for message in call:
                seen += [(e.shard, e.position) for e in message.events]
                vector[message.checkpoint.shard] = message.checkpoint.position
        assert sorted(seen) == sorted((e.shard, e.position) for e in whole)


async def test_who_follows_the_new_shard_alone_gets_the_copies_flagged(moved, replica):
    """It has no other way to get them, and tells by revision what it has already."""
    async with replica(moved) as store:
        events = await store.query.read_all(shards=[0])
        assert [e.revision for e in events if e.stream == STREAM] == [0, 1, 2, 3, 4]
        assert [(e.original.shard, e.original.position) for e in events if e.HasField("original")] == [
            (1, 1),
            (1, 2),
            (1, 3),
            (1, 5),
        ]
        seen, _ = await collected(store.query.stub.Subscribe(event_store_pb2.SubscribeRequest(shards=[0])), 7)
        assert of(seen, STREAM) == [0, 1, 2, 3, 4]


async def test_a_copy_of_what_the_filter_leaves_out_holds_nothing_up(moved, replica):
    """Nobody waits for an event that will not come."""
    async with replica(moved) as store:
        wanted = event_store_pb2.Filter(types=["t"], categories=["nothing"])
        request = event_store_pb2.SubscribeRequest(filter=wanted)
        request.heartbeat.FromMilliseconds(50)
        vector = {}
        async with asyncio.timeout(20):
            async for message in store.query.stub.Subscribe(request):
                vector[message.checkpoint.shard] = message.checkpoint.position
                if vector == {0: 7, 1: 5}:
                    break


async def test_the_live_copies_of_a_move_wait_in_the_window_too(databases, replica):
    """The new shard is read first, and its events stay until those of the old shard are delivered."""
    async with replica(databases, poll_seconds=0.02) as store:
        request = event_store_pb2.SubscribeRequest()
        request.heartbeat.FromMilliseconds(50)
        messages = aiter(store.query.stub.Subscribe(request))
        async with asyncio.timeout(20):
            await anext(messages)
            await write(databases.owner[0], (STREAM, 0, (1, 1)), (STREAM, 1, (1, 2)), (STREAM, 2, None))
            # A heartbeat tells that the new events are known; they do not come, and are not counted as read.
            while (message := await anext(messages)).head != event_pb2.ShardPosition(shard=0, position=3):
                assert not message.events
            assert (len(message.events), message.checkpoint.position) == (0, 0)
            await write(databases.owner[1], (STREAM, 0, None), (STREAM, 1, None))
        seen, vector = await collected(messages, 3)
        assert seen == [(1, STREAM, 0), (1, STREAM, 1), (0, STREAM, 2)]
        assert vector == {0: 3, 1: 2}
