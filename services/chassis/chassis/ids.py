"""Time-ordered identifiers (RFC 9562, version 7), which Python 3.11 does not offer.

Rows and streams whose ids rise with time land on the right-hand edge of an index instead of all over it. Within a
process each id is greater than the one before, also inside one millisecond and when the clock steps back.
"""

import os
import threading
import time
import uuid

_RANDOM_BITS = 74
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
_LOW_BITS = 62
_LOW_MASK = (1 << _LOW_BITS) - 1
_VERSION = 7 << 76
_VARIANT = 0b10 << 62
# A fresh random field keeps its top bit clear, so that counting up within a millisecond never runs over.
_FRESH_MASK = _RANDOM_MASK >> 1


class _Generator:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0
        self._random = 0

    def next(self) -> uuid.UUID:
        """The next id, greater than all before it."""
        now = time.time_ns() // 1_000_000
        fresh = int.from_bytes(os.urandom(10), "big") & _FRESH_MASK
        with self._lock:
            if now > self._millisecond:
                self._millisecond, self._random = now, fresh
            else:
                # RFC 9562, section 6.2, method 2: count up by a random step.
                self._random += (fresh & 0xFFFFFFFF) + 1
                if self._random > _RANDOM_MASK:
                    self._millisecond += 1
                    self._random = fresh
            millisecond, random = self._millisecond, self._random
        return uuid.UUID(
            int=(millisecond << 80) | _VERSION | ((random >> _LOW_BITS) << 64) | _VARIANT | (random & _LOW_MASK)
        )


_generator = _Generator()


def uuid7() -> uuid.UUID:
    """A UUIDv7, greater than every one that this process made before."""
    return _generator.next()
