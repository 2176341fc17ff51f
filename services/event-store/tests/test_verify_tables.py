"""The tables beside the events: a changed byte of them is found too, with the table and the row that it is in."""

import uuid
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_pb2, event_store_pb2
from chassis.buckets import BucketMap, stream_bucket
from event_store.application import derived
from event_store.application import verify as verifying

SIZE = 20


@pytest.fixture
async def store(databases, replica, tmp_path):
    """A replica that archives by twenty positions."""
    async with replica(databases, archive_directory=tmp_path / "archives", archive_events=SIZE) as running:
        yield running


@pytest.fixture
async def admins(databases):
    """A superuser's connections to the shards, which no constraint stops."""
    connections = [await asyncpg.connect(dsn) for dsn in databases.admin]
    for connection in connections:
        for table in ("streams", "stream_metadata", "archives"):
            names = await connection.fetch(
                "SELECT conname FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c'", table
            )
            for (name,) in names:
                await connection.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    yield connections
    for connection in connections:
        await connection.close()


@asynccontextmanager
async def operator(store):
    """The stub of an operator."""
    async with store.connect("operator") as client:
        yield administration_pb2_grpc.EventStoreAdministrationServiceStub(client.channel)


async def verified(store, shard=0, **fields):
    """The end of a verification."""
    async with operator(store) as stub:
        request = administration_pb2.VerifyRequest(shard=shard, **fields)
        answers = [answer async for answer in stub.Verify(request, timeout=60)]
    assert [answer.rows for answer in answers] == sorted(answer.rows for answer in answers)
    return answers[-1]


def home(client, shard=0, category="product"):
    """A stream that lives on a shard at first."""
    while BucketMap(2).shard_of(stream_bucket(stream := client.stream(category))) != shard:
        pass
    return stream


async def fill(store, shard=0):
    """Appends of every kind: to one stream and to several, of one event and of more, and what is said of streams."""
    client = store.command
    for number in range(12):
        stream = home(client, shard)
        further = event_store_pb2.StreamAppend(
            stream=f"review-{stream.partition('-')[2]}", events=[client.event(b"also")] * (number % 3 + 1)
        )
        further.any.SetInParent()
        await client.appended(client.item(stream, 1 + number % 2, also=[further]), client.item(stream, 2))
        if number < 4:
            request = event_store_pb2.SetStreamMetadataRequest(append_id=str(uuid.uuid4()), stream=stream)
            request.metadata.max_count = 30 + number
            request.metadata.max_age.FromTimedelta(timedelta(days=400 + number))
            await client.stub.SetStreamMetadata(request, timeout=5)
            if number % 2:
                request.append_id, request.metadata.tombstoned = str(uuid.uuid4()), True
                await client.stub.SetStreamMetadata(request, timeout=5)


async def archived(store, shard=0):
    """Archive the first partition of a shard."""
    async with operator(store) as stub:
        request = administration_pb2.ArchiveEventsRequest(shard=shard, until=SIZE)
        made = [answer.archive async for answer in stub.ArchiveEvents(request, timeout=60)]
    assert [one.last for one in made] == [SIZE]


async def moved(store, first, last, to_shard):
    """Move buckets."""
    async with operator(store) as stub:
        request = administration_pb2.MoveBucketsRequest(
            buckets=event_pb2.BucketRange(first=first, last=last), to_shard=to_shard
        )
        answers = [answer.move async for answer in stub.MoveBuckets(request, timeout=60)]
    assert answers[-1].phase == administration_pb2.MOVE_PHASE_DONE, answers[-1].error


CHANGES = {
    "streams": {
        "stream": ["stream || 'x'"],
        "origin": ["origin + 1", "origin # 4096", "-origin"],
        "revision": ["revision + 1", "revision - 1", "revision # 1048576"],
        "bucket": ["bucket # 1", "bucket # 512"],
    },
    "appends": {
        "stream": ["stream || 'x'", "'product-' || gen_random_uuid()"],
        "first_revision": ["first_revision + 1", "first_revision - 1", "first_revision - 4294967296"],
        "last_revision": ["last_revision + 1", "last_revision - 1", "last_revision # 1099511627776"],
        "position": ["position + 1", "position - 1", "-position", "position # 65536"],
        "also": [
            "coalesce(also, '[[\"review-1\", 0, 0]]'::jsonb)",
            "jsonb_set(also, '{0,1}', to_jsonb((also #>> '{0,1}')::bigint + 1))",
            "jsonb_set(also, '{0,2}', to_jsonb((also #>> '{0,2}')::bigint + 1))",
            "jsonb_set(also, '{0,0}', '\"review-2\"')",
        ],
    },
    "stream_metadata": {
        "stream": ["stream || 'x'"],
        "bucket": ["bucket # 1"],
        "revision": ["revision + 1", "revision - 1"],
        "max_count": ["max_count + 1", "NULL"],
        "max_age": ["max_age + interval '1 microsecond'", "NULL"],
        "tombstoned": ["NOT tombstoned"],
    },
    "archives": {
        "name": ["name || 'x'"],
        "bytes": ["bytes + 1"],
        "sha256": ["set_byte(sha256, 3, get_byte(sha256, 3) # 1)"],
    },
    "archived_streams": {
        "origin": ["origin + 100000"],
        "first_revision": ["first_revision + 1"],
        "places": ["array_append(places, 3)", "array_prepend(places[1] + 1, places[2:])"],
    },
}
"""How to change each column so that it says something else."""
PLACES = [
    (table, when)
    for table in CHANGES
    for when in (("archived",) if table.startswith("archive") else ("rows", "archived"))
]
"""Rows about events that are in the database, and about such that have left for a file."""


@pytest.mark.parametrize(("table", "when"), PLACES)
async def test_a_changed_column_of_any_table_is_found_and_its_row_is_named(store, admins, table, when):
    """In rows about events that are in the database, and about such that have left for a file. Undone, all holds again."""
    await fill(store)
    if when == "archived":
        await archived(store)
    admin = admins[0]
    found = await verified(store)
    assert not found.HasField("fault"), found
    assert found.rows > 30
    for column, changes in CHANGES[table].items():
        for change in changes:
            rows = await admin.fetch(
                f"SELECT ctid::text AS place, {column} AS value FROM {table} WHERE ({change}) IS DISTINCT FROM {column}"  # noqa: S608
            )
            assert rows
            place, value = rows[len(change) % len(rows)]
            after = await admin.fetchval(
                f"UPDATE {table} SET {column} = {change} WHERE ctid = $1::text::tid RETURNING ctid::text",  # noqa: S608
                place,
            )
            found = await verified(store)
            assert found.HasField("fault"), (table, column, change)
            # Under another name the file is not found, which is named.
            expected = "events" if (table, column) == ("archives", "name") else table
            assert found.fault.table == expected, (found, column, change)
            assert found.fault.row or "of no append" in found.fault.detail or table == "archived_streams"
            await admin.execute(f"UPDATE {table} SET {column} = $2 WHERE ctid = $1::text::tid", after, value)  # noqa: S608
    found = await verified(store)
    assert not found.HasField("fault"), found


@pytest.mark.parametrize(("table", "when"), PLACES)
async def test_a_row_too_few_is_found(store, admins, table, when):
    """Of any table, wherever it is."""
    await fill(store)
    if when == "archived":
        await archived(store)
    places = await admins[0].fetch(f"SELECT ctid::text FROM {table} ORDER BY 1")  # noqa: S608
    for (place,) in places[:: max(1, len(places) // 3)]:
        async with admins[0].transaction():
            await admins[0].execute("SET LOCAL session_replication_role = replica")
            [columns] = await admins[0].fetch(f"DELETE FROM {table} WHERE ctid = $1::text::tid RETURNING *", place)  # noqa: S608
        found = await verified(store)
        # Without its file an event is missing.
        assert found.fault.table == ("events" if table == "archives" else table), found
        numbers = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        await admins[0].execute(f"INSERT INTO {table} VALUES ({numbers})", *columns)  # noqa: S608
    found = await verified(store)
    assert not found.HasField("fault"), found


FORGED = {
    "a stream of nothing": "INSERT INTO streams VALUES ('product-forged', 100000, 0, 5)",
    "a second name of a stream": "INSERT INTO streams SELECT stream || 'x', origin, revision, bucket FROM streams WHERE origin = 1",
    "an append of nothing": "INSERT INTO appends VALUES (gen_random_uuid(), '', 'product-forged', 0, 0, 100000)",
    "an append before the log": "INSERT INTO appends VALUES (gen_random_uuid(), '', 'product-forged', 0, 0, 0)",
    "a second append of an event": "INSERT INTO appends SELECT gen_random_uuid(), fingerprint, stream, first_revision, last_revision,"
    " position, also FROM appends WHERE position > 30 ORDER BY position LIMIT 1",
    "what nobody said of a stream": "INSERT INTO stream_metadata VALUES ('product-forged', 5, 0, NULL, NULL, true)",
}


@pytest.mark.parametrize("when", ["rows", "archived"])
async def test_a_row_too_many_is_found(store, admins, when):
    """One that looks right by itself."""
    await fill(store)
    if when == "archived":
        await archived(store)
    for what, forge in FORGED.items():
        table = forge.split()[2]
        before = {row[0] for row in await admins[0].fetch(f"SELECT {table}::text FROM {table}")}  # noqa: S608
        await admins[0].execute(forge)
        found = await verified(store)
        assert (found.fault.table, bool(found.fault.row)) == (table, True), (what, found)
        for (row,) in await admins[0].fetch(f"SELECT {table}::text FROM {table}"):  # noqa: S608
            if row not in before:
                await admins[0].execute(f"DELETE FROM {table} WHERE {table}::text = $1", row)  # noqa: S608
    found = await verified(store)
    assert not found.HasField("fault"), found


async def test_what_no_event_tells_of_is_only_the_id_and_the_fingerprint_of_an_append(store, admins):
    """As docs/reliability.md says: of the other columns, each is among those that are found above."""
    columns = await admins[0].fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_name = ANY($1)", list(CHANGES)
    )
    unchanged = {(table, column) for table, column in columns if column not in CHANGES[table]}
    assert unchanged == {
        ("appends", "append_id"),
        ("appends", "fingerprint"),
        # The time of a file, and the file of a place, which is found as a file too short.
        ("archives", "created_at"),
        ("archives", "first"),
        ("archives", "last"),
        ("archived_streams", "archive"),
    }


async def test_pages_carry_checksums(admins):
    """Which find what a disk turned in the columns that no event tells of: on by default, and not switched off by us."""
    assert await admins[0].fetchval("SHOW data_checksums") == "on"


async def test_an_append_that_moved_is_compared_with_the_one_where_it_was_made(store, admins):
    """Its id and its fingerprint too, and that it is there at all; in a bucket that comes home as well."""
    client = store.command
    await fill(store)
    streams = []
    for comes_home in (True, False):
        while (stream_bucket(stream := home(client)) <= 300) is not comes_home:
            pass
        streams.append(stream)
        await client.appended(client.item(stream, 2))
    await moved(store, 0, 511, 1)
    for stream in streams:
        await client.appended(client.item(stream, 2))
    await moved(store, 0, 300, 0)
    for shard, admin in enumerate(admins):
        found = await verified(store, shard)
        assert not found.HasField("fault"), (shard, found)
        rows = await admin.fetch(
            "SELECT a.* FROM appends AS a JOIN events AS e ON e.position = a.position, head"
            " WHERE e.original_shard IS NOT NULL AND get_bit(held, e.bucket) = 1 ORDER BY a.position"
        )
        row = rows[0]
        for change in (
            "fingerprint = set_byte(fingerprint, 0, get_byte(fingerprint, 0) # 1)",
            "append_id = gen_random_uuid()",
            "first_revision = first_revision + 1",
            "last_revision = last_revision + 1",
            "position = position + 1",
            "stream = stream || 'x'",
        ):
            changed = await admin.fetchval(
                f"UPDATE appends SET {change} WHERE append_id = $1 RETURNING append_id",  # noqa: S608
                row["append_id"],
            )
            found = await verified(store, shard)
            assert found.fault.table == "appends", (shard, change, found)
            await admin.execute("DELETE FROM appends WHERE append_id = $1", changed)
            found = await verified(store, shard)
            assert (found.fault.table, found.fault.row) == ("appends", str(row["append_id"])), (shard, change, found)
            await admin.execute("INSERT INTO appends VALUES ($1, $2, $3, $4, $5, $6, $7)", *row)
        found = await verified(store, shard)
        assert not found.HasField("fault"), (shard, found)


async def test_any_part_of_a_log_holds_by_itself(store, monkeypatch):
    """Wherever it begins and ends, within an append too; and however small the pages are."""
    await fill(store)
    head = (await verified(store)).position
    monkeypatch.setattr(verifying, "PAGE", 3)
    monkeypatch.setattr(derived, "ROWS", 2)
    for after in range(0, head, 5):
        found = await verified(store, after=after, until=min(head, after + 8))
        assert not found.HasField("fault"), (after, found)
    found = await verified(store)
    assert not found.HasField("fault"), found


async def test_tables_are_compared_while_they_grow(store):
    """What is appended meanwhile, to known streams and to new ones, is no fault."""
    await fill(store)
    async with operator(store) as stub:
        answering = aiter(stub.Verify(administration_pb2.VerifyRequest(), timeout=60))
        await anext(answering)
        await fill(store)
        answers = [answer async for answer in answering]
    assert not any(answer.HasField("fault") for answer in answers), answers[-1]
