"""The tail: one reading of what is new for all who follow, whoever is slow, whatever is restarted."""

import asyncio
import contextlib
from contextlib import AsyncExitStack
from itertools import pairwise

import asyncpg
import grpc
import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.errors import RemoteProblem
from event_store.adapters.postgres import PostgresLog
from event_store.metrics import TAIL_BYTES

HOUR = 3600.0


class Follower:
    """Takes what a subscription sends, for as long as it may."""

    def __init__(self, client, **fields) -> None:
        self.call = client.stub.Subscribe(event_store_pb2.SubscribeRequest(**fields))
        self.seen = []
        self.vector = {}
        self.may = asyncio.Event()
        self.may.set()
        self.task = asyncio.create_task(self._follow())

    async def _follow(self):
        async for message in self.call:
            self.vector[message.checkpoint.shard] = message.checkpoint.position
            self.seen += [(event.shard, event.position) for event in message.events]
            await self.may.wait()

    async def until(self, condition, within=30):
        async with asyncio.timeout(within):
            while not condition(self):
                if self.task.done():
                    await self.task
                await asyncio.sleep(0.01)

    async def leave(self):
        self.call.cancel()
        with contextlib.suppress(asyncio.CancelledError, RemoteProblem):
            await self.task


@pytest.fixture
async def followed():
    """Makes followers, who leave at the end."""
    followers = []

    def follow(client, **fields):
        followers.append(Follower(client, **fields))
        return followers[-1]

    yield follow
    for one in followers:
        await one.leave()


@pytest.fixture
def asked(monkeypatch):
    """Counts what the database of any shard is asked."""
    counts = {"newest": 0, "page": 0}
    for name in counts:
        method = getattr(PostgresLog, name)

        async def counting(self, *args, _method=method, _name=name, **kwargs):
            counts[_name] += 1
            return await _method(self, *args, **kwargs)

        monkeypatch.setattr(PostgresLog, name, counting)
    return counts


def whole(seen):
    """Whether every position from 1 is there once and in order, per shard."""
    return all(
        [p for s, p in seen if s == shard] == list(range(1, sum(s == shard for s, _ in seen) + 1)) for shard in (0, 1)
    )


@pytest.mark.parametrize("subscribers", [1, 20])
async def test_a_batch_is_read_once_for_any_number_of_subscribers(databases, replica, followed, asked, subscribers):
    """The queries per append do not depend on how many follow."""
    async with replica(databases, poll_seconds=HOUR) as store:
        followers = [followed(store.query) for _ in range(subscribers)]
        for one in followers:
            await one.until(lambda f: set(f.vector) == {0, 1})
        appends = 30
        for count in range(1, appends + 1):
            await store.command.appended(store.command.item(store.command.stream()))
            for one in followers:
                await one.until(lambda f, count=count: len(f.seen) == count)
        assert asked["page"] == 0
        assert appends <= asked["newest"] <= appends + 2


async def test_a_hundred_subscribers_each_get_everything_in_order(databases, replica, followed):
    """Those that were there before, and those that come in the middle."""
    async with replica(databases, tail_bytes=40_000) as store:
        command, followers = store.command, []
        for _ in range(10):
            followers += [followed(store.query) for _ in range(10)]
            await command.appended(*(command.item(command.stream(), 3) for _ in range(20)))
        for one in followers:
            await one.until(lambda f: len(f.seen) >= 600)
            assert len(one.seen) == 600
            assert whole(one.seen)


async def test_who_stopped_costs_no_memory_and_loses_nothing(databases, replica, followed, asked):
    """Thirty megabytes pass a window of one hundred kilobytes; the one who slept reads them from the database, and is back
    in the window afterwards.
    """
    async with replica(databases, tail_bytes=100_000, poll_seconds=HOUR) as store:
        command = store.command
        sleeper, awake = followed(store.query), followed(store.query)
        for one in (sleeper, awake):
            await one.until(lambda f: set(f.vector) == {0, 1})
        sleeper.may.clear()
        written = 0
        for _ in range(15):
            await command.appended(*(command.item(command.stream(), [b"x" * 100_000]) for _ in range(20)))
            written += 20
            assert all(TAIL_BYTES.labels(str(shard))._value.get() <= 100_000 for shard in (0, 1))
        await awake.until(lambda f: len(f.seen) == written)
        assert len(sleeper.seen) < written
        sleeper.may.set()
        await sleeper.until(lambda f: len(f.seen) == written)
        assert asked["page"] > 0

        asked["page"] = 0
        await command.appended(*(command.item(command.stream()) for _ in range(50)))
        for one in (sleeper, awake):
            await one.until(lambda f: len(f.seen) == written + 50)
            assert whole(one.seen)
        assert asked["page"] == 0


async def test_nobody_who_follows_means_nothing_is_kept_or_read(databases, replica, followed, asked):
    """With the last who leaves the window is emptied, and appends cause no reading any more."""
    async with replica(databases, poll_seconds=HOUR) as store:
        command = store.command
        one = followed(store.query)
        await one.until(lambda f: set(f.vector) == {0, 1})
        await command.appended(*(command.item(command.stream()) for _ in range(20)))
        await one.until(lambda f: len(f.seen) == 20)
        assert sum(TAIL_BYTES.labels(str(shard))._value.get() for shard in (0, 1)) > 0
        await one.leave()
        async with asyncio.timeout(20):
            while any(TAIL_BYTES.labels(str(s))._value.get() for s in (0, 1)):  # noqa: ASYNC110 - a gauge has no event
                await asyncio.sleep(0.01)
        before = dict(asked)
        await command.appended(*(command.item(command.stream()) for _ in range(20)))
        assert asked == before


async def test_a_subscription_outlives_a_database_that_ends_all_sessions(databases, replica, followed):
    """Those who are at the head and those who are behind wait until it can be asked again."""
    async with replica(databases, poll_seconds=0.05, tail_bytes=2_000) as store:
        command = store.command
        await command.appended(*(command.item(command.stream(), 50) for _ in range(40)))
        first = followed(store.query)
        await first.until(lambda f: len(f.seen) == 2_000)
        admin = await asyncpg.connect(databases.admin[0])
        name = await admin.fetchval("SELECT current_database()")
        others = await asyncpg.connect(databases.admin[1])
        second = followed(store.query)
        # One that only begins while the shard is away is refused.
        await second.until(lambda f: f.seen)
        await others.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            await others.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            await asyncio.sleep(0.5)
            assert not first.task.done()
        finally:
            await others.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            await others.close()
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await admin.close()
        async with asyncio.timeout(20):
            written = 0
            while written < 20:
                [result] = await command.append(command.item(command.stream()))
                written += result.WhichOneof("outcome") == "appended"
        for one in (first, second):
            await one.until(lambda f: len(f.seen) == 2_020)
            assert whole(one.seen)


async def test_a_server_that_leaves_says_so_and_the_next_one_goes_on(databases, replica, followed):
    """The status tells to come again; from its checkpoints a subscriber gets every event once."""
    seen, vector = [], {}
    for _ in range(3):
        after = [event_pb2.ShardPosition(shard=shard, position=position) for shard, position in vector.items()]
        async with AsyncExitStack() as outliving:
            async with replica(databases) as store:
                client = await outliving.enter_async_context(store.connect("catalog-query"))
                one = followed(client, after=after)
                writing = asyncio.create_task(_append_without_end(store.command))
                await one.until(lambda f: len(f.seen) > 100)
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
            with pytest.raises(RemoteProblem) as ended:
                await one.task
        assert ended.value.code is grpc.StatusCode.UNAVAILABLE
        seen += one.seen
        vector |= one.vector
        assert whole(seen)
        assert vector == {s: sum(shard == s for shard, _ in seen) for s in (0, 1)}


async def _append_without_end(command):
    while True:
        await command.append(*(command.item(command.stream()) for _ in range(5)))


async def test_reading_all_tells_how_far_it_is_although_nothing_is_kept(store):
    """A filter that keeps nothing lets no more than 20,000 positions pass in silence."""
    command = store.command
    stream = command.stream()
    for _ in range(50):
        await command.appended(command.item(stream, [b""] * 1000))
    request = event_store_pb2.ReadAllRequest(filter=event_store_pb2.Filter(categories=["nothing"]))
    told = {0: [0], 1: [0]}
    async for message in store.query.stub.ReadAll(request):
        assert not message.events
        told[message.checkpoint.shard].append(message.checkpoint.position)
    assert max(positions[-1] for positions in told.values()) == 50_000
    assert all(later - earlier <= 20_000 for positions in told.values() for earlier, later in pairwise(positions))
