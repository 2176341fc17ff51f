"""What an event changed: the product before and after it.

An event says only what is new, so the product is folded up to it. States are remembered for the products that were seen
last; what is missing is read from the log, many products in one call. The read model is of no use here: it may be ahead
of the event, and then knows nothing of how the product was.
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

import orjson
from almagest.catalog.v1 import changes_pb2, query_pb2
from almagest.eventstore.v1 import event_pb2

from catalog_query.application.changes.tokens import consistency_token, trace_id
from catalog_query.domain import product
from catalog_query.domain.errors import PoisonousEvent
from catalog_query.domain.product import Document

AT_ONCE: Final = 100
"""Products whose pasts are read in one call."""

SCHEDULES: Final = frozenset({"PriceScheduled", "PublicationScheduled", "ScheduleCancelled", "ScheduleFailed"})
"""What is only planned: for those who may plan."""


class Streams(Protocol):
    """The log, as far as the pasts of products go."""

    async def slices(self, wanted: Mapping[str, int]) -> Mapping[str, Sequence[event_pb2.RecordedEvent]] | None:
        """Streams, each from a revision on; None when they hold more than one answer may."""
        ...

    def stream(
        self, stream: str, *, from_revision: int, events: int
    ) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        """So many events of a stream from a revision on, in pieces."""
        ...


@dataclass(frozen=True, slots=True)
class Interest:
    """Which changes a reader wants: every condition that is not empty must hold."""

    kinds: frozenset[str] = frozenset()
    categories: tuple[str, ...] = ()
    types: frozenset[str] = frozenset()
    schedules: bool = False
    """Whether the reader may see what is only planned."""


@dataclass(frozen=True, slots=True)
class Described:
    """A change ready to be told, and what decides whether it is wanted."""

    position: int
    kinds: tuple[str, ...]
    """Empty when it is not known."""
    categories: tuple[str, ...]
    """Before and after: who follows a category must hear of a product that leaves it. Empty when they are not known."""
    message: changes_pb2.CatalogChange
    size: int

    def wanted(self, interest: Interest) -> bool:
        """Whether a reader wants it. Where a kind or category is not known, it is told rather than missed."""
        name = self.message.type
        if name in SCHEDULES and not interest.schedules:
            return False
        if interest.types and name not in interest.types:
            return False
        if interest.kinds and self.kinds and interest.kinds.isdisjoint(self.kinds):
            return False
        if interest.categories and self.categories:
            return any(_within(category, wide) for category in self.categories for wide in interest.categories)
        return True


def _within(category: str, wide: str) -> bool:
    return category == wide or category.startswith(wide + "/")


@dataclass(frozen=True, slots=True)
class _Known:
    """A product up to a revision; no document when what there is of it cannot be read."""

    revision: int
    document: Document | None


_UNBORN: Final = _Known(-1, None)


class Describer:
    """Describes the events of one reader of the log, in the order of their positions. Remembers `capacity` products."""

    def __init__(self, streams: Streams, *, capacity: int) -> None:
        self._streams = streams
        self._capacity = capacity
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def describe(self, events: Sequence[event_pb2.RecordedEvent], *, epoch: int) -> list[Described]:
        """What the events changed. An event that was described before is left out: it came twice.

        Raises:
            RemoteProblem: the log cannot be asked.
        """
        described: list[Described] = []
        rest = iter(events)
        while some := list(islice(rest, AT_ONCE)):
            pasts = await self._pasts(some)
            for event in some:
                one = await self._describe(event, pasts, epoch=epoch)
                if one is not None:
                    described.append(one)
        return described

    async def _describe(
        self,
        event: event_pb2.RecordedEvent,
        pasts: Mapping[str, Mapping[int, event_pb2.RecordedEvent]],
        *,
        epoch: int,
    ) -> Described | None:
        known = self._known.get(event.stream, _UNBORN)
        if event.revision <= known.revision:
            return None
        if event.revision > known.revision + 1:
            known = await self._caught_up(known, event, pasts.get(event.stream, {}))
        after, readable = _applied(known.document, event)
        # A past that is not there any more is a past that cannot be told.
        readable = readable and known.revision == event.revision - 1
        self._known[event.stream] = _Known(event.revision, after)
        self._known.move_to_end(event.stream)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return _described(event, known.document, after, readable=readable, epoch=epoch)

    async def _pasts(
        self, events: Sequence[event_pb2.RecordedEvent]
    ) -> Mapping[str, Mapping[int, event_pb2.RecordedEvent]]:
        """What must be read to describe the events, as far as it fits into a few answers."""
        reached: dict[str, int] = {}
        missing: dict[str, int] = {}
        for event in events:
            at = reached.get(event.stream)
            if at is None:
                at = self._known.get(event.stream, _UNBORN).revision
            if event.revision > at + 1:
                missing.setdefault(event.stream, at + 1)
            reached[event.stream] = max(at, event.revision)
        return {
            stream: {event.revision: event for event in past} for stream, past in (await self._read(missing)).items()
        }

    async def _read(self, missing: Mapping[str, int]) -> Mapping[str, Sequence[event_pb2.RecordedEvent]]:
        if not missing:
            return {}
        found = await self._streams.slices(missing)
        if found is not None:
            return found
        if len(missing) == 1:
            # Too long for one answer: it is read piece by piece when it is needed.
            return {}
        items = list(missing.items())
        half = len(items) // 2
        return {**await self._read(dict(items[:half])), **await self._read(dict(items[half:]))}

    async def _caught_up(
        self, known: _Known, event: event_pb2.RecordedEvent, past: Mapping[int, event_pb2.RecordedEvent]
    ) -> _Known:
        """The product just before an event, as far as the log still has it."""
        while (one := past.get(known.revision + 1)) is not None and one.revision < event.revision:
            known = _Known(one.revision, _applied(known.document, one)[0])
        lacking = event.revision - known.revision - 1
        if lacking > 0:
            pieces = self._streams.stream(event.stream, from_revision=known.revision + 1, events=lacking)
            async with aclosing(pieces):
                async for piece in pieces:
                    for one in piece:
                        known = _Known(one.revision, _applied(known.document, one)[0])
        return known


def _applied(document: Document | None, event: event_pb2.RecordedEvent) -> tuple[Document | None, bool]:
    """The product after an event, and whether the event could be read."""
    try:
        return product.apply(document, event), True
    except PoisonousEvent:
        return document, False


def _described(
    event: event_pb2.RecordedEvent, before: Document | None, after: Document | None, *, readable: bool, epoch: int
) -> Described:
    sides = tuple(side for side in (before, after) if side is not None)
    metadata = event.metadata
    message = changes_pb2.CatalogChange(
        product_id=product.product_id_of(event.stream),
        sku=sides[-1]["sku"] if sides else "",
        revision=event.revision,
        type=event.type.rpartition(".")[2],
        kind=sides[-1]["kind"] if sides else "",
        category=sides[-1]["category"] if sides else "",
        recorded_at=event.recorded_at,
        actor=metadata.actor,
        trace_id=trace_id(metadata.traceparent),
        job_id=metadata.job_id,
        import_line=metadata.import_line,
        consistency_token=consistency_token(event, epoch=epoch),
        unreadable=not readable,
    )
    if readable and after is not None:
        message.reason = product.reason(event)
        message.fields.extend(
            query_pb2.FieldChange(
                field=field.field,
                before=orjson.dumps(field.before).decode(),
                after=orjson.dumps(field.after).decode(),
            )
            for field in product.changes(before, after)
        )
    return Described(
        position=event.position,
        kinds=tuple(dict.fromkeys(side["kind"] for side in sides)) if readable else (),
        categories=tuple(dict.fromkeys(side["category"] for side in sides)) if readable else (),
        message=message,
        size=message.ByteSize(),
    )
