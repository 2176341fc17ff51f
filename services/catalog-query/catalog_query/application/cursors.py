"""Page tokens: where a page ended, good for the same question only.

A token is checked, not signed: it holds nothing that the asker has not seen, and whoever makes one up only chooses
where their own page begins. The check keeps a token from being used with another filter or order, where the page would
silently be wrong, and from being mistyped.
"""

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from typing import Final, cast
from uuid import UUID

import orjson

from catalog_query.domain.errors import BadPageToken
from catalog_query.domain.query import Key, Sort, SortValue

_DIGEST: Final = 8
_LONGEST: Final = 2_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def encode(values: Sequence[object], *, question: bytes) -> str:
    """A token that holds values of JSON, for one question, which is given in any form that is the same each time."""
    content = orjson.dumps(values)
    return _text(_digest(content, question) + content)


def decode(token: str, *, question: bytes) -> list[object]:
    """The values that a token holds.

    Raises:
        BadPageToken: it is none of ours, or one for another question.
    """
    try:
        if len(token) > _LONGEST:
            raise BadPageToken
        raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        content = raw[_DIGEST:]
        # The second condition: the last character has bits to spare, and one place should have one token.
        if raw[:_DIGEST] != _digest(content, question) or _text(raw) != token:
            raise BadPageToken
        values = orjson.loads(content)
    except (UnicodeEncodeError, binascii.Error, orjson.JSONDecodeError):
        raise BadPageToken from None
    if not isinstance(values, list):
        raise BadPageToken
    return cast("list[object]", values)


def of_key(key: Key, *, question: bytes, pins: Sequence[datetime] = ()) -> str:
    """A token for going on after a place in an order, at the times that the first page was of."""
    value = key.value
    if isinstance(value, datetime):
        value = _microseconds(value)
    elif isinstance(value, Decimal):
        value = str(value)
    return encode([value, key.product_id.hex, *map(_microseconds, pins)], question=question)


def to_key(token: str, *, sort: Sort, question: bytes) -> Key:
    """The place after which to go on.

    Raises:
        BadPageToken: see `decode`.
    """
    key, _ = to_pinned_key(token, sort=sort, question=question, pins=0)
    return key


def to_pinned_key(token: str, *, sort: Sort, question: bytes, pins: int) -> tuple[Key, Sequence[datetime]]:
    """As `to_key`, with as many times as the token must hold.

    Raises:
        BadPageToken: see `decode`.
    """
    match decode(token, question=question):
        case [value, str(product_id), *times] if len(times) == pins:
            try:
                return Key(_sort_value(value, sort), UUID(hex=product_id)), [_time(time) for time in times]
            except (ValueError, OverflowError, InvalidOperation):
                raise BadPageToken from None
        case _:
            raise BadPageToken


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _time(value: object) -> datetime:
    if not isinstance(value, int):
        raise BadPageToken
    return _EPOCH + timedelta(microseconds=value)


def _sort_value(value: object, sort: Sort) -> SortValue:
    match sort, value:
        case (Sort.NAME, str()):
            return value
        case (Sort.PRICE, str()):
            return Decimal(value)
        case (Sort.UPDATED, int()):
            return _time(value)
        case (Sort.MODEL_YEAR | Sort.RELEVANCE, int()):
            return value
        case _:
            raise BadPageToken


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _digest(content: bytes, question: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST, key=blake2b(question, digest_size=32).digest()).digest()
