"""What a projector tells of itself."""

import time
from dataclasses import dataclass


@dataclass(slots=True)
class ProjectorState:
    """How far one projector is, as far as it knows."""

    checkpoint: int = 0
    head: int = 0
    running: bool = False
    behind_since: float | None = None
    """Seconds since the epoch at which the oldest event that is not applied was recorded, as far as that is known."""
    error: str = ""

    @property
    def behind(self) -> int:
        """How many positions there are between checkpoint and head."""
        return max(self.head - self.checkpoint, 0)

    @property
    def seconds(self) -> float:
        """The age of the oldest event that is not applied; 0 when there is none."""
        if not self.behind or self.behind_since is None:
            return 0.0
        return max(time.time() - self.behind_since, 0.0)
