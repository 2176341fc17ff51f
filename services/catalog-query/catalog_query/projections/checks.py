"""How one product of a projection is compared with its events, and written anew: for each projection in its own way."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

from almagest.eventstore.v1 import event_pb2

from catalog_query.adapters.drift import DriftTable
from catalog_query.adapters.postgres import ReadModelShard, Write
from catalog_query.adapters.products import COLUMNS
from catalog_query.adapters.version_drift import VersionDrift
from catalog_query.domain.errors import PoisonousEvent
from catalog_query.domain.folding import NOTHING_SKIPPED, fold
from catalog_query.domain.product import Document, stream_of
from catalog_query.domain.projection import PRODUCTS, VERSIONS, Progress, Target
from catalog_query.domain.rows import ProductRow
from catalog_query.domain.schedules import Listed, listed
from catalog_query.domain.versions import Believed, MemoryVersions
from catalog_query.projections.product import row
from catalog_query.projections.versions import Table, VersionApplier

_NAMES: Final = [name for name, _, _ in COLUMNS]


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
class Finding:
    """How what is stored differs from the fold of the log."""

    kind: str
    revision: int
    fields: Sequence[str] = field(default=())


class Check(Protocol):
    """Compares and repairs the products of one projection."""

    name: str
    table: str
    """The template of its table."""

    async def look(self, shard: ReadModelShard, target: Target, product_id: UUID) -> Finding | None:
        """How a product differs from its events, None when it does not."""
        ...

    async def repair(self, shard: ReadModelShard, target: Target, product_id: UUID) -> tuple[int | None, bool]:
        """Write one product as its events say. The revision, None when there is no such product any more, and whether
        it was another one.

        Raises:
            RemoteProblem: the log cannot be asked.
        """
        ...


@dataclass(frozen=True, slots=True)
class Folded:
    """What a product's events make of it, up to the first that cannot be applied."""

    document: Document | None
    listed: Sequence[Listed] = ()
    """All that was ever planned for it."""

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
        except PoisonousEvent:
            break
    if document is None:
        return Folded(None)
    return Folded(document, listed(events, skipped, up_to=document["revision"]))


class ProductCheck:
    """The documents, and the schedules that are listed beside them."""

    name = PRODUCTS
    table = "products"

    def __init__(self, log: WholeStreams) -> None:
        self._log = log

    async def look(self, shard: ReadModelShard, target: Target, product_id: UUID) -> Finding | None:
        """How the row differs, or what is planned."""
        table = DriftTable(shard, target)
        stream = stream_of(str(product_id))
        # In this order: what the progress tells is in the row, and what is in the row is in the log.
        progress = await shard.progress(target)
        revision = await table.revision(product_id)
        events = await events_of(self._log, stream)
        skipped = await _skipped(shard, target, stream)
        applied = _applied(events, progress, stream)
        if revision is None:
            document = folded(events, skipped, up_to=applied).document if applied >= 0 else None
            return None if document is None else Finding("missing", document["revision"])
        if not events:
            return Finding("extra", revision)
        if revision > events[-1].revision:
            return Finding("ahead", revision)
        if applied > revision:
            return Finding("behind", revision)
        must_be = folded(events, skipped, up_to=revision)
        if must_be.row is None:
            return Finding("extra", revision)
        differing = await table.differing(must_be.row, must_be.listed)
        return Finding("different", revision, differing) if differing else None

    async def repair(self, shard: ReadModelShard, target: Target, product_id: UUID) -> tuple[int | None, bool]:
        """Write the row and the schedules anew."""
        table = DriftTable(shard, target)
        stream = stream_of(str(product_id))
        seen = -1
        while True:
            skipped = await _skipped(shard, target, stream)
            events = await events_of(self._log, stream)
            must_be = folded(events, skipped)
            # A row may be ahead of what was read of the log, if it grows; if it does not, the row is wrong.
            changed = await table.repair(product_id, must_be.row, must_be.listed, sure=len(events) == seen)
            seen = len(events)
            if changed is not None:
                return None if must_be.document is None else must_be.document["revision"], changed


class VersionCheck:
    """The versions in two times."""

    name = VERSIONS
    table = "product_versions"

    def __init__(self, log: WholeStreams) -> None:
        self._log = log

    async def look(self, shard: ReadModelShard, target: Target, product_id: UUID) -> Finding | None:
        """How the versions differ in anything that an answer depends on."""
        drift = VersionDrift(shard, target)
        stream = stream_of(str(product_id))
        # In this order, as above.
        progress = await shard.progress(target)
        seen, stored = await drift.told(product_id)
        events = await events_of(self._log, stream)
        if seen > (events[-1].revision if events else -1):
            return Finding("ahead" if events else "extra", seen)
        applied = _applied(events, progress, stream)
        known = [event for event in events if event.revision <= max(seen, applied)]
        memory = MemoryVersions()
        write = await _written(memory, known, await _skipped(shard, target, stream))
        if write is not None:
            # In memory there is no connection to need.
            await write(None)  # pyright: ignore[reportArgumentType]
        must_be = await drift.as_stored(memory.told())
        if stored == must_be:
            return None
        if not stored or not must_be:
            return Finding("extra" if stored else "missing", max(seen, memory.made_by))
        if seen < memory.made_by:
            return Finding("behind", seen)
        return Finding("different", seen, _differing(stored, must_be))

    async def repair(self, shard: ReadModelShard, target: Target, product_id: UUID) -> tuple[int | None, bool]:
        """Take the versions away and write them anew."""
        drift = VersionDrift(shard, target)
        stream = stream_of(str(product_id))
        read = -1
        while True:
            skipped = await _skipped(shard, target, stream)
            events = await events_of(self._log, stream)
            memory = MemoryVersions()
            if (write := await _written(memory, events, skipped)) is not None:
                await write(None)  # pyright: ignore[reportArgumentType]
            changed = await drift.repair(
                product_id,
                await _written(drift.versions, events, skipped),
                memory.told(),
                made_by=memory.made_by,
                sure=len(events) == read,
            )
            read = len(events)
            if changed is not None:
                return memory.made_by if memory.made_by >= 0 else None, changed


class _Read:
    """A stream that was read already."""

    def __init__(self, events: Sequence[event_pb2.RecordedEvent]) -> None:
        self._events = events

    async def backwards(
        self, stream: str, *, from_revision: int | None
    ) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        """Its events from a revision to the first."""
        del stream
        yield [event for event in reversed(self._events) if from_revision is None or event.revision <= from_revision]


async def _written(table: Table, events: Sequence[event_pb2.RecordedEvent], skipped: frozenset[int]) -> Write | None:
    """What writes all versions of a product into a table that has none of them, by the code of the projection."""
    if not events:
        return None
    applier = VersionApplier(table, _Read(events), cached=0)
    by_stream: Mapping[str, frozenset[int]] = {events[0].stream: skipped}
    return (await applier.prepare(events, by_stream, careful=False)).write


async def _skipped(shard: ReadModelShard, target: Target, stream: str) -> frozenset[int]:
    return frozenset((await shard.skipped(target.projection, stream)).get(stream, NOTHING_SKIPPED))


def _applied(events: Sequence[event_pb2.RecordedEvent], progress: Progress, stream: str) -> int:
    """The last revision that must have been applied, -1 when none must."""
    hold = progress.held.get(stream)
    return max(
        (
            event.revision
            for event in events
            if event.position <= progress.positions.get(event.shard, 0)
            and (hold is None or event.revision < hold.revision)
        ),
        default=-1,
    )


def _differing(stored: Sequence[Believed], must_be: Sequence[Believed]) -> Sequence[str]:
    """The columns in which versions of the same time differ; `versions`, when they are not of the same times."""
    found: dict[str, None] = {}
    there = {(one.valid_from, one.recorded_from): one for one in stored}
    wanted = {(one.valid_from, one.recorded_from): one for one in must_be}
    for time, one in wanted.items():
        other = there.get(time)
        if other is None or other[1:] != one[1:]:
            found["versions"] = None
        if other is not None:
            pairs = zip(_NAMES, one.product[1:], other.product[1:], strict=True)
            found.update((name, None) for name, new, old in pairs if new != old)
    if len(there) != len(wanted):
        found["versions"] = None
    return list(found)
