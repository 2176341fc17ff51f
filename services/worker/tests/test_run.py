"""One attempt at an import with everything around it in memory: retries, order, and interruption."""

import asyncio

import grpc
import pytest
from chassis.errors import RemoteProblem, Unavailable
from worker.application.attempts import Interrupted, Interruption
from worker.domain.errors import LeaseLost
from worker.domain.job import Ending, JobState, OnError

from .memory import Run, car, failure, ndjson, problem


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.application.execution.backoff", lambda _failures: 0.001)
    monkeypatch.setattr("worker.application.attempts.backoff", lambda _failures: 0.001)


async def test_batches_overlap_when_skipping_and_never_when_stopping() -> None:
    """Skip keeps up to four calls under way; stop decides the next batch while one is written, and writes one at a time."""
    content = ndjson([car(str(number)) for number in range(200)])
    skipping, stopping = Run(content), Run(content, on_error=OnError.STOP)
    assert (await skipping()).rows_created == (await stopping()).rows_created == 200
    assert skipping.catalog.concurrent == 4
    assert stopping.catalog.concurrent == 2
    assert [sku for call in stopping.catalog.calls for sku in call] == [str(number) for number in range(200)]


@pytest.mark.parametrize("on_error", [OnError.SKIP, OnError.STOP])
async def test_a_sku_is_never_under_way_twice(on_error: OnError) -> None:
    """Neither in one call nor in two, since a row that is tried again must not overtake a later one of its SKU."""
    rows = [car(str(number), doors=1 + round_) for round_ in range(7) for number in range(15)]
    rows += [car("0", doors=1 + round_) for round_ in range(7)]
    run = Run(ndjson(rows), on_error=on_error)
    run.catalog.problems["3"] = [problem(grpc.StatusCode.UNAVAILABLE, "LATER")] * 5
    progress = await run()
    assert not run.catalog.clashes
    assert (progress.rows_created, progress.rows_changed) == (15, 97)


async def test_progress_is_written_in_the_order_of_the_file() -> None:
    """Even though a batch may be answered before the one in front of it."""
    run = Run(ndjson([car(str(number)) for number in range(500)]))
    await run()
    ends = [progress.bytes_done for progress in run.ledger.progress]
    assert ends == sorted(ends)
    assert run.ledger.ending == Ending(JobState.SUCCEEDED)


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    ],
)
@pytest.mark.parametrize("on_error", [OnError.SKIP, OnError.STOP])
async def test_what_passes_with_time_is_waited_for(code: grpc.StatusCode, on_error: OnError) -> None:
    """Of calls, of items and of tokens, however often; no row is refused for it."""
    run = Run(ndjson([car(str(number)) for number in range(30)]), on_error=on_error)
    run.catalog.failures = [failure(code) for _ in range(50)]
    run.catalog.problems["7"] = [problem(code, "LATER") for _ in range(50)]
    run.tokens.failures = [failure(code) for _ in range(50)]
    run.file.failures = [Unavailable() for _ in range(5)]
    run.ledger.failures = [Unavailable() for _ in range(5)]
    progress = await run()
    assert (progress.rows_created, progress.rows_refused) == (30, 0)


async def test_only_rows_without_an_answer_are_sent_again() -> None:
    """The others have theirs."""
    run = Run(ndjson([car(str(number)) for number in range(10)]))
    run.catalog.problems["7"] = [problem(grpc.StatusCode.UNAVAILABLE, "LATER")] * 2
    await run()
    assert run.catalog.calls == [[str(number) for number in range(10)], ["7"], ["7"]]


async def test_a_row_that_can_never_succeed_is_refused_after_a_few_tries() -> None:
    """A row that makes catalog-command fail does not hold up the job for ever."""
    run = Run(ndjson([car(str(number)) for number in range(10)]))
    run.catalog.problems["7"] = [problem(grpc.StatusCode.INTERNAL, "INTERNAL")] * 1000
    progress = await run()
    assert (progress.rows_created, progress.rows_refused) == (9, 1)
    assert [(row.line, row.problem.reason) for row in run.ledger.refused] == [(8, "INTERNAL")]
    assert 3 <= len(run.catalog.calls) <= 10


async def test_a_row_that_is_too_large_is_refused_although_its_code_says_later() -> None:
    """RESOURCE_EXHAUSTED is also what a size limit answers, and sizes do not pass."""
    run = Run(ndjson([car("0")]))
    run.catalog.problems["0"] = [problem(grpc.StatusCode.RESOURCE_EXHAUSTED, "ITEM_TOO_LARGE")]
    assert (await run()).rows_refused == 1


async def test_an_expired_token_is_replaced() -> None:
    """A token that was refused is not used again."""
    run = Run(ndjson([car("0")]))
    run.catalog.problems["0"] = [problem(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")]
    assert (await run()).rows_created == 1
    assert run.tokens.forgotten == 1


@pytest.mark.parametrize("where", ["token", "item"])
async def test_a_submitter_without_permission_fails_the_job(where: str) -> None:
    """It would be the same for every row."""
    run = Run(ndjson([car(str(number)) for number in range(30)]))
    if where == "token":
        run.tokens.failures = [failure(grpc.StatusCode.PERMISSION_DENIED, "SCOPES_NOT_HELD")]
    else:
        run.catalog.problems["0"] = [problem(grpc.StatusCode.PERMISSION_DENIED, "SCOPES_NOT_HELD")]
    await run()
    assert run.ledger.ending is not None
    assert run.ledger.ending.state is JobState.FAILED
    assert run.ledger.ending.error is not None
    assert run.ledger.ending.error.reason == "SCOPES_NOT_HELD"


async def test_a_call_that_fails_for_good_fails_the_attempt() -> None:
    """Such as one that catalog-command does not know: not the rows' fault, and nothing to wait for."""
    run = Run(ndjson([car("0")]))
    run.catalog.failures = [failure(grpc.StatusCode.UNIMPLEMENTED)]
    with pytest.raises(RemoteProblem):
        await run()


@pytest.mark.parametrize("on_error", [OnError.SKIP, OnError.STOP])
@pytest.mark.parametrize("interruption", list(Interruption))
async def test_an_interrupted_run_counts_all_that_took_effect(on_error: OnError, interruption: Interruption) -> None:
    """What is under way is finished and written down first."""
    run = Run(ndjson([car(str(number)) for number in range(300)]), on_error=on_error)
    run.catalog.before = lambda: run.attempt.interrupt(interruption) if len(run.catalog) >= 100 else None
    with pytest.raises(Interrupted) as interrupted:
        await run()
    assert interrupted.value.interruption is interruption
    assert 100 <= run.ledger.progress[-1].rows_created == len(run.catalog) < 300
    assert run.ledger.ending is None


async def test_a_cancellation_seen_when_progress_is_written_stops_the_run() -> None:
    """The write answers whether someone asked."""
    run = Run(ndjson([car(str(number)) for number in range(300)]))
    run.ledger.cancel_after = 50
    with pytest.raises(Interrupted):
        await run()
    assert run.ledger.progress[-1].rows_done < 300


async def test_an_outage_does_not_hold_up_a_cancellation() -> None:
    """While it waits for catalog-command a run can be stopped."""
    run = Run(ndjson([car("0")]))
    run.catalog.failures = [failure(grpc.StatusCode.UNAVAILABLE) for _ in range(100_000)]
    called = asyncio.Event()
    run.catalog.before = called.set
    task = asyncio.create_task(run())
    await called.wait()
    run.attempt.interrupt(Interruption.CANCEL)
    with pytest.raises(Interrupted):
        await asyncio.wait_for(task, 10)


async def test_nothing_is_sent_or_written_once_the_lease_is_gone() -> None:
    """From the moment that the loss is known, and no call may outlast the lease as we know it."""
    run = Run(ndjson([car(str(number)) for number in range(300)]), lease=3.0)
    written = -1

    def lose() -> None:
        nonlocal written
        if len(run.catalog.calls) >= 3 and written < 0:
            written = len(run.ledger.progress)
            run.attempt.lose()

    run.catalog.before = lose
    with pytest.raises(LeaseLost):
        await run()
    assert 0 <= written == len(run.ledger.progress)
    assert len(run.catalog.calls) <= 8
    assert all(timeout <= 2.5 for timeout in run.catalog.timeouts)
    assert run.ledger.ending is None


async def test_a_file_with_a_hole_never_succeeds() -> None:
    """The number of bytes read must be that of the upload."""
    run = Run(ndjson([car("0")]), size=10_000)
    with pytest.raises(EOFError):
        await run()
    assert run.ledger.ending is None


async def test_an_empty_last_line_is_no_row_and_a_last_line_without_end_is_one() -> None:
    """However the file ends."""
    content = ndjson([car("0"), car("1")])
    for ending in (content, content + b"\n\n", content.removesuffix(b"\n"), b"\n\r\n" + content):
        progress = await Run(ending)()
        assert (progress.rows_created, progress.bytes_done) == (2, len(ending))
