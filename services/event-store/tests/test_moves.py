"""Buckets that move to another shard while the log is used: nothing is lost, doubled or out of its order, and clients
see a pause at most.
"""

import asyncio
import uuid
from datetime import timedelta

import pytest
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_store_pb2
from chassis.buckets import BUCKETS, stream_bucket
from chassis.errors import RemoteProblem

from .moving import (
    DONE,
    FIRST_HALF,
    Died,
    Tail,
    Writers,
    assert_whole,
    begin,
    fetch,
    home,
    moved,
    over,
    process,
)


async def test_nothing_is_lost_doubled_or_out_of_order_while_buckets_move_and_come_back(databases, replica):
    """Writers on two replicas, and followers of all shards and of single ones, while a quarter of the buckets goes to
    the other shard and home again.
    """
    async with replica(databases, poll_seconds=0.02) as one, replica(databases, poll_seconds=0.02) as two:
        writers = Writers([one, two])
        everything, elsewhere, old, new = Tail(one), Tail(two), Tail(one, 0), Tail(two, 1)
        async with writers.at_work():
            there = await moved(one, 0, 255, 1)
            await writers.grown(200)
            back = await moved(two, 0, 255, 0)
            await writers.grown(200)
            again = await moved(one, 128, 639, 1)
            await writers.grown(200)
        assert [m[0].phase for m in (there, back, again)] == [DONE] * 3
        assert [m[0].epoch for m in (there, back, again)] == [9, 17, 29]
        assert (again[0].buckets.first, again[0].buckets.last) == (128, 511)
        assert all(timedelta() < m[0].pause.ToTimedelta() < timedelta(seconds=10) for m in (there, back, again))
        assert max(writers.pauses) < 10
        await assert_whole(databases, one, writers.written)
        await assert_whole(databases, two, writers.written)
        for tail in (everything, elsewhere):
            events = await tail.until(writers.written)
            assert len(events) == len({(e.stream, e.revision) for e in events})
            for stream, payloads in writers.written.items():
                assert [(e.revision, e.payload) for e in events if e.stream == stream] == list(enumerate(payloads))
        for tail, shard in ((old, 0), (new, 1)):
            home_streams = {s: p for s, p in writers.written.items() if final_shard(s) == shard}
            events = await tail.until(home_streams)
            for stream, payloads in home_streams.items():
                # Of a single shard copies are given as well, and revisions tell what was seen already.
                assert [(e.revision, e.payload) for e in events if e.stream == stream] == list(enumerate(payloads))
            assert any(e.HasField("original") for e in events)


def final_shard(stream):
    """Where a stream is after the moves of the test above."""
    bucket = stream_bucket(stream)
    return 0 if bucket < 128 else 1


async def test_a_repeated_append_is_answered_by_the_new_shard_as_by_the_old(databases, replica):
    """The same revisions, with the place of the copy; also of several streams, and of an append that is only asked for."""
    async with replica(databases) as store:
        client = store.command
        stream = home(client)
        key = stream.partition("-")[2]
        further = event_store_pb2.StreamAppend(stream=f"b-{key}", events=[client.event(b"also")])
        further.any.SetInParent()
        item = client.item(stream, 3, expected="no_stream", also=[further])
        [before] = await client.appended(item)
        assert before.position.shard == 0
        assert (await moved(store, *FIRST_HALF, 1))[0].phase == DONE
        [after] = await client.appended(item)
        assert after.replayed
        assert (after.first_revision, after.last_revision) == (before.first_revision, before.last_revision)
        assert list(after.also) == list(before.also)
        assert (after.position.shard, after.position.epoch) == (1, 17)
        request = event_store_pb2.GetAppendRequest(append_id=item.append_id, stream=stream)
        found = await client.stub.GetAppend(request, timeout=5)
        assert (found.appended.position, found.fingerprint) == (after.position, b"fingerprint")
        # As of the original: the position of the last event of all, which is of the further stream.
        [event] = [e for e in await client.read(f"b-{key}") if e.position == after.position.position]
        assert (event.revision, event.shard, event.original.shard) == (0, 1, 0)
        assert event.original.position == before.position.position
        [conflict] = await client.append(client.item(stream, 1, expected="no_stream"))
        assert conflict.problem.metadata["actual_revision"] == "2"


async def test_an_append_by_the_map_of_before_a_move_is_refused(databases, replica):
    """A caller that routes by itself must take the new map; one that goes by none is routed by the service."""
    async with replica(databases) as store:
        client = store.command
        item = client.item(home(client))
        await moved(store, 0, 9, 1)
        with pytest.raises(RemoteProblem) as caught:
            await client.stub.Append(event_store_pb2.AppendRequest(appends=[item], epoch=1), timeout=5)
        assert (caught.value.reason, caught.value.problem.metadata["epoch"]) == ("STALE_SHARD_MAP", "2")
        answer = await client.stub.Append(event_store_pb2.AppendRequest(appends=[item], epoch=2), timeout=5)
        assert answer.results[0].appended.position.epoch == 2


async def test_streams_that_were_written_together_part_when_their_buckets_do(databases, replica):
    """What was written is still answered; another append to both is refused."""
    async with replica(databases) as store:
        client = store.command
        one, other = home(client), home(client)
        further = event_store_pb2.StreamAppend(stream=other, events=[client.event(b"also")])
        further.any.SetInParent()
        item = client.item(one, 2, also=[further])
        [before] = await client.appended(item)
        bucket = stream_bucket(other)
        assert (await moved(store, bucket, bucket, 1))[0].phase == DONE
        [again] = await client.appended(item)
        assert again.replayed
        assert (again.last_revision, list(again.also)) == (before.last_revision, list(before.also))
        [refused] = await client.append(client.item(one, 2, also=[further]))
        assert refused.problem.reason == "DIFFERENT_SHARDS"


async def test_what_is_said_of_streams_and_kept_of_them_moves_along(databases, replica):
    """A stream that has ended stays ended; metadata that were set anew after the first copy are the last ones; snapshots
    are there.
    """
    async with replica(databases) as store:
        client = store.command
        ended, bounded = home(client), home(client)
        await client.appended(client.item(ended, 1), client.item(bounded, 3))

        async def say(stream, **metadata):
            request = event_store_pb2.SetStreamMetadataRequest(
                append_id=str(uuid.uuid4()), stream=stream, metadata=event_store_pb2.StreamMetadata(**metadata)
            )
            await client.stub.SetStreamMetadata(request, timeout=5)

        await say(bounded, max_count=2)
        snapshot = event_store_pb2.NewSnapshot(stream=bounded, kind="k.1", revision=1, payload=b"state")
        await client.stub.PutSnapshots(event_store_pb2.PutSnapshotsRequest(snapshots=[snapshot]), timeout=5)

        died = asyncio.Event()
        advanced = []

        def die(_move, step):
            if step == "copied":
                died.set()
                raise Died

        async with process(databases, reached=die, advanced=advanced.append) as mover:
            await begin(databases, mover, *FIRST_HALF)
            with pytest.raises(Died):
                await mover.run()
        assert died.is_set()
        # What an alert goes by: that it gets further while somebody works on it, and that nobody does.
        assert (advanced[0], advanced[-1], set(advanced)) == (True, False, {True, False})
        await say(bounded, max_count=1)
        await say(ended, tombstoned=True)
        assert (await over(databases))["phase"] == "done"
        request = event_store_pb2.GetStreamMetadataRequest(stream=bounded)
        metadata = await client.stub.GetStreamMetadata(request, timeout=5)
        assert (metadata.metadata.max_count, metadata.revision) == (1, 1)
        [refused] = await client.append(client.item(ended, 1))
        assert refused.problem.reason == "STREAM_TOMBSTONED"
        slices = [event_store_pb2.StreamSlice(stream=bounded, snapshot_kind="k.1")]
        answer = await client.stub.BatchReadStreams(event_store_pb2.BatchReadStreamsRequest(streams=slices), timeout=5)
        assert answer.streams[0].snapshot.payload == b"state"


async def test_a_request_waits_for_a_bucket_that_is_being_moved_but_not_for_ever(databases, replica):
    """Appends and reads of it alike: answered once it is held again, or refused by name."""
    async with replica(databases, move_wait_seconds=0.5) as store:
        client = store.command
        stream = home(client)
        await client.appended(client.item(stream))
        bucket = stream_bucket(stream)
        fence = "UPDATE head SET held = set_bit(held, $1, $2)"
        await fetch(databases.admin[0], fence, bucket, 0)
        [refused], read = await asyncio.gather(
            client.append(client.item(stream)), client.read(stream), return_exceptions=True
        )
        assert refused.problem.reason == "BUCKET_MOVED"
        assert isinstance(read, RemoteProblem)
        assert read.reason == "BUCKET_MOVED"
        waiting = [asyncio.create_task(client.appended(client.item(stream))), asyncio.create_task(client.read(stream))]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waiting)
        await fetch(databases.admin[0], fence, bucket, 1)
        [[appended], read] = await asyncio.gather(*waiting)
        assert appended.last_revision == 1
        assert read[0].revision == 0


async def test_a_replica_with_an_old_map_answers_no_old_read(databases, replica):
    """One that has not looked since a bucket moved still finds what was appended to it through the other."""
    async with replica(databases) as one, replica(databases, map_seconds=3600) as two:
        client = one.command
        streams = [home(client) for _ in range(20)]
        await client.appended(*(client.item(stream) for stream in streams))
        await moved(one, *FIRST_HALF, 1)
        await client.appended(*(client.item(stream, expected=0) for stream in streams))
        assert [len(await two.command.read(stream)) for stream in streams[:10]] == [2] * 10
        slices = [event_store_pb2.StreamSlice(stream=stream) for stream in streams]
        request = event_store_pb2.BatchReadStreamsRequest(streams=slices)
        answer = await two.command.stub.BatchReadStreams(request, timeout=10)
        assert [piece.last_revision for piece in answer.streams] == [1] * 20


async def test_moves_are_listed_and_only_one_is_made_at_a_time(databases, replica):
    """Latest first, in pages; a second one is refused, the same one is followed; what is there already stays."""
    async with replica(databases) as store:
        for to_shard in (1, 0, 1):
            assert (await moved(store, 0, 99, to_shard))[0].phase == DONE
        assert await moved(store, 0, 99, 1) == []
        async with store.connect("operator") as client:
            stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
            first = await stub.ListMoves(administration_pb2.ListMovesRequest(page_size=2), timeout=5)
            rest = await stub.ListMoves(
                administration_pb2.ListMovesRequest(page_token=first.next_page_token), timeout=5
            )
        assert [(m.to_shard, m.epoch) for m in (*first.moves, *rest.moves)] == [(1, 13), (0, 9), (1, 5)]
        assert not rest.next_page_token
        async with process(databases) as mover:
            await begin(databases, mover, 100, 199)
            with pytest.raises(RemoteProblem) as caught:
                await moved(store, 300, 399, 1)
            assert caught.value.reason == "MOVE_UNDER_WAY"
            assert (await moved(store, 100, 199, 1))[0].phase == DONE
        for wrong in ((5, 4, 1), (0, BUCKETS, 1), (0, 1, 2)):
            with pytest.raises(RemoteProblem) as caught:
                await moved(store, *wrong)
            assert caught.value.reason in {"INVALID_REQUEST", "UNKNOWN_SHARD"}
