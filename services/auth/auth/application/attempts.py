"""How often passwords may be tried: throttled, never locked.

Each try is paid for before the password is looked at, so that a thousand at once are a thousand, and given back when
the password was right. Three accounts pay, by the generic cell rate algorithm: this person from this address, this
address whoever it tries, and this person from wherever. The last one is what slows down a guesser with many addresses.
It would let the same guesser keep the person out; so it does not count from an address that the person has logged in
from in the last weeks.

Whether there is such a person makes no difference, here as in the time that a password takes.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from auth.domain.errors import TooManyAttempts


@dataclass(frozen=True, slots=True)
class Limit:
    """So many tries at once, and one more each `interval` seconds."""

    name: str
    burst: int
    interval: float


HERE: Final = Limit("here", 5, 30.0)
ADDRESS: Final = Limit("address", 50, 6.0)
ACCOUNT: Final = Limit("account", 20, 60.0)
KNOWN_SECONDS: Final = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays, and by what limit."""

    key: str
    limit: Limit


class Ledger(Protocol):
    """Where it is written down who has paid how much."""

    async def take(self, payers: Sequence[Payer], *, known: str, excused: str) -> float:
        """Let all of them pay for a try, or none. Answers the seconds until they could; 0 when they did.

        `excused` is the key of the payer that need not pay if `known` is remembered.
        """
        ...

    async def give_back(self, payers: Sequence[Payer], *, cleared: str, known: str) -> None:
        """The try was right: pay it back, forget all that `cleared` owes, and remember `known`."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try that was paid for."""

    payers: tuple[Payer, ...]
    here: str
    known: str


class Attempts:
    """Lets passwords be tried."""

    def __init__(self, ledger: Ledger, *, digest: Callable[[str], str]) -> None:
        self._ledger = ledger
        self._digest = digest

    async def begin(self, account: str, address: str) -> Attempt:
        """Pay for a try of a password: of whom (in any stable form) and from where, empty if not known.

        Raises:
            TooManyAttempts: wait.
        """
        person = self._digest(account)
        here = self._digest(f"{account} {address}")
        payers = [Payer(f"here:{here}", HERE), Payer(f"account:{person}", ACCOUNT)]
        if address:
            payers.append(Payer(f"address:{self._digest(address)}", ADDRESS))
        wait = await self._ledger.take(payers, known=f"known:{here}", excused=f"account:{person}")
        if wait > 0:
            raise TooManyAttempts(wait)
        return Attempt(tuple(payers), f"here:{here}", f"known:{here}")

    async def succeeded(self, attempt: Attempt) -> None:
        """The password was right."""
        await self._ledger.give_back(attempt.payers, cleared=attempt.here, known=attempt.known)


class LocalLedger:
    """In this process: for where there is no Redis, and while it is away. The last `capacity` keys are remembered."""

    def __init__(self, *, capacity: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._settled: OrderedDict[str, float] = OrderedDict()
        self._known: OrderedDict[str, float] = OrderedDict()

    async def take(self, payers: Sequence[Payer], *, known: str, excused: str) -> float:
        """See `Ledger`."""
        now = self._clock()
        paying = [payer for payer in payers if payer.key != excused or self._known.get(known, 0.0) <= now]
        after = [max(now, self._settled.get(payer.key, 0.0)) + payer.limit.interval for payer in paying]
        wait = max(
            settled - now - payer.limit.burst * payer.limit.interval
            for payer, settled in zip(paying, after, strict=True)
        )
        if wait > 0:
            return wait
        for payer, settled in zip(paying, after, strict=True):
            self._keep(self._settled, payer.key, settled)
        return 0.0

    async def give_back(self, payers: Sequence[Payer], *, cleared: str, known: str) -> None:
        """See `Ledger`."""
        for payer in payers:
            if payer.key == cleared:
                self._settled.pop(payer.key, None)
            elif payer.key in self._settled:
                self._settled[payer.key] -= payer.limit.interval
        self._keep(self._known, known, self._clock() + KNOWN_SECONDS)

    def _keep(self, where: OrderedDict[str, float], key: str, value: float) -> None:
        where[key] = value
        where.move_to_end(key)
        if len(where) > self._capacity:
            where.popitem(last=False)
