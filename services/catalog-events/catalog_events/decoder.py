"""From stored bytes to a message of today: parse what was stored, then one small step after the other.

A step (an upcaster) knows two neighbouring versions and nothing else, so it is written once and never touched again:
what a later version adds is the next step. Steps are pure: the same stored event is always read as the same message.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from almagest.eventstore.v1 import event_pb2
from google.protobuf.message import DecodeError, Message

from catalog_events.errors import UnknownEvent, UnreadableEvent

Step = Callable[[Any, event_pb2.RecordedEvent], Message]
"""The message of the newer version. It is given the message of the older one, which it may change and return, and the
event as the log recorded it, for what only its envelope tells.
"""


@dataclass(frozen=True, slots=True)
class Upcaster:
    """One step of evolution.

    Attributes:
        reads: the message that it is given.
        gives: the message that it returns: the same one in a fuller shape, or one that took its place.
        step: how.
    """

    reads: type[Message]
    gives: type[Message]
    step: Step


class Decoder:
    """Reads the types that are written today, and those that once were."""

    def __init__(self, *, types: Iterable[type[Message]], upcasters: Sequence[Upcaster]) -> None:
        """Upcasters of one message apply in the order given, then those of the message that it became.

        Raises:
            ValueError: an upcaster leads back to where it started, or ends at what is not written today.
        """
        today = set(types)
        self._readers: Mapping[str, tuple[Callable[[bytes], Message], tuple[Step, ...]]] = {
            message.DESCRIPTOR.full_name: (message.FromString, _chain(message, upcasters, today))
            for message in (*today, *(upcaster.reads for upcaster in upcasters))
        }

    def decode(self, event: event_pb2.RecordedEvent) -> Message:
        """The event as this version would have written it.

        Raises:
            UnknownEvent: its type is none of these.
            UnreadableEvent: its payload does not hold what its type says.
        """
        try:
            parse, steps = self._readers[event.type]
        except KeyError:
            raise UnknownEvent(event) from None
        try:
            message = parse(event.payload)
        except DecodeError:
            raise UnreadableEvent(event) from None
        for step in steps:
            message = step(message, event)
        return message


def _chain(start: type[Message], upcasters: Sequence[Upcaster], today: set[type[Message]]) -> tuple[Step, ...]:
    steps: list[Step] = []
    seen: set[type[Message]] = set()
    message: type[Message] | None = start
    while message is not None:
        if message in seen:
            raise ValueError(f"the upcasters of {start.DESCRIPTOR.full_name} lead back to it")
        seen.add(message)
        at, message = message, None
        for upcaster in upcasters:
            if upcaster.reads is at:
                steps.append(upcaster.step)
                if upcaster.gives is not at:
                    message = upcaster.gives
                    break
        if message is None and at not in today:
            raise ValueError(f"{start.DESCRIPTOR.full_name} ends as {at.DESCRIPTOR.full_name}, which nobody writes")
    return tuple(steps)
