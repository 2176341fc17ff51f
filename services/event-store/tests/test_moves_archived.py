"""Buckets whose events have left for files move as others do: partly archived or wholly, there and home again."""

import pytest
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_store_pb2

from .moving import DONE, FIRST_HALF, Tail, assert_whole, fetch, home, moved

SIZE = 20
BACKWARDS = event_store_pb2.DIRECTION_BACKWARDS


async def archived(store, shard, until):
    """Archive a shard up to a position, by whole files."""
    async with store.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        request = administration_pb2.ArchiveEventsRequest(shard=shard, until=until)
        return [answer.archive async for answer in stub.ArchiveEvents(request, timeout=60)]


async def written_more(store, written, count=1):
    """Further events of each stream."""
    client = store.command
    for stream, payloads in written.items():
        new = [f"{stream}/{len(payloads) + number}".encode() for number in range(count)]
        await client.appended(client.item(stream, new, expected=len(payloads) - 1 if payloads else "no_stream"))
        payloads.extend(new)


@pytest.mark.parametrize("archive", ["partly", "wholly"])
async def test_archived_events_move_with_their_buckets_there_and_home(databases, replica, tmp_path, archive):
    """Read whole at the new shard, also when they are archived there and come home; proven on both; given once to who
    follows, whether from before the moves or from the beginning after them. A repeated append is still known.
    """
    settings = {"archive_directory": tmp_path / "archives", "archive_events": SIZE, "poll_seconds": 0.05}
    async with replica(databases, **settings) as store:
        client = store.command
        early = Tail(store)
        written = {home(client): [] for _ in range(8)}
        first = client.item(next(iter(written)), [b"first"], expected="no_stream")
        [answer] = await client.appended(first)
        written[first.stream].append(b"first")
        for _ in range(5):
            await written_more(store, written)
        while (head := (await fetch(databases.owner[0], "SELECT position FROM head"))[0][0]) % SIZE:
            await client.appended(client.item(home(client)))
        until = head if archive == "wholly" else SIZE
        assert len(await archived(store, 0, until)) == until // SIZE
        [left] = await fetch(databases.owner[0], "SELECT count(*) FROM events")
        assert left["count"] == head - until

        there = await moved(store, *FIRST_HALF, 1)
        assert there[0].phase == DONE
        assert there[0].copied_events == head
        await written_more(store, written)
        await assert_whole(databases, store, written)
        for stream, payloads in written.items():
            events = await client.read(stream, direction=BACKWARDS)
            assert [e.payload for e in events] == payloads[::-1]
            assert {e.shard for e in events} == {1}
        [again] = await client.appended(first)
        assert (again.replayed, again.last_revision, again.position.shard) == (True, answer.last_revision, 1)

        # The copies are archived where they are now, and come home with what was written there.
        assert await archived(store, 1, 2 * SIZE)
        await assert_whole(databases, store, written)
        assert (await moved(store, *FIRST_HALF, 0))[0].phase == DONE
        await written_more(store, written)
        await assert_whole(databases, store, written)
        assert {e.shard for stream in written for e in await client.read(stream)} == {0}
        [again] = await client.appended(first)
        assert (again.replayed, again.position.shard, again.position.position) == (True, 0, answer.position.position)

        for tail in (early, Tail(store)):
            events = await tail.until(written)
            assert len(events) == len({(e.stream, e.revision) for e in events})
            for stream, payloads in written.items():
                assert [e.payload for e in events if e.stream == stream] == payloads
