"""One attempt at an import with everything around it in memory: retries, order, interruption, and memory.

The catalog in memory keeps the contract that is also asked of the real one (`keeps_the_contract`).
"""

import asyncio
import hashlib
import time
import tracemalloc
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import orjson
import pytest
from almagest.catalog.v1 import command_pb2
from almagest.rpc.v1 import problem_pb2
from chassis.errors import RemoteProblem, Unavailable
from worker.adapters.auth import Auth
from worker.adapters.catalog_command import GrpcCatalog
from worker.adapters.ndjson import NdjsonReader
from worker.adapters.redis import Signals
from worker.application.attempts import Attempt, Interrupted, Interruption
from worker.application.batches import BatchLimits
from worker.application.execution import Execution, Origin
from worker.application.imports import ImportRun, Surroundings
from worker.application.rows import ImportRow
from worker.domain.errors import LeaseLost
from worker.domain.identifiers import product_id
from worker.domain.job import Ending, Format, ImportOptions, Job, JobState, OnError, Progress, RefusedRow
from worker.domain.records import Record

CHUNK = 64 * 1024


class MemoryCatalog:
    """Executes commands on products in memory.

    Attributes:
        failures: raised by the next calls, the first first.
        problems: answered to the items of a SKU, the first first.
        calls: the SKUs of each call that wrote.
        concurrent: how many calls ran at once at most.
        clashes: SKUs that were in a call twice, or in two calls at once.
    """

    def __init__(self) -> None:
        self._products: dict[str, bytes] = {}
        self._answers: dict[str, command_pb2.Executed] = {}
        self._running: list[str] = []
        self.clashes: set[str] = set()
        self._calls = 0
        self.failures: list[Exception] = []
        self.problems: dict[str, list[problem_pb2.Problem]] = {}
        self.calls: list[list[str]] = []
        self.timeouts: list[float] = []
        self.concurrent = 0
        self.before: Callable[[], Any] = lambda: None

    async def execute(
        self, items: Sequence[command_pb2.CommandItem], *, timeout: float
    ) -> Sequence[command_pb2.CommandResult]:
        self.before()
        self.timeouts.append(timeout)
        skus = [item.commands[0].put.sku for item in items]
        self._running += skus
        self.clashes |= {sku for sku in skus if self._running.count(sku) > 1}
        self._calls += 1
        self.concurrent = max(self.concurrent, self._calls)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if self.failures:
                raise self.failures.pop(0)
            if not items[0].dry_run:
                self.calls.append(skus)
            return [self._execute(item) for item in items]
        finally:
            self._calls -= 1
            for sku in skus:
                self._running.remove(sku)

    def _execute(self, item: command_pb2.CommandItem) -> command_pb2.CommandResult:
        put = item.commands[0].put
        if self.problems.get(put.sku):
            return command_pb2.CommandResult(problem=self.problems[put.sku].pop(0))
        if item.command_id in self._answers:
            executed = command_pb2.Executed()
            executed.CopyFrom(self._answers[item.command_id])
            executed.replayed = True
            return command_pb2.CommandResult(executed=executed)
        if put.description.car.doors > 7:
            return command_pb2.CommandResult(problem=problem(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_COMMAND"))
        state = b"".join(command.SerializeToString() for command in item.commands)
        old = self._products.get(item.product_id)
        executed = command_pb2.Executed(product_id=item.product_id, created=old is None, changed=old != state)
        if not item.dry_run and executed.changed:
            self._products[item.product_id] = state
            self._answers[item.command_id] = executed
        return command_pb2.CommandResult(executed=executed)

    def __len__(self) -> int:
        return len(self._products)


class MemoryTokens:
    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.forgotten = 0

    async def token(self) -> str:
        if self.failures:
            raise self.failures.pop(0)
        return "token"

    def forget(self) -> None:
        self.forgotten += 1


class MemoryFile:
    chunk_bytes = CHUNK

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.failures: list[Exception] = []

    async def chunk(self, job_id: uuid.UUID, number: int) -> bytes | None:
        if self.failures:
            raise self.failures.pop(0)
        return self._content[number * CHUNK : (number + 1) * CHUNK] or None


class MemoryLedger:
    """Remembers what was written, and how the job ended."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.refused: list[RefusedRow] = []
        self.ending: Ending | None = None
        self.cancel_after = 10**9
        self.failures: list[Exception] = []

    async def advance(
        self,
        job_id: uuid.UUID,
        attempt: int,
        progress: Progress,
        *,
        refused: Sequence[RefusedRow],
        tokens: Sequence[str],
        ending: Ending | None,
    ) -> bool:
        if self.failures:
            raise self.failures.pop(0)
        self.progress.append(progress)
        self.refused += refused
        self.ending = ending
        return progress.rows_done >= self.cancel_after


def problem(code: grpc.StatusCode, reason: str) -> problem_pb2.Problem:
    return problem_pb2.Problem(code=code.value[0], reason=reason, message=f"it is {reason}")


def failure(code: grpc.StatusCode, reason: str = "") -> RemoteProblem:
    return RemoteProblem(problem(code, reason or code.name))


def car(sku: str, **attributes: Any) -> dict[str, Any]:
    return {
        "sku": sku,
        "kind": "car",
        "name": "N",
        "category": "c",
        "attributes": {"make": "M", "model": "T", "model_year": 2020} | attributes,
    }


def ndjson(rows: Sequence[Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def job_of(content_length: int, **options: Any) -> Job:
    return Job(
        job_id=uuid.uuid4(),
        type="import",
        name="",
        state=JobState.RUNNING,
        options=ImportOptions(Format.NDJSON, **options),
        progress=Progress(bytes_total=content_length),
        submitted_by="somebody",
        command_id=uuid.uuid4(),
        fingerprint=b"",
        traceparent="",
        attempts=1,
        stalls=1,
        cancel_requested=False,
        error=None,
        consistency_tokens=(),
        created_at=datetime.now(UTC),
        started_at=None,
        ended_at=None,
        revision=1,
    )


class Run:
    """An attempt and all that is around it."""

    def __init__(
        self, content: bytes, *, lease: float = 60.0, file: Any = None, size: int | None = None, **options: Any
    ) -> None:
        job = job_of(len(content) if size is None else size, **({"on_error": OnError.SKIP} | options))
        self.attempt = Attempt(job, valid_until=time.monotonic() + lease)
        self.catalog, self.tokens, self.ledger = MemoryCatalog(), MemoryTokens(), MemoryLedger()
        self.file = file or MemoryFile(content)

    async def __call__(self) -> Progress:
        surroundings = Surroundings(
            files=self.file,
            ledger=self.ledger,
            execution=Execution(self.attempt, self.catalog, self.tokens, call_seconds=5.0),
            reader=NdjsonReader(),
            limits=BatchLimits(rows=10),
            in_flight=4,
            origin=lambda: Origin("", "", ""),
            announce=lambda _: None,
            counted=lambda _before, _after: None,
        )
        await ImportRun(self.attempt, surroundings).run()
        return self.ledger.progress[-1]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.application.execution.backoff", lambda _failures: 0.001)
    monkeypatch.setattr("worker.application.imports.backoff", lambda _failures: 0.001)


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


class GeneratedFile:
    """A large file that exists only a chunk at a time: rows of 40 kilobytes."""

    chunk_bytes = 256 * 1024

    def __init__(self, rows: int) -> None:
        text = "x" * 40_000
        self.row = len(orjson.dumps(car(f"{0:08d}") | {"text": text})) + 1
        self.size = rows * self.row
        self._text = text

    async def chunk(self, job_id: uuid.UUID, number: int) -> bytes | None:
        start, end = number * self.chunk_bytes, min((number + 1) * self.chunk_bytes, self.size)
        if start >= end:
            return None
        first = start // self.row
        rows = [car(f"{index:08d}") | {"text": self._text} for index in range(first, end // self.row + 1)]
        return ndjson(rows)[start - first * self.row :][: end - start]


class DigestCatalog(MemoryCatalog):
    """Remembers digests only, to be no part of what is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    async def execute(
        self, items: Sequence[command_pb2.CommandItem], *, timeout: float
    ) -> Sequence[command_pb2.CommandResult]:
        await asyncio.sleep(0)
        self.seen += len(items)
        executed = command_pb2.Executed(created=True, changed=True)
        return [command_pb2.CommandResult(executed=executed) for _ in items]


async def test_memory_does_not_grow_with_the_file() -> None:
    """200 megabytes pass through a few megabytes, in long rows and in one that never ends."""
    file = GeneratedFile(5000)
    assert file.size > 200_000_000
    run = Run(b"", file=file, size=file.size)
    run.catalog = DigestCatalog()
    tracemalloc.start()
    try:
        progress = await run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (progress.rows_created, run.catalog.seen) == (5000, 5000)
    assert peak < 24 * 1024 * 1024


async def test_a_line_that_never_ends_needs_no_memory() -> None:
    """A hundred megabytes without a line break are one refused row."""

    class Endless:
        chunk_bytes = CHUNK

        async def chunk(self, job_id: uuid.UUID, number: int) -> bytes | None:
            return b"x" * CHUNK if number < 1600 else None

    run = Run(b"", file=Endless(), size=CHUNK * 1600)
    tracemalloc.start()
    try:
        progress = await run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (progress.rows_refused, [row.problem.reason for row in run.ledger.refused]) == (1, ["ROW_TOO_LONG"])
    assert peak < 4 * 1024 * 1024


async def test_the_catalog_in_memory_keeps_the_contract() -> None:
    """So that what is proven with it means something."""
    await keeps_the_contract(MemoryCatalog(), MemoryTokens().token)


async def test_the_real_catalog_keeps_the_contract(backend: Any, editor: Any) -> None:
    """With tokens that auth gives to the worker."""
    command, auth = backend.processes["catalog-command"], backend.processes["auth"]
    async with (
        backend.channel("catalog-command", port=command.grpc, caller="worker") as commands,
        backend.channel("auth", port=auth.grpc, caller="worker") as people,
    ):
        tokens = Auth(people).tokens(user_id=editor.user_id, job_id=uuid.uuid4())
        await keeps_the_contract(GrpcCatalog(commands), tokens.token)


async def keeps_the_contract(port: Any, token: Callable[[], Any]) -> None:
    """What the run relies on: created, changed, unchanged, refused, replayed by id, and a dry run that writes nothing."""
    sku = uuid.uuid4().hex
    reader = NdjsonReader()

    async def execute(row: dict[str, Any], *, command_id: str | None = None, dry_run: bool = False) -> Any:
        data = orjson.dumps(row)
        read = reader.read(Record(1, 1, 1, data))
        assert isinstance(read, ImportRow)
        item = command_pb2.CommandItem(
            command_id=command_id or str(uuid.uuid4()),
            product_id=product_id(sku),
            commands=read.commands,
            fingerprint=hashlib.sha256(data).digest(),
            transaction_token=await token(),
            dry_run=dry_run,
        )
        (answer,) = await port.execute([item], timeout=10.0)
        return answer

    def told(answer: Any) -> tuple[bool, bool, bool]:
        return answer.executed.created, answer.executed.changed, answer.executed.replayed

    first = str(uuid.uuid4())
    assert told(await execute(car(sku), dry_run=True)) == (True, True, False)
    assert told(await execute(car(sku), command_id=first)) == (True, True, False)
    assert told(await execute(car(sku))) == (False, False, False)
    assert told(await execute(car(sku, doors=5), dry_run=True)) == (False, True, False)
    assert told(await execute(car(sku, doors=5))) == (False, True, False)
    assert told(await execute(car(sku), command_id=first)) == (True, True, True)
    assert told(await execute(car(sku), command_id=first, dry_run=True))[0] is True
    refused = await execute(car(sku, doors=12))
    assert refused.problem.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert refused.problem.reason == "INVALID_COMMAND"
    assert told(await execute(car(sku, doors=5))) == (False, False, False)


def test_listening_leaves_nothing_behind() -> None:
    """A process that is watched for years does not remember every job that anybody ever watched."""
    signals = Signals(None, None, worker="w", blocking_seconds=1.0)  # pyright: ignore[reportArgumentType]
    job_id = uuid.uuid4()
    with signals.listen(job_id) as first, signals.listen(job_id) as second:
        signals.announce(job_id)
        assert first.is_set()
        assert second.is_set()
    assert not signals._listeners
