"""What the append loop does, as metrics for all and as spans for those whose trace is recorded."""

import time
from collections.abc import Sequence

import structlog
from chassis.telemetry.tracing import context_from, record_span
from opentelemetry.trace import SpanKind

from event_store import metrics
from event_store.application.append_loop import Answer, Ticket
from event_store.domain.append import Appended
from event_store.domain.errors import LogError

_SAMPLED_LENGTH = 55
_logger = structlog.stdlib.get_logger(__name__)


class Telemetry:
    """Observes the append loops, the tails and the heads of all shards."""

    def __init__(self, shards: int) -> None:
        names = [str(shard) for shard in range(shards)]
        self._sizes = [metrics.BATCH_APPENDS.labels(name) for name in names]
        self._seconds = [metrics.BATCH_SECONDS.labels(name) for name in names]
        self._events = [metrics.EVENTS.labels(name) for name in names]
        self._queued = [metrics.QUEUED.labels(name) for name in names]
        self._heads = [metrics.HEAD.labels(name) for name in names]
        self._windows = [metrics.TAIL_BYTES.labels(name) for name in names]
        self._catch_up_pages = [metrics.CATCH_UP_PAGES.labels(name) for name in names]
        for gauge in (*self._queued, *self._heads, *self._windows):
            gauge.set(0)
        self._written = [metrics.APPENDS.labels(name, "appended") for name in names]

    def queued(self, shard: int, appends: int) -> None:
        """So many appends wait."""
        self._queued[shard].set(appends)

    def head(self, shard: int, position: int) -> None:
        """A shard has got so far."""
        self._heads[shard].set(position)

    def window(self, shard: int, held: int) -> None:
        """The window of a shard's tail holds so many bytes."""
        self._windows[shard].set(held)

    def caught_up(self, shard: int) -> None:
        """A page was read from the database for one subscriber alone."""
        self._catch_up_pages[shard].inc()

    def move_advanced(self, working: bool) -> None:  # noqa: FBT001 - as the mover tells it
        """The move that is worked on here got further, or there is none any more."""
        metrics.MOVE_PROGRESS.set(time.time() if working else 0)

    def cannot_be_asked(self, shard: int) -> None:
        """A shard did not answer its tail."""
        _logger.warning("a shard cannot be asked for its head", shard=shard)

    def batch(
        self, shard: int, tickets: Sequence[Ticket], answers: Sequence[Answer], began_ns: int, ended_ns: int
    ) -> None:
        """Count a transaction, and record it in the trace of each append that has one."""
        self._sizes[shard].observe(len(tickets))
        self._seconds[shard].observe((ended_ns - began_ns) / 1e9)
        events = written = 0
        for ticket, answer in zip(tickets, answers, strict=True):
            if isinstance(answer, Appended) and not answer.replayed:
                written += 1
                events += len(ticket.append.events)
            else:
                metrics.APPENDS.labels(str(shard), _outcome(answer)).inc()
            traceparent = ticket.append.traceparent
            if _is_sampled(traceparent):
                _record(shard, ticket, answer, len(tickets), began_ns, ended_ns)
        self._written[shard].inc(written)
        self._events[shard].inc(events)


def _outcome(answer: Answer) -> str:
    if isinstance(answer, Appended):
        return "replayed"
    return type(answer).__name__ if isinstance(answer, LogError) else "failed"


def _is_sampled(traceparent: str) -> bool:
    """A glance that spares the unsampled the parsing: the last digit of the flags is odd."""
    return len(traceparent) >= _SAMPLED_LENGTH and traceparent[_SAMPLED_LENGTH - 1] in "13579bdf"


def _record(shard: int, ticket: Ticket, answer: Answer, batch: int, began_ns: int, ended_ns: int) -> None:
    append = ticket.append
    outcome = "appended" if isinstance(answer, Appended) and not answer.replayed else _outcome(answer)
    span = record_span(
        f"append {append.stream}",
        parent=context_from(append.traceparent),
        start_ns=ticket.queued_ns,
        end_ns=ended_ns,
        attributes={
            "almagest.stream": append.stream,
            "almagest.shard": shard,
            "almagest.events": len(append.events),
            "almagest.outcome": outcome,
            "almagest.queued_ms": (began_ns - ticket.queued_ns) / 1e6,
        },
        error=None if isinstance(answer, Appended) else outcome,
    )
    record_span(
        "append_batch",
        parent=context_from(span),
        start_ns=began_ns,
        end_ns=ended_ns,
        kind=SpanKind.CLIENT,
        attributes={
            "db.system": "postgresql",
            "db.namespace": f"events_{shard}",
            "db.operation.name": "append_batch",
            "db.operation.batch.size": batch,
        },
    )
