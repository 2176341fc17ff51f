"""Forgetting a person, and proving it.

What is known of the person is destroyed in one transaction, before the request is answered. What might be left, in
events, read models, jobs, caches and logs, is searched for afterwards, by whichever replica takes it up; a search that
breaks off begins anew. Only then the words that were searched for are destroyed too.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from auth.application.people import Clock
from auth.domain.erasures import Erasure, Store, Terms
from auth.domain.errors import NotAboutYou, UnknownErasure, UnknownPerson

_LEASE = timedelta(seconds=60)
_KEPT_EVERY = timedelta(seconds=1)

_logger = structlog.get_logger(__name__)


class Erasures(Protocol):
    """Where people are forgotten, and erasures kept."""

    async def forget(self, user_id: UUID, *, requested_by: UUID, block_email: bool, now: datetime) -> Erasure | None:
        """Destroy the person's key, delete what is known of them, end their sessions and keys, and keep what is to be
        searched for. None when there is no such person.
        """
        ...

    async def find(self, user_id: UUID) -> Erasure | None:
        """The erasure of a person."""
        ...

    async def take(self, *, now: datetime, until: datetime) -> tuple[Erasure, Terms] | None:
        """An erasure whose search nobody is at, to be searched for until then."""
        ...

    async def told(self, erasure: Erasure, *, until: datetime) -> None:
        """Keep how far a search is."""
        ...

    async def finish(self, erasure: Erasure) -> None:
        """Keep what was found, and destroy what was searched for."""
        ...


class Places(Protocol):
    """Everything that is searched."""

    def search(self, terms: Terms) -> AsyncGenerator[Store]:
        """Search everywhere, and tell how far it is, the same store again and again."""
        ...


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What forgetting needs."""

    erasures: Erasures
    places: Places
    forgotten: Callable[[UUID], None]
    """Told of each person that is forgotten here, so that nothing is remembered any more."""
    clock: Clock

    async def forget(
        self, user_id: UUID, *, asking: UUID, may_forget_others: bool, block_email: bool = False
    ) -> Erasure:
        """Forget a person. The same again answers the erasure as it stands.

        Raises:
            NotAboutYou: whether the person exists is not told to those who may not know.
            UnknownPerson
        """
        if not may_forget_others and user_id != asking:
            raise NotAboutYou
        erasure = await self.erasures.forget(
            user_id, requested_by=asking, block_email=block_email and may_forget_others, now=self.clock()
        )
        self.forgotten(user_id)
        if erasure is None:
            erasure = await self.erasures.find(user_id)
        if erasure is None:
            raise UnknownPerson
        return erasure

    async def erasure(self, user_id: UUID, *, may_see: bool) -> Erasure:
        """The erasure of a person.

        Raises:
            NotAboutYou, UnknownErasure
        """
        if not may_see:
            raise NotAboutYou
        erasure = await self.erasures.find(user_id)
        if erasure is None:
            raise UnknownErasure
        return erasure

    async def search(self) -> bool:
        """Search for what is left of one forgotten person. Answers whether there was one."""
        taken = await self.erasures.take(now=self.clock(), until=self.clock() + _LEASE)
        if taken is None:
            return False
        erasure, terms = taken
        stores: dict[tuple[str, str], Store] = {}
        kept_at = self.clock()
        async with aclosing(self.places.search(terms)) as search:
            async for store in search:
                stores[store.service, store.store] = store
                if self.clock() - kept_at >= _KEPT_EVERY:
                    kept_at = self.clock()
                    await self.erasures.told(_with(erasure, stores.values()), until=kept_at + _LEASE)
        await self.erasures.finish(replace(_with(erasure, stores.values()), certified_at=self.clock()))
        return True

    async def watch(self, every: float) -> None:
        """Search for ever, whenever somebody was forgotten."""
        while True:
            try:
                searched = await self.search()
            except Exception:
                # Somebody takes it up again when the lease is over.
                _logger.warning("the search for a forgotten person's traces broke off", exc_info=True)
                searched = False
            if not searched:
                await asyncio.sleep(every)


def _with(erasure: Erasure, stores: Iterable[Store]) -> Erasure:
    return replace(erasure, stores=tuple(stores))
