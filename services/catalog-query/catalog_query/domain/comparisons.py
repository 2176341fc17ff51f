"""How two generations of a projection differ, row by row and field by field."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, cast

import orjson

MOST_SAMPLES: Final = 2_000
"""Rows that are kept with what differs in them; all of them are counted."""
_LONGEST_VALUE: Final = 1_000


@dataclass(frozen=True, slots=True)
class RowPair:
    """A row in two generations, as JSON by column; None where there is none."""

    key: str
    old_revision: int | None
    new_revision: int | None
    old: Mapping[str, object] | None
    new: Mapping[str, object] | None

    @property
    def settled(self) -> bool:
        """Whether the rows are of the same revision: if not, one of the generations may only be a moment ahead."""
        return self.old is not None and self.new is not None and self.old_revision == self.new_revision


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one row that differs; the whole row when the field is empty."""

    key: str
    revision: int
    kind: str
    field: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many rows differ, and in what."""

    against: int
    compared: int
    missing: int
    extra: int
    different: int
    fields: Mapping[str, int]
    began_at: datetime
    ended_at: datetime

    def unexplained(self, accepted: frozenset[str]) -> bool:
        """Whether anything differs beside the fields that are expected to."""
        return bool(self.missing or self.extra or set(self.fields) - accepted)


@dataclass(slots=True)
class Tally:
    """Counts differences, and keeps some of them."""

    missing: int = 0
    extra: int = 0
    different: int = 0
    fields: Counter[str] = field(default_factory=Counter[str])
    samples: list[Difference] = field(default_factory=list[Difference])
    _kept: int = 0

    def add(self, pair: RowPair) -> None:
        """Count a pair of rows that differ."""
        found = list(differences(pair))
        kind = found[0].kind if found else ""
        if kind == "missing":
            self.missing += 1
        elif kind == "extra":
            self.extra += 1
        elif found:
            self.different += 1
            self.fields.update(one.field for one in found)
        if found and self._kept < MOST_SAMPLES:
            self._kept += 1
            self.samples.extend(found)


def differences(pair: RowPair) -> Iterator[Difference]:
    """What differs between two rows, by field: columns by name, what is inside a document by its path."""
    revision = next((one for one in (pair.new_revision, pair.old_revision) if one is not None), 0)
    if pair.old is None or pair.new is None:
        yield Difference(pair.key, revision, "missing" if pair.new is None else "extra", "", None, None)
        return
    if pair.old_revision != pair.new_revision:
        yield Difference(pair.key, revision, "revision", "revision", _text(pair.old_revision), _text(pair.new_revision))
        return
    old, new = dict(_flat("", _opened(pair.old))), dict(_flat("", _opened(pair.new)))
    for name in {**old, **new}:
        if old.get(name) != new.get(name) or (name in old) != (name in new):
            yield Difference(pair.key, revision, "field", name, _text(old.get(name)), _text(new.get(name)))


def _opened(row: Mapping[str, object]) -> Mapping[str, object]:
    """The row with its document, which is stored as the bytes of a JSON object, as an object."""
    document = row.get("document")
    if not isinstance(document, str) or not document.startswith("\\x"):
        return row
    raw = bytes.fromhex(document[2:])
    try:
        return {**row, "document": orjson.loads(raw)}
    except orjson.JSONDecodeError:
        return row


def _flat(prefix: str, value: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(f"{prefix}{name}.", cast("Mapping[str, object]", inner))
        else:
            yield prefix + name, inner


def _text(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()[:_LONGEST_VALUE]
