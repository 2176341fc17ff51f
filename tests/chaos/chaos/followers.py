"""Subscribers that live as long as the run: they lose their connections, and go on from where they had got to."""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.errors import RemoteProblem
from google.protobuf import duration_pb2

from chaos import history
from chaos.direct import Stub
from chaos.history import Writer

_HEARTBEAT = duration_pb2.Duration(nanos=500_000_000)


class Follower:
    """One subscriber.

    Args:
        name: of its file.
        stubs: the replicas, any of which it asks.
        directory: where it writes what it is told.
        shards: what it follows.
        categories: what it keeps; empty: all.
        buckets: the first and the last bucket that it keeps; empty: all.
        chance: when it goes away by itself.
    """

    def __init__(
        self,
        name: str,
        stubs: Sequence[Stub],
        directory: Path,
        *,
        shards: Sequence[int],
        chance: random.Random,
        categories: Sequence[str] = (),
        buckets: tuple[int, int] | tuple[()] = (),
    ) -> None:
        self.name = name
        self.reached = dict.fromkeys(shards, 0)
        self.events = 0
        self.ends: Counter[str] = Counter()
        self._stubs = stubs
        self._chance = chance
        self._record = Writer(directory / f"subscription-{name}.jsonl")
        self._record.write({"shards": list(shards), "categories": list(categories), "buckets": list(buckets)})
        self._filter = event_store_pb2.Filter(
            categories=categories,
            buckets=[event_pb2.BucketRange(first=buckets[0], last=buckets[1])] if buckets else [],
        )
        self.connections = 0

    async def follow(self) -> None:
        """Follow until cancelled."""
        try:
            while True:
                self.connections += 1
                try:
                    async with asyncio.timeout(self._chance.expovariate(1 / 20)):
                        await self._listen()
                except TimeoutError:
                    self.ends["went away"] += 1
                except RemoteProblem as problem:
                    self.ends[problem.reason] += 1
                    await asyncio.sleep(0.1)
        finally:
            self._record.close()

    async def _listen(self) -> None:
        request = event_store_pb2.SubscribeRequest(
            after=[event_pb2.ShardPosition(shard=shard, position=at) for shard, at in self.reached.items()],
            filter=self._filter,
            shards=list(self.reached),
            heartbeat=_HEARTBEAT,
        )
        call = self._chance.choice(self._stubs).Subscribe(request)
        try:
            async for message in call:
                self._take(message)
                if self._chance.random() < 0.002:
                    await asyncio.sleep(1)
        finally:
            call.cancel()

    def _take(self, message: event_store_pb2.SubscribeResponse) -> None:
        shard, checkpoint = message.checkpoint.shard, message.checkpoint.position
        if not message.events and checkpoint == self.reached.get(shard):
            return
        self._record.write(
            {
                "connection": self.connections,
                "shard": shard,
                "checkpoint": checkpoint,
                "positions": history.ranges([event.position for event in message.events]),
                "digest": history.digest([uuid.UUID(event.event_id).bytes for event in message.events]),
            }
        )
        self.events += len(message.events)
        self.reached[shard] = checkpoint


async def until_at(followers: Sequence[Follower], heads: dict[int, int], *, within: float) -> bool:
    """Wait until all have got to the heads; False: they have not, in that many seconds."""
    until = time.monotonic() + within
    while behind := any(at < heads[shard] for one in followers for shard, at in one.reached.items()):
        if time.monotonic() > until:
            break
        await asyncio.sleep(0.1)
    return not behind
