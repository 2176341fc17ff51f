"""Subscriptions: from the past into the present without a gap, with filters, heartbeats and resumption."""

import asyncio
import contextlib
from typing import Self

import asyncpg
import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.errors import RemoteProblem
from google.protobuf.duration_pb2 import Duration


def request_of(after=None, heartbeat=None, **fields):
    """A subscription from a vector of positions."""
    request = event_store_pb2.SubscribeRequest(
        after=[event_pb2.ShardPosition(shard=s, position=p) for s, p in (after or {}).items()], **fields
    )
    if heartbeat is not None:
        duration = Duration()
        duration.FromNanoseconds(int(heartbeat * 1e9))
        request.heartbeat.CopyFrom(duration)
    return request


class Tail:
    """Reads a subscription and remembers what it saw."""

    def __init__(self, client, request) -> None:
        self.call = client.stub.Subscribe(request)
        self.events = []
        self.vector = {}
        self.beats = []
        self.task = asyncio.create_task(self._read())

    async def _read(self):
        async for message in self.call:
            shard = message.checkpoint.shard
            assert message.checkpoint.position >= self.vector.get(shard, 0)
            assert message.head.position >= message.checkpoint.position
            self.vector[shard] = message.checkpoint.position
            self.events += [(e.shard, e.position, e.payload) for e in message.events]
            if not message.events:
                self.beats.append((shard, message.checkpoint.position, message.head.position))

    async def until(self, condition, within=20):
        async with asyncio.timeout(within):
            while not condition():
                if self.task.done():
                    await self.task
                await asyncio.sleep(0.01)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        with contextlib.suppress(asyncio.CancelledError, RemoteProblem):
            await self.task


def assert_gapless(events):
    """Per shard every position from 1, in order."""
    for shard in (0, 1):
        positions = [position for s, position, _ in events if s == shard]
        assert positions == list(range(1, len(positions) + 1))


async def test_the_past_and_the_present_come_without_gap_or_repeat(store):
    """Events written before, during and after the start of the subscription all arrive, in order per shard."""
    command = store.command

    async def write(count):
        for _ in range(count):
            await command.appended(*(command.item(command.stream(), 2) for _ in range(10)))

    await write(10)
    async with Tail(store.query, request_of()) as tail:
        await write(10)
        await tail.until(lambda: len(tail.events) == 400)
        await write(5)
        await tail.until(lambda: len(tail.events) == 500)
        assert_gapless(tail.events)


async def test_a_subscription_goes_on_where_it_was_left(store):
    """The checkpoints of one are the beginning of the next, at every point where it may have broken off."""
    command = store.command
    events = []
    vector = {}
    for _ in range(5):
        await command.appended(*(command.item(command.stream(), 3) for _ in range(20)))
        async with Tail(store.query, request_of(vector)) as tail:
            await tail.until(lambda tail=tail: bool(tail.events))
        events += tail.events
        vector |= tail.vector
    async with Tail(store.query, request_of(vector)) as tail:
        await tail.until(lambda: len(events) + len(tail.events) == 300)
    assert_gapless([*events, *tail.events])


async def test_silence_is_broken_by_heartbeats_with_the_head(store):
    """Each shard tells checkpoint and head at the interval that was asked for, from the start."""
    await store.command.appended(*(store.command.item(store.command.stream()) for _ in range(20)))
    async with Tail(store.query, request_of(heartbeat=0.05)) as tail:
        await tail.until(lambda: len(tail.beats) >= 10 and {shard for shard, *_ in tail.beats} == {0, 1})
        assert all(position == head for _, position, head in tail.beats)
        assert len(tail.events) == 20


async def test_filtered_events_move_the_checkpoint(store):
    """A subscriber to a rare category is told how far the log was read for it, so that it need not be read again."""
    command = store.command
    wanted = event_store_pb2.Filter(categories=["review"])
    async with Tail(store.query, request_of(filter=wanted, heartbeat=0.05)) as tail:
        await command.appended(*(command.item(command.stream()) for _ in range(50)))
        [review] = await command.appended(command.item(command.stream("review"), [b"review"]))
        await command.appended(*(command.item(command.stream()) for _ in range(50)))
        heads = {
            shard.shard: shard.head
            for shard in (await command.stub.GetShardMap(event_store_pb2.GetShardMapRequest())).shards
        }
        await tail.until(lambda: tail.vector == heads)
        assert tail.events == [(review.position.shard, review.position.position, b"review")]


async def test_only_the_shards_asked_for_are_read(store):
    """A projector per shard reads its own."""
    await store.command.appended(*(store.command.item(store.command.stream()) for _ in range(20)))
    async with Tail(store.query, request_of(shards=[1], heartbeat=0.05)) as tail:
        await tail.until(lambda: len(tail.beats) > 5)
        assert {shard for shard, *_ in tail.events} == {1} == set(tail.vector)


async def test_events_of_another_replica_arrive(databases, replica, valkey):
    """By the doorbell, long before the poll that is an hour away."""
    settings = {"redis_url": valkey.url, "poll_seconds": 3600.0}
    async with replica(databases, **settings) as writing, replica(databases, **settings) as reading:
        async with Tail(reading.query, request_of()) as tail:
            # The doorbell may be heard only some time after the start; each ring tells the whole head.
            async with asyncio.timeout(20):
                written = 0
                while {shard for shard, *_ in tail.events} != {0, 1}:
                    await writing.command.appended(writing.command.item(writing.command.stream()))
                    written += 1
                    await asyncio.sleep(0.01)
            assert_gapless(tail.events)


async def test_without_redis_the_poll_finds_the_events_of_another_replica(databases, replica):
    """Later, but surely; also when Redis is set but away."""
    away = {"redis_url": "redis://127.0.0.1:1/0", "poll_seconds": 0.05}
    async with replica(databases, **away) as writing, replica(databases, **away) as reading:
        async with Tail(reading.query, request_of()) as tail:
            await writing.command.appended(*(writing.command.item(writing.command.stream()) for _ in range(20)))
            await tail.until(lambda: len(tail.events) == 20)
            assert_gapless(tail.events)


async def test_a_slow_subscriber_holds_up_nobody_and_loses_nothing(store):
    """Twenty megabytes wait in the database while it sleeps, and come when it reads."""
    command = store.command
    call = store.query.stub.Subscribe(request_of())
    first = await call.read()
    for _ in range(10):
        await command.appended(*(command.item(command.stream(), [b"x" * 100_000]) for _ in range(20)))
    events = [(e.shard, e.position, b"") for e in first.events]
    async with asyncio.timeout(30):
        while len(events) < 200:
            events += [(e.shard, e.position, b"") for e in (await call.read()).events]
    call.cancel()
    assert_gapless(events)


async def test_a_subscription_ends_loudly_when_the_log_is_restored_to_an_earlier_state(databases, replica):
    """Its checkpoint is from a life that did not happen; going on would skip the events of the new one."""
    async with replica(databases, poll_seconds=0.05) as store:
        await store.command.appended(*(store.command.item(store.command.stream()) for _ in range(20)))
        async with Tail(store.query, request_of()) as tail:
            await tail.until(lambda: len(tail.events) == 20)
            await truncated(databases)
            with pytest.raises(RemoteProblem) as caught:
                await tail.until(lambda: False)
            assert caught.value.reason == "CHECKPOINT_AHEAD"


async def truncated(databases):
    """Empty the shards under the running service, as a restore would."""
    for dsn in databases.owner:
        connection = await asyncpg.connect(dsn)
        await connection.execute("TRUNCATE events, streams, appends; UPDATE head SET position = 0")
        await connection.close()
