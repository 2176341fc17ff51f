"""Rows in the text form of COPY, the fastest way into a table that there is."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import islice
from typing import Final

_PIECE: Final = 500
"""Rows that are encoded at a time: encoding more would keep reads waiting, which share this event loop."""
ROWS: Final = 2_000
"""Rows of one statement, which must end within its time also where indexes are kept up and the disk is slow."""
_SPECIAL: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NEEDS_ESCAPE: Final = re.compile(r"[\\\n\r]").search
_NULL: Final = "\udcff"
"""Stands for a backslash that is meant as one, until a row was searched for others. No UTF-8 holds it."""


async def lines(rows: Iterable[Sequence[object]]) -> AsyncGenerator[bytes, None]:
    """Rows of texts, bytes, numbers, booleans, times and None, in pieces."""
    left = iter(rows)
    while piece := list(islice(left, _PIECE)):
        yield "".join([_line(row) for row in piece]).encode()
        await asyncio.sleep(0)


def _line(row: Sequence[object]) -> str:
    """One row. Few need escapes, so each is looked at as a whole first."""
    line = "\t".join([value if type(value) is str else _field(value) for value in row])
    if _NEEDS_ESCAPE(line) or line.count("\t") >= len(row):
        line = "\t".join([value.translate(_SPECIAL) if isinstance(value, str) else _field(value) for value in row])
    return line.replace(_NULL, "\\") + "\n"


def _field(value: object) -> str:
    """What is no text, which holds nothing to escape."""
    if value is None:
        return _NULL + "N"
    if isinstance(value, bytes):
        return f"{_NULL}{_NULL}x{value.hex()}"
    return str(value)
