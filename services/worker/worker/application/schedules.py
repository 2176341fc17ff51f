"""Carrying out what is due: each schedule once, on behalf of who planned it, in the order in which they were due.

There is no lock between workers. Two that carry out the same schedule send the same command under the same id, and the
log takes one of them. What is refused is noted where people list schedules, and tried again later: a person may have
been given the right back, or the price may have come.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import grpc
import structlog
from almagest.catalog.v1 import command_pb2, schedules_pb2
from almagest.rpc.v1 import problem_pb2
from chassis.errors import ChassisError, RemoteProblem

from worker.application.execution import Catalog, Tokens
from worker.domain.identifiers import activation_command_id

_logger = structlog.stdlib.get_logger(__name__)

LIMIT: Final = 256
"""Schedules of one round: as many as one call of catalog-command takes."""
_REMEMBERED: Final = 10_000
_REMEMBERED_SECONDS: Final = 60.0
_PASSES: Final = frozenset(
    code.value[0]
    for code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.UNAUTHENTICATED,
    )
)
_NOT_DUE: Final = "SCHEDULE_NOT_DUE"
"""The other clock is behind ours: that passes as well."""


class Plans(Protocol):
    """The list of schedules."""

    async def due(self, limit: int) -> schedules_pb2.ListDueSchedulesResponse:
        """What is due, those due first first, and when to ask again."""
        ...

    async def refused(self, refusals: Sequence[schedules_pb2.RefusedSchedule]) -> None:
        """Note what could not be carried out."""
        ...


@dataclass(frozen=True, slots=True)
class Due:
    """What one look at the list showed.

    Attributes:
        schedules: what to carry out, in this order.
        next_at: when something else is due, or is to be tried again; None when nothing is.
        full: there may be more that is due already.
        held: how many schedules are kept by a refusal.
    """

    schedules: Sequence[schedules_pb2.Schedule]
    next_at: datetime | None
    full: bool
    held: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of what was due.

    Attributes:
        delays: for each schedule that ended, the seconds from its time to the answer of the log.
        refused: those that were refused, and why.
        waiting: how many are to be tried again soon, since what kept them passes.
    """

    delays: Sequence[float] = ()
    refused: Sequence[schedules_pb2.RefusedSchedule] = ()
    waiting: int = 0


class ActivateSchedules:
    """The use case. It remembers for a while what it carried out, since the list hears of that a moment later."""

    def __init__(
        self, *, plans: Plans, catalog: Catalog, tokens_of: Callable[[str, str], Tokens], call_seconds: float
    ) -> None:
        """Tokens are asked for by the user id of who planned something, and by the schedule's id."""
        self._plans = plans
        self._catalog = catalog
        self._tokens_of = tokens_of
        self._call_seconds = call_seconds
        self._done: OrderedDict[str, float] = OrderedDict()

    async def look(self) -> Due:
        """What is due.

        Raises:
            RemoteProblem, ChassisError: the list cannot be reached.
        """
        answer = await self._plans.due(LIMIT)
        self._forget()
        return Due(
            schedules=sorted((one for one in answer.schedules if one.schedule_id not in self._done), key=_order),
            next_at=answer.next_at.ToDatetime(UTC) if answer.HasField("next_at") else None,
            full=len(answer.schedules) >= LIMIT,
            held=answer.refused,
        )

    async def carry_out(self, due: Sequence[schedules_pb2.Schedule], traceparent: str = "") -> Outcome:
        """Let schedules take effect.

        Raises:
            RemoteProblem, ChassisError: the list or the catalog cannot be reached.
        """
        refusals: dict[str, problem_pb2.Problem] = {}
        tokens = await self._tokens(due, refusals)
        items = [
            command_pb2.CommandItem(
                command_id=activation_command_id(one.schedule_id),
                product_id=one.product_id,
                commands=[
                    command_pb2.ProductCommand(
                        activate_schedule=command_pb2.ActivateSchedule(schedule_id=one.schedule_id)
                    )
                ],
                transaction_token=tokens[one.scheduled_by],
                traceparent=traceparent,
                reason=one.reason,
            )
            for one in due
            if one.scheduled_by in tokens
        ]
        asked = [one for one in due if one.scheduled_by in tokens]
        delays: list[float] = []
        if items:
            results = await self._catalog.execute(items, timeout=self._call_seconds)
            now = time.time()
            for one, result in zip(asked, results, strict=True):
                if result.HasField("executed"):
                    self._done[one.schedule_id] = now
                    delays.append(max(now - one.effective_at.ToNanoseconds() / 1e9, 0.0))
                elif result.problem.code not in _PASSES and result.problem.reason != _NOT_DUE:
                    refusals[one.schedule_id] = result.problem
        reported = [
            schedules_pb2.RefusedSchedule(
                schedule_id=one.schedule_id, product_id=one.product_id, problem=refusals[one.schedule_id]
            )
            for one in due
            if one.schedule_id in refusals
        ]
        if reported:
            await self._plans.refused(reported)
        return Outcome(delays=delays, refused=reported, waiting=len(due) - len(delays) - len(reported))

    async def _tokens(
        self, due: Sequence[schedules_pb2.Schedule], refusals: dict[str, problem_pb2.Problem]
    ) -> dict[str, str]:
        """A token of each person, without those who may not do this any more: theirs is refused."""
        tokens: dict[str, str] = {}
        problems: dict[str, problem_pb2.Problem | None] = {}
        for one in due:
            person = one.scheduled_by
            if person not in tokens and person not in problems:
                try:
                    tokens[person] = await self._tokens_of(person, one.schedule_id).token()
                except RemoteProblem as error:
                    passes = error.problem.code in _PASSES
                    problems[person] = None if passes else error.problem
                except ChassisError as error:
                    _logger.warning("no token to carry out a schedule with", problem=error.reason)
                    problems[person] = None
            problem = problems.get(person)
            if problem is not None:
                refusals[one.schedule_id] = problem
        return tokens

    def _forget(self) -> None:
        """Forget what the list knows by now."""
        before = time.time() - _REMEMBERED_SECONDS
        while self._done:
            at = next(iter(self._done.values()))
            if len(self._done) <= _REMEMBERED and at > before:
                return
            self._done.popitem(last=False)


def _order(schedule: schedules_pb2.Schedule) -> tuple[int, bool, str]:
    """By time; of those due together the price first, since a publication may need it."""
    return schedule.effective_at.ToNanoseconds(), schedule.WhichOneof("change") != "price", schedule.schedule_id
