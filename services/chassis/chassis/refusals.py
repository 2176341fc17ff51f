"""Calls that were refused for who called, counted, and told to auth for its audit.

A workload that calls what it may not, or shows a token that is not its own, is broken or in somebody else's hands. The
log of who refused it says so; the audit says it where those look who must know, and where it cannot be taken back.
Counts are told, not calls: whoever calls a thousand times a second fills no audit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import Counter

REASONS: Final = frozenset({"CALLER_UNKNOWN", "CALLER_INVALID", "CALLER_DENIED", "CALLER_NOT_ALLOWED"})
"""Refusals of callers that no workload in order ever gets. Who comes with an expired certificate is late, no stranger.
Tokens of others are counted beside them, where tokens are verified.
"""
INTERVAL_SECONDS: Final = 5.0
_MOST_KINDS: Final = 500

_logger = structlog.stdlib.get_logger(__name__)
_total = Counter("almagest_refused_calls_total", "Calls refused for who called, by reason.", ("reason",))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A kind of refusal, and how often it came."""

    caller: str
    """The SPIFFE id; empty: none could be told."""
    method: str
    reason: str
    count: int


class Refusals:
    """What was refused since it was last told."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], int] = {}

    def add(self, caller: str, method: str, reason: str, count: int = 1) -> None:
        """Count one. Of more kinds than anybody would read, only the reasons are told apart."""
        key = (caller, method, reason)
        if key not in self._counts and len(self._counts) >= _MOST_KINDS:
            key = ("", "", reason)
        self._counts[key] = self._counts.get(key, 0) + count
        _total.labels(reason).inc(count)

    def take(self) -> list[Refusal]:
        """What came since the last time."""
        counts, self._counts = self._counts, {}
        return [Refusal(*key, count) for key, count in counts.items()]

    def put_back(self, refusals: Sequence[Refusal]) -> None:
        """What could not be told is told later."""
        for refusal in refusals:
            key = (refusal.caller, refusal.method, refusal.reason)
            self._counts[key] = self._counts.get(key, 0) + refusal.count


async def tell(
    refusals: Refusals, report: Callable[[Sequence[Refusal]], Awaitable[object]], *, every: float = INTERVAL_SECONDS
) -> None:
    """Tell what is refused, for ever."""
    while True:
        await asyncio.sleep(every)
        if taken := refusals.take():
            try:
                await report(taken)
            except Exception as error:  # noqa: BLE001 - it is told later; the reason belongs in the log
                refusals.put_back(taken)
                _logger.warning("what was refused cannot be told at the moment", problem=str(error))
