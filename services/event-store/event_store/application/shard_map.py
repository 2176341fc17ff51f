"""Where each bucket is: what the shards themselves say, joined to one map.

There is no map anywhere that could contradict the shards: each database keeps a bit per bucket, in the row that every
append locks, and that bit alone decides whether it takes an append, and whether it may answer for a stream. The map
that a replica routes by is only its latest look at those bits. One that is out of date sends a request to a shard that
refuses it, which makes the replica look again, and wait as long as a move holds the bucket back.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from chassis.buckets import BUCKETS, BucketMap, ShardMap
from chassis.deadlines import remaining

from event_store.application.append_loop import Answer, AppendLoop, NotWritten
from event_store.application.membership import ShardsUnusable
from event_store.domain.append import Append
from event_store.domain.errors import BucketMoved, DifferentShards

T = TypeVar("T")

_LOOK_SECONDS: Final = (0.005, 0.1)
"""How soon to look again while a bucket is held by no shard, at first and at most."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one shard says of itself."""

    epoch: int
    """The latest version of the map that it has heard of."""
    buckets: frozenset[int]
    """The buckets that it takes appends for."""


class Places(Protocol):
    """Where each bucket is, in the latest version that is known."""

    @property
    def epoch(self) -> int:
        """The version."""
        ...

    def shard_of(self, bucket: int) -> int:
        """The shard of a bucket."""
        ...

    def ranges(self, shard: int) -> list[tuple[int, int]]:
        """The buckets of a shard."""
        ...


class Shard(Protocol):
    """One shard, as the map needs it. Every method raises `NotWritten` when it cannot be asked."""

    async def held(self) -> Held:
        """Which buckets it holds, at one moment."""
        ...

    async def moving(self) -> Mapping[int, int]:
        """Of shard 0: the buckets that are being moved, and the shard that they come from."""
        ...


def joined(held: Sequence[Held], before: Sequence[int]) -> ShardMap:
    """The map that the shards' own accounts make.

    They are not from one moment. A bucket that two claim has moved in between, from the one that has not heard of the
    version in which the other holds it. One that none claims is being moved, or moved in between: it is taken to be
    where it was before (by bucket; -1: not known).

    Raises:
        ShardsUnusable: It cannot be, or is not known where a bucket was before.
    """
    owners = list(before)
    versions = [0] * BUCKETS
    for shard, account in enumerate(held):
        for bucket in account.buckets:
            if account.epoch > versions[bucket]:
                versions[bucket] = account.epoch
                owners[bucket] = shard
            elif account.epoch == versions[bucket]:
                raise ShardsUnusable(f"bucket {bucket} is held by shards {owners[bucket]} and {shard}")
    if -1 in owners:
        raise ShardsUnusable(f"no shard holds bucket {owners.index(-1)}, and it is not being moved")
    return ShardMap(max(account.epoch for account in held), owners, shards=len(held))


class Routing:
    """The map that this replica routes by."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._changed: Callable[[int], None] | None = None
        self._held: list[Held] = []
        self._holding = [Holding(shard) for shard in shards]
        self._map: ShardMap = BucketMap(len(shards))
        self._looking: asyncio.Task[None] | None = None
        self._rumour = asyncio.Event()

    @property
    def epoch(self) -> int:
        """The version of the map."""
        return self._map.epoch

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self._shards)

    @property
    def map(self) -> ShardMap:
        """The map as it is now."""
        return self._map

    def shard_of(self, bucket: int) -> int:
        """The shard that holds a bucket, as far as is known here."""
        return self._map.shard_of(bucket)

    def ranges(self, shard: int) -> list[tuple[int, int]]:
        """The buckets of a shard, as far as is known here."""
        return self._map.ranges(shard)

    async def open(self) -> None:
        """Look for the first time, at every shard.

        Raises:
            ShardsUnusable: The shards contradict each other.
            NotWritten: One cannot be asked.
        """
        for attempt in range(3):
            # What is held by none, and is no longer being moved, was taken between the two questions.
            moving = await self._shards[0].moving()
            self._held = list(await asyncio.gather(*(shard.held() for shard in self._shards)))
            try:
                self._map = joined(self._held, [moving.get(bucket, -1) for bucket in range(BUCKETS)])
            except ShardsUnusable:
                if attempt == 2:  # noqa: PLR2004 - the last of three
                    raise
            else:
                return

    async def look(self) -> None:
        """Look again; those who ask at once share one look. A shard that cannot be asked is taken to hold what it held.

        Raises:
            ShardsUnusable: Two shards hold one bucket.
        """
        looking = self._looking
        if looking is None or looking.done():
            # Who asks first must not have the others wait by its deadline.
            looking = self._looking = asyncio.create_task(self._look(), context=contextvars.Context())
        await asyncio.shield(looking)

    async def _look(self) -> None:
        accounts = await asyncio.gather(*(shard.held() for shard in self._shards), return_exceptions=True)
        for shard, account in enumerate(accounts):
            if isinstance(account, Held):
                self._held[shard] = account
            elif not isinstance(account, NotWritten):
                raise account
        before = self._map
        found = joined(self._held, [before.shard_of(bucket) for bucket in range(BUCKETS)])
        if found.epoch >= before.epoch and found != before:
            self._map = found
            if self._changed is not None and found.epoch > before.epoch:
                self._changed(found.epoch)

    def tell(self, changed: Callable[[int], None]) -> None:
        """Have each new version of the map told."""
        self._changed = changed

    def held(self, shard: int) -> Held:
        """What a shard said last that it holds."""
        return self._held[shard]

    async def ask(self, shard: int) -> Held:
        """What a shard holds, at a moment from now on.

        Raises:
            NotWritten: It cannot be asked.
        """
        self._held[shard] = account = await self._holding[shard]()
        return account

    def rumoured(self, epoch: int) -> None:
        """Somebody says that there is a version of the map."""
        if epoch > self.epoch:
            self._rumour.set()

    async def watch(self, every: float) -> None:
        """Look at intervals of `every` seconds, and when there is a rumour, for ever."""
        while True:
            try:
                async with asyncio.timeout(every):
                    await self._rumour.wait()
            except TimeoutError:
                pass
            self._rumour.clear()
            await self.look()

    async def settled(self, bucket: int, *, refused_by: int, until: float) -> bool:
        """Wait until a bucket is held by a shard, after one refused it, but not past a time of the event loop's clock.
        False when it is held by none then.
        """
        loop = asyncio.get_running_loop()
        pause, longest = _LOOK_SECONDS
        while True:
            await self.look()
            shard = self._map.shard_of(bucket)
            if shard != refused_by or bucket in self._held[shard].buckets:
                return True
            if loop.time() + pause >= until:
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)


class Holding:
    """What a shard holds, asked on behalf of many: those who ask while a question is on its way share the next one, so
    that each gets an answer of a moment after it asked.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._asked: asyncio.Task[Held] | None = None
        self._next: asyncio.Task[Held] | None = None

    async def __call__(self) -> Held:
        """What it holds.

        Raises:
            NotWritten: It cannot be asked.
        """
        if self._next is None:
            # Who comes first must not have the others wait by its deadline.
            self._next = asyncio.create_task(self._ask(self._asked), context=contextvars.Context())
        return await asyncio.shield(self._next)

    async def _ask(self, before: "asyncio.Task[Held] | None") -> Held:
        if before is not None:
            await asyncio.wait([before])
        self._asked, self._next = self._next, None
        return await self._shard.held()


class Rereading:
    """Reads of streams, asked of the shards that hold them, and asked again when they did not.

    A shard that a bucket has left still has its streams, as they were: an answer from there would be old without a sign
    of it. So it counts only if the shard held the bucket at a moment between the question and the answer. It is asked
    for that beside the read, not before it, which is enough: it held the bucket when it was last asked, and whoever
    holds a bucket anew has heard of a new version of the map. With the same version at both ends it held it all the
    time.
    """

    def __init__(self, routing: Routing, *, patience: float) -> None:
        """Wait up to `patience` seconds for a bucket that is being moved."""
        self._routing = routing
        self._patience = patience

    async def __call__(self, buckets: Mapping[int, str], read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer of a read of streams, by their buckets. `read` finds the shards anew each time.

        Raises:
            BucketMoved: A bucket was held by no shard for too long.
        """
        until = asyncio.get_running_loop().time() + self._patience
        left = remaining()
        if left is not None:
            until = min(until, asyncio.get_running_loop().time() + left)
        while True:
            places = {bucket: self._routing.shard_of(bucket) for bucket in buckets}
            shards = sorted(set(places.values()))
            known = {shard: self._routing.held(shard) for shard in shards}
            answer, accounts = await asyncio.gather(read(), self._ask(shards))
            now = dict(zip(shards, accounts, strict=True))
            away = next((bucket for bucket, shard in places.items() if bucket not in now[shard].buckets), None)
            if away is not None:
                if not await self._routing.settled(away, refused_by=places[away], until=until):
                    raise BucketMoved(buckets[away], away, places[away], self._routing.epoch)
            elif all(
                bucket in known[shard].buckets and known[shard].epoch == now[shard].epoch
                for bucket, shard in places.items()
            ):
                return answer

    async def _ask(self, shards: Sequence[int]) -> Sequence[Held]:
        if len(shards) == 1:
            return [await self._routing.ask(shards[0])]
        return await asyncio.gather(*(self._routing.ask(shard) for shard in shards))


class Rerouting:
    """Appends that a shard refused because it does not hold their bucket, sent to the one that does."""

    def __init__(self, routing: Routing, loops: Sequence[AppendLoop], *, patience: float) -> None:
        """Wait up to `patience` seconds for a bucket that is being moved."""
        self._routing = routing
        self._loops = loops
        self._patience = patience

    async def __call__(self, append: Append, deadline: float, moved: BucketMoved) -> tuple[int, Answer]:
        """The shard that decided, and what; see `writing.Rerouter`."""
        until = min(deadline, asyncio.get_running_loop().time() + self._patience)
        while True:
            shard = moved.shard
            if not await self._routing.settled(moved.bucket, refused_by=shard, until=until):
                return shard, moved
            places = {append.stream: self._routing.shard_of(append.bucket)}
            places |= {part.stream: self._routing.shard_of(part.bucket) for part in append.also}
            shard = places[append.stream]
            if len(set(places.values())) > 1:
                return shard, DifferentShards(places)
            [answer] = await self._loops[shard].submit([append], [deadline])
            if not isinstance(answer, BucketMoved):
                return shard, answer
            moved = answer
