"""How far the read models are behind the log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from catalog_query.domain.projection import Target


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one projector is behind."""

    target: Target
    serving: bool
    """Whether reads of this process go to this generation."""
    event_shard: int
    read_shard: int
    checkpoint: int
    head: int
    seconds: float
    running: bool
    error: str


class Lags(Protocol):
    """Whoever knows all projectors."""

    async def lags(self) -> Sequence[Lag]:
        """How far each projector is behind, against the committed heads of the log."""
        ...
