"""The published language of the catalog, which is what services know of each other's events.

Events are stored for ever and read by every later version. `decode` is the one way from stored bytes to an event: what
an older version wrote is turned, step by step, into what this version writes, so that nobody who decides or folds
needs to know that it ever was otherwise.
"""

from catalog_events.errors import UndecodableEvent, UnknownEvent, UnreadableEvent
from catalog_events.language import PACKAGE, Event, decode, type_name

__all__ = ["PACKAGE", "Event", "UndecodableEvent", "UnknownEvent", "UnreadableEvent", "decode", "type_name"]
