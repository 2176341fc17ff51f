"""What those who run the log ask of it, on the wire."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from almagest.eventstore.v1 import administration_pb2

from event_store.application.archives import Archives
from event_store.application.derived import Tables
from event_store.application.mover import Mover
from event_store.application.verify import Progress, StoredLog, verify
from event_store.entrypoints import wire
from event_store.entrypoints.archiving import ArchivedShard, ArchivingServicer
from event_store.entrypoints.moving import MovingServicer

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
else:  # generic for the type checker only
    Context = Any


class AdministrationServicer(ArchivingServicer, MovingServicer):
    """Answers operators."""

    def __init__(
        self,
        *,
        stored: Sequence[StoredLog],
        tables: Sequence[Tables],
        archived: Sequence[ArchivedShard],
        files: Sequence[Archives],
        archive_events: int,
        mover: Mover,
    ) -> None:
        MovingServicer.__init__(self, mover=mover)
        ArchivingServicer.__init__(self, shards=archived, files=files, archive_events=archive_events)
        self._stored = stored
        self._tables = tables

    async def Verify(  # noqa: N802 - gRPC's name
        self, request: administration_pb2.VerifyRequest, context: Context
    ) -> AsyncIterator[administration_pb2.VerifyResponse]:
        """Check one shard."""
        del context
        after = wire.checked_revision(request.after, "after")
        until = wire.checked_revision(request.until, "until")
        checked = verify(self._stored, request.shard, after=after, until=until, tables=self._tables)
        async for progress in checked:
            yield _verified(progress)


def _verified(progress: Progress) -> administration_pb2.VerifyResponse:
    response = administration_pb2.VerifyResponse(
        position=progress.position, until=progress.until, hash=progress.hash, rows=progress.rows
    )
    if progress.fault is not None:
        position, detail, table, row = progress.fault
        fault = response.fault
        fault.position, fault.detail, fault.table = position, detail, table
        fault.row = row or (str(position) if table == "events" else "")
    return response
