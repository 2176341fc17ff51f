"""Lists and searches of the past: the pages of the present, over what held at a moment by what was known at another.

They read a table that a projection of its own keeps. So first is seen to that it has all that was recorded until the
moment of knowledge: usually it has, otherwise it is waited for, and not for long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from catalog_query.application.freshness import Freshness, Wanted
from catalog_query.application.holds import Holds
from catalog_query.application.past import Log, Resolved
from catalog_query.application.reads import ProductReader
from catalog_query.application.shards import Shards
from catalog_query.domain.query import Found, Key, Query


class Versions(Protocol):
    """One shard's products as they were, in order."""

    async def page(self, query: Query, *, as_of: datetime, known_at: datetime) -> Sequence[Found]:
        """The first `query.size` products that the query keeps, in its order, of those that held at `as_of` by what
        was recorded by `known_at`.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Then:
    """One shard at a moment."""

    versions: Versions
    moment: Resolved

    async def page(self, query: Query) -> Sequence[Found]:
        """A page of it."""
        return await self.versions.page(query, as_of=self.moment.as_of, known_at=self.moment.known_at)


class PastPages:
    """Pages over all shards at a moment."""

    def __init__(
        self,
        *,
        log: Log,
        shards: Shards,
        freshness: Freshness,
        holds: Holds,
        versions: Sequence[Versions],
        page_bytes: int,
    ) -> None:
        self._log = log
        self._shards = shards
        self._freshness = freshness
        self._holds = holds
        self._versions = versions
        self._page_bytes = page_bytes

    async def page(
        self, query: Query, moment: Resolved, *, wanted: Sequence[Wanted], timeout: float
    ) -> tuple[Sequence[Found], Key | None]:
        """A page, and the place to go on from, None when this is the last one.

        Raises:
            NotYetVisible: what was recorded until then was not in the table within `timeout` seconds.
            StreamHeld: what one of `wanted` stands for is held.
            RemoteProblem: the log cannot be asked how far it is.
        """
        await self._freshness.wait_for_all(await self._missing(moment), timeout=timeout)
        self._holds.check_all(wanted)
        reader = ProductReader(
            shards=self._shards,
            documents=(),
            pages=[_Then(versions, moment) for versions in self._versions],
            page_bytes=self._page_bytes,
        )
        return await reader.page(query)

    async def _missing(self, moment: Resolved) -> Sequence[Wanted]:
        """The positions that must be visible, and may not be."""
        missing: list[Wanted] = []
        for shard, head in (await self._log.shard_map()).heads.items():
            behind = [
                Wanted(event_shard=shard, read_shard=read_shard, position=head)
                for read_shard in range(self._shards.read_shards)
                if self._freshness.position(event_shard=shard, read_shard=read_shard) < head
            ]
            if not behind:
                continue
            first = min(self._freshness.position(event_shard=shard, read_shard=one.read_shard) for one in behind) + 1
            # Recorded time never goes back in a shard: what is not there yet may all be later than what is asked for.
            if await self._log.recorded_at(shard=shard, position=first) <= moment.known_at:
                missing.extend(behind)
        return missing
