"""What a projector needs of the log, of the read model and of those who answer reads, and how it goes."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from almagest.eventstore.v1 import event_store_pb2

from catalog_query.adapters.postgres import Write
from catalog_query.domain.errors import PoisonousEvent
from catalog_query.domain.projection import Exceptions, Hold, Lease, Progress, Target


class Log(Protocol):
    """The log, as far as projectors go."""

    def subscribe(
        self, *, event_shard: int, after: int, buckets: Sequence[tuple[int, int]], heartbeat: float
    ) -> AsyncGenerator[event_store_pb2.SubscribeResponse, None]:
        """What was and will be appended after a position, in order, until left."""
        ...


class ReadModel(Protocol):
    """One shard of the read model, as far as projectors go."""

    async def progress(self, target: Target) -> Progress:
        """How far a generation is, and what it holds."""
        ...

    async def exceptions(self, target: Target) -> Exceptions:
        """What it holds, and what its projection leaves out."""
        ...

    async def claim(self, target: Target, *, event_shard: int, owner: str, lease: float) -> Lease | None:
        """Become the one who applies a shard of the log: None while another owner lives."""
        ...

    async def release(self, target: Target, *, event_shard: int, token: int) -> None:
        """Let somebody else apply it, at once."""
        ...

    async def renew(self, target: Target, *, event_shard: int, token: int) -> None:
        """Show that we live."""
        ...

    async def write(
        self,
        target: Target,
        *,
        event_shard: int,
        token: int,
        before: int,
        after: int,
        rows: Write | None = None,
        parked: Sequence[PoisonousEvent] = (),
        held: Mapping[str, tuple[int, int]] | None = None,
    ) -> Mapping[str, Hold]:
        """Rows, what is parked and held, and the checkpoint: all or nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How a projector goes. Times are in seconds."""

    batch_events: int = 1_000
    """More events than this are not put into one transaction, if they come in several messages."""
    heartbeat: float = 1.0
    """How often to hear where the log's head is when nothing happens."""
    lease: float = 6.0
    """For how long a silent projector is taken to be alive by the other replicas."""
    persist_idle: float = 1.0
    """How often at most the checkpoint is moved when no event concerned us."""
    watch: float = 0.25
    """How often a replica that does not project looks at the checkpoint."""
    watch_waited_for: float = 0.02
    """The same while a read waits for it."""
    patient: bool = False
    """Whether to wait for a full batch while the log has more: for filling what nobody reads yet, where every row that
    is written once instead of twice counts, and its age does not.
    """
    first_pause: float = 0.2
    longest_pause: float = 15.0
    patience: float = 5.0
    """For how long the log or the database may be away before that is an error."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a projector works at: one pair of shards of one generation."""

    target: Target
    event_shard: int
    read_shard: int
    buckets: Sequence[tuple[int, int]]
    title: str = "project"


class Watcher(Protocol):
    """Whoever answers reads by what projectors tell. The order matters: what is held first, then the position."""

    def waited_for(self, work: Work) -> bool:
        """Whether a read waits for this pair."""
        ...

    def held(self, work: Work, streams: Mapping[str, Hold]) -> None:
        """More streams are held."""
        ...

    def progress(self, work: Work, progress: Progress) -> None:
        """How far another replica is; everything that is held is in it."""
        ...

    def visible(self, work: Work, position: int) -> None:
        """Everything up to a position is applied, or held."""
        ...
