"""Archiving on the wire."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc
from chassis.errors import InvalidRequest

from event_store.application.archives import ArchivableLog, Archive, Archives, archive
from event_store.domain.errors import ArchivesNotKept, UnknownShard
from event_store.entrypoints import wire

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
else:  # generic for the type checker only
    Context = Any


class ArchivedShard(ArchivableLog, Protocol):
    """A shard, and what is archived of it."""

    async def archives(self) -> Sequence[Archive]:
        """What is archived, in the order of positions."""
        ...


def _now() -> datetime:
    return datetime.now(UTC)


class ArchivingServicer(administration_pb2_grpc.EventStoreAdministrationServiceServicer):
    """Archives events, and lists the archives. Without files none are kept."""

    def __init__(
        self,
        *,
        shards: Sequence[ArchivedShard],
        files: Sequence[Archives],
        archive_events: int,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._archived = shards
        self._files = files
        self._archive_events = archive_events
        self._clock = clock

    async def ArchiveEvents(  # noqa: N802 - gRPC's name
        self, request: administration_pb2.ArchiveEventsRequest, context: Context
    ) -> AsyncIterator[administration_pb2.ArchiveEventsResponse]:
        """Move old events into files."""
        del context
        log = self._shard(request.shard)
        until = wire.checked_revision(request.until, "until")
        older_than = request.older_than.ToTimedelta() if request.HasField("older_than") else None
        if not until and older_than is None:
            raise InvalidRequest([("until", "is not set; say until, older_than, or both")])
        if not self._files:
            raise ArchivesNotKept
        made = archive(
            log,
            self._files[request.shard],
            size=self._archive_events,
            until=until,
            older_than=older_than,
            now=self._clock(),
        )
        async with aclosing(made):
            async for one in made:
                yield administration_pb2.ArchiveEventsResponse(archive=_message(request.shard, one))

    async def ListArchives(  # noqa: N802 - gRPC's name
        self, request: administration_pb2.ListArchivesRequest, context: Context
    ) -> administration_pb2.ListArchivesResponse:
        """What is archived."""
        del context
        archives = await self._shard(request.shard).archives()
        return administration_pb2.ListArchivesResponse(archives=[_message(request.shard, one) for one in archives])

    def _shard(self, shard: int) -> ArchivedShard:
        if shard >= len(self._archived):
            raise UnknownShard(shard, len(self._archived))
        return self._archived[shard]


def _message(shard: int, one: Archive) -> administration_pb2.Archive:
    message = administration_pb2.Archive(
        shard=shard, first=one.first, last=one.last, name=one.name, bytes=one.size, sha256=one.sha256
    )
    message.created_at.FromDatetime(one.created_at)
    return message
