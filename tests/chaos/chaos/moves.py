"""Ranges of buckets move between the shards, one after another, while everything else goes on."""

import asyncio
import random
from collections import Counter
from typing import Any, Final

from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_pb2
from chassis.buckets import BUCKETS
from chassis.errors import RemoteProblem

Stub = administration_pb2_grpc.EventStoreAdministrationServiceStub

_PAUSE_SECONDS: Final = 10.0
_ENDED: Final = frozenset(
    {
        administration_pb2.MOVE_PHASE_DONE,
        administration_pb2.MOVE_PHASE_FAILED,
        administration_pb2.MOVE_PHASE_CANCELLED,
    }
)


class Moves:
    """Asks for moves as an operator would: when the call breaks off, for the same one again."""

    def __init__(self, stub: Stub, *, shards: int, chance: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._stub = stub
        self._shards = shards
        self._chance = chance
        self._under_way: administration_pb2.MoveBucketsRequest | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Move until told to stop. The last one may be under way then."""
        while not stop.is_set():
            if self._under_way is None:
                first = self._chance.randrange(BUCKETS)
                self._under_way = administration_pb2.MoveBucketsRequest(
                    buckets=event_pb2.BucketRange(
                        first=first, last=min(BUCKETS - 1, first + self._chance.randrange(48))
                    ),
                    to_shard=self._chance.randrange(self._shards),
                )
            ended = await self._follow(self._under_way)
            if ended:
                self._under_way = None
            pause = self._chance.expovariate(1 / _PAUSE_SECONDS) if ended else 0.5
            try:
                async with asyncio.timeout(pause):
                    await stop.wait()
            except TimeoutError:
                continue

    async def finish(self, *, within: float = 90) -> bool:
        """See the last move to its end; False: it has none, in that many seconds."""
        try:
            async with asyncio.timeout(within):
                while self._under_way is not None:
                    if await self._follow(self._under_way):
                        self._under_way = None
        except TimeoutError:
            return False
        return True

    async def _follow(self, request: administration_pb2.MoveBucketsRequest) -> bool:
        """Whether the move has come to an end."""
        try:
            async with asyncio.timeout(20):
                call: Any = self._stub.MoveBuckets(request)
                async for message in call:
                    if message.move.phase in _ENDED:
                        done = message.move.phase == administration_pb2.MOVE_PHASE_DONE
                        self.counts["buckets moved" if done else "moves given up"] += 1
                        return True
        except RemoteProblem as problem:
            if problem.reason in {"NOTHING_TO_MOVE", "INVALID_REQUEST"}:
                return True
            self.counts[f"move interrupted: {problem.reason}"] += 1
            await asyncio.sleep(0.5)
            return False
        except TimeoutError:
            return False
        return True
