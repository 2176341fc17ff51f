"""The audit: what was done with people, sessions and keys, by whom and from where.

The events are messages of `almagest.auth.events.v1`, whose names are the storage format.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

from almagest.auth.events.v1 import audit_pb2

EVENTS: Final = {name: getattr(audit_pb2, name) for name in audit_pb2.DESCRIPTOR.message_types_by_name if name != "Act"}
"""From the short names of the events to their messages."""
NOBODY: Final = UUID(int=0)
"""The subject of what is about nobody who is known."""


class Event(Protocol):
    """One of the messages."""

    @property
    def act(self) -> audit_pb2.Act:
        """Who, when and from where."""
        ...

    @property
    def DESCRIPTOR(self) -> Any:  # noqa: N802 - protobuf names it
        """What it is."""
        ...

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf names it
        """The bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """An event on its way into the audit, its personal part sealed."""

    id: UUID
    subject_id: UUID
    type: str
    payload: bytes
    at: datetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """What part of the audit is asked for."""

    subject_id: UUID | None = None
    types: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    before: UUID | None = None
    """Only events with a smaller id: the next page."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Opened:
    """An event as an admin reads it."""

    entry: Entry
    event: Event
    origin: dict[str, str] = field(default_factory=dict[str, str])
    """Where it came from; empty when nothing is known, or when whom it is about was forgotten."""
