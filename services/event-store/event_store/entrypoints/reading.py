"""The reading half of the log on the wire."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from chassis.errors import InvalidRequest

from event_store.application.pages import StreamContent, StreamRange
from event_store.application.reads import Reader
from event_store.application.shard_map import Places, Rereading
from event_store.application.subscriptions import Slice
from event_store.domain.append import Committed
from event_store.domain.errors import StreamTombstoned
from event_store.domain.stream import StreamMetadata, canonical_uuid
from event_store.entrypoints import stream_metadata, wire
from event_store.entrypoints.errors import ERRORS
from event_store.metrics import SUBSCRIPTIONS

_ENCODED = frozenset({"ReadAll", "Subscribe"})
MAXIMUM_KIND_LENGTH = 200
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
    max_snapshots: int
    max_snapshot_bytes: int


class StreamSettings(Protocol):
    """The metadata of the streams of one shard."""

    async def metadata(self, stream: str) -> StreamMetadata | None:
        """The metadata of a stream; None when none were ever set."""
        ...


class ReadingServicer(event_store_pb2_grpc.EventStoreServiceServicer):
    """Answers for reads of the log."""

    def __init__(
        self,
        *,
        buckets: Places,
        reader: Reader,
        limits: ReadLimits,
        metadata: Sequence[StreamSettings],
        reread: Rereading,
    ) -> None:
        self._buckets = buckets
        self._metadata = metadata
        self._reread = reread
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

        async def read() -> tuple[int, Committed | None]:
            shard = self._buckets.shard_of(at.bucket)
            return shard, await self._reader.logs[shard].committed(append_id, at.stream)

        shard, found = await self._reread({at.bucket: at.stream}, read)
        response = event_store_pb2.GetAppendResponse()
        if found is not None:
            response.fingerprint = found.fingerprint
            wire.fill(response.appended, found.appended, epoch=self._buckets.epoch, bucket=at.bucket, shard=shard)
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

        async def read() -> tuple[StreamContent, AsyncGenerator[StreamContent, None]]:
            contents = self._reader.stream(
                self._buckets.shard_of(at.bucket), at.stream, from_revision=start, backwards=backwards, limit=limit
            )
            return await anext(contents), contents

        # The first piece tells where the stream ends; what is before that never changes, wherever it is read.
        content, contents = await self._reread({at.bucket: at.stream}, read)
        yield _content(content)
        async for content in contents:
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
        buckets: dict[int, str] = {}
        for index, piece in enumerate(request.streams):
            at = wire.place(piece.stream, piece.partition_key, self._buckets, faults, f"streams[{index}].stream")
            revision = wire.checked_revision(piece.from_revision, f"streams[{index}].from_revision")
            if len(piece.snapshot_kind) > MAXIMUM_KIND_LENGTH or "\0" in piece.snapshot_kind:
                faults.add(f"streams[{index}].snapshot_kind", "is not a name")
            wanted.append((at.bucket, StreamRange(at.stream, revision, piece.snapshot_kind)))
            buckets[at.bucket] = at.stream
        faults.end()

        async def read() -> Sequence[StreamContent]:
            return await self._reader.streams(
                [(self._buckets.shard_of(bucket), piece) for bucket, piece in wanted],
                max_events=self._read_limits.max_events,
                max_bytes=self._read_limits.max_bytes,
            )

        contents = await self._reread(buckets, read)
        return event_store_pb2.BatchReadStreamsResponse(
            streams=[_content(content, piece.stream) for (_, piece), content in zip(wanted, contents, strict=True)]
        )

    async def GetStreamMetadata(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.GetStreamMetadataRequest, context: Context
    ) -> event_store_pb2.GetStreamMetadataResponse:
        """How much of a stream is answered, and whether it has ended."""
        del context
        at = self._place(request.stream, request.partition_key)

        async def read() -> StreamMetadata | None:
            return await self._metadata[self._buckets.shard_of(at.bucket)].metadata(at.stream)

        return stream_metadata.answered(await self._reread({at.bucket: at.stream}, read))

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


def _content(content: StreamContent, stream: str = "") -> event_store_pb2.ReadStreamResponse:
    if content.ended:
        return event_store_pb2.ReadStreamResponse(problem=ERRORS.problem(StreamTombstoned(stream)))
    response = event_store_pb2.ReadStreamResponse(events=content.events, last_revision=content.last_revision)
    kept = content.snapshot
    if kept is not None:
        snapshot = response.snapshot
        snapshot.stream, snapshot.kind, snapshot.revision = stream, kept.kind, kept.revision
        snapshot.payload = kept.payload
        snapshot.recorded_at.FromDatetime(kept.recorded_at)
    return response


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
