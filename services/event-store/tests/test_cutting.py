"""A log that is cut off is what it was at that position, in every table; and one that is served is never cut."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from almagest.eventstore.v1 import event_store_pb2
from chassis.database.restoring import MARK
from event_store.administration import cut, verify
from event_store.settings import Settings

TABLES = {
    "events": "position",
    "streams": "stream",
    "appends": "append_id",
    "stream_metadata": "stream",
    "snapshots": "stream",
}


@pytest.fixture
def settings(databases, identity, tmp_path) -> Settings:
    return Settings(
        identity_directory=identity("event-store"),
        database_urls=tuple(databases.owner),
        archive_directory=tmp_path,
        archive_events=4,
    )


@pytest.fixture
async def restoring(databases, postgres):
    """The databases, marked as `almagest backup restore` marks them."""
    names = [dsn.partition("?")[0].rpartition("/")[2] for dsn in databases.owner]
    for name in names:
        await asyncio.to_thread(postgres.execute, f"COMMENT ON DATABASE {name} IS '{MARK} (backup 1)'")
    yield databases
    for name in names:
        await asyncio.to_thread(postgres.execute, f"COMMENT ON DATABASE {name} IS NULL")


async def stored(databases) -> list[Any]:
    """Everything in the tables of both shards, but the time of the counter, which never goes back."""
    found: list[Any] = []
    for dsn in databases.owner:
        connection = await asyncpg.connect(dsn)
        for table, key in TABLES.items():
            found.append([tuple(row) for row in await connection.fetch(f"SELECT * FROM {table} ORDER BY {key}")])  # noqa: S608 - of the names above
        found.append(tuple(await connection.fetchrow("SELECT position, hash, held, epoch FROM head")))
        await connection.close()
    return found


async def heads(databases) -> list[int]:
    return [shard[0] for shard in await stored(databases) if isinstance(shard, tuple)]


async def write(client, names: list[str]) -> None:
    """Appends of every kind: to new streams and old ones, to several, and what is said of streams."""
    for number, name in enumerate(names):
        further = event_store_pb2.StreamAppend(stream=f"b-{name}", events=[client.event(b"\0"), client.event(b"")])
        further.any.SetInParent()
        await client.appended(client.item(f"a-{name}", [b"x", b"y"], also=[further]))
        await client.appended(client.item(f"c-{name}", 1), client.item(f"a-{name}", 3))
        said = event_store_pb2.SetStreamMetadataRequest(append_id=client.event().event_id, stream=f"a-{name}")
        said.metadata.max_count = number + 1
        await client.stub.SetStreamMetadata(said, timeout=5)


async def fold(client, stream: str, revision: int) -> None:
    snapshot = event_store_pb2.NewSnapshot(stream=stream, kind="k", revision=revision)
    await client.stub.PutSnapshots(event_store_pb2.PutSnapshotsRequest(snapshots=[snapshot]), timeout=5)


def told(capsys) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"shard')]


async def test_a_log_is_what_it_was_at_the_position(store, restoring, settings, capsys):
    """Events, streams, appends, what is said of streams, and the counter with its hash; and the chain holds."""
    names = [f"{number}" for number in range(6)]
    await write(store.command, names)
    await fold(store.command, "a-1", 0)
    before, at, time = await stored(restoring), await heads(restoring), datetime.now(UTC)
    await write(store.command, names[:3])
    await write(store.command, ["new", "newer"])
    for stream in ("metadata-a-0", "a-0"):
        assert (await store.command.read(stream))[-1].revision > 0
    await fold(store.command, "a-2", 6)
    await fold(store.command, "c-new", 0)
    ended = event_store_pb2.SetStreamMetadataRequest(append_id=store.command.event().event_id, stream="a-5")
    ended.metadata.tombstoned = True
    await store.command.stub.SetStreamMetadata(ended, timeout=5)
    assert await cut(settings, ["--time", time.isoformat()]) == 0
    assert [(one["shard"], one["position"]) for one in told(capsys)] == list(enumerate(at))
    assert await stored(restoring) == before
    assert await verify(settings, []) == 0
    assert [(one["position"], one["fault"]) for one in told(capsys)] == [(head, None) for head in at]


async def test_each_shard_is_cut_at_a_position_of_its_own(store, restoring, settings, capsys):
    """One that is not named stays, one that ends there is left alone, and the very beginning is a position too."""
    await write(store.command, ["0", "1", "2", "3", "4"])
    first, second = await heads(restoring)
    assert min(first, second) > 0
    assert await cut(settings, ["--at", f"0:{first}", "--at", "1:0"]) == 0
    [only] = told(capsys)
    assert only == {"shard": 1, "position": 0, "hash": "00" * 32, "removed": second}
    assert await heads(restoring) == [first, 0]
    assert await verify(settings, []) == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--at", "0:{inside}"], "middle of an append; the last whole one ends at"),
        (["--at", "0:100000"], "ends at position"),
        (["--at", "2:1"], "no shard 2"),
        (["--at", "1"], "SHARD:POSITION"),
    ],
)
async def test_where_a_log_cannot_be_cut_is_said_and_nothing_is_done(
    store, restoring, settings, capsys, arguments, why
):
    """Not within an append, not after the end; also the shards that could be cut are left as they were."""
    await write(store.command, ["0", "1", "2", "3", "4"])
    before = await stored(restoring)
    connection = await asyncpg.connect(restoring.owner[0])
    inside = await connection.fetchval("SELECT position - 1 FROM appends WHERE first_revision < last_revision LIMIT 1")
    await connection.close()
    assert await cut(settings, ["--at", "1:0", *(one.format(inside=inside) for one in arguments)]) == 1
    assert why in capsys.readouterr().err
    assert await stored(restoring) == before


async def test_a_log_that_is_served_is_never_cut(store, databases, settings, capsys):
    """Without the mark of a restore nothing is taken away, whoever asks."""
    await write(store.command, ["0", "4"])
    before = await stored(databases)
    assert await cut(settings, ["--time", "2020-01-01T00:00:00Z"]) == 1
    assert "no backup is being restored" in capsys.readouterr().err
    assert await stored(databases) == before


async def test_a_shard_is_not_cut_back_to_before_a_move_of_its_own(store, restoring, settings, capsys):
    """What moved would be in two shards or in none; shards that had no part in it may be cut."""
    await write(store.command, ["0", "1", "2", "3", "4"])
    connection = await asyncpg.connect(restoring.owner[0])
    await connection.execute(
        "INSERT INTO moves (move_id, first_bucket, last_bucket, from_shard, to_shard, phase, epoch, ended_at)"
        " VALUES (gen_random_uuid(), 0, 7, 1, 2, 'done', 2, clock_timestamp())"
    )
    await connection.close()
    before = await stored(restoring)
    assert await cut(settings, ["--at", "0:0", "--at", "1:0"]) == 1
    assert "buckets 0-7 were moved from shard 1 to 2" in capsys.readouterr().err
    assert await stored(restoring) == before
    assert await cut(settings, ["--at", "0:0"]) == 0
