"""Events in the form in which readers get them, made once per event: as entries of the first field of the answer, in
the wire format of protobuf, so that entries one after the other are an answer.
"""

from typing import Final

from almagest.eventstore.v1.event_pb2 import RecordedEvent
from almagest.eventstore.v1.event_store_pb2 import SubscribeResponse

_ENTRY: Final = bytes((SubscribeResponse.EVENTS_FIELD_NUMBER << 3 | 2,))
_METADATA: Final = bytes((RecordedEvent.METADATA_FIELD_NUMBER << 3 | 2,))
_SEVEN_BITS: Final = 0x7F
_MORE: Final = 0x80


def encoded(event: RecordedEvent, metadata: bytes) -> bytes:
    """The entry of an event, which ends with its metadata as the bytes that they are stored as."""
    content = b"".join((event.SerializeToString(), _METADATA, _varint(len(metadata)), metadata))
    return b"".join((_ENTRY, _varint(len(content)), content))


def decoded(entry: bytes) -> RecordedEvent:
    """The event of an entry."""
    begin, end = extent(entry, 0)
    return RecordedEvent.FromString(entry[begin:end])


def extent(entries: bytes, at: int) -> tuple[int, int]:
    """Where the content of the entry that begins there begins and ends."""
    at += 1
    length = shift = 0
    while True:
        digit = entries[at]
        at += 1
        length |= (digit & _SEVEN_BITS) << shift
        if not digit & _MORE:
            return at, at + length
        shift += 7


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > _SEVEN_BITS:
        digits.append(number & _SEVEN_BITS | _MORE)
        number >>= 7
    digits.append(number)
    return bytes(digits)
