"""Moves of buckets on which something dies, sleeps, is away or stands in the way: they are gone through with, or given
up, and nothing is lost or doubled either way.
"""

import asyncio
import contextlib

import asyncpg
import pytest
from chassis.buckets import stream_bucket
from event_store.application.mover import MovePace

from .moving import DONE, FIRST_HALF, Died, Tail, Writers, assert_whole, begin, fetch, home, moved, over, process

STEPS = ["copied a piece", "copied", "fenced", "copied the rest", "taken", "told"]


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
        assert (move["phase"], move["epoch"]) == ("done", 5)
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
                while mover._routing.epoch < 21:  # noqa: ASYNC110 - it looks at the map when it is through
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
            # In one slice: of several, those before the one that fails would have moved.
            await begin(databases, mover, *FIRST_HALF, slice_buckets=512)
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
