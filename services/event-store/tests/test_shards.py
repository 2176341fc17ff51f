"""Which database is which shard: a log is opened as what it is, or not at all."""

import asyncio
from dataclasses import replace as replaced

import asyncpg
import pytest
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_pb2, event_store_pb2
from chassis.buckets import BUCKETS
from chassis.database.migrations import upgrade
from chassis.process import CannotStart


async def shard_map(store):
    """The epoch, and the buckets of each shard."""
    answer = await store.query.stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=5)
    return answer.epoch, [[(r.first, r.last) for r in shard.buckets] for shard in answer.shards]


@pytest.fixture
async def more(databases, postgres):
    """The two shards, and two databases that are none yet."""
    owner = [await asyncio.to_thread(postgres.create_database, "event_store") for _ in range(2)]
    await upgrade("event_store.migrations", owner, "event_store")
    names = [dsn.partition("?")[0].rpartition("/")[2] for dsn in owner]
    yield replaced(
        databases,
        owner=[*databases.owner, *owner],
        service=[*databases.service, *(postgres.service_dsn(name, "event_store") for name in names)],
        admin=[*databases.admin, *(postgres.superuser_dsn(name) for name in names)],
    )
    for name in names:
        postgres.drop_database(name)


def some(databases, *numbers):
    """A log of some of these databases, in this order."""
    return replaced(
        databases,
        owner=[databases.owner[n] for n in numbers],
        service=[databases.service[n] for n in numbers],
        admin=[databases.admin[n] for n in numbers],
    )


async def refused(replica, databases):
    """Why a log of these databases does not start."""
    with pytest.raises(CannotStart) as caught:
        async with replica(databases):
            pytest.fail("it started")
    return str(caught.value)


async def test_a_new_log_deals_its_buckets_in_equal_ranges(databases, replica):
    """Once: it has the same map after another start."""
    for _ in range(2):
        async with replica(databases) as store:
            assert await shard_map(store) == (1, [[(0, 511)], [(512, 1023)]])


async def test_databases_in_another_order_are_refused(databases, replica):
    """Each stream would be looked for in a shard that does not know it."""
    async with replica(databases):
        pass
    assert "is shard 1" in await refused(replica, some(databases, 1, 0))


async def test_a_shard_that_is_missing_or_replaced_is_refused(more, replica):
    """One that is left out, one that is empty in its place, one of another log, and a new shard 0."""
    async with replica(some(more, 0, 1)):
        pass
    assert "2 shards, and database_urls names 1" in await refused(replica, some(more, 0))
    assert "shard 1 is a new one" in await refused(replica, some(more, 0, 2))
    async with replica(some(more, 2, 3)):
        pass
    assert "another log" in await refused(replica, some(more, 0, 3))
    assert "2 shards" in await refused(replica, some(more, 2))
    connection = await asyncpg.connect(more.admin[2])
    await connection.execute("TRUNCATE shard_identity, cluster")
    await connection.close()
    assert "others belong to a log" in await refused(replica, some(more, 2, 1))


async def test_a_database_with_events_of_other_buckets_is_not_made_a_shard(more, replica):
    """As one of a log from before shards knew what they are, given in the wrong place."""
    async with replica(some(more, 0, 1)) as store:
        await store.command.appended(*(store.command.item(store.command.stream()) for _ in range(30)))
    for dsn in more.admin[:2]:
        connection = await asyncpg.connect(dsn)
        await connection.execute("TRUNCATE shard_identity, cluster; UPDATE head SET held = ~(0::bit(1024))")
        await connection.close()
    assert "holds events of other buckets" in await refused(replica, some(more, 1, 0))
    connection = await asyncpg.connect(more.admin[1])
    await connection.execute("TRUNCATE shard_identity, cluster")
    await connection.close()
    async with replica(some(more, 0, 1)) as store:
        assert await shard_map(store) == (1, [[(0, 511)], [(512, 1023)]])
        assert len(await store.command.read_all()) == 30
    async with replica(some(more, 2)) as other:
        await other.command.appended(other.command.item(other.command.stream()))
    connection = await asyncpg.connect(more.admin[2])
    await connection.execute("TRUNCATE shard_identity, cluster")
    await connection.close()
    assert "new shard 2 holds events" in await refused(replica, some(more, 0, 1, 2))


async def test_a_shard_is_added_with_no_buckets_and_gets_some_by_a_move(more, replica):
    """Nothing is routed to it before; what moves there is found there, after a restart as well."""
    async with replica(some(more, 0, 1)) as store:
        streams = [store.command.stream() for _ in range(60)]
        await store.command.appended(*(store.command.item(stream) for stream in streams))
    three = some(more, 0, 1, 2)
    async with replica(three) as store:
        assert await shard_map(store) == (1, [[(0, 511)], [(512, 1023)], []])
        await store.command.appended(*(store.command.item(stream, expected=0) for stream in streams))
        async with store.connect("operator") as client:
            stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
            request = administration_pb2.MoveBucketsRequest(
                buckets=event_pb2.BucketRange(first=300, last=700), to_shard=2
            )
            moves = [answer.move async for answer in stub.MoveBuckets(request, timeout=60)]
        over = [m for m in moves if m.phase == administration_pb2.MOVE_PHASE_DONE]
        assert [(m.from_shard, m.buckets.first, m.buckets.last) for m in over] == [(0, 300, 511), (1, 512, 700)]
    async with replica(three) as store:
        # Each slice of a move is a version of the map: 212 buckets and 189, by 32.
        assert await shard_map(store) == (1 + 7 + 6, [[(0, 299)], [(701, 1023)], [(300, 700)]])
        for stream in streams:
            [first, second] = await store.command.read(stream)
            assert first.shard == second.shard == (2 if 300 <= first.bucket <= 700 else first.bucket // 512)
        everything = await store.command.read_all()
        assert len(everything) == 120
        assert len({(e.stream, e.revision) for e in everything}) == 120
    assert "3 shards" in await refused(replica, some(more, 0, 1))


async def test_a_start_that_was_cut_off_is_gone_on_with(databases, replica):
    """It died between making shard 0 and shard 1: the buckets that shard 1 was to have are its own, nobody else's."""
    async with replica(databases):
        pass
    connection = await asyncpg.connect(databases.admin[1])
    await connection.execute("TRUNCATE shard_identity; UPDATE head SET held = ~(0::bit(1024))")
    await connection.close()
    connection = await asyncpg.connect(databases.admin[0])
    await connection.execute("UPDATE cluster SET shards = 0")
    await connection.close()
    async with replica(databases) as one, replica(databases) as two:
        for store in (one, two):
            assert await shard_map(store) == (1, [[(0, 511)], [(512, 1023)]])


async def test_replicas_that_start_at_once_deal_the_buckets_once(databases, replica):
    """Whoever comes second finds it done."""

    async def start():
        async with replica(databases) as store:
            return await shard_map(store)

    maps = await asyncio.gather(*(start() for _ in range(4)))
    assert all(found == (1, [[(0, 511)], [(512, BUCKETS - 1)]]) for found in maps)


async def test_a_bucket_that_no_shard_holds_keeps_the_log_from_starting(databases, replica):
    """Unless it is being moved, no shard may answer for it."""
    async with replica(databases):
        pass
    connection = await asyncpg.connect(databases.admin[0])
    await connection.execute("UPDATE head SET held = set_bit(held, 7, 0)")
    await connection.close()
    assert "no shard holds bucket 7" in await refused(replica, databases)
