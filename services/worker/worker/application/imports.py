"""Running an import: rows out of the file, through catalog-command, into the catalog, and the report.

Rows travel in batches, some of them at once. Results are taken in the order of the file, and counts, refused rows, and
the place to go on from are
written in one transaction that carries the number of the attempt. So whichever worker goes on after a crash sends
again at most what was under way,
and the command ids, made from job and line, make that harmless.

What `on_error` guarantees:

- skip: every row is tried, in order where two rows have the same SKU; refused ones are in the report.
- stop: no row behind the first refused one is applied. Each batch is first decided without writing (the next one while
this one is written), and only the
  rows before the first refusal are then sent, one batch at a time. Only when someone else changes one of these very
  products in the
  milliseconds between can a row be refused that had passed; then the rows behind it in its batch may have been
  applied, and are counted.
- a dry run decides each row on the catalog as it is, so a row is not judged in the light of the rows before it.
"""

import asyncio
import dataclasses
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import grpc
from almagest.catalog.v1 import command_pb2
from almagest.rpc.v1 import problem_pb2

from worker.application.attempts import Attempt, Interrupted, Interruption, persistently
from worker.application.batches import Batch, BatchLimits, batches, read_header
from worker.application.consistency import LatestTokens
from worker.application.execution import Execution, JobImpossible, Origin
from worker.application.report import refused_row
from worker.application.rows import FileRefused, ImportRow, RowReader
from worker.domain.job import Ending, JobState, OnError, Problem, Progress, RefusedRow

Outcome = command_pb2.Executed | problem_pb2.Problem


class Files(Protocol):
    """Where the file is."""

    chunk_bytes: int

    async def chunk(self, job_id: uuid.UUID, number: int) -> bytes | None:
        """One chunk; None behind the last."""
        ...


class Ledger(Protocol):
    """Where progress is written down."""

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
        """Write progress and perhaps the end. Whether the job was asked to stop."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an import is run with."""

    files: Files
    ledger: Ledger
    execution: Execution
    reader: RowReader
    limits: BatchLimits
    in_flight: int
    origin: Callable[[], Origin]
    announce: Callable[[uuid.UUID], None]
    counted: Callable[[Progress, Progress], None]


class _Ended(Exception):
    """The job's end has been written."""


class ImportRun:
    """One attempt at an import."""

    def __init__(self, attempt: Attempt, surroundings: Surroundings) -> None:
        self._attempt = attempt
        self._with = surroundings
        self._job = attempt.job
        self._stop = attempt.job.options.on_error is OnError.STOP
        self._dry_run = attempt.job.options.dry_run
        self._progress = attempt.job.progress
        self._tokens = LatestTokens(attempt.job.consistency_tokens)
        self._read = attempt.job.progress.bytes_done

    async def run(self) -> None:
        """Go on from where the job stands until it has ended, which is then written.

        Raises:
            Interrupted: It is to stop early; what was under way has been counted, if it could be.
            LeaseLost: It is somebody else's.
        """
        try:
            if self._with.reader.header and self._progress.bytes_done:
                await read_header(self._chunks(0), self._with.reader, self._with.limits)
            async with aclosing(self._batches()) as source:
                await (self._one_by_one(source) if self._stop and not self._dry_run else self._overlapping(source))
            if self._read != self._progress.bytes_total:
                raise EOFError(f"{self._read} of {self._progress.bytes_total} bytes of the file are there")
            self._progress = dataclasses.replace(self._progress, bytes_done=self._progress.bytes_total)
            await self._write(ending=Ending(JobState.SUCCEEDED))
        except _Ended:
            pass
        except (FileRefused, JobImpossible) as error:
            await self._write(ending=Ending(JobState.FAILED, error.problem))

    def _batches(self) -> AsyncGenerator[Batch]:
        start = self._progress
        return batches(
            self._counted(self._chunks(start.bytes_done)),
            self._with.reader,
            self._with.limits,
            offset=start.bytes_done,
            lines=start.lines_done,
            stop=self._stop,
        )

    async def _chunks(self, offset: int) -> AsyncIterator[bytes]:
        number, skip = divmod(offset, self._with.files.chunk_bytes)
        while True:
            data = await persistently(
                self._attempt,
                lambda: self._with.files.chunk(self._job.job_id, number),  # noqa: B023 - awaited at once
            )
            if data is None:
                return
            yield data[skip:] if skip else data
            number, skip = number + 1, 0

    async def _counted(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self._read += len(chunk)
            yield chunk

    async def _overlapping(self, source: AsyncIterator[Batch]) -> None:
        """Several batches at once, but never two with the same SKU."""
        window: deque[tuple[Batch, asyncio.Task[Sequence[Outcome]]]] = deque()

        early = False

        async def settle() -> None:
            batch, task = window[0]
            outcomes = await task
            window.popleft()
            await self._settle(batch, outcomes)

        try:
            async for batch in source:
                while window and (
                    len(window) >= self._with.in_flight
                    or any(not batch.skus.isdisjoint(other.skus) for other, _ in window)
                ):
                    await settle()
                if self._attempt.interruption is not None:
                    early = True
                    break
                window.append((batch, asyncio.create_task(self._execute(batch.rows, dry_run=self._dry_run))))
            while window:
                await settle()
        finally:
            await _cancel([task for _, task in window])
        if early:
            self._heed()

    async def _one_by_one(self, source: AsyncIterator[Batch]) -> None:
        """One batch written at a time, and only what passed when it was decided without writing; the next is decided
        meanwhile.
        """
        checked: tuple[Batch, asyncio.Task[Sequence[Outcome]]] | None = None
        checks: list[asyncio.Task[Sequence[Outcome]]] = []
        try:
            async for batch in source:
                if checked is not None and not batch.skus.isdisjoint(checked[0].skus):
                    await self._write_passed(*checked)
                    checked = None
                self._heed()
                check = asyncio.create_task(self._execute(batch.rows, dry_run=True))
                checks = [check] if checked is None else [checked[1], check]
                if checked is not None:
                    await self._write_passed(*checked)
                checked = (batch, check)
            self._heed()
            if checked is not None:
                await self._write_passed(*checked)
        finally:
            await _cancel(checks)

    async def _write_passed(self, batch: Batch, check: asyncio.Task[Sequence[Outcome]]) -> None:
        verdicts = await check
        first = _first_refused(verdicts)
        outcomes = await self._execute(batch.rows[:first], dry_run=False)
        if first == len(verdicts):
            await self._take(batch.rows, outcomes, batch.refused, end=batch.end, last_line=batch.last_line)
        else:
            row = batch.rows[first]
            await self._take(
                batch.rows[: first + 1], [*outcomes, verdicts[first]], (), end=row.end, last_line=row.last_line
            )

    async def _settle(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        first = _first_refused(outcomes) if self._stop else len(outcomes)
        if first == len(outcomes):
            await self._take(batch.rows, outcomes, batch.refused, end=batch.end, last_line=batch.last_line)
        else:
            row = batch.rows[first]
            await self._take(batch.rows[: first + 1], outcomes[: first + 1], (), end=row.end, last_line=row.last_line)

    async def _execute(self, rows: Sequence[ImportRow], *, dry_run: bool) -> Sequence[Outcome]:
        if not rows:
            return ()
        return await self._with.execution.execute(rows, self._with.origin(), dry_run=dry_run)

    async def _take(
        self,
        rows: Sequence[ImportRow],
        outcomes: Sequence[Outcome],
        refused: Sequence[RefusedRow],
        *,
        end: int,
        last_line: int,
    ) -> None:
        """Count the outcomes of rows and write down how far we are."""
        created = changed = unchanged = 0
        report = list(refused)
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, problem_pb2.Problem):
                report.append(refused_row(row, outcome, self._with.reader))
            else:
                created += outcome.created
                changed += outcome.changed and not outcome.created
                unchanged += not outcome.changed and not outcome.created
                self._tokens.add(outcome.consistency_token)
        report.sort(key=lambda refusal: refusal.line)
        done = self._progress
        self._progress = dataclasses.replace(
            done,
            bytes_done=end,
            lines_done=last_line,
            rows_created=done.rows_created + created,
            rows_changed=done.rows_changed + changed,
            rows_unchanged=done.rows_unchanged + unchanged,
            rows_refused=done.rows_refused + len(report),
        )
        stopped = self._stop and bool(report)
        if stopped:
            await self._write(report, ending=Ending(JobState.FAILED, _stopped_at(report[0])))
        else:
            await self._write(report)
        self._with.counted(done, self._progress)
        if stopped:
            raise _Ended

    async def _write(self, refused: Sequence[RefusedRow] = (), *, ending: Ending | None = None) -> None:
        job_id, number = self._attempt.key
        if await persistently(
            self._attempt,
            lambda: self._with.ledger.advance(
                job_id, number, self._progress, refused=refused, tokens=self._tokens.all(), ending=ending
            ),
        ):
            self._attempt.interrupt(Interruption.CANCEL)
        self._with.announce(job_id)

    def _heed(self) -> None:
        if self._attempt.interruption is not None:
            raise Interrupted(self._attempt.interruption)


def _first_refused(outcomes: Sequence[Outcome]) -> int:
    """The index of the first refusal, or how many there are."""
    return next(
        (index for index, outcome in enumerate(outcomes) if isinstance(outcome, problem_pb2.Problem)), len(outcomes)
    )


def _stopped_at(refusal: RefusedRow) -> Problem:
    return Problem(
        code=grpc.StatusCode.FAILED_PRECONDITION.value[0],
        reason="ROW_REFUSED",
        message=f"Line {refusal.line} was refused, so the import stopped there: {refusal.problem.message}",
        violations=refusal.problem.violations,
        metadata={"line": str(refusal.line), "row_reason": refusal.problem.reason},
    )


async def _cancel(tasks: Sequence[asyncio.Task[Sequence[Outcome]]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
