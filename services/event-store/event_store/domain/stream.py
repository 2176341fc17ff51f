"""The names of streams and types."""

import re
from datetime import timedelta
from functools import lru_cache
from typing import NamedTuple

MAXIMUM_STREAM_LENGTH = 200
MAXIMUM_TYPE_LENGTH = 200

_STREAM = re.compile(r"([a-z][a-z0-9_]{0,63})-([A-Za-z0-9][A-Za-z0-9._:~-]*)")
_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

METADATA_CATEGORY = "metadata"
"""The category of the streams that hold the metadata of others; only the store itself writes to them."""

STREAM_FORM = (
    "is not of the form <category>-<id>: a category of lower-case letters, digits and _,"
    " then an id of letters, digits and ._:~-"
)
TYPE_FORM = "is not the full name of a message, such as almagest.catalog.events.v1.PriceSet"


class StreamMetadata(NamedTuple):
    """How much of a stream is answered, and whether it has ended, as of a revision of its metadata. None: no bound."""

    revision: int
    max_count: int | None
    max_age: timedelta | None
    tombstoned: bool


def category_of(stream: str) -> str | None:
    """The category of a stream's name, or None when the name is not well formed."""
    match = _STREAM.fullmatch(stream)
    return None if match is None else match[1]


def metadata_stream(stream: str) -> str:
    """The stream that holds the metadata of a stream, in the same bucket as it."""
    return f"{METADATA_CATEGORY}-{stream}"


@lru_cache(maxsize=4096)
def is_type(name: str) -> bool:
    """Whether this could be the full name of a message. There are few types, so this is remembered."""
    return _TYPE.fullmatch(name) is not None


def canonical_uuid(text: str) -> str | None:
    """The UUID in lower case, or None when it is none in the usual form of five groups."""
    text = text.lower()
    return text if _UUID.fullmatch(text) else None
