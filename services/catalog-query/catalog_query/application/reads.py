"""Reads of the read model: by id, and pages over all shards."""

import asyncio
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol
from uuid import UUID

from catalog_query.application.shards import Shards
from catalog_query.domain.query import Found, Key, Query
from catalog_query.domain.rows import StoredDocument


class Documents(Protocol):
    """One shard's documents by id."""

    async def read(self, product_ids: Sequence[UUID]) -> Mapping[UUID, StoredDocument]:
        """Those that there are."""
        ...


class Pages(Protocol):
    """One shard's products in order."""

    async def page(self, query: Query) -> Sequence[Found]:
        """The first `query.size` products that the query keeps, in its order."""
        ...


class ProductReader:
    """Reads products from whichever shard has them."""

    def __init__(
        self, *, shards: Shards, documents: Sequence[Documents], pages: Sequence[Pages], page_bytes: int
    ) -> None:
        self._shards = shards
        self._documents = documents
        self._pages = pages
        self._page_bytes = page_bytes

    async def get(self, product_ids: Sequence[UUID]) -> Mapping[UUID, StoredDocument | Exception]:
        """Those products that there are. A shard that cannot be read gives its error for each of its products, and
        leaves the others alone.
        """
        by_shard: dict[int, list[UUID]] = {}
        for product_id in dict.fromkeys(product_ids):
            by_shard.setdefault(self._shards.read_shard_of(str(product_id)), []).append(product_id)
        if len(by_shard) == 1:
            [(shard, wanted)] = by_shard.items()
            return await self._read(shard, wanted)
        found: dict[UUID, StoredDocument | Exception] = {}
        for part in await asyncio.gather(*(self._read(shard, wanted) for shard, wanted in by_shard.items())):
            found.update(part)
        return found

    async def _read(self, shard: int, product_ids: Sequence[UUID]) -> Mapping[UUID, StoredDocument | Exception]:
        try:
            return await self._documents[shard].read(product_ids)
        except Exception as error:  # noqa: BLE001 - it becomes the answer for these products
            return dict.fromkeys(product_ids, error)

    async def page(self, query: Query) -> tuple[Sequence[Found], Key | None]:
        """A page over all shards, and the place to go on from, None when this is the last page.

        A page ends early when its documents grow beyond what one message should carry.
        """
        # One more than is asked for tells whether there is a next page.
        parts = await self._scatter(replace(query, size=query.size + 1))
        merged = list(
            islice(heapq.merge(*parts, key=lambda found: found.key, reverse=query.descending), query.size + 1)
        )
        fitting = self._fitting(merged[: query.size])
        return fitting, fitting[-1].key if len(fitting) < len(merged) else None

    async def _scatter(self, query: Query) -> Sequence[Sequence[Found]]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(shard.page(query)) for shard in self._pages]
        except* Exception as errors:  # noqa: BLE001 - it is raised again
            # A page without one of its shards would be wrong, whatever the other shards said.
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    def _fitting(self, found: Sequence[Found]) -> Sequence[Found]:
        size = 0
        for count, one in enumerate(found):
            size += len(one.document)
            if count and size > self._page_bytes:
                return found[:count]
        return found
