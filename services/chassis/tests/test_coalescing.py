"""Many callers, few calls: nobody is lost, nobody waits for ever, nobody sees another's answer."""

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest
from chassis.coalescing import Coalescer
from chassis.deadlines import remaining, set_deadline
from chassis.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from hypothesis import given, settings
from hypothesis import strategies as st


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0)


async def test_what_waits_while_a_call_is_in_flight_travels_in_the_next() -> None:
    """One call at a time: the first item alone, the rest together."""
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        batches.append(list(items))
        await gate.wait()
        return [item * 2 for item in items]

    coalescer = Coalescer[int, int](send, in_flight=1)
    first = asyncio.create_task(coalescer.submit(1, timeout=5))
    await _until(lambda: bool(batches))
    rest = [asyncio.create_task(coalescer.submit(item, timeout=5)) for item in (2, 3, 4)]
    await asyncio.sleep(0)
    gate.set()
    assert await first == 2
    assert await asyncio.gather(*rest) == [4, 6, 8]
    assert batches == [[1], [2, 3, 4]]


async def test_a_batch_holds_no_more_than_its_limit() -> None:
    """Items over the limit wait for the next call."""
    sizes: list[int] = []

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        sizes.append(len(items))
        await asyncio.sleep(0)
        return list(items)

    coalescer = Coalescer[int, int](send, in_flight=1, max_batch=4)
    assert await asyncio.gather(*(coalescer.submit(n, timeout=5) for n in range(10))) == list(range(10))
    assert sizes == [4, 4, 2]


async def test_one_item_fails_alone() -> None:
    """An exception among the answers is raised for its own item only."""

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        return [ValueError(str(item)) if item == 2 else item for item in items]

    coalescer = Coalescer[int, int](send)
    answers = await asyncio.gather(*(coalescer.submit(n, timeout=5) for n in (1, 2, 3)), return_exceptions=True)
    assert answers[0] == 1
    assert isinstance(answers[1], ValueError)
    assert answers[2] == 3


async def test_a_failed_call_fails_all_its_items() -> None:
    """So does one that answers too few."""

    async def fail(items: Sequence[int]) -> Sequence[int | Exception]:
        raise Unavailable

    async def answer_too_few(items: Sequence[int]) -> Sequence[int | Exception]:
        return list(items[1:])

    for send, expected in ((fail, Unavailable), (answer_too_few, RuntimeError)):
        coalescer = Coalescer[int, int](send)
        answers = await asyncio.gather(*(coalescer.submit(n, timeout=5) for n in (1, 2)), return_exceptions=True)
        assert all(isinstance(answer, expected) for answer in answers)


async def test_too_many_waiting_are_refused_at_once() -> None:
    """Back-pressure: what cannot wait is told so, and nothing is sent for it."""
    gate = asyncio.Event()
    sent: list[int] = []

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        sent.extend(items)
        await gate.wait()
        return list(items)

    coalescer = Coalescer[int, int](send, in_flight=1, max_waiting=2)
    first = asyncio.create_task(coalescer.submit(0, timeout=5))
    await _until(lambda: bool(sent))
    waiting = [asyncio.create_task(coalescer.submit(item, timeout=5)) for item in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await coalescer.submit(3, timeout=5)
    gate.set()
    assert await asyncio.gather(first, *waiting) == [0, 1, 2]
    assert 3 not in sent


async def test_each_item_has_its_own_deadline_and_leaves_the_queue_with_it() -> None:
    """An item that waited too long is not sent; one with more time still is."""
    gate = asyncio.Event()
    sent: list[int] = []

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        sent.extend(items)
        await gate.wait()
        return list(items)

    coalescer = Coalescer[int, int](send, in_flight=1)
    first = asyncio.create_task(coalescer.submit(0, timeout=5))
    await _until(lambda: bool(sent))
    patient = asyncio.create_task(coalescer.submit(1, timeout=5))
    with pytest.raises(DeadlineExceeded):
        await coalescer.submit(2, timeout=0.02)
    with pytest.raises(DeadlineExceeded):
        await coalescer.submit(3, timeout=0)
    assert coalescer.waiting == 1
    gate.set()
    assert await asyncio.gather(first, patient) == [0, 1]
    assert sent == [0, 1]


async def test_whoever_waits_learns_in_time_that_its_time_is_over() -> None:
    """Whatever the order of their deadlines, and also after others were answered before theirs."""
    gate = asyncio.Event()

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        if max(items):
            await gate.wait()
        return list(items)

    coalescer = Coalescer[int, int](send)
    loop = asyncio.get_running_loop()

    async def late(timeout: float) -> float:
        began = loop.time()
        with pytest.raises(DeadlineExceeded):
            await coalescer.submit(1, timeout=timeout)
        return loop.time() - began

    # Answered at once: the alarm for it finds nobody.
    assert await coalescer.submit(0, timeout=0.01) == 0
    timeouts = [0.2, 0.05, 0.12, 0.051, 0.03]
    seen = await asyncio.gather(*(late(timeout) for timeout in timeouts))
    for timeout, took in zip(timeouts, seen, strict=True):
        assert timeout - 0.005 <= took < timeout + 0.1, (timeout, took)
    await coalescer.close()


async def test_a_call_that_nobody_waits_for_any_more_makes_room() -> None:
    """A call that hangs is given up with the last of its callers, and the next one begins."""
    sent: list[int] = []

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        sent.extend(items)
        if 0 in items:
            await asyncio.Event().wait()
        return list(items)

    coalescer = Coalescer[int, int](send, in_flight=1)
    stuck = asyncio.create_task(coalescer.submit(0, timeout=0.05))
    await _until(lambda: bool(sent))
    assert await coalescer.submit(1, timeout=5) == 1
    with pytest.raises(DeadlineExceeded):
        await stuck


async def test_a_call_carries_the_context_of_no_caller() -> None:
    """The deadline of the caller who happened to be first is not that of the others."""
    seen: list[float | None] = []

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        seen.append(remaining())
        return list(items)

    coalescer = Coalescer[int, int](send)

    async def caller() -> None:
        set_deadline(0.01)
        await coalescer.submit(1, timeout=5)

    await asyncio.create_task(caller())
    assert seen == [None]


async def test_closing_tells_everyone_and_refuses_the_next() -> None:
    """Neither those in flight nor those waiting are left without an answer."""

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        await asyncio.Event().wait()
        return list(items)

    coalescer = Coalescer[int, int](send, in_flight=1, max_batch=1)
    tasks = [asyncio.create_task(coalescer.submit(n, timeout=60)) for n in range(3)]
    await asyncio.sleep(0.01)
    await coalescer.close()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    with pytest.raises(Unavailable):
        await coalescer.submit(9, timeout=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    items=st.integers(1, 120),
    in_flight=st.integers(1, 4),
    max_batch=st.integers(1, 40),
    cancelled=st.floats(0, 0.6),
)
def test_no_waiter_is_lost_whatever_is_cancelled(
    seed: int, items: int, in_flight: int, max_batch: int, cancelled: float
) -> None:
    """Every caller that was not cancelled gets exactly its own answer; no item is sent twice; limits hold; nothing is left behind."""
    chance = random.Random(seed)  # noqa: S311
    sent: list[int] = []
    running = 0

    async def send(batch: Sequence[int]) -> Sequence[int | Exception]:
        nonlocal running
        running += 1
        assert running <= in_flight
        assert 1 <= len(batch) <= max_batch
        sent.extend(batch)
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        running -= 1
        if chance.random() < 0.1:
            raise Unavailable
        return [-item if chance.random() > 0.1 else KeyError(item) for item in batch]

    async def story() -> None:
        coalescer = Coalescer[int, int](send, in_flight=in_flight, max_batch=max_batch)
        tasks: dict[int, asyncio.Task[int]] = {}
        for item in range(1, items + 1):
            tasks[item] = asyncio.create_task(coalescer.submit(item, timeout=30))
            if chance.random() < 0.5:
                await asyncio.sleep(0)
            if chance.random() < cancelled:
                tasks[chance.choice(list(tasks))].cancel()
        async with asyncio.timeout(20):
            await asyncio.wait(tasks.values())
        for item, task in tasks.items():
            if not task.cancelled() and task.exception() is None:
                assert task.result() == -item
        assert len(sent) == len(set(sent))
        assert coalescer.waiting == 0
        assert await _answered(coalescer)

    async def _answered(coalescer: Coalescer[int, int]) -> bool:
        for attempt in range(1000, 1100):
            try:
                if await coalescer.submit(attempt, timeout=5) == -attempt:
                    return True
            except (Unavailable, KeyError):
                continue
        return False

    asyncio.run(story())
