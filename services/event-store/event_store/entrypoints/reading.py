"""The reading half of the log on the wire."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from chassis.buckets import BucketMap
from chassis.errors import InvalidRequest

from event_store.application.pages import StreamContent, StreamRange
from event_store.application.reads import Reader
from event_store.application.subscriptions import Slice
from event_store.domain.stream import canonical_uuid
from event_store.entrypoints import wire
from event_store.metrics import SUBSCRIPTIONS

_ENCODED = frozenset({"ReadAll", "Subscribe"})
_HEARTBEAT = (0.05, 1.0, 60.0)
"""The shortest, the usual and the longest heartbeat in seconds."""

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
else:  # generic for the type checker only
    Context = Any


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What one batch read may be."""

    max_streams: int
    max_events: int
    max_bytes: int


class ReadingServicer(event_store_pb2_grpc.EventStoreServiceServicer):
    """Answers for reads of the log."""

    def __init__(self, *, buckets: BucketMap, reader: Reader, limits: ReadLimits) -> None:
        self._buckets = buckets
        self._reader = reader
        self._read_limits = limits

    def _place(self, stream: str, partition_key: str) -> wire.Place:
        faults = wire.Faults()
        at = wire.place(stream, partition_key, self._buckets, faults)
        faults.end()
        return at

    async def GetAppend(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.GetAppendRequest, context: Context
    ) -> event_store_pb2.GetAppendResponse:
        """What an earlier append was answered."""
        del context
        append_id = canonical_uuid(request.append_id)
        if append_id is None:
            raise InvalidRequest([("append_id", "is not a UUID")])
        at = self._place(request.stream, request.partition_key)
        found = await self._reader.logs[at.shard].committed(append_id, at.stream)
        response = event_store_pb2.GetAppendResponse()
        if found is not None:
            response.fingerprint = found.fingerprint
            wire.fill(response.appended, found.appended, epoch=self._buckets.epoch, bucket=at.bucket, shard=at.shard)
        return response

    async def ReadStream(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.ReadStreamRequest, context: Context
    ) -> AsyncIterator[event_store_pb2.ReadStreamResponse]:
        """One stream, in pieces."""
        del context
        at = self._place(request.stream, request.partition_key)
        start = (
            wire.checked_revision(request.from_revision, "from_revision") if request.HasField("from_revision") else None
        )
        backwards = request.direction == event_store_pb2.DIRECTION_BACKWARDS
        limit = wire.checked_revision(request.limit, "limit")
        async for content in self._reader.stream(
            at.shard, at.stream, from_revision=start, backwards=backwards, limit=limit
        ):
            yield _content(content)

    async def BatchReadStreams(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.BatchReadStreamsRequest, context: Context
    ) -> event_store_pb2.BatchReadStreamsResponse:
        """Several short streams."""
        del context
        faults = wire.Faults()
        count = len(request.streams)
        if not count:
            faults.add("streams", "is empty; at least one stream is needed")
        if count > self._read_limits.max_streams:
            faults.exceeds("streams", "max_batch_streams", actual=count, maximum=self._read_limits.max_streams)
        faults.end()
        wanted: list[tuple[int, StreamRange]] = []
        for index, piece in enumerate(request.streams):
            at = wire.place(piece.stream, piece.partition_key, self._buckets, faults, f"streams[{index}].stream")
            revision = wire.checked_revision(piece.from_revision, f"streams[{index}].from_revision")
            wanted.append((at.shard, StreamRange(at.stream, revision)))
        faults.end()
        contents = await self._reader.streams(
            wanted, max_events=self._read_limits.max_events, max_bytes=self._read_limits.max_bytes
        )
        return event_store_pb2.BatchReadStreamsResponse(streams=[_content(content) for content in contents])

    async def ReadAll(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.ReadAllRequest, context: Context
    ) -> AsyncIterator[event_store_pb2.ReadAllResponse]:
        """Every shard up to its head."""
        del context
        slices = self._reader.all(
            wire.positions(request.after),
            kept=wire.kept(request.filter),
            shards=request.shards,
            limit=wire.checked_revision(request.limit, "limit"),
        )
        async for piece in slices:
            yield _message(piece)

    async def Subscribe(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.SubscribeRequest, context: Context
    ) -> AsyncIterator[event_store_pb2.SubscribeResponse]:
        """Every shard, and what is still to come."""
        del context
        shortest, heartbeat, longest = _HEARTBEAT
        if request.HasField("heartbeat"):
            heartbeat = request.heartbeat.seconds + request.heartbeat.nanos / 1e9
            if not shortest <= heartbeat <= longest:
                raise InvalidRequest([("heartbeat", f"is not between {shortest:g} and {longest:g} seconds")])
        slices = self._reader.subscribe(
            wire.positions(request.after), kept=wire.kept(request.filter), shards=request.shards, heartbeat=heartbeat
        )
        with SUBSCRIPTIONS.track_inprogress():
            async with aclosing(slices):
                async for piece in slices:
                    yield _message(piece)

    async def GetShardMap(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.GetShardMapRequest, context: Context
    ) -> event_store_pb2.GetShardMapResponse:
        """Which shard holds which buckets, and how far it is."""
        del request, context
        heads = await asyncio.gather(*(log.head() for log in self._reader.logs))
        return event_store_pb2.GetShardMapResponse(
            epoch=self._buckets.epoch,
            shards=[
                event_store_pb2.Shard(
                    shard=shard,
                    buckets=[
                        event_pb2.BucketRange(first=first, last=last) for first, last in self._buckets.ranges(shard)
                    ],
                    head=head,
                )
                for shard, head in enumerate(heads)
            ],
        )


def _content(content: StreamContent) -> event_store_pb2.ReadStreamResponse:
    return event_store_pb2.ReadStreamResponse(events=content.events, last_revision=content.last_revision)


def _message(piece: Slice) -> Any:
    """A slice as a `SubscribeResponse`, or a `ReadAllResponse`, which has the same fields: the events are encoded
    already, once for all who read them. It is bytes, whatever the generated types say; see `add_to_server`.
    """
    rest = event_store_pb2.SubscribeResponse(
        checkpoint=event_pb2.ShardPosition(shard=piece.shard, position=piece.checkpoint),
        head=event_pb2.ShardPosition(shard=piece.shard, position=piece.head),
    )
    return b"".join((*(event.encoded for event in piece.events), rest.SerializeToString()))


class _EncodedAnswers:
    """A server to which handlers are added whose answers may be bytes that are a message already."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """What the generated code does first; it is said again, and then holds, by the method below."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the handlers of a service."""
        encoded = {
            name: handler._replace(response_serializer=_serialized) if name in _ENCODED else handler
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, encoded),))


def _serialized(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def add_to_server(servicer: Any, server: grpc.aio.Server) -> None:
    """Add the servicer as the generated code does, except that `Subscribe` and `ReadAll` answer encoded messages."""
    add: Any = event_store_pb2_grpc.add_EventStoreServiceServicer_to_server
    add(servicer, _EncodedAnswers(server))
