"""The hash of an event, computed once more from what the migration documents: neither by the code that writes it nor by
the code that the service verifies it with.
"""

import base64
import uuid
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

GENESIS: Final = bytes(32)
COLUMNS: Final = (
    "position",
    "origin",
    "revision",
    "stream",
    "bucket",
    "category",
    "type",
    "event_id",
    "recorded_at",
    "payload",
    "metadata",
    "original_shard",
    "original_position",
    "hash",
)
"""The columns of a row of the log, in the order of the final log's lines."""

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_OIDS: Final = {
    "position": 20,
    "origin": 20,
    "revision": 20,
    "stream": 25,
    "bucket": 21,
    "category": 25,
    "type": 25,
    "event_id": 2950,
    "recorded_at": 1184,
    "payload": 17,
    "metadata": 17,
    "original_shard": 23,
    "original_position": 20,
}
_BYTES_OF_NUMBER: Final = {20: 8, 21: 2, 23: 4, 1184: 8}


def line(row: Any) -> list[Any]:
    """A row of the table as a line of the final log: bytes in base64, the time in microseconds since 2000."""
    values: list[Any] = []
    for name in COLUMNS:
        value = row[name]
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode()
        elif isinstance(value, uuid.UUID):
            value = str(value)
        elif isinstance(value, datetime):
            value = (value - _EPOCH) // timedelta(microseconds=1)
        values.append(value)
    return values


def hash_after(previous: bytes, row: dict[str, Any]) -> bytes:
    """The hash that a line (by column) must have after the one before it in its shard."""
    form = bytearray((len(_OIDS) + 1).to_bytes(4, "big"))
    _add(form, 17, previous)
    for name, oid in _OIDS.items():
        value = row[name]
        if value is None:
            _add(form, oid, None)
        elif oid in _BYTES_OF_NUMBER:
            _add(form, oid, int(value).to_bytes(_BYTES_OF_NUMBER[oid], "big", signed=True))
        elif name == "event_id":
            _add(form, oid, uuid.UUID(value).bytes)
        elif name in {"payload", "metadata"}:
            _add(form, oid, base64.b64decode(value))
        else:
            _add(form, oid, value.encode())
    return sha256(form).digest()


def _add(form: bytearray, oid: int, value: bytes | None) -> None:
    form += oid.to_bytes(4, "big")
    form += (-1 if value is None else len(value)).to_bytes(4, "big", signed=True)
    if value is not None:
        form += value
