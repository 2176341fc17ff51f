"""A long range is moved slice by slice, each with a pause of its own, and an operator can end a move where it is."""

import asyncio
import contextlib
from datetime import timedelta

import pytest
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_store_pb2
from chassis.buckets import stream_bucket
from chassis.errors import RemoteProblem
from event_store.application.mover import MovePace

from .moving import CANCELLED, DONE, FIRST_HALF, Tail, Writers, assert_whole, begin, fetch, home, moved, over, process

SLICE = 128


class Halted:
    """Halts a move at a step of its n-th slice, until it is told to go on. Steps are told to it by the mover.

    `between` is called after each slice, so that there is something to copy for the next.
    """

    def __init__(self, mover, step, number, *, between=None) -> None:
        self._between = between
        self.there = asyncio.Event()
        self.go_on = asyncio.Event()
        self._mover = mover
        self._step = step
        self._number = number
        for shard in mover._shards:
            for name in ("copied", "fence", "copy", "take", "end_departure"):
                self._wrap(shard, name)

    def _wrap(self, shard, name):
        method = getattr(shard, name)

        async def halting(move, *args, **kwargs):
            if name == self._step and move.first == self._number * SLICE:
                self.there.set()
                await self.go_on.wait()
            if name == "end_departure" and self._between is not None:
                await self._between()
            return await method(move, *args, **kwargs)

        setattr(shard, name, halting)


@contextlib.asynccontextmanager
async def running(mover):
    """A process that works on moves, for as long as the block lasts."""
    task = asyncio.create_task(mover.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def cancel(store, move_id=""):
    """Cancel by the wire; how the move ended."""
    async with store.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        request = administration_pb2.CancelMoveRequest(move_id=move_id)
        return (await stub.CancelMove(request, timeout=60)).move


async def cancelled(databases):
    """Wait until somebody has asked for the end of the move."""
    async with asyncio.timeout(20):
        while True:
            [row] = await fetch(databases.owner[0], "SELECT cancelled FROM moves ORDER BY number DESC LIMIT 1")
            if row["cancelled"]:
                return
            await asyncio.sleep(0.02)


async def test_the_pause_of_each_bucket_is_measured_and_told(databases, replica):
    """Each slice is switched by itself, with a version of the map; that of the move is the last, its pause the longest."""
    async with replica(databases) as store:
        writers = Writers([store])
        async with writers.at_work(4):
            answers = await moved(store, 0, 199, 1)
        move = answers[0]
        assert (move.phase, move.epoch) == (DONE, 8)
        assert [(s.buckets.first, s.buckets.last) for s in move.slices] == [
            (first, min(199, first + 31)) for first in range(0, 200, 32)
        ]
        assert [s.epoch for s in move.slices] == list(range(2, 9))
        pauses = [s.pause.ToTimedelta() for s in move.slices]
        assert all(timedelta() < pause < timedelta(seconds=10) for pause in pauses)
        assert move.pause.ToTimedelta() == max(pauses)
        times = [s.switched_at.ToNanoseconds() for s in move.slices]
        assert times == sorted(times)
        # Told while it goes on, too.
        assert {len(answer.slices) for answer in answers} <= set(range(8))
        await assert_whole(databases, store, writers.written)


async def test_while_one_slice_is_switched_the_others_are_written_to(databases, replica):
    """Those before it at the new shard, those after it at the old one, which has not fenced them yet."""
    async with replica(databases) as store:
        client = store.command
        streams = {}
        while len(streams) < 4:
            stream = home(client)
            streams.setdefault(stream_bucket(stream) // SLICE, stream)
        await client.appended(*(client.item(stream) for stream in streams.values()))
        async with process(databases, pace=MovePace(lease=60)) as mover:
            halted = Halted(mover, "take", 1)
            await begin(databases, mover, *FIRST_HALF, slice_buckets=SLICE)
            async with running(mover):
                await halted.there.wait()
                assert [(await client.appended(client.item(streams[n])))[0].position.shard for n in (0, 2, 3)] == [
                    1,
                    0,
                    0,
                ]
                waiting = asyncio.create_task(client.appended(client.item(streams[1])))
                await asyncio.wait([waiting], timeout=0.3)
                assert not waiting.done()
                halted.go_on.set()
                assert (await waiting)[0].position.shard == 1
                assert (await over(databases))["phase"] == "done"
        await assert_whole(databases, store, {stream: [b"0", b"0"] for stream in streams.values()})
        pauses = await fetch(databases.owner[0], "SELECT pause FROM move_slices ORDER BY first_bucket")
        assert pauses[1][0] > timedelta(seconds=0.3)
        assert all(pauses[n][0] < pauses[1][0] for n in (0, 2, 3))


@pytest.mark.parametrize(
    ("step", "number", "there"),
    [("copied", 0, 0), ("copy", 0, 0), ("fence", 0, 1), ("fence", 2, 3), ("copy", 1, 1), ("take", 3, 4)],
)
async def test_a_cancelled_move_ends_where_it_is(databases, replica, step, number, there):
    """While it copies, before a fence, behind one, between slices: what was not switched stays and goes on being
    written to, what was switched is whole at the new shard, and nothing is lost or doubled for anybody.
    """
    async with replica(databases) as store:
        writers, tail = Writers([store]), Tail(store)
        async with writers.at_work(6), process(databases, pace=MovePace(lease=60, renewal=0.1, near=0)) as mover:
            last = home(store.command)
            while stream_bucket(last) // SLICE != 3:
                last = home(store.command)

            async def one_more():
                if len(writers.written.get(last, ())) < number:
                    await store.command.appended(store.command.item(last))
                    writers.written[last].append(b"0")

            halted = Halted(mover, step, number, between=one_more)
            await begin(databases, mover, *FIRST_HALF, slice_buckets=SLICE)
            await fetch(databases.owner[0], "UPDATE moves SET leased_until = clock_timestamp() + interval '1 hour'")
            async with running(mover):
                await halted.there.wait()
                asked = asyncio.create_task(cancel(store))
                await cancelled(databases)
                halted.go_on.set()
                move = await asked
            await writers.grown(50)
        # A slice that was past its fence may have been taken before anybody looked.
        assert there - 1 <= len(move.slices) <= there
        if there < 4:
            assert (move.phase, move.error) == (CANCELLED, "An operator cancelled it.")
        else:
            # The last slice was past its fence, so nothing was left to be cancelled.
            assert move.phase == DONE
        assert await fetch(databases.owner[0], "SELECT FROM departures WHERE NOT ended") == []
        await assert_whole(databases, store, writers.written)
        events = await tail.until(writers.written)
        assert len(events) == len({(e.stream, e.revision) for e in events})
        # The next move uses what was copied, and copies what is missing.
        again = await moved(store, *FIRST_HALF, 1)
        assert [answer.phase for answer in again[:1]] == ([DONE] if there < 4 else [])
        await assert_whole(databases, store, writers.written)
        answer = await store.query.stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=10)
        assert not answer.shards[0].buckets


async def test_only_a_move_that_is_under_way_can_be_cancelled(databases, replica):
    """By its id or without; one that is over or that there never was is refused by name."""
    async with replica(databases) as store:
        done = (await moved(store, 0, 9, 1))[0]
        for move_id, reason in (
            ("", "UNKNOWN_MOVE"),
            ("6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11", "UNKNOWN_MOVE"),
            ("x", "INVALID_REQUEST"),
            (done.move_id, "MOVE_OVER"),
        ):
            with pytest.raises(RemoteProblem) as caught:
                await cancel(store, move_id)
            assert caught.value.reason == reason
        async with process(databases) as mover:
            await begin(databases, mover, 100, 199)
            [row] = await fetch(databases.owner[0], "SELECT move_id::text FROM moves WHERE phase = 'copying'")
            asked = asyncio.create_task(cancel(store, row[0]))
            await cancelled(databases)
            async with running(mover):
                move = await asked
        assert (move.phase, move.move_id, len(move.slices)) == (CANCELLED, row[0], 0)
        assert (await moved(store, 100, 199, 1))[0].phase == DONE
