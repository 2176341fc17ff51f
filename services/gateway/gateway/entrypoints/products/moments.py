"""`as_of` and `known_at`: looking back, or ahead, with any read of products."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from almagest.catalog.v1 import past_pb2
from almagest.eventstore.v1 import event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.problems import bad_request
from gateway.representations.shapes import at
from gateway.requests.shapes import Moment

_POSITION = re.compile(r"([0-9]{1,9}):([0-9]{1,19})")
_REVISION = re.compile(r"[0-9]{1,18}")
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[ +-][0-9]{2}:[0-9]{2})"
)
_LARGEST_POSITION = (1 << 63) - 1
_EXPECTED = "must be a time with its offset, such as 2026-11-27T00:00:00Z, or a position of the log, such as 0:1234"
SETTLED_SECONDS = 3600
HEADERS: Mapping[str, Any] = {
    "Almagest-As-Of": {
        "description": "With `as_of`: what is effective at this time was answered,",
        "schema": {"type": "string", "format": "date-time"},
    },
    "Almagest-Known-At": {
        "description": "by what was known at this time.",
        "schema": {"type": "string", "format": "date-time"},
    },
}
"""What answers about a moment say of it, for the documentation."""


def moment_of(asked: Moment) -> past_pb2.Moment | None:
    """The moment that a request asks for; None when it asks for the present.

    Raises:
        Refused: It is none.
    """
    if asked.as_of is None:
        if asked.known_at is not None:
            raise bad_request("known_at", "goes with as_of: what was known then, about what is effective when?")
        return None
    moment = _moment("as_of", asked.as_of)
    if asked.known_at is not None:
        moment.known_at.CopyFrom(timestamp_of("known_at", asked.known_at))
    return moment


def version_of(field: str, text: str) -> past_pb2.Version:
    """A version of a product: its revision, a time, or a position.

    Raises:
        Refused: It is none.
    """
    if _REVISION.fullmatch(text):
        return past_pb2.Version(revision=int(text))
    return past_pb2.Version(moment=_moment(field, text))


def timestamp_of(field: str, text: str) -> Timestamp:
    """A time of the query, to the microsecond.

    Raises:
        Refused: There is no such time.
    """
    stamp = Timestamp()
    try:
        if _TIME.fullmatch(text):
            # In a query, a plus that was not escaped is a space.
            stamp.FromDatetime(datetime.fromisoformat(text.upper().replace(" ", "+")).astimezone(UTC))
            return stamp
    except (ValueError, OverflowError):
        pass
    raise bad_request(field, "must be a time with its offset, such as 2026-11-27T00:00:00Z")


def headers_of(told: past_pb2.Resolved) -> dict[str, str]:
    """What an answer about a moment says of it. What will for ever be answered so may be kept."""
    caching = f"private, max-age={SETTLED_SECONDS}, immutable" if told.settled else "private, no-cache"
    return {
        "Almagest-As-Of": _text(told.as_of),
        "Almagest-Known-At": _text(told.known_at),
        "Cache-Control": caching,
        # Not everybody may see everything.
        "Vary": "Authorization",
    }


def etag_of(document: bytes) -> str:
    """An entity tag of a document of the past. It is none that a change could be made conditional upon."""
    return f'"past-{blake2b(document, digest_size=12).hexdigest()}"'


def _moment(field: str, text: str) -> past_pb2.Moment:
    position = _POSITION.fullmatch(text)
    if position is None:
        if not re.match(r"[0-9]{4}-", text):
            raise bad_request(field, _EXPECTED)
        return past_pb2.Moment(time=timestamp_of(field, text))
    number = int(position[2])
    if not 1 <= number <= _LARGEST_POSITION:
        raise bad_request(field, "names a position that no log has; they begin at 1")
    return past_pb2.Moment(position=event_pb2.ShardPosition(shard=int(position[1]), position=number))


def _text(stamp: Timestamp) -> str:
    return at(stamp).isoformat().replace("+00:00", "Z")
