"""JSON at the door: what is taken in, strictly, and how everything is written out. The only place that does either.

Out: decimals as exact strings, times as RFC 3339 with `Z`, UUIDs in their usual form.

In: one text has one meaning. A key that is there twice means different things to different parsers, `NaN` is no JSON, a
number of a thousand digits costs time that nobody has, and a thousand brackets cost the stack of somebody further in.
All of these are refused before anything looks at the content.
"""

import json
import re
from decimal import Decimal
from typing import Any, NoReturn

import orjson
from pydantic import BaseModel

MAXIMUM_DEPTH = 32
MAXIMUM_DIGITS = 32
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
# Strings are stepped over as a whole, so that brackets in them do not count. An unfinished string swallows the rest:
# the parser will refuse it.
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\Z)|[\[\]{}]', re.DOTALL)


class InvalidJson(ValueError):
    """The text is no JSON that is taken here; the message says why, for people."""


def encode(value: Any) -> bytes:
    """The JSON of a value: of models, or of what JSON knows plus decimals, times and UUIDs."""
    return orjson.dumps(value, default=_other, option=_OPTIONS)


def _other(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def decode(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        InvalidJson: It is not one, or one that is not taken.
    """
    _check_depth(body)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJson(f"The body is not UTF-8: byte {error.start} is wrong.") from None
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidJson(f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise InvalidJson(f"The body is nested deeper than {MAXIMUM_DEPTH} levels.") from None
    if "\\u" in text:
        _check_escapes(value)
    return value


def _check_depth(body: bytes) -> None:
    depth = 0
    for token in _STRUCTURE.finditer(body):
        sign = token[0]
        if sign in (b"{", b"["):
            depth += 1
            if depth > MAXIMUM_DEPTH:
                raise InvalidJson(f"The body is nested deeper than {MAXIMUM_DEPTH} levels.")
        elif sign in (b"}", b"]"):
            depth -= 1


def _check_escapes(value: Any) -> None:
    """Escapes can write what UTF-8 cannot: half a surrogate pair, which is no character. NUL is one that no database
    takes.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidJson("The body has the character U+0000 in a string.")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidJson("The body has half of a surrogate pair in a string.") from None
    elif isinstance(value, dict):
        for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
            _check_escapes(key)
            _check_escapes(inner)
    elif isinstance(value, list):
        for inner in value:  # pyright: ignore[reportUnknownVariableType]
            _check_escapes(inner)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidJson(f"The body has the key {key[:100]!r} twice in one object.")
            seen.add(key)
    return value


def _number(parse: Any) -> Any:
    def bounded(text: str) -> Any:
        if len(text) > MAXIMUM_DIGITS:
            raise InvalidJson(f"The body has a number of more than {MAXIMUM_DIGITS} digits.")
        value = parse(text)
        if value in (float("inf"), float("-inf")):
            raise InvalidJson(f"The body has a number that is too large: {text}.")
        return value

    return bounded


def _constant(name: str) -> NoReturn:
    raise InvalidJson(f"The body has {name}, which is no JSON.")


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_int=_number(int), parse_float=_number(float)
)
