"""Times of clients on the wire."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.problems import Refused


def timestamp_of(field: str, text: str) -> Timestamp:
    """The time that a text of the form of RFC 3339 names, to the microsecond.

    Raises:
        Refused: there is no such time.
    """
    stamp = Timestamp()
    try:
        stamp.FromDatetime(datetime.fromisoformat(text.upper()).astimezone(UTC))
    except (ValueError, OverflowError):
        raise Refused(
            422,
            "INVALID_BODY",
            "There is no such time.",
            errors=[(field, "must be a time with its offset, for example 2026-11-27T00:00:00+01:00")],
        ) from None
    return stamp
