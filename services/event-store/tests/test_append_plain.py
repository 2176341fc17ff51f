"""The quick way of writing a batch against the general one: whatever is appended, both leave the same log and say the
same.
"""

import asyncio
import uuid

import asyncpg
import pytest
from chassis.database.pool import Database
from event_store.adapters.postgres import PostgresLog, batches
from event_store.adapters.postgres.connection import plan_once
from event_store.domain.append import Append, Appended, NewEvent, Part, Setting
from event_store.domain.chain import GENESIS, StoredEvent, hash_of
from event_store.domain.errors import RevisionConflict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STORED = f"SELECT {', '.join(StoredEvent._fields)} FROM events ORDER BY position"  # noqa: S608 - our own names
NOT_HELD = 9
STREAMS = 6

expectations = st.sampled_from([-1, -1, -1, -2, -3, -3, 0, 1, 2])
sizes = st.sampled_from([1, 1, 1, 1, 2, 3])
batch = st.lists(
    st.fixed_dictionaries(
        {
            "stream": st.integers(0, STREAMS - 1) | st.just(NOT_HELD),
            # Mostly an id that never was before.
            "number": st.none() | st.none() | st.integers(0, 5),
            "expected": expectations,
            "events": sizes,
            "fingerprint": st.sampled_from([b"one", b"one", b"two"]),
            "also": st.none() | st.none() | st.none() | st.tuples(st.integers(0, STREAMS - 1), expectations),
            "end": st.sampled_from([False] * 9 + [True]),
        }
    ),
    min_size=1,
    max_size=6,
)


def name_of(example, stream):
    return f"product-{stream}.{example}"


def events_of(example, count):
    return [
        NewEvent(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{example}/{n}")), "almagest.Test", b"payload %d" % n, b"meta")
        for n in range(count)
    ]


def append_of(example, index, wanted):
    """An append as Hypothesis wants it."""
    number = wanted["number"]
    stream = wanted["stream"]
    also, setting = (), None
    if wanted["also"] is not None and wanted["also"][0] != stream:
        other, expected = wanted["also"]
        also = (Part(name_of(example, other), "product", other, expected, events_of(f"{example}/{index}/also", 1)),)
    if wanted["end"]:
        setting = Setting(name_of(example, stream), "product", stream, None, None, tombstoned=True)
    key = f"{example}/{index}" if number is None else f"{example}/shared/{number}"
    return Append(
        str(uuid.uuid5(uuid.NAMESPACE_OID, key)),
        name_of(example, stream),
        "product",
        stream,
        wanted["expected"],
        wanted["fingerprint"],
        events_of(f"{example}/{index}", wanted["events"]),
        100,
        "",
        also,
        setting,
    )


def said(answers):
    """Answers in a form that compares."""
    return [
        (*answer[:4], tuple(answer.also)) if isinstance(answer, Appended) else (type(answer), vars(answer))
        for answer in answers
    ]


async def left(connection):
    """What is in a log, but for the times and what depends on them."""
    events = [tuple(row) for row in await connection.fetch(STORED)]
    rest = [
        [tuple(row) for row in await connection.fetch(query)]
        for query in (
            "SELECT * FROM streams ORDER BY stream",
            "SELECT * FROM appends ORDER BY append_id",
            "SELECT * FROM stream_metadata ORDER BY stream",
            "SELECT position, epoch, held FROM head",
        )
    ]
    return [StoredEvent(*event)._replace(recorded_at=None, hash=None) for event in events], rest


@pytest.fixture
async def logs(databases):
    """Two empty logs, neither of which holds one of the buckets."""
    opened = []
    for shard, dsn in enumerate(databases.service):
        owner = await asyncpg.connect(databases.owner[shard])
        await owner.execute("UPDATE head SET held = set_bit(held, $1, 0)", NOT_HELD)
        database = await Database.open(dsn, name=f"plain{shard}", size=2, init=plan_once)
        opened.append((PostgresLog(database, 0), owner, database))
    yield [(log, owner) for log, owner, _ in opened]
    for _, owner, database in opened:
        await owner.close()
        await database.close()


async def test_both_ways_write_and_answer_the_same(logs, monkeypatch):
    """Repeats, conflicts, replays, several streams, streams that have ended, buckets that are elsewhere."""
    [(quick, quick_rows), (general, general_rows)] = logs
    loop = asyncio.get_running_loop()
    as_plain = batches.plain
    taken = {"plain": 0, "general": 0}
    written = {"all": 0, "some": 0}
    examples = iter(range(1_000_000))

    def counting(appends):
        arguments = as_plain(appends)
        taken["general" if arguments is None else "plain"] += 1
        return arguments

    async def both(appends):
        with monkeypatch.context() as patched:
            patched.setattr(batches, "plain", counting)
            one = await quick.append(appends)
            patched.setattr(batches, "plain", lambda _appends: None)
            two = await general.append(appends)
        assert said(one.answers) == said(two.answers)
        assert (one.head, one.epoch) == (two.head, two.epoch)
        fresh = all(isinstance(answer, Appended) and not answer.replayed for answer in one.answers)
        written["all" if fresh else "some"] += 1

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(batch, min_size=1, max_size=5))
    def run(wanted):
        example = next(examples)
        for number, appends in enumerate(wanted):
            made = [append_of(f"{example}", f"{number}/{index}", one) for index, one in enumerate(appends)]
            asyncio.run_coroutine_threadsafe(both(made), loop).result(timeout=30)

    await asyncio.to_thread(run)
    assert await left(quick_rows) == await left(general_rows)
    assert min(*taken.values(), *written.values()) > 30, (taken, written)
    for connection in (quick_rows, general_rows):
        chain = GENESIS
        for row in await connection.fetch(STORED):
            chain = hash_of(chain, StoredEvent(*row))
            assert row["hash"] == chain
        assert await connection.fetchval("SELECT hash FROM head") == chain


def plain_append(stream, expected=-1, *, events=1, append_id=None):
    return Append(
        append_id or str(uuid.uuid4()), stream, "product", 1, expected, b"print", events_of(stream, events), 100
    )


async def test_a_plain_batch_is_written_without_the_general_function(logs):
    """New streams and known ones, exact revisions and any: the general function is not even there. What needs it fails
    then, and leaves nothing.
    """
    [(log, owner), _] = logs
    first = plain_append("product-a", events=2)
    await owner.execute("ALTER FUNCTION append_batch RENAME TO append_batch_hidden")
    try:
        assert (await log.append([first, plain_append("product-b")])).answers == [Appended(0, 1, 2), Appended(0, 0, 3)]
        outcome = await log.append(
            [
                plain_append("product-c", -3),
                plain_append("product-a", 1, events=3),
                plain_append("product-b", -2),
                plain_append("product-d"),
            ]
        )
        assert outcome.answers == [Appended(0, 0, 4), Appended(2, 4, 7), Appended(1, 1, 8), Appended(0, 0, 9)]
        for refused in (plain_append("product-a"), plain_append("product-a", 7), first):
            with pytest.raises(asyncpg.UndefinedFunctionError):
                await log.append([plain_append("product-e"), refused])
    finally:
        await owner.execute("ALTER FUNCTION append_batch_hidden RENAME TO append_batch")
    assert await owner.fetchval("SELECT count(*) FROM events") == 9
    assert await owner.fetchval("SELECT position FROM head") == 9
    answers = (await log.append([plain_append("product-e"), plain_append("product-a"), first])).answers
    assert answers[0] == Appended(0, 0, 10)
    assert isinstance(answers[1], RevisionConflict)
    assert answers[2] == Appended(0, 1, 2, replayed=True)


def test_what_is_not_plain_goes_the_general_way():
    """Something twice, several streams, metadata, or a name that would have to be escaped."""
    one, two = plain_append("product-a"), plain_append("product-b")
    assert batches.plain([one, two]) is not None
    assert batches.plain([one, two._replace(stream=one.stream)]) is None
    assert batches.plain([one, two._replace(append_id=one.append_id)]) is None
    assert batches.plain([one, two._replace(also=(Part("product-c", "product", 1, -1, ()),))]) is None
    assert (
        batches.plain([one._replace(setting=Setting("product-a", "product", 1, None, None, tombstoned=True))]) is None
    )
    for name in ('a","b', "a\\", 'a"'):
        assert batches.plain([one, two._replace(stream=name)]) is None
        assert batches.plain([one, two._replace(events=[two.events[0]._replace(type=name)])]) is None
