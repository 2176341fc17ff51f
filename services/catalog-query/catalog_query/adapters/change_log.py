"""The log, by gRPC, as the change feed reads it."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from almagest.catalog.events.v1 import product_events_pb2
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from chassis.errors import RemoteProblem

from catalog_query.application.changes.places import LogState, Vector
from catalog_query.application.changes.tail import LogPiece
from catalog_query.domain.errors import CursorOfAnotherLog
from catalog_query.domain.product import CATEGORY

_PACKAGE: Final = product_events_pb2.DESCRIPTOR.package
_SET_BACK: Final = "CHECKPOINT_AHEAD"
_TOO_LARGE: Final = "READ_TOO_LARGE"


class GrpcChangeLog:
    """The event store, as the change feed uses it."""

    def __init__(self, channel: Any) -> None:
        # Streams answer a `StreamCall`, which the generated types do not know.
        self._stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)

    async def state(self) -> LogState:
        """The shard map and the heads, as the databases say."""
        answer = await self._stub.GetShardMap(event_store_pb2.GetShardMapRequest())
        return LogState(answer.epoch, {shard.shard: shard.head for shard in answer.shards})

    async def first_event(self, shard: int) -> event_pb2.RecordedEvent | None:
        """The event at position 1 of a shard, None when it has none."""
        request = event_store_pb2.ReadAllRequest(limit=1, shards=[shard])
        async with aclosing(aiter(self._stub.ReadAll(request))) as messages:
            async for message in messages:
                for event in message.events:
                    return event
        return None

    async def follow(self, after: Vector) -> AsyncGenerator[LogPiece, None]:
        """What is after a place and will be, of all shards, until left."""
        request = event_store_pb2.SubscribeRequest(after=_positions(after), filter=_kept(()))
        async with aclosing(_pieces(self._stub.Subscribe(request))) as pieces:
            async for piece in pieces:
                yield piece

    async def recorded(self, after: Vector, *, types: frozenset[str]) -> AsyncGenerator[LogPiece, None]:
        """What there is after a place, of all shards."""
        request = event_store_pb2.ReadAllRequest(after=_positions(after), filter=_kept(sorted(types)))
        async with aclosing(_pieces(self._stub.ReadAll(request))) as pieces:
            async for piece in pieces:
                yield piece

    async def slices(self, wanted: Mapping[str, int]) -> Mapping[str, Sequence[event_pb2.RecordedEvent]] | None:
        """Streams, each from a revision on; None when they hold more than one answer may."""
        request = event_store_pb2.BatchReadStreamsRequest(
            streams=[
                event_store_pb2.StreamSlice(stream=stream, from_revision=revision)
                for stream, revision in wanted.items()
            ]
        )
        try:
            answer = await self._stub.BatchReadStreams(request)
        except RemoteProblem as problem:
            if problem.problem.reason == _TOO_LARGE:
                return None
            raise
        return {stream: found.events for stream, found in zip(wanted, answer.streams, strict=True)}

    async def stream(
        self, stream: str, *, from_revision: int, events: int
    ) -> AsyncGenerator[Sequence[event_pb2.RecordedEvent], None]:
        """So many events of a stream from a revision on, in pieces."""
        request = event_store_pb2.ReadStreamRequest(stream=stream, from_revision=from_revision, limit=events)
        async with aclosing(aiter(self._stub.ReadStream(request))) as messages:
            async for message in messages:
                yield message.events


async def _pieces(call: Any) -> AsyncGenerator[LogPiece, None]:
    try:
        async with aclosing(aiter(call)) as messages:
            async for message in messages:
                yield LogPiece(message.checkpoint.shard, message.events, message.checkpoint.position)
    except RemoteProblem as problem:
        if problem.problem.reason == _SET_BACK:
            raise CursorOfAnotherLog from problem
        raise


def _positions(place: Vector) -> list[event_pb2.ShardPosition]:
    return [event_pb2.ShardPosition(shard=shard, position=position) for shard, position in place.items()]


def _kept(types: Iterable[str]) -> event_store_pb2.Filter:
    return event_store_pb2.Filter(categories=[CATEGORY], types=[f"{_PACKAGE}.{name}" for name in types])
