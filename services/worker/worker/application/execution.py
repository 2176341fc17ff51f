"""Having a batch executed by catalog-command, however long that takes.

A batch is sent until every row of it has a definite answer. What is only a matter of time (the service is away, has
too much to do, the token has just
expired) is tried again and never counts against a row; the same command ids make sure that a row takes effect once
however often it is sent. What
may never end well is tried a few times.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc
import structlog
from almagest.catalog.v1 import command_pb2
from almagest.rpc.v1 import problem_pb2
from chassis.errors import ChassisError, RemoteProblem

from worker.application.attempts import Attempt, backoff
from worker.application.problems import from_message
from worker.application.rows import ImportRow
from worker.domain.identifiers import product_id, row_command_id
from worker.domain.job import Problem

_logger = structlog.stdlib.get_logger(__name__)

_TIME_WILL_TELL = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE.value[0],
        grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
        grpc.StatusCode.RESOURCE_EXHAUSTED.value[0],
        grpc.StatusCode.CANCELLED.value[0],
    }
)
_A_FEW_TIMES = frozenset(
    {
        grpc.StatusCode.ABORTED.value[0],
        grpc.StatusCode.INTERNAL.value[0],
        grpc.StatusCode.UNKNOWN.value[0],
        grpc.StatusCode.UNAUTHENTICATED.value[0],
    }
)
_NOT_THE_ROWS_FAULT = frozenset({grpc.StatusCode.PERMISSION_DENIED.value[0], grpc.StatusCode.UNAUTHENTICATED.value[0]})
_TRIES = 6
_MARGIN = 0.5
_LOG_SECONDS = 10.0


class Catalog(Protocol):
    """catalog-command."""

    async def execute(
        self,
        items: Sequence[command_pb2.CommandItem],
        *,
        timeout: float,
    ) -> Sequence[command_pb2.CommandResult]:
        """Decide items; a result for each.

        Raises:
            RemoteProblem: The call as a whole failed.
        """
        ...


class Tokens(Protocol):
    """Transaction tokens of the submitter."""

    async def token(self) -> str:
        """One that is good for some seconds.

        Raises:
            RemoteProblem: The submitter may not do this (any more), or auth cannot be reached.
        """
        ...

    def forget(self) -> None:
        """The last one was refused: get another."""
        ...


class JobImpossible(Exception):
    """The job cannot go on, whatever its rows say."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Origin:
    """What every item of a job says about where it comes from: the reason, and the trace contexts of the first and the
    other items of a call.
    """

    reason: str
    traced: str
    untraced: str


class Execution:
    """Executes rows of one attempt."""

    def __init__(self, attempt: Attempt, catalog: Catalog, tokens: Tokens, *, call_seconds: float) -> None:
        self._attempt = attempt
        self._catalog = catalog
        self._tokens = tokens
        self._call_seconds = call_seconds
        self._complained = 0.0

    async def execute(
        self, rows: Sequence[ImportRow], origin: Origin, *, dry_run: bool
    ) -> Sequence[command_pb2.Executed | problem_pb2.Problem]:
        """What became of each row.

        Raises:
            JobImpossible: The submitter may not do this.
            Interrupted, LeaseLost: While waiting for another try.
            RemoteProblem: The call fails in a way that does not pass.
        """
        outcomes: list[command_pb2.Executed | problem_pb2.Problem | None] = [None] * len(rows)
        pending = list(range(len(rows)))
        failures = 0
        while pending:
            answers = await self._answers(
                [rows[index] for index in pending], origin, dry_run=dry_run, failures=failures
            )
            if answers is None:
                failures += 1
                await self._attempt.pause(backoff(failures))
                continue
            again: list[int] = []
            for index, answer in zip(pending, answers, strict=True):
                outcome = _definite(answer, failures)
                outcomes[index] = outcome
                if outcome is None:
                    again.append(index)
            if again:
                problem = answers[pending.index(again[0])].problem
                if problem.code == grpc.StatusCode.UNAUTHENTICATED.value[0]:
                    self._tokens.forget()
                self._complain(problem.reason, len(again))
                failures += 1
                await self._attempt.pause(backoff(failures))
            pending = again
        return [outcome for outcome in outcomes if outcome is not None]

    async def _answers(
        self, rows: Sequence[ImportRow], origin: Origin, *, dry_run: bool, failures: int
    ) -> Sequence[command_pb2.CommandResult] | None:
        """One call; None: it failed in a way that passes."""
        try:
            token = await self._tokens.token()
        except RemoteProblem as error:
            if _passes(error, failures):
                self._complain(error.reason, len(rows))
                return None
            raise JobImpossible(from_message(error.problem)) from error
        items = self._items(rows, origin, token, dry_run=dry_run)
        # Nothing of ours may still be under way when somebody else has the job.
        timeout = min(self._call_seconds, self._attempt.remaining() - _MARGIN)
        if timeout <= 0:
            return None
        try:
            answers = await self._catalog.execute(items, timeout=timeout)
        except RemoteProblem as error:
            if _passes(error, failures):
                self._complain(error.reason, len(rows))
                return None
            raise
        except ChassisError as error:
            self._complain(error.reason, len(rows))
            return None
        if len(answers) != len(rows):
            raise ValueError(f"{len(rows)} items were answered with {len(answers)} results")
        return answers

    def _items(
        self, rows: Sequence[ImportRow], origin: Origin, token: str, *, dry_run: bool
    ) -> list[command_pb2.CommandItem]:
        job_id = self._attempt.job.job_id
        job = str(job_id)
        traceparent = origin.traced
        items: list[command_pb2.CommandItem] = []
        for row in rows:
            items.append(
                command_pb2.CommandItem(
                    command_id=row_command_id(job_id, row.line),
                    product_id=product_id(row.sku),
                    commands=row.commands,
                    fingerprint=row.fingerprint,
                    transaction_token=token,
                    traceparent=traceparent,
                    reason=origin.reason,
                    job_id=job,
                    import_line=row.line,
                    dry_run=dry_run,
                )
            )
            traceparent = origin.untraced
        return items

    def _complain(self, reason: str, rows: int) -> None:
        now = time.monotonic()
        if now - self._complained > _LOG_SECONDS:
            self._complained = now
            _logger.warning(
                "rows wait for another try", problem_reason=reason, rows=rows, job_id=str(self._attempt.job.job_id)
            )


def _passes(error: RemoteProblem, failures: int) -> bool:
    """Whether another try may end better."""
    code = error.problem.code
    return code in _TIME_WILL_TELL or (code in _A_FEW_TIMES and failures < _TRIES)


def _definite(answer: command_pb2.CommandResult, failures: int) -> command_pb2.Executed | problem_pb2.Problem | None:
    """The outcome of a row; None when it is worth another try.

    Raises:
        JobImpossible: It would be the same for every row.
    """
    if answer.WhichOneof("outcome") == "executed":
        return answer.executed
    problem = answer.problem
    if problem.code in _TIME_WILL_TELL and not problem.reason.endswith("TOO_LARGE"):
        return None
    if problem.code in _A_FEW_TIMES and failures < _TRIES:
        return None
    if problem.code in _NOT_THE_ROWS_FAULT:
        raise JobImpossible(from_message(problem))
    return problem
