"""Lists schedules over all shards."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Protocol
from uuid import UUID

from catalog_query.application.shards import Shards
from catalog_query.domain.schedules import Schedule


class Table(Protocol):
    """The schedules of one shard."""

    async def page(
        self,
        *,
        states: Sequence[str],
        product_id: UUID | None,
        due_before: datetime | None,
        after: tuple[datetime, UUID] | None,
        limit: int,
    ) -> Sequence[Schedule]:
        """Schedules by time, after one of them."""
        ...

    async def due(self, limit: int) -> Sequence[Schedule]:
        """What is to be carried out now, by time."""
        ...

    async def coming(self) -> tuple[datetime | None, int]:
        """When something is due next, or to be tried again; and how many are kept by a refusal."""
        ...

    async def refuse(self, refusals: Sequence[tuple[UUID, int, str, str]]) -> None:
        """Note why schedules were not carried out."""
        ...


@dataclass(frozen=True, slots=True)
class Listing:
    """What to list.

    Attributes:
        after: the time and id of the last schedule of the page before.
    """

    states: Sequence[str]
    product_id: UUID | None = None
    due_before: datetime | None = None
    after: tuple[datetime, UUID] | None = None
    size: int = 50


@dataclass(frozen=True, slots=True)
class RefusedSchedule:
    """A schedule that was not carried out, and why."""

    schedule_id: UUID
    product_id: UUID
    code: int
    reason: str
    message: str


class Schedules:
    """The lists of all shards as one."""

    def __init__(self, *, shards: Shards, tables: Sequence[Table]) -> None:
        self._shards = shards
        self._tables = tables

    async def page(self, listing: Listing) -> tuple[Sequence[Schedule], tuple[datetime, UUID] | None]:
        """A page by time, and what to go on after; None on the last."""
        tables = self._tables
        if listing.product_id is not None:
            tables = [tables[self._shards.read_shard_of(str(listing.product_id))]]
        pages = await asyncio.gather(
            *(
                table.page(
                    states=listing.states,
                    product_id=listing.product_id,
                    due_before=listing.due_before,
                    after=listing.after,
                    limit=listing.size + 1,
                )
                for table in tables
            )
        )
        found = list(islice(merge(*pages, key=_key), listing.size + 1))
        if len(found) <= listing.size:
            return found, None
        return found[:-1], _key(found[-2])

    async def due(self, limit: int) -> tuple[Sequence[Schedule], datetime | None, int]:
        """What is due, those due first first; when to ask again; how many are kept by a refusal."""
        pages = await asyncio.gather(*(table.due(limit) for table in self._tables))
        coming = await asyncio.gather(*(table.coming() for table in self._tables))
        nexts = [at for at, _ in coming if at is not None]
        return (
            list(islice(merge(*pages, key=_key), limit)),
            min(nexts) if nexts else None,
            sum(kept for _, kept in coming),
        )

    async def refuse(self, refusals: Sequence[RefusedSchedule]) -> None:
        """Note why schedules were not carried out."""
        by_shard: Mapping[int, list[tuple[UUID, int, str, str]]] = {shard: [] for shard in range(len(self._tables))}
        for one in refusals:
            shard = self._shards.read_shard_of(str(one.product_id))
            by_shard[shard].append((one.schedule_id, one.code, one.reason, one.message))
        await asyncio.gather(*(self._tables[shard].refuse(rows) for shard, rows in by_shard.items() if rows))


def _key(schedule: Schedule) -> tuple[datetime, UUID]:
    return schedule.planned.effective_at, UUID(schedule.planned.schedule_id)
