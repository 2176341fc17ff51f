"""What operators do with a parked event: try it again, and what is held behind it.

The log is read first and the database written then, in one transaction that is refused when the world has moved in
between; the projectors are never stopped for it. What is parked may only be let go by somebody who has seen every event
that is held behind it, so none of them can fall between the two.
"""

from typing import Final

from catalog_query.adapters.parked import Parked, ParkedEvents
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.domain.errors import ExceptionsMoved, PoisonousEvent, ReadModelDiverged, UnwritableRows
from catalog_query.domain.folding import NOTHING_SKIPPED
from catalog_query.projections.checks import WholeStreams, events_of
from catalog_query.projections.projection import Projection

_ATTEMPTS: Final = 10


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
