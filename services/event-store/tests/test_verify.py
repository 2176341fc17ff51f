"""The chain of hashes: whole as long as nobody touches the log, and whatever is touched is found, at its position."""

import random
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_store_pb2
from chassis.errors import RemoteProblem
from event_store.application import derived
from event_store.application import verify as verifying
from event_store.domain.chain import StoredEvent

COLUMNS = StoredEvent._fields
EVENTS = 12


async def check(store, shard=0, **fields):
    """Verify a shard: how far it holds, and the fault."""
    async with store.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        answers = [a async for a in stub.Verify(administration_pb2.VerifyRequest(shard=shard, **fields), timeout=30)]
    assert all(not answer.HasField("fault") for answer in answers[:-1])
    assert [a.position for a in answers] == sorted(a.position for a in answers)
    return answers[-1]


async def fill(store, events=EVENTS):
    """A log with appends of all kinds on shard 0."""
    client, written = store.command, 0
    while written < events:
        stream = client.stream()
        [answer] = await client.appended(client.item(stream, 2))
        written += 2 if answer.position.shard == 0 else 0


@pytest.fixture
async def admin(databases):
    """A superuser's connection to shard 0."""
    connection = await asyncpg.connect(databases.admin[0])
    yield connection
    await connection.close()


async def test_an_untouched_log_holds(store, databases):
    """After appends of every kind: single, several streams, refused, replayed, settings, in many batches."""
    client = store.command
    for _ in range(10):
        key = client.stream().partition("-")[2]
        further = event_store_pb2.StreamAppend(stream=f"b-{key}", events=[client.event(b"\0"), client.event(b"")])
        further.any.SetInParent()
        item = client.item(f"a-{key}", [b"x" * 3000, b""], also=[further])
        await client.append(
            item,
            item,
            client.item(f"c-{key}"),
            client.item(f"a-{key}", expected=7),
            client.item(f"a-{key}", expected=1),
        )
        request = event_store_pb2.SetStreamMetadataRequest(append_id=item.events[0].event_id, stream=f"a-{key}")
        request.metadata.max_count = 3
        await client.stub.SetStreamMetadata(request, timeout=5)
    for shard in (0, 1):
        connection = await asyncpg.connect(databases.owner[shard])
        head, chain = await connection.fetchrow("SELECT position, hash FROM head")
        await connection.close()
        found = await check(store, shard)
        assert not found.HasField("fault"), found
        assert (found.position, found.until, found.hash) == (head, head, chain)
        assert head > 0


async def test_an_empty_log_holds(store):
    """It answers once, with 32 zero bytes."""
    found = await check(store)
    assert (found.position, found.until, found.hash) == (0, 0, bytes(32))
    assert not found.HasField("fault")


async def test_a_part_is_verified_by_itself_and_a_hash_kept_elsewhere_still_stands(store):
    """From after one position to another; the hash there is the one that a later whole check passes through."""
    await fill(store)
    until = await check(store, until=5)
    assert (until.position, until.until) == (5, 5)
    rest = await check(store, after=5)
    assert not rest.HasField("fault")
    await fill(store)
    assert (await check(store, until=5)).hash == until.hash
    for fields in ({"after": 10**6}, {"until": 10**6}, {"shard": 2}):
        with pytest.raises(RemoteProblem) as caught:
            await check(store, **fields)
        assert caught.value.reason in {"CHECKPOINT_AHEAD", "UNKNOWN_SHARD"}


def changed(value, column, chance):
    """A value that differs from one of the log in one byte, or in the least that its type allows."""
    match value:
        case None:
            return chance.randrange(5)
        case int():
            return value ^ 1 << chance.randrange(9 if column == "bucket" else 20)
        case str():
            place = chance.randrange(len(value))
            return value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
        case bytes():
            return flipped(value, chance) if value else b"\0"
        case UUID():
            return UUID(bytes=flipped(value.bytes, chance))
        case datetime():
            return value + timedelta(microseconds=chance.choice([-1, 1]))


def flipped(value, chance):
    """The bytes with one bit turned."""
    place = chance.randrange(len(value))
    return value[:place] + bytes([value[place] ^ 1 << chance.randrange(8)]) + value[place + 1 :]


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_changed_byte_of_any_column_is_found_at_its_position(store, admin, column):
    """In any row. A change of the position itself shows where the event is missing."""
    await fill(store)
    chance = random.Random(column)  # noqa: S311 - any will do
    await admin.execute("ALTER TABLE events DROP CONSTRAINT IF EXISTS events_bucket_check")
    rows = await admin.fetch("SELECT position FROM events ORDER BY position")
    for (position,) in chance.sample(rows, 5):
        original = await admin.fetchval(f"SELECT {column} FROM events WHERE position = $1", position)  # noqa: S608
        while True:
            other = changed(original, column, chance)
            if column not in {"position", "origin", "revision"} or other > len(rows):
                break
        await admin.execute(f"UPDATE events SET {column} = $2 WHERE position = $1", position, other)  # noqa: S608
        found = await check(store)
        assert (found.position, found.fault.position) == (position - 1, position), (column, found)
        where = other if column == "position" else position
        await admin.execute(f"UPDATE events SET {column} = $2 WHERE position = $1", where, original)  # noqa: S608
        found = await check(store)
        assert not found.HasField("fault")


async def test_a_missing_event_is_found(store, admin):
    """In the middle and at the beginning, by its position."""
    await fill(store)
    for position in (7, 1):
        await admin.execute("DELETE FROM events WHERE position = $1", position)
        assert (await check(store)).fault.position == position


async def test_two_events_in_each_others_place_are_found(store, admin):
    """With all their columns but the position, hashes included or not."""
    await fill(store)
    await admin.execute("UPDATE events SET position = -position WHERE position IN (4, 9)")
    await admin.execute("UPDATE events SET position = 13 + position WHERE position < 0")
    assert (await check(store)).fault.position == 4


@pytest.mark.parametrize("cut", [1, 5, EVENTS])
async def test_a_tail_that_was_cut_off_is_found(store, admin, cut):
    """The counter tells, also when nothing is left, and also when it was turned back but for the hash."""
    await fill(store)
    await admin.execute("DELETE FROM events WHERE position > $1", EVENTS - cut)
    assert (await check(store)).fault.position == EVENTS - cut + 1
    await admin.execute("UPDATE head SET position = $1", EVENTS - cut)
    assert (await check(store)).fault.position == EVENTS - cut


async def test_a_forged_event_at_the_end_is_found(store, admin):
    """One that the counter does not know, with a hash that continues the chain; and with a counter that was only moved
    on.
    """
    await fill(store)
    await admin.execute(
        "INSERT INTO events (position, origin, revision, stream, bucket, category, type, event_id, recorded_at, payload, metadata, hash)"
        " SELECT position + 1, position + 1, 0, 'x-1', bucket, 'x', type, event_id, recorded_at, payload, metadata,"
        " event_hash(hash, position + 1, position + 1, 0, 'x-1', bucket, 'x', type, event_id, recorded_at, payload, metadata, NULL, NULL)"
        " FROM events WHERE position = $1",
        EVENTS,
    )
    found = await check(store)
    assert (found.position, found.fault.position) == (EVENTS, EVENTS + 1)
    await admin.execute("UPDATE head SET position = position + 1")
    found = await check(store)
    assert (found.position, found.fault.position) == (EVENTS + 1, EVENTS + 1)


@pytest.mark.parametrize("byte", range(0, 32, 5))
async def test_a_changed_byte_of_the_counters_hash_is_found(store, admin, byte):
    """Each of them, at the head."""
    await fill(store, 4)
    await admin.execute("UPDATE head SET hash = set_byte(hash, $1, get_byte(hash, $1) # 1)", byte)
    assert (await check(store)).fault.position == 4


@pytest.mark.parametrize("position", [0, 3, 5])
async def test_a_changed_position_of_the_counter_is_found(store, admin, position):
    """Too low or too high."""
    await fill(store, 4)
    await admin.execute("UPDATE head SET position = $1", position)
    assert (await check(store)).HasField("fault")


async def test_a_log_is_verified_while_it_grows(store):
    """What is appended meanwhile is no fault, and is left for the next time."""
    await fill(store, 4)
    async with store.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        answering = aiter(stub.Verify(administration_pb2.VerifyRequest(), timeout=30))
        first = await anext(answering)
        await fill(store, 20)
        answers = [answer async for answer in answering]
    assert first.until == 4
    assert all(not answer.HasField("fault") for answer in answers)


class Piecemeal:
    """A log that fails to read one position, however it is asked."""

    def __init__(self, good) -> None:
        self.good = good
        self.asked = []

    async def counter(self):
        """Ten events."""
        return verifying.Counter(10, b"", None, None)

    async def stored(self, *, after, until, limit, max_bytes):
        """What there is, unless it takes the bad position."""
        self.asked.append(limit)
        page = [event for event in self.good if after < event.position <= until][:limit]
        if any(event.position == 6 for event in page):
            raise derived.Unreadable("invalid page")
        return page


async def test_what_the_disk_lost_is_found_at_its_position(store, admin):
    """A piece that cannot be read is narrowed down to the event that it is about."""
    await fill(store)
    rows = await admin.fetch(f"SELECT {', '.join(COLUMNS)} FROM events ORDER BY position")  # noqa: S608
    log = Piecemeal([StoredEvent(*row) for row in rows])
    found = [progress async for progress in verifying.verify([log], 0)]
    assert (found[-1].position, found[-1].fault.position) == (5, 6)
    assert "invalid page" in found[-1].fault.detail


async def test_no_more_than_a_page_is_held(store, admin, monkeypatch):
    """However long the log is, pages are bounded in events and in bytes."""
    await fill(store)
    monkeypatch.setattr(verifying, "PAGE", 5)
    async with store.connect("operator") as client:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)
        answers = [a.position async for a in stub.Verify(administration_pb2.VerifyRequest(), timeout=30)]
    assert answers[:4] == [0, 5, 10, 12]
    monkeypatch.setattr(verifying, "PAGE_BYTES", 1)
    assert (await check(store, until=3)).position == 3
