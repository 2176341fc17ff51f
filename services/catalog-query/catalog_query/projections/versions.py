"""The products in two times: every version that was ever believed, so that lists and searches can look back.

What holds at a time T by what was known at a time R is one row of a product: `valid_from <= T < valid_to`,
`recorded_from <= R < recorded_to` and `min(T, R) < superseded_at`. The third condition spares most of the work that two
times usually cost: an ordinary event says something about now and after, so what was believed before stays true for the
time before it. It ends the row in one column and adds one row, where two times by the book would end one row and add
two. Only what reaches into the past (a correction, a schedule carried out) closes rows in `recorded_to` and says again
what still holds.

An ordinary event needs the latest row only. What is scheduled or corrected is folded anew from the product's stream,
by the same pure fold that answers a single product.

This is a projection of its own, with its own checkpoint, and it gives way: while the one that answers the present is
behind, this one does little.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final, Protocol
from uuid import UUID

from almagest.eventstore.v1 import event_pb2
from chassis.database.pool import Connection

from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.adapters.versions import VersionTable
from catalog_query.application.history import Streams
from catalog_query.domain import timeline
from catalog_query.domain.errors import InapplicableEvent, PoisonousEvent
from catalog_query.domain.folding import NOTHING_SKIPPED, fold
from catalog_query.domain.product import Document, product_id_of
from catalog_query.domain.projection import VERSIONS, Target
from catalog_query.domain.rows import LatestVersion, Splice, VersionRow
from catalog_query.projections.product import UnnamedProduct, document_of, row
from catalog_query.projections.projection import Prepared

_BETWEEN_TURNS: Final = 100
_LOOKS: Final = 20
_PAUSE: Final = 0.05
"""A batch is put off for as many pauses, in seconds, and not longer: the past must come on, too."""


class Table(Protocol):
    """The table of versions, or what stands for it."""

    async def latest(self, product_ids: Sequence[UUID]) -> Mapping[UUID, LatestVersion]:
        """The row of each of these products that holds for ever after."""
        ...

    async def write(
        self,
        connection: Connection,
        *,
        ends: Sequence[tuple[UUID, int, datetime, datetime]],
        rows: Sequence[VersionRow],
        splices: Sequence[Splice],
    ) -> None:
        """End rows, add rows, splice."""
        ...


class Versions:
    """The projection into `product_versions`."""

    name = VERSIONS
    title = "project versions"

    def __init__(
        self,
        streams: Streams,
        *,
        cached: int,
        cached_while_filling: int | None = None,
        gives_way: Callable[[], bool] = lambda: False,
    ) -> None:
        """Project versions.

        Args:
            streams: the log.
            cached: how many products each projector remembers.
            cached_while_filling: the same, while there is a lot to write.
            gives_way: whether something more urgent is to be done on this processor.
        """
        self._streams = streams
        self._cached = cached
        self._cached_while_filling = cached if cached_while_filling is None else cached_while_filling
        self._gives_way = gives_way

    def applier(self, shard: ReadModelShard, target: Target, *, filling: bool) -> "VersionApplier":
        """For one pair of shards and one generation."""
        return VersionApplier(
            VersionTable(shard, target, filling=filling),
            self._streams,
            cached=self._cached_while_filling if filling else self._cached,
            gives_way=self._gives_way,
            filling=filling,
        )


@dataclass(frozen=True, slots=True)
class _Latest:
    """The row of a product that holds for ever after, as far as is known."""

    document: Document
    made_by: int
    valid_from: datetime
    planned: bool
    words: str | None = None
    """Kept while filling, so that every row can be written by COPY."""

    @property
    def base(self) -> Document:
        """What the next event is folded upon. An event that was left out may have moved the revision alone."""
        if self.document["revision"] == self.made_by:
            return self.document
        return {**self.document, "revision": self.made_by}


@dataclass(slots=True)
class _Batch:
    """What is to be written: ordinary products in a few statements, the others each by itself."""

    ends: list[tuple[UUID, int, datetime, datetime]]
    rows: list[VersionRow]
    splices: list[Splice]
    latest: dict[str, _Latest]
    poisons: dict[str, PoisonousEvent]


class VersionApplier:
    """Turns events into versions."""

    def __init__(
        self,
        table: Table,
        streams: Streams,
        *,
        cached: int,
        gives_way: Callable[[], bool] = lambda: False,
        filling: bool = False,
    ) -> None:
        self._filling = filling
        self._gives_way = gives_way
        self._table = table
        self._streams = streams
        self._most_cached = cached
        self._latest: OrderedDict[str, _Latest] = OrderedDict()

    async def prepare(
        self, events: Sequence[event_pb2.RecordedEvent], skipped: Mapping[str, frozenset[int]], *, careful: bool
    ) -> Prepared:
        """The versions that a batch ends and begins."""
        for _ in range(_LOOKS):
            if not self._gives_way():
                break
            await asyncio.sleep(_PAUSE)
        batch = _Batch([], [], [], {}, {})
        by_stream: dict[str, list[event_pb2.RecordedEvent]] = {}
        for event in events:
            by_stream.setdefault(event.stream, []).append(event)
        latest = await self._known(by_stream, batch.poisons, careful=careful)
        for count, (stream, arrived) in enumerate(by_stream.items()):
            if stream not in batch.poisons:
                await self._apply(batch, arrived, latest.get(stream), skipped.get(stream, frozenset()))
            if count % _BETWEEN_TURNS == _BETWEEN_TURNS - 1:
                await asyncio.sleep(0)

        async def write(connection: Connection) -> None:
            await self._table.write(connection, ends=batch.ends, rows=batch.rows, splices=batch.splices)

        def committed() -> None:
            self._remember(batch.latest)
            for held in batch.poisons:
                self.forget(held)

        changes = batch.rows or batch.splices
        return Prepared(write if changes else None, list(batch.poisons.values()), committed)

    async def _apply(
        self,
        batch: _Batch,
        arrived: Sequence[event_pb2.RecordedEvent],
        latest: _Latest | None,
        skipped: frozenset[int],
    ) -> None:
        """Take the events of one product up to the first that cannot be applied."""
        states: list[tuple[event_pb2.RecordedEvent, Document]] = []
        document = None if latest is None else latest.base
        for event in arrived:
            try:
                after = fold(document, event, skipped or NOTHING_SKIPPED)
            except PoisonousEvent as error:
                batch.poisons[event.stream] = error
                break
            if after is not None and after is not document:
                states.append((event, after))
            document = after
        if not states:
            return
        plain = all(event.revision in skipped or timeline.is_plain(event) for event, _ in states)
        if plain and not (latest and latest.planned):
            self._continue(batch, states, latest)
        else:
            try:
                await self._fold_anew(batch, [event for event, _ in states], latest, skipped)
            except PoisonousEvent as error:
                batch.poisons[error.event.stream] = error
            except (ValueError, OverflowError) as error:
                # A time that no calendar has.
                batch.poisons[states[0][0].stream] = InapplicableEvent(states[0][0], error)

    def _continue(
        self, batch: _Batch, states: Sequence[tuple[event_pb2.RecordedEvent, Document]], latest: _Latest | None
    ) -> None:
        """Add a version for each time at which something was recorded; each ends the one before it."""
        before = None if latest is None else latest.document
        words = None if latest is None else latest.words
        begun: VersionRow | None = None
        for time, group in groupby(states, key=lambda state: timeline.recorded(state[0])):
            event, document = list(group)[-1]
            if begun is not None:
                batch.rows.append(begun._replace(superseded_at=time))
            elif latest is not None:
                batch.ends.append((_uuid(event), latest.made_by, latest.valid_from, time))
            made = row(document, before=before)
            # Words that did not change are those of the version before: in this batch, or in the table.
            words = made.search or words
            begun = VersionRow(
                product=made._replace(search=words),
                made_by=event.revision,
                words_of=None if latest is None else (latest.made_by, latest.valid_from),
                valid_from=time,
                recorded_from=time,
            )
            before = document
            kept = words if self._filling else None
            batch.latest[event.stream] = _Latest(document, event.revision, time, planned=False, words=kept)
        assert begun is not None  # noqa: S101 - there is at least one group
        batch.rows.append(begun)

    async def _fold_anew(
        self,
        batch: _Batch,
        events: Sequence[event_pb2.RecordedEvent],
        latest: _Latest | None,
        skipped: frozenset[int],
    ) -> None:
        """Say anew what holds from the earliest time that the events affect, once per time of recording."""
        history = await self._history(events[-1], skipped)
        seen = -1 if latest is None else latest.made_by
        for time, group in groupby(events, key=timeline.recorded):
            recorded = list(group)
            last = recorded[-1].revision
            known = [event for event in history if event.revision <= last]
            since = min(
                (timeline.affected_from(known, event) for event in recorded if event.revision not in skipped),
                default=time,
            )
            parts = timeline.segments(known, since=min(since, time))
            planned = bool(timeline.open_schedules(known))
            splice = Splice(
                product_id=_uuid(recorded[-1]),
                seen=seen,
                made_by=last,
                at=time,
                since=min(since, time),
                rows=[
                    VersionRow(
                        product=row(part.document, before=None),
                        made_by=last,
                        valid_from=part.valid_from,
                        recorded_from=time,
                        valid_to=part.valid_to,
                        planned=planned,
                    )
                    for part in parts
                ],
            )
            batch.splices.append(splice)
            seen = last
            if parts:
                batch.latest[recorded[-1].stream] = _Latest(
                    parts[-1].document, last, parts[-1].valid_from, planned=planned
                )

    async def _history(
        self, last: event_pb2.RecordedEvent, skipped: frozenset[int]
    ) -> Sequence[event_pb2.RecordedEvent]:
        found: list[event_pb2.RecordedEvent] = []
        async with aclosing(self._streams.backwards(last.stream, from_revision=last.revision)) as pieces:
            async for piece in pieces:
                found.extend(event for event in piece if event.revision not in skipped)
        found.reverse()
        return found

    async def _known(
        self,
        by_stream: Mapping[str, Sequence[event_pb2.RecordedEvent]],
        poisons: dict[str, PoisonousEvent],
        *,
        careful: bool,
    ) -> Mapping[str, _Latest]:
        known: dict[str, _Latest] = {}
        missing: dict[UUID, str] = {}
        for stream, arrived in by_stream.items():
            first = arrived[0]
            cached = self._latest.get(stream)
            try:
                product_id = _uuid(first)
            except UnnamedProduct as error:
                poisons[stream] = error
                continue
            if cached is not None:
                known[stream] = cached
            elif first.revision or careful or first.HasField("original"):
                missing[product_id] = stream
        if missing:
            for product_id, found in (await self._table.latest(list(missing))).items():
                known[missing[product_id]] = _latest(found)
        return known

    def _remember(self, changed: Mapping[str, _Latest]) -> None:
        for stream, latest in changed.items():
            self._latest[stream] = latest
            self._latest.move_to_end(stream)
        while len(self._latest) > self._most_cached:
            self._latest.popitem(last=False)

    def forget(self, stream: str | None = None) -> None:
        """Remember nothing of a product, or of any."""
        if stream is None:
            self._latest.clear()
        else:
            self._latest.pop(stream, None)


def _latest(found: LatestVersion) -> _Latest:
    return _Latest(document_of(found.document), found.made_by, found.valid_from, found.planned, found.words)


def _uuid(event: event_pb2.RecordedEvent) -> UUID:
    try:
        return UUID(product_id_of(event.stream))
    except ValueError:
        raise UnnamedProduct(event) from None
