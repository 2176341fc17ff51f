"""The append loop alone, over a log in memory that can be held and made to fail."""

import asyncio

import pytest
from event_store.application.append_loop import AppendLoop, Bounds, NotWritten, Outcome, Refused, SessionLost
from event_store.application.heads import Heads
from event_store.domain.append import ANY, Append, Appended, Committed, NewEvent
from event_store.domain.errors import AppendIdReused, OutcomeUnknown, QueueFull, ShardUnavailable, TooLate


class MemoryLog:
    """Writes what it is given when it is let, and fails as it is told."""

    def __init__(self) -> None:
        self.batches = []
        self.open = asyncio.Event()
        self.open.set()
        self.failures = []
        self.settled = []
        self.committed = {}

    async def append(self, appends):
        await self.open.wait()
        self.batches.append([append.append_id for append in appends])
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
        if any(append.append_id == "poison" for append in appends):
            raise Refused
        return Outcome([Appended(0, 0, n + 1) for n, _ in enumerate(appends)], len(appends), 1)

    async def settle(self, session, append_ids):
        self.settled.append((session, list(append_ids)))
        if isinstance(self.committed, Exception):
            raise self.committed
        return {key: value for key, value in self.committed.items() if key in append_ids}


class Watching:
    def __init__(self) -> None:
        self.seen = []
        self.longest = 0

    def queued(self, shard, appends):
        self.longest = max(self.longest, appends)

    def batch(self, shard, tickets, answers, began_ns, ended_ns):
        assert began_ns <= ended_ns
        self.seen.append((len(tickets), list(answers)))


def append(name, *, size=100, fingerprint=b"print"):
    return Append(name, "product-1", "product", 1, ANY, fingerprint, [NewEvent("e", "t", b"", b"")], size)


@pytest.fixture
async def make():
    tasks = []

    def build(log, **bounds):
        observer = Watching()
        loop = AppendLoop(0, log, heads=Heads(1), observer=observer, bounds=Bounds(**bounds))
        loop.observer = observer
        tasks.append(asyncio.create_task(loop.run()))
        loop.task = tasks[-1]
        return loop

    yield build
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def soon(seconds=5.0):
    return asyncio.get_running_loop().time() + seconds


async def submit(loop, *names, deadline=None, **fields):
    return await loop.submit([append(name, **fields) for name in names], [deadline or soon()] * len(names))


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_waits_travels_together(make):
    """The first leaves at once; all that comes while it is under way makes up the next batch."""
    log = MemoryLog()
    loop = make(log)
    log.open.clear()
    first = asyncio.create_task(submit(loop, "a"))
    await turns()
    rest = [asyncio.create_task(submit(loop, name)) for name in "bcd"]
    await turns()
    log.open.set()
    await asyncio.gather(first, *rest)
    assert log.batches == [["a"], ["b", "c", "d"]]
    assert loop.observer.longest == 3


async def test_batches_are_bounded_in_number_and_bytes(make):
    """Order is kept, and an append that is larger than a whole batch goes alone."""
    log = MemoryLog()
    loop = make(log, batch_appends=3, batch_bytes=250)
    log.open.clear()
    calls = [asyncio.create_task(submit(loop, "first"))]
    await turns()
    for name, size in (("a", 100), ("b", 100), ("c", 100), ("huge", 9000), ("d", 10), ("e", 10), ("f", 10), ("g", 10)):
        calls.append(asyncio.create_task(submit(loop, name, size=size)))
        await turns(1)
    log.open.set()
    await asyncio.gather(*calls)
    assert log.batches == [["first"], ["a", "b"], ["c"], ["huge"], ["d", "e", "f"], ["g"]]


async def test_an_append_is_not_begun_after_its_deadline(make):
    """It is answered when its time is over, and never sent."""
    log = MemoryLog()
    loop = make(log)
    log.open.clear()
    first = asyncio.create_task(submit(loop, "a"))
    await turns()
    [late] = await submit(loop, "late", deadline=soon(0.05))
    assert isinstance(late, TooLate)
    assert not late.begun
    log.open.set()
    await first
    await submit(loop, "b")
    assert log.batches == [["a"], ["b"]]


async def test_a_caller_that_goes_away_takes_only_what_was_not_begun_along(make):
    """What is under way is finished for nobody; the loop goes on."""
    log = MemoryLog()
    loop = make(log)
    log.open.clear()
    begun = asyncio.create_task(submit(loop, "begun"))
    await turns()
    waiting = asyncio.create_task(submit(loop, "waiting"))
    await turns()
    for call in (begun, waiting):
        call.cancel()
    await asyncio.gather(begun, waiting, return_exceptions=True)
    log.open.set()
    await submit(loop, "next")
    assert log.batches == [["begun"], ["next"]]


async def test_the_queue_is_bounded_in_number_and_bytes(make):
    """What does not fit is refused at once; the rest is not touched."""
    log = MemoryLog()
    loop = make(log, queue_appends=3, queue_bytes=1000)
    log.open.clear()
    first = asyncio.create_task(submit(loop, "a"))
    await turns()
    waiting = asyncio.create_task(submit(loop, "b", "c"))
    await turns()
    assert [type(a) for a in await submit(loop, "d", "e")] == [QueueFull, QueueFull]
    assert [type(a) for a in await submit(loop, "d", size=900)] == [QueueFull]
    log.open.set()
    assert all(isinstance(a, Appended) for a in [*await first, *await waiting])
    assert [name for batch in log.batches for name in batch] == ["a", "b", "c"]


async def test_a_culprit_is_found_by_halving(make):
    """All others of its batch are written."""
    log = MemoryLog()
    loop = make(log)
    answers = await submit(loop, "a", "b", "poison", "c", "d")
    assert [isinstance(a, Appended) for a in answers] == [True, True, False, True, True]
    assert isinstance(answers[2], Refused)


async def test_a_lost_session_is_settled_by_append_ids(make):
    """What is found is answered as written, with the right fingerprint only; what is not found was not written.
    Nothing is sent twice.
    """
    log = MemoryLog()
    loop = make(log)
    log.failures = [SessionLost(42)]
    log.committed = {
        "a": Committed("a", "product-1", b"print", Appended(3, 3, 9)),
        "b": Committed("b", "product-1", b"another", Appended(0, 0, 1)),
    }
    found, other, missing = await submit(loop, "a", "b", "c")
    # Not as new: it may have been written before, and then somebody else has been told that it was new.
    assert found == Appended(3, 3, 9, replayed=True)
    assert isinstance(other, AppendIdReused)
    assert isinstance(missing, ShardUnavailable)
    assert log.settled == [(42, ["a", "b", "c"])]
    assert log.batches == [["a", "b", "c"]]


async def test_what_cannot_be_settled_is_said_to_be_unknown_and_holds_up_nobody(make):
    """While the database stays away for one batch, others that can be written are."""
    log = MemoryLog()
    loop = make(log, settle_seconds=0.2)
    log.failures = [SessionLost(42)]
    log.committed = NotWritten()
    unknown = asyncio.create_task(submit(loop, "a"))
    await turns()
    [written] = await submit(loop, "b")
    assert isinstance(written, Appended)
    assert not unknown.done()
    [answer] = await unknown
    assert isinstance(answer, OutcomeUnknown)
    assert answer.append_id == "a"
    assert len(log.settled) > 1


async def test_a_database_that_cannot_be_reached_is_said_to_be_unavailable(make):
    """And the next batch tries anew."""
    log = MemoryLog()
    loop = make(log)
    log.failures = [NotWritten()]
    [refused] = await submit(loop, "a")
    assert isinstance(refused, ShardUnavailable)
    [written] = await submit(loop, "a")
    assert isinstance(written, Appended)


async def test_an_unexpected_error_answers_its_batch_only(make):
    """The loop goes on."""
    log = MemoryLog()
    loop = make(log)
    log.failures = [ZeroDivisionError()]
    assert [type(a) for a in await submit(loop, "a")] == [ZeroDivisionError]
    assert [type(a) for a in await submit(loop, "b")] == [Appended]


async def test_a_loop_that_ends_answers_everybody(make):
    """What waits was not written, what is under way is unknown, what comes later is refused."""
    log = MemoryLog()
    loop = make(log)
    log.open.clear()
    under_way = asyncio.create_task(submit(loop, "a"))
    await turns()
    waiting = asyncio.create_task(submit(loop, "b"))
    await turns()
    loop.task.cancel()
    assert [type(a) for a in await under_way] == [OutcomeUnknown]
    assert [type(a) for a in await waiting] == [ShardUnavailable]
    assert [type(a) for a in await submit(loop, "c")] == [ShardUnavailable]


async def test_heads_wake_who_waits_and_believe_no_rumour():
    """A rumour only wakes the one who asks the database; the head is what was committed."""
    heads = Heads(1)
    heads.rumoured(0, 7)
    assert await heads.news(0, timeout=5)
    assert (heads.of(0), heads.rumour_of(0)) == (0, 7)
    heads.settled(0)
    waiting = asyncio.create_task(heads.news(0, timeout=5))
    await turns()
    assert not waiting.done()
    heads.reached(0, 3)
    assert await waiting
    heads.rumoured(0, 3)
    assert not await heads.news(0, timeout=0.01)
    heads.reached(0, 2)
    assert heads.of(0) == 3
    heads.fell_back(0, 2)
    assert heads.of(0) == 2
