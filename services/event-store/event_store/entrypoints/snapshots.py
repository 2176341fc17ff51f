"""Snapshots on the wire: kept for those who read, and answered with the events after them."""

import asyncio
from collections.abc import Sequence
from typing import Final

from almagest.eventstore.v1 import event_store_pb2

from event_store.application.pages import NewSnapshot
from event_store.domain.errors import SnapshotAhead
from event_store.entrypoints import wire
from event_store.entrypoints.errors import ERRORS
from event_store.entrypoints.reading import MAXIMUM_KIND_LENGTH, Context, ReadingServicer

_MAXIMUM_SNAPSHOTS: Final = "max_snapshots"


class KeepingServicer(ReadingServicer):
    """Answers for snapshots, besides reads."""

    async def PutSnapshots(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.PutSnapshotsRequest, context: Context
    ) -> event_store_pb2.PutSnapshotsResponse:
        """Keep states that streams were folded into. One that is lost is folded anew, so none is looked for again when
        its bucket moves meanwhile.
        """
        del context
        shares: dict[int, list[int]] = {}
        for index, bucket in enumerate(self._checked(request)):
            shares.setdefault(self._buckets.shard_of(bucket), []).append(index)
        response = event_store_pb2.PutSnapshotsResponse()
        results = [response.results.add() for _ in request.snapshots]

        async def put(shard: int, indexes: Sequence[int]) -> None:
            chosen = [request.snapshots[index] for index in indexes]
            new = [NewSnapshot(one.stream, one.kind, one.revision, one.payload) for one in chosen]
            for refused in await self._reader.logs[shard].put_snapshots(new):
                error = SnapshotAhead(new[refused].stream, new[refused].revision)
                results[indexes[refused]].problem.CopyFrom(ERRORS.problem(error))

        await asyncio.gather(*(put(shard, indexes) for shard, indexes in shares.items()))
        return response

    def _checked(self, request: event_store_pb2.PutSnapshotsRequest) -> Sequence[int]:
        """The buckets of the snapshots.

        Raises:
            InvalidRequest: One is not well formed, or over a limit.
        """
        faults = wire.Faults()
        limits, count = self._read_limits, len(request.snapshots)
        if not count:
            faults.add("snapshots", "is empty; at least one snapshot is needed")
        if count > limits.max_snapshots:
            faults.exceeds("snapshots", _MAXIMUM_SNAPSHOTS, actual=count, maximum=limits.max_snapshots)
            faults.end()
        buckets: list[int] = []
        for index, one in enumerate(request.snapshots):
            field = f"snapshots[{index}]"
            buckets.append(wire.place(one.stream, one.partition_key, self._buckets, faults, f"{field}.stream").bucket)
            if not one.kind or len(one.kind) > MAXIMUM_KIND_LENGTH or "\0" in one.kind:
                faults.add(f"{field}.kind", f"is not a name of at most {MAXIMUM_KIND_LENGTH} characters")
            wire.checked_revision(one.revision, f"{field}.revision")
            size = len(one.payload)
            if size > limits.max_snapshot_bytes:
                faults.exceeds(f"{field}.payload", "max_snapshot_bytes", actual=size, maximum=limits.max_snapshot_bytes)
        faults.end()
        return buckets
