"""What operators do with what went wrong: try a parked event again, leave it out, write a product's rows anew.

The log is read first and the database written then, in one transaction that is refused when the world has moved in
between; the projectors are never stopped for it. What is parked may only be let go by somebody who has seen every event
that is held behind it, so none of them can fall between the two.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from almagest.eventstore.v1 import event_pb2

from catalog_query.adapters.drift import DriftTable
from catalog_query.adapters.parked import Parked, ParkedEvents
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.domain.errors import ExceptionsMoved, PoisonousEvent, ReadModelDiverged, UnwritableRows
from catalog_query.domain.folding import NOTHING_SKIPPED, fold
from catalog_query.domain.product import Document, stream_of
from catalog_query.domain.projection import Target
from catalog_query.domain.rows import ProductRow
from catalog_query.projections.product import row
from catalog_query.projections.projection import Projection

_ATTEMPTS: Final = 10


class WholeStreams(Protocol):
    """The log, as far as whole streams go."""

    def forwards(self, stream: str) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        """The events of a stream from the first to the last, in pieces; none when there is no such stream."""
        ...


async def events_of(log: WholeStreams, stream: str) -> list[event_pb2.RecordedEvent]:
    """All events of one stream."""
    events: list[event_pb2.RecordedEvent] = []
    async with aclosing(log.forwards(stream)) as pieces:
        async for piece in pieces:
            events.extend(piece)
    return events


@dataclass(frozen=True, slots=True)
class Folded:
    """What a product's events make of it, up to the first that cannot be applied."""

    document: Document | None
    poison: PoisonousEvent | None

    @property
    def row(self) -> ProductRow | None:
        """The row that there must be."""
        return None if self.document is None else row(self.document, before=None)


def folded(events: Sequence[event_pb2.RecordedEvent], skipped: frozenset[int], *, up_to: int | None = None) -> Folded:
    """Fold a product's events, up to a revision."""
    document: Document | None = None
    for event in events:
        if up_to is not None and event.revision > up_to:
            break
        try:
            document = fold(document, event, skipped)
        except PoisonousEvent as error:
            return Folded(document, error)
    return Folded(document, None)


async def retry(projection: Projection, shard: ReadModelShard, log: WholeStreams, parked: Parked) -> Parked | None:
    """Try a parked event again, and what is held behind it. What could still not be applied, None when the stream goes
    on.

    Raises:
        ExceptionsMoved: the stream grows faster than it can be read.
        RemoteProblem: the log cannot be asked.
    """
    table = ParkedEvents(shard)
    now: Parked | None = parked
    for _ in range(_ATTEMPTS):
        now = await table.get(parked.target.projection, parked.parked_id)
        if now is None:
            return None
        events = await events_of(log, parked.stream)
        skipped = await shard.skipped(parked.target.projection, parked.stream)
        applier = projection.applier(shard, parked.target, filling=False)
        prepared = await applier.prepare(events, skipped, careful=True)
        poison = prepared.poisons[0] if prepared.poisons else None
        try:
            settled = await table.settle(now, rows=prepared.write, poison=poison, seen=events)
        except ReadModelDiverged:
            continue
        except UnwritableRows:
            left_out = skipped.get(parked.stream, NOTHING_SKIPPED)
            unwritable = next(
                event for event in events if event.revision >= now.revision and event.revision not in left_out
            )
            poison = PoisonousEvent(unwritable, f"the database refuses the row that {unwritable.type} makes")
            settled = await table.settle(now, rows=None, poison=poison, seen=events)
        if settled:
            return None if poison is None else await table.get(parked.target.projection, parked.parked_id)
    raise ExceptionsMoved


async def repair(shard: ReadModelShard, log: WholeStreams, target: Target, product_id: UUID) -> tuple[int | None, bool]:
    """Write the row of one product as its events say. The revision, None when there is no such row any more, and
    whether it was another one.

    Raises:
        RemoteProblem: the log cannot be asked.
    """
    table = DriftTable(shard, target)
    stream = stream_of(str(product_id))
    seen = -1
    while True:
        skipped = (await shard.skipped(target.projection, stream)).get(stream, NOTHING_SKIPPED)
        events = await events_of(log, stream)
        must_be = folded(events, frozenset(skipped))
        # A row may be ahead of what was read of the log, if it grows; if it does not, the row is wrong.
        changed = await table.repair(product_id, must_be.row, sure=len(events) == seen)
        seen = len(events)
        if changed is not None:
            return None if must_be.document is None else must_be.document["revision"], changed
