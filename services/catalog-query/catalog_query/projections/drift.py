"""Whether the rows are what the log says, looked at a few products at a time, for ever.

A projection that is wrong is wrong silently: code that changed without a rebuild, a table that somebody wrote into, a
disk. So products are drawn at random, folded from the log, and compared with their rows, column by column and byte by
byte: half of them from the table, which finds rows that are wrong or should not be, and half from the log, which finds
rows that are missing. A product is only called drifted when two looks at it agree. The versions have their turn as
often as the products.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final, Protocol
from uuid import UUID, uuid4

import structlog
from prometheus_client import Counter, Gauge

from catalog_query.adapters.drift import DriftTable
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.application.freshness import Freshness
from catalog_query.application.shards import Shards
from catalog_query.domain.product import product_id_of
from catalog_query.domain.projection import Target
from catalog_query.projections.checks import Check, Finding, WholeStreams
from catalog_query.projections.ports import Log

_DRAWN: Final = 8
"""Products that are drawn at a time, neighbours of one drawn at random."""
_SECONDS: Final = 5.0

_LABELS: Final = ("projection", "read_shard")

_checked = Counter("almagest_projection_drift_checked_total", "Products compared with the log.", _LABELS)
_found = Counter("almagest_projection_drift_found_total", "Times that a product was found to have drifted.", _LABELS)
_drifted = Gauge("almagest_projection_drifted_products", "Products that drifted and were not repaired.", _LABELS)

_logger = structlog.stdlib.get_logger(__name__)


class CheckedLog(Log, WholeStreams, Protocol):
    """The log, as far as checking goes."""


class DriftCheck:
    """Compares products that are read with the log."""

    def __init__(
        self,
        *,
        log: CheckedLog,
        read_models: Sequence[ReadModelShard],
        shards: Shards,
        checks: Sequence[tuple[Check, Freshness]],
        products_a_second: float,
    ) -> None:
        """Compare.

        Args:
            log: the log.
            read_models: the read model.
            shards: which shard has which products.
            checks: what is compared, with what tells which generation of it is read.
            products_a_second: how many products are compared, of all projections together.
        """
        self._log = log
        self._read_models = read_models
        self._shards = shards
        self._checks = {check.name: (check, freshness) for check, freshness in checks}
        self._rate = products_a_second

    async def run(self) -> None:
        """Check until cancelled."""
        if not self._rate:
            await asyncio.Event().wait()
        while True:
            await asyncio.sleep(_DRAWN / self._rate * random.uniform(0.5, 1.5))  # noqa: S311 - to not go in step
            try:
                projection = random.choice(list(self._checks))  # noqa: S311 - a sample
                read_shard = random.randrange(len(self._read_models))  # noqa: S311 - as above
                async with asyncio.timeout(_SECONDS):
                    drawn = await self._drawn(projection, read_shard)
                for product_id in drawn:
                    async with asyncio.timeout(_SECONDS):
                        await self.check(projection, read_shard, product_id)
                await self.show(projection, read_shard)
            except Exception as error:  # noqa: BLE001 - what cannot be checked now is checked another time
                _logger.info("products could not be compared with the log", problem=type(error).__name__)

    def _target(self, projection: str, read_shard: int) -> Target:
        _, freshness = self._checks[projection]
        return Target(projection, freshness.generation(read_shard))

    async def show(self, projection: str, read_shard: int) -> None:
        """Tell Prometheus what was found and not repaired."""
        table = DriftTable(self._read_models[read_shard], self._target(projection, read_shard))
        _drifted.labels(projection, str(read_shard)).set(len(await table.page(after=UUID(int=0), limit=1_000)))

    async def _drawn(self, projection: str, read_shard: int) -> Sequence[UUID]:
        target = self._target(projection, read_shard)
        if random.random() < 0.5:  # noqa: PLR2004, S311 - see above
            check, _ = self._checks[projection]
            table = DriftTable(self._read_models[read_shard], target)
            return await table.sample(check.table, after=uuid4(), limit=_DRAWN)
        return await self._drawn_from_the_log(target, read_shard)

    async def _drawn_from_the_log(self, target: Target, read_shard: int) -> Sequence[UUID]:
        progress = await self._read_models[read_shard].progress(target)
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

    async def check(self, projection: str, read_shard: int, product_id: UUID) -> Finding | None:
        """Compare one product with the log, and keep what is found."""
        check, _ = self._checks[projection]
        target = self._target(projection, read_shard)
        shard = self._read_models[read_shard]
        table = DriftTable(shard, target)
        finding = await check.look(shard, target, product_id)
        if finding is not None:
            # The row may have been written, or the stream have grown, between two of our looks.
            finding = await check.look(shard, target, product_id)
        _checked.labels(projection, str(read_shard)).inc()
        if finding is None:
            await table.clear(product_id)
            return None
        _found.labels(projection, str(read_shard)).inc()
        await table.record(product_id, kind=finding.kind, revision=finding.revision, fields=finding.fields)
        _logger.error(
            "a row is not what the log says",
            product_id=str(product_id),
            generation=target.schema,
            kind=finding.kind,
            fields=list(finding.fields),
        )
        return finding
