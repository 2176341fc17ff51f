"""How long the present call may still take, carried from the RPC that came in to those that go out.

gRPC for Python does not do this by itself: without it a service works on for callers that have long given up.
"""

import time
from contextvars import ContextVar

from chassis.errors import DeadlineExceeded

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def set_deadline(seconds: float | None) -> None:
    """Start the clock of the present call (of this task and those that it starts); None: it has no deadline."""
    _deadline.set(None if seconds is None else time.monotonic() + seconds)


def remaining() -> float | None:
    """The seconds that the present call has left, negative when it is late; None when it has no deadline."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic()


def timeout_for(limit: float, margin: float = 0.05) -> float:
    """The seconds that a step of the present call may take: at most `limit`, and `margin` less than what is left for
    the whole.

    Raises:
        DeadlineExceeded: Nothing is left.
    """
    left = remaining()
    if left is None:
        return limit
    left -= margin
    if left <= 0:
        raise DeadlineExceeded
    return min(limit, left)
