"""The list of schedules, written with the documents, in the same transaction: who waits for a write to be visible sees
both or neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from almagest.eventstore.v1 import event_pb2
from chassis.database.pool import Connection

from catalog_query.adapters.schedules import ScheduleTable
from catalog_query.domain.schedules import Ended, Planned, plan
from catalog_query.projections.projection import Applier, Prepared


class WithSchedules:
    """An applier that also keeps the list of schedules."""

    def __init__(self, inner: Applier, table: ScheduleTable) -> None:
        self._inner = inner
        self._table = table

    async def prepare(
        self, events: Sequence[event_pb2.RecordedEvent], skipped: Mapping[str, frozenset[int]], *, careful: bool
    ) -> Prepared:
        """What the inner one makes of a batch, and what it says about schedules: without what cannot be applied or was
        left out, and what comes after it in its stream.
        """
        prepared = await self._inner.prepare(events, skipped, careful=careful)
        stuck = {poison.event.stream: poison.event.revision for poison in prepared.poisons}
        planned: list[Planned] = []
        ended: list[Ended] = []
        for event in events:
            said = plan(event) if _counts(event, stuck, skipped) else None
            if isinstance(said, Planned):
                planned.append(said)
            elif said is not None:
                ended.append(said)
        if not planned and not ended:
            return prepared

        async def write(connection: Connection) -> None:
            if prepared.write is not None:
                await prepared.write(connection)
            await self._table.write(connection, planned, ended)

        return replace(prepared, write=write)

    def forget(self, stream: str | None = None) -> None:
        """Remember nothing of a stream, or of any."""
        self._inner.forget(stream)


def _counts(event: event_pb2.RecordedEvent, stuck: Mapping[str, int], skipped: Mapping[str, frozenset[int]]) -> bool:
    if stuck and event.revision >= stuck.get(event.stream, event.revision + 1):
        return False
    return not skipped or event.revision not in skipped.get(event.stream, ())
