"""What a batch is while some streams are held: an event that cannot be applied is parked, and what comes behind it in
its stream is only counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from almagest.eventstore.v1 import event_pb2

from catalog_query.domain.errors import PoisonousEvent
from catalog_query.domain.projection import Exceptions, Hold


@dataclass(slots=True)
class Held:
    """How many events of a stream are held behind its parked one, and the last of them."""

    events: int = 0
    last: int = -1


@dataclass(slots=True)
class Batch:
    """A batch, sorted into what is applied and what is held."""

    applicable: list[event_pb2.RecordedEvent] = field(default_factory=list[event_pb2.RecordedEvent])
    held: dict[str, Held] = field(default_factory=dict[str, Held])

    @classmethod
    def of(cls, events: Sequence[event_pb2.RecordedEvent], held: Mapping[str, Hold]) -> "Batch":
        """Set aside the events of streams that are held. Those that were counted before count no more."""
        if not held:
            return cls(list(events))
        batch = cls()
        for event in events:
            hold = held.get(event.stream)
            if hold is None:
                batch.applicable.append(event)
            elif event.revision > hold.last_revision:
                batch._hold(event)
        return batch

    def hold_behind(self, poisons: Sequence[PoisonousEvent]) -> None:
        """Count what comes in the same batch after an event that cannot be applied."""
        if poisons:
            parked = {poison.event.stream: poison.event.revision for poison in poisons}
            for event in self.applicable:
                if event.revision > parked.get(event.stream, event.revision):
                    self._hold(event)

    def _hold(self, event: event_pb2.RecordedEvent) -> None:
        held = self.held.setdefault(event.stream, Held())
        if event.revision > held.last:
            held.events, held.last = held.events + 1, event.revision


def with_holds(known: Exceptions, parked: Mapping[str, Hold], held: Mapping[str, Held]) -> Exceptions:
    """The exceptions after a batch was written."""
    now = {**known.held, **parked}
    for stream, more in held.items():
        hold = now[stream]
        now[stream] = Hold(hold.parked_id, hold.event_shard, hold.position, hold.revision, more.last)
    return Exceptions(now, known.skipped)
