"""Looks for schedules that are due, for ever: when the next one is, and at least every so often, since plans are made
all the time.
"""

import asyncio
import time

import structlog
from chassis.errors import ChassisError, RemoteProblem
from chassis.telemetry.tracing import inject, tracer
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from worker.application.attempts import backoff
from worker.application.schedules import ActivateSchedules, Outcome
from worker.entrypoints import metrics

_logger = structlog.stdlib.get_logger(__name__)

_SHORTEST_PAUSE = 0.02
_PASSES_SOON = 0.25


class Clockwork:
    """Carries out what is due, when it is due."""

    def __init__(self, activate: ActivateSchedules, *, poll: float) -> None:
        """Looks at the list at least every `poll` seconds."""
        self._activate = activate
        self._poll = poll

    async def run(self) -> None:
        """Look and carry out, for ever."""
        failures = 0
        while True:
            try:
                pause = await self._round()
                failures = 0
            except (ChassisError, RemoteProblem) as error:
                failures += 1
                if failures == 1:
                    _logger.warning("schedules are not carried out", problem=error.reason)
                pause = backoff(failures)
            await asyncio.sleep(pause)

    async def _round(self) -> float:
        """Look once, and carry out what is due. Answers the seconds until the next look."""
        due = await self._activate.look()
        metrics.schedules_held.set(due.held)
        outcome = Outcome()
        if due.schedules:
            with tracer().start_as_current_span(
                "carry out schedules", context=Context(), kind=SpanKind.CONSUMER
            ) as span:
                outcome = await self._activate.carry_out(due.schedules, inject())
                span.set_attributes({"schedules.done": len(outcome.delays), "schedules.refused": len(outcome.refused)})
            _tell(outcome)
        if due.full and outcome.delays:
            return 0.0
        if outcome.waiting:
            return min(_PASSES_SOON, self._poll)
        if due.next_at is None:
            return self._poll
        return min(max(due.next_at.timestamp() - time.time(), _SHORTEST_PAUSE), self._poll)


def _tell(outcome: Outcome) -> None:
    for delay in outcome.delays:
        metrics.schedules.labels("done").inc()
        metrics.schedule_delay.observe(delay)
    for refused in outcome.refused:
        metrics.schedules.labels("refused").inc()
        _logger.warning(
            "a schedule could not be carried out", schedule_id=refused.schedule_id, problem=refused.problem.reason
        )
