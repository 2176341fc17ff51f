"""What is around an attempt at an import, in memory.

The catalog in memory keeps the contract that is also asked of the real one (`keeps_the_contract`).
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import orjson
from almagest.catalog.v1 import command_pb2
from almagest.rpc.v1 import problem_pb2
from chassis.errors import RemoteProblem
from worker.adapters.ndjson import NdjsonReader
from worker.application.attempts import Attempt
from worker.application.batches import BatchLimits
from worker.application.execution import Execution, Origin
from worker.application.imports import ImportRun, Surroundings
from worker.domain.job import Ending, Format, ImportOptions, Job, JobState, OnError, Progress, RefusedRow

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
