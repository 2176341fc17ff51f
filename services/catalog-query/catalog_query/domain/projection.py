"""What projections are made of, whatever they project: generations, leases, and the exceptions from applying all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

PRODUCTS: Final = "products"
"""The projection that answers gets, lists and searches."""

VERSIONS: Final = "versions"
"""The projection that answers lists and searches of the past."""

FIRST_GENERATION: Final = 1


@dataclass(frozen=True, slots=True)
class Target:
    """One generation of what a projection writes."""

    projection: str
    generation: int = FIRST_GENERATION

    @property
    def schema(self) -> str:
        """The schema that its table is in."""
        return f"{self.projection}_{self.generation}"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to move a checkpoint, for as long as nobody was given a higher token."""

    position: int
    token: int


@dataclass(frozen=True, slots=True)
class Hold:
    """A stream that a generation does not go on with, since it could not apply the event at `revision`."""

    parked_id: UUID
    event_shard: int
    position: int
    revision: int
    last_revision: int
    """The last event of the stream that was seen; those after `revision` are held behind it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a generation is: per shard of the log the position up to which it is applied, and what is held, both at
    one moment.
    """

    positions: Mapping[int, int] = field(default_factory=dict[int, int])
    held: Mapping[str, Hold] = field(default_factory=dict[str, Hold])
    """By stream."""


@dataclass(frozen=True, slots=True)
class Exceptions:
    """What keeps a generation from being the plain fold of the log."""

    held: Mapping[str, Hold] = field(default_factory=dict[str, Hold])
    skipped: Mapping[str, frozenset[int]] = field(default_factory=dict[str, frozenset[int]])
    """By stream, the revisions that an operator decided to leave out."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation as its read shard knows it."""

    target: Target
    ready: bool
    """Whether it has been filled and indexed; it may then be read."""
    created_at: datetime
    created_by: str
    ready_at: datetime | None


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which generation of a projection is read, and all that there are."""

    projection: str
    serving: int
    epoch: int
    """Grows with every switch."""
    latest: int
    """The highest number that a generation ever had."""
    switched_at: datetime
    switched_by: str
    generations: tuple[Generation, ...]
