"""Reading streams and the whole log."""

import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.errors import RemoteProblem
from event_store.adapters.postgres.reading import ReadingLog

BACKWARDS = event_store_pb2.DIRECTION_BACKWARDS


async def test_a_stream_is_read_both_ways_from_any_revision(store):
    """`from_revision` is where the read begins, in its direction; `limit` is how many events at most."""
    command = store.command
    stream = command.stream()
    await command.appended(command.item(stream, 10))

    async def revisions(**fields):
        return [event.revision for event in await command.read(stream, **fields)]

    assert await revisions() == list(range(10))
    assert await revisions(from_revision=7) == [7, 8, 9]
    assert await revisions(from_revision=2, limit=3) == [2, 3, 4]
    assert await revisions(from_revision=10) == []
    assert await revisions(direction=BACKWARDS) == list(range(9, -1, -1))
    assert await revisions(direction=BACKWARDS, from_revision=3) == [3, 2, 1, 0]
    assert await revisions(direction=BACKWARDS, from_revision=99, limit=2) == [9, 8]
    assert await revisions(direction=BACKWARDS, from_revision=0) == [0]


async def test_a_stream_that_does_not_exist_has_no_last_revision(store):
    """An empty read of an existing stream does have one."""
    command = store.command
    stream = command.stream()
    await command.appended(command.item(stream, 2))

    async def pieces(name, **fields):
        request = event_store_pb2.ReadStreamRequest(stream=name, **fields)
        return [piece async for piece in command.stub.ReadStream(request)]

    [nothing] = await pieces(command.stream())
    assert not nothing.HasField("last_revision")
    [beyond] = await pieces(stream, from_revision=5)
    assert (len(beyond.events), beyond.last_revision) == (0, 1)


@pytest.mark.parametrize("direction", [event_store_pb2.DIRECTION_FORWARDS, BACKWARDS])
async def test_a_long_stream_comes_in_bounded_messages(store, direction):
    """Messages hold at most 500 events or about 256 KiB, a larger event alone; together they are the stream."""
    command = store.command
    stream = command.stream()
    sizes = [10] * 700 + [100_000] * 8 + [250_000, 250_000] + [10] * 50
    for start in range(0, len(sizes), 100):
        await command.appended(command.item(stream, [b"x" * size for size in sizes[start : start + 100]]))
    request = event_store_pb2.ReadStreamRequest(stream=stream, direction=direction)
    pieces = [piece async for piece in command.stub.ReadStream(request)]
    events = [event for piece in pieces for event in piece.events]
    ordered = events if direction != BACKWARDS else events[::-1]
    assert [(e.revision, len(e.payload)) for e in ordered] == list(enumerate(sizes))
    assert len(pieces) >= 6
    assert all(len(piece.events) <= 500 and piece.ByteSize() < 600_000 for piece in pieces)


async def test_short_streams_of_many_shards_are_read_in_one_call(store):
    """Answers keep the order of the request; a stream that comes twice is answered twice, one that is missing is
    empty.
    """
    command = store.command
    streams = [command.stream() for _ in range(20)]
    await command.appended(*(command.item(stream, number % 4 + 1) for number, stream in enumerate(streams)))
    slices = [event_store_pb2.StreamSlice(stream=stream) for stream in streams]
    slices += [
        event_store_pb2.StreamSlice(stream=command.stream()),
        event_store_pb2.StreamSlice(stream=streams[3], from_revision=2),
        event_store_pb2.StreamSlice(stream=streams[3], from_revision=9),
    ]
    answer = await command.stub.BatchReadStreams(event_store_pb2.BatchReadStreamsRequest(streams=slices))
    for number, (stream, content) in enumerate(zip(streams, answer.streams, strict=False)):
        assert content.last_revision == number % 4
        assert [(e.stream, e.revision) for e in content.events] == [(stream, r) for r in range(number % 4 + 1)]
    missing, partial, beyond = answer.streams[20:]
    assert (len(missing.events), missing.HasField("last_revision")) == (0, False)
    assert ([e.revision for e in partial.events], partial.last_revision) == ([2, 3], 3)
    assert (len(beyond.events), beyond.last_revision) == (0, 3)


async def test_the_whole_log_is_read_from_a_vector_of_positions(store):
    """Per shard in order of position, each piece with its checkpoint, from which a later read goes on without gap or
    repeat.
    """
    command = store.command
    streams = [command.stream() for _ in range(30)]
    await command.appended(*(command.item(stream, 2) for stream in streams))
    first = [piece async for piece in command.stub.ReadAll(event_store_pb2.ReadAllRequest())]
    vector = {piece.checkpoint.shard: piece.checkpoint for piece in first}
    assert sum(len(piece.events) for piece in first) == 60
    assert all(piece.checkpoint == piece.head for piece in first)
    await command.appended(command.item(streams[0], 1), command.item(streams[1], 1))
    later = await command.read_all(after=list(vector.values()))
    assert {event.stream for event in later} == set(streams[:2])
    assert len(later) == 2


async def test_filters_keep_what_matches_and_checkpoints_pass_what_does_not(store):
    """Category, type and bucket, each alone and all together; the checkpoint reaches the head all the same."""
    command = store.command
    names = ["product", "review"]
    items = []
    for number in range(60):
        stream = command.stream(names[number % 2])
        items.append(command.item(stream, [command.event(str(number).encode(), name=f"t.T{number % 3}")]))
    await command.appended(*items)
    every = await command.read_all()
    low = event_pb2.BucketRange(first=0, last=299)
    high = event_pb2.BucketRange(first=700, last=1023)

    async def kept(**conditions):
        request = event_store_pb2.ReadAllRequest(filter=event_store_pb2.Filter(**conditions))
        pieces = [piece async for piece in command.stub.ReadAll(request)]
        assert {piece.checkpoint.shard: piece.checkpoint.position for piece in pieces} == {
            piece.head.shard: piece.head.position for piece in pieces
        }
        assert len({piece.checkpoint.shard for piece in pieces}) == 2
        return sorted(event.payload for piece in pieces for event in piece.events)

    def expected(holds):
        return sorted(event.payload for event in every if holds(event))

    def in_range(event):
        return event.bucket < 300 or event.bucket >= 700

    assert await kept(categories=["review"]) == expected(lambda e: e.stream.startswith("review-"))
    assert await kept(types=["t.T0", "t.T2"]) == expected(lambda e: e.type != "t.T1")
    assert await kept(buckets=[low, high]) == expected(in_range)
    assert await kept(categories=["product"], types=["t.T1"], buckets=[low, high]) == expected(
        lambda e: e.stream.startswith("product-") and e.type == "t.T1" and in_range(e)
    )
    assert await kept(categories=["nothing"]) == []


async def test_a_limited_read_stops_and_can_go_on(store):
    """Read seven at a time, the pieces make up the log."""
    command = store.command
    await command.appended(*(command.item(command.stream(), 3) for _ in range(20)))
    vector = {}
    seen = []
    while True:
        request = event_store_pb2.ReadAllRequest(
            after=[event_pb2.ShardPosition(shard=s, position=p) for s, p in vector.items()], limit=7
        )
        pieces = [piece async for piece in command.stub.ReadAll(request)]
        events = [event for piece in pieces for event in piece.events]
        assert len(events) <= 7
        if not events:
            break
        seen += [(event.shard, event.position) for event in events]
        vector.update({piece.checkpoint.shard: piece.checkpoint.position for piece in pieces})
    assert len(seen) == len(set(seen)) == 60


async def test_a_position_after_the_head_is_refused(store):
    """It was given by another log; going on from it would skip events without a word."""
    await store.command.appended(store.command.item(store.command.stream()))
    for call in (
        store.command.stub.ReadAll(
            event_store_pb2.ReadAllRequest(after=[event_pb2.ShardPosition(shard=0, position=9)])
        ),
        store.query.stub.Subscribe(
            event_store_pb2.SubscribeRequest(after=[event_pb2.ShardPosition(shard=0, position=9)])
        ),
    ):
        with pytest.raises(RemoteProblem) as caught:
            [piece async for piece in call]
        assert caught.value.reason == "CHECKPOINT_AHEAD"
        assert caught.value.problem.metadata["after"] == "9"


async def test_statements_are_planned_once_and_by_index(store, databases, monkeypatch):
    """On each connection of the service, for as long as it lasts."""
    seen = []
    fetch = ReadingLog.head

    async def head(self):
        async with self._asking() as connection:
            seen.append([await connection.fetchval(f"SHOW {name}") for name in ("plan_cache_mode", "enable_seqscan")])
        return await fetch(self)

    monkeypatch.setattr(ReadingLog, "head", head)
    await store.query.stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=10)
    assert ["force_generic_plan", "off"] in seen
    assert all(settings == ["force_generic_plan", "off"] for settings in seen)
