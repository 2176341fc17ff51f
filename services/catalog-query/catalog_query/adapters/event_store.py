"""The log, by gRPC: subscriptions for the projectors, streams for the history, heads for the lag."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from chassis.buckets import ShardMap
from google.protobuf.duration_pb2 import Duration

from catalog_query.application.shards import LogMap
from catalog_query.domain.product import CATEGORY
from catalog_query.domain.timeline import recorded

SERVICE: Final = "/almagest.eventstore.v1.EventStoreService/"
RETRYABLE: Final = frozenset({SERVICE + "GetShardMap"})
"""What may safely be asked again by the channel itself."""


class EventStore:
    """The event store, as this service uses it."""

    def __init__(self, channel: Any) -> None:
        # Streams answer a `StreamCall`, which the generated types do not know.
        self._stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)

    async def shard_map(self) -> LogMap:
        """Which shard holds which buckets, and the last committed position of each.

        Raises:
            RemoteProblem: the log cannot be asked.
        """
        answer = await self._stub.GetShardMap(event_store_pb2.GetShardMapRequest())
        ranges = {one.shard: [(held.first, held.last) for held in one.buckets] for one in answer.shards}
        return LogMap(ShardMap.of_ranges(answer.epoch, ranges), {shard.shard: shard.head for shard in answer.shards})

    async def recorded_at(self, *, shard: int, position: int) -> datetime:
        """When the event at a position, which must have been written, was recorded.

        Raises:
            RemoteProblem: the log cannot be asked.
        """
        after = event_pb2.ShardPosition(shard=shard, position=position - 1)
        request = event_store_pb2.ReadAllRequest(after=[after], shards=[shard], limit=1)
        async with aclosing(aiter(self._stub.ReadAll(request))) as messages:
            async for message in messages:
                for event in message.events:
                    return recorded(event)
        raise LookupError(f"position {position} of shard {shard} is not in the log")

    async def subscribe(
        self, *, event_shard: int, after: int, buckets: Sequence[tuple[int, int]], heartbeat: float
    ) -> AsyncGenerator[event_store_pb2.SubscribeResponse, None]:
        """What was and will be appended to a shard of the log after a position, for products in some buckets, until
        left.

        Raises:
            RemoteProblem: the log cannot be asked, or not any more.
        """
        silence = Duration()
        silence.FromMilliseconds(int(heartbeat * 1000))
        request = event_store_pb2.SubscribeRequest(
            after=[event_pb2.ShardPosition(shard=event_shard, position=after)],
            filter=event_store_pb2.Filter(
                categories=[CATEGORY],
                buckets=[event_pb2.BucketRange(first=first, last=last) for first, last in buckets],
            ),
            shards=[event_shard],
            heartbeat=silence,
        )
        async with aclosing(aiter(self._stub.Subscribe(request))) as messages:
            async for message in messages:
                yield message

    async def forwards(self, stream: str) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        """The events of a stream from the first to the last, in pieces; none when there is no such stream.

        Raises:
            RemoteProblem: the log cannot be asked.
        """
        request = event_store_pb2.ReadStreamRequest(stream=stream, direction=event_store_pb2.DIRECTION_FORWARDS)
        async with aclosing(aiter(self._stub.ReadStream(request))) as messages:
            async for message in messages:
                yield message.events

    async def backwards(
        self, stream: str, *, from_revision: int | None
    ) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        """The events of a stream from a revision (None: the last one) back to the first, in pieces. May be left before
        the end.

        Raises:
            RemoteProblem: the log cannot be asked.
        """
        request = event_store_pb2.ReadStreamRequest(
            stream=stream, direction=event_store_pb2.DIRECTION_BACKWARDS, from_revision=from_revision
        )
        async with aclosing(aiter(self._stub.ReadStream(request))) as messages:
            async for message in messages:
                yield message.events
