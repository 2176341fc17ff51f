"""Archives: events that have left for files are read as if they had not, and none is ever in neither place."""

import asyncio
import random
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_pb2, event_store_pb2
from chassis.database.pool import Database
from chassis.errors import RemoteProblem
from event_store.adapters.archive_files import ArchiveFiles
from event_store.adapters.postgres import PostgresLog

BACKWARDS = event_store_pb2.DIRECTION_BACKWARDS
SIZE = 50
MAP = event_store_pb2.GetShardMapRequest()


class Stopped(Exception):
    """What ends an archiving in the middle."""


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "archives"


@pytest.fixture
async def store(databases, replica, directory):
    """A replica that archives by fifty positions."""
    async with replica(databases, archive_directory=directory, archive_events=SIZE) as running:
        yield running


async def archived(store, shard=0, **fields):
    """Archive a shard: the files that were made."""
    async with store.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        request = administration_pb2.ArchiveEventsRequest(shard=shard, **fields)
        return [answer.archive async for answer in stub.ArchiveEvents(request, timeout=60)]


async def listed(store, shard=0):
    """What is archived of a shard."""
    async with store.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        return list((await stub.ListArchives(administration_pb2.ListArchivesRequest(shard=shard), timeout=10)).archives)


async def verified(store, shard=0):
    """The end of a verification."""
    async with store.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        request = administration_pb2.VerifyRequest(shard=shard)
        return [answer async for answer in stub.Verify(request, timeout=60)][-1]


async def everything(store):
    """All that can be read of the log, in every way there is."""
    query, command = store.query, store.command
    log = await query.read_all()
    shards = {e.shard for e in log}
    streams = sorted({e.stream for e in log if e.stream.startswith("product")})
    found = {
        "all": [[e for e in log if e.shard == shard] for shard in sorted(shards)],
        "reviews": [e for e in await query.read_all(filter=REVIEWS) if e.shard == 0],
        "limited": await query.read_all(limit=7, shards=[0]),
    }
    for stream in streams:
        found[stream] = await command.read(stream)
        found[stream, "back"] = await command.read(stream, direction=BACKWARDS)
        found[stream, "middle"] = await command.read(stream, from_revision=3, limit=4)
        found[stream, "back from"] = await command.read(stream, direction=BACKWARDS, from_revision=5, limit=3)
    request = event_store_pb2.BatchReadStreamsRequest(
        streams=[event_store_pb2.StreamSlice(stream=s, from_revision=n % 4) for n, s in enumerate(streams)]
    )
    found["batch"] = await command.stub.BatchReadStreams(request, timeout=30)
    return found


REVIEWS = event_store_pb2.Filter(categories=["review"])


async def fill(store, events=120):
    """Streams that are written to all along, and so are spread over many partitions, until both shards are so long."""
    command, dice = store.command, random.Random(5)  # noqa: S311 - a seeded one
    streams = [command.stream() for _ in range(8)] + [command.stream("review") for _ in range(4)]
    heads = {0: 0, 1: 0}
    while min(heads.values()) < events:
        # One stream of each shard at least is among them: a new one is, sooner or later.
        streams.append(command.stream())
        for stream in dice.sample(streams, 5):
            payloads = [dice.randbytes(dice.choice((0, 10, 2000))) for _ in range(dice.randint(1, 3))]
            item = command.item(stream, [command.event(p, actor="someone", reason="\u00e9") for p in payloads])
            [answer] = await command.appended(item)
            heads[answer.position.shard] = answer.position.position


async def counts(databases, shard=0):
    """How many rows and files a shard has."""
    connection = await asyncpg.connect(databases.owner[shard])
    row = await connection.fetchrow("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM archives)")
    await connection.close()
    return tuple(row)


async def test_every_read_falls_through_to_the_files(store, databases, directory):
    """Streams both ways, batches, the whole log and its chain are the same before and after, byte for byte."""
    await fill(store)
    before = await everything(store)
    heads = {s.shard: s.head for s in (await store.query.stub.GetShardMap(MAP)).shards}
    for shard in (0, 1):
        made = await archived(store, shard, until=heads[shard])
        assert [(a.first, a.last) for a in made] == [(n, n + SIZE - 1) for n in range(1, heads[shard] - SIZE + 2, SIZE)]
        assert made
        assert await listed(store, shard) == made
        assert await counts(databases, shard) == (heads[shard] % SIZE, len(made))
        found = await verified(store, shard)
        assert not found.HasField("fault"), found
        assert found.position == heads[shard]
    assert await everything(store) == before
    # New events join the old ones.
    stream = before["all"][0][0].stream
    await store.command.appended(store.command.item(stream, [b"new"]))
    events = await store.command.read(stream)
    assert [e.revision for e in events] == list(range(len(events)))
    assert events[-1].payload == b"new"


async def test_a_subscription_goes_through_files_and_rows_into_the_present(store, databases):
    """From any position, also when what it is about to read is archived under it."""
    await fill(store)
    call = store.query.stub.Subscribe(event_store_pb2.SubscribeRequest(shards=[0]))
    head = next(s.head for s in (await store.query.stub.GetShardMap(MAP)).shards if s.shard == 0)
    await archived(store, until=head)
    positions = []
    async with asyncio.timeout(30):
        while len(positions) < head:
            positions += [e.position for e in (await call.read()).events]
        call.cancel()
        assert positions == list(range(1, head + 1))
        for start in (1, SIZE - 1, SIZE, SIZE + 1, head - 1):
            after = [event_pb2.ShardPosition(shard=0, position=start)]
            call = store.query.stub.Subscribe(event_store_pb2.SubscribeRequest(shards=[0], after=after))
            positions = []
            while len(positions) < head - start:
                positions += [e.position for e in (await call.read()).events]
            call.cancel()
            assert positions == list(range(start + 1, head + 1))


async def test_only_whole_partitions_that_are_old_enough_leave(store, databases):
    """What is asked for is a bound: no partition that goes beyond it is touched, and none twice."""
    await fill(store)
    assert await archived(store, until=SIZE - 1) == []
    assert await archived(store, older_than=timedelta(hours=1)) == []
    assert [a.last for a in await archived(store, until=2 * SIZE - 1)] == [SIZE]
    assert await archived(store, until=2 * SIZE - 1) == []
    assert [a.first for a in await archived(store, until=2 * SIZE)] == [SIZE + 1]
    with pytest.raises(RemoteProblem) as caught:
        await archived(store)
    assert caught.value.reason == "INVALID_REQUEST"
    with pytest.raises(RemoteProblem) as caught:
        await archived(store, shard=7, until=1)
    assert caught.value.reason == "UNKNOWN_SHARD"


@pytest.mark.parametrize("moment", ["written", "named", "compared", "recorded"])
async def test_an_archiving_that_breaks_off_leaves_every_event_in_one_place(
    store, databases, directory, monkeypatch, moment
):
    """Whenever it ends, all can be read; the next run leaves no trace of the one before."""
    await fill(store)
    before = await everything(store)
    rows = await counts(databases)

    def stop(*_args, **_kwargs):
        raise Stopped

    async def stop_later(*_args, **_kwargs):
        raise Stopped

    with monkeypatch.context() as patched:
        if moment == "written":
            patched.setattr(ArchiveFiles, "_put", stop)
        elif moment == "named":
            patched.setattr(ArchiveFiles, "check", stop_later)
        elif moment == "compared":
            patched.setattr("event_store.adapters.postgres.archived._Session.record", stop_later)
        else:
            patched.setattr("event_store.entrypoints.archiving._message", stop)
        with pytest.raises(RemoteProblem):
            await archived(store, until=2 * SIZE)
    assert await everything(store) == before
    left = [path.name for path in directory.rglob("*.*")]
    assert len(left) == 1
    if moment == "recorded":
        assert await counts(databases) == (rows[0] - SIZE, 1)
    else:
        assert await counts(databases) == rows
    assert [a.last for a in await archived(store, until=2 * SIZE)][-1] == 2 * SIZE
    assert await everything(store) == before
    assert sorted(path.name for path in directory.rglob("*.*")) == [a.name for a in await listed(store)]


async def test_a_file_that_is_not_what_the_rows_are_replaces_nothing(store, databases, directory, monkeypatch):
    """It is read back before anything is deleted: a byte that a disk lost costs a file, not an event."""
    await fill(store)
    before, rows = await everything(store), await counts(databases)
    put = ArchiveFiles._put

    def spoil(self, partial: Path, name: str) -> None:
        content = bytearray(partial.read_bytes())
        content[len(content) // 3] ^= 1
        partial.write_bytes(content)
        put(self, partial, name)

    with monkeypatch.context() as patched:
        patched.setattr(ArchiveFiles, "_put", spoil)
        with pytest.raises(RemoteProblem) as caught:
            await archived(store, until=SIZE)
    assert caught.value.reason == "ARCHIVE_UNREADABLE"
    assert await counts(databases) == rows
    assert await everything(store) == before


async def test_a_missing_or_changed_file_is_named_and_nothing_is_skipped(databases, replica, directory):
    """Reads that need it fail with its name, on every way; those that do not need it go on."""
    settings = {"archive_directory": directory, "archive_events": SIZE}
    async with replica(databases, **settings) as store:
        await fill(store)
        whole = await store.query.read_all(shards=[0])
        [first, second] = await archived(store, until=2 * SIZE)
    path = directory / "shard-0" / first.name
    content = path.read_bytes()
    changed = bytearray(content)
    changed[40] ^= 255
    truncated = content[: len(content) // 2]
    for spoiled in (bytes(changed), truncated, None):
        path.unlink()
        if spoiled is not None:
            path.write_bytes(spoiled)
        async with replica(databases, **settings) as store:
            reads = [
                store.query.read_all(shards=[0]),
                store.command.read(whole[0].stream),
                store.command.read(whole[0].stream, direction=BACKWARDS),
                store.query.stub.BatchReadStreams(
                    event_store_pb2.BatchReadStreamsRequest(
                        streams=[event_store_pb2.StreamSlice(stream=whole[0].stream)]
                    ),
                    timeout=10,
                ),
                store.query.stub.Subscribe(event_store_pb2.SubscribeRequest(shards=[0])).read(),
            ]
            for read in reads:
                with pytest.raises(RemoteProblem) as caught:
                    await read
                assert caught.value.reason == "ARCHIVE_UNREADABLE"
                assert caught.value.problem.metadata["archive"] == first.name
            after = [event_pb2.ShardPosition(shard=0, position=SIZE)]
            assert await store.query.read_all(shards=[0], after=after) == whole[SIZE:]
            found = await verified(store)
            assert (found.position, found.fault.position) == (0, 1)
            assert first.name in found.fault.detail
        path.write_bytes(content)
    assert second.first == SIZE + 1


async def test_one_at_a_time_archives_a_shard(store, databases):
    """The second is told so."""
    await fill(store)
    database = await Database.open(databases.service[0], name="another")
    async with PostgresLog(database, 0).archiving():
        with pytest.raises(RemoteProblem) as caught:
            await archived(store, until=SIZE)
        assert caught.value.reason == "ARCHIVING_UNDER_WAY"
    assert len(await archived(store, until=SIZE)) == 1
    await database.close()


async def test_the_service_can_remove_events_in_no_other_way(databases):
    """Not by hand, and not by the function without the hash of the last event, or with a gap before it."""
    connection = await asyncpg.connect(databases.service[0])
    try:
        for statement in ("DELETE FROM events", "INSERT INTO archives VALUES (1, 1, '', 0, '', now())"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        with pytest.raises(asyncpg.DataError):
            await connection.execute("SELECT archive_events(1, 1, 'a', 1, '', 'x')")
        with pytest.raises(asyncpg.SerializationError):
            await connection.execute("SELECT archive_events(2, 3, 'a', 1, '', 'x')")
    finally:
        await connection.close()


async def test_without_a_directory_nothing_is_archived(databases, replica):
    """The operator is told which setting is missing."""
    async with replica(databases) as store:
        with pytest.raises(RemoteProblem) as caught:
            await archived(store, until=1)
    assert caught.value.reason == "ARCHIVES_NOT_KEPT"
