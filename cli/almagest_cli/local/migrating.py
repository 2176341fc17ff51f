"""What a migration does, from its log."""

import re
import time
from collections.abc import Callable
from typing import Final

import orjson

_LONG_SECONDS: Final = 3.0
"""From when on people want to know what it does."""
_UPGRADE: Final = re.compile(r"Running upgrade \S* -> (\S+),.*")


class Steps:
    """Tells the steps of a migration that takes long, each as it begins."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._from = time.monotonic() + _LONG_SECONDS

    def heard(self, line: str) -> None:
        """A line of the log has come."""
        step = _step(line)
        if step and time.monotonic() >= self._from:
            self._tell(step)


def _step(line: str) -> str:
    try:
        event = str(orjson.loads(line)["event"])
    except (ValueError, TypeError, KeyError):
        return ""
    if event.startswith("gave way"):
        return "waits for a lock"
    upgrade = _UPGRADE.fullmatch(event)
    return f"to {upgrade[1]}" if upgrade else ""
