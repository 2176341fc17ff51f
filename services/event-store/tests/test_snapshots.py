"""Snapshots: kept for readers who ask for their kind, answered with the events after them, and never the truth."""

import pytest
from almagest.eventstore.v1 import event_store_pb2
from chassis.errors import RemoteProblem

KIND = "tests.state.1"


async def put(client, *snapshots):
    """Keep snapshots, each a stream, a kind, a revision and a payload: the reasons why any was refused."""
    request = event_store_pb2.PutSnapshotsRequest(
        snapshots=[
            event_store_pb2.NewSnapshot(stream=stream, kind=kind, revision=revision, payload=payload)
            for stream, kind, revision, payload in snapshots
        ]
    )
    return [result.problem.reason for result in (await client.stub.PutSnapshots(request, timeout=10)).results]


async def read(client, stream, kind=KIND, from_revision=0):
    """A stream with its snapshot: revision and payload of it, and the revisions after it."""
    request = event_store_pb2.BatchReadStreamsRequest(
        streams=[event_store_pb2.StreamSlice(stream=stream, snapshot_kind=kind, from_revision=from_revision)]
    )
    [answer] = (await client.stub.BatchReadStreams(request, timeout=10)).streams
    snapshot = None
    if answer.HasField("snapshot"):
        assert (answer.snapshot.stream, answer.snapshot.kind) == (stream, kind)
        assert answer.snapshot.recorded_at.seconds > 0
        snapshot = (answer.snapshot.revision, answer.snapshot.payload)
    return snapshot, [event.revision for event in answer.events], answer.last_revision


async def test_a_snapshot_stands_for_the_events_it_covers(store):
    """Only who asks for its kind gets it, and then only the later events; who is later than it gets no snapshot."""
    client, stream = store.command, store.command.stream()
    await client.appended(client.item(stream, 10))
    assert await put(client, (stream, KIND, 6, b"six")) == [""]
    assert await read(client, stream) == ((6, b"six"), [7, 8, 9], 9)
    assert await read(client, stream, kind="tests.state.2") == (None, list(range(10)), 9)
    assert await read(client, stream, kind="") == (None, list(range(10)), 9)
    assert await read(client, stream, from_revision=6) == ((6, b"six"), [7, 8, 9], 9)
    assert await read(client, stream, from_revision=7) == (None, [7, 8, 9], 9)
    assert await put(client, (stream, KIND, 9, b"nine")) == [""]
    assert await read(client, stream) == ((9, b"nine"), [], 9)


async def test_an_earlier_snapshot_changes_nothing(store):
    """Whoever is late with an older state does not undo the newer one; in one request the latest wins."""
    client, stream = store.command, store.command.stream()
    await client.appended(client.item(stream, 10))
    assert (
        await put(client, (stream, KIND, 3, b"three"), (stream, KIND, 5, b"five"), (stream, KIND, 4, b"four"))
        == [""] * 3
    )
    assert await read(client, stream) == ((5, b"five"), [6, 7, 8, 9], 9)
    assert await put(client, (stream, KIND, 5, b"again"), (stream, KIND, 2, b"two")) == ["", ""]
    assert await read(client, stream) == ((5, b"five"), [6, 7, 8, 9], 9)


async def test_a_snapshot_of_what_is_not_there_is_refused_alone(store):
    """A revision that the stream does not have, or a stream that does not exist; the others are kept."""
    client, stream, other = store.command, store.command.stream(), store.command.stream()
    await client.appended(client.item(stream, 2))
    refused = await put(client, (stream, KIND, 2, b""), (other, KIND, 0, b""), (stream, KIND, 1, b"one"))
    assert refused == ["SNAPSHOT_AHEAD", "SNAPSHOT_AHEAD", ""]
    assert await read(client, stream) == ((1, b"one"), [], 1)
    assert await read(client, other) == (None, [], 0)


async def test_what_is_over_a_limit_is_refused_with_its_name(databases, replica):
    """Number, size and kind."""
    async with replica(databases, max_snapshots=2, max_snapshot_bytes=10) as store:
        client, stream = store.command, store.command.stream()
        await client.appended(client.item(stream, 2))
        for wrong in (
            [(stream, KIND, 0, b"")] * 3,
            [(stream, KIND, 0, b"x" * 11)],
            [(stream, "k" * 201, 0, b"")],
            [(stream, "", 0, b"")],
            [("nonsense", KIND, 0, b"")],
            [],
        ):
            with pytest.raises(RemoteProblem) as caught:
                await put(client, *wrong)
            assert caught.value.reason in {"LIMIT_EXCEEDED", "INVALID_REQUEST"}
        assert await read(client, stream) == (None, [0, 1], 1)
