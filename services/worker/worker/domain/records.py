"""From a file that comes in pieces to the records in it, with bounded memory.

A record is one row in its written form. NDJSON has one per line. In CSV (RFC 4180) a quoted field may hold line
breaks, so a record may span
lines. A record over the limit is not held: it is read past, and given as one that is too long. Offsets and lines are
those of the whole
file, so that another worker can go on exactly behind any record.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

BOM = b"\xef\xbb\xbf"

_COMMA = 0x2C
_NEWLINE = 0x0A
_QUOTE = 0x22


@dataclass(frozen=True, slots=True)
class Record:
    """A record: the line on which it begins (from 1), the last line that it covers, the offset behind it, and its
    bytes without the line end.

    `data` is None when it is longer than the limit. `unclosed`: the file ended inside a quoted field.
    """

    line: int
    last_line: int
    end: int
    data: bytes | None
    unclosed: bool = False


class _State(enum.Enum):
    """Where in a CSV record we stand."""

    FIELD_START = enum.auto()
    PLAIN = enum.auto()
    QUOTED = enum.auto()
    QUOTE_IN_QUOTED = enum.auto()


class RecordSplitter:
    """Splits bytes that are fed in order, from `offset` on, which stands behind `lines` lines and at the beginning of
    a record.

    A byte order mark at the very beginning of the file belongs to no record.

    Args:
        limit: the greatest length of a record in bytes, without its line end.
        quoted: whether line breaks in quoted fields belong to the record (CSV).
        offset: where in the file the first byte fed stands.
        lines: how many lines stand before it.
    """

    def __init__(self, *, limit: int, quoted: bool, offset: int = 0, lines: int = 0) -> None:
        self._limit = limit
        self._quoted = quoted
        self._offset = offset
        self._lines = lines
        self._head: bytes | None = b"" if offset == 0 else None
        self._state = _State.FIELD_START
        self._held = bytearray()
        self._begun = False
        self._too_long = False
        self._breaks = 0

    @property
    def held(self) -> int:
        """How many bytes are kept until more come."""
        return len(self._held)

    def feed(self, piece: bytes) -> Iterator[Record]:
        """The records that end in this piece."""
        if self._head is not None:
            piece = self._head + piece
            if len(piece) < len(BOM) and BOM.startswith(piece):
                self._head = piece
                return
            self._head = None
            if piece.startswith(BOM):
                piece = piece.removeprefix(BOM)
                self._offset += len(BOM)
        start = 0
        while (newline := self._record_end(piece, start)) >= 0:
            yield self._record(piece, start, newline)
            start = newline + 1
        if start < len(piece):
            self._hold(piece, start)

    def finish(self) -> Iterator[Record]:
        """The record that the end of the file ends, if it does not end with a line break."""
        if self._head:
            head, self._head = self._head, None
            self._hold(head, 0)
        if self._begun:
            data = None if self._too_long else bytes(self._held).removesuffix(b"\r")
            unclosed = self._state is _State.QUOTED
            last_line = self._lines + self._breaks + (0 if self._ends_with_break else 1)
            yield self._checked(data, last_line=last_line, unclosed=unclosed)

    def _record(self, piece: bytes, start: int, newline: int) -> Record:
        breaks = self._breaks + 1 + (piece.count(b"\n", start, newline) if self._quoted else 0)
        self._offset += newline + 1 - start
        if self._too_long or len(self._held) + newline - start > self._limit + 1:
            data = None
        elif self._held:
            self._held += piece[start:newline]
            data = bytes(self._held)
        else:
            data = piece[start:newline]
        if data is not None and data.endswith(b"\r"):
            data = data[:-1]
        return self._checked(data, last_line=self._lines + breaks, unclosed=False)

    def _checked(self, data: bytes | None, *, last_line: int, unclosed: bool) -> Record:
        if data is not None and len(data) > self._limit:
            data = None
        record = Record(self._lines + 1, last_line, self._offset, data, unclosed)
        self._lines = last_line
        self._held.clear()
        self._begun = self._too_long = self._ends_with_break = False
        self._breaks = 0
        self._state = _State.FIELD_START
        return record

    # Whether the last byte of the record that is being held is a line break.
    _ends_with_break = False

    def _hold(self, piece: bytes, start: int) -> None:
        """Keep the beginning of a record, unless it is too long already; then only what it counts is kept."""
        self._begun = True
        self._offset += len(piece) - start
        if self._quoted:
            self._breaks += piece.count(b"\n", start)
            self._ends_with_break = piece.endswith(b"\n")
        if not self._too_long:
            self._held += piece[start:]
            if len(self._held) > self._limit + 1:
                self._too_long = True
                self._held.clear()

    def _record_end(self, piece: bytes, start: int) -> int:
        """The index of the line break that ends the record which goes on at `start`; -1: not in this piece."""
        if not self._quoted:
            return piece.find(b"\n", start)
        if self._state is _State.FIELD_START or self._state is _State.PLAIN:
            # Most lines hold no quote, so nothing in them can hide their end.
            newline = piece.find(b"\n", start)
            quote = piece.find(b'"', start, newline if newline >= 0 else len(piece))
            if quote < 0 and newline >= 0:
                return newline
        return self._scan(piece, start)

    def _scan(self, piece: bytes, start: int) -> int:
        """As `_record_end`, by the grammar: a quote opens a field only where the field begins."""
        state, index, length = self._state, start, len(piece)
        while index < length:
            if state is _State.QUOTED:
                index = piece.find(b'"', index)
                if index < 0:
                    break
                state = _State.QUOTE_IN_QUOTED
                index += 1
                continue
            byte = piece[index]
            if state is _State.QUOTE_IN_QUOTED:
                # A doubled quote is a quote; anything else stands behind the closing one.
                state = _State.QUOTED if byte == _QUOTE else _State.PLAIN
                index += byte == _QUOTE
                continue
            if state is _State.FIELD_START and byte == _QUOTE:
                state = _State.QUOTED
                index += 1
                continue
            if byte == _NEWLINE:
                self._state = _State.FIELD_START
                return index
            if byte == _COMMA:
                state = _State.FIELD_START
                index += 1
                continue
            state = _State.PLAIN
            index = _next_of(piece, index)
        self._state = state
        return -1


def _next_of(piece: bytes, start: int) -> int:
    """The index of the next comma or line break, or the length."""
    newline = piece.find(b"\n", start)
    comma = piece.find(b",", start, newline if newline >= 0 else len(piece))
    if comma >= 0:
        return comma
    return newline if newline >= 0 else len(piece)
