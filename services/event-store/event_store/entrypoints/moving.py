"""Moves of buckets on the wire."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_pb2
from chassis.buckets import BUCKETS
from chassis.errors import InvalidRequest

from event_store.application.mover import Mover
from event_store.application.moves import Listed, Phase
from event_store.domain.stream import canonical_uuid

_PAGE: Final = (50, 200)
"""How many moves a page holds, usually and at most."""
_DIGITS: Final = len(str(2**63))
_PHASES: Final = {
    Phase.COPYING: administration_pb2.MOVE_PHASE_COPYING,
    Phase.FENCED: administration_pb2.MOVE_PHASE_FENCED,
    Phase.DONE: administration_pb2.MOVE_PHASE_DONE,
    Phase.FAILED: administration_pb2.MOVE_PHASE_FAILED,
    Phase.CANCELLED: administration_pb2.MOVE_PHASE_CANCELLED,
}

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
else:  # generic for the type checker only
    Context = Any


class MovingServicer(administration_pb2_grpc.EventStoreAdministrationServiceServicer):
    """Answers those who move buckets."""

    def __init__(self, *, mover: Mover) -> None:
        self._mover = mover

    async def MoveBuckets(  # noqa: N802 - gRPC's name
        self, request: administration_pb2.MoveBucketsRequest, context: Context
    ) -> AsyncIterator[administration_pb2.MoveBucketsResponse]:
        """Move buckets, or follow their move."""
        del context
        first, last = request.buckets.first, request.buckets.last
        if not request.HasField("buckets") or not first <= last < BUCKETS:
            raise InvalidRequest([("buckets", f"is not a range within 0 to {BUCKETS - 1}")])
        async with aclosing(self._mover.move(first, last, request.to_shard)) as moves:
            async for listed in moves:
                yield administration_pb2.MoveBucketsResponse(move=_move(listed))

    async def CancelMove(  # noqa: N802 - gRPC's name
        self, request: administration_pb2.CancelMoveRequest, context: Context
    ) -> administration_pb2.CancelMoveResponse:
        """End a move where it is."""
        del context
        move_id = canonical_uuid(request.move_id) if request.move_id else ""
        if move_id is None:
            raise InvalidRequest([("move_id", "is not a UUID")])
        return administration_pb2.CancelMoveResponse(move=_move(await self._mover.cancel(move_id)))

    async def ListMoves(  # noqa: N802 - gRPC's name
        self, request: administration_pb2.ListMovesRequest, context: Context
    ) -> administration_pb2.ListMovesResponse:
        """The moves, latest first."""
        del context
        usual, most = _PAGE
        size = request.page_size or usual
        if size > most:
            raise InvalidRequest([("page_size", f"is over {most}")])
        before: int | None = None
        if request.page_token:
            token = request.page_token
            if not (token.isascii() and token.isdigit() and len(token) <= _DIGITS):
                raise InvalidRequest([("page_token", "is none that was answered")])
            before = min(int(token), 2**63 - 1)
        moves = await self._mover.listed(before=before, limit=size + 1)
        return administration_pb2.ListMovesResponse(
            moves=[_move(listed) for listed in moves[:size]],
            next_page_token=str(moves[size - 1].number) if len(moves) > size else "",
        )


def _move(listed: Listed) -> administration_pb2.Move:
    move = listed.move
    message = administration_pb2.Move(
        move_id=move.move_id,
        buckets=event_pb2.BucketRange(first=move.first, last=move.last),
        from_shard=move.from_shard,
        to_shard=move.to_shard,
        phase=_PHASES[listed.phase],
        copied_events=listed.copied_events,
        total_events=listed.total_events,
        epoch=move.epoch if listed.phase is Phase.DONE else 0,
        error=listed.error,
    )
    message.began_at.FromDatetime(listed.began_at)
    if listed.ended_at is not None:
        message.ended_at.FromDatetime(listed.ended_at)
    if listed.pause is not None:
        message.pause.FromTimedelta(listed.pause)
    for one in listed.slices:
        piece = message.slices.add(buckets=event_pb2.BucketRange(first=one.first, last=one.last), epoch=one.epoch)
        piece.switched_at.FromDatetime(one.switched_at)
        if one.pause is not None:
            piece.pause.FromTimedelta(one.pause)
    return message
