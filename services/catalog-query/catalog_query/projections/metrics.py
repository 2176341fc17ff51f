"""How far the projections are, for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

from catalog_query.domain.errors import CatalogQueryError
from catalog_query.domain.projection import Target
from catalog_query.projections.state import ProjectorState

_GENERATION = ("projection", "generation")
_PAIR = (*_GENERATION, "event_shard", "read_shard")
_checkpoint = Gauge("almagest_projection_checkpoint", "The position up to which the log is applied.", _PAIR)
_head = Gauge("almagest_projection_head", "The last committed position of the log that is known.", _PAIR)
_lag_events = Gauge("almagest_projection_lag_events", "How many positions the read model is behind.", _PAIR)
_lag_seconds = Gauge("almagest_projection_lag_seconds", "The age of the oldest event that is not applied.", _PAIR)
_running = Gauge("almagest_projection_running", "1 where this process projects.", _PAIR)
_stopped = Gauge("almagest_projection_stopped", "1 where an error keeps the projection from going on.", _PAIR)
_applied = Counter("almagest_projection_events_total", "Events applied by this process.", _PAIR)
_parked = Counter("almagest_projection_parked_total", "Events parked by this process.", _PAIR)
_failures = Counter("almagest_projection_failures_total", "Batches that were not applied, by cause.", (*_PAIR, "cause"))
_seconds = Histogram("almagest_projection_batch_seconds", "How long batches took to apply.", _PAIR)
_events = Histogram(
    "almagest_projection_batch_events",
    "Events per batch.",
    _PAIR,
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
)


_held = Gauge(
    "almagest_projection_held_streams", "Streams that stand still behind a parked event.", (*_GENERATION, "read_shard")
)


def show_held(target: Target, read_shard: int, streams: int) -> None:
    """How many streams a generation does not go on with."""
    _held.labels(target.projection, str(target.generation), str(read_shard)).set(streams)


class ProjectorMetrics:
    """The metrics of one projector."""

    def __init__(self, target: Target, event_shard: int, read_shard: int) -> None:
        self._pair = (target.projection, str(target.generation), str(event_shard), str(read_shard))
        self._applied = _applied.labels(*self._pair)
        self._parked = _parked.labels(*self._pair)
        self._seconds = _seconds.labels(*self._pair)
        self._events = _events.labels(*self._pair)
        self._gauges = [
            gauge.labels(*self._pair) for gauge in (_checkpoint, _head, _lag_events, _lag_seconds, _running, _stopped)
        ]

    def applied(self, events: int, seconds: float) -> None:
        """A batch was applied."""
        self._applied.inc(events)
        self._events.observe(events)
        self._seconds.observe(seconds)

    def parked(self, events: int) -> None:
        """Events could not be."""
        self._parked.inc(events)

    def failed(self, error: Exception) -> None:
        """A batch was not."""
        cause = type(error).__name__ if isinstance(error, CatalogQueryError) else "other"
        _failures.labels(*self._pair, cause).inc()

    def show(self, state: ProjectorState) -> None:
        """Where the projector is."""
        values = (state.checkpoint, state.head, state.behind, state.seconds, state.running, bool(state.error))
        for gauge, value in zip(self._gauges, values, strict=True):
            gauge.set(value)

    def forget(self) -> None:
        """The generation is gone: its gauges say nothing more."""
        for gauge in (_checkpoint, _head, _lag_events, _lag_seconds, _running, _stopped):
            gauge.remove(*self._pair)
