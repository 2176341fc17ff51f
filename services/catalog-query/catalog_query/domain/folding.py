"""Folding with exceptions: what was seen already, and what an operator decided to leave out."""

from collections.abc import Set as AbstractSet
from typing import Final

from almagest.eventstore.v1 import event_pb2

from catalog_query.domain.errors import InapplicableEvent, PoisonousEvent
from catalog_query.domain.product import Document, evolve

NOTHING_SKIPPED: Final[AbstractSet[int]] = frozenset()


def fold(
    document: Document | None, event: event_pb2.RecordedEvent, skipped: AbstractSet[int] = NOTHING_SKIPPED
) -> Document | None:
    """The document after one more event.

    An event that the document has already changes nothing: one comes again when its bucket moves to another shard. An
    event that is left out gives its revision to the document and changes nothing else; when it would have been the
    first one, there is still no document.

    Raises:
        PoisonousEvent: it cannot be applied.
    """
    if document is not None and event.revision <= document["revision"]:
        return document
    if event.revision in skipped:
        return None if document is None else {**document, "revision": event.revision}
    try:
        return evolve(document, event)
    except PoisonousEvent:
        raise
    except Exception as error:
        raise InapplicableEvent(event, error) from error
