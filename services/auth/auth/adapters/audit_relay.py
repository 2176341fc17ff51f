"""The way of the audit into the log, where its events join the chain of hashes.

Each event is one append whose id is that of the event, to the stream of its subject, so it is there once however often
it is sent. One replica at a time takes the events of a shard, those of one subject one after the other. What has been
committed so far is told by the numbers of transactions, as for revocations: all below the oldest that still runs are
decided, and none comes in before them later.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, cast
from uuid import UUID

import structlog
from almagest.eventstore.v1 import event_pb2, event_store_pb2
from chassis.errors import RemoteProblem
from sqlalchemy import Table, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from auth.adapters.audit import entry_of
from auth.adapters.sharding import Shards
from auth.adapters.tables import AuditEventRow, AuditRelayRow
from auth.domain.audit import EVENTS, Entry

EVERY_SECONDS: Final = 0.5
BATCH: Final = 200
_LEASE: Final = timedelta(seconds=10)
_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 2.0
_FIRST: Final = UUID(int=0)
_HORIZON: Final = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
# As tables: statements on mapped classes go where a criterion leads, and these are about one shard as a whole.
_EVENTS: Final = cast("Table", AuditEventRow.__table__).c
_RELAYS: Final = cast("Table", AuditRelayRow.__table__)

_logger = structlog.stdlib.get_logger(__name__)


class Log(Protocol):
    """The appending half of the event store."""

    def Append(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.AppendRequest, *, timeout: float
    ) -> Awaitable[event_store_pb2.AppendResponse]:
        """Write the appends."""
        ...


class AuditRelay:
    """Takes what was committed to the log, in order, for ever."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        shards: Shards,
        log: Log,
        *,
        holder: UUID,
        clock: Callable[[], datetime],
    ) -> None:
        self._sessions = sessions
        self._shards = shards
        self._log = log
        self._holder = holder
        self._clock = clock

    async def run(self) -> None:
        """Relay until cancelled. What cannot be written now is written later: it stays where it is."""
        while True:
            pause = EVERY_SECONDS
            for shard in self._shards.names:
                try:
                    while await self.relay(shard) == BATCH:
                        pass
                except (RemoteProblem, OSError, TimeoutError) as problem:
                    pause = _PAUSE_SECONDS
                    _logger.warning("the audit waits for the log", shard=shard, problem=str(problem))
                except Exception:
                    pause = _PAUSE_SECONDS
                    _logger.exception("the audit cannot be relayed", shard=shard)
            await asyncio.sleep(pause)

    async def relay(self, shard: str) -> int:
        """Take one batch of a shard to the log, if it is this replica's turn. Answers how many events.

        Raises:
            RemoteProblem: The log refuses one, or cannot be reached.
        """
        at = await self._turn(shard)
        if at is None:
            return 0
        rows = await self._pending(shard, at)
        if not rows:
            return 0
        rest: list[Entry] = [entry_of(row) for row in rows]
        while rest:
            # One event of each subject at a time: the next when this one is in the log.
            firsts = {entry.subject_id: entry for entry in reversed(rest)}
            sent = {entry.id for entry in firsts.values()}
            await self._append(list(firsts.values()))
            rest = [entry for entry in rest if entry.id not in sent]
        await self._reached(shard, rows[-1])
        return len(rows)

    async def _append(self, entries: Sequence[Entry]) -> None:
        request = event_store_pb2.AppendRequest(appends=map(_append, entries))
        answer = await self._log.Append(request, timeout=_SECONDS)
        for result in answer.results:
            if result.WhichOneof("outcome") == "problem":
                raise RemoteProblem(result.problem)
        if len(answer.results) != len(entries):
            raise RuntimeError("the log has not answered each append")

    async def _turn(self, shard: str) -> tuple[int, UUID] | None:
        """How far the shard is, if this replica is to go on."""
        now = self._clock()
        first = insert(_RELAYS).values(shard=shard, transaction_id=0, event_id=_FIRST).on_conflict_do_nothing()
        column = _RELAYS.c
        mine = (
            update(_RELAYS)
            .where(
                column.shard == shard,
                or_(column.holder.is_(None), column.holder == self._holder, column.held_until < now),
            )
            .values(holder=self._holder, held_until=now + _LEASE)
            .returning(column.transaction_id, column.event_id)
        )
        async with self._sessions.begin() as unit:
            held = (await self._on(unit, shard, mine)).one_or_none()
            if held is None:
                await self._on(unit, shard, first)
        return None if held is None else (held[0], held[1])

    async def _pending(self, shard: str, at: tuple[int, UUID]) -> Sequence[Any]:
        number, event_id = at
        column = _EVENTS.transaction_id
        async with self._sessions.begin() as unit:
            horizon: int = (await self._on(unit, shard, _HORIZON)).scalar_one()
            wanted = (
                select(*_EVENTS)
                .where(column < horizon, or_(column > number, (column == number) & (_EVENTS.id > event_id)))
                .order_by(column, _EVENTS.id)
                .limit(BATCH)
            )
            return (await self._on(unit, shard, wanted)).all()

    async def _reached(self, shard: str, last: Any) -> None:
        reached = (
            update(_RELAYS)
            .where(_RELAYS.c.shard == shard, _RELAYS.c.holder == self._holder)
            .values(transaction_id=last.transaction_id, event_id=last.id)
        )
        async with self._sessions.begin() as unit:
            await self._on(unit, shard, reached)

    @staticmethod
    async def _on(unit: AsyncSession, shard: str, statement: Any) -> Any:
        return await unit.execute(statement, bind_arguments={"shard_id": shard})


def _append(entry: Entry) -> event_store_pb2.Append:
    descriptor = EVENTS[entry.type].DESCRIPTOR
    act = EVENTS[entry.type].FromString(entry.payload).act
    append = event_store_pb2.Append(
        append_id=str(entry.id),
        stream=f"audit-{entry.subject_id}",
        fingerprint=entry.id.bytes,
        events=[
            event_pb2.NewEvent(
                event_id=str(entry.id),
                type=descriptor.full_name,
                payload=entry.payload,
                metadata=event_pb2.EventMetadata(actor=act.actor_id, transaction_id=act.transaction_id),
            )
        ],
    )
    append.any.SetInParent()
    return append
