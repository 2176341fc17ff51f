"""Why a stored event cannot be read. The messages name the place in the log, never what the event holds."""

from almagest.eventstore.v1 import event_pb2


class UndecodableEvent(Exception):
    """An event that this version cannot read; to go on without it would be to know something wrong."""

    def __init__(self, event: event_pb2.RecordedEvent, what: str) -> None:
        super().__init__(
            f"{what}: event {event.revision} of {event.stream}, position {event.position} of shard {event.shard}"
        )
        self.event = event


class UnknownEvent(UndecodableEvent):
    """The event's type is newer than this version, or none of the catalog's."""

    def __init__(self, event: event_pb2.RecordedEvent) -> None:
        super().__init__(event, f"unknown event type {event.type}")


class UnreadableEvent(UndecodableEvent):
    """The event's payload does not hold what its type says."""

    def __init__(self, event: event_pb2.RecordedEvent) -> None:
        super().__init__(event, f"unreadable {event.type}")
