"""What happened to a product, from the log: who changed which fields, when and why.

The log is read backwards from where the page begins. What a field was before the page's oldest event is known as soon
as the event that set it was met, so a page costs the page and a little more, not the whole stream.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from almagest.eventstore.v1 import event_pb2

from catalog_query.domain import product
from catalog_query.domain.errors import ProductNotFound
from catalog_query.domain.product import Document, FieldChange
from catalog_query.domain.timeline import recorded


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
        self,
        product_id: str,
        *,
        from_revision: int | None,
        size: int,
        recorded_from: datetime | None = None,
        recorded_to: datetime | None = None,
    ) -> tuple[Sequence[Change], int | None]:
        """At most `size` changes, latest first, and the revision to go on from, None when there are no earlier ones.

        A page ends early when it grows beyond what one message should carry.

        Args:
            product_id: the product.
            from_revision: the latest revision of the page, None: the last one.
            size: how many changes at most.
            recorded_from: only what was recorded then or later.
            recorded_to: only what was recorded then or before.

        Raises:
            ProductNotFound: there is no such product.
            PoisonousEvent: the history holds what this version cannot read.
        """
        pages = _Page(size, self._page_bytes, recorded_from, recorded_to)
        async with aclosing(
            self._streams.backwards(product.stream_of(product_id), from_revision=from_revision)
        ) as pieces:
            async for piece in pieces:
                if not all(pages.take(event) for event in piece):
                    break
        if not pages.exists:
            raise ProductNotFound(product_id)
        document: Document | None = None
        for event in reversed(pages.context):
            document = product.apply(document, event)
        changes: list[Change] = []
        for event in reversed(pages.events):
            after = product.apply(document, event)
            changes.append(Change(event, product.reason(event), list(product.changes(document, after))))
            document = after
        changes.reverse()
        return changes, pages.events[-1].revision - 1 if pages.more else None


class _Page:
    """Collects, latest first, the events of a page, and those before it that say what its fields were."""

    def __init__(
        self, size: int, page_bytes: int, recorded_from: datetime | None, recorded_to: datetime | None
    ) -> None:
        self.events: list[event_pb2.RecordedEvent] = []
        self.context: list[event_pb2.RecordedEvent] = []
        self.exists = False
        self.more = False
        self._size = size
        self._page_bytes = page_bytes
        self._from = recorded_from
        self._to = recorded_to
        self._wanted = set(product.ALL_FACETS)
        self._read_bytes = 0

    def take(self, event: event_pb2.RecordedEvent) -> bool:
        """Look at the next earlier event. Answers whether others are needed."""
        self.exists = True
        if self._to is not None and recorded(event) > self._to:
            return True
        is_before = self._from is not None and recorded(event) < self._from
        is_full = len(self.events) >= self._size or (bool(self.events) and self._read_bytes >= self._page_bytes)
        if not is_before and not is_full:
            self.events.append(event)
            # Twice: a change tells what was before as well.
            self._read_bytes += 2 * len(event.payload)
            return True
        self.more = self.more or not is_before
        told = product.facets(event)
        if self._wanted & told:
            self.context.append(event)
            self._wanted -= told
        return bool(self.events and self._wanted)
