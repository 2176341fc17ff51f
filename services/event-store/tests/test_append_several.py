"""Several streams in one append: all or none, and only on one shard; what a shard does not hold; stale maps."""

import asyncio
import uuid
from dataclasses import dataclass

import asyncpg
import grpc
import pytest
from almagest.eventstore.v1 import event_store_pb2
from chassis.buckets import BucketMap, stream_bucket
from event_store.domain.errors import StaleShardMap
from event_store.entrypoints.errors import ERRORS
from event_store.entrypoints.wire import Limits
from event_store.entrypoints.writing import WritingServicer
from google.protobuf.empty_pb2 import Empty


def part(client, stream, payloads=(), expected="any", partition_key=""):
    """A further stream of an append."""
    message = event_store_pb2.StreamAppend(
        stream=stream, partition_key=partition_key, events=[client.event(payload) for payload in payloads]
    )
    if isinstance(expected, int):
        message.exact_revision = expected
    else:
        getattr(message, expected).CopyFrom(Empty())
    return message


def reason(result):
    """The reason of a refused append."""
    assert result.WhichOneof("outcome") == "problem", result
    return result.problem.reason


def key_on(shard):
    """A key that lives on a shard."""
    while True:
        key = str(uuid.uuid4())
        if BucketMap(2).shard_of(stream_bucket(f"a-{key}")) == shard:
            return key


async def payloads(client, stream, key=""):
    """What a stream holds."""
    return [event.payload for event in await client.read(stream, partition_key=key)]


async def test_several_streams_are_written_together(store):
    """Each gets its events at its own revisions, positions run on through all of them, and the answer names each
    stream that was written to.
    """
    client, key = store.command, key_on(0)
    first, second, checked = f"a-{key}", f"b-{key}", f"c-{key}"
    await client.appended(client.item(second, [b"earlier"]))
    [answer] = await client.appended(
        client.item(
            first,
            [b"1", b"2"],
            expected="no_stream",
            also=[part(client, second, [b"3"], 0), part(client, checked, expected="no_stream")],
        )
    )
    assert (answer.first_revision, answer.last_revision, answer.position.position) == (0, 1, 4)
    assert [(a.stream, a.first_revision, a.last_revision) for a in answer.also] == [(second, 1, 1)]
    assert await payloads(client, first) == [b"1", b"2"]
    assert await payloads(client, second) == [b"earlier", b"3"]
    assert await payloads(client, checked) == []
    assert [e.position for e in await client.read_all(shards=[0])] == [1, 2, 3, 4]


@pytest.mark.parametrize("wrong", ["main", "further", "check only"])
async def test_one_wrong_expectation_refuses_all_of_it(store, wrong):
    """Whichever stream it is: nothing is written to any, and the conflict names that stream and where it is."""
    client, key = store.command, key_on(1)
    streams = [f"{category}-{key}" for category in ("a", "b", "c")]
    await client.appended(*(client.item(stream, [b"0"]) for stream in streams))
    expected = [3 if wrong == name else 0 for name in ("main", "further", "check only")]
    [result] = await client.append(
        client.item(
            streams[0],
            [b"x"],
            expected=expected[0],
            also=[part(client, streams[1], [b"y"], expected[1]), part(client, streams[2], (), expected[2])],
        )
    )
    assert reason(result) == "REVISION_CONFLICT"
    assert result.problem.metadata["stream"] == streams[expected.index(3)]
    assert result.problem.metadata["actual_revision"] == "0"
    assert [await payloads(client, stream) for stream in streams] == [[b"0"]] * 3
    assert len(await client.read_all()) == 3


async def test_streams_of_different_shards_are_refused_by_name(store):
    """Before anything is written, with every stream and its shard."""
    client = store.command
    here, there = f"a-{key_on(0)}", f"a-{key_on(1)}"
    [result] = await client.append(client.item(here, also=[part(client, there, [b"y"])]))
    assert reason(result) == "DIFFERENT_SHARDS"
    assert result.problem.metadata["places"] == f"{here}=0 {there}=1"
    assert await client.read_all() == []
    # The same partition key brings them together.
    key = here.partition("-")[2]
    await client.appended(client.item(here, also=[part(client, there, [b"y"], partition_key=key)]))
    assert await payloads(client, there, key) == [b"y"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda client, stream: [part(client, stream)], "also[0].stream"),
        (lambda client, stream: [part(client, f"b-{stream[2:]}")] * 2, "also[1].stream"),
        (lambda _, stream: [event_store_pb2.StreamAppend(stream=f"b-{stream[2:]}")], "also[0].expected"),
        (lambda client, _: [part(client, "nonsense")], "also[0].stream"),
        (lambda client, stream: [part(client, f"metadata-{stream}", partition_key=stream[2:])], "also[0].stream"),
    ],
)
async def test_a_malformed_further_stream_is_refused_by_its_field(store, change, field):
    """Named twice, without an expectation, no stream's name, or a stream that is the store's own."""
    client, stream = store.command, f"a-{key_on(0)}"
    [result] = await client.append(client.item(stream, also=change(client, stream)))
    assert reason(result) == "INVALID_REQUEST"
    assert field in [violation.field for violation in result.problem.violations]
    assert await client.read_all() == []


async def test_too_many_streams_or_events_in_all_are_refused(databases, replica):
    """The limits count the whole append."""
    async with replica(databases, max_streams=2, max_events=3) as store:
        client, key = store.command, key_on(0)
        item = client.item
        results = await client.append(
            item(f"a-{key}", 1, also=[part(client, f"{c}-{key}") for c in ("b", "c")]),
            item(f"a-{key}", 2, also=[part(client, f"b-{key}", [b"3", b"4"])]),
            item(f"a-{key}", 2, also=[part(client, f"b-{key}", [b"3"])]),
        )
    assert [r.problem.reason for r in results] == ["LIMIT_EXCEEDED", "LIMIT_EXCEEDED", ""]


async def test_a_repeated_append_gets_the_whole_original_answer(store):
    """The further streams included, in another call, in the same call, and when asked for by its id."""
    client, key = store.command, key_on(0)
    item = client.item(f"a-{key}", 2, also=[part(client, f"b-{key}", [b"x", b"y"]), part(client, f"c-{key}", [b"z"])])
    original, twin = await client.appended(item, item)
    await client.appended(client.item(f"b-{key}"), client.item(f"a-{key}"))
    [again] = await client.appended(item)
    assert [twin.replayed, again.replayed] == [True, True]
    assert [(a.first_revision, a.last_revision) for a in original.also] == [(0, 1), (0, 0)]
    for replay in (twin, again):
        replay.replayed = False
        assert replay == original
    request = event_store_pb2.GetAppendRequest(append_id=item.append_id, stream=item.stream)
    assert (await client.stub.GetAppend(request)).appended == original
    assert len(await client.read_all()) == 7


async def test_a_bucket_that_is_not_held_takes_no_appends(store, databases):
    """Refused for each stream by its own bucket, with nothing written, while the others go on; what was written before
    is still answered.
    """
    client = store.command
    key, other = key_on(0), key_on(0)
    before = client.item(f"a-{key}")
    await client.appended(before)
    bucket = stream_bucket(f"a-{key}")
    connection = await asyncpg.connect(databases.owner[0])
    try:
        await connection.execute("UPDATE head SET held = set_bit(held, $1, 0), epoch = 7", bucket)
        moved, kept, mixed, replayed = await client.append(
            client.item(f"a-{key}"),
            client.item(f"a-{other}"),
            client.item(f"b-{other}", also=[part(client, f"c-{key}", expected="no_stream")]),
            before,
        )
        assert reason(moved) == reason(mixed) == "BUCKET_MOVED"
        assert moved.problem.metadata["bucket"] == str(bucket)
        assert mixed.problem.metadata["stream"] == f"c-{key}"
        assert moved.problem.metadata["epoch"] == "7"
        assert moved.problem.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert kept.HasField("appended")
        assert replayed.appended.replayed
        assert len(await client.read_all()) == 2
        await connection.execute("UPDATE head SET held = set_bit(held, $1, 1)", bucket)
        await client.appended(client.item(f"a-{key}", expected=0))
    finally:
        await connection.close()


async def test_a_fence_is_exact(store, databases):
    """An append that waits for the counter while the fence goes up is decided after it: it sees the fence."""
    client, key = store.command, key_on(0)
    connection = await asyncpg.connect(databases.owner[0])
    try:
        async with connection.transaction():
            await connection.execute("UPDATE head SET held = set_bit(held, $1, 0)", stream_bucket(f"a-{key}"))
            waiting = asyncio.create_task(client.append(client.item(f"a-{key}")))
            while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                pass
            assert not waiting.done()
        assert reason((await waiting)[0]) == "BUCKET_MOVED"
        assert await client.read_all() == []
    finally:
        await connection.close()


@dataclass(frozen=True)
class ThirdMap:
    """A shard map after two moves."""

    epoch: int = 3


async def test_a_stale_shard_map_is_refused():
    """Who goes by an older version is told the current one before anything is looked at."""
    servicer = WritingServicer(
        buckets=ThirdMap(),
        loops=[],
        verifier=None,
        errors=ERRORS,
        limits=Limits(10, 10, 10, 1000, 1000, 1000),
    )
    request = event_store_pb2.AppendRequest(appends=[event_store_pb2.Append()], epoch=2)
    with pytest.raises(StaleShardMap) as caught:
        await servicer.Append(request, None)
    problem = ERRORS.problem(caught.value)
    assert (problem.reason, problem.metadata["epoch"]) == ("STALE_SHARD_MAP", "3")
    assert problem.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]


async def test_the_current_shard_map_or_none_is_served(store):
    """A caller that knows the version, or a later one than this replica, is not refused for it."""
    client = store.command
    item = client.item(client.stream())
    for epoch in (0, 1, 2):
        await client.stub.Append(event_store_pb2.AppendRequest(appends=[item], epoch=epoch), timeout=5)
    assert len(await client.read_all()) == 1
