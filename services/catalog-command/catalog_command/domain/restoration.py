"""What a product was at an earlier revision, as far as it can be brought back."""

from collections.abc import Sequence
from dataclasses import dataclass

from almagest.catalog.events.v1 import product_events_pb2 as events
from catalog_events import Event

from catalog_command.domain.errors import RevisionNotFound
from catalog_command.domain.money import Money


@dataclass(frozen=True, slots=True)
class Earlier:
    """The description, the price and the publication of then. What was planned then is not among it: plans are made for
    a time, not for a state.
    """

    description: events.Description
    price: Money | None
    published: bool


def earlier(history: Sequence[Event], revision: int) -> Earlier:
    """What a product was after the event with a revision.

    Args:
        history: its events from revision 0 on.
        revision: which of them.

    Raises:
        RevisionNotFound: there is no such event, or what was before it is not there any more.
    """
    if revision >= len(history) or not isinstance(history[0], events.ProductCreated):
        raise RevisionNotFound(revision)
    description, price, published = history[0].description, None, False
    for event in history[: revision + 1]:
        match event:
            case events.ProductDescribed():
                description = event.description
            case events.PriceSet():
                price = Money(event.price.amount, event.price.currency)
            case events.PriceCorrected() if not event.HasField("effective_until"):
                price = Money(event.price.amount, event.price.currency)
            case events.PriceRemoved():
                price = None
            case events.ProductPublished() | events.ProductUnpublished():
                published = isinstance(event, events.ProductPublished)
            case _:
                pass
    return Earlier(description, price, published)
