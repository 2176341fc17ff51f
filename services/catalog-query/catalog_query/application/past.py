"""One product in its past and planned future, from the log: its state at a moment, differences, where a value is from.

The log is read, not a read model: so the answers are as fresh as the log, and need no table. What a product was costs
the reading of its events.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol, cast

from almagest.eventstore.v1 import event_pb2

from catalog_query.application.history import Change, Streams
from catalog_query.application.shards import LogMap
from catalog_query.domain import product, timeline
from catalog_query.domain.errors import (
    FieldNotFound,
    FutureNotAllowed,
    MomentNotReached,
    ProductNotFound,
    ProductNotThere,
    RevisionNotFound,
)
from catalog_query.domain.product import Document, FieldChange
from catalog_query.domain.timeline import Step

UNDER_WAY: Final = timedelta(seconds=10)
"""Appends that were begun so long ago have ended: what is known of times before will not grow any more."""

_ALWAYS: Final[Sequence[str]] = ("price.amount", "price.currency")
"""Fields that a product without a price has not, but could have."""


class Log(Protocol):
    """The ends of the log, and the times in it."""

    async def shard_map(self) -> LogMap:
        """The last committed position of each shard."""
        ...

    async def recorded_at(self, *, shard: int, position: int) -> datetime:
        """When the event at a position, which must have been written, was recorded."""
        ...


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log."""

    shard: int
    position: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What to look back, or ahead, to. Nothing given: now."""

    time: datetime | None = None
    position: Position | None = None
    known_at: datetime | None = None

    @property
    def is_present(self) -> bool:
        """Whether it is simply now: the state that the log leads to."""
        return self.time is None and self.position is None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A moment with nothing left open; settled when the same two times will for ever be answered the same."""

    as_of: datetime
    known_at: datetime
    settled: bool


@dataclass(frozen=True, slots=True)
class State:
    """A product at a moment."""

    document: Document
    moment: Resolved
    seen: event_pb2.RecordedEvent
    """The last event of the product that was read, whether it took part or not."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two versions of a product, and the fields that differ."""

    from_revision: int
    to_revision: int
    fields: Sequence[FieldChange]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where the value of a field comes from."""

    value: object
    before: object
    set_by: Change | None
    scheduled_by: Change | None
    moment: Resolved
    revision: int


class Calendar:
    """Resolves moments."""

    def __init__(self, log: Log, *, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._clock = clock

    def now(self) -> datetime:
        """The present time."""
        return self._clock()

    def resolve(self, moment: Moment, *, preview: bool) -> Resolved:
        """The times that a moment without a position stands for.

        Args:
            moment: the moment.
            preview: whether the person may see what is scheduled for the future.

        Raises:
            MomentNotReached: `known_at` is in the future.
            FutureNotAllowed: the moment is, and the person may not.
        """
        now = self._clock()
        if moment.known_at is not None and moment.known_at > now:
            raise MomentNotReached("known_at", "must not be in the future: nobody knows yet what will be known then")
        as_of = now if moment.time is None else moment.time
        if as_of > now and not preview:
            raise FutureNotAllowed
        known_at = now if moment.known_at is None else moment.known_at
        return Resolved(as_of, known_at, settled=known_at <= now - UNDER_WAY)

    async def check(self, position: Position) -> None:
        """See that a position has been written.

        Raises:
            MomentNotReached: it has not.
        """
        heads = (await self._log.shard_map()).heads
        head = heads.get(position.shard)
        if head is None:
            known = ", ".join(str(shard) for shard in sorted(heads))
            raise MomentNotReached("as_of", f"names shard {position.shard}, and the log has the shards {known}")
        if position.position > head:
            raise MomentNotReached(
                "as_of",
                f"names position {position.position}, and the log of shard {position.shard} has come to {head}",
            )

    async def time_of(self, position: Position) -> Resolved:
        """The time at which a position was recorded: what was effective and known then.

        Raises:
            MomentNotReached: it has not been written.
        """
        await self.check(position)
        time = await self._log.recorded_at(shard=position.shard, position=position.position)
        return Resolved(time, time, settled=time <= self._clock() - UNDER_WAY)


class PastReader:
    """Reads the past of single products."""

    def __init__(self, streams: Streams, calendar: Calendar) -> None:
        self._streams = streams
        self._calendar = calendar

    async def state(self, product_id: str, moment: Moment, *, preview: bool) -> State:
        """The product at a moment.

        Raises:
            ProductNotFound: there is no such product.
            ProductNotThere: there was none then.
            MomentNotReached, FutureNotAllowed: see `Calendar`.
            PoisonousEvent: its events hold what this version cannot read.
        """
        history = await self._history(product_id)
        steps, resolved = await self._steps(history, moment, preview=preview)
        if not steps:
            raise _not_there(product_id, history)
        return State(steps[-1].document, resolved, history[-1])

    async def difference(
        self, product_id: str, *, before: Moment | int, after: Moment | int, preview: bool
    ) -> Difference:
        """The fields that differ between two versions, each given by its revision or by a moment.

        Raises:
            RevisionNotFound: the product has not come to a revision.
            ProductNotFound, ProductNotThere, MomentNotReached, FutureNotAllowed, PoisonousEvent: see `state`.
        """
        history = await self._history(product_id)
        old = await self._version(product_id, history, before, preview=preview)
        new = await self._version(product_id, history, after, preview=preview)
        return Difference(old["revision"], new["revision"], list(product.changes(old, new)))

    async def explanation(self, product_id: str, field: str, moment: Moment, *, preview: bool) -> Explanation:
        """The event that gave a field, or the fields below it, its value at a moment.

        Raises:
            FieldNotFound: there is no such field.
            ProductNotFound, ProductNotThere, MomentNotReached, FutureNotAllowed, PoisonousEvent: see `state`.
        """
        history = await self._history(product_id)
        steps, resolved = await self._steps(history, moment, preview=preview)
        if not steps:
            raise _not_there(product_id, history)
        known: set[str] = set(_ALWAYS)
        value: object = None
        set_by: Change | None = None
        replaced: object = None
        document: Document | None = None
        for step in steps:
            fields = product.fields(step.document)
            known.update(fields)
            new = _value(fields, field)
            if new != value:
                replaced, value = value, new
                changed = list(product.changes(document, step.document))
                set_by = Change(step.event, product.reason(step.event), changed)
            document = step.document
        if not any(path == field or path.startswith(field + ".") for path in known):
            raise FieldNotFound(field, sorted(known - {"price"}))
        return Explanation(
            value, replaced, set_by, _scheduled_by(history, set_by), resolved, steps[-1].document["revision"]
        )

    async def _version(
        self, product_id: str, history: Sequence[event_pb2.RecordedEvent], version: Moment | int, *, preview: bool
    ) -> Document:
        if isinstance(version, int):
            if version > history[-1].revision:
                raise RevisionNotFound(product_id, revision=version, last=history[-1].revision)
            return _folded(history[: version + 1])[-1].document
        steps, _ = await self._steps(history, version, preview=preview)
        if not steps:
            raise _not_there(product_id, history)
        return steps[-1].document

    async def _history(self, product_id: str) -> Sequence[event_pb2.RecordedEvent]:
        history: list[event_pb2.RecordedEvent] = []
        async with aclosing(self._streams.backwards(product.stream_of(product_id), from_revision=None)) as pieces:
            async for piece in pieces:
                history.extend(piece)
        if not history:
            raise ProductNotFound(product_id)
        history.reverse()
        return history

    async def _steps(
        self, history: Sequence[event_pb2.RecordedEvent], moment: Moment, *, preview: bool
    ) -> tuple[Sequence[Step], Resolved]:
        """What took part in the state at a moment; nothing when the product was not there."""
        if moment.position is not None:
            await self._calendar.check(moment.position)
            written = _written_by(history, moment.position)
            steps = _folded(written)
            time = timeline.recorded((written or history)[-1 if written else 0])
            return steps, Resolved(time, time, settled=True)
        resolved = self._calendar.resolve(moment, preview=preview)
        known = [event for event in history if timeline.recorded(event) <= resolved.known_at]
        if moment.is_present:
            return _folded(history if moment.known_at is None else known), resolved
        return list(timeline.steps(known if moment.known_at else history, resolved.as_of)), resolved


def _folded(history: Iterable[event_pb2.RecordedEvent]) -> Sequence[Step]:
    """The fold of the read model, step by step."""
    steps: list[Step] = []
    document: Document | None = None
    for event in history:
        document = product.evolve(document, event)
        steps.append(Step(event, document))
    return steps


def _written_by(history: Sequence[event_pb2.RecordedEvent], position: Position) -> Sequence[event_pb2.RecordedEvent]:
    """The events that a shard held at a position. A product that moved has events that another shard held first."""
    places = [(event, place) for event in history for place in _places(event) if place.shard == position.shard]
    if not places:
        shards = sorted({place.shard for event in history for place in _places(event)})
        names = " and ".join(str(shard) for shard in shards)
        raise MomentNotReached("as_of", f"names shard {position.shard}, and this product is in shard {names}")
    return list({event.revision: event for event, place in places if place.position <= position.position}.values())


def _places(event: event_pb2.RecordedEvent) -> Sequence[Position]:
    here = Position(event.shard, event.position)
    if not event.HasField("original"):
        return (here,)
    return (here, Position(event.original.shard, event.original.position))


def _not_there(product_id: str, history: Sequence[event_pb2.RecordedEvent]) -> ProductNotThere:
    created = history[0]
    return ProductNotThere(
        product_id, created_at=product.instant(created), shard=created.shard, position=created.position
    )


def _value(fields: Mapping[str, object], path: str) -> object:
    """The value of a field; that of the fields below a path as an object, by the rest of their paths."""
    if path in fields:
        return fields[path]
    below = {name[len(path) + 1 :]: value for name, value in fields.items() if name.startswith(path + ".")}
    return below or None


def _scheduled_by(history: Sequence[event_pb2.RecordedEvent], set_by: Change | None) -> Change | None:
    if set_by is None:
        return None
    schedule_id = timeline.told(set_by.event).schedule_id
    event = timeline.scheduling(history, schedule_id) if schedule_id else None
    if event is None or event.revision == set_by.event.revision:
        return None
    return Change(event, product.reason(event), cast("Sequence[FieldChange]", ()))
