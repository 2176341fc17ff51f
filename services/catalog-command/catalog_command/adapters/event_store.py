"""The log, by gRPC. Appends and reads of many requests travel together: a call costs more than what it carries."""

import asyncio
import base64
import time
from collections.abc import Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import catalog_events
import grpc
import structlog
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from chassis.buckets import BucketMap
from chassis.coalescing import Coalescer
from chassis.errors import ChassisError, DeadlineExceeded, RemoteProblem
from chassis.ids import uuid7
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty

from catalog_command.adapters import snapshots
from catalog_command.application.product_log import (
    NO_REVISION,
    AppendIdReused,
    AppendUncertain,
    History,
    ProductAppend,
    StreamConflict,
    Written,
)
from catalog_command.domain.product import Product

BATCH_BYTES: Final = 2 * 1024 * 1024
"""The appends of one call are at most this large together, well under what a gRPC message may be."""
REVISION_CONFLICT: Final = "REVISION_CONFLICT"
APPEND_ID_REUSED: Final = "APPEND_ID_REUSED"
SHARD_UNAVAILABLE: Final = "SHARD_UNAVAILABLE"
READ_TOO_LARGE: Final = "READ_TOO_LARGE"

_EMPTY = Empty()
_KEPT_AT_ONCE: Final = 8
_KEEP_SECONDS: Final = 5.0
_logger = structlog.stdlib.get_logger(__name__)
# What these say about a write that they answer: it was not begun.
_NOT_BEGUN = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A message that waits for its call, and the time until which an answer to it is of use."""

    message: event_store_pb2.Append
    deadline: float
    size: int


@dataclass(frozen=True, slots=True)
class _Slice:
    stream: event_store_pb2.StreamSlice
    deadline: float


class EventStoreProductLog:
    """Products in the event store: the stream of a product is `product-<product id>`."""

    def __init__(
        self,
        stub: "event_store_pb2_grpc.EventStoreServiceAsyncStub",
        *,
        max_batch: int = 256,
        in_flight: int = 2,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._stub = stub
        self._keeping: set[asyncio.Task[None]] = set()
        self._batch_bytes = batch_bytes
        self._appends = Coalescer[_Waiting, Written](
            self._send_appends, max_batch=max_batch, in_flight=in_flight, name="append"
        )
        self._reads = Coalescer[_Slice, event_store_pb2.ReadStreamResponse](
            self._send_reads, max_batch=max_batch, in_flight=in_flight, name="read"
        )

    async def close(self) -> None:
        """Refuse what comes, and give up what is in flight."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await self._appends.close()
        await self._reads.close()

    async def read(self, product_id: str, *, after: int, deadline: float) -> History:
        """The history of a product after a revision, as the log has it now.

        Raises:
            UndecodableEvent: A newer version has written to the stream; to decide without that is to decide wrongly.
        """
        waiting = _Slice(event_store_pb2.StreamSlice(stream=_stream(product_id), from_revision=after + 1), deadline)
        return _history(await self._reads.submit(waiting, timeout=_left(deadline)))

    async def load(self, product_id: str, *, deadline: float) -> History:
        """The whole of a product, from the state that was kept of it if there is one.

        Raises:
            UndecodableEvent: As above.
        """
        stream = _stream(product_id)
        waiting = _Slice(event_store_pb2.StreamSlice(stream=stream, snapshot_kind=snapshots.KIND), deadline)
        response = await self._reads.submit(waiting, timeout=_left(deadline))
        if not response.HasField("snapshot"):
            return _history(response)
        try:
            base, consistency_token = snapshots.read(response.snapshot.payload)
        except snapshots.SnapshotUnreadable:
            _logger.warning("a snapshot does not read, and is not used", stream=stream)
            return await self.read(product_id, after=NO_REVISION, deadline=deadline)
        history = _history(response)
        if not history.events:
            return replace(
                history, base=base, last_revision=response.snapshot.revision, consistency_token=consistency_token
            )
        return replace(history, base=base)

    def keep(self, product_id: str, product: Product, *, revision: int, consistency_token: str) -> None:
        """Keep a folded state, some time soon; while many are being kept, not at all."""
        if len(self._keeping) >= _KEPT_AT_ONCE:
            return
        snapshot = event_store_pb2.NewSnapshot(
            stream=_stream(product_id),
            kind=snapshots.KIND,
            revision=revision,
            payload=snapshots.written(product, consistency_token),
        )
        # In a context of its own: it has nothing to do with the deadline or the trace of who caused it.
        task = asyncio.get_running_loop().create_task(self._keep(snapshot), context=Context())
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep(self, snapshot: event_store_pb2.NewSnapshot) -> None:
        request = event_store_pb2.PutSnapshotsRequest(snapshots=[snapshot])
        try:
            [result] = (await self._stub.PutSnapshots(request, timeout=_KEEP_SECONDS)).results
        except ChassisError as error:
            _logger.warning("a snapshot was not kept", stream=snapshot.stream, problem=str(error))
        else:
            if result.HasField("problem"):
                _logger.warning("a snapshot was refused", stream=snapshot.stream, problem=result.problem.reason)

    async def append(self, append: ProductAppend, *, deadline: float) -> Written:
        """Write events.

        Raises:
            StreamConflict: The stream is at another revision.
            AppendIdReused: The append id belongs to another request.
            AppendUncertain: It is not known whether they were written.
        """
        message = _append_message(append)
        waiting = _Waiting(message, deadline, message.ByteSize())
        try:
            written = await self._appends.submit(waiting, timeout=_left(deadline))
        except DeadlineExceeded:
            raise AppendUncertain from None
        return replace(written, append_id=append.append_id, fingerprint=append.fingerprint)

    async def find(self, append_id: str, *, product_id: str, deadline: float) -> Written | None:
        """The original answer to an append, with its fingerprint; None if there was none."""
        response = await self._stub.GetAppend(
            event_store_pb2.GetAppendRequest(append_id=append_id, stream=_stream(product_id)), timeout=_left(deadline)
        )
        if not response.HasField("appended"):
            return None
        return replace(_written(response.appended), append_id=append_id, fingerprint=response.fingerprint)

    async def _send_appends(self, batch: Sequence[_Waiting]) -> Sequence[Written | Exception]:
        answers: list[Written | Exception] = []
        for part in _parts(batch, self._batch_bytes):
            now = time.monotonic()
            for waiting in part:
                waiting.message.timeout.CopyFrom(_duration(waiting.deadline - now))
            request = event_store_pb2.AppendRequest(appends=[waiting.message for waiting in part])
            try:
                response = await self._stub.Append(request, timeout=_longest(part, now))
            except RemoteProblem as error:
                answers += [_failed(error)] * len(part)
            else:
                answers += [
                    _written(result.appended)
                    if result.WhichOneof("outcome") == "appended"
                    else _failed(RemoteProblem(result.problem))
                    for result in response.results
                ]
        return answers

    async def _send_reads(self, batch: Sequence[_Slice]) -> Sequence[event_store_pb2.ReadStreamResponse | Exception]:
        request = event_store_pb2.BatchReadStreamsRequest(streams=[waiting.stream for waiting in batch])
        try:
            response = await self._stub.BatchReadStreams(request, timeout=_longest(batch, time.monotonic()))
        except RemoteProblem as error:
            if error.reason != READ_TOO_LARGE:
                return [error] * len(batch)
            if len(batch) == 1:
                return [await self._long_stream(batch[0])]
            half = len(batch) // 2
            return [*await self._send_reads(batch[:half]), *await self._send_reads(batch[half:])]
        return [RemoteProblem(one.problem) if one.HasField("problem") else one for one in response.streams]

    async def _long_stream(self, waiting: _Slice) -> event_store_pb2.ReadStreamResponse | Exception:
        """A stream that is too long for a batch, in pieces."""
        whole = event_store_pb2.ReadStreamResponse()
        request = event_store_pb2.ReadStreamRequest(
            stream=waiting.stream.stream, from_revision=waiting.stream.from_revision
        )
        try:
            async for piece in self._stub.ReadStream(request, timeout=_longest([waiting], time.monotonic())):
                whole.MergeFrom(piece)
        except RemoteProblem as error:
            return error
        return whole


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded
    return left


def _longest(batch: Iterable[_Waiting | _Slice], now: float) -> float:
    """The seconds that a call may take: as long as an answer is of use to one of its items."""
    return max(max(waiting.deadline for waiting in batch) - now, 0.001)


def _parts(batch: Sequence[_Waiting], limit: int) -> Iterable[Sequence[_Waiting]]:
    """The batch in parts of at most `limit` bytes each, or of one append."""
    first, size = 0, 0
    for index, waiting in enumerate(batch):
        if index > first and size + waiting.size > limit:
            yield batch[first:index]
            first, size = index, 0
        size += waiting.size
    yield batch[first:]


def _failed(error: RemoteProblem) -> Exception:
    if error.reason == REVISION_CONFLICT:
        return StreamConflict()
    if error.reason == APPEND_ID_REUSED:
        return AppendIdReused()
    known = error.code in _NOT_BEGUN or error.reason == SHARD_UNAVAILABLE
    return error if known else AppendUncertain()


def _stream(product_id: str) -> str:
    return f"product-{product_id}"


def _duration(seconds: float) -> Duration:
    return Duration(nanos=1) if seconds <= 0 else Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def _append_message(append: ProductAppend) -> event_store_pb2.Append:
    provenance = append.provenance
    metadata = event_pb2.EventMetadata(
        command_id=append.append_id,
        traceparent=provenance.traceparent,
        job_id=provenance.job_id,
        import_line=provenance.import_line,
        reason=provenance.reason,
    )
    message = event_store_pb2.Append(
        append_id=append.append_id,
        stream=_stream(append.product_id),
        events=[
            event_pb2.NewEvent(
                event_id=str(uuid7()),
                type=catalog_events.type_name(event),
                payload=event.SerializeToString(),
                metadata=metadata,
            )
            for event in append.events
        ],
        fingerprint=append.fingerprint,
        transaction_token=append.transaction_token,
        traceparent=provenance.traceparent,
    )
    if append.expected_revision == NO_REVISION:
        message.no_stream.CopyFrom(_EMPTY)
    else:
        message.exact_revision = append.expected_revision
    return message


def _written(appended: event_store_pb2.Appended) -> Written:
    return Written(
        append_id="",
        first_revision=appended.first_revision,
        last_revision=appended.last_revision,
        consistency_token=_consistency_token(appended.position),
        replayed=appended.replayed,
    )


def _consistency_token(position: event_pb2.ConsistencyToken) -> str:
    return base64.urlsafe_b64encode(position.SerializeToString()).rstrip(b"=").decode()


def _place(event: event_pb2.RecordedEvent) -> str:
    return _consistency_token(
        event_pb2.ConsistencyToken(
            epoch=BucketMap.epoch, bucket=event.bucket, shard=event.shard, position=event.position
        )
    )


def _history(response: event_store_pb2.ReadStreamResponse) -> History:
    recorded = response.events
    appends: list[Written] = []
    for command_id, group in groupby(recorded, key=lambda event: event.metadata.command_id):
        events = list(group)
        appends.append(
            Written(
                append_id=command_id,
                first_revision=events[0].revision,
                last_revision=events[-1].revision,
                consistency_token=_place(events[-1]),
            )
        )
    return History(
        events=[catalog_events.decode(event) for event in recorded],
        appends=appends,
        last_revision=_last_revision(response),
        consistency_token=appends[-1].consistency_token if appends else "",
    )


def _last_revision(response: event_store_pb2.ReadStreamResponse) -> int:
    if response.events:
        return response.events[-1].revision
    return response.last_revision if response.HasField("last_revision") else NO_REVISION
