"""Rows as NDJSON: one JSON object per line, in UTF-8."""

import json
from typing import Any, cast

import orjson

from worker.adapters.rows import read_row
from worker.application.rows import ImportRow, refused
from worker.domain.job import RefusedRow
from worker.domain.records import Record

_BLANK = b" \t\r"


_LEVELS = 16


class _DuplicateName(ValueError):
    pass


class _TooDeep(ValueError):
    pass


class NdjsonReader:
    """Reads NDJSON records."""

    quoted = False
    header = False

    def read_header(self, record: Record) -> None:
        """There is none."""

    def read(self, record: Record) -> ImportRow | RefusedRow | None:
        """The row of a line; None when it is blank."""
        data = record.data
        if data is None:
            return refused(record, "ROW_TOO_LONG", "the line is longer than a row may be")
        if not data.strip(_BLANK):
            return None
        try:
            value: Any = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return _not_json(record, data, error)
        if not isinstance(value, dict):
            return refused(record, "ROW_NOT_JSON", "the line is no JSON object")
        fields = cast("dict[str, Any]", value)
        if (wrong := _shape(data, fields)) is not None:
            return refused(record, "ROW_INVALID", wrong, sku=fields.get("sku", ""))
        return read_row(record, data, fields, self)

    def column(self, path: str) -> str:
        """The path itself."""
        return path


def _not_json(record: Record, data: bytes, error: orjson.JSONDecodeError) -> RefusedRow:
    try:
        data.decode()
    except UnicodeDecodeError as undecodable:
        return refused(record, "ROW_NOT_UTF8", f"byte {undecodable.start + 1} of the line is not UTF-8")
    return refused(record, "ROW_NOT_JSON", f"the line is not JSON: {error.msg} at character {error.pos + 1}")


def _shape(data: bytes, fields: dict[str, Any]) -> str | None:
    """What is wrong with the object before its fields are looked at."""
    try:
        names = _names(fields)
    except _TooDeep:
        return f"the row has more than {_LEVELS} levels"
    # Every name has its colon. Only where there are more colons than names, in a text or after a name that came twice,
    # is a slower look due.
    if data.count(b":") != names and (twice := _duplicate_name(data)) is not None:
        return f"the name {twice[:64]!r} stands twice in an object"
    return None


def _names(value: object, levels: int = _LEVELS) -> int:
    """How many names the objects in a value have.

    Raises:
        _TooDeep: The value has more levels.
    """
    if isinstance(value, dict):
        inner = cast("dict[str, object]", value).values()
        names = len(inner)
    elif isinstance(value, list):
        inner = cast("list[object]", value)
        names = 0
    else:
        return 0
    if levels == 0:
        raise _TooDeep
    for part in inner:
        names += _names(part, levels - 1)
    return names


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        raise _DuplicateName(next(name for name, _ in pairs if name in seen or seen.add(name)))
    return fields


def _duplicate_name(data: bytes) -> str | None:
    try:
        json.loads(data, object_pairs_hook=_once)
    except _DuplicateName as error:
        return str(error)
    return None
