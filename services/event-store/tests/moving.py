"""What the tests of moves share: moves by the wire and by hand, writers and followers at work, and what must hold."""

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from contextlib import asynccontextmanager

import asyncpg
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_pb2, event_store_pb2
from chassis.buckets import BUCKETS, BucketMap, ShardMap, stream_bucket
from chassis.database.pool import Database
from event_store.adapters.archive_files import ArchiveFiles
from event_store.adapters.postgres import PostgresLog
from event_store.adapters.postgres.moves import PostgresMoves
from event_store.adapters.postgres.shards import PostgresShard, buckets_of
from event_store.application.mover import Mover
from event_store.application.shard_map import Routing

DONE = administration_pb2.MOVE_PHASE_DONE
FAILED = administration_pb2.MOVE_PHASE_FAILED
CANCELLED = administration_pb2.MOVE_PHASE_CANCELLED
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
async def process(databases, *, reached=None, pace=None, archives=None, advanced=None):
    """The part of another process that moves buckets, which does not look for work by itself."""
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for shard, dsn in enumerate(databases.service):
            database = await Database.open(dsn, name=f"moves_{shard}", size=3)
            stack.push_async_callback(database.close)
            opened.append(database)
        logs = [
            PostgresLog(database, shard, archives=None if archives is None else ArchiveFiles(archives, shard))
            for shard, database in enumerate(opened)
        ]
        shards = [PostgresShard(database, shard, logs[shard]) for shard, database in enumerate(opened)]
        routing = Routing(shards)
        await routing.open()
        yield Mover(shards, PostgresMoves(opened[0], 0), routing, pace=pace, reached=reached, advanced=advanced)


async def begin(databases, mover, first, last, *, to_shard=1, slice_buckets=128):
    """List a move as begun by a process, which has its lease already; made in slices of so many buckets."""
    await fetch(
        databases.owner[0],
        "INSERT INTO moves (move_id, first_bucket, last_bucket, from_shard, to_shard, epoch, slice_buckets, holder, leased_until)"
        " SELECT gen_random_uuid(), $1::int, $2::int, $3, $4,"
        " coalesce(max(epoch), 1) + ($2::int - $1::int + $6::int) / $6::int, $6::int, $5::uuid,"
        " clock_timestamp() + interval '10 seconds' FROM moves",
        first,
        last,
        1 - to_shard,
        to_shard,
        mover._holder,
        slice_buckets,
    )


async def over(databases):
    """The latest move, once it is over."""
    async with asyncio.timeout(30):
        while True:
            [row] = await fetch(databases.owner[0], "SELECT * FROM moves ORDER BY number DESC LIMIT 1")
            if row["phase"] in {"done", "failed", "cancelled"}:
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
