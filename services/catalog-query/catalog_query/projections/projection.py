"""What a projection is: events in, rows out, written in the transaction of the checkpoint.

Everything else (subscriptions, leases, parking, generations, lag) is the same for every projection and knows only this.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from almagest.eventstore.v1 import event_pb2

from catalog_query.adapters.postgres import ReadModelShard, Write
from catalog_query.domain.errors import PoisonousEvent
from catalog_query.domain.projection import Target


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch of events as it is to be written."""

    write: Write | None = None
    """Writes the rows; None when there are none."""
    poisons: Sequence[PoisonousEvent] = ()
    """The first event of each stream that cannot be applied. No later event of its stream is in the rows."""
    committed: Callable[[], None] = _nothing
    """To be called when it has been committed: only then may it be remembered."""


class Applier(Protocol):
    """Turns the events of one pair of shards into rows of one generation."""

    async def prepare(
        self, events: Sequence[event_pb2.RecordedEvent], skipped: Mapping[str, frozenset[int]], *, careful: bool
    ) -> Prepared:
        """What a batch makes of the rows that there are. An event whose revision a row has already is passed over.

        Args:
            events: the batch, in the order of the log, without streams that are held.
            skipped: by stream, the revisions that are to be left out.
            careful: whether to look at every row, also where a stream seems to begin: set after a batch turned out to
                be folded upon something else.
        """
        ...

    def forget(self, stream: str | None = None) -> None:
        """Remember nothing of a stream, or of any."""
        ...


class Projection(Protocol):
    """One way of making rows of events, into a table per generation that is named as its template is."""

    name: str
    title: str
    """What its traces are called."""

    def applier(self, shard: ReadModelShard, target: Target, *, filling: bool) -> Applier:
        """For one pair of shards and one generation.

        Args:
            shard: the shard of the read model.
            target: the generation.
            filling: whether it is being filled from the beginning of the log: nobody reads it, it has no indexes
                beside its primary key, and batches are large.
        """
        ...
