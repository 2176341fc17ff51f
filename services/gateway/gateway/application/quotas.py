"""How much one person, or one address, may ask for: the generic cell rate algorithm (ITU-T I.371, annex A.1), decided
here, and shared between replicas through Redis behind the requests' backs.

Asking Redis on each request would double the cost of a read. So each replica decides by what it knows, and tells Redis
every tenth of a second what it let through; Redis adds up and answers where everybody together stands. Between two
exchanges each replica may let through what the quota allows it alone: at worst a tenth of a second's worth too much for
each. While Redis is away, the quota holds in each replica by itself.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog

_logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Quota:
    """So many requests in so many seconds, all of them at once if need be."""

    name: str
    requests: int
    seconds: float

    @property
    def interval(self) -> float:
        """Seconds that one request uses up."""
        return self.seconds / self.requests


class Standing(NamedTuple):
    """Where somebody stands after asking: what `RateLimit` tells (draft-ietf-httpapi-ratelimit-headers)."""

    quota: Quota
    allowed: bool
    remaining: int
    """Requests that would be allowed at once."""
    full_after: float
    """Seconds until all of the quota is there again."""
    retry_after: float
    """Seconds until one request would be allowed; 0 when it is now."""


class SharedQuotas(Protocol):
    """What replicas tell each other."""

    async def add(self, debts: Mapping[str, float]) -> Mapping[str, float]:
        """Add seconds of quota used, by key; answers how many seconds of quota each key has used up by now.

        Raises:
            QuotasAway: Nobody can be told at the moment.
        """
        ...


class QuotasAway(Exception):
    """What is shared cannot be reached."""


class _Account:
    """What is known of one key."""

    __slots__ = ("settled_at", "unsent")

    def __init__(self) -> None:
        self.settled_at = 0.0
        """When all that was used will be there again: the theoretical arrival time of the algorithm."""
        self.unsent = 0.0
        """Seconds of quota used that the others do not know of."""


class Quotas:
    """The accounts of all who asked lately, at most `capacity` of them: beyond that, whoever is silent for longest is
    forgotten. The others are told every `share_seconds`, or after `away_seconds` when they could not be.
    """

    def __init__(
        self,
        shared: SharedQuotas | None = None,
        *,
        capacity: int = 100_000,
        share_seconds: float = 0.1,
        away_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = shared
        self._capacity = capacity
        self._share_seconds = share_seconds
        self._away_seconds = away_seconds
        self._clock = clock
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._unsent: set[str] = set()

    def take(self, quota: Quota, who: str) -> Standing:
        """Use up one request of a quota, unless that would be one too many."""
        key = f"{quota.name}:{who}"
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account()
            if len(self._accounts) > self._capacity:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(key)
        interval = quota.interval
        now = self._clock()
        debt = max(0.0, account.settled_at - now) + interval
        # A hair's breadth of tolerance, so that rounding never costs a request.
        if debt > quota.seconds + interval * 1e-6:
            debt -= interval
            return Standing(
                quota, allowed=False, remaining=0, full_after=debt, retry_after=debt + interval - quota.seconds
            )
        account.settled_at = now + debt
        if self._shared is not None:
            account.unsent += interval
            self._unsent.add(key)
        remaining = math.floor((quota.seconds - debt) / interval + 1e-6)
        return Standing(quota, allowed=True, remaining=remaining, full_after=debt, retry_after=0.0)

    async def share(self) -> None:
        """Tell the others what was used here, and learn what was used there, for ever."""
        if self._shared is None:
            return
        away = False
        while True:
            await asyncio.sleep(self._share_seconds)
            try:
                await self.share_once(self._shared)
            except QuotasAway as error:
                if not away:
                    _logger.warning("quotas hold in this replica by itself", problem=str(error))
                away = True
                await asyncio.sleep(self._away_seconds)
            else:
                away = False

    async def share_once(self, shared: SharedQuotas) -> None:
        """One exchange. What could not be told is told by the next one.

        Raises:
            QuotasAway: see `SharedQuotas.add`.
        """
        if not self._unsent:
            return
        keys, self._unsent = self._unsent, set()
        debts: dict[str, float] = {}
        for key in keys:
            account = self._accounts.get(key)
            if account is not None:
                debts[key], account.unsent = account.unsent, 0.0
        try:
            totals = await shared.add(debts)
        except QuotasAway:
            for key, debt in debts.items():
                account = self._accounts.get(key)
                if account is not None:
                    account.unsent += debt
                    self._unsent.add(key)
            raise
        now = self._clock()
        for key, total in totals.items():
            account = self._accounts.get(key)
            if account is not None:
                # What was used here meanwhile is not in the total yet.
                account.settled_at = max(account.settled_at, now + total + account.unsent)
