"""What happened to a product, from the log: who changed which fields, when and why.

The log is read backwards from where the page begins. What a field was before the page's oldest event is known as soon
as the event that set it was met, so a page costs the page and a little more, not the whole stream.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from almagest.eventstore.v1 import event_pb2

from catalog_query.domain import product
from catalog_query.domain.errors import ProductNotFound
from catalog_query.domain.product import Document, FieldChange


class Streams(Protocol):
    """The log, as far as one stream goes."""

    def backwards(
        self, stream: str, *, from_revision: int | None
    ) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        """The events from a revision (None: the last one) to the first, in pieces. May be left before the end. Empty
        when there is no such stream.
        """
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """An event and what it changed."""

    event: event_pb2.RecordedEvent
    reason: str
    fields: Sequence[FieldChange]


class HistoryReader:
    """Reads the history of products."""

    def __init__(self, streams: Streams, *, page_bytes: int) -> None:
        self._streams = streams
        self._page_bytes = page_bytes

    async def page(
        self, product_id: str, *, from_revision: int | None, size: int
    ) -> tuple[Sequence[Change], int | None]:
        """At most `size` changes, latest first, and the revision to go on from, None when there are no earlier ones.

        A page ends early when it grows beyond what one message should carry.

        Raises:
            ProductNotFound: there is no such product.
            PoisonousEvent: the history holds what this version cannot read.
        """
        events, context = await self._read(product_id, from_revision=from_revision, size=size)
        if not events:
            raise ProductNotFound(product_id)
        document: Document | None = None
        for event in reversed(context):
            document = product.apply(document, event)
        changes: list[Change] = []
        for event in reversed(events):
            after = product.apply(document, event)
            changes.append(Change(event, product.reason(event), list(product.changes(document, after))))
            document = after
        changes.reverse()
        oldest = events[-1].revision
        return changes, oldest - 1 if oldest else None

    async def _read(
        self, product_id: str, *, from_revision: int | None, size: int
    ) -> tuple[list[event_pb2.RecordedEvent], list[event_pb2.RecordedEvent]]:
        """The page's events, and those before it that say what its fields were, both latest first."""
        events: list[event_pb2.RecordedEvent] = []
        context: list[event_pb2.RecordedEvent] = []
        wanted = set(product.ALL_FACETS)
        read_bytes = 0
        async with aclosing(
            self._streams.backwards(product.stream_of(product_id), from_revision=from_revision)
        ) as pieces:
            async for piece in pieces:
                for event in piece:
                    if len(events) < size and (not events or read_bytes < self._page_bytes):
                        events.append(event)
                        # Twice: a change tells what was before as well.
                        read_bytes += 2 * len(event.payload)
                    elif wanted & product.facets(event):
                        context.append(event)
                        wanted -= product.facets(event)
                    if (len(events) >= size or read_bytes >= self._page_bytes) and not wanted:
                        return events, context
        return events, context
