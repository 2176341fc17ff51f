"""Whether the rows are what the log says, looked at a few products at a time, for ever.

A projection that is wrong is wrong silently: code that changed without a rebuild, a table that somebody wrote into, a
disk. So products are drawn at random, folded from the log, and compared with their rows, column by column and byte by
byte: half of them from the table, which finds rows that are wrong or should not be, and half from the log, which finds
rows that are missing. A product is only called drifted when two looks at it agree.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID, uuid4

import structlog
from almagest.eventstore.v1 import event_pb2
from prometheus_client import Counter, Gauge

from catalog_query.adapters.drift import DriftTable
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.application.freshness import Freshness
from catalog_query.application.shards import Shards
from catalog_query.domain.folding import NOTHING_SKIPPED
from catalog_query.domain.product import product_id_of, stream_of
from catalog_query.domain.projection import PRODUCTS, Progress, Target
from catalog_query.projections.ports import Log
from catalog_query.projections.repair import WholeStreams, events_of, folded

_DRAWN: Final = 8
"""Products that are drawn at a time, neighbours of one drawn at random."""
_SECONDS: Final = 5.0

_checked = Counter("almagest_projection_drift_checked_total", "Products compared with the log.", ("read_shard",))
_found = Counter(
    "almagest_projection_drift_found_total", "Times that a product was found to have drifted.", ("read_shard",)
)
_drifted = Gauge(
    "almagest_projection_drifted_products", "Products that drifted and were not repaired.", ("read_shard",)
)

_logger = structlog.stdlib.get_logger(__name__)


class CheckedLog(Log, WholeStreams, Protocol):
    """The log, as far as checking goes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How a row differs from the fold of the log."""

    kind: str
    revision: int
    fields: Sequence[str] = field(default=())


class DriftCheck:
    """Compares products that are read with the log."""

    def __init__(
        self,
        *,
        log: CheckedLog,
        read_models: Sequence[ReadModelShard],
        shards: Shards,
        freshness: Freshness,
        products_a_second: float,
    ) -> None:
        self._log = log
        self._read_models = read_models
        self._shards = shards
        self._freshness = freshness
        self._rate = products_a_second

    async def run(self) -> None:
        """Check until cancelled."""
        if not self._rate:
            await asyncio.Event().wait()
        while True:
            await asyncio.sleep(_DRAWN / self._rate * random.uniform(0.5, 1.5))  # noqa: S311 - to not go in step
            try:
                read_shard = random.randrange(len(self._read_models))  # noqa: S311 - a sample
                async with asyncio.timeout(_SECONDS):
                    drawn = await self._drawn(read_shard)
                for product_id in drawn:
                    async with asyncio.timeout(_SECONDS):
                        await self.check(read_shard, product_id)
                await self.show(read_shard)
            except Exception as error:  # noqa: BLE001 - what cannot be checked now is checked another time
                _logger.info("products could not be compared with the log", problem=type(error).__name__)

    def _target(self, read_shard: int) -> Target:
        return Target(PRODUCTS, self._freshness.generation(read_shard))

    async def show(self, read_shard: int) -> None:
        """Tell Prometheus what was found and not repaired."""
        table = DriftTable(self._read_models[read_shard], self._target(read_shard))
        _drifted.labels(str(read_shard)).set(len(await table.page(after=UUID(int=0), limit=1_000)))

    async def _drawn(self, read_shard: int) -> Sequence[UUID]:
        if random.random() < 0.5:  # noqa: PLR2004, S311 - see above
            table = DriftTable(self._read_models[read_shard], self._target(read_shard))
            return await table.sample(after=uuid4(), limit=_DRAWN)
        return await self._drawn_from_the_log(read_shard)

    async def _drawn_from_the_log(self, read_shard: int) -> Sequence[UUID]:
        progress = await self._read_models[read_shard].progress(self._target(read_shard))
        if not any(progress.positions.values()):
            return ()
        event_shard = random.choice([shard for shard, position in progress.positions.items() if position])  # noqa: S311
        after = random.randrange(progress.positions[event_shard])  # noqa: S311
        buckets = next((pair.buckets for pair in self._shards.pairs() if pair.read_shard == read_shard), ())
        found: dict[UUID, None] = {}
        async with aclosing(
            self._log.subscribe(event_shard=event_shard, after=after, buckets=buckets, heartbeat=1.0)
        ) as messages:
            async for message in messages:
                for event in message.events:
                    found[UUID(product_id_of(event.stream))] = None
                    if len(found) == _DRAWN:
                        return list(found)
                if message.checkpoint.position >= progress.positions[event_shard]:
                    break
        return list(found)

    async def check(self, read_shard: int, product_id: UUID) -> Finding | None:
        """Compare one product with the log, and keep what is found."""
        target = self._target(read_shard)
        table = DriftTable(self._read_models[read_shard], target)
        finding = await self._look(read_shard, target, product_id)
        if finding is not None:
            # The row may have been written, or the stream have grown, between two of our looks.
            finding = await self._look(read_shard, target, product_id)
        _checked.labels(str(read_shard)).inc()
        if finding is None:
            await table.clear(product_id)
            return None
        _found.labels(str(read_shard)).inc()
        await table.record(product_id, kind=finding.kind, revision=finding.revision, fields=finding.fields)
        _logger.error(
            "a row is not what the log says",
            product_id=str(product_id),
            generation=target.schema,
            kind=finding.kind,
            fields=list(finding.fields),
        )
        return finding

    async def _look(self, read_shard: int, target: Target, product_id: UUID) -> Finding | None:
        shard = self._read_models[read_shard]
        table = DriftTable(shard, target)
        stream = stream_of(str(product_id))
        # In this order: what the progress tells is in the row, and what is in the row is in the log.
        progress = await shard.progress(target)
        revision = await table.revision(product_id)
        events = await events_of(self._log, stream)
        skipped = frozenset((await shard.skipped(target.projection, stream)).get(stream, NOTHING_SKIPPED))
        if revision is None:
            return _missing(events, skipped, progress, stream)
        if not events:
            return Finding("extra", revision)
        if revision > events[-1].revision:
            return Finding("ahead", revision)
        applied = _applied(events, progress, stream)
        if applied > revision:
            return Finding("behind", revision)
        must_be = folded(events, skipped, up_to=revision).row
        if must_be is None:
            return Finding("extra", revision)
        differing = await table.differing(must_be)
        return Finding("different", revision, differing) if differing else None


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


def _missing(
    events: Sequence[event_pb2.RecordedEvent], skipped: frozenset[int], progress: Progress, stream: str
) -> Finding | None:
    applied = _applied(events, progress, stream)
    if applied < 0:
        return None
    must_be = folded(events, skipped, up_to=applied)
    return None if must_be.document is None else Finding("missing", must_be.document["revision"])
