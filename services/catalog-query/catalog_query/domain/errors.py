"""What can be wrong with a read, or with the log that the read side follows."""

from collections.abc import Sequence

from almagest.eventstore.v1 import event_pb2

from catalog_query.domain.projection import Target


class CatalogQueryError(Exception):
    """Anything that this service refuses or cannot do by itself."""


class ProductNotFound(CatalogQueryError):
    """There is no product with this id, as far as this answer's position tells."""

    def __init__(self, product_id: str) -> None:
        super().__init__(f"There is no product {product_id}.")
        self.product_id = product_id


class ProductNotThere(CatalogQueryError):
    """There is such a product, but not at the moment that was asked for."""

    def __init__(self, product_id: str, *, created_at: str, shard: int, position: int) -> None:
        super().__init__(
            f"Product {product_id} was not there then. It came into being at {created_at}"
            f" (position {position} of shard {shard}), and nothing was known of it before."
        )
        self.product_id = product_id
        self.created_at = created_at
        self.shard = shard
        self.position = position


class RevisionNotFound(CatalogQueryError):
    """The product has not come to this revision."""

    def __init__(self, product_id: str, *, revision: int, last: int) -> None:
        super().__init__(f"There is no revision {revision} of product {product_id}; the last one is {last}.")
        self.product_id = product_id
        self.last = last


class FieldNotFound(CatalogQueryError):
    """The product has no such field. The error names those that it has."""

    def __init__(self, field: str, fields: Sequence[str]) -> None:
        super().__init__(f"must be one of {', '.join(fields)}")
        self.field = field


class MomentNotReached(CatalogQueryError):
    """What was asked for depends on what nobody knows yet: which part of the moment, and why."""

    def __init__(self, part: str, what: str) -> None:
        super().__init__(what)
        self.part = part


class FutureNotAllowed(CatalogQueryError):
    """A moment in the future shows what is scheduled."""

    def __init__(self) -> None:
        super().__init__(
            "A moment in the future shows what is scheduled, which is for those who may change the catalog: it needs "
            "the scope catalog:write."
        )


class NotYetVisible(CatalogQueryError):
    """The write that a consistency token stands for was not visible before the time was up."""

    def __init__(self, *, shard: int, wanted: int, position: int) -> None:
        super().__init__("What you wrote is not visible yet. Ask again in a moment, or without the consistency token.")
        self.shard = shard
        self.wanted = wanted
        self.position = position


class StreamHeld(CatalogQueryError):
    """What is asked for is held behind an event that the projection could not apply."""

    def __init__(self, product_id: str, *, revision: int) -> None:
        super().__init__(
            f"The product {product_id} is held before its revision {revision}, which could not be applied: what was"
            " written since is not shown. An operator can see why."
        )
        self.product_id = product_id
        self.revision = revision


class PoisonousEvent(CatalogQueryError):
    """An event that cannot be applied. It names the place in the log, never what the event holds."""

    def __init__(self, event: event_pb2.RecordedEvent, what: str) -> None:
        super().__init__(
            f"{what}: event {event.revision} of {event.stream}, position {event.position} of shard {event.shard}"
        )
        self.event = event
        self.what = what


class RevisionGap(PoisonousEvent):
    """The event is not the next one of its stream."""

    def __init__(self, event: event_pb2.RecordedEvent, *, expected: int) -> None:
        super().__init__(event, f"revision {expected} was expected")
        self.expected = expected


class UnknownEvent(PoisonousEvent):
    """The event's type is newer than this version, or no product's."""

    def __init__(self, event: event_pb2.RecordedEvent) -> None:
        super().__init__(event, f"unknown event type {event.type}")


class UnreadableEvent(PoisonousEvent):
    """The event's payload does not hold what its type says."""

    def __init__(self, event: event_pb2.RecordedEvent) -> None:
        super().__init__(event, f"unreadable {event.type}")


class InapplicableEvent(PoisonousEvent):
    """The event, or what it makes of its row, breaks this version."""

    def __init__(self, event: event_pb2.RecordedEvent, cause: BaseException) -> None:
        # The text of an exception that nobody expects may hold anything; it goes to the log only.
        super().__init__(event, f"{type(cause).__name__} while applying {event.type}")


class CheckpointMoved(CatalogQueryError):
    """Somebody else moved the checkpoint, or holds it: what was about to be written must be thrown away and read
    again.
    """

    def __init__(self, *, event_shard: int, position: int) -> None:
        super().__init__(
            f"the checkpoint of shard {event_shard} of the log is not ours at position {position} any more"
        )


class ReadModelDiverged(CatalogQueryError):
    """A row is not at the revision that was folded upon: another pair of shards wrote it meanwhile, as happens when a
    bucket has just moved, or somebody else writes this table.
    """

    def __init__(self) -> None:
        super().__init__("a row is not what was folded upon")


class UnwritableRows(CatalogQueryError):
    """The database does not take what an event of the batch says."""

    def __init__(self, *, event_shard: int, after: int, last: int) -> None:
        super().__init__(f"the database refuses a row: positions {after + 1} to {last} of shard {event_shard}")


class ExceptionsMoved(CatalogQueryError):
    """A stream was parked, or let go, by somebody else meanwhile: what was prepared must be prepared again."""

    def __init__(self) -> None:
        super().__init__("what is held is not what it was")


class BadPageToken(CatalogQueryError):
    """The page token is not one that this question was answered with."""

    def __init__(self) -> None:
        super().__init__("This page token was not given for this question. Ask for the first page again.")


class BadCursor(CatalogQueryError):
    """The cursor is none that the change feed gave."""

    def __init__(self) -> None:
        super().__init__("is no cursor of the change feed; begin anew with `start` or `now`")


class CursorOfAnotherLog(CatalogQueryError):
    """The cursor belongs to another log, or to this one before it was set back: what came after it is not known."""

    def __init__(self) -> None:
        super().__init__(
            "This cursor belongs to another log, or to this one before it was set back. Begin anew: `after=start` for "
            "everything, `after=now` for what is to come."
        )


class UnknownProjection(CatalogQueryError):
    """There is no projection of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no projection {name}.")
        self.name = name


class UnknownGeneration(CatalogQueryError):
    """There is no such generation."""

    def __init__(self, target: Target) -> None:
        super().__init__(f"There is no generation {target.generation} of {target.projection}.")
        self.target = target


class UnknownParkedEvent(CatalogQueryError):
    """Nothing is parked under this id, or not any more."""

    def __init__(self, parked_id: str) -> None:
        super().__init__(f"Nothing is parked as {parked_id}.")
        self.parked_id = parked_id


class GenerationNotReady(CatalogQueryError):
    """The generation cannot be read yet."""

    def __init__(self, target: Target, what: str) -> None:
        super().__init__(f"Generation {target.generation} of {target.projection} cannot be read yet: {what}.")
        self.target = target


class GenerationServes(CatalogQueryError):
    """The generation is read; it cannot be dropped, or compared with itself."""

    def __init__(self, target: Target) -> None:
        super().__init__(f"Generation {target.generation} of {target.projection} is the one that is read.")
        self.target = target


class TooManyGenerations(CatalogQueryError):
    """There is one to go back to, and it would have to go first."""

    def __init__(self, target: Target) -> None:
        super().__init__(
            f"Beside the generation that is read there is generation {target.generation} of {target.projection}: drop"
            " it first."
        )
        self.target = target


class GenerationsDiffer(CatalogQueryError):
    """The generation says something else than the one that is read, and nobody said that it should."""

    def __init__(self, target: Target, what: str) -> None:
        super().__init__(f"Generation {target.generation} of {target.projection} is not switched to: {what}.")
        self.target = target
