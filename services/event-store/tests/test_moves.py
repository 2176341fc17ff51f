"""Buckets that move to another shard while the log is used: nothing is lost, doubled or out of its order, and clients
see a pause at most, wherever the work on the move dies.
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections import defaultdict
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise

import asyncpg
import pytest
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_pb2, event_store_pb2
from chassis.buckets import BUCKETS, BucketMap, ShardMap, stream_bucket
from chassis.database.pool import Database
from chassis.errors import RemoteProblem
from event_store.adapters.postgres import PostgresLog
from event_store.adapters.postgres.moves import PostgresMoves
from event_store.adapters.postgres.shards import PostgresShard, buckets_of
from event_store.application.membership import ShardsUnusable
from event_store.application.moves import MovePace, Mover, Phase
from event_store.application.shard_map import Held, Routing, joined
from hypothesis import given, settings
from hypothesis import strategies as st

DONE = administration_pb2.MOVE_PHASE_DONE
FAILED = administration_pb2.MOVE_PHASE_FAILED
STEPS = ["copied a piece", "copied", "fenced", "copied the rest", "taken", "told"]
FIRST_HALF = (0, 511)


class Died(BaseException):
    """A process that ended here."""


def home(client, shard=0):
    """A stream that lives on a shard at first."""
    while BucketMap(2).shard_of(stream_bucket(stream := client.stream())) != shard:
        pass
    return stream


async def moved(replica, first, last, to_shard):
    """Move buckets by the wire; every answer, the last one first."""
    async with replica.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        request = administration_pb2.MoveBucketsRequest(
            buckets=event_pb2.BucketRange(first=first, last=last), to_shard=to_shard
        )
        return [answer.move async for answer in stub.MoveBuckets(request, timeout=60)][::-1]


async def fetch(dsn, query, *arguments):
    """The rows of a query."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()


@asynccontextmanager
async def process(databases, *, reached=None, pace=None):
    """The part of another process that moves buckets, which does not look for work by itself."""
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for shard, dsn in enumerate(databases.service):
            database = await Database.open(dsn, name=f"moves_{shard}", size=3)
            stack.push_async_callback(database.close)
            opened.append(database)
        shards = [PostgresShard(database, shard, PostgresLog(database, shard)) for shard, database in enumerate(opened)]
        routing = Routing(shards)
        await routing.open()
        yield Mover(shards, PostgresMoves(opened[0], 0), routing, pace=pace, reached=reached)


async def begin(databases, mover, first, last, *, to_shard=1):
    """List a move as begun by a process, which has its lease already."""
    await fetch(
        databases.owner[0],
        "INSERT INTO moves (move_id, first_bucket, last_bucket, from_shard, to_shard, epoch, holder, leased_until)"
        " SELECT gen_random_uuid(), $1, $2, $3, $4, coalesce(max(epoch), 1) + 1, $5::uuid,"
        " clock_timestamp() + interval '10 seconds' FROM moves",
        first,
        last,
        1 - to_shard,
        to_shard,
        mover._holder,
    )


async def over(databases):
    """The latest move, once it is over."""
    async with asyncio.timeout(30):
        while True:
            [row] = await fetch(databases.owner[0], "SELECT * FROM moves ORDER BY number DESC LIMIT 1")
            if row["phase"] in {"done", "failed"}:
                return row
            await asyncio.sleep(0.02)


async def assert_whole(databases, replica, written):
    """Each stream is as it was written, in the one shard that holds it; no shard has an event twice; every shard's
    chain holds.
    """
    for stream, payloads in written.items():
        events = await replica.command.read(stream)
        assert [(e.revision, e.payload) for e in events] == list(enumerate(payloads)), stream
        assert len({e.shard for e in events}) == 1
        times = [e.recorded_at.ToNanoseconds() for e in events]
        assert times == sorted(times)
    answer = await replica.query.stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=10)
    ShardMap.of_ranges(answer.epoch, {s.shard: [(r.first, r.last) for r in s.buckets] for s in answer.shards})
    held = []
    for dsn in databases.owner:
        [row] = await fetch(dsn, "SELECT held FROM head")
        held.append(buckets_of(row["held"].bytes))
        twice = await fetch(dsn, "SELECT stream FROM events GROUP BY stream, revision HAVING count(*) > 1")
        assert twice == []
    assert sorted(bucket for buckets in held for bucket in buckets) == list(range(BUCKETS))
    async with replica.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        for shard in range(len(databases.owner)):
            async for answer in stub.Verify(administration_pb2.VerifyRequest(shard=shard), timeout=30):
                assert not answer.HasField("fault"), answer.fault


class Writers:
    """Writers with expected revisions, each with streams of its own, that send an append again until it is answered,
    and now and then once more.
    """

    def __init__(self, replicas, seed=3) -> None:
        self.replicas = replicas
        self.chance = random.Random(seed)  # noqa: S311 - to be repeatable
        self.written = defaultdict(list)
        self.pauses = []
        self.enough = asyncio.Event()

    async def write(self, number):
        client = self.replicas[number % len(self.replicas)].command
        streams = [client.stream() for _ in range(6)]
        while not self.enough.is_set():
            stream = self.chance.choice(streams)
            payloads = self.written[stream]
            new = [f"{stream}/{len(payloads) + n}".encode() for n in range(self.chance.randint(1, 3))]
            item = client.item(stream, new, expected=len(payloads) - 1 if payloads else "no_stream")
            began = time.perf_counter()
            [answer] = await client.appended(item)
            self.pauses.append(time.perf_counter() - began)
            assert answer.first_revision == len(payloads)
            payloads.extend(new)
            if self.chance.random() < 0.1:
                [again] = await self.replicas[0].command.appended(item)
                assert again.replayed
                assert again.last_revision == answer.last_revision

    @asynccontextmanager
    async def at_work(self, count=12):
        """They write for as long as the block lasts, then all answers are in."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self.write(number))
            try:
                await self.grown(200)
                yield
            finally:
                self.enough.set()

    async def grown(self, by):
        """Wait until so many more appends were answered."""
        goal = len(self.pauses) + by
        async with asyncio.timeout(30):
            while len(self.pauses) < goal:  # noqa: ASYNC110 - it is the writers that tell
                await asyncio.sleep(0.01)


class Tail:
    """A subscriber, and what it was given."""

    def __init__(self, replica, *shards) -> None:
        self.events = []
        self._task = asyncio.create_task(self._follow(replica, shards))

    async def _follow(self, replica, shards):
        request = event_store_pb2.SubscribeRequest(shards=shards)
        async for message in replica.query.stub.Subscribe(request):
            self.events.extend(message.events)

    async def until(self, written):
        """Wait until it has as many events of these streams as were written, then end it."""
        async with asyncio.timeout(30):
            while len({(e.stream, e.revision) for e in self.events if e.stream in written}) < sum(
                map(len, written.values())
            ):
                if self._task.done():
                    self._task.result()
                await asyncio.sleep(0.02)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return self.events


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
        assert [m[0].epoch for m in (there, back, again)] == [2, 3, 4]
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
        assert (after.position.shard, after.position.epoch) == (1, 2)
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

        def die(_move, step):
            if step == "copied":
                died.set()
                raise Died

        async with process(databases, reached=die) as mover:
            await begin(databases, mover, *FIRST_HALF)
            with pytest.raises(Died):
                await mover.run()
        assert died.is_set()
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


@pytest.mark.parametrize("step", STEPS)
async def test_a_move_whose_process_dies_is_gone_through_with_by_another(databases, replica, step):
    """After whichever step it dies, while writers write."""
    async with replica(databases) as store:
        writers = Writers([store])
        tail = Tail(store)
        async with writers.at_work(6):

            def die(_move, reached):
                if reached == step:
                    raise Died

            async with process(databases, reached=die) as mover:
                await begin(databases, mover, *FIRST_HALF)
                with pytest.raises(Died):
                    await mover.run()
            move = await over(databases)
            await writers.grown(50)
        assert (move["phase"], move["epoch"]) == ("done", 2)
        await assert_whole(databases, store, writers.written)
        events = await tail.until(writers.written)
        assert len(events) == len({(e.stream, e.revision) for e in events})
        assert await fetch(databases.owner[0], "SELECT FROM departures WHERE NOT ended") == []


async def test_a_process_that_wakes_up_late_does_no_harm(databases, replica):
    """It is stopped just before it would fence; meanwhile another one goes through with the move, and the buckets come
    back. Its fence is then refused.
    """
    async with replica(databases) as store:
        client = store.command
        streams = [home(client) for _ in range(20)]
        await client.appended(*(client.item(stream) for stream in streams))
        stopped, go_on = asyncio.Event(), asyncio.Event()
        async with process(databases) as mover:
            await begin(databases, mover, *FIRST_HALF)
            source = mover._shards[0]
            fence = source.fence

            async def late(move):
                stopped.set()
                await go_on.wait()
                return await fence(move)

            source.fence = late
            mover._renew = lambda _work: asyncio.Event().wait()
            running = asyncio.create_task(mover.run())
            await stopped.wait()
            assert (await over(databases))["phase"] == "done"
            assert (await moved(store, *FIRST_HALF, 0))[0].phase == DONE
            await client.appended(*(client.item(stream, expected=0) for stream in streams))
            go_on.set()
            async with asyncio.timeout(10):
                while mover._routing.epoch < 3:  # noqa: ASYNC110 - it looks at the map when it is through
                    await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await client.appended(*(client.item(stream, expected=1) for stream in streams))
        assert {e.shard for s in streams for e in await client.read(s)} == {0}


async def test_a_move_that_cannot_go_on_is_given_up_and_its_buckets_stay(databases, replica):
    """Something else stands at the new shard where an event would be copied to: the move fails, also after the fence;
    the old shard goes on; and once that is put right, the next move copies only what is missing.
    """
    async with replica(databases) as store:
        client = store.command
        streams = [home(client) for _ in range(5)]
        await client.appended(*(client.item(stream, 2) for stream in streams))
        late = home(client)

        async def plant(_copied):
            await fetch(
                databases.admin[1],
                "INSERT INTO streams (stream, origin, revision, bucket) VALUES ($1, 999, 7, $2)",
                late,
                stream_bucket(late),
            )
            await fetch(
                databases.admin[1],
                "INSERT INTO events (position, origin, revision, stream, bucket, category, type, event_id, recorded_at,"
                " payload, metadata, hash) VALUES (999, 999, 0, $1, $2, 'product', 't', gen_random_uuid(), now(), '', '', '')",
                late,
                stream_bucket(late),
            )

        async with process(databases, pace=MovePace(near=0)) as mover:
            source = mover._shards[0]
            fence = source.fence

            async def planted(move):
                await plant(move)
                await client.appended(client.item(late))
                return await fence(move)

            source.fence = planted
            await begin(databases, mover, *FIRST_HALF)
            running = asyncio.create_task(mover.run())
            move = await over(databases)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert move["phase"] == "failed"
        assert "another event" in move["error"]
        assert {e.shard for s in streams for e in await client.read(s)} == {0}
        await client.appended(*(client.item(stream, expected=1) for stream in streams))
        await fetch(databases.admin[1], "DELETE FROM events WHERE position = 999")
        await fetch(databases.admin[1], "DELETE FROM streams WHERE origin = 999")
        assert (await moved(store, *FIRST_HALF, 1))[0].phase == DONE
        written = {stream: [b"0", b"1", b"0"] for stream in streams} | {late: [b"0"]}
        await assert_whole(databases, store, written)
        [row] = await fetch(databases.owner[1], "SELECT count(*) FROM events")
        assert row["count"] == 16


@contextlib.asynccontextmanager
async def away(dsn):
    """The database of a DSN is away for as long as the block lasts."""
    connection = await asyncpg.connect(dsn)
    name = await connection.fetchval("SELECT current_database()")
    await connection.close()
    elsewhere = dsn.replace(f"/{name}", "/postgres")
    await fetch(elsewhere, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await fetch(elsewhere, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    try:
        yield
    finally:
        await fetch(elsewhere, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("step", ["copied a piece", "fenced", "taken"])
async def test_a_move_goes_on_when_a_database_comes_back(databases, replica, shard, step):
    """Whichever of the two goes away, and when."""
    async with replica(databases) as store:
        client = store.command
        streams = [home(client) for _ in range(30)]
        await client.appended(*(client.item(stream, 2) for stream in streams))
        struck = asyncio.Event()

        def strike(_move, reached):
            if reached == step:
                struck.set()

        async with process(databases, reached=strike, pace=MovePace(lease=60)) as mover:
            await begin(databases, mover, *FIRST_HALF)
            running = asyncio.create_task(mover.run())
            await struck.wait()
            async with away(databases.admin[shard]):
                await asyncio.sleep(0.5)
                assert not running.done()
            move = await over(databases)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert move["phase"] == "done"
        await assert_whole(databases, store, {stream: [b"0", b"1"] for stream in streams})
        assert {e.shard for s in streams for e in await client.read(s)} == {1}


async def test_a_move_to_a_shard_that_stays_away_is_given_up(databases, replica):
    """Before the fence nothing is at stake: after a while the move fails, and the next one can be made."""
    async with replica(databases) as store:
        client = store.command
        stream = home(client)
        await client.appended(client.item(stream, 2))
        async with process(databases, pace=MovePace(patience=0.2, retry=0.05)) as mover:
            await begin(databases, mover, *FIRST_HALF)
            async with away(databases.admin[1]):
                running = asyncio.create_task(mover.run())
                move = await over(databases)
                await client.appended(client.item(stream, expected=1))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert move["phase"] == "failed"
        assert (await moved(store, *FIRST_HALF, 1))[0].phase == DONE
        await assert_whole(databases, store, {stream: [b"0", b"1", b"0"]})


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
        assert [(m.to_shard, m.epoch) for m in (*first.moves, *rest.moves)] == [(1, 4), (0, 3), (1, 2)]
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


def test_a_map_is_put_together_from_accounts_of_different_moments():
    """Who holds a bucket by the later version has it; what nobody holds is where it was; two at once cannot be."""
    everything = frozenset(range(BUCKETS))
    some = frozenset(range(100))
    late = joined([Held(1, everything), Held(2, some)], [-1] * BUCKETS)
    assert (late.epoch, late.shard_of(0), late.shard_of(100)) == (2, 1, 0)
    fenced = joined([Held(2, everything - some), Held(2, frozenset())], [0] * BUCKETS)
    assert fenced.shard_of(0) == 0
    for wrong in ([Held(2, everything), Held(2, some)], [Held(1, everything - some), Held(1, frozenset())]):
        with pytest.raises(ShardsUnusable):
            joined(wrong, [-1] * BUCKETS)


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(), moves=st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 1023), st.integers(0, 2)), max_size=5)
)
def test_looks_at_any_moments_of_a_history_of_moves_give_a_map_of_that_history(data, moves):
    """Each shard is looked at at a moment of its own, in any order, among the fences and takes of moves. Each bucket is
    then where it was at one of these moments.
    """
    owners = [bucket * 3 // BUCKETS for bucket in range(BUCKETS)]
    held = [{b for b in range(BUCKETS) if owners[b] == s} for s in range(3)]
    epochs = [1, 1, 1]
    moments = [([Held(e, frozenset(h)) for e, h in zip(epochs, held, strict=True)], list(owners))]
    for number, (one, other, target) in enumerate(moves):
        buckets = [b for b in range(min(one, other), max(one, other) + 1) if owners[b] != target]
        for source in {owners[b] for b in buckets}:
            held[source] -= set(buckets)
        moments.append(([Held(e, frozenset(h)) for e, h in zip(epochs, held, strict=True)], list(owners)))
        held[target] |= set(buckets)
        epochs[target] = number + 2
        for bucket in buckets:
            owners[bucket] = target
        moments.append(([Held(e, frozenset(h)) for e, h in zip(epochs, held, strict=True)], list(owners)))
        epochs = [number + 2] * 3
    begun = data.draw(st.integers(0, len(moments) - 1))
    looks = [data.draw(st.integers(begun, len(moments) - 1)) for _ in range(3)]
    found = joined([moments[look][0][shard] for shard, look in enumerate(looks)], moments[begun][1])
    for bucket in range(0, BUCKETS, 7):
        assert found.shard_of(bucket) in {moments[m][1][bucket] for m in range(begun, max(looks) + 1)}
    assert all(later[1] is not earlier[1] for earlier, later in pairwise(moments))


async def test_the_phase_says_whether_more_comes():
    """For those who follow a move."""
    assert [phase.over for phase in Phase] == [False, False, True, True]
