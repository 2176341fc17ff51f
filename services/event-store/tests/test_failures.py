"""What the log guarantees when several write at once, and when things break in mid-append."""

import asyncio
import random
import tempfile
import uuid
from dataclasses import replace
from typing import Self
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import asyncpg
import pytest
from almagest.eventstore.v1 import event_store_pb2
from chassis.buckets import BucketMap, stream_bucket
from chassis.database.pool import Database
from chassis.errors import RemoteProblem
from event_store.adapters.postgres import PostgresLog
from event_store.domain.append import ANY, Append, Committed, NewEvent
from event_store.metrics import QUEUED

EVENT = NewEvent("0190b1c2-0000-7000-8000-000000000000", "a.b", b"payload", b"")


class Blocker:
    """Holds the counter of a shard, so that appends wait inside the database."""

    def __init__(self, dsn) -> None:
        self.dsn = dsn

    async def __aenter__(self) -> Self:
        # Inside the transaction the activity would be shown as it was at first, so it is watched from another session.
        self.watch = await asyncpg.connect(self.dsn)
        self.connection = await asyncpg.connect(self.dsn)
        self.transaction = self.connection.transaction()
        await self.transaction.start()
        await self.connection.execute("SELECT FROM head FOR UPDATE")
        return self

    async def sessions(self, count=1):
        """The sessions that wait for the counter, once there are so many."""
        async with asyncio.timeout(10):
            while True:
                rows = await self.watch.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock' AND query LIKE '%public.append%'"
                )
                if len(rows) >= count:
                    return [row["pid"] for row in rows]
                await asyncio.sleep(0.01)

    async def __aexit__(self, *_: object) -> None:
        await self.transaction.rollback()
        await self.connection.close()
        await self.watch.close()


class Wire:
    """Stands between a service and its Postgres, and cuts each connection on which a mark was sent: `early` before the
    server has it, otherwise once the server has answered, so that the answer is lost and what it did is not.
    """

    def __init__(self, dsn, mark, *, early=False) -> None:
        parts = urlsplit(dsn)
        options = parse_qs(parts.query)
        [self.real] = options["host"]
        self.mark = mark
        self.early = early
        self.cut = 0
        self.directory = tempfile.TemporaryDirectory(prefix="wire-")
        self.dsn = urlunsplit(parts._replace(query=urlencode({"host": self.directory.name, "port": "5432"})))
        self.tasks = set()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_unix_server(self._serve, f"{self.directory.name}/.s.PGSQL.5432")
        return self

    async def _serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        server_reader, server_writer = await asyncio.open_unix_connection(f"{self.real}/.s.PGSQL.5432")
        marked = asyncio.Event()

        async def requests():
            while data := await reader.read(65536):
                if self.mark in data:
                    marked.set()
                    if self.early:
                        return
                server_writer.write(data)

        async def answers():
            while data := await server_reader.read(65536):
                if marked.is_set():
                    return
                writer.write(data)

        both = [asyncio.create_task(requests()), asyncio.create_task(answers())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            self.cut += marked.is_set()
            for end in (writer, server_writer):
                end.transport.abort()
            self.tasks.discard(asyncio.current_task())

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.directory.cleanup()


async def count(dsn, query="SELECT count(*) FROM events"):
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def home(client, shard):
    """A stream that lives on a shard."""
    while BucketMap(2).shard_of(stream_bucket(stream := client.stream())) != shard:
        pass
    return stream


async def test_positions_are_gapless_and_a_tail_misses_nothing_under_concurrent_writers(databases, replica):
    """Sixteen writers on two replicas, in calls of random sizes with conflicts among them, and a reader that polls
    positions as they come.
    """
    async with replica(databases, poll_seconds=0.02) as one, replica(databases, poll_seconds=0.02) as two:
        chance = random.Random(7)  # noqa: S311 - to be repeatable
        written = []
        shared = [one.command.stream() for _ in range(5)]

        async def write(client):
            for _ in range(25):
                items = [
                    client.item(
                        chance.choice([*shared, client.stream()]),
                        chance.randint(1, 3),
                        expected=chance.choice(["any", "any", "no_stream", 0]),
                    )
                    for _ in range(chance.randint(1, 6))
                ]
                for item, result in zip(items, await client.append(*items), strict=True):
                    if result.HasField("appended"):
                        written.extend(
                            (item.stream, result.appended.first_revision + n) for n in range(len(item.events))
                        )
                    else:
                        assert result.problem.reason == "REVISION_CONFLICT"

        async def tail(client, seen):
            async for message in client.stub.Subscribe(event_store_pb2.SubscribeRequest()):
                seen.extend(message.events)

        by_one, by_two = [], []
        tails = [asyncio.create_task(tail(one.query, by_one)), asyncio.create_task(tail(two.query, by_two))]
        await asyncio.gather(*(write(r.command) for r in (one, two) for _ in range(8)))
        async with asyncio.timeout(20):
            while min(len(by_one), len(by_two)) < len(written):  # noqa: ASYNC110 - it is the tails that tell
                await asyncio.sleep(0.01)
        for task in tails:
            task.cancel()
        await asyncio.gather(*tails, return_exceptions=True)
        for seen in (by_one, by_two):
            assert sorted((e.stream, e.revision) for e in seen) == sorted(written)
            for shard in (0, 1):
                positions = [e.position for e in seen if e.shard == shard]
                assert positions == list(range(1, len(positions) + 1))
        assert len(set(written)) == len(written)


async def test_the_same_append_on_two_replicas_at_once_is_written_once(databases, replica):
    """Whoever is second gets the first one's answer."""
    async with replica(databases) as one, replica(databases) as two:
        for _ in range(20):
            item = one.command.item(one.command.stream(), 2, expected="no_stream")
            [[a], [b], [c]] = await asyncio.gather(
                one.command.appended(item), two.command.appended(item), one.command.appended(item)
            )
            assert (a.first_revision, a.position) == (b.first_revision, b.position) == (c.first_revision, c.position)
            assert sorted([a.replayed, b.replayed, c.replayed]) == [False, True, True]
        assert len(await one.command.read_all()) == 40


async def test_an_append_whose_session_is_killed_is_settled(databases, replica):
    """Killed before its commit: nothing of the batch is there, and every item is told so, to be sent again with the
    same id.
    """
    async with replica(databases) as store:
        stream = home(store.command, 0)
        items = [store.command.item(stream, expected=e) for e in ("no_stream", 0, 1)]
        async with Blocker(databases.admin[0]) as blocker:
            call = asyncio.create_task(store.command.append(*items))
            for pid in await blocker.sessions():
                await blocker.watch.execute("SELECT pg_terminate_backend($1)", pid)
            results = await call
        assert [r.problem.reason for r in results] == ["SHARD_UNAVAILABLE"] * 3
        assert all(float(r.problem.metadata["retry_after_seconds"]) > 0 for r in results)
        assert await count(databases.owner[0]) == 0
        assert [a.last_revision for a in await store.command.appended(*items)] == [0, 1, 2]
        assert len(await store.command.read(stream)) == 3


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_moment_sessions_are_killed_at_each_append_happens_once(databases, replica, seed):
    """Sessions die all the time; writers send an append again until it is acknowledged. In the end each is there
    exactly once, and what was acknowledged is there.
    """
    async with replica(databases) as store:
        chance = random.Random(seed)  # noqa: S311 - to be repeatable
        done = asyncio.Event()
        acknowledged = {}

        async def kill():
            killer = await asyncpg.connect(databases.admin[0])
            killed, longest, before = 0, 0.1, 0
            while not done.is_set():
                # On a busy machine nothing would ever be done between two kills: they wait for one another then.
                longest = 0.1 if len(acknowledged) > before else min(2 * longest, 3)
                before = len(acknowledged)
                await asyncio.sleep(chance.random() * longest)
                killed += await killer.fetchval(
                    "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE usename = 'event_store' AND datname = current_database()"
                )
            await killer.close()
            return killed

        async def write():
            for _ in range(20):
                stream = home(store.command, 0)
                item = store.command.item(stream, 2, expected="no_stream")
                async with asyncio.timeout(90):
                    while True:
                        [result] = await store.command.append(item)
                        if result.HasField("appended"):
                            break
                        assert result.problem.reason in {"SHARD_UNAVAILABLE", "OUTCOME_UNKNOWN"}
                        await asyncio.sleep(0)
                acknowledged[stream] = result.appended.position.position

        killer = asyncio.create_task(kill())
        await asyncio.gather(*(write() for _ in range(8)))
        done.set()
        assert await killer > 0
        connection = await asyncpg.connect(databases.owner[0])
        rows = await connection.fetch("SELECT stream, count(*), max(position) FROM events GROUP BY stream")
        head = await connection.fetchval("SELECT position FROM head")
        await connection.close()
        assert {row["stream"]: (row["count"], row["max"]) for row in rows} == {
            stream: (2, position) for stream, position in acknowledged.items()
        }
        assert head == 2 * len(acknowledged)


async def test_a_caller_that_goes_away_halves_nothing(databases, replica):
    """What was under way when the call was cancelled is written whole; what still waited is not written; the loop
    goes on.
    """
    async with replica(databases, batch_appends=1) as store:
        stream, waiting = home(store.command, 0), home(store.command, 0)
        async with Blocker(databases.admin[0]) as blocker:
            call = asyncio.create_task(
                store.command.append(store.command.item(stream, 5), store.command.item(waiting, 5))
            )
            await blocker.sessions()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            # Calls that arrive behind the cancellation, on the same connection: once they are answered, it was seen.
            for _ in range(3):
                await store.command.stub.GetShardMap(event_store_pb2.GetShardMapRequest())
        await store.command.appended(store.command.item(home(store.command, 0)))
        assert len(await store.command.read(stream)) == 5
        assert await store.command.read(waiting) == []


async def test_a_shard_that_is_down_is_said_to_be_and_the_others_go_on(databases, replica, postgres):
    """Appends and reads of the lost shard are refused with a hint when to try again; the other shard does not notice;
    it is used again when it is back.
    """
    name = databases.owner[0].partition("?")[0].rpartition("/")[2]
    async with replica(databases) as store:
        lost, kept = home(store.command, 0), home(store.command, 1)
        await store.command.appended(store.command.item(lost), store.command.item(kept))
        admin = await asyncpg.connect(postgres.superuser_dsn())
        try:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name)
            first, second = await store.command.append(store.command.item(lost), store.command.item(kept))
            assert first.problem.reason == "SHARD_UNAVAILABLE"
            assert first.problem.code == 14
            assert float(first.problem.metadata["retry_after_seconds"]) > 0
            assert second.appended.last_revision == 1
            with pytest.raises(RemoteProblem) as caught:
                await store.command.read(lost)
            assert caught.value.reason == "SHARD_UNAVAILABLE"
            assert caught.value.retry_after
            assert len(await store.command.read(kept)) == 2
        finally:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            await admin.close()
        [again] = await store.command.appended(store.command.item(lost))
        assert again.last_revision == 1


async def test_more_than_may_wait_is_refused_at_once(databases, replica):
    """With the queue full the answer is RESOURCE_EXHAUSTED and nothing of it is written; what waited is written when
    it can be.
    """
    async with replica(databases, queue_appends=4, batch_appends=1) as store:
        item = store.command.item
        async with Blocker(databases.admin[0]) as blocker:
            first = asyncio.create_task(store.command.appended(item(home(store.command, 0))))
            await blocker.sessions()
            four = [item(home(store.command, 0)) for _ in range(4)]
            waiting = asyncio.create_task(store.command.appended(*four))
            async with asyncio.timeout(10):
                while QUEUED.labels("0")._value.get() < 4:  # noqa: ASYNC110 - a gauge has no event
                    await asyncio.sleep(0.01)
            [result] = await store.command.append(item(home(store.command, 0)))
            assert result.problem.reason == "QUEUE_FULL"
            assert result.problem.code == 8
            [other] = await store.command.append(item(home(store.command, 1)))
            assert other.HasField("appended")
        assert len(await first) == 1
        assert len(await waiting) == 4
        assert await count(databases.owner[0]) == 5


async def test_an_item_that_is_under_way_when_its_time_is_over_says_so(databases, replica):
    """It may have been written; the same id later tells that it was, once."""
    async with replica(databases) as store:
        item = store.command.item(home(store.command, 0), timeout=0.2)
        async with Blocker(databases.admin[0]):
            [result] = await store.command.append(item)
            assert (result.problem.reason, result.problem.metadata["begun"]) == ("TOO_LATE", "true")
        item.ClearField("timeout")
        [answer] = await store.command.appended(item)
        assert answer.replayed
        assert await count(databases.owner[0]) == 1


async def test_an_append_that_the_database_will_not_have_fails_alone(databases, replica):
    """A batch with an append that violates something unforeseen is divided until the culprit is alone."""
    owner = await asyncpg.connect(databases.owner[0])
    await owner.execute("ALTER TABLE events ADD CONSTRAINT unforeseen CHECK (octet_length(payload) <> 13)")
    try:
        async with replica(databases) as store:
            streams = [home(store.command, 0) for _ in range(9)]
            async with Blocker(databases.admin[0]) as blocker:
                first = asyncio.create_task(store.command.appended(store.command.item(home(store.command, 0))))
                await blocker.sessions()
                call = asyncio.create_task(
                    store.command.append(
                        *(store.command.item(s, [b"x" * (13 if n == 4 else 12)]) for n, s in enumerate(streams))
                    )
                )
            results = await call
            await first
            assert [r.WhichOneof("outcome") for r in results] == ["appended"] * 4 + ["problem"] + ["appended"] * 4
            assert results[4].problem.reason == "INTERNAL"
            assert "unforeseen" not in str(results[4].problem)
            positions = [e.position for e in await store.command.read_all(shards=[0])]
            assert positions == list(range(1, 10))
    finally:
        await owner.execute("ALTER TABLE events DROP CONSTRAINT unforeseen")
        await owner.close()


async def test_the_service_may_not_change_what_is_written(databases, replica):
    """Its role can call the one function and read, nothing else."""
    async with replica(databases) as store:
        await store.command.appended(store.command.item(home(store.command, 0)))
    service = await asyncpg.connect(databases.service[0])
    try:
        for statement in (
            "UPDATE events SET payload = ''",
            "DELETE FROM events",
            "TRUNCATE events",
            "INSERT INTO appends VALUES (gen_random_uuid(), '', 'a-b', 0, 0, 1)",
            "UPDATE head SET position = 0",
            "UPDATE streams SET revision = 0",
            "DROP FUNCTION append_batch",
            "CREATE TABLE mine (a int)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute(statement)
    finally:
        await service.close()


async def test_an_append_that_was_given_up_is_never_written_later(databases, replica):
    """Its session may still wait in the database, and would commit as soon as it could: it is ended before the answer
    is given.
    """
    async with replica(databases, append_seconds=0.3) as store:
        item = store.command.item(home(store.command, 0))
        async with Blocker(databases.admin[0]) as blocker:
            call = asyncio.create_task(store.command.append(item))
            await blocker.sessions()
            [result] = await call
            assert result.problem.reason == "SHARD_UNAVAILABLE"
            sessions = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            assert await blocker.watch.fetchval(sessions) == 0
        assert await count(databases.owner[0]) == 0
        [answer] = await store.command.appended(item)
        assert not answer.replayed


@pytest.mark.parametrize("early", [True, False])
async def test_a_connection_cut_in_mid_append_is_never_called_nothing_written(databases, replica, early):
    """When the answer to the commit is lost, the append is found to be written; when the request was, it is said not to
    be, and is not.
    """
    async with Wire(databases.service[0], b"cut me here", early=early) as wire:
        through = replace(databases, service=[wire.dsn, *databases.service[1:]])
        async with replica(through) as store:
            stream = home(store.command, 0)
            await store.command.appended(store.command.item(stream, [b"before"]))
            item = store.command.item(stream, [b"cut me here"], expected=0)
            [result] = await store.command.append(item)
            assert wire.cut == 1
            if early:
                assert result.problem.reason == "SHARD_UNAVAILABLE"
                assert await count(databases.owner[0]) == 1
            else:
                assert (result.appended.last_revision, await count(databases.owner[0])) == (1, 2), result
            wire.mark = b"nothing any more"
            [answer] = await store.command.appended(item)
            assert (answer.last_revision, answer.replayed) == (1, not early)


async def test_a_commit_whose_answer_was_lost_is_found_by_its_append_id(databases):
    """Settling answers what was committed, and nothing for what was not."""
    database = await Database.open(databases.service[0], name="settling", size=3)
    try:
        log = PostgresLog(database, 0)
        written = Append(str(uuid.uuid4()), "product-1", "product", 1, ANY, b"print", [EVENT, EVENT], 100)
        outcome = await log.append([written])
        async with database.connection() as connection:
            lost = connection.get_server_pid()
            found = await log.settle(lost, [written.append_id, str(uuid.uuid4())])
        assert found == {written.append_id: Committed(written.append_id, "product-1", b"print", outcome.answers[0])}
        assert await log.head() == 2
    finally:
        await database.close()
