"""What can be wrong with a read, or with the log that the read side follows."""

from almagest.eventstore.v1 import event_pb2


class CatalogQueryError(Exception):
    """Anything that this service refuses or cannot do by itself."""


class ProductNotFound(CatalogQueryError):
    """There is no product with this id, as far as this answer's position tells."""

    def __init__(self, product_id: str) -> None:
        super().__init__(f"There is no product {product_id}.")
        self.product_id = product_id


class NotYetVisible(CatalogQueryError):
    """The write that a consistency token stands for was not visible before the time was up."""

    def __init__(self, *, shard: int, wanted: int, position: int) -> None:
        super().__init__("What you wrote is not visible yet. Ask again in a moment, or without the consistency token.")
        self.shard = shard
        self.wanted = wanted
        self.position = position


class PoisonousEvent(CatalogQueryError):
    """An event that cannot be applied. It names the place in the log, never what the event holds."""

    def __init__(self, event: event_pb2.RecordedEvent, what: str) -> None:
        super().__init__(
            f"{what}: event {event.revision} of {event.stream}, position {event.position} of shard {event.shard}"
        )
        self.event = event


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


class CheckpointMoved(CatalogQueryError):
    """Somebody else moved the checkpoint, or holds it: what was about to be written must be thrown away and read
    again.
    """

    def __init__(self, *, event_shard: int, position: int) -> None:
        super().__init__(
            f"the checkpoint of shard {event_shard} of the log is not ours at position {position} any more"
        )


class BatchRefused(CatalogQueryError):
    """A batch of the log that cannot be written."""

    def __init__(self, *, event_shard: int, after: int, last: int, what: str) -> None:
        super().__init__(f"{what}: positions {after + 1} to {last} of shard {event_shard}")


class ReadModelDiverged(BatchRefused):
    """A row is not at the revision that the checkpoint says it is at: somebody else writes this table, or it was
    restored by itself.
    """

    def __init__(self, *, event_shard: int, after: int, last: int) -> None:
        super().__init__(event_shard=event_shard, after=after, last=last, what="a row is not what its checkpoint says")


class UnwritableRows(BatchRefused):
    """The database does not take what an event of the batch says."""

    def __init__(self, *, event_shard: int, after: int, last: int) -> None:
        super().__init__(event_shard=event_shard, after=after, last=last, what="the database refuses a row")


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
